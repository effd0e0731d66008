"""The models of this package for the Auto classes and pipelines of the transformers library.

Importing this module registers them, so that what ``save_pretrained`` wrote in our own layout is
read by ``AutoModelForSequenceClassification`` or ``AutoModelForTokenClassification``, and by
``pipeline("text-classification")`` or ``pipeline("token-classification")``. Directories in the
layout of the transformers library need no import.

What is more than one forward pass a row (bi-encoders, both orders of a pair, a CRF, several tasks,
windows) raises a ``ValueError`` in ``forward``; `sktransformers.load` reads these.

Examples
--------
>>> import sktransformers.hf
>>> from transformers import pipeline
>>> pipeline("text-classification", model="my-model")("a lovely film")  # doctest: +SKIP
[{'label': 'good', 'score': 0.98}]
"""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from sktransformers.modules.model import PairModel, SequenceModel, TaggingModel
from sktransformers.modules.multitask import MultiTaskModel
from sktransformers.modules.native import NativeSequenceModel, NativeTaggingModel

_MODELS: dict[Any, tuple[Any, ...]] = {
    AutoModelForSequenceClassification: (
        SequenceModel,
        PairModel,
        MultiTaskModel,
        NativeSequenceModel,
    ),
    AutoModelForTokenClassification: (TaggingModel, NativeTaggingModel),
}

for _auto, _models in _MODELS.items():
    for _model in _models:
        _config = _model.config_class
        AutoConfig.register(_config.model_type, _config, exist_ok=True)
        AutoModel.register(_config, _model, exist_ok=True)
        _auto.register(_config, _model, exist_ok=True)
