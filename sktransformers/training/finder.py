"""Learning rate range test: the rate grows from batch to batch, the loss is watched."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from skorch.callbacks import Callback

from sktransformers.plotting import LearningRateDisplay
from sktransformers.training.net import StopTraining

_TOO_MUCH = 4.0  # times the smallest loss: from here on training has diverged
_MEMORY = 0.9  # share of the running loss, which decides when to stop, that a batch leaves
_WIDTH = 1 / 30  # standard deviation of the smoothing over steps, as a share of all


def check_range(lr_min: Any, lr_max: Any, n_steps: Any) -> None:
    """Refuse rates that do not grow, and steps that are none.

    Raises
    ------
    TypeError
        If an argument is no number.
    ValueError
        If it is one that makes no sense.
    """
    for name, value in (("lr_min", lr_min), ("lr_max", lr_max)):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number; got {value!r}.")
    if not isinstance(n_steps, Integral) or isinstance(n_steps, bool):
        raise TypeError(f"n_steps must be an integer; got {n_steps!r}.")
    if not 0 < lr_min < lr_max < math.inf:
        raise ValueError(
            f"lr_min must be above zero and below lr_max; got lr_min={lr_min}, lr_max={lr_max}."
        )
    if n_steps < 2:
        raise ValueError(f"n_steps must be at least 2; got {n_steps}.")


@dataclass(eq=False)
class LearningRateCurve:
    """Loss of batches at growing learning rates.

    Parameters
    ----------
    lrs : ndarray of shape (n_steps,)
        Learning rate of the backbone at each step.
    losses : ndarray of shape (n_steps,)
        Training loss of each step's batch, before the step.

    Attributes
    ----------
    smoothed : ndarray of shape (n_steps,)
        Mean of the losses of neighbouring steps, weighted by a normal distribution around each
        step with a standard deviation of a thirtieth of all steps.
    suggestion : float or None
        The rate at which the smoothed loss falls fastest over the logarithm of the rate; only
        rates up to that of its minimum count. None if it never falls.
    """

    lrs: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """See above."""
        steps = np.arange(len(self.losses))
        distance = (steps[:, None] - steps) / (_WIDTH * len(steps))
        finite = np.isfinite(self.losses)
        weights = np.exp(-0.5 * distance**2)[:, finite]
        total = weights.sum(axis=1)
        means = np.full(len(steps), np.nan)
        return np.divide(weights @ self.losses[finite], total, out=means, where=total > 0)

    @property
    def suggestion(self) -> float | None:
        """See above."""
        smoothed = self.smoothed
        if not np.isfinite(smoothed).any():
            return None
        last = int(np.nanargmin(smoothed))
        if last == 0:
            return None
        slopes = np.gradient(smoothed[: last + 1], np.log(self.lrs[: last + 1]))
        steepest = int(np.argmin(slopes))
        return float(self.lrs[steepest]) if slopes[steepest] < 0 else None

    def plot(self, ax: Any = None, **kwargs: Any) -> LearningRateDisplay:
        """Draw losses and smoothed losses over the rates.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for the smoothed losses.

        Returns
        -------
        display : LearningRateDisplay
        """
        display = LearningRateDisplay(
            self.lrs, self.losses, smoothed=self.smoothed, suggestion=self.suggestion
        )
        return display.plot(ax=ax, **kwargs)


class RangeTest(Callback):
    """Let the rates grow exponentially, all in proportion, until training diverges.

    Parameters
    ----------
    lr_min, lr_max : float
        First and last rate of the backbone.
    n_steps : int
        Steps from one to the other.
    """

    def __init__(self, lr_min: float, lr_max: float, n_steps: int):
        self.lr_min = lr_min
        self.lr_max = lr_max
        self.n_steps = n_steps

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.lrs_: list[float] = []
        self.losses_: list[float] = []
        self.running_ = 0.0
        self.smallest_ = math.inf

    def on_batch_begin(self, net: Any, **kwargs: Any) -> None:
        # The schedule is constant: what it sets after every step is overwritten here.
        lr = self.lr_min * (self.lr_max / self.lr_min) ** (len(self.lrs_) / (self.n_steps - 1))
        for group in net.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * lr / net.optimizer_.defaults["lr"]
        self.lrs_.append(lr)

    def on_batch_end(self, net: Any, **step: Any) -> None:
        self.losses_.append(float(step["loss"]))
        self.running_ = _MEMORY * self.running_ + (1 - _MEMORY) * self.losses_[-1]
        loss = self.running_ / (1 - _MEMORY ** len(self.losses_))
        self.smallest_ = min(self.smallest_, loss)
        goes_on = math.isfinite(loss) and loss <= _TOO_MUCH * self.smallest_
        if not goes_on or len(self.losses_) == self.n_steps:
            raise StopTraining

    def curve(self) -> LearningRateCurve:
        """What was measured."""
        n = len(self.losses_)  # of the last step there is none if its loss was no number
        return LearningRateCurve(np.array(self.lrs_[:n]), np.array(self.losses_))
