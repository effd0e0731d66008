"""What X and y may be, and what comes out."""

import copy
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import LEARNS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import accuracy_score, log_loss

ODD_INDEX = np.arange(48)[::-1] * 7 + 3


def series(values, dtype):
    return pd.Series(values, index=ODD_INDEX[: len(values)], dtype=dtype)


# ---------------------------------------------------------------------------- X

TEXTS = {
    "tuple": tuple,
    "numpy object": lambda x: np.array(x, dtype=object),
    "numpy str": np.array,
    "numpy StringDType": lambda x: np.array(x, dtype=np.dtypes.StringDType()),
    "numpy column": lambda x: np.array(x)[:, None],
    "numpy object column": lambda x: np.array(x, dtype=object)[:, None],
    "numpy StringDType column": lambda x: np.array(x, dtype=np.dtypes.StringDType())[:, None],
    "pandas object": lambda x: series(x, object),
    "pandas str": lambda x: series(x, "str"),
    "pandas string[python]": lambda x: series(x, "string[python]"),
    "pandas string[pyarrow]": lambda x: series(x, "string[pyarrow]"),
    "pandas Arrow": lambda x: series(x, pd.ArrowDtype(pa.string())),
    "pandas category": lambda x: series(x, "category"),
    "pandas duplicated index": lambda x: pd.Series(x, index=[5] * len(x)),
    "pandas array": lambda x: series(x, "str").array,
    "pandas Index": pd.Index,
    "pandas frame": lambda x: series(x, "str").to_frame("text"),
    "polars": pl.Series,
    "polars Categorical": lambda x: pl.Series(x, dtype=pl.Categorical),
    "polars frame": lambda x: pl.DataFrame({"text": x}),
    "pyarrow": pa.array,
    "pyarrow large": lambda x: pa.array(x, type=pa.large_string()),
    "pyarrow chunked": lambda x: pa.chunked_array([x[:1], x[1:]]),
    "pyarrow dictionary": lambda x: pa.array(x).dictionary_encode(),
    "pyarrow table": lambda x: pa.table({"text": x}),
}


@pytest.fixture(scope="module")
def from_list(make_clf, texts, labels):
    return make_clf(max_epochs=1).fit(texts, labels)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", TEXTS)
def test_texts_in_a_container(container, make_clf, from_list, texts, labels):
    X = TEXTS[container](texts)
    clf = make_clf(max_epochs=1).fit(X, labels)
    expected = from_list.predict_proba(texts)
    assert_array_equal(clf.predict_proba(X), expected)
    few = TEXTS[container](texts[:5])  # padded in another way
    assert_allclose(clf.predict_proba(few), expected[:5], rtol=0, atol=1e-6)
    if len(getattr(X, "shape", ())) == 2:
        assert clf.n_features_in_ == 1
    else:
        assert not hasattr(clf, "n_features_in_")
    if hasattr(X, "columns"):
        assert clf.feature_names_in_.tolist() == ["text"]
        assert_array_equal(from_list.predict(X["text"]), clf.predict(X))
    else:
        assert_array_equal(from_list.predict_proba(X), expected)


def test_columns_are_those_of_fit(make_clf, texts, labels):
    clf = make_clf(max_epochs=1).fit(pd.DataFrame({"text": texts}), labels)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(pd.DataFrame({"title": texts}))
    clf.fit(texts, labels)
    assert not hasattr(clf, "feature_names_in_") and not hasattr(clf, "n_features_in_")


def test_two_columns_are_no_texts(fitted, texts):
    with pytest.raises(ValueError, match="X has 2 columns"):
        fitted.predict(pd.DataFrame({"title": texts, "body": texts}))


# ---------------------------------------------------------------------------- y

STRINGS = ["sea", "food", "city"]
LABELS = {  # container -> function of class positions, type of a label
    "list of str": (lambda i: [STRINGS[k] for k in i], str),
    "tuple of str": (lambda i: tuple(STRINGS[k] for k in i), str),
    "numpy str": (lambda i: np.array(STRINGS)[i], str),
    "numpy object": (lambda i: np.array(STRINGS, dtype=object)[i], str),
    "numpy StringDType": (lambda i: np.array(STRINGS, dtype=np.dtypes.StringDType())[i], str),
    "pandas object": (lambda i: series(np.array(STRINGS)[i], object), str),
    "pandas str": (lambda i: series(np.array(STRINGS)[i], "str"), str),
    "pandas string[python]": (lambda i: series(np.array(STRINGS)[i], "string[python]"), str),
    "pandas string[pyarrow]": (lambda i: series(np.array(STRINGS)[i], "string[pyarrow]"), str),
    "pandas Arrow": (lambda i: series(np.array(STRINGS)[i], pd.ArrowDtype(pa.string())), str),
    "pandas category": (lambda i: series(np.array(STRINGS)[i], "category"), str),
    "pandas Categorical": (
        # One category has no row, and the order of categories is not that of the alphabet.
        lambda i: pd.Categorical(np.array(STRINGS)[i], ["sea", "moon", "food", "city"]),
        str,
    ),
    "polars str": (lambda i: pl.Series([STRINGS[k] for k in i]), str),
    "polars Categorical": (lambda i: pl.Series([STRINGS[k] for k in i], dtype=pl.Categorical), str),
    "polars Enum": (lambda i: pl.Series([STRINGS[k] for k in i], dtype=pl.Enum(STRINGS)), str),
    "pyarrow str": (lambda i: pa.array([STRINGS[k] for k in i]), str),
    "pyarrow dictionary": (lambda i: pa.array([STRINGS[k] for k in i]).dictionary_encode(), str),
    "list of int": (lambda i: [10 - k for k in i], int),
    "numpy int64": (lambda i: 10 - np.asarray(i), int),
    "numpy int8": (lambda i: np.asarray(i, dtype=np.int8) - 1, int),
    "numpy uint16": (lambda i: np.asarray(i, dtype=np.uint16) + 7, int),
    "numpy float": (lambda i: np.asarray(i, dtype=float), float),
    "pandas int64": (lambda i: series(i, "int64"), int),
    "pandas Int64": (lambda i: series(i, "Int64"), int),
    "pandas Arrow int": (lambda i: series(i, pd.ArrowDtype(pa.int32())), int),
    "pandas category int": (lambda i: series(i, "category"), int),
    "polars int": (lambda i: pl.Series(list(i)), int),
    "pyarrow int": (lambda i: pa.array(list(i)), int),
    "list of bool": (lambda i: [k > 0 for k in i], bool),
    "numpy bool": (lambda i: np.asarray(i) > 0, bool),
    "pandas bool": (lambda i: series(np.asarray(i) > 0, bool), bool),
    "pandas boolean": (lambda i: series(np.asarray(i) > 0, "boolean"), bool),
    "polars bool": (lambda i: pl.Series([k > 0 for k in i]), bool),
    "pyarrow bool": (lambda i: pa.array([k > 0 for k in i]), bool),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", LABELS)
def test_labels_in_a_container(container, make_clf, texts):
    make, kind = LABELS[container]
    positions = [i % 3 for i in range(48)]
    y = make(positions)
    clf = make_clf(**LEARNS).fit(texts, y)
    assert {type(label) for label in clf.classes_.tolist()} == {kind}
    assert clf.classes_.tolist() == sorted(set(np.asarray(y, dtype=object).tolist()))
    predicted = clf.predict(texts)
    assert predicted.dtype == clf.classes_.dtype
    truth = np.array([kind(label) for label in np.asarray(y, dtype=object)], dtype=object)
    assert (predicted == truth).mean() > 0.9
    assert clf.score(texts, predicted) == 1
    if isinstance(y, np.ndarray) and y.dtype.kind != "T":
        assert predicted.dtype == y.dtype


# scikit-learn's metrics do not know NumPy's StringDType.
@pytest.mark.parametrize("container", sorted(LABELS.keys() - {"numpy StringDType"}))
def test_score_reads_every_container(container, make_clf, texts):
    y = LABELS[container][0]([i % 3 for i in range(48)])
    clf = make_clf(max_epochs=1).fit(texts, y)
    expected = np.mean(clf.predict(texts) == np.asarray(y, dtype=object))
    assert clf.score(texts, y) == expected


# -------------------------------------------------------------------------- outputs


def test_probabilities(fitted, texts, labels):
    proba = fitted.predict_proba(texts)
    assert proba.dtype == np.float64 and proba.shape == (48, 3)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    assert proba.min() >= 0
    with warnings.catch_warnings(action="error"):  # "probabilities do not sum to one"
        loss = log_loss(labels, proba)
    true = np.searchsorted(fitted.classes_, labels)
    assert_allclose(loss, -fitted.predict_log_proba(texts)[np.arange(48), true].mean())


def test_classes_give_the_order_of_columns(fitted, texts):
    assert fitted.classes_.tolist() == ["city", "food", "sea"]
    assert fitted.model_.config.id2label == {0: "city", 1: "food", 2: "sea"}
    best = fitted.predict_proba(texts).argmax(axis=1)
    assert len(set(best)) == 3
    assert_array_equal(fitted.predict(texts), fitted.classes_[best])


def test_decision_function_of_several_classes(fitted, texts):
    scores = fitted.decision_function(texts)
    assert scores.shape == (48, 3) and scores.dtype == np.float64
    assert_allclose(softmax(scores, axis=1), fitted.predict_proba(texts), rtol=1e-12)
    assert_allclose(log_softmax(scores, axis=1), fitted.predict_log_proba(texts), rtol=1e-9)


def test_decision_function_of_two_classes(fitted_binary, binary):
    scores = fitted_binary.decision_function(binary[0])
    assert scores.shape == (40,)
    assert fitted_binary.classes_.tolist() == ["food", "sea"]
    assert_array_equal(fitted_binary.predict(binary[0]) == "sea", scores > 0)
    assert 0 < (scores > 0).sum() < 40
    assert_allclose(expit(scores), fitted_binary.predict_proba(binary[0])[:, 1], rtol=1e-12)


def test_log_probabilities_do_not_underflow(fitted_binary, binary):
    sure = copy.deepcopy(fitted_binary)
    sure.model_.head.out.weight.data *= 1e4
    log_proba = sure.predict_log_proba(binary[0])
    assert np.isfinite(log_proba).all() and log_proba.min() < -800
    assert_allclose(sure.predict_proba(binary[0]).sum(axis=1), 1, rtol=1e-14)


def test_score_is_accuracy(fitted, texts, labels):
    assert fitted.score(texts, labels) == accuracy_score(labels, fitted.predict(texts)) > 0.9
    weights = np.arange(48)
    expected = accuracy_score(labels, fitted.predict(texts), sample_weight=weights)
    assert fitted.score(texts, labels, sample_weight=weights) == expected


def test_predict_changes_nothing(fitted, texts):
    before = dict(vars(fitted))
    fitted.predict(texts)
    fitted.predict_proba(texts[:3])
    after = vars(fitted)
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())
    assert not fitted.model_.training
