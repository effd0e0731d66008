"""Digests of content, by which a training is known again."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import types
from collections.abc import Iterable, Mapping
from typing import Any

import joblib
import numpy as np
from torch import Tensor

from sktransformers.specs import Spec
from sktransformers.training import store

_FORMAT = 3  # of the files, and of what their numbers mean
# With others, training may go another way.
_VERSIONS = ("sktransformers", "torch", "transformers", "numpy", "scikit-learn", "peft")


def fingerprint(*things: Any, guess: bool = False) -> str:
    """Hexadecimal digest of the content of numbers, texts, arrays, tensors, option objects, ...

    It is another one with other versions of what trains.

    Parameters
    ----------
    *things : object
    guess : bool, default=False
        Whether functions and objects of other types are known by their names, code and pickles.
        These may miss what a function reads elsewhere.

    Raises
    ------
    TypeError
        If something is of another type, such as a function, or cannot even be guessed.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        _feed(digest, (_FORMAT, [_version(name) for name in _VERSIONS], things), guess)
    except RecursionError as error:  # it holds itself
        raise TypeError("what holds itself cannot be told from others by its content") from error
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # not all are required
        return ""


def _feed(digest: Any, thing: Any, guess: bool) -> None:
    if thing is None or isinstance(thing, (str, bytes, bool, int, float, np.generic)):
        shown = f"{thing.item() if isinstance(thing, np.generic) else thing!r};"
        digest.update(shown.encode("utf-8", "surrogatepass"))
    elif isinstance(thing, Tensor):
        store.feed(digest, thing)
    elif isinstance(thing, np.ndarray) and thing.dtype != object and not thing.dtype.hasobject:
        digest.update(f"{thing.dtype.str}{thing.shape}".encode())
        digest.update(np.ascontiguousarray(thing).view(np.uint8))
    else:
        parts = list(_parts(thing, guess))
        digest.update(f"{type(thing).__name__}{len(parts)}:".encode())
        for part in parts:
            _feed(digest, part, guess)


def _parts(thing: Any, guess: bool) -> Iterable[Any]:
    if isinstance(thing, np.ndarray):
        return (*thing.shape, *thing.ravel().tolist())
    if isinstance(thing, (list, tuple)):
        return thing
    if isinstance(thing, Mapping):
        return thing.items()
    if isinstance(thing, Spec):
        return thing.get_params(deep=False).items()
    if dataclasses.is_dataclass(thing):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    if guess:
        return _guessed(thing)
    raise TypeError(_unknown(thing))


def _guessed(thing: Any) -> Iterable[Any]:
    kind = type(thing)
    if isinstance(thing, types.CodeType):
        return thing.co_code, thing.co_names, thing.co_consts
    if isinstance(thing, frozenset):
        return sorted(map(repr, thing))
    if isinstance(thing, types.FunctionType):
        closed = [cell.cell_contents for cell in thing.__closure__ or ()]
        what = thing.__code__, thing.__defaults__, thing.__kwdefaults__, closed
        return thing.__module__, thing.__qualname__, *what
    if isinstance(thing, functools.partial):
        return thing.func, thing.args, thing.keywords
    try:
        digest = joblib.hash(thing)
    except Exception as error:  # of pickle, or of the object's own methods
        if kind.__module__ == "builtins" or not hasattr(thing, "__dict__"):
            raise TypeError(_unknown(thing)) from error
        return kind.__module__, kind.__qualname__, vars(thing)
    # Pickles have functions, such as that of a scorer, by their names alone.
    held = [] if isinstance(thing, type) else getattr(thing, "__dict__", {}).values()
    return digest, *(x for x in held if isinstance(x, types.FunctionType))


def _unknown(thing: Any) -> str:
    name = getattr(thing, "__qualname__", f"an object of type {type(thing).__name__}")
    return f"{name} cannot be told from others by its content"
