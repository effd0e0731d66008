"""Texts, rows and labels of any kind: they work, or an error says where they do not."""

import datetime
import decimal
import enum
import re
from collections import deque

import numpy as np
import odd_labels
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import tiny_estimators
from hypothesis import HealthCheck, example, given, settings, strategies as st
from tiny_estimators import KINDS, TEXTS

# Of all that Python takes for a character: halves of surrogate pairs, controls, NUL, emoji,
# accents that stand alone, right to left and zero width.
CHARACTERS = st.one_of(
    st.characters(exclude_categories=()),
    st.sampled_from("\ud800\udfff\0\a\x1b\x7f\u0301\u05d0\u200b\u200d\u202e\ufeff\uffff\U0010ffff"),
    st.sampled_from(" \t\n\u3000aé中😀"),
)
NASTY = st.one_of(
    st.text(CHARACTERS, max_size=30),
    st.sampled_from(["", " ", "\n\t\u3000", "\ud83d\ude00", "\ufefffish", "e" + "\u0301" * 300]),
    st.sampled_from(["[MASK]", "[SEP][CLS]", "</s>", "<pad>", "fish" * 2000, "fish " * 200]),
)
FEW = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
ROWWISE = [kind for kind in KINDS if kind != "adapter"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "error::RuntimeWarning")


def rows_of(kind, texts):
    """Texts as rows of a kind of estimator."""
    if kind in ("pair", "bi-encoder"):
        return [(text, texts[i - 1]) for i, text in enumerate(texts)]
    if "tagger" in kind:
        return [[text, *text.split(), "fish"] for text in texts]
    return texts


def is_fine(found):
    return (
        not (isinstance(found, np.ndarray) and found.dtype.kind == "f") or np.isfinite(found).all()
    )


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(texts=st.lists(NASTY, min_size=1, max_size=4))
@example(texts=["\ud800", "a\0b", "", "\u202eשלום", "x" * 100_000])
def test_any_text_can_be_predicted(kind, texts):
    estimator = tiny_estimators.fitted(kind)
    if kind == "adapter":
        texts = [*texts, TEXTS[0]]  # something must be there to be masked
        assert estimator.perplexity(texts) >= 1
        return
    rows = rows_of(kind, texts)
    assert len(estimator.predict(rows)) == len(texts)
    assert is_fine(tiny_estimators.outputs(estimator, kind, rows))


@pytest.mark.parametrize("kind", ["classifier", "tagger", "bi-encoder", "generator", "adapter"])
@settings(FEW, max_examples=4)
@given(texts=st.lists(NASTY, min_size=4, max_size=4), label=NASTY)
@example(texts=["\ud800", "a\0b", "\udfff", "\u202e"], label="\ud800")
def test_any_text_can_be_learnt(kind, texts, label):
    texts = [*texts, *TEXTS[:4]]
    rows = rows_of(kind, texts)
    label = label if kind != "generator" else f"a{label}"  # no answer is empty
    labels = [label, "other" if label != "other" else "another"] * 4
    y = {
        "tagger": [[labels[i]] * len(words) for i, words in enumerate(rows)],
        "bi-encoder": [0.0, 1.0] * 4,
        "adapter": None,
    }.get(kind, labels)
    estimator = tiny_estimators.make(kind)
    estimator.fit(rows, y)
    assert is_fine(tiny_estimators.outputs(estimator, kind, rows))
    if kind == "classifier":
        assert set(estimator.predict(rows)) <= set(labels)


# ------------------------------------------------------------------ labels


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


WORKS = {
    "str": ["a", "b"] * 6,
    "not ASCII": odd_labels.LABELS,
    "odd str": ["", " "] * 6,
    "halves of a character": ["\ud800", "\udfff"] * 6,
    "NUL": ["a\0", "a\0b"] * 6,
    "int": [-3, 10**15] * 6,
    "float of int": [0.0, 1.0] * 6,
    "bool": [True, False] * 6,
    "numpy int8": np.array([1, -1] * 6, np.int8),
    "numpy bool": np.array([True, False] * 6),
    "numpy scalars": [np.int64(1), np.int64(2)] * 6,
    "numpy str": np.array(["a", "b"] * 6),
    "StringDType": np.array(["a", "b"] * 6, np.dtypes.StringDType()),
    "object": np.array(["a", "b"] * 6, object),
    "category": pd.Series(["a", "b"] * 6, dtype="category"),
    "category nobody has": pd.Categorical(["a", "b"] * 6, categories=["c", "b", "a"]),
    "nullable int": pd.Series([1, 2] * 6, dtype="Int64"),
    "nullable bool": pd.Series([True, False] * 6, dtype="boolean"),
    "pandas string": pd.Series(["a", "b"] * 6, dtype="string"),
    "odd index": pd.Series(["a", "b"] * 6, index=[7] * 12),
    "polars": pl.Series(["a", "b"] * 6),
    "pyarrow": pa.array(["a", "b"] * 6),
    "tuple": tuple(["a", "b"] * 6),
    "one column": np.array([["a"], ["b"]] * 6),
}
REFUSED = {
    "bytes": [b"a", b"b"] * 6,
    "float": np.linspace(0, 1, 12),
    "complex": [1j, 2j] * 6,
    "mixed": ["a", 1] * 6,
    "mixed with None": ["a", None] * 6,
    "None": [None] * 12,
    "NaN": [0.0, np.nan] * 6,
    "inf": [0.0, np.inf] * 6,
    "NA": pd.Series([1, None] * 6, dtype="Int64"),
    "NaT": pd.to_datetime(["2020-01-01", None] * 6),
    "tuples": [("a", 1), ("b", 2)] * 6,
    "sets": [{"a"}, {"b"}] * 6,
    "dicts": [{"a": 1}, {}] * 6,
    "ragged": [["a"], ["a", "b"]] * 6,
    "enum": [Colour.RED, Colour.BLUE] * 6,
    "decimal": [decimal.Decimal("0.1"), decimal.Decimal("0.2")] * 6,
    "objects": [object() for _ in range(12)],
    "scalar": 3,
    "text": "positive",
    "empty": [],
    "short": ["a", "b"] * 5,
    "dict": {"a": 1, "b": 2},
    "set": {"a", "b"},
    "generator": (i % 2 for i in range(12)),
    "three axes": np.zeros((12, 1, 1), int),
    "one class": ["a"] * 12,
    "too wide": np.zeros((12, 5), int) + 2,
}
EITHER = {
    "datetimes": [datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)] * 6,
    "datetime64": np.array(["2020-01-01", "2021-01-01"] * 6, "datetime64[D]"),
    "timedelta": np.array([1, 2] * 6, "timedelta64[D]"),
    "int enum": [Level.LOW, Level.HIGH] * 6,
    "deque": deque(["a", "b"] * 6),
    "range": range(12),
    "huge int": [10**30, 1] * 6,
    "uint64": np.array([2**64 - 1, 0] * 6, np.uint64),
    "sparse": scipy.sparse.csr_matrix(np.eye(12, 3)),
    "memoryview": memoryview(np.array([0, 1] * 6)),
    "structured": np.array([(1, "a"), (2, "b")] * 6, dtype=[("i", int), ("s", "U1")]),
}


def learn(y):
    return tiny_estimators.make("classifier").fit(odd_labels.TEXTS, y)


@pytest.mark.parametrize("name", WORKS)
def test_labels_come_back_as_they_are(name):
    y = WORKS[name]
    known = np.asarray(y, dtype=getattr(y, "dtype", None) if isinstance(y, np.ndarray) else object)
    found = learn(y).predict(odd_labels.TEXTS)
    assert len(found) == 12 and set(found.tolist()) <= set(known.ravel().tolist())


@pytest.mark.parametrize("name", REFUSED)
def test_other_labels_are_refused(name):
    with pytest.raises((ValueError, TypeError), match=r"\by\b|label|class"):
        learn(REFUSED[name])


@pytest.mark.parametrize("name", EITHER)
def test_labels_work_or_are_refused(name):
    try:
        found = learn(EITHER[name]).predict(odd_labels.TEXTS)
    except (ValueError, TypeError) as error:
        assert re.search(r"\by\b|label", str(error)), error
    else:
        assert np.shape(found)[0] == 12


# -------------------------------------------------------------- containers

SAME = {
    "tuple": tuple,
    "object array": lambda rows: np.array(rows, object),
    "str array": np.array,
    "StringDType": lambda rows: np.array(rows, np.dtypes.StringDType()),
    "column": lambda rows: np.array(rows, object)[:, None],
    "Series": lambda rows: pd.Series(rows, index=[3] * len(rows)),
    "Index": pd.Index,
    "string Series": lambda rows: pd.Series(rows, dtype="string"),
    "category": lambda rows: pd.Series(rows, dtype="category"),
    "arrow Series": lambda rows: pd.Series(rows, dtype="string[pyarrow]"),
    "DataFrame": lambda rows: pd.DataFrame({"odd name": rows}, index=range(50, 50 + len(rows))),
    "polars": pl.Series,
    "polars frame": lambda rows: pl.DataFrame({"a": rows}),
    "pyarrow": pa.array,
    "chunked": lambda rows: pa.chunked_array([rows[:1], rows[1:]]),
    "pyarrow table": lambda rows: pa.table({"a": rows}),
}
NO_CONTAINER = {
    "deque": deque,
    "generator": iter,
    "dict": lambda rows: dict.fromkeys(rows),
    "set": set,
    "keys": lambda rows: dict.fromkeys(rows).keys(),
    "sparse": lambda rows: scipy.sparse.eye(len(rows)),
    "memoryview": lambda rows: memoryview(b"abc"),
    "bytes": lambda rows: b"abc",
    "bytearray": lambda rows: bytearray(b"abc"),
    "str": lambda rows: "abc",
    "None": lambda rows: None,
    "number": lambda rows: 3.5,
    "empty": lambda rows: [],
    "empty array": lambda rows: np.empty(0, "U1"),
    "no column": lambda rows: pd.DataFrame(index=range(len(rows))),
    "two columns": lambda rows: pd.DataFrame({"a": rows, "b": rows}),
    "lists": lambda rows: [[row] for row in rows],
    "bytes inside": lambda rows: [row.encode() for row in rows],
    "bytes array": lambda rows: np.array([row.encode() for row in rows]),
    "numbers": lambda rows: np.arange(len(rows)),
    "missing": lambda rows: [*rows, None],
    "NaN": lambda rows: np.array([*rows, np.nan], object),
    "NA": lambda rows: pd.Series([*rows, pd.NA], dtype="string"),
    "three axes": lambda rows: np.array(rows)[:, None, None],
    "class": lambda rows: list,
}


@pytest.mark.parametrize("name", SAME)
def test_containers_give_the_same(name):
    estimator = tiny_estimators.fitted("classifier")
    rows = ["the fish", "", "pão é bom", "\u202eשלום"]
    expected = estimator.predict_proba(rows)
    np.testing.assert_array_equal(estimator.predict_proba(SAME[name](rows)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NO_CONTAINER)
def test_what_holds_no_rows_is_refused(name, kind):
    rows = ["the secret fish", "pão é bom"]
    X = NO_CONTAINER[name](rows)
    if kind in ("pair", "bi-encoder", "tagger", "native tagger") and name in (
        "two columns",
        "lists",
    ):
        pytest.skip("rows of these")
    estimator = tiny_estimators.fitted(kind)
    method = getattr(estimator, "predict", getattr(estimator, "perplexity", None))
    with pytest.raises((ValueError, TypeError), match=r"\bX\b") as caught:
        method(X)
    assert "secret" not in str(caught.value)


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=3),
        st.binary(max_size=3),
        st.sampled_from([pd.NA, pd.NaT, np.float32(1), np.str_("a"), object, ...]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(FEW, max_examples=40)
@given(X=JUNK)
def test_junk_is_predicted_or_refused(kind, X):
    estimator = tiny_estimators.fitted(kind)
    method = getattr(estimator, "predict", getattr(estimator, "perplexity", None))
    try:
        found = method(X)
    except (ValueError, TypeError) as error:
        assert "X" in str(error), error
    else:
        assert kind == "adapter" or len(found) == len(X)


@pytest.mark.parametrize("kind", ROWWISE)
@settings(FEW, max_examples=25)
@given(y=st.one_of(JUNK, st.lists(JUNK, min_size=3, max_size=3)))
def test_junk_is_learnt_or_refused(kind, y):
    X = KINDS[kind].X[:3]
    estimator = tiny_estimators.make(kind, head_init="random") if kind in HEADED else None
    estimator = estimator or tiny_estimators.make(kind)
    try:
        estimator.fit(X, y)
    except (ValueError, TypeError) as error:
        assert re.search(r"\by\b|label|task", str(error)), error
    else:
        assert len(estimator.predict(X)) == 3


HEADED = ("classifier", "regressor", "pair", "bi-encoder", "tagger", "tasks")


@settings(FEW, max_examples=40)
@given(weights=st.one_of(JUNK, st.lists(st.floats(), min_size=3, max_size=3)))
@example(weights=[1e308, 1e308, 1e308])
@example(weights=[1e-308, 1e308, 0])
@example(weights=[5e-324, 5e-324, 5e-324])
def test_odd_weights_are_used_or_refused(weights):
    estimator = tiny_estimators.make("classifier", head_init="random")
    try:
        estimator.fit(KINDS["classifier"].X[:3], ["a", "b", "a"], sample_weight=weights)
    except (ValueError, TypeError) as error:
        assert any(word in str(error) for word in ("sample_weight", "weigh", "y has 1")), error
    else:
        assert is_fine(estimator.predict_proba(["fish"]))
