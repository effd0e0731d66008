"""What the option objects have in common."""

from typing import Any, ClassVar

from sklearn.base import BaseEstimator


class Spec(BaseEstimator):
    """Parameters and what they may be; classes without any inherit this."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {}
