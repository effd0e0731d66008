"""What a search over a fitted estimator sends to its workers: what was fitted stays behind.

scikit-learn clones the estimator for each of its tasks, but sends the search itself along (1.9), or
a scorer that only says whose ``score`` it calls: both hold the fitted estimator, with its weights.
"""

from functools import partial
from typing import Any

from joblib.externals.loky.backend.reduction import register
from sklearn.base import clone
from sklearn.metrics._scorer import _PassthroughScorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.model_selection._search_successive_halving import (
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
)

# Attribute that holds the estimator.
_HOLDERS = {
    GridSearchCV: "estimator",
    RandomizedSearchCV: "estimator",
    HalvingGridSearchCV: "estimator",
    HalvingRandomSearchCV: "estimator",
    _PassthroughScorer: "_estimator",
}


def send_unfitted(kind: type) -> None:
    """Have joblib's processes get fitted estimators of a type, in searches, as `clone` gives them.

    What a search has found, such as ``best_estimator_``, is sent as it is; and pickles and copies
    that others make of a search are as ever.
    """
    for holder, name in _HOLDERS.items():
        register(holder, partial(_reduced, kind, name))


def _reduced(kind: type, name: str, holder: Any) -> tuple[Any, ...]:
    make, given, state, *rest = holder.__reduce_ex__(4)
    held = state[name]
    parts = held.get_params().values() if hasattr(held, "get_params") else ()
    if any(isinstance(part, kind) and "model_" in vars(part) for part in (held, *parts)):
        state = {**state, name: clone(held)}
    return make, given, state, *rest
