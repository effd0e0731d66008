"""Parameters and fitted attributes as JSON, with their types, and back without running anything.

What JSON has no word for becomes an object with one key that begins with a dollar.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sktransformers import augmentation, metrics, specs
from sktransformers.persistence.errors import SavedModelError

_SPECS: dict[str, type] = {
    name: value
    for module in (specs, augmentation)
    for name, value in vars(module).items()
    if isinstance(value, type) and hasattr(value, "get_params") and not name.startswith("_")
}
_METRICS: dict[str, Any] = {
    name: getattr(metrics, name)
    for name in metrics.__all__
    if not isinstance(getattr(metrics, name), type)
}
# Types of arrays whose numbers or letters JSON can hold: booleans, integers, floats, str, dates.
_KINDS = "biufUMm"
_MOST_DEEP = 50
# Options of a backbone that are of one machine or one decision, and are never written.
_NEVER = {"token": None, "trust_remote_code": False}


class NotPlain(TypeError):
    """A value that JSON cannot hold.

    Parameters
    ----------
    where : str
        Name of the parameter or attribute, options separated as in ``set_params``.
    value : object
    """

    def __init__(self, where: str, value: Any):
        super().__init__(where)
        self.where = where
        self.value = value

    def __str__(self) -> str:
        return f"{self.where} ({type(self.value).__name__})"


def to_plain(value: Any, where: str) -> Any:
    """What JSON can hold of a value; where names it in an error.

    Raises
    ------
    NotPlain
        If the value, or something inside it, is code or of a type that is not known.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return [to_plain(each, where) for each in value]
    if kind is tuple:
        return {"$tuple": [to_plain(each, where) for each in value]}
    if kind in (set, frozenset):
        return {"$set": [to_plain(each, where) for each in value]}
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: to_plain(each, where) for key, each in value.items()}
        pairs = [[to_plain(key, where), to_plain(each, where)] for key, each in value.items()]
        return {"$dict": pairs}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return {"$scalar": _array(np.asarray(value), where)}
    if kind is np.ndarray:
        return {"$array": _array(value, where)}
    if _SPECS.get(kind.__name__) is kind:
        params = value.get_params(deep=False)
        if kind is specs.Backbone:
            params |= _NEVER
        params = {name: to_plain(each, f"{where}__{name}") for name, each in params.items()}
        return {"$spec": {"class": kind.__name__, "parameters": params}}
    name = getattr(value, "__name__", None) or next(
        (name for name, known in _METRICS.items() if known is value), None
    )
    if name is not None and _METRICS.get(name) is value:
        return {"$metric": name}
    raise NotPlain(where, value)


def from_plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value that `to_plain` was given.

    Raises
    ------
    SavedModelError
        If it is nothing that `to_plain` gives.
    """
    if depth > _MOST_DEEP:
        raise SavedModelError(f"{where} is nested more than {_MOST_DEEP} levels deep.")
    if isinstance(value, list):
        return [from_plain(each, where, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: from_plain(each, f"{where}.{key}", depth + 1) for key, each in value.items()}
    (kind, content), *more = value.items()
    read = _READERS.get(kind)
    if more or read is None:
        raise SavedModelError(f"{where} has an entry {kind!r} that this version cannot read.")
    try:
        return read(content, where, depth + 1)
    except SavedModelError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SavedModelError(f"{where} is damaged: {kind!r} with {_shown(content)}.") from error


def _array(array: np.ndarray, where: str) -> dict[str, Any]:
    flat: list[Any] = array.ravel().tolist()
    dtype = array.dtype.str
    if array.dtype.kind in "Mm":
        flat = array.ravel().view(np.int64).tolist()
    elif array.dtype.kind == "f":
        # In their shortest form where that is exact: longdouble has no JSON.
        if array.dtype.itemsize > 8:
            raise NotPlain(where, array)
        flat = [to_plain(each, where) for each in flat]
    elif array.dtype == object:
        dtype, flat = "object", [to_plain(each, where) for each in array.ravel()]
    elif array.dtype.kind not in _KINDS:
        raise NotPlain(where, array)
    return {"dtype": dtype, "shape": list(array.shape), "values": flat}


def _read_array(content: Any, where: str, depth: int) -> np.ndarray:
    shape = tuple(int(n) for n in content["shape"])
    values = content["values"]
    if content["dtype"] == "object":
        array = np.empty(len(values), dtype=object)
        for i, each in enumerate(values):
            array[i] = from_plain(each, where, depth)
        return array.reshape(shape)
    dtype = np.dtype(content["dtype"])
    if dtype.kind not in _KINDS or not isinstance(values, list):
        raise ValueError
    if dtype.kind in "Mm":
        return np.array(values, np.int64).view(dtype).reshape(shape)
    if dtype.kind == "f":
        values = [from_plain(each, where, depth) for each in values]
    return np.array(values, dtype).reshape(shape)


def _read_spec(content: Any, where: str, depth: int) -> Any:
    kind = _SPECS[content["class"]]
    params = {
        name: from_plain(each, f"{where}__{name}", depth)
        for name, each in content["parameters"].items()
    }
    return kind(**params)


def _read_dict(content: Any, where: str, depth: int) -> dict[Any, Any]:
    return {from_plain(k, where, depth): from_plain(v, where, depth) for k, v in content}


def _read_float(content: Any, where: str, depth: int) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise ValueError
    return float(content)


_READERS: Mapping[str, Callable[[Any, str, int], Any]] = {
    "$float": _read_float,
    "$tuple": lambda content, *there: tuple(from_plain(list(content), *there)),
    "$set": lambda content, *there: set(from_plain(list(content), *there)),
    "$dict": _read_dict,
    "$path": lambda content, *there: Path(content),
    "$scalar": lambda content, *there: _read_array(content, *there)[()],
    "$array": _read_array,
    "$spec": _read_spec,
    "$metric": lambda content, *there: _METRICS[content],
}


def _shown(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 100 else f"{text[:100]}..."
