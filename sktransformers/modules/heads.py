"""A vector -> logits."""

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class Head(nn.Module):
    r"""Hidden layers, dropout and one linear layer: logits = W dropout(f(h)) + b.

    With hidden sizes :math:`d_1, d_2, ...` every hidden layer is an affine map of its input
    and the activation; dropout comes after each. Without hidden sizes f is the activation
    alone, or nothing: :math:`dK + K` parameters.

    Parameters
    ----------
    in_features : int
        Width d of the vector.
    out_features : int
        Number K of logits.
    hidden_sizes : sequence of int
        Widths of the hidden layers.
    activation : str or None
        One of `ACTIVATIONS`.
    dropout : float
        Probability of dropping an entry in training.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_sizes: Sequence[int],
        activation: str | None,
        dropout: float,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden_sizes:
            layers.append(nn.Linear(in_features, width))
            if activation is not None:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Dropout(dropout))
            in_features = width
        if not hidden_sizes:
            if activation is not None:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(in_features, out_features)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.out(self.hidden(vectors))
