"""Our own layout behind the Auto classes and pipelines of the transformers library."""

import importlib

import numpy as np
import pytest
import torch
from conftest import save_backbone
from families import FAMILIES
from numpy.testing import assert_allclose
from odd_labels import LABELS, LITTLE, NEW, PAIRS, TAGS, TEXTS, WORDS
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

import sktransformers
import sktransformers.hf
from sktransformers import (
    AdaptiveSoftmax,
    Linear,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)

SPANS = [["B-X" if "ã" in word else "O" for word in words] for words in WORDS]
SEQUENCES = {
    "mean and linear": {},
    "native": {"head": "native"},
    "attention and hidden layers": {
        "pooling": "attention",
        "head": MLPHead((8, 8), batch_norm=True),
    },
    "max, without bias": {"pooling": "max", "head": Linear(bias=False)},
    "adaptive softmax": {"loss": AdaptiveSoftmax(cutoffs=[2], div_value=2.0)},
    "windows": {"long_text": "window", "max_length": 16},
}
TAGGERS = {
    "first": {},
    "last": {"subword": "last"},
    "attention": {"self_attention": True, "head": MLPHead((8,))},
    "native, last": {"head": "native", "subword": "last"},
}


def saved(estimator, X, y, folder):
    """A fitted estimator, written in our own layout."""
    estimator.fit(X, y).save_pretrained(folder, format="sktransformers")
    return estimator


def padded(path, texts, side):
    """Texts as tensors with padding on one side."""
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side=side)
    return tokenizer(texts, padding=True, return_tensors="pt")


@pytest.mark.parametrize("name", SEQUENCES)
def test_texts(name, tiny_backbone, tmp_path):
    clf = TransformerSequenceClassifier(tiny_backbone, **{**LITTLE, **SEQUENCES[name]})
    expected = saved(clf, TEXTS, LABELS, tmp_path).predict_proba(NEW)
    found = pipeline("text-classification", model=str(tmp_path), device="cpu")(NEW, top_k=None)
    by_label = [{x["label"]: x["score"] for x in row} for row in found]
    found = [[row[label] for label in clf.classes_] for row in by_label]
    assert_allclose(found, expected, rtol=0, atol=1e-6)
    for auto in (AutoModelForSequenceClassification, AutoModel):
        model = auto.from_pretrained(tmp_path)
        for side in ("left", "right"):
            with torch.no_grad():
                logits = model(**padded(tmp_path, NEW, side)).logits
            assert_allclose(logits.softmax(dim=1), expected, rtol=0, atol=1e-6)
    again = sktransformers.load(tmp_path)
    assert_allclose(again.predict_proba(NEW), expected, rtol=0, atol=1e-7)


def test_numbers_are_standardised(tiny_backbone, tmp_path):
    reg = TransformerSequenceRegressor(tiny_backbone, **LITTLE)
    expected = saved(reg, TEXTS, np.arange(12.0), tmp_path).predict(NEW)
    found = pipeline("text-classification", model=str(tmp_path), device="cpu")(NEW)
    numbers = np.array([row["score"] for row in found])
    assert_allclose(numbers * reg.target_scale_ + reg.target_mean_, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TAGGERS)
def test_words(name, tiny_backbone, tmp_path):
    tagger = saved(
        TokenTagger(tiny_backbone, crf=False, **LITTLE).set_params(**TAGGERS[name]),
        WORDS,
        TAGS,
        tmp_path,
    )
    words = [text.split() for text in NEW]
    expected = tagger.predict_proba(words)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        given = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**given).logits
        for i, rows in enumerate(expected):
            place = {}
            for token, word in enumerate(given.word_ids(i)):
                if tagger.subword == "last" or word not in place:
                    place[word] = token
            chosen = logits[i, [place[word] for word in range(len(rows))]].softmax(dim=1)
            assert_allclose(chosen, rows, rtol=0, atol=1e-6)
    tag = pipeline("token-classification", model=str(tmp_path), ignore_labels=[], device="cpu")
    assert {x["entity"] for x in tag(NEW[1])} <= {"pão", "O"}


def test_a_decoder_with_padding(tmp_path, tmp_path_factory):
    tokenizer = FAMILIES["gpt2"].tokenizer()
    backbone = save_backbone(
        tmp_path_factory.mktemp("gpt2"), FAMILIES["gpt2"].config(len(tokenizer)), tokenizer
    )
    clf = TransformerSequenceClassifier(backbone, **LITTLE)
    expected = saved(clf, TEXTS, LABELS, tmp_path).predict_proba(NEW)
    found = pipeline("text-classification", model=str(tmp_path), device="cpu")(NEW, top_k=None)
    found = [[{x["label"]: x["score"] for x in row}[y] for y in clf.classes_] for row in found]
    assert_allclose(found, expected, rtol=0, atol=1e-6)


def _multitask(backbone):
    y = [[label, float(i)] for i, label in enumerate(LABELS)]
    return MultiTaskSequenceEstimator(backbone, **LITTLE), TEXTS, y


ERRORS = {
    "a CRF": (
        lambda b: (TokenTagger(b, **LITTLE), WORDS, SPANS),
        AutoModelForTokenClassification,
        r"A CRF \(head, crf\) scores",
    ),
    "means of pieces": (
        lambda b: (TokenTagger(b, subword="mean", **LITTLE), WORDS, TAGS),
        AutoModelForTokenClassification,
        "subword='mean' joins the tokens of a word",
    ),
    "two texts": (
        lambda b: (PairClassifier(b, interaction="all", **LITTLE), PAIRS, LABELS),
        AutoModelForSequenceClassification,
        "interaction='all' reads the two texts of a pair by themselves",
    ),
    "both orders": (
        lambda b: (PairClassifier(b, symmetric=True, **LITTLE), PAIRS, LABELS),
        AutoModelForSequenceClassification,
        "symmetric=True reads both orders",
    ),
    "both orders, native": (
        lambda b: (PairClassifier(b, symmetric=True, head="native", **LITTLE), PAIRS, LABELS),
        AutoModelForSequenceClassification,
        "symmetric=True reads both orders",
    ),
    "several tasks": (
        _multitask,
        AutoModelForSequenceClassification,
        "A row has an answer to each of 2 tasks",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_more_than_one_pass(name, tiny_backbone, tmp_path):
    make, auto, message = ERRORS[name]
    estimator, X, y = make(tiny_backbone)
    saved(estimator, X, y, tmp_path)
    model = auto.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*sktransformers.load"):
        model(**padded(tmp_path, NEW, "right"))
    assert len(sktransformers.load(tmp_path).predict(X)) == len(X)


def test_too_long(tiny_backbone, tmp_path):
    clf = TransformerSequenceClassifier(tiny_backbone, long_text="window", **LITTLE)
    saved(clf, TEXTS, LABELS, tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    long = " ".join(["fish"] * 100)
    with pytest.raises(ValueError, match="102 tokens, of which the backbone reads 64, must be cut"):
        classify(long)
    cut = " ".join(["fish"] * (clf.max_length_ - 2))
    found = classify(long, truncation=True)[0]["score"]
    assert found == pytest.approx(clf.predict_proba([cut]).max(), abs=1e-6)


@pytest.mark.parametrize("head", ["linear", "native"])
def test_no_loss(head, tiny_backbone, tmp_path):
    saved(
        TransformerSequenceClassifier(tiny_backbone, head=head, **LITTLE), TEXTS, LABELS, tmp_path
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="labels"):  # or it would be None
        model(**padded(tmp_path, NEW, "right"), labels=torch.zeros(len(NEW), dtype=torch.long))


def test_once_more():
    before = type(AutoConfig.for_model("sktransformers-sequence"))
    importlib.reload(sktransformers.hf)
    assert type(AutoConfig.for_model("sktransformers-sequence")) is before
