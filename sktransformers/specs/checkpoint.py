"""How often the state of training is written, and where."""

import os
import sys
from numbers import Integral
from pathlib import Path

from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.specs.spec import Spec


class Checkpoint(Spec):
    """States of training on disk, from which a ``fit`` that was killed goes on.

    Each training has a directory of its own inside the given one, named after its parameters and
    the content of its rows: folds and candidates of a search never meet. ``fit`` with the same
    rows and parameters goes on from the last state, says so, and ends with the weights of a
    training that was never stopped. After one that has ended it has nothing left to do.

    Files are safetensors, with numbers and no texts. They are written beside and take their place
    when they are whole. What is no longer needed is not deleted by itself.

    Parameters
    ----------
    location : str or path
        Directory; it is made when it is needed.
    every : int, default=1
        A state is written after so many epochs or steps, and at the end.
    unit : {"epoch", "step"}, default="epoch"
        What ``every`` counts. A step is one of the optimizer.
    keep : int, default=1
        How many of the last states stay. The weights of the best epoch stay too, where there are
        validation rows.

    Examples
    --------
    >>> from sktransformers import Checkpoint, TransformerSequenceClassifier
    >>> clf = TransformerSequenceClassifier(
    ...     checkpoint=Checkpoint("checkpoints", every=500, unit="step", keep=2)
    ... )
    """

    _parameter_constraints = {  # noqa: RUF012
        "location": [str, os.PathLike],
        "every": [Interval(Integral, 1, None, closed="left")],
        "unit": [StrOptions({"epoch", "step"})],
        "keep": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, location, *, every=1, unit="epoch", keep=1):
        self.location = location
        self.every = every
        self.unit = unit
        self.keep = keep

    def _folder(self):
        # At once: the process may go to another directory.
        return Path(self.location).expanduser().absolute()

    def _check(self):
        """Check that the directory could be made; nothing is made yet."""
        path = os.fspath(self.location)
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError(f"checkpoint={path!r} is no path; expected that of a directory.")
        try:
            folder = self._folder()
            path.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
        except (RuntimeError, UnicodeError) as error:  # no such home; half a character
            raise ValueError(f"checkpoint={path!r} is no path: {error}") from error
        there = next(x for x in (folder, *folder.parents) if os.path.lexists(x))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(
                f"checkpoint={path!r} cannot be written: {there} is "
                f"{'not writable' if there.is_dir() else 'no directory'}."
            )


def as_checkpoint(checkpoint):
    """The `Checkpoint` that an estimator's parameter ``checkpoint`` stands for, or None.

    Raises
    ------
    TypeError
        If it is neither a path nor a `Checkpoint`.
    """
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    if isinstance(checkpoint, (str, os.PathLike)):
        return Checkpoint(checkpoint)
    raise TypeError(
        f"checkpoint must be a directory, sktransformers.Checkpoint or None; got {checkpoint!r} "
        f"of type {type(checkpoint).__name__}."
    )
