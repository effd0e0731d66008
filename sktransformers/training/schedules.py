"""What the learning rate does."""

import math
from collections.abc import Callable

from sktransformers.specs import Constant, Cosine, LinearDecay, Spec


def warmup_steps(warmup: float, n_steps: int) -> int:
    """Number of warm-up steps; a float below one is a share of all steps."""
    return round(warmup * n_steps) if warmup < 1 else int(warmup)


def schedule_factor(spec: Spec, n_steps: int, n_warmup: int) -> Callable[[int], float]:
    r"""Factor on the learning rate at step t = 0, 1, ..., n_steps - 1.

    With W warm-up steps, the factor is :math:`(t + 1) / (W + 1)` for t < W. With
    :math:`p = (t - W) / (n - W)` from there on it is

    - linear: :math:`1 - p`,
    - cosine: :math:`(1 + \cos(\pi p)) / 2` (Loshchilov and Hutter 2017, arXiv:1608.03983),
    - constant: 1.

    No step of training has a factor of zero.
    """
    after: dict[type, Callable[[float], float]] = {
        LinearDecay: lambda p: 1.0 - p,
        Cosine: lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
        Constant: lambda p: 1.0,
    }
    decay = after[type(spec)]

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        return decay(min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup)))

    return factor
