"""Every strategy with every head for every task: it trains, or says what cannot go together."""

import warnings

import numpy as np
import pytest
from conftest import make_texts

from sktransformers import (
    CRF,
    BitFit,
    CrossEntropy,
    FocalLoss,
    GradualUnfreezing,
    LoRA,
    MLPHead,
    PairClassifier,
    PairRegressor,
    TokenTagger,
    TransformerSequenceClassifier,
)

pytest.importorskip("peft")

TEXTS, LABELS = make_texts(12)
PAIRS = list(zip(TEXTS, reversed(TEXTS)))
SENTENCES = [text.split() for text in TEXTS]
TAGS = [["B-X", *["I-X"] * (len(words) - 1)] for words in SENTENCES]
NUMBERS = [float(len(text)) for text in TEXTS]
INDICATORS = np.array([[label == "sea", len(text) > 20] for text, label in zip(TEXTS, LABELS)]) * 1
SOFT = np.full((12, 2), 0.3) + 0.4 * np.eye(2)[np.arange(12) % 2]

FINETUNE = {
    "full": "full",
    "head": "head",
    "top": 1,
    "gradual": GradualUnfreezing(),
    "lora": LoRA(r=2),
    "bitfit": BitFit(),
}
HEADS = {
    "linear": "linear",
    "mlp": MLPHead((8,), layer_norm=True),
    "batch norm": MLPHead((8, 6), batch_norm=True),
    "native": "native",
    "crf": CRF(),
}
TASKS = {
    "labels": (TransformerSequenceClassifier, {}, TEXTS, LABELS),
    "focal": (TransformerSequenceClassifier, {"loss": FocalLoss()}, TEXTS, LABELS),
    "indicators": (TransformerSequenceClassifier, {}, TEXTS, INDICATORS),
    "soft": (TransformerSequenceClassifier, {"loss": CrossEntropy(classes=[0, 1])}, TEXTS, SOFT),
    "pairs, cross": (PairClassifier, {"interaction": "cross"}, PAIRS, LABELS),
    "pairs, all": (PairClassifier, {"interaction": "all"}, PAIRS, LABELS),
    "numbers, cross": (PairRegressor, {"interaction": "cross"}, PAIRS, NUMBERS),
    "numbers, all": (PairRegressor, {"interaction": "all"}, PAIRS, NUMBERS),
    "tags": (TokenTagger, {}, SENTENCES, TAGS),
}
# What is not defined, and the two parameters that the message has to name.
UNDEFINED = {
    ("native", "pairs, all"): ("head", "interaction"),
    ("native", "numbers, all"): ("head", "interaction"),
    **{("crf", task): ("head", "") for task in TASKS if task != "tags"},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("finetune", FINETUNE)
def test_strategy_head_task(tiny_backbone, finetune, head, task):
    cls, params, X, y = TASKS[task]
    est = cls(
        tiny_backbone,
        finetune=FINETUNE[finetune],
        head=HEADS[head],
        max_epochs=2 if finetune == "gradual" else 1,
        batch_size=5,
        lr=1e-3,
        device="cpu",
        random_state=0,
        **params,
    )
    if (head, task) in UNDEFINED:
        first, second = UNDEFINED[head, task]
        with pytest.raises(ValueError) as caught:
            est.fit(X, y)
        assert first in str(caught.value) and second in str(caught.value)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.fit(X, y)
    assert len(est.predict(X)) == len(X)
    losses = [row["train_loss"] for row in est.history_]
    assert np.isfinite(losses).all()
    assert 0 < est.n_trained_parameters_ <= est.n_parameters_
    if finetune == "full":
        assert est.n_trained_parameters_ == est.n_parameters_


@pytest.mark.parametrize("loss", ["focal", CrossEntropy(label_smoothing=0.1)], ids=str)
def test_a_crf_has_its_own_loss(tiny_backbone, loss):
    tagger = TokenTagger(tiny_backbone, crf=True, loss=loss, device="cpu")
    with pytest.raises(ValueError, match=r"(?s)loss.*crf|crf.*loss"):
        tagger.fit(SENTENCES, TAGS)
