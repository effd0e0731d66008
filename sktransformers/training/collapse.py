"""Notice that a model learns nothing: it predicts one class, whatever it reads."""

from collections.abc import Callable, Sequence
from typing import Any

from skorch.callbacks import Callback

# Training that goes well has left this share of the loss of the frequencies behind.
_SHARE = 0.99
_MIN_STEPS = 20  # after fewer it has hardly begun


class Collapse(Callback):
    """Warn of training that has not come beyond the frequencies of the classes.

    That is so if in an epoch all rows are predicted to be of one class, and the training loss is
    about that of the best constant prediction. It is said once: after a second such epoch in a
    row, or at the end of training. Has to run after `EpochHistory`, whose sums it reads: there has
    to be a tally ``predicted``, the number of rows that were predicted to be of each class.

    Parameters
    ----------
    loss : float
        That of the best constant prediction.
    names : sequence of str
        Those of the classes.
    warn : callable
        ``warn(message)``.
    """

    def __init__(self, loss: float, names: Sequence[str], warn: Callable[[str], None]):
        self.loss = loss
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
        counts = dict(net.callbacks_)["history"].sums_["train"]["predicted"]
        (classes,) = counts.nonzero(as_tuple=True)
        row = net.history[-1]
        loss = row["train_loss"]
        if len(classes) > 1 or net.n_made < _MIN_STEPS or not loss >= _SHARE * self.loss:
            return ""
        return (
            f"The model has learnt nothing: in epoch {row['epoch']} it predicted the class "
            f"{self.names[int(classes[0])]!r} for all rows of X, and its training loss of "
            f"{loss:.4g} is about what the frequencies of the classes alone give, {self.loss:.4g}. "
            f"A smaller lr may help (lr={net.optimizer_.defaults['lr']:.3g} here), a longer "
            f'warmup, head_init="probe", or more epochs.'
        )

    def _say(self) -> None:
        if not self.is_said_:
            self.warn(self.found_)
        self.is_said_ = True
