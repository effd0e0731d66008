"""Option objects: what a string parameter of an estimator stands for, with its options.

They are small scikit-learn estimators without ``fit``: ``get_params``, ``set_params``
and ``clone`` work, so ``GridSearchCV`` reaches their options through ``clf__optimizer__eps``
or ``clf__head__dropout``. They hold parameters; ``fit`` checks them.
"""

from sktransformers.specs.backbone import DEFAULT_BACKBONE, Backbone
from sktransformers.specs.cache import Cache, as_cache
from sktransformers.specs.checkpoint import Checkpoint, as_checkpoint
from sktransformers.specs.heads import CRF, Linear, MLPHead, NativeHead
from sktransformers.specs.losses import (
    AdaptiveSoftmax,
    BinaryCrossEntropy,
    CrossEntropy,
    FocalLoss,
    HuberLoss,
    SampledSoftmax,
    SquaredError,
    TreeSoftmax,
)
from sktransformers.specs.optimizers import (
    EMA,
    SGD,
    SWA,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    RAdam,
    TorchOptimizer,
)
from sktransformers.specs.replay import Replay
from sktransformers.specs.schedules import (
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSquareRoot,
    LinearDecay,
    Polynomial,
    ReduceOnPlateau,
    Steps,
    WarmupStableDecay,
)
from sktransformers.specs.spec import Spec
from sktransformers.specs.strategies import BitFit, GradualUnfreezing, LoRA
from sktransformers.specs.windows import Windows

__all__ = [
    "DEFAULT_BACKBONE",
    "HEADS",
    "OPTIMIZERS",
    "SCHEDULES",
    "AVERAGES",
    "CLASS_LOSSES",
    "NUMBER_LOSSES",
    "TAG_LOSSES",
    "WINDOWS",
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
    "Spec",
    "SquaredError",
    "Steps",
    "TorchOptimizer",
    "TreeSoftmax",
    "WarmupStableDecay",
    "Windows",
    "as_cache",
    "as_checkpoint",
    "named",
]

HEADS = {"linear": Linear, "native": NativeHead}
OPTIMIZERS = {
    "adamw": AdamW,
    "adam": Adam,
    "radam": RAdam,
    "sgd": SGD,
    "adagrad": Adagrad,
    "adafactor": Adafactor,
}
SCHEDULES = {
    "linear": LinearDecay,
    "cosine": Cosine,
    "constant": Constant,
    "polynomial": Polynomial,
    "exponential": Exponential,
    "step": Steps,
    "cyclical": Cyclical,
    "inverse_square_root": InverseSquareRoot,
    "warmup_stable_decay": WarmupStableDecay,
    "reduce_on_plateau": ReduceOnPlateau,
}
AVERAGES = {"ema": EMA, "swa": SWA}
TAG_LOSSES = {"cross_entropy": CrossEntropy, "focal": FocalLoss}
CLASS_LOSSES = {
    **TAG_LOSSES,
    "binary_cross_entropy": BinaryCrossEntropy,
    "adaptive_softmax": AdaptiveSoftmax,
    "tree_softmax": TreeSoftmax,
    "sampled_softmax": SampledSoftmax,
}
WINDOWS = {"window": Windows}
NUMBER_LOSSES = {"squared_error": SquaredError, "huber": HuberLoss}


def named(option, names):
    """The option object that a string stands for among names; objects as they are."""
    return names[option]() if isinstance(option, str) else option
