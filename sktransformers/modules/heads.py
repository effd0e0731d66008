"""A vector -> logits."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktransformers.modules.softmax import output_layer

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class BatchNorm(nn.BatchNorm1d):
    r"""Batch normalisation of the last dimension, :math:`g (x - m) / \sqrt{v + \epsilon} + b`.

    Ioffe and Szegedy 2015 (arXiv:1502.03167). In training m and v are mean and variance over
    all other dimensions; prediction takes their running averages. Up to the tenth batch those
    are plain means, so that a short training leaves no trace of where they began.

    A single vector has no variance: in training it is normalised as in prediction, and the
    averages stay as they are.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., num_features) to the same shape."""
        # In half precision 256 + 1 = 256: hundreds of rows would not add up.
        precise = torch.promote_types(input.dtype, torch.float32)
        rows = input.reshape(-1, input.shape[-1]).to(precise)
        affine = self.weight.to(precise), self.bias.to(precise)
        with torch.autocast(rows.device.type, enabled=False):
            if self.training and len(rows) > 1:
                self.count(rows)
                rows = F.batch_norm(rows, None, None, *affine, True, 0.0, self.eps)
            else:
                averages = self.running_mean.to(precise), self.running_var.to(precise)
                rows = F.batch_norm(rows, *averages, *affine, False, 0.0, self.eps)
        return rows.to(input.dtype).reshape(input.shape)

    @torch.no_grad()
    def count(self, rows: Tensor) -> None:
        """Let a batch (n, num_features) into the running averages."""
        self.num_batches_tracked += 1
        share = max(self.momentum or 0.0, 1.0 / float(self.num_batches_tracked))
        variance, mean = torch.var_mean(rows, dim=0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class Head(nn.Module):
    r"""Hidden layers, dropout and one linear layer: logits = W dropout(f(h)) + b.

    With hidden sizes :math:`d_1, d_2, ...` every hidden layer is an affine map of its input,
    batch and layer normalisation where asked for, the activation, and dropout. Without hidden
    sizes f is the activation alone, or nothing: :math:`dK + K` parameters.

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
    batch_norm, layer_norm : bool, default=False
        Whether the outputs of each affine map are normalised over the batch, and each by itself
        (Ba et al. 2016, arXiv:1607.06450).
    softmax : dict or None, default=None
        Another last layer than a linear one, as in `output_layer`.
    bias : bool, default=True
        Whether there is a b.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_sizes: Sequence[int],
        activation: str | None,
        dropout: float,
        batch_norm: bool = False,
        layer_norm: bool = False,
        softmax: dict[str, Any] | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.in_features = in_features
        layers: list[nn.Module] = []
        for width in hidden_sizes:
            layers.append(nn.Linear(in_features, width))
            if batch_norm:
                layers.append(BatchNorm(width))
            if layer_norm:
                layers.append(nn.LayerNorm(width))
            if activation is not None:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Dropout(dropout))
            in_features = width
        if not hidden_sizes:
            if activation is not None:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)
        self.out = output_layer(in_features, out_features, softmax, bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.out(self.hidden(vectors))

    @torch.no_grad()
    def settle(self, vectors: Tensor) -> Tensor:
        """Begin the running averages with those of some vectors, and return `hidden` of them.

        The head must be in evaluation mode. vectors have shape (..., in_features).
        """
        vectors = vectors.to(next(self.out.parameters()))
        for layer in self.hidden:
            if isinstance(layer, BatchNorm) and vectors.numel() > vectors.shape[-1]:
                layer.reset_running_stats()
                layer.count(vectors.flatten(0, -2))
            vectors = layer(vectors)
        return vectors
