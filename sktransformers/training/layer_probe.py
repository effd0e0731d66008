"""The start of an output layer for very many classes: a fit of its own to frozen vectors."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransformers.training.probe import SHARE, calibrating_factor

# Of rates from 0.001 to 0.01 and decays from 0.01 to 1 about the best on clinc150, on vectors
# scaled to a mean squared entry of one.
_LR = 3e-3
_DECAY = 1.0
_MIN_BATCH = 64
_MAX_BATCHES = 50  # an epoch
_MAX_STEPS = 1_000
_MAX_UPDATES = 5_000_000_000  # parameters times steps: some seconds
_PATIENCE = 3


def fit_layer(
    out: Any, vectors: np.ndarray, codes: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> None:
    """Start an output layer from its fit to pooled vectors, as `logistic_probe` a linear one.

    The layer is trained by its own loss, with AdamW, on four fifths of the rows until the loss on
    the others rises, then once more on all for as many epochs. Its logits are scaled down until
    the loss on the training rows is that on the held-out rows, and by half again.

    Parameters
    ----------
    out : nn.Module
        Layer of `modules.softmax`; its weights are where the fit begins.
    vectors : ndarray of shape (n_rows, width)
        Pooled vectors.
    codes : ndarray of shape (n_rows,)
        Class positions.
    weights : ndarray of shape (n_rows,)
        Sample weights times class weights.
    rng : numpy.random.Generator
        Source of the held-out rows and of the order.
    """
    scale = float(np.sqrt(np.mean(vectors**2))) or 1.0
    first = next(out.parameters())
    dtype = torch.promote_types(first.dtype, torch.float32)
    rows = _Rows(
        torch.from_numpy(vectors / scale).to(first.device, dtype),
        torch.from_numpy(codes).to(first.device),
        torch.from_numpy(weights / weights.mean()).to(first.device, dtype),
    )
    order = rng.permutation(len(codes))
    n_held_out = len(codes) // 5
    held_out, train = rows.take(order[:n_held_out]), rows.take(order[n_held_out:])
    start = copy.deepcopy(out).to(dtype)
    with torch.enable_grad():
        n_epochs, loss = 1, float("inf")  # too few rows to hold any out: trust the fit least
        if n_held_out and held_out.weights.any():
            n_epochs, loss = _train(copy.deepcopy(start), train, rng, held_out=held_out)
        _train(start, rows, rng, n_epochs)

    def mean_loss(factor: float) -> float:
        tempered = copy.deepcopy(start)
        tempered.rescale(factor, factor)
        return rows.loss(tempered)

    factor = SHARE * calibrating_factor(mean_loss, loss)
    start.rescale(factor / scale, factor)
    out.load_state_dict(start.state_dict())


class _Rows:
    """Vectors, class positions and weights."""

    def __init__(self, vectors: Tensor, codes: Tensor, weights: Tensor):
        self.vectors, self.codes, self.weights = vectors, codes, weights

    def take(self, places: np.ndarray) -> "_Rows":
        where = torch.from_numpy(places).to(self.codes.device)
        return _Rows(self.vectors[where], self.codes[where], self.weights[where])

    def sum(self, layer: Any) -> Tensor:
        return -(self.weights * layer.log_likelihood(self.vectors, self.codes)).sum()

    @torch.no_grad()
    def loss(self, layer: Any) -> float:
        """Mean loss, some rows at a time."""
        parts = np.array_split(np.arange(len(self.codes)), -(-len(self.codes) // 512))
        return sum(float(self.take(part).sum(layer)) for part in parts) / float(self.weights.sum())


def _train(
    layer: Any,
    rows: _Rows,
    rng: np.random.Generator,
    max_epochs: int = _MAX_STEPS,
    held_out: _Rows | None = None,
) -> tuple[int, float]:
    """Train in place; the number of epochs with the smallest held-out loss, and that loss."""
    n_rows = len(rows.codes)
    n_batches = min(_MAX_BATCHES, -(-n_rows // _MIN_BATCH))
    n_parameters = sum(p.numel() for p in layer.parameters())
    max_steps = min(_MAX_STEPS, _MAX_UPDATES // n_parameters)
    max_epochs = min(max_epochs, max(1, max_steps // n_batches))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=_LR, weight_decay=_DECAY)
    best, smallest = max_epochs, float("inf")
    for epoch in range(1, max_epochs + 1):
        for places in np.array_split(rng.permutation(n_rows), n_batches):
            batch = rows.take(places)
            optimizer.zero_grad()
            (batch.sum(layer) / max(float(batch.weights.sum()), 1e-9)).backward()
            optimizer.step()
        if held_out is not None:
            loss = held_out.loss(layer)
            if loss < smallest:
                best, smallest = epoch, loss
            elif epoch - best >= _PATIENCE:
                break
    return best, smallest
