"""A tiny estimator of every class with data for it, each fitted once a process."""

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from conftest import make_texts, save_tiny_bert
from language_models import language_model

import sktransformers
from sktransformers.training import runtime

TEXTS, LABELS = make_texts(24)
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
NUMBERS = np.linspace(0.0, 1.0, len(TEXTS))
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-PER" if len(word) > 5 else "O" for word in words] for words in WORDS]


class Kind(NamedTuple):
    """A class, what it is fitted to, some parameters, and the backbone: None is a tiny BERT."""

    cls: str
    X: Any
    y: Any
    params: dict[str, Any]
    language_model: str | None = None


KINDS = {
    "classifier": Kind("TransformerSequenceClassifier", TEXTS, LABELS, {}),
    "native": Kind("TransformerSequenceClassifier", TEXTS, LABELS, {"head": "native"}),
    "regressor": Kind("TransformerSequenceRegressor", TEXTS, NUMBERS, {}),
    "pair": Kind("PairClassifier", PAIRS, LABELS, {}),
    "bi-encoder": Kind("PairRegressor", PAIRS, NUMBERS, {"interaction": "all"}),
    "tagger": Kind("TokenTagger", WORDS, TAGS, {"crf": True}),
    "native tagger": Kind("TokenTagger", WORDS, TAGS, {"head": "native", "crf": False}),
    "tasks": Kind(
        "MultiTaskSequenceEstimator", TEXTS, pd.DataFrame({"a": LABELS, "b": NUMBERS}), {}
    ),
    "generator": Kind("Text2TextGenerator", TEXTS, LABELS, {"max_target_length": 16}, "t5"),
    "answers": Kind("Text2TextClassifier", TEXTS, LABELS, {"finetune": "full"}, "gpt2"),
    "adapter": Kind("MaskedLMAdapter", TEXTS, None, {}),
}


@functools.cache
def backbone() -> str:
    """Directory of the tiny BERT."""
    return save_tiny_bert(Path(_folder().name) / "bert")


@functools.lru_cache(maxsize=1)
def _folder() -> Any:
    return tempfile.TemporaryDirectory()  # deleted when the process ends


def make(kind: str, **params: Any) -> Any:
    """An estimator that is not fitted."""
    known = KINDS[kind]
    model = backbone() if known.language_model is None else language_model(known.language_model)
    defaults = {
        "backbone": model,
        "lr": 1e-3,
        "max_epochs": 1,
        "batch_size": 8,
        "device": "cpu",
        "random_state": 0,
        **known.params,
    }
    return getattr(sktransformers, known.cls)(**{**defaults, **params})


def fit(kind: str, **params: Any) -> Any:
    """A fitted one of the caller's own."""
    known = KINDS[kind]
    return make(kind, **params).fit(known.X, known.y)


@functools.cache
def fitted(kind: str) -> Any:
    """One that is fitted once a process; copy it before changing it."""
    assert not runtime.cpu_has_bf16_tiles()  # conftest
    return fit(kind)


def outputs(estimator: Any, kind: str, X: Any = None) -> Any:
    """What an estimator makes of rows, by default of those of training, in one array."""
    X = KINDS[kind].X if X is None else X
    if hasattr(estimator, "perplexity"):
        return np.array([estimator.perplexity(X)])
    method = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    found = getattr(estimator, method)(X)
    if isinstance(found, (list, tuple)) or np.asarray(found).dtype.kind == "O":
        return np.concatenate([np.ravel(np.asarray(each)) for each in found])
    return np.asarray(found)
