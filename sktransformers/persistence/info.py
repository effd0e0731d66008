"""``sktransformers.json``: what a saved directory says of the estimator in it."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sktransformers.persistence.errors import SavedModelError

NAME = "sktransformers.json"
# Raised when an older version of this package can no longer read what is written.
FORMAT = 1
_PACKAGES = ("sktransformers", "scikit-learn", "torch", "transformers", "skorch", "numpy", "peft")
_EXPECTED = {"class": str, "parameters": dict, "fitted": dict, "model": dict, "weights": dict}


def versions() -> dict[str, str]:
    """Versions of what had a hand in a model."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(folder: Path, info: dict[str, Any]) -> None:
    """Write the file; info is what JSON can hold."""
    text = json.dumps({"format": FORMAT, **info}, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / NAME).write_text(text + "\n", "utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises
    ------
    SavedModelError
        If there is no such file, it is damaged, or of a format that came later.
    """
    path = folder / NAME
    try:
        info = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SavedModelError(
            f"{str(folder)!r} is no model that sktransformers saved: it has no {NAME}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise SavedModelError(f"{str(path)!r} is damaged: {error}") from error
    number = info.get("format") if isinstance(info, dict) else None
    if type(number) is not int or number < 1:
        raise SavedModelError(f"{str(path)!r} is damaged: it has no number of its format.")
    if number > FORMAT:
        raise SavedModelError(
            f"{str(folder)!r} has format {number}, and this version of sktransformers reads "
            f"formats up to {FORMAT}: install a newer one (it was saved with "
            f"{info.get('versions', {})})."
        )
    for name, kind in _EXPECTED.items():
        if not isinstance(info.get(name), kind):
            raise SavedModelError(f"{str(path)!r} is damaged: it has no entry {name!r}.")
    return info
