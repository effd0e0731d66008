"""Which parameters of an estimator are saved, and which are left out on request."""

import copy
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# Of the machine that trained: never saved.
OF_THE_MACHINE = ("checkpoint", "memory")


def names_of(drop: Any) -> list[str]:
    """The parameter ``drop`` of ``save_pretrained`` as a list.

    Raises
    ------
    TypeError
        If it is no list of str.
    """
    names = [drop] if isinstance(drop, str) else drop
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"drop={drop!r} must be a list of names of parameters.")
    return list(names)


def kept(estimator: Any, drop: Collection[str]) -> dict[str, Any]:
    """Parameters that are saved; options that are left out have their defaults.

    Parameters
    ----------
    estimator : BaseEstimator
        Its own option objects stay as they are.
    drop : collection of str
        What is left out, options separated as in ``set_params``.

    Raises
    ------
    ValueError
        If there is no such parameter or option, or it has no default.
    """
    known = estimator.get_params(deep=False)
    params = {name: value for name, value in known.items() if name not in OF_THE_MACHINE}
    for name in drop:
        first, _, rest = name.partition("__")
        if first not in known:
            raise ValueError(
                f"drop={list(drop)!r} names {name!r}, which is no parameter of "
                f"{type(estimator).__name__}."
            )
        if rest and first in params:
            params[first] = _with_default(params[first], rest, name)
    return {name: value for name, value in params.items() if name not in drop}


def covers(params: Mapping[str, Any], name: str) -> bool:
    """Whether parameters say what a name stands for, or what it is an option of."""
    parts = name.split("__")
    return any("__".join(parts[:n]) in params for n in range(1, len(parts) + 1))


def _with_default(value: Any, name: str, whole: str) -> Any:
    """A copy of an option object with the default of one of its options."""
    first, _, rest = name.partition("__")
    options = value.get_params(deep=False) if hasattr(value, "get_params") else {}
    if first not in options:
        raise ValueError(f"drop names {whole!r}, but {value!r} has no option {first!r}.")
    if rest:
        option = _with_default(options[first], rest, whole)
    else:
        option = inspect.signature(type(value)).parameters[first].default
    if option is inspect.Parameter.empty:
        raise ValueError(f"drop names {whole!r}, but {first!r} has no default: drop what has it.")
    new = copy.copy(value)
    setattr(new, first, option)
    return new
