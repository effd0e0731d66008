"""Numbers for texts: one a text or several, standardised inside."""

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
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_estimator_checks import (  # noqa: F401 (the fixtures)
    EXPECTED_FAILURES,
    ONE_BATCH,
    NumbersAsWords,
    directory,
    in_directory,
    make,
    parametrize_with_weight_checks,
)
from test_native import checkpoints, logits_of  # noqa: F401 (a fixture)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sktransformers import (
    HuberLoss,
    Linear,
    MLPHead,
    PairRegressor,
    SquaredError,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)
from sktransformers.modules import losses
from sktransformers.training import loading, probe
from sktransformers.training.probe import ridge_probe

X, LABELS = make_texts(36)
LENGTHS = np.array([float(len(text.split())) for text in X])
SEA = np.array([1.0 if label == "sea" else -1.0 for label in LABELS])
BOTH = np.column_stack([LENGTHS, 100.0 + 7.0 * SEA])
EXACT = {"batch_size": 36, "head": Linear(dropout=0.0), "warmup": 0.0}


@pytest.fixture(scope="module")
def plain_backbone(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("plain"), **NO_DROPOUT)


@pytest.fixture(scope="module")
def make_reg(plain_backbone):
    """A function that makes a regressor on a tiny backbone without dropout."""

    def make_one(cls=TransformerSequenceRegressor, **params):
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

    return make_one


# ------------------------------------------------------------------- the estimator's contract


class RegressorOfNumbers(NumbersAsWords, TransformerSequenceRegressor):
    pass


@parametrize_with_checks(
    [make(RegressorOfNumbers, max_epochs=3)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_checks_for_numbers(estimator, check):
    check(estimator)


@parametrize_with_weight_checks([make(RegressorOfNumbers, **ONE_BATCH)])
def test_checks_for_numbers_in_one_batch(estimator, check):
    check(estimator)


with warnings.catch_warnings(action="ignore", category=SkipTestWarning):
    checks_for_text = parametrize_with_checks([make(TransformerSequenceRegressor)])


@checks_for_text
def test_checks_for_text(estimator, check):
    check(estimator)


def test_is_a_regressor_of_several_outputs(make_reg):
    reg = make_reg()
    assert is_regressor(reg) and get_tags(reg).target_tags.multi_output
    assert get_tags(PairRegressor()).target_tags.multi_output
    missing = PairRegressor().get_params().keys() ^ reg.get_params().keys()
    assert missing == {"interaction", "symmetric"}


# ---------------------------------------------------------------------------- one output


def test_learns_a_number(make_reg):
    reg = make_reg(lr=5e-3, max_epochs=10).fit(X, SEA)
    predicted = reg.predict(X)
    assert predicted.shape == (36,) and predicted.dtype == np.float64
    assert reg.score(X, SEA) == r2_score(SEA, predicted) > 0.8
    assert isinstance(reg.target_mean_, float) and isinstance(reg.target_scale_, float)


def test_one_column_is_one_number(make_reg):
    with pytest.warns(Warning, match="column-vector"):
        reg = make_reg().fit(X, LENGTHS[:, None])
    assert_array_equal(reg.predict(X), make_reg().fit(X, LENGTHS).predict(X))


@pytest.mark.filterwarnings("ignore:A column-vector")
def test_one_column_of_a_table_or_a_sparse_matrix(make_reg):
    expected = make_reg(max_epochs=1).fit(X, SEA).predict(X)
    for y in (pa.table({"a": SEA}), scipy.sparse.csr_array(SEA[:, None])):
        assert_array_equal(make_reg(max_epochs=1).fit(X, y).predict(X), expected)


def test_pickle_clone_and_searches(make_reg):
    reg = make_reg().fit(X, BOTH)
    assert_array_equal(pickle.loads(pickle.dumps(reg)).predict(X), reg.predict(X))
    assert_array_equal(clone(reg).fit(X, BOTH).predict(X), reg.predict(X))
    scores = cross_val_score(make_reg(), X, BOTH, cv=3, error_score="raise")
    assert scores.shape == (3,) and np.isfinite(scores).all()
    assert cross_val_predict(make_reg(), X, BOTH, cv=2).shape == (36, 2)
    pipe = make_pipeline(FunctionTransformer(), make_reg(max_epochs=1))
    grid = {"transformersequenceregressor__loss": ["huber", "squared_error"]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, BOTH)
    assert search.predict(X).shape == (36, 2)


# -------------------------------------------------------------------------- several outputs


@pytest.mark.parametrize("cls", [TransformerSequenceRegressor, PairRegressor])
def test_learns_several_numbers(cls, make_reg):
    rows = X if cls is TransformerSequenceRegressor else [(text, "the boat") for text in X]
    reg = make_reg(cls, lr=5e-3, max_epochs=12).fit(rows, BOTH)
    predicted = reg.predict(rows)
    assert predicted.shape == (36, 2) and predicted.dtype == np.float64
    each = r2_score(BOTH, predicted, multioutput="raw_values")
    assert (each > 0.5).all()
    assert_allclose(reg.score(rows, BOTH), each.mean())
    assert_allclose(reg.target_mean_, BOTH.mean(axis=0))
    assert_allclose(reg.target_scale_, BOTH.std(axis=0))


def test_each_output_is_standardised_by_itself(make_reg):
    reg = make_reg(**EXACT).fit(X, BOTH)
    scale, shift = np.array([1e6, 1e-6]), np.array([-1e9, 5.0])
    other = make_reg(**EXACT).fit(X, BOTH * scale + shift)
    assert_allclose((other.predict(X) - shift) / scale, reg.predict(X), rtol=1e-4)


def test_equal_outputs_are_one_output(make_reg):
    # The loss is the mean over outputs: of twice the same it is that of one.
    one = make_reg(**EXACT, optimizer="sgd", weight_decay=0.0, lr=0.01)
    params = {name: value for name, value in one.get_params(deep=False).items()}
    twice = type(one)(**params).fit(X, np.column_stack([SEA, SEA]))
    one.fit(X, SEA)
    first = [row["train_loss"] for row in (one.history_[0], twice.history_[0])]
    assert_allclose(*first, rtol=1e-5)
    assert_allclose(twice.predict(X)[:, 0], twice.predict(X)[:, 1], rtol=1e-5)


def test_weighted_mean_and_scale_of_each(make_reg):
    weights = np.arange(36) % 3
    reg = make_reg(max_epochs=1).fit(X, BOTH, sample_weight=weights)
    assert_allclose(reg.target_mean_, np.average(BOTH, axis=0, weights=weights))
    assert reg.score(X, BOTH, weights) == r2_score(BOTH, reg.predict(X), sample_weight=weights)


def test_a_constant_output(make_reg):
    y = np.column_stack([SEA, np.full(36, 5.0)])
    reg = make_reg().fit(X, y)
    assert_allclose(reg.target_scale_, [SEA.std(), 1.0])
    assert_allclose(reg.predict(X)[:, 1], 5.0, atol=0.5)


@pytest.mark.parametrize("loss", [SquaredError(), HuberLoss(delta=0.7)])
def test_loss_by_hand(loss, make_reg):
    reg = make_reg(loss=loss, lr=1e-12, max_epochs=1).fit(X, BOTH, X_val=X, y_val=BOTH)
    error = torch.from_numpy((reg.predict(X) - BOTH) / reg.target_scale_)
    zero = torch.zeros_like(error)
    if isinstance(loss, HuberLoss):
        expected = torch.nn.functional.huber_loss(error, zero, delta=0.7)
    else:
        expected = torch.nn.functional.mse_loss(error, zero)
    assert_allclose(reg.history_[0]["valid_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("criterion", [losses.SquaredError(), losses.Huber(0.5)])
def test_losses_of_several_outputs(criterion):
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 5, 3, generator=generator)
    weights = torch.rand(5, generator=generator)
    each = [criterion(outputs[:, [j]], targets[:, j], weights) for j in range(3)]
    torch.testing.assert_close(criterion(outputs, targets, weights), sum(each) / 3)


def test_batches_in_groups_are_the_same(make_reg):
    whole = make_reg(head=Linear(dropout=0.0)).fit(X, BOTH)
    parts = make_reg(head=Linear(dropout=0.0), max_batch_tokens=24).fit(X, BOTH)
    assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-4, atol=1e-4)


CONTAINERS = {
    "list of lists": lambda y: y.tolist(),
    "list of tuples": lambda y: [tuple(row) for row in y.tolist()],
    "float32": lambda y: y.astype(np.float32),
    "object": lambda y: y.astype(object),
    "pandas": lambda y: pd.DataFrame(y, columns=["a", "b"], index=np.arange(36)[::-1]),
    "pandas Float64": lambda y: pd.DataFrame(y, columns=["a", "b"], dtype="Float64"),
    "polars": lambda y: pl.DataFrame({"a": y[:, 0], "b": y[:, 1]}),
    "pyarrow": lambda y: pa.table({"a": y[:, 0], "b": y[:, 1]}),
    "sparse": scipy.sparse.csr_array,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
def test_numbers_in_a_container(container, make_reg):
    y = CONTAINERS[container](BOTH)
    reg = make_reg(max_epochs=1).fit(X, y)
    assert_array_equal(reg.predict(X), make_reg(max_epochs=1).fit(X, BOTH).predict(X))
    named = container.startswith("p")
    names = ["a", "b"] if named else ["0", "1"]
    assert list(reg.model_.config.id2label.values()) == names


def test_warm_start_and_validation(make_reg):
    reg = make_reg(warm_start=True, max_epochs=1).fit(X, BOTH, X_val=X, y_val=BOTH)
    mean, before = reg.target_mean_, reg.predict(X)
    reg.set_params(lr=1e-12).fit(X[:10], 3 + BOTH[:10])
    assert_array_equal(reg.target_mean_, mean)
    assert_allclose(reg.predict(X), before, rtol=1e-4)
    with pytest.raises(ValueError, match=r"y has 1 column\(s\), but training was with 2 output"):
        reg.fit(X, SEA)
    reg = make_reg(early_stopping=True, scoring="r2").fit(X, BOTH)
    assert all(np.isfinite(row["valid_score"]) for row in reg.history_)


# ---------------------------------------------------------------------------------- the probe


def some_numbers(n=60, width=7, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)) + 3.0
    values = vectors @ rng.normal(size=(width, 3)) + np.array([0.1, 1.0, 9.0]) * rng.normal(
        size=(n, 3)
    )
    return vectors, (values - values.mean(axis=0)) / values.std(axis=0)


@pytest.mark.parametrize("n", [60, 2500])  # more than choose the penalties
@pytest.mark.parametrize("weighted", [False, True])
def test_probe_of_several_outputs_is_one_of_each(n, weighted):
    vectors, values = some_numbers(n)
    values[:, 1] = values[:, 1] if n == 60 else 0.25  # one of them constant
    weights = np.random.default_rng(1).uniform(0.2, 3, n) if weighted else np.ones(n)
    coef, intercept = ridge_probe(vectors, values, weights, np.random.default_rng(0))
    assert coef.shape == (3, 7) and intercept.shape == (3,)
    for j in range(3):
        alone = ridge_probe(vectors, values[:, j], weights, np.random.default_rng(0))
        assert_allclose(coef[[j]], alone[0], rtol=1e-6, atol=1e-9)
        assert_allclose(intercept[[j]], alone[1], rtol=1e-6, atol=1e-9)


def test_probe_is_the_ridge_regression_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(probe, "_PENALTIES", np.array([0.1]))
    monkeypatch.setattr(probe, "_shrinking_factor", lambda *args: 1.0)
    monkeypatch.setattr(probe, "SHARE", 1.0)
    vectors, values = some_numbers()
    coef, intercept = ridge_probe(vectors, values, np.ones(60), np.random.default_rng(0))
    scaled = (vectors - vectors.mean(axis=0)) / (vectors - vectors.mean(axis=0)).std()
    reference = Ridge(0.1 * 60).fit(scaled, values).predict(scaled)
    assert_allclose(vectors @ coef.T + intercept, reference, atol=1e-9)


def test_starts_from_the_probe(make_reg):
    reg = make_reg(lr=1e-12, max_epochs=1, head=Linear(dropout=0.0)).fit(X, BOTH)
    alone = [make_reg(lr=1e-12, max_epochs=1).fit(X, BOTH[:, j]).predict(X) for j in range(2)]
    assert_allclose(reg.predict(X), np.column_stack(alone), rtol=1e-3)
    assert reg.score(X, BOTH) > 0.2


@pytest.mark.parametrize(
    "head", [MLPHead((8,)), MLPHead((8,), batch_norm=True), Linear(activation="tanh"), "native"]
)
def test_heads(head, make_reg):
    pooling = "auto" if head == "native" else "mean"
    reg = make_reg(head=head, pooling=pooling).fit(X, BOTH)
    assert np.isfinite(reg.predict(X)).all()


# ------------------------------------------------------------------------------- checkpoints


def test_checkpoint_of_several_outputs(checkpoints):  # noqa: F811
    names = ["valence", "arousal", "dominance"]
    name = checkpoints(names=names, problem_type="regression")
    reg = TransformerSequenceRegressor.from_pretrained(name, device="cpu")
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    logits = logits_of(model, AutoTokenizer.from_pretrained(name), X)
    assert_allclose(reg.predict(X), logits, rtol=0, atol=1e-5)
    assert reg.target_mean_.tolist() == [0.0] * 3 and reg.target_scale_.tolist() == [1.0] * 3
    assert list(reg.model_.config.id2label.values()) == names
    reg.set_params(warm_start=True, lr=1e-12, max_epochs=1).fit(X, logits)
    assert_allclose(reg.predict(X), logits, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="gives several of its outputs the same name"):
        TransformerSequenceRegressor.from_pretrained(
            checkpoints(names=["a", "a"], problem_type="regression")
        )
    with pytest.raises(ValueError, match=r"has 3 outputs .* no checkpoint for regression"):
        TransformerSequenceRegressor.from_pretrained(checkpoints())
    with pytest.raises(ValueError, match="is a checkpoint for regression"):
        TransformerSequenceClassifier.from_pretrained(name)


def test_checkpoint_of_one_output(checkpoints):  # noqa: F811
    name = checkpoints(names=["LABEL_0"], problem_type="regression")
    reg = TransformerSequenceRegressor.from_pretrained(name, device="cpu")
    assert reg.predict(X).shape == (36,)


# ---------------------------------------------------------------------------- what is refused


@dataclass
class Bad:
    message: str  # a regular expression
    data: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


def with_entry(i, j, value, dtype=object):
    y = BOTH.astype(dtype)
    y[i, j] = value
    return y


CASES = {
    "none": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "length": Bad(r"inconsistent.* X has 36 rows, y has 35", {"y": BOTH[:-1]}),
    "NaN": Bad(r"y\[:, 1\]\[4\] is missing \(nan\)", {"y": with_entry(4, 1, np.nan, float)}),
    "None": Bad(r"y\[:, 0\]\[2\] is missing", {"y": with_entry(2, 0, None)}),
    "NA of a named column": Bad(
        r"y\['b'\]\[3\] is missing",
        {"y": pd.DataFrame(with_entry(3, 1, np.nan, float), columns=["a", "b"])},
    ),
    "what to do about them": Bad(
        "1 of 36 are. Drop those rows; MultiTask", {"y": with_entry(4, 1, np.nan, float)}
    ),
    "a missing number": Bad(
        r"y\[0\] is missing \(nan\), 1 of 36 are. Drop those rows.$", {"y": [np.nan, *SEA[1:]]}
    ),
    "dates": Bad(
        r"y\[0\] is .* of type datetime64; a regressor",
        {"y": np.arange(36).astype("datetime64[ns]")},
    ),
    "infinite": Bad(r"y\[:, 1\] contains inf.*position 7", {"y": with_entry(7, 1, np.inf, float)}),
    "text": Bad(r"y\[:, 1\]\[0\] is a value of type str", {"y": with_entry(0, 1, "many")}),
    "labels": Bad(r"y\[0\] is a value of type str; a regressor expects", {"y": LABELS}),
    "ragged": Bad(r"y\[1\] has 1 entries and y\[0\] 2", {"y": [[1.0, 2.0], *[[1.0]] * 35]}),
    "no column": Bad("no columns", {"y": np.empty((36, 0))}),
    "two of a name": Bad(
        "two columns with the name 'a'", {"y": pd.DataFrame(BOTH, columns=["a", "a"])}
    ),
    "validation of one output": Bad(
        r"y_val has 1 column\(s\), but training was with 2 output\(s\)",
        {"X_val": X[:2], "y_val": [1.0, 2.0]},
    ),
    "validation of other outputs": Bad(
        r"y_val has the columns \['b', 'a'\], but training was with the outputs \['a', 'b'\]",
        {
            "y": pd.DataFrame(BOTH, columns=["a", "b"]),
            "X_val": X,
            "y_val": pd.DataFrame(BOTH, columns=["b", "a"]),
        },
    ),
    "loss": Bad("'loss' parameter of Tra", params={"loss": "cross_entropy"}),
    "delta": Bad("'delta' parameter of HuberLoss", params={"loss": HuberLoss(delta=0)}),
    "pooling": Bad("'pooling' parameter of Tra", params={"pooling": "median"}),
    "pairs": Bad(r"X\[0\] is a value of type tuple", {"X": [("a", "b")] * 36}),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_loaded(name, make_reg, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    case = CASES[name]
    reg = make_reg(**case.params)
    before = dict(vars(reg))
    with pytest.raises(ValueError, match=case.message):
        reg.fit(**{"X": X, "y": BOTH, **case.data})
    assert vars(reg) == before
