"""Directories that are there with all that is in them, or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def check_free(path: Any, overwrite: bool = False) -> Path:
    """The path of a directory that may be written.

    Raises
    ------
    FileExistsError
        If there is a file at path; or, unless ``overwrite``, anything but an empty directory.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not overwrite)):
        raise FileExistsError(f"path={str(path)!r} exists and is no empty directory.")
    return path.resolve()  # of a link, what it leads to


@contextmanager
def appearing(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to write into, which stands at path as soon as all is written.

    It takes the place of an empty one, or with ``overwrite`` of any. After an error what was
    there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    former = unfinished.with_name(f"{unfinished.name}-former")
    unfinished.mkdir()
    try:
        yield unfinished
        if check_free(path, overwrite).exists():  # others may have written meanwhile
            os.replace(path, former)
        try:
            os.replace(unfinished, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
