"""Pairs of texts: what is computed, by hand too, and what scikit-learn does with it."""

import copy
import pickle
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from conftest import FILLERS, NO_DROPOUT, WORDS, make_tokenizer, save_backbone, save_tiny_bert
from families import FAMILIES
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from tokenizers import processors
from torch import nn
from transformers import AutoModel

from sktransformers import CRF, Backbone, Linear, MLPHead, PairClassifier, PairRegressor, Windows
from sktransformers.metrics import pearson_scorer, spearman_scorer
from sktransformers.modules.interaction import WIDTHS
from sktransformers.training import loading
from sktransformers.training.probe import logistic_probe, ridge_probe

INTERACTIONS = ("cross", *WIDTHS)
APART = tuple(WIDTHS)
ESTIMATORS = (PairClassifier, PairRegressor)


def make_pairs(n, seed=0):
    """n pairs, and whether both texts of each are of the same topic."""
    rng = np.random.default_rng(seed)
    topics = list(WORDS)
    pairs, labels = [], []
    for i in range(n):
        first = rng.integers(3)
        second = first if i % 2 else (first + rng.integers(1, 3)) % 3
        texts = []
        for topic in (first, second):
            words = list(rng.choice(WORDS[topics[topic]], rng.integers(1, 4)))
            words += list(rng.choice(FILLERS, rng.integers(0, 4)))
            texts.append(" ".join(rng.permutation(words)))
        pairs.append((texts[0], texts[1]))
        labels.append("same" if i % 2 else "other")
    return pairs, labels


X, Y = make_pairs(40)
NUMBERS = np.array([3.0 if label == "same" else 1.0 for label in Y]) + np.arange(40) / 100
# Of very different lengths, with empty texts and texts that are there several times.
MIXED = [("", ""), ("fish", ""), ("", "the fish"), *X[:12], X[3], (X[0][0], X[5][1])]
MIXED += [("bread " * 20, "wave"), ("wave", "bread " * 20), ("fish", "fish")]


def flip(pairs):
    return [(b, a) for a, b in pairs]


@pytest.fixture(scope="session")
def make_pair(tiny_backbone):
    """A function that makes an estimator of pairs on the tiny backbone, with some defaults."""

    def make(cls=PairClassifier, **params):
        defaults = {
            "backbone": tiny_backbone,
            "pooling": "mean",
            "lr": 1e-3,
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
        }
        return cls(**{**defaults, **params})

    return make


@pytest.fixture(scope="session")
def untrained(make_pair):
    """A function that makes an estimator whose head, and all but the backbone, is random."""
    known = {}

    def make(cls=PairClassifier, **params):
        key = repr((cls, sorted(params.items(), key=lambda item: item[0])))
        if key not in known:
            est = make_pair(cls, max_epochs=1, lr=1e-12, head_init="random", **params)
            est.fit(X[:8], Y[:8] if cls is PairClassifier else NUMBERS[:8])
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, parameter in est.model_.named_parameters():
                    if not name.startswith("backbone."):
                        parameter.normal_(std=0.3, generator=generator)
            known[key] = est
        return known[key]

    return make


@pytest.fixture(scope="session", params=INTERACTIONS)
def learnt(request, make_pair):
    """A classifier that has learnt which texts go together; copy it before changing it."""
    return make_pair(interaction=request.param, lr=5e-3, max_epochs=10).fit(X, Y)


@pytest.fixture(scope="session")
def fitted(make_pair):
    """A classifier of pairs; copy it before changing it."""
    return make_pair().fit(X, Y)


@pytest.fixture(scope="session")
def exact(tmp_path_factory):
    """Parameters that leave nothing to chance but the head's start, in float64."""
    directory = tmp_path_factory.mktemp("no-dropout")
    save_tiny_bert(directory, num_hidden_layers=1, intermediate_size=32, **NO_DROPOUT)
    return {
        "backbone": Backbone(str(directory), dtype="float64"),
        "head": Linear(dropout=0.0),
        "head_init": "random",
        "batch_size": 1000,
        "max_epochs": 4,
        "lr": 1e-2,
        "warmup": 0.0,
    }


class Watch:
    """Keyword arguments of every call of a model's backbone."""

    def __init__(self, model):
        self.calls = []
        self.hook = model.backbone.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.calls.append(kwargs)

    def __deepcopy__(self, memo):  # a model that is trained further takes its hooks along
        return self

    @property
    def n_sequences(self):
        return sum(len(call["input_ids"]) for call in self.calls)


# ------------------------------------------------------------------------- what is learnt


def test_learns_pairs(learnt):
    assert learnt.score(X, Y) >= 0.85
    assert learnt.history_[-1]["train_loss"] < 0.65 < learnt.history_[0]["train_loss"]
    assert learnt.n_iter_ == len(learnt.history_) == 10


def test_outputs(learnt):
    proba = learnt.predict_proba(X)
    assert proba.shape == (40, 2) and proba.dtype == np.float64
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    assert learnt.classes_.tolist() == ["other", "same"]
    scores = learnt.decision_function(X)
    assert scores.shape == (40,) and 0 < (scores > 0).sum() < 40
    assert_allclose(expit(scores), proba[:, 1], rtol=1e-9)
    assert_allclose(np.exp(learnt.predict_log_proba(X)), proba, rtol=1e-9)
    predicted = learnt.predict(X)
    assert_array_equal(predicted == "same", scores > 0)
    assert predicted.dtype == learnt.classes_.dtype
    with warnings.catch_warnings(action="error"):
        log_loss(Y, proba)


def test_three_classes(make_pair):
    y = [i % 3 for i in range(40)]
    clf = make_pair(max_epochs=1).fit(X, y)
    assert clf.decision_function(X).shape == clf.predict_proba(X).shape == (40, 3)
    assert clf.predict(X).dtype == np.int64


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_symmetric_learns(interaction, make_pair):
    head = Linear(activation="relu" if interaction == "difference" else None)
    clf = make_pair(interaction=interaction, symmetric=True, head=head, lr=5e-3, max_epochs=10)
    clf.fit(X, Y)
    assert clf.score(X, Y) >= 0.8
    assert_allclose(clf.predict_proba(flip(MIXED)), clf.predict_proba(MIXED), rtol=0, atol=1e-6)


def test_most_interactions_are_not_symmetric(learnt):
    distance = np.abs(learnt.predict_proba(flip(X)) - learnt.predict_proba(X)).max()
    if learnt.interaction == "product":
        assert distance < 1e-6
    else:
        assert distance > 1e-2


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_symmetric_is_the_mean_of_both_orders(interaction, untrained):
    params = {"interaction": interaction, "head": MLPHead((8,))}
    plain = untrained(**params)
    both = untrained(symmetric=True, **params)
    for name, weight in plain.model_.state_dict().items():
        torch.testing.assert_close(both.model_.state_dict()[name], weight, rtol=0, atol=1e-9)
    there, back = plain.decision_function(MIXED), plain.decision_function(flip(MIXED))
    found = both.decision_function(MIXED)
    assert_allclose(found, (there + back) / 2, rtol=1e-4, atol=1e-4)
    assert_allclose(both.decision_function(flip(MIXED)), found, rtol=1e-5, atol=1e-5)
    assert np.ptp(found) > 0.1
    if interaction != "product":
        assert np.abs(there - back).max() > 0.1


# --------------------------------------------------------------- one by one or all at once


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_predictions_do_not_depend_on_the_batch(interaction, symmetric, untrained):
    clf = untrained(interaction=interaction, symmetric=symmetric, head=MLPHead((8,)))
    together = clf.decision_function(MIXED)
    assert np.ptp(together) > 0.1  # else this test could not fail
    alone = np.concatenate([clf.decision_function([pair]) for pair in MIXED])
    assert_allclose(alone, together, rtol=0, atol=1e-4)
    assert_allclose(clf.decision_function(MIXED[::-1])[::-1], together, rtol=0, atol=1e-4)
    for budget in (1, 60):
        small = copy.copy(clf).set_params(max_batch_tokens=budget)
        assert_allclose(small.decision_function(MIXED), together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_training_does_not_depend_on_the_token_budget(interaction, exact, make_pair):
    first, second = (
        make_pair(**{**exact, "max_epochs": 2}, interaction=interaction, max_batch_tokens=budget)
        .fit(MIXED, ["a", "b"] * 10)
        .predict_proba(MIXED)
        for budget in (4096, 50)
    )
    assert_allclose(first, second, rtol=1e-7)


REPEATED = [(a, b) for a, _ in X[:5] for _, b in X[:5]]
N_TEXTS = len({text for pair in REPEATED for text in pair})


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_each_text_is_read_once(interaction, symmetric, untrained):
    clf = copy.deepcopy(
        untrained(interaction=interaction, symmetric=symmetric, head=MLPHead((8,)))
    )
    assert N_TEXTS == 10 and len(REPEATED) == 25
    expected = N_TEXTS if interaction != "cross" else 50 if symmetric else 25
    watch = Watch(clf.model_)
    clf.predict(REPEATED)
    assert watch.n_sequences == expected
    # In training too, as far as a batch goes.
    watch.calls.clear()
    clf.set_params(warm_start=True, batch_size=25).fit(REPEATED, Y[:25])
    assert watch.n_sequences == expected
    watch.hook.remove()


def test_texts_of_many_chunks_are_read_once(monkeypatch, untrained):
    clf = copy.deepcopy(untrained(interaction="all"))
    expected = clf.decision_function(REPEATED)
    monkeypatch.setattr("sktransformers.estimator._PREDICT_CHUNK", 4)
    watch = Watch(clf.model_)
    assert_allclose(clf.decision_function(REPEATED), expected, rtol=0, atol=1e-4)
    assert watch.n_sequences == N_TEXTS


# -------------------------------------------------------------------- parity, by hand


def with_pairs(tokenizer):
    """RoBERTa's way to join two texts."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>")}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=list(ids.items())
    )
    return tokenizer


@pytest.fixture(scope="session")
def family_backbone(tmp_path_factory):
    """A function of a family's name that gives the directory of a tiny backbone."""
    known = {}

    def directory(name):
        if name not in known:
            family = FAMILIES[name]
            tokenizer = family.tokenizer()
            if name == "roberta":
                tokenizer = with_pairs(tokenizer)
            path = tmp_path_factory.mktemp(f"pairs-{name}")
            known[name] = save_backbone(path, family.config(len(tokenizer)), tokenizer)
        return known[name]

    return directory


def hidden_states(directory, tokenizer, *texts):
    """Token vectors of one sequence alone, as transformers computes them."""
    model = AutoModel.from_pretrained(directory).eval()
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt")).last_hidden_state[0]


def head_by_hand(model, features):
    """Logits, spelled out."""
    layers = list(model.head.hidden)
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                features = features @ layer.weight.T + layer.bias
            elif isinstance(layer, nn.ReLU):
                features = features.clamp(min=0)
        return (features @ model.head.out.weight.T + model.head.out.bias).numpy()


HEADS = {"linear": "linear", "relu": Linear(activation="relu"), "mlp": MLPHead((8, 6))}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_cross_is_what_transformers_computes(family, head, pooling, family_backbone, untrained):
    directory = family_backbone(family)
    clf = untrained(backbone=directory, interaction="cross", pooling=pooling, head=HEADS[head])
    pooled = []
    for pair in X[:6]:
        hidden = hidden_states(directory, clf.tokenizer_, *pair)
        pooled.append(hidden[0] if pooling == "cls" else hidden.mean(dim=0))
    logits = head_by_hand(clf.model_, torch.stack(pooled))
    expected = logits[:, 1] - logits[:, 0]
    assert np.ptp(expected) > 1e-2
    assert_allclose(clf.decision_function(X[:6]), expected, rtol=1e-3, atol=1e-4)


def test_token_types_where_the_backbone_has_them(family_backbone, untrained):
    for family in ("bert", "roberta"):
        clf = copy.deepcopy(untrained(backbone=family_backbone(family), interaction="cross"))
        watch = Watch(clf.model_)
        clf.predict(X[:1])
        (call,) = watch.calls
        expected = make_tokenizer()(*X[0], return_token_type_ids=True)
        if family == "bert":
            assert call["input_ids"][0].tolist() == expected["input_ids"]
            assert call["token_type_ids"][0].tolist() == expected["token_type_ids"]
            assert set(expected["token_type_ids"]) == {0, 1}
        else:
            assert call.get("token_type_ids") is None
    clf = copy.deepcopy(untrained(backbone=family_backbone("bert"), interaction="all"))
    watch = Watch(clf.model_)
    clf.predict(X[:1])
    assert all(call.get("token_type_ids") is None for call in watch.calls)


def features_by_hand(clf, directory, pairs):
    """What the head reads of each pair."""
    rows = []
    for pair in pairs:
        tokens = [hidden_states(directory, clf.tokenizer_, text) for text in pair]
        pool = {"mean": lambda h: h.mean(dim=0), "max": lambda h: h.max(dim=0).values}
        if clf.interaction == "attention":
            a, b = tokens
            with torch.no_grad():
                score = a @ clf.model_.cross_attention.weight @ b.T / np.sqrt(a.shape[1])
            sides = []
            for own, other, weights in ((a, b, score), (b, a, score.T)):
                found = weights.softmax(dim=1) @ other
                sides += [(own - found).abs().mean(dim=0), (own * found).mean(dim=0)]
            rows.append(torch.cat(sides))
            continue
        a, b = map(pool[clf.pooling], tokens)
        rows.append(
            {
                "concat": lambda a=a, b=b: torch.cat([a, b]),
                "difference": lambda a=a, b=b: a - b,
                "product": lambda a=a, b=b: a * b,
                "all": lambda a=a, b=b: torch.cat([a, b, (a - b).abs(), a * b]),
            }[clf.interaction]()
        )
    return torch.stack(rows)


@pytest.mark.parametrize("pooling, head", [("mean", "linear"), ("mean", "mlp"), ("max", "relu")])
@pytest.mark.parametrize("interaction", APART)
def test_bi_encoder_by_hand(interaction, pooling, head, tiny_backbone, untrained):
    clf = untrained(interaction=interaction, pooling=pooling, head=HEADS[head])
    logits = head_by_hand(clf.model_, features_by_hand(clf, tiny_backbone, X[:5]))
    expected = logits[:, 1] - logits[:, 0]
    assert_allclose(clf.decision_function(X[:5]), expected, rtol=1e-3, atol=1e-4)
    assert np.ptp(expected) > 0.05


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_decoders(family, interaction, family_backbone, make_pair):
    clf = make_pair(
        backbone=family_backbone(family),
        interaction=interaction,
        pooling="auto",
        lr=5e-3,
        max_epochs=8,
    ).fit(X[:12], Y[:12])
    assert clf.model_.config.pooling == "last"
    assert clf.score(X[:12], Y[:12]) > 0.6
    pairs = [("", ""), ("fish", ""), *X[:4]]
    together = clf.decision_function(pairs)
    alone = np.concatenate([clf.decision_function([pair]) for pair in pairs])
    assert np.isfinite(together).all() and np.ptp(together) > 1e-3
    assert_allclose(alone, together, rtol=0, atol=1e-3)


# ------------------------------------------------------------------------------- probe


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_head_starts_from_a_probe(interaction, tiny_backbone, make_pair):
    params = {"interaction": interaction, "lr": 1e-12, "max_epochs": 1}
    clf = make_pair(**params).fit(X, Y)
    random = make_pair(**params, head_init="random").fit(X, Y)
    assert log_loss(Y, clf.predict_proba(X)) < log_loss(Y, random.predict_proba(X)) - 0.02
    if interaction == "cross":
        return
    vectors = features_by_hand(clf, tiny_backbone, X).numpy().astype(float)
    codes = np.array([label == "same" for label in Y]).astype(int)
    coef, intercept = logistic_probe(vectors, codes, np.ones(40), 2, np.random.default_rng(0))
    assert_allclose(clf.model_.head.out.weight.detach(), coef, rtol=0, atol=1e-3)
    assert_allclose(clf.model_.head.out.bias.detach(), intercept, rtol=0, atol=1e-3)


def test_regression_starts_from_a_probe(tiny_backbone, make_pair):
    reg = make_pair(PairRegressor, lr=1e-12, max_epochs=1).fit(X, NUMBERS)
    vectors = features_by_hand(reg, tiny_backbone, X).numpy().astype(float)
    y = (NUMBERS - NUMBERS.mean()) / NUMBERS.std()
    coef, intercept = ridge_probe(vectors, y, np.ones(40), np.random.default_rng(0))
    assert_allclose(reg.model_.head.out.weight.detach(), coef, rtol=0, atol=1e-3)
    assert_allclose(reg.model_.head.out.bias.detach(), intercept, rtol=0, atol=1e-3)
    assert reg.score(X, NUMBERS) > 0.1


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_symmetric_probe(interaction, head, make_pair):
    if interaction == "difference" and head == "linear":
        pytest.skip("refused: both orders cancel")
    clf = make_pair(interaction=interaction, symmetric=True, head=HEADS[head], max_epochs=1)
    clf.fit(X, Y)
    assert_allclose(clf.predict_proba(flip(X)), clf.predict_proba(X), rtol=0, atol=1e-6)


# ----------------------------------------------------------------------- long texts

LONG = [("a bread " * 30, "wave"), ("fish", "tram"), ("fish is", "the boat " * 40)]


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_long_texts(interaction, untrained):
    params = {"interaction": interaction, "max_length": 20}
    cut = untrained(**params)
    with pytest.warns(UserWarning, match="2 of 3 pairs are longer than max_length=20"):
        short = cut.decision_function(LONG)
    whole = untrained(long_text="window", **params)
    with warnings.catch_warnings(action="error"):
        found = whole.decision_function(LONG)
    assert_allclose(found[1], short[1], atol=1e-5)
    assert np.abs(found - short)[[0, 2]].min() > 1e-4
    for budget in (1, 45):
        small = copy.copy(whole).set_params(max_batch_tokens=budget)
        assert_allclose(small.decision_function(LONG[::-1])[::-1], found, rtol=0, atol=1e-4)


def test_windows_of_a_text_are_averaged(tiny_backbone, untrained):
    clf = untrained(interaction="concat", max_length=12, long_text=Windows(stride=10))
    # 20 tokens of text, 10 in each window.
    text = " ".join(["bread", "wave", "tram", "the"] * 5)
    words = text.split()
    halves = [" ".join(words[:10]), " ".join(words[10:])]
    a = torch.stack([hidden_states(tiny_backbone, clf.tokenizer_, h).mean(0) for h in halves])
    b = hidden_states(tiny_backbone, clf.tokenizer_, "fish").mean(0)
    logits = head_by_hand(clf.model_, torch.cat([a.mean(0), b])[None])
    expected = logits[:, 1] - logits[:, 0]
    assert_allclose(clf.decision_function([(text, "fish")]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_training_on_windows(interaction, pooling, make_pair):
    clf = make_pair(interaction=interaction, max_length=12, long_text=Windows(pooling=pooling))
    with warnings.catch_warnings(action="error"):
        clf.fit(LONG * 3, [0, 1, 1] * 3)
        assert np.isfinite(clf.predict_proba(LONG)).all()
    assert np.isfinite(clf.history_[-1]["train_loss"])


# ------------------------------------------------------------------------- containers


def columns(pairs):
    return {"question": [a for a, _ in pairs], "answer": [b for _, b in pairs]}


def object_array(pairs):
    array = np.empty((len(pairs), 2), dtype=object)
    array[:] = pairs
    return array


CONTAINERS = {
    "list of lists": lambda x: [list(pair) for pair in x],
    "list of arrays": lambda x: [np.array(pair) for pair in x],
    "tuple of tuples": tuple,
    "numpy object": object_array,
    "numpy str": np.array,
    "numpy StringDType": lambda x: np.array(x, dtype=np.dtypes.StringDType()),
    "pandas": lambda x: pd.DataFrame(columns(x), index=np.arange(len(x))[::-1] * 7),
    "pandas object": lambda x: pd.DataFrame(columns(x), dtype=object),
    "pandas Arrow": lambda x: pd.DataFrame(columns(x), dtype=pd.ArrowDtype(pa.string())),
    "pandas category": lambda x: pd.DataFrame(columns(x), dtype="category"),
    "pandas Series": lambda x: pd.Series(x, index=np.arange(len(x))[::-1] * 7),
    "polars": lambda x: pl.DataFrame(columns(x)),
    "polars Series": lambda x: pl.Series([list(pair) for pair in x]),
    "pyarrow table": lambda x: pa.table(columns(x)),
    "pyarrow lists": lambda x: pa.array([list(pair) for pair in x]),
}
TABLES = {name for name in CONTAINERS if isinstance(CONTAINERS[name](X).shape, tuple)} if 0 else {
    "numpy object",
    "numpy str",
    "numpy StringDType",
    "pandas",
    "pandas object",
    "pandas Arrow",
    "pandas category",
    "polars",
    "pyarrow table",
}
