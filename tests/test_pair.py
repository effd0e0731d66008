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
    return make_pair(interaction=request.param, lr=5e-3, max_epochs=14).fit(X, Y)


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
        # Two tokens alone only show where the blocks are.
        return sum(len(c["input_ids"]) for c in self.calls if c["input_ids"].tolist() != [[0, 1]])


# ------------------------------------------------------------------------- what is learnt


def test_learns_pairs(learnt):
    assert learnt.score(X, Y) >= 0.85
    assert learnt.history_[-1]["train_loss"] < 0.65 < learnt.history_[0]["train_loss"]
    assert learnt.n_iter_ == len(learnt.history_) == 14


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
    assert clf.score(X, Y) > 0.7
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
    clf = copy.deepcopy(untrained(interaction=interaction, symmetric=symmetric, head=MLPHead((8,))))
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
    monkeypatch.setattr("sktransformers.fitted._PREDICT_CHUNK", 4)
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
        types = len(texts) == 2 and model.config.type_vocab_size > 1
        inputs = tokenizer(*texts, return_tensors="pt", return_token_type_ids=types)
        return model(**inputs).last_hidden_state[0]


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
        if clf.interaction == "cross":
            rows.append(hidden_states(directory, clf.tokenizer_, *pair).mean(dim=0))
            continue
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


def pairs_to_probe(interaction):
    """Pairs that frozen vectors tell apart, and codes."""
    rng = np.random.default_rng(0)
    codes = np.arange(40) % 2
    pairs = []
    for code in codes:
        first = second = ("food", "sea")[code]
        if interaction == "difference":
            second = ("sea", "food")[code]
        pairs.append(tuple(" ".join(rng.choice(WORDS[t], 3)) for t in (first, second)))
    return pairs, codes


@pytest.mark.parametrize("interaction", ["cross", "difference", "attention"])
def test_head_starts_from_a_probe(interaction, tiny_backbone, make_pair):
    pairs, codes = pairs_to_probe(interaction)
    params = {"interaction": interaction, "lr": 1e-12, "max_epochs": 1}
    clf = make_pair(**params).fit(pairs, codes)
    random = make_pair(**params, head_init="random").fit(pairs, codes)
    assert clf.score(pairs, codes) > 0.9
    losses = [log_loss(codes, est.predict_proba(pairs)) for est in (clf, random)]
    assert losses[0] < losses[1] - 0.02
    vectors = features_by_hand(clf, tiny_backbone, pairs).numpy().astype(float)
    coef, intercept = logistic_probe(vectors, codes, np.ones(40), 2, np.random.default_rng(0))
    assert np.abs(coef).max() > 1e-2
    assert_allclose(clf.model_.head.out.weight.detach(), coef, rtol=0, atol=1e-3)
    assert_allclose(clf.model_.head.out.bias.detach(), intercept, rtol=0, atol=1e-3)


def test_regression_starts_from_a_probe(tiny_backbone, make_pair):
    pairs, codes = pairs_to_probe("all")
    numbers = 10.0 + codes + np.arange(40) / 100
    reg = make_pair(PairRegressor, lr=1e-12, max_epochs=1).fit(pairs, numbers)
    vectors = features_by_hand(reg, tiny_backbone, pairs).numpy().astype(float)
    y = (numbers - numbers.mean()) / numbers.std()
    coef, intercept = ridge_probe(vectors, y, np.ones(40), np.random.default_rng(0))
    assert np.abs(coef).max() > 1e-2
    assert_allclose(reg.model_.head.out.weight.detach(), coef, rtol=0, atol=1e-3)
    assert_allclose(reg.model_.head.out.bias.detach(), intercept, rtol=0, atol=1e-3)
    assert reg.score(pairs, numbers) > 0.3


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
    with pytest.warns(UserWarning, match="2 of (3 pairs|6 texts) .* max_length=20"):
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
TABLES = {
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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
def test_pairs_in_a_container(container, make_pair, fitted):
    make = CONTAINERS[container]
    clf = make_pair().fit(make(X), Y)
    expected = fitted.predict_proba(X)
    assert_array_equal(clf.predict_proba(make(X)), expected)
    assert_allclose(clf.predict_proba(make(X[:3])), expected[:3], rtol=0, atol=1e-6)
    if container in TABLES:
        assert clf.n_features_in_ == 2
    else:
        assert not hasattr(clf, "n_features_in_")
    if hasattr(make(X), "columns"):
        assert clf.feature_names_in_.tolist() == ["question", "answer"]
    else:
        assert not hasattr(clf, "feature_names_in_")


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_columns_are_those_of_fit(frame, make_pair):
    clf = make_pair(max_epochs=1).fit(frame(columns(X)), Y)
    swapped = frame({name: columns(X)[name] for name in ("answer", "question")})
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(ValueError, match="feature names should match"):
            getattr(clf, method)(swapped)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.predict(object_array(X))
    clf.predict(X)  # rows have no names
    clf.fit(X, Y)
    assert not hasattr(clf, "feature_names_in_") and not hasattr(clf, "n_features_in_")


SEARCHED = ["list of lists", "numpy object", "pandas", "pandas Series", "polars", "pyarrow table"]


@pytest.mark.parametrize("container", ["list of tuples", *SEARCHED])
def test_cross_validation_in_a_container(container, make_pair):
    pairs = X if container == "list of tuples" else CONTAINERS[container](X)
    cv = StratifiedKFold(2)
    found = cross_val_score(
        make_pair(max_epochs=1), pairs, Y, cv=cv, scoring="neg_log_loss", error_score="raise"
    )
    for score, (train, test) in zip(found, cv.split(X, Y)):
        clf = make_pair(max_epochs=1).fit([X[i] for i in train], [Y[i] for i in train])
        proba = clf.predict_proba([X[i] for i in test])
        assert_allclose(score, -log_loss([Y[i] for i in test], proba), rtol=1e-5)


@pytest.mark.parametrize("container", ["list of lists", "pandas"])
def test_search_in_a_container(container, make_pair):
    pairs = CONTAINERS[container](X)
    search = GridSearchCV(
        make_pair(max_epochs=1),
        {"interaction": ["cross", "all"], "symmetric": [True, False]},
        cv=2,
        error_score="raise",
    ).fit(pairs, Y)
    best = make_pair(max_epochs=1, **search.best_params_).fit(X, Y)
    assert_allclose(search.predict_proba(pairs), best.predict_proba(X), atol=1e-6)
    assert len(search.cv_results_["params"]) == 4


def test_cross_val_predict(make_pair):
    cv = StratifiedKFold(2)
    proba = cross_val_predict(make_pair(), X, Y, cv=cv, method="predict_proba")
    train, test = next(iter(cv.split(X, Y)))
    clf = make_pair().fit([X[i] for i in train], [Y[i] for i in train])
    assert_array_equal(proba[test], clf.predict_proba([X[i] for i in test]))


def upper(pairs):
    return [(a.upper(), b.upper()) for a, b in pairs]


def test_pipeline(make_pair, fitted):  # the tokenizer knows no capital letters
    pipe = Pipeline([("clean", FunctionTransformer(upper)), ("clf", make_pair())]).fit(X, Y)
    assert_array_equal(pipe.predict_proba(X), fitted.predict_proba(X))


def test_columns_of_a_wider_frame(make_pair, fitted):
    frame = pd.DataFrame({"stars": np.arange(40), **columns(X)})
    pick = ColumnTransformer([("texts", "passthrough", ["question", "answer"])])
    pipe = make_pipeline(pick.set_output(transform="pandas"), make_pair()).fit(frame, Y)
    assert_array_equal(pipe.predict_proba(frame), fitted.predict_proba(X))
    assert pipe[-1].feature_names_in_.tolist() == ["texts__question", "texts__answer"]


def test_permutation_importance(learnt):
    found = permutation_importance(learnt, object_array(X), Y, n_repeats=3, random_state=0)
    assert found.importances_mean.shape == (2,)
    assert found.importances_mean.max() > 0.05


# ------------------------------------------------------------- parameters and copies


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_tags(cls):
    tags = get_tags(cls())
    assert tags.input_tags.string and not tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array  # of numbers
    assert tags.target_tags.required
    assert is_classifier(cls()) == (cls is PairClassifier)
    assert is_regressor(cls()) == (cls is PairRegressor)


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
def test_clone(interaction, make_pair):
    clf = make_pair(interaction=interaction, symmetric=True, max_epochs=1).fit(X, Y)
    twin = clone(clf)
    assert repr(twin) == repr(clf)
    with pytest.raises(NotFittedError):
        twin.predict(X)
    assert_array_equal(twin.fit(X, Y).predict_proba(X), clf.predict_proba(X))


RELOADS = {
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("reload", RELOADS)
def test_reload(reload, learnt):
    before = learnt.predict_proba(X)
    clf = RELOADS[reload](learnt)
    assert_array_equal(clf.predict_proba(X), before)
    assert clf.history_ == learnt.history_
    clf.set_params(max_epochs=1).fit(X, Y[::-1])
    assert_array_equal(learnt.predict_proba(X), before)


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_model_is_saved_and_loaded(interaction, untrained, tmp_path):
    clf = copy.copy(untrained(interaction=interaction))
    expected = clf.predict_proba(MIXED)
    clf.model_.save_pretrained(tmp_path)
    clf.model_ = type(clf.model_).from_pretrained(tmp_path).eval()
    assert_array_equal(clf.predict_proba(MIXED), expected)


def test_set_params(make_pair):
    clf = make_pair(head=MLPHead(), long_text=Windows())
    clf.set_params(interaction="cross", head__hidden_sizes=(4,), long_text__stride=5)
    assert clf.fit(X, Y).model_.head.out.in_features == 4
    with pytest.raises(ValueError, match="Invalid parameter 'interactions'"):
        clf.set_params(interactions="cross")


def test_predict_changes_nothing(learnt):
    before = dict(vars(learnt))
    learnt.predict(X)
    assert vars(learnt).keys() == before.keys()
    assert all(vars(learnt)[name] is value for name, value in before.items())
    assert not learnt.model_.training


# ------------------------------------------------------------------------- weights


def same_weights(first, second):
    first, second = first.model_.state_dict(), second.model_.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
def test_pairs_of_weight_zero_are_not_there(interaction, make_pair):
    params = {"interaction": interaction}
    expected = make_pair(**params).fit(X, Y)
    pairs = [*X[:3], ("moon", ""), *X[3:], ("a bread", "sea " * 100)]
    labels = [*Y[:3], "moon", *Y[3:], "same"]
    clf = make_pair(**params).fit(pairs, labels, sample_weight=[1, 1, 1, 0, *[1] * 37, 0])
    assert same_weights(clf, expected)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_weight_two_is_a_pair_twice(interaction, cls, exact, make_pair):
    y = Y if cls is PairClassifier else NUMBERS
    params = {**exact, "interaction": interaction}
    weights = np.array([1 + i % 2 for i in range(40)])
    weighted = make_pair(cls, **params).fit(X, y, sample_weight=weights)
    repeated = make_pair(cls, **params).fit(X + X[1::2], [*y, *y[1::2]])
    plain = make_pair(cls, **params).fit(X, y)
    predict = (lambda e: e.predict_proba(X)) if cls is PairClassifier else (lambda e: e.predict(X))
    assert_allclose(predict(weighted), predict(repeated), rtol=1e-6)
    assert np.abs(predict(weighted) - predict(plain)).max() > 1e-4


def test_class_weight(exact, make_pair):
    factors = {"same": 3.0}
    by_class = make_pair(class_weight=factors).fit(X, Y)
    by_row = make_pair().fit(X, Y, sample_weight=[factors.get(label, 1.0) for label in Y])
    assert same_weights(by_class, by_row)
    pairs, labels = X[:30] + X[31::2], Y[:30] + Y[31::2]
    counts = pd.Series(labels).value_counts()
    balanced = {label: len(labels) / (2 * n) for label, n in counts.items()}
    first, second = (
        make_pair(**exact, class_weight=weight).fit(pairs, labels).predict_proba(X)
        for weight in ("balanced", balanced)
    )
    assert_allclose(first, second, rtol=1e-8)


# ----------------------------------------------- validation, early stopping, warm start


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
def test_validation_rows(interaction, make_pair):
    clf = make_pair(interaction=interaction, scoring="accuracy", n_iter_no_change=10)
    clf.fit(X[:20], Y[:20], X_val=X[20:], y_val=Y[20:])
    scores = [row["valid_score"] for row in clf.history_]
    assert max(scores) == clf.score(X[20:], Y[20:])
    losses = [row["valid_loss"] for row in clf.history_]
    best = losses[int(np.argmax(scores))]
    assert_allclose(log_loss(Y[20:], clf.predict_proba(X[20:])), best, rtol=1e-4)


@pytest.mark.parametrize("scoring", ["loss", "accuracy", None])
@pytest.mark.parametrize("container", ["list of tuples", "pandas", "numpy object"])
def test_early_stopping(container, scoring, make_pair):
    pairs = X if container == "list of tuples" else CONTAINERS[container](X)
    clf = make_pair(
        early_stopping=True, lr=1e-9, max_epochs=9, n_iter_no_change=1, scoring=scoring
    ).fit(pairs, Y)
    assert clf.n_iter_ < 9
    assert {"valid_loss", "valid_accuracy"} <= clf.history_[0].keys()
    assert ("valid_score" in clf.history_[0]) == (scoring != "loss")


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_warm_start(cls, make_pair):
    y = Y if cls is PairClassifier else NUMBERS
    est = make_pair(cls, warm_start=True, lr=3e-3, max_epochs=3)
    first = est.fit(X, y).history_
    est.fit(X, y)
    assert [row["epoch"] for row in est.history_] == [1, 2, 3, 4, 5, 6]
    assert est.history_[:3] == first
    assert est.history_[-1]["train_loss"] < first[-1]["train_loss"]
    cold = copy.copy(est).set_params(warm_start=False).fit(X, y)
    assert [row["train_loss"] for row in cold.history_] == [row["train_loss"] for row in first]


def test_same_seed_same_model(make_pair):
    first, second = (make_pair(random_state=3).fit(X, Y) for _ in range(2))
    assert same_weights(first, second)
    assert not same_weights(first, make_pair(random_state=4).fit(X, Y))


# ------------------------------------------------------------------------- regression


@pytest.mark.parametrize(
    "interaction, loss",
    [("cross", "huber"), *((interaction, "squared_error") for interaction in INTERACTIONS)],
)
def test_learns_numbers(interaction, loss, make_pair):
    reg = make_pair(PairRegressor, interaction=interaction, loss=loss, lr=5e-3, max_epochs=10)
    predicted = reg.fit(X, NUMBERS).predict(X)
    assert predicted.shape == (40,) and predicted.dtype == np.float64
    assert reg.score(X, NUMBERS) > 0.3
    assert not hasattr(reg, "classes_")


def test_score_is_r2(make_pair):
    reg = make_pair(PairRegressor).fit(X, NUMBERS)
    predicted, weights = reg.predict(X), np.arange(40)
    assert reg.score(X, NUMBERS) == r2_score(NUMBERS, predicted)
    expected = r2_score(NUMBERS, predicted, sample_weight=weights)
    assert reg.score(X, NUMBERS, sample_weight=weights) == expected


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_predictions_have_the_unit_of_y(loss, exact, make_pair):
    params = {**exact, "head_init": "probe", "loss": loss}
    reg = make_pair(PairRegressor, **params).fit(X, NUMBERS)
    predicted = reg.predict(X)
    assert_allclose(reg.target_mean_, NUMBERS.mean())
    assert_allclose(reg.target_scale_, NUMBERS.std())
    for scale, shift in ((10, 3), (1e6, -1e9), (1e-6, 0)):
        other = make_pair(PairRegressor, **params).fit(X, scale * NUMBERS + shift)
        assert_allclose((other.predict(X) - shift) / scale, predicted, rtol=1e-4)


def test_mean_and_scale_are_weighted(make_pair):
    weights = np.arange(40) % 3
    reg = make_pair(PairRegressor, max_epochs=1).fit(X, NUMBERS, sample_weight=weights)
    mean = np.average(NUMBERS, weights=weights)
    assert_allclose(reg.target_mean_, mean)
    scale = np.sqrt(np.average((NUMBERS - mean) ** 2, weights=weights))
    assert_allclose(reg.target_scale_, scale)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_train_loss_by_hand(loss, make_pair):
    reg = make_pair(
        PairRegressor, loss=loss, lr=1e-12, max_epochs=1, pooling="max", head=Linear(dropout=0.0)
    )
    weights = 1.0 + np.arange(40) % 3
    y = NUMBERS.copy()
    y[0] = 30.0  # many standard deviations away: Huber's loss is linear there
    reg.fit(X, y, sample_weight=weights, X_val=X, y_val=y)
    error = (reg.predict(X) - y) / reg.target_scale_
    each = error**2
    if loss == "huber":
        each = np.where(np.abs(error) <= 1, each / 2, np.abs(error) - 0.5)
        assert (np.abs(error) > 1).any() and (np.abs(error) < 1).any()
    assert_allclose(reg.history_[0]["valid_loss"], each.mean(), rtol=1e-4)


def test_huber_minds_outliers_less(exact, make_pair):
    # The same pair throughout: all that can be learnt is one number.
    y = np.where(np.arange(40) % 8 > 0, 1.0, 41.0)
    found = {}
    for loss in ("squared_error", "huber"):
        reg = make_pair(PairRegressor, **{**exact, "max_epochs": 150}, loss=loss)
        found[loss] = reg.fit(X[:1] * 40, y).predict(X[:1])[0]
    assert_allclose(found["squared_error"], y.mean(), atol=0.2)
    # Five rows pull with all their weight of one, 35 by their distance, both in deviations.
    assert_allclose(found["huber"], 1 + y.std() * 5 / 35, atol=0.2)


@pytest.mark.parametrize("head_init", ["probe", "random"])
def test_the_same_pair_throughout(head_init, make_pair):
    reg = make_pair(PairRegressor, head_init=head_init, max_epochs=1, lr=1e-6)
    predicted = reg.fit([("fish", "wave")] * 10, np.arange(10.0)).predict([("fish", "wave"), X[0]])
    assert np.isfinite(predicted).all()
    assert abs(predicted[0] - 4.5) < 2


@pytest.mark.parametrize("head_init", ["probe", "random"])
@pytest.mark.parametrize("value", [0.0, 5.0, -1e9])
def test_constant_numbers(value, head_init, make_pair):
    reg = make_pair(PairRegressor, head_init=head_init, max_epochs=4, lr=3e-3)
    predicted = reg.fit(X, [value] * 40).predict(X)
    assert reg.target_scale_ == 1 and reg.target_mean_ == value
    assert_allclose(predicted, value, rtol=1e-6, atol=0.5)


NUMBER_CONTAINERS = {
    "list of int": lambda: [i % 5 for i in range(40)],
    "int8": lambda: (np.arange(40) % 5).astype(np.int8),
    "float32": lambda: (np.arange(40) % 5).astype(np.float32),
    "bool": lambda: np.arange(40) % 5 > 2,
    "Series": lambda: pd.Series(np.arange(40) % 5, index=np.arange(40)[::-1]),
    "Int64": lambda: pd.Series(np.arange(40) % 5, dtype="Int64"),
    "Arrow": lambda: pd.Series(np.arange(40) % 5, dtype=pd.ArrowDtype(pa.int32())),
    "polars": lambda: pl.Series(np.arange(40) % 5),
    "pyarrow": lambda: pa.array(np.arange(40) % 5),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", NUMBER_CONTAINERS)
def test_numbers_in_a_container(container, make_pair):
    y = NUMBER_CONTAINERS[container]()
    reg = make_pair(PairRegressor, max_epochs=1).fit(X, y)
    plain = make_pair(PairRegressor, max_epochs=1).fit(X, np.asarray(y).astype(float))
    assert_array_equal(reg.predict(X), plain.predict(X))
    assert reg.predict(X).dtype == np.float64


def test_column_of_numbers(make_pair):
    with pytest.warns(DataConversionWarning):
        reg = make_pair(PairRegressor, max_epochs=1).fit(X, NUMBERS[:, None])
    assert reg.predict(X).shape == (40,)


def test_correlations_as_scorers(make_pair):
    reg = make_pair(PairRegressor, lr=5e-3, max_epochs=6)
    for scorer in (pearson_scorer, spearman_scorer):
        scores = cross_val_score(reg, X, NUMBERS, cv=2, scoring=scorer, error_score="raise")
        assert scores.shape == (2,) and (np.abs(scores) <= 1).all()
    assert pearson_scorer(reg.fit(X, NUMBERS), X, NUMBERS) > 0.7
    search = GridSearchCV(reg, {"loss": ["huber"], "symmetric": [True, False]}, cv=2)
    search.set_params(scoring=spearman_scorer).fit(X, NUMBERS)
    assert -1 <= search.best_score_ <= 1


def test_warm_start_keeps_the_unit(make_pair):
    reg = make_pair(PairRegressor, warm_start=True).fit(X, NUMBERS)
    mean, scale, before = reg.target_mean_, reg.target_scale_, reg.predict(X)
    reg.set_params(lr=1e-12).fit(X[:10], 100 + NUMBERS[:10])
    assert (reg.target_mean_, reg.target_scale_) == (mean, scale)
    assert_allclose(reg.predict(X), before, rtol=1e-5)


def test_early_stopping_of_regression(make_pair):
    reg = make_pair(
        PairRegressor, early_stopping=True, validation_fraction=10, scoring="r2", max_epochs=3
    ).fit(X, NUMBERS)
    assert all(np.isfinite(row["valid_score"]) for row in reg.history_)


# ------------------------------------------------------------------------ what is refused


@dataclass
class Bad:
    message: str  # a regular expression
    data: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = ValueError


def with_entry(rows, i, value):
    return [*rows[:i], value, *rows[i + 1 :]]


BAD_X = {
    "bare string": Bad(r"^X is one single str; expected", {"X": "some text"}),
    "None": Bad("^X is of type NoneType; expected", {"X": None}, error=TypeError),
    "iterator": Bad("^X is of type zip; expected", {"X": zip("ab", "cd")}, error=TypeError),
    "dict": Bad("^X is of type dict", {"X": columns(X)}, error=TypeError),
    "sparse": Bad("^X is a sparse matrix", {"X": scipy.sparse.eye(40)}, error=TypeError),
    "empty": Bad(r"0 sample\(s\): X is empty", {"X": [], "y": []}),
    "texts": Bad(r"^X\[0\] is a value of type str; expected a pair", {"X": [a for a, _ in X]}),
    "one column": Bad(r"^X has 1 column\(s\)", {"X": object_array(X)[:, :1]}),
    "three columns": Bad(
        r"^X has 3 column\(s\) \('question', 'answer', 'n'\)",
        {"X": pd.DataFrame(columns(X)).assign(n=1)},
    ),
    "three texts": Bad(r"^X\[4\] has 3 elements", {"X": with_entry(X, 4, ("a", "b", "c"))}),
    "columns instead of rows": Bad(
        "^X is a tuple of two columns", {"X": tuple(columns(X).values())}
    ),
    "None inside": Bad(
        r"^X\[3\]\[1\], the second text of row 3, is missing", {"X": with_entry(X, 3, ("a", None))}
    ),
    "NaN in a frame": Bad(
        r"^X\[2\]\[0\], the first text", {"X": pd.DataFrame(with_entry(X, 2, (np.nan, "a")))}
    ),
    "number inside": Bad(r"^X\[0\]\[0\].* is 7", {"X": with_entry(X, 0, (7, "a"))}),
    "words": Bad(r"^X\[0\]\[0\].*join the words", {"X": [(a.split(), b.split()) for a, b in X]}),
    "numbers": Bad(r"^X\[0\]\[0\].* is 0\.0", {"X": np.zeros((40, 2))}),
}
BAD_Y = {
    "none": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "length": Bad("inconsistent.* X has 40 rows, y has 39", {"y": Y[:-1]}),
    "NaN": Bad(r"y\[4\] is missing \(nan\), 1 of 40", {"y": with_entry(Y, 4, float("nan"))}),
    "continuous": Bad("Unknown label type: continuous", {"y": np.linspace(0, 1, 40)}),
    "single class": Bad("y has 1 class: 'same'", {"y": ["same"] * 40}),
    "weights": Bad("sample_weight.shape == .*expected", {"sample_weight": np.ones(39)}),
    "all zero": Bad("at least one non-zero", {"sample_weight": np.zeros(40)}),
    "unknown class": Bad("names the class 'moon'", params={"class_weight": {"moon": 2.0}}),
    "validation pair": Bad(
        r"^X_val\[1\] is a value of type str",
        {"X_val": [("a", "b"), "fish"], "y_val": ["same", "same"]},
    ),
    "validation class": Bad(r"^y_val\[0\] is 'moon'", {"X_val": [("a", "b")], "y_val": ["moon"]}),
    "half of a validation set": Bad("belong together", {"X_val": X}),
}
BAD_PARAMETERS = {
    f"{name}={value!r}": Bad(f"'{name}' parameter of .*Got .* instead", params={name: value})
    for name, values in {
        "interaction": ["bilinear", None, 3],
        "symmetric": ["yes", None, 2],
        "pooling": ["median"],
        "head": ["mlp", CRF()],
        "long_text": ["slide", None],
        "class_weight": ["even"],
        "scoring": ["nonesuch"],
        "lr": [-1.0],
    }.items()
    for value in values
} | {
    "nothing left": Bad(
        'symmetric=True with interaction="difference"',
        params={"symmetric": True, "interaction": "difference"},
    ),
    "stride": Bad("'stride' parameter of Windows", params={"long_text": Windows(stride=0)}),
    "hidden sizes": Bad("'hidden_sizes' parameter", params={"head": MLPHead(())}),
}
BAD_NUMBERS = {
    "none": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "length": Bad("inconsistent.* X has 40 rows, y has 39", {"y": NUMBERS[:-1]}),
    "scalar": Bad("y is a single value; expected one a row", {"y": 3.0}),
    "NaN": Bad(r"y\[4\] is missing \(nan\)", {"y": with_entry(NUMBERS.tolist(), 4, np.nan)}),
    "None": Bad(r"y\[0\] is missing", {"y": with_entry(NUMBERS.tolist(), 0, None)}),
    "infinity": Bad("y contains infinity.*position 7", {"y": with_entry([1.0] * 40, 7, np.inf)}),
    "strings": Bad(r"y\[0\] is a value of type str; a regressor expects numbers", {"y": Y}),
    "one string": Bad(
        r"y\[3\] is a value of type str; a regressor expects",
        {"y": with_entry([1.0] * 40, 3, "many")},
    ),
    "numbers as strings": Bad(r"y\[0\] is a value of type str", {"y": ["1"] * 40}),
    "dates": Bad(r"y\[0\] is .*expects numbers", {"y": pd.date_range("2020", periods=40)}),
    "complex": Bad(r"y\[0\] is .*expects numbers", {"y": np.full(40, 1j)}),
    "validation": Bad(r"y_val\[0\] is a value of type str", {"X_val": X[:1], "y_val": ["a"]}),
    "loss": Bad("'loss' parameter of PairRegressor", params={"loss": "absolute_error"}),
}


@pytest.fixture
def no_loading(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)


CASES = {
    f"{group}: {name}": (cls, case)
    for group, cls, cases in (
        ("X", PairClassifier, BAD_X),
        ("X of a regressor", PairRegressor, BAD_X),
        ("y", PairClassifier, BAD_Y),
        ("parameter", PairClassifier, BAD_PARAMETERS),
        ("numbers", PairRegressor, BAD_NUMBERS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_loaded(name, make_pair, no_loading):
    cls, case = CASES[name]
    est = make_pair(cls, **case.params)
    before = dict(vars(est))
    y = Y if cls is PairClassifier else NUMBERS
    with pytest.raises(case.error, match=case.message):
        est.fit(**{"X": X, "y": y, **case.data})
    assert vars(est) == before


@pytest.mark.parametrize("name", sorted(BAD_X.keys() - {"iterator"}))
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_bad_pairs_in_prediction(name, method, fitted):
    with pytest.raises(BAD_X[name].error, match=BAD_X[name].message):
        getattr(fitted, method)(BAD_X[name].data["X"])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "score"])
def test_prediction_before_fit(method, make_pair):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make_pair(), method)(X, *[Y][: method == "score"])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        make_pair(PairRegressor).predict(3)


@pytest.mark.parametrize("interaction", ["cross", "all"])
def test_no_room(interaction, make_pair):
    with pytest.raises(ValueError, match="leaves no room"):
        make_pair(interaction=interaction, max_length=2).fit(X, Y)
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 tokens"):
        make_pair(interaction=interaction, max_length=65).fit(X, Y)
    with pytest.raises(ValueError, match="stride=30 must be"):
        make_pair(interaction=interaction, max_length=9, long_text=Windows(stride=30)).fit(X, Y)
