"""A loss or gradients that are no numbers: training stops before they reach the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_MOST_ROWS = 10  # that a message names
# Devices that are not waited for: what a step's loss was is looked at one step later.
_LATE = {"cuda"}


class Diverged(FloatingPointError):
    """The loss or the gradients of a step are no numbers. The step was not made.

    Parameters
    ----------
    message : str
    n_made : int, default=0
        Steps that were made before it. Pickles of errors call the class without it.
    """

    def __init__(self, message: str, n_made: int = 0):
        super().__init__(message)
        self.n_made = n_made


class _Step(NamedTuple):
    """A step whose loss may still be under way.

    Parameters
    ----------
    is_finite : Tensor of shape ()
        Whether the loss and the norm of the gradients are numbers.
    is_there : torch.cuda.Event or None
        When is_finite may be read.
    loss : Tensor of shape ()
    number, epoch : int
        From one.
    lr : float
    places : ndarray of int or None
        Where rows of the data set stand in X.
    rows : ndarray of int
        The batch, as rows of the data set.
    """

    is_finite: Tensor
    is_there: Any
    loss: Tensor
    number: int
    epoch: int
    lr: float
    places: np.ndarray | None
    rows: np.ndarray

    def check(self) -> None:
        """Look; wait for it if need be."""
        if self.is_there is not None:
            self.is_there.synchronize()
        if not self.is_finite:
            raise Diverged(self._message(), self.number - 1)

    def _message(self) -> str:
        loss = float(self.loss)
        what = "The gradients are not finite" if np.isfinite(loss) else f"The loss is {loss}"
        kept = (
            "Nothing was trained, and nothing is fitted anew"
            if self.number == 1
            else "That step was not made: the estimator has the last good weights (those of the "
            "best epoch so far, where rows are held out)"
        )
        return (
            f"{what} in step {self.number}, in epoch {self.epoch}, at a learning rate of "
            f"{self.lr:.3g}{_places(self.places, self.rows)}. {kept}. A smaller lr may help, or a "
            f'longer warmup, a smaller max_grad_norm of the optimizer, or precision="fp32"; or '
            f"targets or weights of these rows are out of the ordinary."
        )


class Guard:
    """Lets an optimizer make a step only if its loss and its gradients are numbers."""

    def __init__(self) -> None:
        self._last: _Step | None = None

    def check(self) -> None:
        """Look at the last step, if that was put off.

        Raises
        ------
        Diverged
            If it was not made.
        """
        last, self._last = self._last, None
        if last is not None:
            last.check()

    @contextmanager
    def step(self, net: Any, result: dict[str, Any], rows: np.ndarray) -> Iterator[None]:
        """Around an optimizer step.

        A fused one finds out on its device that it is not to be made, and nobody waits: then the
        error comes before the next step.

        Parameters
        ----------
        net : FineTuningNet
        result : dict
            What the step's batch gave: ``loss``, ``grad_norm``, ``lr``.
        rows : ndarray of int
            The batch, as rows of the data set.

        Raises
        ------
        Diverged
            If this step is not made, or the one before was not.
        """
        self.check()
        loss, scaled = result["loss"], net.scaler_.is_enabled()
        is_finite = loss.isfinite()
        if not scaled:  # else float16 overflows now and then: the scaler leaves out such steps
            is_finite = is_finite & result["grad_norm"].isfinite().to(loss.device)
        if loss.device.type not in _LATE or scaled or not _heeds(net.optimizer_):
            self._about(net, result, rows, is_finite, None).check()
            yield
            return
        there = is_finite.to("cpu", non_blocking=True)
        event = torch.cuda.Event() if loss.is_cuda else None
        if event is not None:
            event.record()
        self._last = self._about(net, result, rows, there, event)
        net.optimizer_.found_inf = (~is_finite).float()
        try:
            yield
        finally:
            del net.optimizer_.found_inf

    def _about(
        self, net: Any, result: dict[str, Any], rows: np.ndarray, is_finite: Tensor, event: Any
    ) -> _Step:
        number, epoch = net.n_made + 1, len(net.history)
        loss, lr = result["loss"], result["lr"]
        return _Step(is_finite, event, loss, number, epoch, lr, net.places, rows)


def check_finite(net: Any) -> None:
    """Look at the weights that training has left: the last step may have been too large.

    Raises
    ------
    Diverged
        If some are no numbers.
    """
    groups = net.optimizer_.param_groups
    flags = [p.detach().isfinite().all().to(net._device()) for g in groups for p in g["params"]]
    if flags and not torch.stack(flags).all():
        raise Diverged(
            f"Training ended with weights that are not finite, at a learning rate of "
            f"{net.optimizer_.defaults['lr']:.3g}. Nothing is fitted anew. A smaller lr may help."
        )


def _heeds(optimizer: Any) -> bool:
    """Whether an optimizer reads ``found_inf``, and all that happens in its step with it."""
    decays = any(group["decoupled_decay"] for group in optimizer.param_groups)  # which would wait
    return getattr(optimizer, "_step_supports_amp_scaling", False) and not decays


def _places(places: np.ndarray | None, rows: np.ndarray) -> str:
    """Where the rows of a batch stand in X, in words."""
    if places is None:
        return ""
    found = np.sort(places[rows])
    known = found[found >= 0].tolist()
    n_more = len(known) - _MOST_ROWS
    shown = ", ".join(map(str, known[:_MOST_ROWS])) + (f" and {n_more} more" if n_more > 0 else "")
    n_others = len(found) - len(known)
    parts = [f"rows {shown} of X"] if known else []
    parts += [f"{n_others} replayed"] if n_others else []
    return f", with {' and '.join(parts)}"
