"""Fine-tuning a transformer is one scikit-learn estimator."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the names below resolve to, for editors and type checkers
    import sktransformers.datasets as datasets  # noqa: F401
    import sktransformers.metrics as metrics  # noqa: F401
    import sktransformers.plotting as plotting  # noqa: F401
    from sktransformers.adaptation import MaskedLMAdapter as MaskedLMAdapter
    from sktransformers.augmentation import (
        BackTranslation as BackTranslation,
        MaskedReplacement as MaskedReplacement,
        RandomDeletion as RandomDeletion,
        RandomInsertion as RandomInsertion,
        RandomSwap as RandomSwap,
        SynonymReplacement as SynonymReplacement,
    )
    from sktransformers.multitask import MultiTaskSequenceEstimator as MultiTaskSequenceEstimator
    from sktransformers.pair import PairClassifier as PairClassifier, PairRegressor as PairRegressor
    from sktransformers.persistence.errors import SavedModelError as SavedModelError
    from sktransformers.prompting import Text2TextClassifier as Text2TextClassifier
    from sktransformers.saved import load as load
    from sktransformers.sequence import (
        TransformerSequenceClassifier as TransformerSequenceClassifier,
        TransformerSequenceRegressor as TransformerSequenceRegressor,
    )
    from sktransformers.specs import (
        CRF as CRF,
        EMA as EMA,
        SGD as SGD,
        SWA as SWA,
        Adafactor as Adafactor,
        Adagrad as Adagrad,
        Adam as Adam,
        AdamW as AdamW,
        AdaptiveSoftmax as AdaptiveSoftmax,
        Backbone as Backbone,
        BinaryCrossEntropy as BinaryCrossEntropy,
        BitFit as BitFit,
        Cache as Cache,
        Checkpoint as Checkpoint,
        Constant as Constant,
        Cosine as Cosine,
        CrossEntropy as CrossEntropy,
        Cyclical as Cyclical,
        Exponential as Exponential,
        FocalLoss as FocalLoss,
        GradualUnfreezing as GradualUnfreezing,
        HuberLoss as HuberLoss,
        InverseSquareRoot as InverseSquareRoot,
        Linear as Linear,
        LinearDecay as LinearDecay,
        LoRA as LoRA,
        MLPHead as MLPHead,
        NativeHead as NativeHead,
        Polynomial as Polynomial,
        RAdam as RAdam,
        ReduceOnPlateau as ReduceOnPlateau,
        Replay as Replay,
        SampledSoftmax as SampledSoftmax,
        SquaredError as SquaredError,
        Steps as Steps,
        TorchOptimizer as TorchOptimizer,
        TreeSoftmax as TreeSoftmax,
        WarmupStableDecay as WarmupStableDecay,
        Windows as Windows,
    )
    from sktransformers.tagging import TokenTagger as TokenTagger
    from sktransformers.text2text import Text2TextGenerator as Text2TextGenerator
    from sktransformers.training.callbacks import BatchHistory as BatchHistory

__version__ = "0.1.0.dev0"

# Public name -> module that holds it. Importing the package alone must not import torch.
_NAMES = {
    "BatchHistory": "sktransformers.training.callbacks",
    "MaskedLMAdapter": "sktransformers.adaptation",
    "MultiTaskSequenceEstimator": "sktransformers.multitask",
    "PairClassifier": "sktransformers.pair",
    "PairRegressor": "sktransformers.pair",
    "SavedModelError": "sktransformers.persistence.errors",
    "Text2TextClassifier": "sktransformers.prompting",
    "Text2TextGenerator": "sktransformers.text2text",
    "TokenTagger": "sktransformers.tagging",
    "TransformerSequenceClassifier": "sktransformers.sequence",
    "TransformerSequenceRegressor": "sktransformers.sequence",
    "load": "sktransformers.saved",
}
_NAMES |= dict.fromkeys(
    (
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "AdaptiveSoftmax",
        "Backbone",
        "BinaryCrossEntropy",
        "BitFit",
        "CRF",
        "Cache",
        "Checkpoint",
        "Constant",
        "Cosine",
        "CrossEntropy",
        "Cyclical",
        "EMA",
        "Exponential",
        "FocalLoss",
        "GradualUnfreezing",
        "HuberLoss",
        "InverseSquareRoot",
        "Linear",
        "LinearDecay",
        "LoRA",
        "MLPHead",
        "NativeHead",
        "Polynomial",
        "RAdam",
        "ReduceOnPlateau",
        "Replay",
        "SGD",
        "SWA",
        "SampledSoftmax",
        "SquaredError",
        "Steps",
        "TorchOptimizer",
        "TreeSoftmax",
        "WarmupStableDecay",
        "Windows",
    ),
    "sktransformers.specs",
)
_NAMES |= dict.fromkeys(
    (
        "BackTranslation",
        "MaskedReplacement",
        "RandomDeletion",
        "RandomInsertion",
        "RandomSwap",
        "SynonymReplacement",
    ),
    "sktransformers.augmentation",
)
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
