"""Pooled vector -> logits."""

from torch import Tensor, nn


class LinearHead(nn.Module):
    """Dropout and one linear layer: logits = W dropout(h) + b.

    Parameters
    ----------
    in_features : int
        Width d of the pooled vector.
    out_features : int
        Number K of logits; the layer has d * K + K parameters.
    dropout : float
        Probability of dropping an entry of h in training.
    """

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(in_features, out_features)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        return self.out(self.dropout(pooled))
