"""How long texts are read."""

from numbers import Integral

from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.specs.spec import Spec


class Windows(Spec):
    """Read all of a long text, in windows of ``max_length`` tokens.

    Parameters
    ----------
    stride : int, default=None
        Tokens from the start of one window to the start of the next. None means windows
        side by side, of equal length, for texts and pairs; for tagging, steps of half a
        window, so that every word has context on both sides.
    pooling : {"mean", "max", "attention"}, default="mean"
        How the vectors of the windows become one. Not used for tagging, where every word
        is read in the window that shows most of its context.
    max_windows : int, default=None
        Windows of a text that are read at most; None reads all. Not for tagging.
    """

    _parameter_constraints = {  # noqa: RUF012
        "stride": [Interval(Integral, 1, None, closed="left"), None],
        "pooling": [StrOptions({"mean", "max", "attention"})],
        "max_windows": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, stride=None, pooling="mean", max_windows=None):
        self.stride = stride
        self.pooling = pooling
        self.max_windows = max_windows
