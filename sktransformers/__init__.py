"""Fine-tuning a transformer is one scikit-learn estimator."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the names below resolve to, for editors and type checkers
    import sktransformers.datasets as datasets  # noqa: F401
    import sktransformers.metrics as metrics  # noqa: F401
    import sktransformers.plotting as plotting  # noqa: F401
    from sktransformers.pair import PairClassifier as PairClassifier
    from sktransformers.pair import PairRegressor as PairRegressor
    from sktransformers.sequence import (
        TransformerSequenceClassifier as TransformerSequenceClassifier,
    )
    from sktransformers.specs import CRF as CRF
    from sktransformers.specs import AdamW as AdamW
    from sktransformers.specs import Backbone as Backbone
    from sktransformers.specs import Linear as Linear
    from sktransformers.specs import MLPHead as MLPHead
    from sktransformers.specs import Windows as Windows
    from sktransformers.tagging import TokenTagger as TokenTagger
    from sktransformers.training.callbacks import BatchHistory as BatchHistory

__version__ = "0.1.0.dev0"

# Public name -> module that holds it. Importing the package alone must not import torch.
_NAMES = {
    "AdamW": "sktransformers.specs",
    "Backbone": "sktransformers.specs",
    "BatchHistory": "sktransformers.training.callbacks",
    "CRF": "sktransformers.specs",
    "Linear": "sktransformers.specs",
    "MLPHead": "sktransformers.specs",
    "PairClassifier": "sktransformers.pair",
    "PairRegressor": "sktransformers.pair",
    "TokenTagger": "sktransformers.tagging",
    "Windows": "sktransformers.specs",
    "TransformerSequenceClassifier": "sktransformers.sequence",
}
_MODULES = ("datasets", "metrics", "plotting")

__all__ = ["__version__", *sorted(_NAMES), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"sktransformers.{name}")
    raise AttributeError(f"module 'sktransformers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
