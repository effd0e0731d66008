"""``sktransformers.json``: what a saved directory says of the estimator in it."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sktransformers.inference.directory import entries
from sktransformers.persistence import checks
from sktransformers.persistence.errors import SavedModelError

NAME = "sktransformers.json"
# Raised when an older version of this package can no longer read what is written.
FORMAT = 1
_PACKAGES = ("sktransformers", "scikit-learn", "torch", "transformers", "skorch", "numpy", "peft")
_EXPECTED = {
    "class": str,
    "parameters": dict,
    "dropped": list,
    "fitted": dict,
    "model": dict,
    "weights": dict,
    "files": list,
}


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
    """Write the file, after all others; info is what JSON can hold."""
    info = {"format": FORMAT, **info, "files": sorted({*_files(folder), NAME})}
    text = json.dumps(info, indent=1, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair, which UTF-8 does not know, becomes an escape of JSON.
    (folder / NAME).write_bytes(f"{text}\n".encode(errors="backslashreplace"))


def read(folder: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises
    ------
    SavedModelError
        If there is no such file, it is damaged, or of a format that came later.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        raise SavedModelError(
            f"{str(folder)!r} is no model that sktransformers saved: "
            f"{f'it has no {NAME}' if folder.is_dir() else 'there is no such directory'}."
        )
    checks.check_files(folder)
    info = checks.read_json(path)
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
    lacking = sorted({str(name) for name in info["files"]} - _files(folder))
    if any(not name.endswith(".md") for name in lacking):
        raise SavedModelError(f"{str(folder / lacking[0])!r} is missing: it was saved with others.")
    return info


def foreign(folder: Path) -> list[str]:
    """Names of what no save wrote into a directory: all, if it is no saved model."""
    try:
        files = read(folder)["files"]
    except SavedModelError:
        return entries(folder)
    return sorted(_files(folder) - set(map(str, files)))


def _files(folder: Path) -> set[str]:
    """Names of all files below a directory."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
