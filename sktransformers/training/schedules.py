"""What the learning rate does."""

import math
from collections.abc import Callable
from typing import Any

from skorch.callbacks import Callback

from sktransformers.specs import (
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSquareRoot,
    LinearDecay,
    Polynomial,
    ReduceOnPlateau,
    Spec,
    Steps,
    WarmupStableDecay,
)

_SMALLEST = 1e-30  # no step has a rate of zero, not even where a power rounds to it


def warmup_steps(warmup: float, n_steps: int) -> int:
    """Number of warm-up steps; a float below one is a share of all steps."""
    return round(warmup * n_steps) if warmup < 1 else int(warmup)


def schedule_factor(
    spec: Spec, n_steps: int, n_warmup: int, n_batches: int
) -> Callable[[int], float]:
    r"""Factor on the learning rate at step t = 0, 1, ..., n_steps - 1.

    With W warm-up steps, the factor is :math:`(t + 1) / (W + 1)` for t < W. From there on it is
    what the class of the spec says of step t, of :math:`p = (t - W) / (n - W)` and of the epoch
    t // n_batches. No step of training has a factor of zero.
    """
    if isinstance(spec, ReduceOnPlateau):
        return Plateau(spec, n_warmup)
    decay = _decay(spec, n_warmup)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        share = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
        return max(decay(step, share, step // n_batches), _SMALLEST)

    return factor


def shared_steps(spec: Spec, warmup: float, n_steps: int) -> int:
    """How many of the first steps have the rates that they would have in any longer training.

    Rates that hang on the number of steps share none: most decays, and a warm-up that is a share
    of all steps. `WarmupStableDecay` shares what comes before the decay.
    """
    if 0 < warmup < 1:
        return 0
    if isinstance(spec, (Constant, Exponential, InverseSquareRoot, Steps)):
        return n_steps
    if not isinstance(spec, WarmupStableDecay):
        return 0
    n_warmup = warmup_steps(warmup, n_steps)
    factor = schedule_factor(spec, n_steps, n_warmup, 1)
    return next((t for t in range(n_warmup, n_steps) if factor(t) < 1), n_steps)


def _decay(spec: Any, n_warmup: int) -> Callable[[int, float, int], float]:
    """Factor behind the warm-up at a step, a share of the steps behind it, and an epoch."""
    after: dict[type, Callable[[int, float, int], float]] = {
        LinearDecay: lambda t, p, e: 1.0 - p,
        Constant: lambda t, p, e: 1.0,
        Cosine: lambda t, p, e: 0.5 * (1.0 + math.cos(math.pi * p)),
        Polynomial: lambda t, p, e: (1.0 - p) ** spec.power,
        Exponential: lambda t, p, e: spec.gamma**e,
        Steps: lambda t, p, e: spec.gamma ** (e // spec.every),
        Cyclical: lambda t, p, e: (
            spec.floor + (1.0 - spec.floor) * (1.0 - abs(2.0 * (p * spec.n_cycles % 1.0) - 1.0))
        ),
        InverseSquareRoot: lambda t, p, e: math.sqrt((n_warmup + 1) / (t + 1)),
        WarmupStableDecay: lambda t, p, e: min(1.0, (1.0 - p) / spec.decay),
    }
    return after[type(spec)]


class Plateau:
    """A factor that falls when what it is told no longer improves.

    Parameters
    ----------
    spec : ReduceOnPlateau
        When, and by how much.
    n_warmup : int
        Steps of warm-up.
    """

    def __init__(self, spec: ReduceOnPlateau, n_warmup: int):
        self.spec = spec
        self.n_warmup = n_warmup
        self.scale = 1.0
        self.best = -math.inf
        self.waited = 0

    def __call__(self, step: int) -> float:
        """Factor at a step, after what was told so far."""
        return self.scale * min(1.0, (step + 1) / (self.n_warmup + 1))

    def tell(self, value: float) -> None:
        """Hear how good an epoch was; more is better."""
        if value > self.best + self.spec.tol:
            self.best = value
            self.waited = 0
            return
        self.waited += 1
        if self.waited > self.spec.patience:
            self.scale = max(self.scale * self.spec.factor, _SMALLEST)
            self.waited = 0

    def state_dict(self) -> dict[str, float]:
        """What was heard so far."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with what `state_dict` gave."""
        self.scale, self.best = float(state["scale"]), float(state["best"])
        self.waited = int(state["waited"])


class TellPlateau(Callback):
    """Tell the schedule, if it wants to know, how good the epoch was.

    Parameters
    ----------
    monitor : str
        Column of the history.
    sign : {1, -1}
        Whether more is better.
    """

    def __init__(self, monitor: str, sign: int):
        self.monitor = monitor
        self.sign = sign

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if isinstance(net.schedule, Plateau):
            net.schedule.tell(self.sign * net.history[-1, self.monitor])
            # The scheduler has set the rates of the next step already.
            factor = net.schedule(net.scheduler_.last_epoch)
            for group in net.optimizer_.param_groups:
                group["lr"] = group["initial_lr"] * factor
