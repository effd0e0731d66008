"""What the learning rate does after warm-up.

Every class says which factor f it puts on the peak rate, at step t = 0, 1, ..., n - 1 of n, with
W steps of warm-up before it and :math:`p = (t - W) / (n - W)` the share of the rest that is gone.
Warm-up itself, the steps t < W, has f = (t + 1) / (W + 1). Epochs e = 0, 1, ... are counted from
the start of training, warm-up included.
"""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval

from sktransformers.specs.spec import LARGEST, Spec


class LinearDecay(Spec):
    """Linear decay to zero: f = 1 - p. The string ``"linear"`` stands for it."""


class Constant(Spec):
    """No decay: f = 1."""


class Cosine(Spec):
    r"""Cosine decay to zero: :math:`f = (1 + \cos(\pi p)) / 2`.

    As in Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """


class Polynomial(Spec):
    """Polynomial decay to zero: f = (1 - p) ** power.

    Parameters
    ----------
    power : float, default=2.0
        Exponent; one is linear decay.
    """

    _parameter_constraints = {  # noqa: RUF012
        "power": [Interval(Real, 0, LARGEST, closed="neither")],
    }

    def __init__(self, power=2.0):
        self.power = power


class Exponential(Spec):
    """Decay by a factor an epoch: f = gamma ** e in epoch e = 0, 1, ...

    Parameters
    ----------
    gamma : float in (0, 1], default=0.95
        Factor.
    """

    _parameter_constraints = {  # noqa: RUF012
        "gamma": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, gamma=0.95):
        self.gamma = gamma


class Steps(Spec):
    """Decay by a factor every few epochs: f = gamma ** floor(e / every) in epoch e = 0, 1, ...

    The string ``"step"`` stands for it.

    Parameters
    ----------
    every : int, default=1
        Epochs between two drops.
    gamma : float in (0, 1], default=0.1
        Factor of a drop.
    """

    _parameter_constraints = {  # noqa: RUF012
        "every": [Interval(Integral, 1, None, closed="left")],
        "gamma": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, every=1, gamma=0.1):
        self.every = every
        self.gamma = gamma


class Cyclical(Spec):
    """Triangles between a floor and the peak: f = floor + (1 - floor) * (1 - abs(2 x - 1)).

    x, the fractional part of p * n_cycles, runs from 0 to 1 in each of the cycles (Smith 2017,
    arXiv:1506.01186). Each begins at the floor, so that it needs no other warm-up: see ``warmup``.

    Parameters
    ----------
    n_cycles : int, default=3
        Triangles behind the warm-up.
    floor : float in (0, 1], default=0.1
        Smallest factor.
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_cycles": [Interval(Integral, 1, None, closed="left")],
        "floor": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, n_cycles=3, floor=0.1):
        self.n_cycles = n_cycles
        self.floor = floor


class InverseSquareRoot(Spec):
    """Decay with the root of the step: f = sqrt((W + 1) / (t + 1)).

    As in Vaswani et al. 2017 (arXiv:1706.03762), section 5.3, scaled to a peak of one.
    """


class WarmupStableDecay(Spec):
    """Constant, then a linear decay to zero: f = min(1, (1 - p) / decay).

    As in Hu et al. 2024 (arXiv:2404.06395), section 4.

    Parameters
    ----------
    decay : float in (0, 1], default=0.2
        Share of the steps behind the warm-up in which the rate decays.
    """

    _parameter_constraints = {  # noqa: RUF012
        "decay": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, decay=0.2):
        self.decay = decay


class ReduceOnPlateau(Spec):
    """Decay by a factor when epochs bring no more: f is the product of the reductions so far.

    What is watched is what ``early_stopping`` watches; without validation rows it is the
    training loss.

    Parameters
    ----------
    factor : float in (0, 1), default=0.5
        Factor of a reduction.
    patience : int, default=0
        Epochs without an improvement that are let pass.
    tol : float, default=1e-4
        An improvement is larger than this.
    """

    _parameter_constraints = {  # noqa: RUF012
        "factor": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, factor=0.5, patience=0, tol=1e-4):
        self.factor = factor
        self.patience = patience
        self.tol = tol
