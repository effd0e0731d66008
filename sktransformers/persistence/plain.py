"""Parameters and fitted attributes as JSON, with their types, and back without running anything.

What JSON has no word for becomes an object with one key that begins with a dollar.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from transformers import GenerationConfig

from sktransformers import augmentation, metrics, specs
from sktransformers.persistence import tables
from sktransformers.persistence.errors import SavedModelError
from sktransformers.training.callbacks import BatchHistory

# Objects that are made again from their parameters.
_SPECS: dict[str, type] = {
    name: value
    for module in (specs, augmentation)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, (specs.Spec, augmentation.Augmenter))
}
_SPECS["BatchHistory"] = BatchHistory
_METRICS: dict[str, Any] = {
    name: getattr(metrics, name)
    for name in metrics.__all__
    if not isinstance(getattr(metrics, name), type)
}
_TYPES = {kind.__name__: kind for kind in (sparse.csr_matrix, sparse.csr_array)}
# Types of arrays whose entries JSON can hold: floats of 64 bits, booleans, integers, str, dates.
_DTYPE = re.compile(r"[<>|=](f[248]|[biuUMm]\d*(\[\w+\])?)")
_ENTRIES: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "f": (int, float),
    "U": (str,),
    **dict.fromkeys("iuMm", (int,)),
}
_MOST_BYTES = 2**30  # of an array
_MOST_DEEP = 50
# Options of a backbone that are of one machine or one decision, and are never written or read.
_NEVER = {"token": None, "trust_remote_code": False}


class NotPlain(TypeError):
    """Values that JSON cannot hold.

    Parameters
    ----------
    found : dict of str to object
        The values by the names of the parameters or attributes, options separated as in
        ``set_params``.
    """

    def __init__(self, found: Mapping[str, Any]):
        shown = ", ".join(f"{name} ({type(value).__name__})" for name, value in found.items())
        super().__init__(shown)
        self.found = dict(found)


def all_to_plain(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """What JSON can hold of some values by their names.

    Raises
    ------
    NotPlain
        With all that are code or of a type that is not known.
    """
    plain: dict[str, Any] = {}
    bad: dict[str, Any] = {}
    for name, value in values.items():
        try:
            plain[name] = to_plain(value, prefix + name, depth)
        except NotPlain as error:
            bad |= error.found
    if bad:
        raise NotPlain(bad)
    return plain


def to_plain(value: Any, where: str, depth: int = 0) -> Any:
    """What JSON can hold of a value; where names it in an error.

    Raises
    ------
    NotPlain
        If the value, or something inside it, is code or of a type that is not known.
    """
    kind = type(value)
    if depth > _MOST_DEEP:
        raise NotPlain({where: value})
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return _each(value, where, depth)
    if kind in (tuple, set, frozenset):
        return {f"${kind.__name__}": _each(value, where, depth)}
    if kind is dict:
        keys = list(value)
        values = _each(value.values(), where, depth)
        if all(type(key) is str and not key.startswith("$") for key in keys):
            return dict(zip(keys, values))
        return {"$dict": [list(pair) for pair in zip(_each(keys, where, depth), values)]}
    if isinstance(value, Path):
        return {"$path": str(value)}
    if kind is Decimal:
        return {"$decimal": str(value)}
    if kind is torch.device:
        return {"$device": str(value)}
    if kind is np.ndarray:
        return {"$array": _array(value, where, depth)}
    if isinstance(value, np.generic):
        return {"$scalar": _array(np.asarray(value), where, depth)}
    if kind is GenerationConfig:
        settings = value.to_diff_dict()
        settings.pop("transformers_version", None)
        return {"$generation": to_plain(settings, where, depth + 1)}
    if _SPECS.get(kind.__name__) is kind:
        return {"$spec": {"class": kind.__name__, "parameters": _options(value, where, depth)}}
    if isinstance(value, type) and value in _TYPES.values():
        return {"$type": value.__name__}
    if tables.is_empty(value):
        try:
            return {"$table": to_plain(tables.describe(value), where, depth + 1)}
        except ValueError:
            raise NotPlain({where: value}) from None
    name = next((name for name, known in _METRICS.items() if _is_same(value, known)), None)
    if name is not None:
        return {"$metric": name}
    raise NotPlain({where: value})


def all_from_plain(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values that `all_to_plain` was given; where names the file in an error."""
    return {name: from_plain(value, f"{where}: {name}") for name, value in values.items()}


def from_plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value that `to_plain` was given.

    Raises
    ------
    SavedModelError
        If it is nothing that `to_plain` gives.
    """
    if depth > _MOST_DEEP + 1:
        raise SavedModelError(f"{where} is nested more than {_MOST_DEEP} levels deep.")
    if isinstance(value, list):
        return [from_plain(each, where, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: from_plain(each, where, depth + 1) for key, each in value.items()}
    kind, content = next(iter(value.items()))
    read = _READERS.get(kind)
    if read is None or len(value) > 1:
        raise SavedModelError(
            f"{where} has an entry {_shown(value)} that this version cannot read."
        )
    try:
        return read(content, where, depth + 1)
    except SavedModelError:
        raise
    except Exception as error:  # of types, NumPy, pandas, polars, transformers
        raise SavedModelError(f"{where} is damaged: {_shown(value)}.") from error


def _each(values: Iterable[Any], where: str, depth: int) -> list[Any]:
    """What is in a container, which goes by its name."""
    try:
        return [to_plain(each, where, depth + 1) for each in values]
    except NotPlain as error:
        raise NotPlain({where: next(iter(error.found.values()))}) from None


def _options(spec: Any, where: str, depth: int) -> dict[str, Any]:
    params = spec.get_params(deep=False)
    if isinstance(spec, specs.Backbone):
        params |= _NEVER
    try:
        return all_to_plain(params, f"{where}__", depth + 1)
    except NotPlain as error:
        defaults = inspect.signature(type(spec)).parameters
        for name, value in error.found.items():
            option = name.removeprefix(f"{where}__")
            if option in defaults and defaults[option].default is inspect.Parameter.empty:
                raise NotPlain({where: value}) from None  # it cannot be without
        raise


def _is_same(value: Any, known: Any) -> bool:
    """Whether a value is a function or a scorer of ours, or a copy of one as clone makes it."""
    if value is known:
        return True
    is_scorer = hasattr(known, "_score_func") and type(value) is type(known)
    return is_scorer and vars(value) == vars(known)


def _array(array: np.ndarray, where: str, depth: int) -> dict[str, Any]:
    dtype, kind = array.dtype.str, array.dtype.kind
    flat: list[Any] = array.ravel().tolist()
    if kind == "O":
        dtype, flat = "object", _each(array.ravel(), where, depth)
    elif not _DTYPE.fullmatch(dtype):
        raise NotPlain({where: array})
    elif kind == "f":
        flat = [to_plain(each, where) for each in flat]
    elif kind in "Mm":
        flat = array.ravel().view(np.int64).tolist()
    return {"dtype": dtype, "shape": list(array.shape), "values": flat}


def _read_array(content: Any, where: str, depth: int) -> np.ndarray:
    name, shape, values = (content[key] for key in ("dtype", "shape", "values"))
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    values = [from_plain(each, where, depth) for each in _list(values)]
    if name == "object":
        array = np.empty(len(values), dtype=object)
        for i, each in enumerate(values):  # which NumPy would take apart
            array[i] = each
        return array.reshape(shape)
    if not _DTYPE.fullmatch(name):
        raise ValueError
    dtype = np.dtype(name)
    known = _ENTRIES[dtype.kind]
    if dtype.itemsize * len(values) > _MOST_BYTES or any(
        type(each) not in known for each in values
    ):
        raise ValueError
    if dtype.kind in "Mm":
        return np.array(values, np.int64).view(dtype).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def _read_spec(content: Any, where: str, depth: int) -> Any:
    kind = _SPECS[content["class"]]
    params = {
        name: from_plain(each, f"{where}__{name}", depth)
        for name, each in content["parameters"].items()
    }
    if kind is specs.Backbone:
        params |= _NEVER
    return kind(**params)


def _read_generation(content: Any, where: str, depth: int) -> GenerationConfig:
    settings = from_plain(content, where, depth)
    if not set(settings) <= set(vars(GenerationConfig())):
        raise ValueError
    return GenerationConfig(**settings)


def _read_dict(content: Any, where: str, depth: int) -> dict[Any, Any]:
    pairs = (_list(pair) for pair in _list(content))
    return {from_plain(k, where, depth): from_plain(v, where, depth) for k, v in pairs}


def _read_float(content: Any, where: str, depth: int) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise ValueError
    return float(content)


def _read_device(content: Any, where: str, depth: int) -> torch.device:
    try:
        return torch.device(str(content))
    except RuntimeError as error:
        raise ValueError from error


def _of(kind: Callable[[list[Any]], Any]) -> Callable[[Any, str, int], Any]:
    return lambda content, *there: kind(from_plain(_list(content), *there))


def _list(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError
    return content


_READERS: Mapping[str, Callable[[Any, str, int], Any]] = {
    "$float": _read_float,
    "$tuple": _of(tuple),
    "$set": _of(set),
    "$frozenset": _of(frozenset),
    "$dict": _read_dict,
    "$path": lambda content, *there: Path(content),
    "$decimal": lambda content, *there: Decimal(content),
    "$device": _read_device,
    "$scalar": lambda content, *there: _read_array(content, *there)[()],
    "$array": _read_array,
    "$generation": _read_generation,
    "$spec": _read_spec,
    "$table": lambda content, *there: tables.made(from_plain(content, *there)),
    "$type": lambda content, *there: _TYPES[content],
    "$metric": lambda content, *there: _METRICS[content],
}


def _shown(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 100 else f"{text[:100]}..."
