"""Directories that are there with all that is in them, or not at all.

A crash at any point leaves at a path what was there before or the whole of what is new.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sktransformers.files import held, sync

# Of renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What a crash may leave beside a directory: a new one, or the former one.
_UNFINISHED, _FORMER = "unfinished", "former"
_SECONDS = 60


def entries(folder: Path) -> list[str]:
    """Names of what is in a directory."""
    return sorted(os.listdir(folder))


def check_free(
    path: Any, overwrite: bool = False, foreign: Callable[[Path], list[str]] = entries
) -> Path:
    """The path of a directory that may be written.

    Parameters
    ----------
    path : str or path-like
    overwrite : bool, default=False
        Whether an existing directory may be replaced, whatever is in it.
    foreign : callable, default=entries
        Names of what keeps an existing directory from being replaced.

    Raises
    ------
    FileExistsError
        If there is a file at path; or, unless ``overwrite``, a directory with something foreign.
    """
    path = Path(path).expanduser()
    if path.exists():
        if not path.is_dir():
            raise FileExistsError(f"path={str(path)!r} exists and is no empty directory.")
        others = [] if overwrite else foreign(path)
        if others:
            shown = ", ".join(map(repr, others[:5])) + (", ..." if len(others) > 5 else "")
            hint = "" if foreign is entries else " overwrite=True replaces it, with all of that."
            raise FileExistsError(
                f"path={str(path)!r} exists and is no empty directory: it holds {shown}.{hint}"
            )
    return path.resolve()  # of a link, what it leads to


@contextlib.contextmanager
def appearing(
    path: Path, overwrite: bool = False, foreign: Callable[[Path], list[str]] = entries
) -> Iterator[Path]:
    """A directory to write into, which stands at path as soon as all is written.

    It takes the place of one that `check_free` lets be replaced. After an error what was there
    is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    _clean(path)
    folder = _beside(path, _UNFINISHED)
    folder.mkdir()
    try:
        with held(folder):
            yield folder
            _settle(folder)
            if check_free(path, overwrite, foreign).exists():  # others may have written meanwhile
                shutil.copymode(path, folder)
                _swap(folder, path)
            else:
                os.replace(folder, path)
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recover(path: Path) -> None:
    """Bring back the directory that an interrupted swap of two has left beside a path."""
    # Others are faster or may do more than we, or it is no path at all.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = path.resolve()
        formers = [] if path.exists() else _leftovers(path, _FORMER)
        for former in formers:
            with held(former):  # waits for those who are at it
                if not path.exists():
                    os.replace(former, path)


def steadily(folder: Path, read: Callable[[], Any]) -> Any:
    """What a function reads of a directory; once more if another took its place meanwhile."""
    while True:
        before = _identity(folder)
        try:
            found = read()
        except Exception:
            if _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return found


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _clean(path: Path) -> None:
    """Delete what processes that have died have left beside a path."""
    for folder in _leftovers(path, f"{_UNFINISHED}|{_FORMER}"):
        with contextlib.suppress(OSError), held(folder, wait=False) as is_held:
            # One that is younger may not be held yet.
            if is_held and time.time() - folder.stat().st_mtime > _SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _leftovers(path: Path, kinds: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.({kinds})")
    return [path.parent / name for name in entries(path.parent) if pattern.fullmatch(name)]


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex}.{kind}"


def _settle(folder: Path) -> None:
    """Have the disk hold all of a directory, with the rights that the umask leaves to files."""
    rights = folder.stat().st_mode & 0o666
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(root, name)
            file.chmod(rights)  # what safetensors writes only its owner may read
            sync(file)
        sync(Path(root))


def _swap(new: Path, path: Path) -> None:
    """Put a directory in the place of another; afterwards the other one is at new, or gone."""
    with contextlib.suppress(OSError):  # not on this system, or not on this file system
        _exchange(new, path)
        return
    former = _beside(path, _FORMER)
    with held(path):  # `recover` waits for the end
        try:
            os.replace(path, former)
            os.replace(new, path)
        except BaseException:
            if former.exists() and not path.exists():
                os.replace(former, path)
            raise
    shutil.rmtree(former, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Let two directories change places in one step, as Linux can.

    Raises
    ------
    OSError
        If that cannot be done; then nothing has changed.
    """
    library: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(one), os.fsencode(other)
    if library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
