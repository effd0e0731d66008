"""What several rooms need of the file system."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def held(folder: Path, wait: bool = True) -> Iterator[bool | None]:
    """Lock a directory, whatever its name, until the end or the death of the process.

    What is yielded says whether that was possible: False if others hold it, None if there are no
    locks here.
    """
    if sys.platform == "win32":
        yield None
        return
    file = os.open(folder, os.O_RDONLY)
    is_held: bool | None = True
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_held = False
        except OSError:  # of a file system without locks
            is_held = None
        yield is_held
    finally:
        os.close(file)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which files a directory has."""
    if sys.platform == "win32":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:  # some file systems refuse it for directories
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)
