"""Several targets of a text on one backbone: classes and numbers, some of them missing."""

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
import torch
import torch.nn.functional as F
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    check_cv,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

from sktransformers import (
    Backbone,
    BitFit,
    GradualUnfreezing,
    Linear,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)
from sktransformers.inputs.tasks import TaskCoding, check_tasks, texts_or_pairs
from sktransformers.modules.multitask import MultiTaskLoss
from sktransformers.training import loading
from sktransformers.training.probe import probe_rows

X, TOPICS = make_texts(36)
LENGTHS = np.array([float(len(text.split())) + 0.5 for text in X])
LONG = LENGTHS > np.median(LENGTHS)
PAIRS = [(text, X[(7 * i) % 36]) for i, text in enumerate(X)]
STILL = {"head": Linear(dropout=0.0)}


def frame(**changes):
    """A table of a label, a number and a bool, with missing entries, under an odd index."""
    columns = {"topic": TOPICS, "length": LENGTHS, "long": LONG, **changes}
    y = pd.DataFrame(columns, index=np.arange(36)[::-1] * 3)
    y["topic"] = y["topic"].where(np.arange(36) % 4 != 1)
    y["length"] = y["length"].where(np.arange(36) % 4 != 2)
    y["long"] = y["long"].astype("boolean").where(np.arange(36) % 4 != 3)
    return y


Y = frame()


@pytest.fixture(scope="module")
def plain_backbone(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("plain"), **NO_DROPOUT)


@pytest.fixture(scope="module")
def make_est(plain_backbone):
    """A function that makes an estimator on a tiny backbone without dropout."""

    def make(cls=MultiTaskSequenceEstimator, **params):
        defaults = {
            "backbone": plain_backbone,
            "pooling": "mean",
            "lr": 1e-3,
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
        }
        return cls(**{**defaults, **params})

    return make


@pytest.fixture(scope="module")
def fitted(make_est):
    """An estimator that has learnt three tasks; copy it before changing it."""
    return make_est(lr=5e-3, max_epochs=10).fit(X, Y)


# ---------------------------------------------------------------------------- what comes out


def test_learns_all_tasks(fitted):
    scores = fitted.scores(X, Y)
    assert list(scores) == ["topic", "length", "long"]
    assert scores["topic"] > 0.9 and scores["length"] > 0.7 and scores["long"] > 0.9
    assert fitted.score(X, Y) == pytest.approx(np.mean(list(scores.values())))


def test_attributes(fitted):
    assert fitted.task_names_ == ["topic", "length", "long"]
    assert fitted.tasks_ == ["classification", "regression", "classification"]
    assert [None if c is None else c.tolist() for c in fitted.classes_] == [
        ["city", "food", "sea"],
        None,
        [False, True],
    ]
    there = Y["length"].dropna()
    assert_allclose(fitted.target_mean_, [np.nan, there.mean(), np.nan])
    assert_allclose(fitted.target_scale_, [np.nan, there.std(ddof=0), np.nan])
    assert fitted.n_texts_ == 1 and not is_classifier(fitted) and not is_regressor(fitted)
    assert list(fitted.model_.config.id2label.values()) == [
        "topic=city",
        "topic=food",
        "topic=sea",
        "length",
        "long=False",
        "long=True",
    ]


def test_predictions_and_scores_by_hand(fitted):
    predicted, proba = fitted.predict(X), fitted.predict_proba(X)
    assert proba[1] is None
    for j, name in ((0, "topic"), (2, "long")):
        assert proba[j].dtype == np.float64
        assert_allclose(proba[j].sum(axis=1), 1.0, rtol=1e-12)
        best = fitted.classes_[j][proba[j].argmax(axis=1)]
        assert predicted[name].tolist() == best.tolist()
    weights = np.random.default_rng(0).uniform(0.1, 2, 36)
    scores = fitted.scores(X, Y, sample_weight=weights)
    for name, metric in (("topic", accuracy_score), ("length", r2_score), ("long", accuracy_score)):
        there = Y[name].notna().to_numpy()
        true, found = Y[name][there].tolist(), predicted[name].to_numpy()[there].tolist()
        assert_allclose(scores[name], metric(true, found, sample_weight=weights[there]))


def test_a_table_in_a_table_out(make_est, fitted):
    predicted = fitted.predict(X)
    assert list(predicted.columns) == ["topic", "length", "long"]
    assert predicted.dtypes.tolist() == Y.dtypes.tolist()
    assert predicted.index.tolist() == list(range(36))
    series = pd.Series(X, index=np.arange(36) + 50)
    assert fitted.predict(series).index.tolist() == series.index.tolist()
    y = pd.DataFrame(
        {
            "kind": pd.Categorical(TOPICS, ["sea", "moon", "food", "city"]),
            "stars": pd.array([i % 3 + 1 for i in range(35)] + [None], dtype="Int64"),
            "grade": [i % 3 for i in range(36)],
            "length": LENGTHS.astype(np.float32),
            "code": [float(i % 2) for i in range(35)] + [None],
        }
    )
    est = make_est(max_epochs=1, tasks={"grade": "regression"}).fit(X, y)
    assert est.tasks_ == ["classification"] * 2 + ["regression"] * 2 + ["classification"]
    found = est.predict(X).dtypes
    assert found.drop("grade").tolist() == y.dtypes.drop("grade").tolist()
    assert found["grade"] == np.float64  # numbers are not rounded
    assert set(est.predict(X)["code"]) <= {0.0, 1.0}


def test_a_polars_table(make_est):
    y = pl.DataFrame({"topic": [None, *TOPICS[1:]], "length": [*LENGTHS[:-1].tolist(), None]})
    est = make_est(max_epochs=1).fit(X, y)
    predicted = est.predict(X)
    assert isinstance(predicted, pl.DataFrame) and predicted.schema == y.schema
    assert np.isfinite(est.score(X, y))
    pandas = make_est(max_epochs=1).fit(X, y.to_pandas())
    assert_array_equal(pandas.predict(X)["length"], predicted["length"].to_numpy())


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        (np.column_stack([LENGTHS, -LENGTHS]), "float64"),
        (np.column_stack([LONG, ~LONG]), "bool"),
        (np.column_stack([LONG, LENGTHS > 5]).astype(int), "int64"),
        ([list(row) for row in zip(TOPICS, TOPICS[::-1])], "<U4"),
        ([list(row) for row in zip(TOPICS, LENGTHS)], "object"),
        (pa.table({"a": TOPICS, "b": LENGTHS}), "object"),
    ],
    ids=["numbers", "bools", "ints", "str", "mixed", "pyarrow"],
)
def test_an_array_out(y, dtype, make_est):
    predicted = make_est(max_epochs=1).fit(X, y).predict(X)
    assert isinstance(predicted, np.ndarray) and predicted.shape == (36, 2)
    assert predicted.dtype == dtype


def test_one_row_and_other_batches(fitted):
    whole = fitted.predict(X)["length"].to_numpy()
    few = copy.copy(fitted).set_params(max_batch_tokens=16).predict(X[:5])["length"].to_numpy()
    assert_allclose(few, whole[:5], rtol=1e-5)
    assert fitted.predict(X[:1]).shape == (1, 3)


def test_a_value_a_task_in_the_history(make_est):
    est = make_est(lr=1e-12, max_epochs=1, **STILL).fit(X, Y, X_val=X, y_val=Y)
    row = est.history_[0]
    scores, there = est.scores(X, Y), Y["length"].notna().to_numpy()
    for name in ("topic", "long"):
        assert_allclose(row[f"valid_accuracy_{name}"], scores[name])
        assert_allclose(row[f"train_accuracy_{name}"], scores[name])
    error = (est.predict(X)["length"].to_numpy() - Y["length"].to_numpy())[there]
    expected = np.mean(error**2) / est.target_scale_[1] ** 2
    assert_allclose(row["valid_squared_error_length"], expected, rtol=1e-5)
    none = Y.assign(length=np.nan)[:8]
    row = make_est(max_epochs=1).fit(X, Y, X_val=X[:8], y_val=none).history_[0]
    assert np.isnan(row["valid_squared_error_length"]) and np.isfinite(row["valid_loss"])


# --------------------------------------------------------------------------------- the loss


def masked_loss(outputs, targets, weights, sizes, factors):
    """The loss in plain torch: entry by entry, those that are missing left out."""
    total = outputs.new_zeros(())
    for i in range(len(outputs)):
        begin = 0
        for t, size in enumerate(sizes):
            z, y = outputs[i, begin : begin + size], targets[i, t]
            begin += size
            if torch.isnan(y):
                continue
            loss = (z[0] - y) ** 2 if size == 1 else F.cross_entropy(z, y.long())
            total = total + factors[t] * weights[i, t] * loss
    return total


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_loss_is_that_of_the_present_entries(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    n = 6
    outputs = torch.randn(n, sum(sizes), generator=generator, dtype=torch.float64)
    outputs.requires_grad_()
    columns = [
        torch.randn(n, generator=generator) if k == 1 else torch.arange(n) % k for k in sizes
    ]
    targets = torch.stack([column.double() for column in columns], dim=1)
    missing = torch.rand(targets.shape, generator=generator) < 0.4
    targets[missing] = torch.nan
    weights = torch.rand(targets.shape, generator=generator, dtype=torch.float64) * ~missing
    factors = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    found = MultiTaskLoss(sizes, factors)(outputs, targets, weights)
    expected = masked_loss(outputs, targets, weights, sizes, factors)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, outputs)
    if expected.requires_grad:  # else nothing is there
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])
    else:
        assert (gradient == 0).all()


@pytest.mark.parametrize("task_weights", [None, {"length": 5.0}, "balanced"])
def test_train_loss_by_hand(task_weights, make_est):
    est = make_est(lr=1e-12, max_epochs=1, task_weights=task_weights, **STILL)
    y = Y.assign(topic=Y["topic"].where(np.arange(36) < 12))
    weights = 1.0 + np.arange(36) % 3
    est.fit(X, y, sample_weight=weights, X_val=X, y_val=y)
    there = y.notna().to_numpy()
    losses = np.zeros((36, 3))
    proba = est.predict_proba(X)
    for j in (0, 2):
        rows = np.flatnonzero(there[:, j])
        codes = np.searchsorted(est.classes_[j], np.array(y.iloc[rows, j].tolist()))
        losses[rows, j] = -np.log(proba[j][rows, codes])
    error = (est.predict(X)["length"].to_numpy() - y["length"].to_numpy()) / est.target_scale_[1]
    losses[:, 1] = np.where(there[:, 1], error**2, 0.0)
    in_sum = weights @ there
    factors = np.array([1.0, 1.0 if task_weights is None else 5.0, 1.0])
    if task_weights == "balanced":
        factors = 1 / in_sum
    factors = factors / (factors @ in_sum) * in_sum.sum()
    # Validation rows weigh one; the training weights decide the factors alone.
    expected = (factors * losses).sum() / there.sum()
    assert_allclose(est.history_[0]["valid_loss"], expected, rtol=1e-4)
    one_batch = make_est(
        lr=1e-12, max_epochs=1, batch_size=36, task_weights=task_weights, **STILL
    ).fit(X, y, sample_weight=weights)
    expected = (weights[:, None] * factors * losses).sum() / in_sum.sum()
    assert_allclose(one_batch.history_[0]["train_loss"], expected, rtol=1e-4)


def test_only_proportions_of_task_weights_count(make_est):
    first = make_est(task_weights=[1.0, 2.0, 3.0], **STILL).fit(X, Y)
    second = make_est(task_weights={"topic": 10, "length": 20, "long": 30}, **STILL).fit(X, Y)
    assert_allclose(first.predict(X)["length"], second.predict(X)["length"], rtol=1e-5)


def test_a_task_without_weight_keeps_its_head(make_est):
    params = {"task_weights": {"length": 0.0}, "head_init": "random", "weight_decay": 0.0, **STILL}
    one = make_est(max_epochs=1, **params).fit(X, Y)
    two = make_est(max_epochs=3, **params).fit(X, Y)
    heads = [est.model_.head[1].out.weight for est in (one, two)]
    torch.testing.assert_close(*heads, rtol=0, atol=0)
    other = [est.model_.head[0].out.weight for est in (one, two)]
    assert not torch.equal(*other)


# --------------------------------------------------------------------------- missing entries


class Gradients(Callback):
    """Keeps the gradients of the last batch in the net."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        found = {name: p.grad for name, p in named_parameters if p.grad is not None}
        net.kept_ = {
            name.removeprefix("module_."): gradient.clone() for name, gradient in found.items()
        }


ONE_STEP = {
    "max_epochs": 1,
    "weight_decay": 0.0,
    "batch_size": 72,
    "head_init": "random",
    "optimizer": "sgd",
    **STILL,
}


def test_stacked_sets_give_the_gradients_of_their_entries(make_est):
    # Texts with a topic, other texts with a length, one below the other.
    first, second = X[:20], X[20:]
    y = [[topic, None] for topic in TOPICS[:20]] + [[None, length] for length in LENGTHS[20:]]
    backbone = Backbone(make_est().backbone, compact_vocabulary=False)
    both = make_est(backbone=backbone, lr=1e-12, callbacks=[Gradients()], **ONE_STEP)
    found, start = both.fit(first + second, y).net_.kept_, both.model_
    codes = torch.tensor([both.classes_[0].tolist().index(topic) for topic in TOPICS[:20]])
    numbers = torch.tensor((LENGTHS[20:] - LENGTHS[20:].mean()) / LENGTHS[20:].std()).float()

    def outputs(texts):
        encoded = both.tokenizer_(texts, padding=True, return_tensors="pt")
        vectors = start.encode(encoded["input_ids"], encoded["attention_mask"])
        each = torch.arange(len(texts))
        return start.logits(vectors, torch.ones_like(each), each.unsqueeze(1))

    loss = F.cross_entropy(outputs(first)[:, :3], codes, reduction="sum")
    loss = loss + ((outputs(second)[:, 3] - numbers) ** 2).sum()
    (loss / 36).backward()
    expected = {name: p.grad for name, p in start.named_parameters() if p.grad is not None}
    assert found.keys() <= expected.keys() and "head.1.out.weight" in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_missing_entry_may_be_anything(make_est):
    # None, NaN and NA are the same, in tables, lists and arrays.
    def column(missing):
        return [missing if i % 3 == 0 else float(v) for i, v in enumerate(LENGTHS)]

    tables = [
        pd.DataFrame({"a": TOPICS, "b": column(np.nan)}),
        pd.DataFrame({"a": TOPICS, "b": pd.array(column(None), dtype="Float64")}),
        pl.DataFrame({"a": TOPICS, "b": column(None)}),
        [list(row) for row in zip(TOPICS, column(None))],
        np.array(list(zip(TOPICS, column(np.nan))), dtype=object),
    ]
    found = [np.asarray(make_est(max_epochs=1).fit(X, y).predict(X))[:, 1] for y in tables]
    for other in found[1:]:
        assert_array_equal(other.astype(float), found[0].astype(float))


def test_rows_without_any_entry_are_as_if_they_were_not_there(make_est):
    y = [[topic, length] for topic, length in zip(TOPICS, LENGTHS)]
    plain = make_est().fit(X, y)
    more = make_est().fit([*X, "the boat", "salty"], [*y, [None, None], [np.nan, None]])
    assert_array_equal(plain.predict(X), more.predict(X))
    assert len(plain.net_.history) == len(more.net_.history)


def test_stacked_sets_train_as_well_as_each_alone(make_est):
    params = {"lr": 5e-3, "max_epochs": 10}
    y = [[topic, None] for topic in TOPICS] + [[None, length] for length in LENGTHS]
    both = make_est(**params).fit(X + X[::-1], [*y[:36], *y[36:][::-1]])
    scores = both.scores(X, [list(row) for row in zip(TOPICS, LENGTHS)])
    classifier = make_est(TransformerSequenceClassifier, **params).fit(X, TOPICS)
    regressor = make_est(TransformerSequenceRegressor, **params).fit(X, LENGTHS)
    assert scores[0] > classifier.score(X, TOPICS) - 0.1
    assert scores[1] > regressor.score(X, LENGTHS) - 0.1


def test_a_split_takes_equal_shares_of_the_sets():
    y = [["a", None]] * 10 + [["b", None]] * 10 + [[None, 0.5]] * 5 + [["a", 1.5]] * 5
    table = check_tasks(y, X[:30], None, "Estimator")
    coding = TaskCoding.of(table, np.ones(30), None)
    strata = coding.encode(table, np.ones(30), "y").strata
    assert sorted(np.bincount(strata)) == [5, 5, 10, 10]
    assert all(len(set(strata[part])) == 1 for part in np.split(np.arange(30), [10, 20, 25]))


@pytest.mark.parametrize("max_batch_tokens", [20, 60])
@pytest.mark.parametrize("head", [Linear(dropout=0.0), MLPHead((8,), dropout=0.0, batch_norm=True)])
def test_batches_in_groups_are_the_same(head, max_batch_tokens, make_est):
    params = {"head": head, "optimizer": "sgd", "lr": 0.01}  # no 0 / 0 of tiny gradients
    whole = make_est(**params).fit(X, Y)
    parts = make_est(**params, max_batch_tokens=max_batch_tokens).fit(X, Y)
    assert_allclose(parts.history_[-1]["train_loss"], whole.history_[-1]["train_loss"], rtol=1e-4)
    predicted = [est.predict(X)["length"].to_numpy() for est in (whole, parts)]
    assert_allclose(*predicted, rtol=1e-3)


# ---------------------------------------------------------------------- one task is one task


@pytest.mark.parametrize("head", ["linear", MLPHead((8,)), MLPHead((8,), batch_norm=True)])
@pytest.mark.parametrize("head_init", ["probe", "random"])
def test_one_column_is_the_single_estimator(head_init, head, make_est):
    params = {"head": head, "head_init": head_init}
    classifier = make_est(TransformerSequenceClassifier, **params).fit(X, TOPICS)
    one = make_est(**params).fit(X, [[topic] for topic in TOPICS])
    assert_allclose(one.predict_proba(X)[0], classifier.predict_proba(X), rtol=1e-4)
    regressor = make_est(TransformerSequenceRegressor, **params).fit(X, LENGTHS)
    one = make_est(**params).fit(X, LENGTHS[:, None])
    assert one.tasks_ == ["regression"]
    assert_allclose(one.predict(X)[:, 0], regressor.predict(X), rtol=1e-4)


def test_pairs_are_read_as_by_the_pair_classifier(make_est):
    pairs = make_est(PairClassifier).fit(PAIRS, TOPICS)
    one = make_est().fit(PAIRS, [[topic] for topic in TOPICS])
    assert one.n_texts_ == 2
    assert_allclose(one.predict_proba(PAIRS)[0], pairs.predict_proba(PAIRS), rtol=1e-4)
    table = pd.DataFrame(PAIRS, columns=["a", "b"])
    other = make_est().fit(table, [[topic] for topic in TOPICS])
    assert other.feature_names_in_.tolist() == ["a", "b"]
    assert_array_equal(other.predict_proba(table)[0], one.predict_proba(PAIRS)[0])
    assert_array_equal(one.predict(np.array(PAIRS)), one.predict(PAIRS))
    with pytest.raises(ValueError, match=r"X has 1 text\(s\) a row, but training was with 2"):
        one.predict(X)


def test_each_head_starts_from_its_own_probe(make_est):
    params = {"lr": 1e-12, "max_epochs": 1, **STILL}
    est = make_est(**params).fit(X, Y)
    rows = np.flatnonzero(Y["topic"].notna())
    alone = make_est(TransformerSequenceClassifier, **params)
    alone.fit([X[i] for i in rows], Y["topic"].iloc[rows])
    assert_allclose(est.predict_proba(X)[0], alone.predict_proba(X), rtol=1e-3, atol=1e-4)
    rows = np.flatnonzero(Y["length"].notna())
    alone = make_est(TransformerSequenceRegressor, **params)
    alone.fit([X[i] for i in rows], Y["length"].iloc[rows])
    assert_allclose(est.predict(X)["length"], alone.predict(X), rtol=1e-3)


def test_the_probe_has_rows_of_every_task(monkeypatch):
    monkeypatch.setattr("sktransformers.training.probe.MAX_ROWS", 10)
    there = np.zeros((1000, 3), dtype=bool)
    there[:990, 0], there[990:, 1], there[::50, 2] = True, True, True
    rows = probe_rows(there, np.random.default_rng(0))
    assert there[rows].sum(axis=0).min() >= 10 and len(rows) <= 30
    assert (np.diff(rows) > 0).all()


# --------------------------------------------------------------- scikit-learn and its habits


def test_integer_cv_is_k_fold(make_est):
    assert isinstance(check_cv(3, Y, classifier=is_classifier(make_est())), KFold)
    scores = cross_val_score(make_est(), X, Y, cv=3, error_score="raise")
    assert scores.shape == (3,) and np.isfinite(scores).all()
    rows = [list(row) for row in zip(TOPICS, LENGTHS)]
    assert np.isfinite(cross_val_score(make_est(max_epochs=1), X, rows, cv=2)).all()
    predicted = cross_val_predict(make_est(max_epochs=1), X, Y, cv=2)
    assert predicted.shape == (36, 3)


def test_searches_and_pipelines(make_est):
    pipe = make_pipeline(FunctionTransformer(), make_est(max_epochs=1))
    grid = {"multitasksequenceestimator__task_weights": [None, "balanced", {"length": 2.0}]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, Y)
    assert list(search.predict(X).columns) == list(Y.columns)


def test_pickle_clone_and_repetition(fitted):
    copied = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(copied.predict(X), fitted.predict(X))
    again = clone(fitted).fit(X, Y)
    pd.testing.assert_frame_equal(again.predict(X), fitted.predict(X))
    assert not clone(fitted).__sklearn_is_fitted__()


def test_sample_weights(make_est):
    weights = (np.arange(36) % 3 > 0).astype(float)
    kept = np.flatnonzero(weights)
    one = make_est().fit(X, Y, sample_weight=weights)
    two = make_est().fit([X[i] for i in kept], Y.iloc[kept])
    pd.testing.assert_frame_equal(one.predict(X), two.predict(X))


@pytest.mark.parametrize("scoring", ["loss", None])
def test_early_stopping(scoring, make_est):
    est = make_est(early_stopping=True, scoring=scoring, validation_fraction=0.3).fit(X, Y)
    name = "valid_loss" if scoring else "valid_score"
    assert all(np.isfinite(row[name]) for row in est.history_)


def test_a_scorer_of_scikit_learn_where_it_can_be(make_est):
    numbers = np.column_stack([LENGTHS, -LENGTHS])
    est = make_est(early_stopping=True, scoring="r2").fit(X, numbers)
    assert all(np.isfinite(row["valid_score"]) for row in est.history_)


def test_warm_start(make_est):
    est = make_est(warm_start=True).fit(X, Y)
    before = est.predict(X)
    few = Y[:9].assign(topic=None)  # not all tasks need be there again
    est.set_params(lr=1e-12, max_epochs=1).fit(X[:9], few)
    assert_allclose(est.predict(X)["length"], before["length"], rtol=1e-4)
    assert list(est.predict(X).columns) == list(Y.columns) and est.n_iter_ == 3
    with pytest.raises(ValueError, match=r"y\['topic'\]\[0\] is 'moon', which is none of the 3"):
        est.fit(X, Y.assign(topic="moon"))
    with pytest.raises(ValueError, match="y has 2 columns, but training was with 3"):
        est.fit(X, Y[["topic", "length"]])
    with pytest.raises(ValueError, match=r"y has the columns \['long', 'length', 'topic'\]"):
        est.fit(X, Y[["long", "length", "topic"]])
    with pytest.raises(ValueError, match=r"X has 2 text\(s\) a row, but training was with 1"):
        est.fit(PAIRS, Y)
    est.set_params(tasks={"long": "classification"}).fit(X, Y)  # as it is
    est.set_params(tasks={"long": "regression"})
    for go_on in (est.fit, est.partial_fit):
        with pytest.raises(ValueError, match=r"tasks says 'regression' for y\['long'\], but the f"):
            go_on(X, Y)


def test_partial_fit(make_est):
    est = make_est().partial_fit(X, Y)
    first = est.predict(X)["length"].to_numpy()
    est.partial_fit(X[:12], Y[:12])
    assert est.n_iter_ == 2 and not np.array_equal(est.predict(X)["length"], first)


def test_windows_and_replay(make_est):
    long_texts = [text + " the boat" * 40 for text in X]
    est = make_est(long_text="window", replay=10, warm_start=True).fit(long_texts, Y)
    assert np.isfinite(est.fit(long_texts[:20], Y[:20]).predict(long_texts)["length"]).all()


@pytest.mark.parametrize("finetune", ["head", 1, GradualUnfreezing(), BitFit()])
def test_strategies(finetune, make_est):
    est = make_est(finetune=finetune, max_epochs=3).fit(X, Y)
    parts = {part.name: part.n_trained for part in est.summary().parts}
    assert parts["head"] == 32 * 6 + 6  # all heads together
    assert np.isfinite(est.predict(X)["length"]).all()


def test_find_lr(make_est):
    assert len(make_est().find_lr(X, Y, n_steps=5).losses) == 5


def test_not_fitted(make_est):
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(make_est(), method)(X)
    with pytest.raises(NotFittedError):
        make_est().score(X, Y)


# ------------------------------------------------------------------- which columns are what


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["a", "b", None], "classification"),
        ([True, False, None], "classification"),
        ([1, 2, 3], "classification"),
        ([1.0, np.nan, 2.0], "classification"),
        ([1.0, 2.0, 3.0], "classification"),
        ([1.0, np.nan, 2.5], "regression"),
        ([-1, 0.25, None], "regression"),
        (pd.Categorical([0.5, 1.5, 0.5]), "classification"),
        (pd.array([1, None, 2], dtype="Int64"), "classification"),
        (np.array([1.5, 2.5, 3.5], dtype=np.float32), "regression"),
    ],
    ids=[
        "str",
        "bool",
        "int",
        "int with NaN",
        "whole floats",
        "fractions with NaN",
        "object",
        "categories",
        "Int64",
        "float32",
    ],
)
def test_what_a_column_is_for(column, kind):
    y = pd.DataFrame({"t": column, "u": [0.5, 1.5, 2.5]})
    assert check_tasks(y, X[:3], None, "Estimator").kinds == [kind, "regression"]
    if kind == "classification" and isinstance(column, list) and not isinstance(column[0], str):
        assert check_tasks(y, X[:3], {"t": "regression"}, "Estimator").kinds[0] == "regression"
        assert check_tasks(y, X[:3], ["regression"] * 2, "Estimator").kinds[0] == "regression"


def test_many_whole_numbers_are_worth_a_word(make_est):
    y = pd.DataFrame({"price": [float(100 * i) for i in range(36)], "topic": TOPICS})
    with pytest.warns(UserWarning, match=r"y\['price'\] has 36 whole numbers .*'regression'}"):
        make_est(max_epochs=1).fit(X, y)
    with warnings.catch_warnings(action="error"):
        est = make_est(max_epochs=1, tasks={"price": "regression"}).fit(X, y)
        assert est.tasks_[0] == "regression"
        est = make_est(max_epochs=1, head_init="random", tasks={"price": "classification"})
        assert len(est.fit(X, y).classes_[0]) == 36  # as asked


def test_texts_or_pairs():
    assert texts_or_pairs(["a", "b"]) == ["a", "b"]
    assert texts_or_pairs(("a", "b")) == ("a", "b")
    assert texts_or_pairs([("a", "b"), ["c", "d"]]) == [("a", "b"), ("c", "d")]
    assert texts_or_pairs(np.array([["a", "b"], ["c", "d"]])) == [("a", "b"), ("c", "d")]
    assert texts_or_pairs(np.array([["a"], ["b"]])) == ["a", "b"]


# ---------------------------------------------------------------------------- what is refused


@dataclass
class Bad:
    message: str  # a regular expression
    data: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = ValueError


def with_entry(i, name, value):
    y = frame().astype(object)
    y.iloc[i, list(Y.columns).index(name)] = value
    return y


ROWS = [list(row) for row in zip(TOPICS, LENGTHS)]
CASES = {
    "no y": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "length": Bad("inconsistent.* X has 36 rows, y has 35", {"y": Y[:-1]}),
    "one-dimensional": Bad(r"y\[0\] is a value of type str; expected a column", {"y": TOPICS}),
    "a Series": Bad(r"y has 1 dimension\(s\); expected a column", {"y": Y["topic"]}),
    "no columns": Bad("y has no columns", {"y": Y[[]]}),
    "ragged": Bad(r"y\[2\] has 1 entries and y\[0\] 2", {"y": [*ROWS[:2], ["a"], *ROWS[3:]]}),
    "two of a name": Bad("two columns with the name 'topic'", {"y": pd.concat([Y, Y], axis=1)}),
    "no entry": Bad(
        r"y\['length'\] has no entry: there is nothing to learn", {"y": frame(length=np.nan)}
    ),
    "no entry of an array": Bad(
        r"y\[:, 1\] has no entry", {"y": [[topic, None] for topic in TOPICS]}
    ),
    "no entry that weighs": Bad(
        r"y\['length'\] has no entry", {"sample_weight": Y["length"].isna().to_numpy() * 1.0}
    ),
    "one class": Bad(
        r"at least two classes; y\['topic'\] has 1 class: 'sea'", {"y": frame(topic="sea")}
    ),
    "mixed": Bad(
        r"y\['topic'\] mixes strings .*\[0\] is 'food', y\['topic'\]\[3\] is 7",
        {"y": with_entry(3, "topic", 7)},
    ),
    "infinite": Bad(r"y\['length'\]\[1\] is inf", {"y": with_entry(1, "length", np.inf)}),
    "a list": Bad(
        r"y\['topic'\]\[0\] is a value of type list", {"y": with_entry(0, "topic", ["a"])}
    ),
    "a date": Bad(
        r"y\['length'\]\[0\] is a value of type Timestamp",
        {"y": with_entry(0, "length", pd.Timestamp("2020"))},
    ),
    "text of a missing entry": Bad(
        r"y\[1, 0\] is the text 'nan': NumPy makes text",
        {"y": np.array([["a", "b"], [np.nan, "b"], *[["b", "c"]] * 34])},
    ),
    "fractions as classes": Bad(
        r"y\['length'\]\[0\] is .*; a column for classification holds",
        params={"tasks": {"length": "classification"}},
    ),
    "text as numbers": Bad(
        r"y\['topic'\]\[0\] is a value of type str; a column for regression holds numbers",
        params={"tasks": {"topic": "regression"}},
    ),
    "an unknown task": Bad(
        r"tasks names the column 'colour', which y does not have; its columns are \['topic'",
        params={"tasks": {"colour": "regression"}},
    ),
    "too few tasks": Bad("tasks=.* is not one value for each", params={"tasks": ["regression"]}),
    "a kind that is none": Bad(
        r"tasks says 'ranking' for y\['topic'\]; expected 'classification' or 'regression'",
        params={"tasks": {"topic": "ranking"}},
    ),
    "weight of an unknown task": Bad(
        "task_weights names the column 'colour'", params={"task_weights": {"colour": 1.0}}
    ),
    "weight by number": Bad("task_weights names the column 0", params={"task_weights": {0: 1.0}}),
    "too few weights": Bad("task_weights=.* is not one value", params={"task_weights": [1.0]}),
    "negative weight": Bad(
        r"task_weights\['long'\] is -1; expected a number of at least 0",
        params={"task_weights": {"long": -1}},
    ),
    "a weight that is none": Bad(
        r"task_weights\['long'\] is 'much'", params={"task_weights": {"long": "much"}}
    ),
    "no weight at all": Bad("weight of zero", params={"task_weights": [0, 0, 0]}),
    "weights": Bad("'task_weights' parameter of Multi", params={"task_weights": "even"}),
    "native": Bad(
        "head='native': the head of a backbone's family .* gives each task its own",
        params={"head": "native"},
    ),
    "head": Bad("'head' parameter of Multi", params={"head": "mlp"}),
    "X": Bad(r"^X\[3\] is missing", {"X": [*X[:3], None, *X[4:]]}),
    "texts and pairs": Bad(r"^X\[1\] is a value of type tuple", {"X": [X[0], ("a", "b"), *X[2:]]}),
    "pairs and texts": Bad(r"^X\[1\] is a value of type str", {"X": [PAIRS[0], *X[1:]]}),
    "three columns": Bad("^X has 3 columns", {"X": pd.DataFrame({"a": X, "b": X, "c": X})}),
    "bare string": Bad("^X is one single str", {"X": "text"}),
    "an iterator": Bad("^X is of type", {"X": iter(X)}, error=TypeError),
    "half of a validation set": Bad("belong together", {"X_val": X}),
    "validation class": Bad(
        r"y_val\['topic'\]\[2\] is 'moon', which is none of the 3 classes",
        {"X_val": X, "y_val": with_entry(2, "topic", "moon")},
    ),
    "validation columns": Bad(
        "y_val has 2 columns, but training was with 3", {"X_val": X, "y_val": ROWS}
    ),
    "validation of pairs": Bad(
        r"X_val has 2 text\(s\) a row, but training was with 1", {"X_val": PAIRS, "y_val": Y}
    ),
    "columns of an array in validation": Bad(
        r"tasks names the column 'long', which y_val does not have; its columns are \[0, 1, 2\]",
        {"X_val": X, "y_val": Y.to_numpy()},
        {"tasks": {"long": "classification"}},
    ),
    "a scorer of one task": Bad(
        r"scoring='accuracy' compares all of y at once, but .* tasks of classes. Pass scoring=None",
        params={"scoring": "accuracy", "early_stopping": True},
    ),
    "a scorer of whole rows": Bad(
        "scoring='r2' compares all of y at once, but the validation rows have missing entries",
        {"y": Y[["length"]], "X_val": X, "y_val": Y[["length"]]},
        {"scoring": "r2"},
    ),
    "text for a number in validation": Bad(
        r"y_val\['length'\]\[\d+\] is a value of type str; training was with numbers there",
        {"X_val": X, "y_val": frame(length=TOPICS)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_loaded(name, make_est, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    case = CASES[name]
    est = make_est(**case.params)
    before = dict(vars(est))
    with pytest.raises(case.error, match=case.message):
        est.fit(**{"X": X, "y": Y, **case.data})
    assert vars(est) == before


def test_scores_that_cannot_be(fitted):
    with pytest.raises(ValueError, match="y has no entries to score"):
        fitted.score(X, Y.assign(topic=None, length=np.nan, long=None))
    scores = fitted.scores(X, Y.assign(topic=None))
    assert np.isnan(scores["topic"]) and np.isfinite(scores["length"])
    assert fitted.score(X, Y.assign(topic=None)) == (scores["length"] + scores["long"]) / 2
    with pytest.raises(ValueError, match="y has the columns"):
        fitted.score(X, Y[["long", "length", "topic"]])
    with pytest.raises(ValueError, match="y has 2 columns, but training was with 3"):
        fitted.score(X, Y[["topic", "length"]])
    with pytest.raises(
        ValueError, match=r"y\['length'\]\[\d+\] is a value of type str.* holds numbers"
    ):
        fitted.score(X, Y.assign(length=TOPICS))
    assert fitted.scores(X, Y.assign(topic="moon"))["topic"] == 0.0


def test_no_checkpoint(plain_backbone):
    with pytest.raises(ValueError, match="head of a backbone's family has the outputs of one"):
        MultiTaskSequenceEstimator.from_pretrained(plain_backbone)
