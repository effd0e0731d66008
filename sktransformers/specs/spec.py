"""What the option objects have in common."""

import textwrap
from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.base import BaseEstimator

# Of rates and weights of terms: what any floating-point type holds. Infinity is none.
LARGEST = 65504.0


class Spec(BaseEstimator):
    """Parameters and what they may be; classes without any inherit this."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {}


def shared_parameters(passage: str) -> Callable[[type], type]:
    """Decorator that puts a passage where the docstring of a class says ``{shared}``."""
    indented = textwrap.indent(passage.strip("\n"), "    ")

    def fill(cls: type) -> type:
        cls.__doc__ = (cls.__doc__ or "").replace("    {shared}", indented)
        return cls

    return fill
