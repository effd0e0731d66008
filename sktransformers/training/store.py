"""Files of tensors in a folder: whole or not there, checked when read, least used first deleted."""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sktransformers import files

MAX_HEADER = 32 * 2**20  # bytes that are parsed
_MOST_AXES = 16
# Types of tensors by the names of the safetensors format.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_MB = 2**20
# What these do shows in weights, configurations and versions; code of others may do anything.
_KNOWN_CODE = {"sktransformers", "torch", "transformers", "peft"}


def is_known(*things: Any) -> bool:
    """Whether all the code behind some objects is that of libraries whose results may be kept.

    The hooks of modules count.
    """
    code: list[Any] = [type(thing) for thing in things]
    for thing in things:
        if isinstance(thing, torch.nn.Module):
            code += [*thing._forward_pre_hooks.values(), *thing._forward_hooks.values()]
    origins = {str(getattr(each, "__module__", None)) for each in code}
    return {origin.partition(".")[0] for origin in origins} <= _KNOWN_CODE


def write(path: Path, tensors: Mapping[str, Tensor], about: Any, sync: bool = False) -> None:
    """Write a file of tensors, and what JSON can hold about them, in one go.

    Raises
    ------
    OSError
        If there is no space, or no right to write. Nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Copies: those that share memory would be refused.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(about)
    # In one entry: those of the format have no order, and equal files are to be equal.
    header = {"header": json.dumps({"about": text, "digest": _digest(tensors, text)})}
    temporary = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        safetensors.torch.save_file(tensors, temporary, metadata=header)
        with temporary.open("rb") as file:
            if _length(file) > MAX_HEADER:
                raise OSError(f"{path} would have a header of more than {MAX_HEADER} bytes")
        temporary.chmod(mode)  # what safetensors writes only its owner may read
        if sync:
            files.sync(temporary)
        os.replace(temporary, path)
        if sync:
            files.sync(path.parent)
    except safetensors.SafetensorError as error:  # what it makes of an error of the disk
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


class _File:
    """A file that `write` wrote, whose header was checked before anything else is done with it.

    Nothing is mapped into memory: whoever may write to the folder could cut the file off meanwhile.
    """

    def __init__(self, file: BufferedReader, most: float):
        size = os.fstat(file.fileno()).st_size
        if size > min(most, _memory()):
            raise ValueError(f"it has {size} bytes, more than are read")
        length = _length(file)
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
        about = json.loads(header.pop("__metadata__")["header"])
        self.about: str = about["about"]
        self.digest = about["digest"]
        self._file = file
        self._places: dict[str, tuple[torch.dtype, list[int], int]] = {}
        here = 8 + length
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if len(shape) > _MOST_AXES or not all(
                type(n) is int and 0 <= n <= size for n in (*shape, begin, end)
            ):
                raise ValueError(f"{name!r:.50} has no shape")
            if begin != here or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name!r:.50} is not where it should be")
            self._places[name] = dtype, shape, begin
            here = end
        if here != size:
            raise ValueError("it has another length than it says")

    def get(self, name: str) -> Tensor:
        """One of the tensors."""
        dtype, shape, begin = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        self._file.seek(begin)
        if self._file.readinto(data) != len(data):
            raise ValueError("it ends too soon")
        if dtype == torch.bool and data.max(initial=0) > 1:
            raise ValueError(f"{name!r:.50} has other numbers than 0 and 1")
        return tensor

    def all(self) -> dict[str, Tensor]:
        """All tensors by their names."""
        return {name: self.get(name) for name in self._places}


@contextlib.contextmanager
def _opened(path: Path, most: float) -> Iterator[_File]:
    """A file to be read, which has to be one itself: no link, no pipe that would be waited for.

    What is wrong with it is a ValueError.
    """
    flags = (getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
    try:
        number = os.open(path, sum(flags, os.O_RDONLY))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ValueError("it is no file")
        with open(number, "rb", closefd=False) as file:
            yield _File(file, most)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "there is too little memory for it") from error
    except RecursionError as error:
        raise ValueError("what it says is nested too deep") from error
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"it does not say what it holds: {error!r:.200}") from error
    finally:
        os.close(number)


def load(path: Path, most: float = math.inf) -> tuple[dict[str, Tensor], Any]:
    """Read what `write` wrote.

    Parameters
    ----------
    path : Path
    most : float, default=inf
        Bytes of the largest file that is read; those of the machine's memory at most.

    Raises
    ------
    OSError
        If the file is not there, or cannot be read.
    ValueError
        If it is damaged, or a link, or no file.
    """
    with _opened(path, most) as file:
        tensors = file.all()
        if file.digest != _digest(tensors, file.about):
            raise ValueError("its content is not what was written")
        return tensors, json.loads(file.about)


def peek(path: Path, name: str, most: float = math.inf) -> Tensor:
    """One of the tensors of a file, of which the rest is not looked at.

    Parameters and what is raised are as in `load`.
    """
    with _opened(path, most) as file:
        return file.get(name)


def read(path: Path, most: float = math.inf) -> tuple[dict[str, Tensor], Any] | None:
    """Likewise; None if it cannot be had, with a warning unless it is just not there."""
    try:
        found = load(path, most)
    except FileNotFoundError:  # or there no more
        return None
    except (OSError, ValueError) as error:
        leave_out(path, error)
        return None
    with contextlib.suppress(OSError):  # it may be for reading only
        os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)  # used now
    return found


def leave_out(path: Path, why: Exception) -> None:
    """Warn of a file that cannot be used, and delete it if it is damaged."""
    done = "cannot be read"
    if isinstance(why, ValueError):
        done = "was damaged"
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # of a link not what it leads to
            done = "was damaged and has been deleted"
    warnings.warn(f"{path} {done} ({why}); what it held is computed again.", stacklevel=2)


def check_place(path: Path, root: Path) -> None:
    """Check that what is inside the folder of all that is kept is not elsewhere.

    Raises
    ------
    OSError
        If it, or one that it is in, is a link.
    """
    for place in (path, *path.parents):
        if place.is_symlink():
            raise OSError(f"{place} is a link, which may lead anywhere")
        if place == root:
            return


def _length(file: BufferedReader) -> int:
    """Length of the header of a safetensors file."""
    return int.from_bytes(file.read(8), "little")


def _memory() -> float:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows, others
        return math.inf


def make_room(folder: Path, max_mb: float, n_bytes: int = 0) -> bool:
    """Delete what was not used for longest until a folder can take so many bytes more.

    Returns
    -------
    fits : bool
        False if it could not even be alone in the folder; then nothing is deleted.
    """
    limit = max_mb * _MB - n_bytes
    if limit < 0:
        return False
    known = []
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except OSError:  # another process has just deleted it
            continue
        if stat.S_ISREG(found.st_mode):
            known.append((found.st_mtime_ns, found.st_size, path))
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
    return True


def feed(digest: Any, tensor: Tensor) -> None:
    """Let a digest read a tensor: its type, shape and numbers."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())


def digests(tensors: Iterable[Tensor]) -> list[bytes]:
    """Digest of each of many tensors, which as many threads read as torch computes with."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(_digest_of, tensors))


def _digest_of(tensor: Tensor) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    feed(digest, tensor)
    return digest.digest()


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        feed(digest, tensors[name])
    return digest.hexdigest()
