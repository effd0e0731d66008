"""What is looked at before anything is read of a directory that anybody may have written.

Its readers then open no file outside of it, run no code that it names, and take time and memory
that the size of its weights explains.
"""

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sktransformers.persistence.errors import SavedModelError
from sktransformers.training import loading, store

# The largest files of the hub: the 262,144 tokens of Gemma's tokenizer.json are 33 MB.
MAX_BYTES = 64 * 2**20
_MAX_FILES = 1000
# Kinds of files that are read whole. The others are tensors, or nobody's business.
_READ_WHOLE = {".bpe", ".json", ".txt", ".jinja", ".model", ".spm", ".vocab", ".tiktoken"}
# What the transformers library reads whole of a checkpoint.
_OF_OTHERS = (
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# Entries of a configuration that name code, or other files than a saved model's own.
_FORBIDDEN = {
    "_attn_implementation",
    "_experts_implementation",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "distributed_config",
    "experts_implementation",
    "fusion_config",
    "gguf_file",
    "init_inputs",
    "kernel_config",
    "quantization_config",
    "transformers_weights",
}
# Entries whose keys are the user's own words.
_NAMES = {"id2label", "label2id"}
# Integers that nothing is as long as, or that only learned tables are as long as.
_LONG = ("base", "context", "ctx", "len", "position", "theta", "token", "window")
_MAX_LENGTH = 10**9
_MAX_COUNT = 2**16
_MAX_DEPTH = 50
# What the transformers library writes of them although nobody needs it.
_NEEDLESS = {"auto_map", "custom_pipelines"}
_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_ADAPTER = "adapter_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_files(folder: Path) -> None:
    """Check that a directory holds files of its own, of sizes that can be read.

    Links of the hub's cache to its own files are fine.

    Raises
    ------
    SavedModelError
        If there is a link to somewhere else, something that is no file, a file of text that is
        larger than 64 MB, or more than 1,000 files.
    """
    root = folder.resolve()
    places = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        places += [root.parents[1] / "blobs", root.parents[2] / "blobs"]
    count = 0
    for here, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += len(folders) + len(names)
        if count > _MAX_FILES:
            raise SavedModelError(f"{str(folder)!r} holds more than {_MAX_FILES} files.")
        for name in (*folders, *names):
            _check_file(Path(here, name), places)


def check_checkpoint(folder: Path) -> None:
    """Check that files of text in a checkpoint of others can be read.

    Raises
    ------
    SavedModelError
        If one is no file, or larger than 64 MB.
    """
    for name in _OF_OTHERS:
        path = folder / name
        if path.exists():
            _check_file(path, [Path(folder.resolve().anchor)])


def _check_file(path: Path, places: list[Path]) -> None:
    try:
        target = path.resolve()
        found = target.stat()
    except (OSError, RuntimeError) as error:  # a link to nowhere, or to itself
        raise SavedModelError(f"{str(path)!r} cannot be read: {error}") from error
    if not any(target.is_relative_to(place) for place in places):
        raise SavedModelError(f"{str(path)!r} is a link that leads out of its directory.")
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise SavedModelError(f"{str(path)!r} is no file.")
    if path.suffix in _READ_WHOLE and found.st_size > MAX_BYTES:
        raise SavedModelError(
            f"{str(path)!r} has {found.st_size} bytes; at most {MAX_BYTES} are read."
        )


def read_json(path: Path) -> Any:
    """Content of a file of JSON.

    Raises
    ------
    SavedModelError
        If there is no such file, it is larger than 64 MB, is no JSON, or is nested too deep.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return json.loads(content, parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise SavedModelError(f"{str(path)!r} cannot be read: {error}") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_header(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file on the meta device: their names, types and shapes.

    Raises
    ------
    SavedModelError
        If there is no such file, or it is damaged or something else.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(store.MAX_HEADER, size - 8):
            raise ValueError("it has no header")
        found = {}
        with safe_open(path, "pt") as file:  # which checks that sizes and places add up
            for name in file.keys():
                part = file.get_slice(name)
                found[name] = torch.empty(
                    part.get_shape(), dtype=_dtype(part.get_dtype()), device="meta"
                )
        return found
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SavedModelError(f"{str(path)!r} is no safetensors file: {error}") from error


def check_beside(folder: Path) -> None:
    """Check that nothing beside ``model.safetensors`` is taken for weights too.

    Raises
    ------
    SavedModelError
        If there are adapters, or parts of what several machines have written.
    """
    for path in sorted(folder.iterdir()):
        if path.name == _ADAPTER or path.name.startswith("shard-"):
            raise SavedModelError(f"{str(path)!r} does not belong to a model with all its weights.")


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Likewise of ``model.safetensors``, or of the files that it was divided into."""
    if (folder / _WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return read_header(folder / _WEIGHTS)
    index = read_json(folder / _INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not isinstance(index.get("metadata"), dict):
        raise SavedModelError(f"{str(folder / _INDEX)!r} is damaged: it has no weight_map.")
    found: dict[str, Tensor] = {}
    for name in sorted(set(map(str, places.values()))):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise SavedModelError(
                f"{str(folder / _INDEX)!r} names {name!r}, which is no safetensors file of its "
                f"directory."
            )
        found |= read_header(folder / name)
    return found


def read_config(path: Path, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Read a configuration, and check it by `check_config`."""
    config = read_json(path)
    check_config(config, path, tensors)
    return config


def check_config(config: Any, path: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Check a configuration before objects are made of it.

    Parameters
    ----------
    config : dict
        What JSON gave.
    path : Path
        Where it is from.
    tensors : dict of str to Tensor, default=None
        Those that it is the configuration of; None if they are not known.

    Raises
    ------
    SavedModelError
        If it names code or other files, or numbers larger than anything in the tensors.
    """
    largest = _MAX_COUNT
    if tensors is None:
        largest = 2**21  # tokens of the largest vocabularies
    else:
        largest = max([largest, *(size for tensor in tensors.values() for size in tensor.shape)])
    if not isinstance(config, dict):
        raise SavedModelError(f"{str(path)!r} is no configuration.")
    _check_entries(config, path, largest, 0)


def _check_entries(config: dict[str, Any], path: Path, largest: int, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise SavedModelError(f"{str(path)!r} is nested more than {_MAX_DEPTH} levels deep.")
    for name, value in config.items():
        if name in _FORBIDDEN and value:
            raise SavedModelError(_names_code(path, name))
        if name in _NAMES:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                _check_entries(each, path, largest, depth + 1)
            limit = _MAX_LENGTH if any(word in name for word in _LONG) else largest
            if isinstance(each, int) and abs(each) > limit:
                raise SavedModelError(
                    f"{str(path)!r} has {name!r} = {_shown(each)}, but none of its tensors is "
                    f"that large."
                )


def check_size(build: Callable[[], Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that a model takes about as much memory as its tensors.

    Parameters
    ----------
    build : callable
        Makes the model, which is done where it takes no memory.
    tensors : dict of str to Tensor
        Those of the files.
    path : Path
        Whence the model's configuration is.

    Raises
    ------
    SavedModelError
        If the model has more parameters, or other types of them.
    """
    try:
        most = 2 * len(tensors) + 100
        with loading.alone(verbose=False), torch.device("meta"), _counting(most, path):
            model = build()
    except SavedModelError:
        raise
    except Exception as error:  # of any family's classes
        raise SavedModelError(f"{str(path)!r} describes no model: {error}") from error
    there = sum(tensor.numel() for tensor in tensors.values())
    needed = sum(parameter.numel() for parameter in model.parameters())
    beside = sum(buffer.nbytes for buffer in model.buffers())
    if needed > 2 * there + 2**20 or beside > 8 * there + 2**28:
        raise SavedModelError(
            f"{str(path)!r} describes a model of {needed} parameters, but its files have {there}."
        )
    for name, wanted in model.state_dict(keep_vars=True).items():
        found = tensors.get(name, wanted)
        if found.is_floating_point() != wanted.is_floating_point():
            raise SavedModelError(
                f"{str(path.with_name(_WEIGHTS))!r} has {name!r} of type {found.dtype}; expected "
                f"{wanted.dtype}."
            )


@contextmanager
def _counting(most: int, path: Path) -> Iterator[None]:
    """Stop this thread's making of a model that has too many parameters."""
    count, thread = 0, threading.get_ident()

    def hook(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise SavedModelError(
                f"{str(path)!r} describes a model of more tensors than its files have."
            )

    handle = nn.modules.module.register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def tidy(folder: Path) -> None:
    """Leave out of configurations what a reader refuses, and directories of this machine.

    Raises
    ------
    SavedModelError
        If a reader would refuse them all the same.
    """
    for path in (folder / _CONFIG, folder / _TOKENIZER):
        if path.exists():
            written = read_json(path)
            config = tidied(written)
            if config != written:
                text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
                path.write_bytes(f"{text}\n".encode(errors="backslashreplace"))
    check_config(read_json(folder / _CONFIG), folder / _CONFIG)
    check_tokenizer(folder)


def tidied(value: Any) -> Any:
    """A part of a configuration, likewise."""
    if isinstance(value, list):
        return [tidied(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: each if name in _NAMES else tidied(each)
        for name, each in value.items()
        if name not in _NEEDLESS and not _is_place(name, each)
    }


def _is_place(name: str, value: Any) -> bool:
    """Whether an entry says where something lies on this machine."""
    if name == "_name_or_path":
        return not isinstance(value, str) or loading.hub_id(value) is None
    return isinstance(value, str) and name.endswith("_file")


def check_tokenizer(folder: Path) -> None:
    """Check what a tokenizer is made from.

    Raises
    ------
    SavedModelError
        If it names code or other files than its own.
    """
    path = folder / _TOKENIZER
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise SavedModelError(f"{str(path)!r} is no configuration.")
    for name, value in config.items():
        if value and (name in _FORBIDDEN or name.endswith("_file")):
            raise SavedModelError(_names_code(path, name))
    longest = config.get("model_max_length")
    if longest is not None and not isinstance(longest, (int, float)):
        raise SavedModelError(f"{str(path)!r} has 'model_max_length' = {longest!r}, no number.")


def _names_code(path: Path, name: str) -> str:
    return (
        f"{str(path)!r} has an entry {name!r}, which names code or other files: no saved model of "
        f"sktransformers does."
    )


def _dtype(name: str) -> torch.dtype:
    found = store.DTYPES.get(name)
    if found is None:
        raise ValueError(f"its tensors are of type {name}")
    return found


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**20 else "a number of more than 20 digits"
