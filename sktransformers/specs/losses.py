"""What training minimises."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions

from sktransformers.specs.spec import LARGEST, Spec


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
        "gamma": [Interval(Real, 0, LARGEST, closed="left")],
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


class AdaptiveSoftmax(Spec):
    r"""Softmax for very many classes, in clusters by frequency: the rarer, the fewer dimensions.

    Grave et al. 2017 (arXiv:1609.04309). One softmax chooses among the frequent classes and the
    clusters, one in the cluster chosen among its classes, from a vector of :math:`d / v^i`
    dimensions in the i-th cluster. Probabilities are exact. For one label a row; it takes the
    place of the last linear layer of the head.

    Parameters
    ----------
    cutoffs : "auto" or list of int, default="auto"
        Rising ranks, from the most frequent class on, at which clusters begin: ``[2000, 10000]``
        leaves 2,000 classes in the first softmax. ``"auto"`` means the classes that hold 80 % of
        the training rows, and those that hold 95 %. Where clusters save nothing, with less than
        1,000 classes or if 80 % of the rows take more than half of the classes, it leaves out
        but the rarest class, and this is a softmax over all classes.
    div_value : float of at least 1, default=4.0
        v above.
    """

    _parameter_constraints = {  # noqa: RUF012
        "cutoffs": [StrOptions({"auto"}), list, tuple],
        "div_value": [Interval(Real, 1, LARGEST, closed="left")],
    }

    def __init__(self, cutoffs="auto", div_value=4.0):
        self.cutoffs = cutoffs
        self.div_value = div_value

    def _validate_params(self):
        super()._validate_params()
        if isinstance(self.cutoffs, str):
            return
        rank = Interval(Integral, 1, None, closed="left")
        given = list(self.cutoffs)
        if not given or not all(map(rank.is_satisfied_by, given)) or given != sorted(set(given)):
            raise InvalidParameterError(
                f"The 'cutoffs' parameter of AdaptiveSoftmax must be rising integers of at least "
                f"1. Got {self.cutoffs!r} instead."
            )


class TreeSoftmax(Spec):
    r"""Softmax for very many classes as a tree of binary decisions, the classes its leaves.

    Morin and Bengio 2005; Mikolov et al. 2013 (arXiv:1310.4546), equation 3. The probability of
    a class is the product of those of the decisions on its path, each a logistic regression, and
    training a row costs as many of them as its path is long. Probabilities are exact. For one
    label a row; it takes the place of the last linear layer of the head.

    Parameters
    ----------
    tree : "huffman", list or dict, default="huffman"
        ``"huffman"`` gives frequent classes short paths (Huffman 1952). A taxonomy of your own
        is a list of labels and of such lists, ``[["cat", "dog"], ["oak", ["rose", "tulip"]]]``,
        or a dict from each label to the names of its groups, from the outermost on,
        ``{"cat": ["animal"], "rose": ["plant", "flower"], ...}``. Where a group has more than
        two members, binary decisions among them are put in a Huffman tree of their own.
    """

    _parameter_constraints = {  # noqa: RUF012
        "tree": [StrOptions({"huffman"}), list, tuple, dict],
    }

    def __init__(self, tree="huffman"):
        self.tree = tree


class SampledSoftmax(Spec):
    r"""Cross-entropy against a sample of the other classes, for very many of them.

    Bengio and Senecal 2008; Jean et al. 2015 (arXiv:1412.2007). For every batch
    ``n_negatives`` classes are drawn, without replacement, and the softmax of a row runs over its
    label and those, their logits less the logarithm of the probability of being drawn. The head
    is linear, and predictions are those of the softmax over all classes. If as many classes are
    drawn as there are, the loss is the cross-entropy. Validation losses always are. For one
    label a row.

    Parameters
    ----------
    n_negatives : int, default=1000
        Classes drawn for a batch.
    proposal : {"log_uniform", "frequency"}, default="log_uniform"
        Where they are drawn from: in proportion to :math:`\log((r + 2) / (r + 1))`, with r = 0
        for the most frequent class, 1 for the next, or to the frequency in training.
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_negatives": [Interval(Integral, 1, None, closed="left")],
        "proposal": [StrOptions({"log_uniform", "frequency"})],
    }

    def __init__(self, n_negatives=1000, proposal="log_uniform"):
        self.n_negatives = n_negatives
        self.proposal = proposal


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
        "delta": [Interval(Real, 0, LARGEST, closed="neither")],
    }

    def __init__(self, delta=1.0):
        self.delta = delta
