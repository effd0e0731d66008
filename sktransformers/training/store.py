"""Files of tensors in a folder: whole or not there, checked when read, least used first deleted."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sktransformers import files

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


def load(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `write` wrote.

    Raises
    ------
    OSError
        If the file is not there, or cannot be read.
    ValueError
        If it is damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header["digest"] != _digest(tensors, header["about"]):
            raise ValueError("its content is not what was written")
        return tensors, json.loads(header["about"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it does not say what it holds: {error}") from error
    except RecursionError as error:
        raise ValueError("what it says is nested too deep") from error
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def read(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """Read what `write` wrote; None if it cannot be had. A damaged file is deleted."""
    try:
        found = load(path)
        with contextlib.suppress(OSError):  # it may be for reading only
            os.utime(path)  # used now
        return found
    except OSError:  # not there, or there no more
        return None
    except ValueError:
        pass
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return None


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
    files = []
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except OSError:  # another process has just deleted it
            continue
        if path.is_file():
            files.append((found.st_mtime_ns, found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
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
