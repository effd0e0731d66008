"""What is kept of earlier training rows."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval

from sktransformers.specs.spec import LARGEST, Spec


class Replay(Spec):
    """Keep some training rows, and train them with the new ones later.

    About the same number of each class are kept, and of the rows of a class that ever came each
    with the same chance (Chrysakis and Moens 2020, "Online continual learning from imbalanced
    data", keep them balanced in the same way).

    Parameters
    ----------
    size : int, default=1000
        Rows that are kept at most.
    ratio : float, default=1.0
        Earlier rows for each new one in training, drawn among those that are kept. Never more
        than there are.
    pickle : bool, default=False
        Whether pickles of the estimator hold the rows. They are the user's data.
    """

    _parameter_constraints = {  # noqa: RUF012
        "size": [Interval(Integral, 1, None, closed="left")],
        "ratio": [Interval(Real, 0, LARGEST, closed="neither")],
        "pickle": ["boolean"],
    }

    def __init__(self, size=1000, ratio=1.0, pickle=False):
        self.size = size
        self.ratio = ratio
        self.pickle = pickle
