"""What cannot work is refused with a clear error, before any weight is loaded."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from conftest import make_texts
from sklearn.exceptions import NotFittedError
from sklearn.svm import SVC

from sktransformers import AdamW, Backbone, BatchHistory, Linear, LoRA, MLPHead
from sktransformers.training import loading

X, Y = make_texts(12)


def with_entry(rows, i, value):
    return [*rows[:i], value, *rows[i + 1 :]]


@dataclass
class Bad:
    message: str  # a regular expression
    data: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = ValueError


BAD_X = {
    "bare string": Bad(r"^X is one single str; expected a list.*\[text\]", {"X": "some text"}),
    "bytes": Bad(r"^X is one single bytes", {"X": b"some text"}),
    "None": Bad("^X is of type NoneType; expected a list", {"X": None}, error=TypeError),
    "number": Bad("^X is of type int; expected", {"X": 3}, error=TypeError),
    "dict": Bad("^X is of type dict; expected", {"X": dict.fromkeys(X)}, error=TypeError),
    "iterator": Bad("^X is of type .*iterator; expected", {"X": iter(X)}, error=TypeError),
    "sparse": Bad(
        "^X is a sparse matrix, which holds no text", {"X": scipy.sparse.eye(12)}, error=TypeError
    ),
    "empty": Bad(r"0 sample\(s\): X is empty, at least one text", {"X": [], "y": []}),
    "None inside": Bad(
        r"^X\[3\] is missing \(None\); expected str .*1 of 12.*Drop", {"X": with_entry(X, 3, None)}
    ),
    "NaN inside": Bad(r"^X\[0\] is missing \(nan\)", {"X": with_entry(X, 0, float("nan"))}),
    "NA inside a Series": Bad(
        r"^X\[2\] is missing", {"X": pd.Series(with_entry(X, 2, None), index=range(50, 62))}
    ),
    "null inside polars": Bad(r"^X\[1\] is missing", {"X": pl.Series(with_entry(X, 1, None))}),
    "number inside": Bad(
        r"^X\[11\] is 7 of type int; expected str in every row", {"X": with_entry(X, 11, 7)}
    ),
    "words": Bad(
        r"^X\[0\] is a value of type list.* join the words", {"X": [x.split() for x in X]}
    ),
    "numbers": Bad(r"^X\[0\] is 0\.0 of type float.*12 of 12", {"X": np.zeros(12)}),
    "bytes inside": Bad(r"^X\[0\] is a value of type bytes", {"X": [text.encode() for text in X]}),
    "two columns": Bad(
        "^X has 2 columns; expected .* ColumnTransformer", {"X": pd.DataFrame({"a": X, "b": X})}
    ),
    "three axes": Bad(r"^X has shape \(12, 1, 1\)", {"X": np.array(X).reshape(12, 1, 1)}),
    "0 axes": Bad(r"^X has shape \(\)", {"X": np.array("text")}),
}
BAD_Y = {
    "none": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "length": Bad("inconsistent.* X has 12 rows, y has 11", {"y": Y[:-1]}),
    "scalar": Bad("y is a single value; expected one a row", {"y": "food"}),
    "NaN": Bad(
        r"y contains NaN: y\[4\] is missing \(nan\), 1 of 12",
        {"y": with_entry(Y, 4, float("nan"))},
    ),
    "NaN among numbers": Bad(r"y\[2\] is missing", {"y": [0.0, 1.0, np.nan, *[1.0] * 9]}),
    "None inside": Bad(r"y\[0\] is missing \(None\)", {"y": with_entry(Y, 0, None)}),
    "NA of pandas": Bad(
        r"y\[1\] is missing", {"y": pd.Series([0, None, *[1] * 10], dtype="Int64")}
    ),
    "NaN category": Bad(r"y\[5\] is missing", {"y": pd.Categorical(with_entry(Y, 5, None))}),
    "infinite": Bad(r"y contains infinity.*position 3", {"y": [0, 1, 0, np.inf, *[1.0] * 8]}),
    "continuous": Bad("Unknown label type: continuous", {"y": np.linspace(0, 1, 12)}),
    "single class": Bad("at least two classes; y has 1 class: 'food'", {"y": ["food"] * 12}),
    "mixed": Bad(r"y mixes strings .* y\[0\] is 'food', y\[7\] is 3", {"y": with_entry(Y, 7, 3)}),
    "two columns": Bad(r"y should be a 1d array|multi", {"y": np.array([Y, Y]).T}),
    "several labels a row": Bad("y", {"y": [["food", "sea"]] * 12}),
}
BAD_WEIGHTS = {
    "length": Bad("sample_weight.shape == .*expected", {"sample_weight": np.ones(11)}),
    "negative": Bad("Negative values .*sample_weight", {"sample_weight": [-1.0, *[1.0] * 11]}),
    "NaN": Bad("sample_weight contains NaN", {"sample_weight": [np.nan, *[1.0] * 11]}),
    "all zero": Bad("at least one non-zero", {"sample_weight": np.zeros(12)}),
    "one class left": Bad("y has 1 class: 'food'", {"sample_weight": np.equal(Y, "food") * 1.0}),
    "a class unknown": Bad(
        r"class_weight names the class 'moon'.*'city', 'food', 'sea'",
        params={"class_weight": {"moon": 2.0}},
    ),
    "a class below zero": Bad(
        r"class_weight\['sea'\] is -1; expected a number", params={"class_weight": {"sea": -1}}
    ),
    "a class as text": Bad(
        r"class_weight\['sea'\] is 'much'", params={"class_weight": {"sea": "much"}}
    ),
    "all classes zero": Bad("weighs nothing", params={"class_weight": dict.fromkeys(Y, 0.0)}),
}
BAD_VALIDATION = {
    "no y": Bad("X_val and y_val belong together", {"X_val": X}),
    "no X": Bad("X_val and y_val belong together", {"y_val": Y}),
    "not a text": Bad(r"^X_val\[1\] is 5", {"X_val": ["fish", 5], "y_val": ["sea", "sea"]}),
    "length": Bad("X_val has 1 rows, y_val has 2", {"X_val": ["fish"], "y_val": ["sea", "sea"]}),
    "other class": Bad(
        r"^y_val\[1\] is 'moon', which is none of the 3 classes",
        {"X_val": ["fish", "crater"], "y_val": ["sea", "moon"]},
    ),
    "too many rows": Bad(
        "validation_fraction=10 holds out 10 of 12 rows.*3 classes",
        params={"early_stopping": True, "validation_fraction": 10},
    ),
}
BAD_PARAMETERS = {
    f"{name}={value!r}": Bad(f"'{name}' parameter of .*Got .* instead", params={name: value})
    for name, values in {
        "pooling": ["median", None],
        "head": ["mlp", Linear],
        "head_init": ["zero"],
        "lr": [-1.0, 0, "fast"],
        "max_epochs": [0, 1.5],
        "batch_size": [0, "32"],
        "optimizer": ["adamx", None],
        "schedule": ["steps"],
        "warmup": [-0.1, 1.0, -2],
        "weight_decay": [-1e-3],
        "max_length": [0, -5, 12.5],
        "max_batch_tokens": [0],
        "class_weight": ["even", [1, 2]],
        "early_stopping": ["yes"],
        "validation_fraction": [0.0, 1.0, -3],
        "n_iter_no_change": [0],
        "tol": [-1.0],
        "scoring": ["nonesuch", 3],
        "warm_start": ["yes"],
        "callbacks": ["progress", 3],
        "precision": ["fp8", 16],
        "random_state": ["seed", -1],
        "verbose": [-1],
    }.items()
    for value in values
}
BAD_OBJECTS = {
    "dropout": Bad("'dropout' parameter of Linear", params={"head": Linear(dropout=1.0)}),
    "eps": Bad("'eps' parameter of AdamW", params={"optimizer": AdamW(eps=0)}),
    "head_lr": Bad("'head_lr' parameter of AdamW", params={"optimizer": AdamW(head_lr=-1)}),
    "norm": Bad("'max_grad_norm' parameter", params={"optimizer": AdamW(max_grad_norm=0)}),
    "betas": Bad("'betas' parameter of AdamW", params={"optimizer": AdamW(betas=(0.9, 1.0))}),
    "one beta": Bad("'betas' parameter of AdamW", params={"optimizer": AdamW(betas=(0.9,))}),
    "text betas": Bad("'betas' parameter", params={"optimizer": AdamW(betas=("a", "b"))}),
    "revision": Bad("'revision' parameter", params={"backbone": Backbone("a/b", revision=3)}),
    "dtype": Bad("dtype='float33'", params={"backbone": Backbone("a/b", dtype="float33")}),
    "no backbone": Bad("backbone must be a hub id", params={"backbone": None}, error=TypeError),
    "callback": Bad(
        r"callbacks\[1\] is Linear\(\); expected a callback of skorch",
        params={"callbacks": [BatchHistory(), Linear()]},
        error=TypeError,
    ),
    "named callback": Bad(
        r"callbacks\[0\] is \('a', 3\)", params={"callbacks": [("a", 3)]}, error=TypeError
    ),
    "name of ours": Bad(
        r"callbacks\[0\] has the name 'history', which a callback of this package",
        params={"callbacks": [("history", BatchHistory())]},
    ),
    "name of another": Bad(
        r"callbacks\[1\] has the name 'mine', which another one has",
        params={"callbacks": [("mine", BatchHistory()), ("mine", BatchHistory())]},
    ),
    "name that is none": Bad(
        r"callbacks\[0\] is \(1", params={"callbacks": [(1, BatchHistory())]}, error=TypeError
    ),
    "no tokenizer": Bad(
        r"Backbone\(tokenizer=.*got a int",
        params={"backbone": Backbone("a/b", tokenizer=3)},
        error=TypeError,
    ),
    "infinite rate": Bad("'lr' parameter of", params={"lr": float("inf")}),
    "infinite penalty": Bad("'l2' parameter of AdamW", params={"optimizer": AdamW(l2=np.inf)}),
    "Series as augmenter": Bad(
        "augment is .*expected an augmenter", params={"augment": pd.Series(["a"])}, error=TypeError
    ),
    "array as device": Bad("is no device", params={"device": np.array(["cpu", "cuda"])}),
    "device": Bad("device='nonesuch' is no device", params={"device": "nonesuch"}),
    "no such device": Bad("device='cuda:99' is not available", params={"device": "cuda:99"}),
}
CASES = {
    f"{group}: {name}": case
    for group, cases in {
        "X": BAD_X,
        "y": BAD_Y,
        "weights": BAD_WEIGHTS,
        "validation": BAD_VALIDATION,
        "parameter": BAD_PARAMETERS,
        "object": BAD_OBJECTS,
    }.items()
    for name, case in cases.items()
}


@pytest.fixture
def no_loading(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)


def unchanged(clf, before):
    return vars(clf).keys() == before.keys() and all(
        vars(clf)[name] is value for name, value in before.items()
    )


@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_loaded(name, fitted, no_loading):
    case = CASES[name]
    clf = copy.copy(fitted).set_params(**case.params)
    before = dict(vars(clf))
    with pytest.raises(case.error, match=case.message):
        clf.fit(**{"X": X, "y": Y, **case.data})
    assert unchanged(clf, before)
    clf.set_params(**fitted.get_params(deep=False))
    np.testing.assert_array_equal(clf.predict_proba(X[:1]), fitted.predict_proba(X[:1]))


NEEDS_LOADING = {
    "no such directory": Bad("'/no/such' does not exist", params={"backbone": "/no/such"}),
    "no such id": Bad("'org/nonesuch' could not be found", params={"backbone": "org/nonesuch"}),
    "longer than positions": Bad(
        "max_length=65 is more than the 64 tokens", params={"max_length": 65}
    ),
    "decay of the head beyond nothing": Bad(
        r"weight_decay=0\.01 and head_lr=1e\+03",
        params={"optimizer": AdamW(head_lr=1e3), "weight_decay": 0.01},
    ),
    "rank beyond the width": Bad(
        r"LoRA\(r=1000\) is more than the width", params={"finetune": LoRA(r=1000)}
    ),
    "size that is no number": Bad(
        "'hidden_sizes' parameter", params={"head": MLPHead(hidden_sizes=(True,))}
    ),
    "decay beyond nothing": Bad(
        r"weight_decay=300 and head_lr=0\.1 \(lr=0\.01\) contradict each other",
        params={"weight_decay": 300, "lr": 1e-2},
    ),
    "no room for text": Bad("max_length=2 leaves no room", params={"max_length": 2}),
}


@pytest.mark.parametrize("name", NEEDS_LOADING)
def test_refused_when_loading(name, fitted):
    case = NEEDS_LOADING[name]
    clf = copy.copy(fitted).set_params(**case.params)
    before = dict(vars(clf))
    with pytest.raises(case.error, match=case.message):
        clf.fit(X, Y)
    assert unchanged(clf, before)
    clf.set_params(**fitted.get_params(deep=False)).fit(X, Y).predict(X)


@pytest.mark.parametrize("name", BAD_X)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_bad_texts_in_prediction(name, method, fitted):
    case = BAD_X[name]
    if name == "iterator":
        case.data["X"] = iter(X)
    with pytest.raises(case.error, match=case.message):
        getattr(fitted, method)(case.data["X"])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "score"])
def test_prediction_before_fit(method, make_clf):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make_clf(), method)(X, *[Y][: method == "score"])


def test_unfitted_after_a_failed_fit(make_clf):
    clf = make_clf()
    before = dict(vars(clf))
    with pytest.raises(ValueError, match="inconsistent"):
        clf.fit(X, Y[:3])
    assert unchanged(clf, before)


def test_nothing_is_checked_before_fit(make_clf):
    # scikit-learn's contract: any value may be set, fit says what is wrong with it.
    params = dict.fromkeys(make_clf().get_params(deep=False), SVC())
    assert make_clf(**params).get_params(deep=False) == params
