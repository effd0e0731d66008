"""Where work that was done once is kept for the next time."""

import os
import shutil
from numbers import Real
from pathlib import Path

from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.specs.spec import Spec

# No name that a checkout of ours has: this folder is cleared.
_FOLDER = "sktransformers_cache"


class Cache(Spec):
    """What frozen parts of a backbone gave for the training texts, and states of searches.

    A part of the backbone that is not trained gives the same for a text in every epoch. It runs
    once; without a location its output is kept in memory until ``fit`` ends. In a folder it is
    kept for later fits, folds and candidates of a search, and for other processes. Files hold
    numbers (safetensors and JSON, no pickles) and no texts; they are checked when read, and what
    is damaged is computed again.

    Parameters
    ----------
    location : str, path or joblib.Memory, default=None
        Folder. Of a ``joblib.Memory`` only its location is used.
    max_ram_mb : float, default=1024
        Megabytes that one fit holds in memory. What is more lies in files that are mapped into
        memory, in the folder, or for one fit in a temporary one. 0 without a location computes
        frozen parts in every epoch.
    max_disk_mb : float, default=10240
        Megabytes that the folder may take. What was not used for longest is deleted first. Without
        a folder, those that one fit may take on disk.
    dtype : {"float32", "float16"}, default="float32"
        How numbers are kept. ``"float16"`` halves the space and rounds to three digits.

    Examples
    --------
    >>> from sktransformers import Cache
    >>> Cache("search_cache", max_disk_mb=500).max_ram_mb
    1024
    """

    _parameter_constraints = {  # noqa: RUF012
        "location": "no_validation",
        "max_ram_mb": [Interval(Real, 0, None, closed="left")],
        "max_disk_mb": [Interval(Real, 0, None, closed="neither")],
        "dtype": [StrOptions({"float32", "float16"})],
    }

    def __init__(self, location=None, *, max_ram_mb=1024, max_disk_mb=10240, dtype="float32"):
        self.location = location
        self.max_ram_mb = max_ram_mb
        self.max_disk_mb = max_disk_mb
        self.dtype = dtype

    def clear(self):
        """Delete what is kept in the folder; other files there are left alone."""
        folder = self._folder()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self):
        """Our folder inside the location, or None."""
        location = getattr(self.location, "location", self.location)
        if location is None:
            return None
        if not isinstance(location, (str, os.PathLike)) or not os.fspath(location):
            raise TypeError(
                f"memory must be a folder, a joblib.Memory or sktransformers.Cache; got "
                f"{self.location!r} of type {type(self.location).__name__}."
            )
        folder = Path(location).expanduser() / _FOLDER
        if folder.is_symlink():  # files are deleted in it
            raise ValueError(
                f"memory: {str(folder)!r} is a link; name the directory that it leads to."
            )
        return folder


def as_cache(memory):
    """The `Cache` that an estimator's parameter ``memory`` stands for."""
    return memory if isinstance(memory, Cache) else Cache(memory)
