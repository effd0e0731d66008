"""Notice that a model learns nothing: it predicts one class, whatever it reads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from sktransformers.inputs.batching import flat, take

# A loss above this share of the best constant prediction's has hardly left it.
_SHARE = 0.99
_MIN_STEPS = 20  # after fewer, training has hardly begun
_MOST_ROWS = 1_000  # that are looked at


class Collapse(Callback):
    """Warn of training that has not come beyond the frequencies of the classes.

    That is so if the training loss of an epoch is about that of the best constant prediction, and
    at its end the model predicts one class for all training rows, with a loss no better than that
    either. It is said once: after a second such epoch in a row, or at the end of training. Only
    where the loss looks so, the model is looked at.

    Parameters
    ----------
    names : sequence of str
        Those of the classes. The net needs a tally ``predicted``, which counts the rows that are
        predicted to be of each; and a criterion with ``of_frequencies``.
    warn : callable
        ``warn(message)``.
    """

    def __init__(self, names: Sequence[str], warn: Callable[[str], None]):
        self.names = names
        self.warn = warn

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.found_ = ""
        self.is_said_ = False

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        before, self.found_ = self.found_, self._look(net)
        if before and self.found_:
            self._say()

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        if self.found_ and net.stopped_by is None:
            self._say()

    def _look(self, net: Any) -> str:
        """What there is to say of this epoch; empty if nothing."""
        n_rows = len(net.batches_.dataset)
        least = _SHARE * self._least(net, np.arange(n_rows))
        if net.n_made < _MIN_STEPS or not net.history[-1, "train_loss"] >= least:
            return ""
        some = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _MOST_ROWS)).astype(int))
        counts, total, weight = 0, 0.0, 0.0
        for begin in range(0, len(some), net.batch_size):
            batch = net.batches_.dataset.take(some[begin : begin + net.batch_size])
            step = net.validation_step(batch)
            counts = counts + step["sums"]["predicted"]
            if (counts > 0).sum() > 1:
                return ""
            total += float(step["loss"]) * step["weight"]
            weight += step["weight"]
        loss, least = total / weight, self._least(net, some)
        if not loss >= _SHARE * least:
            return ""
        return (
            f"The model has learnt nothing: after epoch {net.history[-1, 'epoch']} it predicts the "
            f"class {self.names[int(torch.as_tensor(counts).argmax())]!r} for all of {len(some)} "
            f"training rows, with a loss of {loss:.4g}; what is known of the frequencies of the "
            f"classes alone gives {least:.4g}. A smaller lr may help "
            f'(lr={net.optimizer_.defaults["lr"]:.3g} here), a longer warmup, head_init="probe", '
            f"or more epochs."
        )

    def _least(self, net: Any, rows: np.ndarray) -> float:
        """Loss of the best constant prediction for some rows."""
        dataset = net.batches_.dataset
        targets, weights = (
            torch.as_tensor(flat(take(x, rows))) for x in (dataset.targets, dataset.weights)
        )
        return float(net.criterion_.of_frequencies(targets, weights, len(self.names)))

    def _say(self) -> None:
        if not self.is_said_:
            self.warn(self.found_)
        self.is_said_ = True
