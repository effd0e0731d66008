"""What training minimises."""

from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.specs.spec import Spec


class CrossEntropy(Spec):
    r"""Cross-entropy :math:`-\sum_c q_c \log p_c` of the probabilities p with targets q.

    Parameters
    ----------
    label_smoothing : float in [0, 1), default=0.0
        Share s of the target that is spread evenly over all K classes: q is 1 - s + s / K at
        the label and s / K elsewhere (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    classes : list, default=None
        Classes that the columns of y stand for, if y is a matrix of probabilities (soft
        targets). None means that y holds labels.
    """

    _parameter_constraints = {  # noqa: RUF012
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "classes": ["array-like", None],
    }

    def __init__(self, label_smoothing=0.0, classes=None):
        self.label_smoothing = label_smoothing
        self.classes = classes


class FocalLoss(Spec):
    r"""Focal loss :math:`-(1 - p_y)^\gamma \log p_y`, which rows that are right weigh less in.

    As in Lin et al. 2017 (arXiv:1708.02002), equation 4; its :math:`\alpha` is ``class_weight``.

    Parameters
    ----------
    gamma : float, default=2.0
        Exponent; zero is the cross-entropy.
    """

    _parameter_constraints = {  # noqa: RUF012
        "gamma": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, gamma=2.0):
        self.gamma = gamma


class BinaryCrossEntropy(Spec):
    r"""Mean over labels of :math:`-w_c y_c \log p_c - (1 - y_c) \log(1 - p_c)`.

    For y an indicator matrix, with :math:`p_c = \sigma(z_c)`.

    Parameters
    ----------
    pos_weight : float, array-like of shape (n_labels,), dict, "balanced" or None, default=None
        Weight w of a label where it is present, for all labels, each column or some names;
        ``"balanced"`` is the number of rows without it over the number of rows with it. None
        means one, also for labels that a dict leaves out.
    """

    _parameter_constraints = {  # noqa: RUF012
        "pos_weight": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            dict,
            StrOptions({"balanced"}),
            None,
        ],
    }

    def __init__(self, pos_weight=None):
        self.pos_weight = pos_weight


class SquaredError(Spec):
    """Squared error of the standardised target."""


class HuberLoss(Spec):
    r"""Huber's loss of the standardised target.

    :math:`e^2 / 2` for errors up to delta, else :math:`\delta (|e| - \delta / 2)` (Huber 1964).

    Parameters
    ----------
    delta : float, default=1.0
        Threshold, in standard deviations of y.
    """

    _parameter_constraints = {  # noqa: RUF012
        "delta": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, delta=1.0):
        self.delta = delta
