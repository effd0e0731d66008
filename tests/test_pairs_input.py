"""What X may be where a row is two texts, and what is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.utils import _safe_indexing

from sktransformers.inputs.pairs import as_pairs

PAIRS = [("Is it?", "It is."), ("Olá", "São Paulo"), ("", "empty"), ("ab", "cd"), ("é", "日本")]
A, B = (list(side) for side in zip(*PAIRS))
ODD_INDEX = [9, 9, 3, 1, 7]


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


def lists(pairs):
    return [list(pair) for pair in pairs]


def arrow_lists(pairs):
    return pa.array(lists(pairs), type=pa.list_(pa.string()))


def columns(pairs):
    return {"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}


STRINGS = np.dtypes.StringDType()
CONTAINERS = {
    "list of tuples": list,
    "list of lists": lists,
    "list of arrays": lambda p: [np.array(pair) for pair in p],
    "list of object arrays": lambda p: [np.array(pair, dtype=object) for pair in p],
    "list of numpy str": lambda p: [(np.str_(a), np.str_(b)) for a, b in p],
    "tuple of tuples": tuple,
    "numpy str": np.array,
    "numpy object": lambda p: np.array(p, dtype=object),
    "numpy StringDType": lambda p: np.array(p, dtype=STRINGS),
    "object array of tuples": object_array,
    "object array of lists": lambda p: object_array(lists(p)),
    "pandas frame": lambda p: pd.DataFrame(columns(p), index=ODD_INDEX[: len(p)]),
    "pandas frame of objects": lambda p: pd.DataFrame(columns(p), dtype=object),
    "pandas frame of Arrow": lambda p: pd.DataFrame(columns(p), dtype=pd.ArrowDtype(pa.string())),
    "pandas frame of categories": lambda p: pd.DataFrame(columns(p), dtype="category"),
    "pandas frame, equal names": lambda p: pd.DataFrame(lists(p), columns=["text", "text"]),
    "pandas of tuples": lambda p: pd.Series(list(p), index=ODD_INDEX[: len(p)]),
    "pandas of lists": lambda p: pd.Series(lists(p)),
    "pandas of Arrow": lambda p: pd.Series(lists(p), dtype=pd.ArrowDtype(pa.list_(pa.string()))),
    "polars frame": lambda p: pl.DataFrame(columns(p)),
    "polars frame of categories": lambda p: pl.DataFrame(
        columns(p), schema={"a": pl.Categorical, "b": pl.String}
    ),
    "polars of lists": lambda p: pl.Series(lists(p)),
    "polars of arrays": lambda p: pl.Series(lists(p), dtype=pl.Array(pl.String, 2)),
    "pyarrow table": lambda p: pa.table(columns(p)),
    "pyarrow of lists": arrow_lists,
    "pyarrow of pairs": lambda p: pa.array(lists(p), type=pa.list_(pa.string(), 2)),
    "pyarrow chunked": lambda p: pa.chunked_array([arrow_lists(p[:1]), arrow_lists(p[1:])]),
}


def check_plain(pairs, expected):
    assert pairs == expected and type(pairs) is list
    assert {type(pair) for pair in pairs} == {tuple}
    assert {type(side) for pair in pairs for side in pair} == {str}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_pairs_in_a_container(container, n):
    check_plain(as_pairs(CONTAINERS[container](PAIRS[:n])), PAIRS[:n])


@pytest.mark.parametrize("container", CONTAINERS)
def test_pairs_taken_by_sklearn(container):
    X = CONTAINERS[container](PAIRS)
    for taken in (np.array([4, 0, 4]), [1, 2], slice(1, 3), np.arange(5) != 2):
        expected = [PAIRS[i] for i in np.arange(5)[taken]]
        check_plain(as_pairs(_safe_indexing(X, taken)), expected)


def test_record_batch():
    check_plain(as_pairs(pa.record_batch(columns(PAIRS))), PAIRS)


def test_two_pairs_are_two_rows():
    expected = [("a", "b"), ("c", "d")]
    for X in ([("a", "b"), ("c", "d")], [["a", "b"], ["c", "d"]], (("a", "b"), ("c", "d"))):
        check_plain(as_pairs(X), expected)


def with_entry(i, value):
    return [*PAIRS[:i], value, *PAIRS[i + 1 :]]


ZIP = r"Two columns make rows with list\(zip\(texts, others\)\)"
COLUMNS = rf"^X is a tuple of two columns \(of 5 and 5 entries\); expected a list.*{ZIP}"
BAD = {
    "bare string": ("ab", ValueError, r"^X is one single str; expected.*\[\(text, other\)\]"),
    "bytes": (b"ab", ValueError, "^X is one single bytes"),
    "None": (None, TypeError, "^X is of type NoneType; expected a list, tuple, array or Series"),
    "number": (3, TypeError, "^X is of type int"),
    "dict": ({"a": A, "b": B}, TypeError, "^X is of type dict"),
    "iterator": (zip(A, B), TypeError, "^X is of type zip"),
    "sparse": (scipy.sparse.eye(2), TypeError, "^X is a sparse matrix, which holds no text"),
    "empty": ([], ValueError, r"^Found array with 0 sample\(s\): X is empty, at least one pair"),
    "empty table": (pd.DataFrame({"a": [], "b": []}), ValueError, r"0 sample\(s\)"),
    "empty array": (np.empty((0, 2), dtype=object), ValueError, r"0 sample\(s\)"),
    "empty tuple": ((), ValueError, r"0 sample\(s\)"),
    "two lists": ((A, B), ValueError, COLUMNS),
    "two short lists": (
        (["a", "b"], ["c", "d"]),
        ValueError,
        rf"2 and 2.*{ZIP}\. Two pairs go into",
    ),
    "two Series": ((pd.Series(A), pd.Series(B)), ValueError, COLUMNS),
    "two arrays": ((np.array(A), np.array(B)), ValueError, COLUMNS),
    "two uneven lists": ((A, B[:2]), ValueError, r"of 5 and 2 entries"),
    "two tuples": ((tuple(A), tuple(B)), ValueError, rf"^X\[0\] has 5 elements; .*{ZIP}"),
    "a list of two lists": ([A, B], ValueError, rf"^X\[0\] has 5 elements; .*{ZIP}"),
    "one pair": (("a", "b"), ValueError, r"^X\[0\] is a value of type str; .*\[\(text, other\)\]"),
    "texts": (
        A,
        ValueError,
        rf"^X\[0\] is a value of type str; .*5 of 5 rows are no pair.*{ZIP}",
    ),
    "a text of two characters": (
        with_entry(2, "ab"),
        ValueError,
        r"^X\[2\] is a value of type str.*1 of 5",
    ),
    "three sides": (
        with_entry(3, ("a", "b", "c")),
        ValueError,
        r"^X\[3\] has 3 elements; expected two str in every row \(1 of 5 rows are no pair\)\.$",
    ),
    "one side": (with_entry(1, ("a",)), ValueError, r"^X\[1\] has 1 elements"),
    "no side": (with_entry(1, []), ValueError, r"^X\[1\] has 0 elements"),
    "missing second": (
        with_entry(1, ("a", None)),
        ValueError,
        r"^X\[1\]\[1\], the second text of row 1, is missing \(None\); .*1 of 5.* Drop rows",
    ),
    "missing first": (
        pd.DataFrame({"a": ["x", None, None], "b": ["x", "y", "z"]}),
        ValueError,
        r"^X\[1\]\[0\], the first text of row 1, is missing \(nan\); .*\(2 of 3 rows",
    ),
    "NA": (
        pd.DataFrame({"a": ["x", None], "b": ["x", "y"]}, dtype="string"),
        ValueError,
        r"^X\[1\]\[0\], .* missing \(<NA>\)",
    ),
    "null in polars": (pl.DataFrame({"a": ["x"], "b": [None]}), ValueError, r"^X\[0\]\[1\], the s"),
    "null in pyarrow": (pa.table({"a": ["x"], "b": [None]}), ValueError, r"^X\[0\]\[1\], the sec"),
    "missing row": (
        with_entry(0, None),
        ValueError,
        r"^X\[0\] is missing \(None\).* Drop such rows",
    ),
    "a number": (
        with_entry(4, ("a", 7)),
        ValueError,
        r"^X\[4\]\[1\], .* is 7 of type int; expected",
    ),
    "numbers": (np.zeros((3, 2)), ValueError, r"^X\[0\]\[0\], .* is 0\.0 of type float.*3 of 3"),
    "bytes inside": ([(b"a", "b")], ValueError, r"^X\[0\]\[0\], .* of type bytes"),
    "words": ([("a", ["b", "c"])], ValueError, r"^X\[0\]\[1\], .* of type list.* join the words"),
    "dict rows": (
        [{"premise": "a", "hypothesis": "b"}],
        ValueError,
        r"^X\[0\] is of type dict with the keys \['premise', 'hypothesis'\]; .* Take the two texts",
    ),
    "polars struct": (pl.Series([{"a": "x", "b": "y"}]), ValueError, "of type dict with the keys"),
    "set rows": ([{"a", "b"}], ValueError, r"^X\[0\] is .* of type set; expected a pair of str"),
    "numbers as rows": ([1, 2], ValueError, r"^X\[0\] is 1 of type int; expected a pair of str"),
    "three columns": (
        pd.DataFrame({"a": A, "b": B, "c": B}),
        ValueError,
        r"^X has 3 column\(s\) \('a', 'b', 'c'\); expected .* Select the two columns",
    ),
    "three columns of polars": (pl.DataFrame({"a": A, "b": B, "c": B}), ValueError, r"\('a', 'b',"),
    "one column of pyarrow": (pa.table({"a": A}), ValueError, r"^X has 1 column\(s\) \('a'\)"),
    "three columns of numpy": (
        np.array([A, B, B]).T,
        ValueError,
        r"^X has 3 column\(s\); expected",
    ),
    "three axes": (np.array(PAIRS)[..., None], ValueError, r"^X has shape \(5, 2, 1\)"),
    "0 axes": (np.array("text"), ValueError, r"^X has shape \(\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pairs(name):
    X, error, message = BAD[name]
    with pytest.raises(error, match=message):
        as_pairs(X)


def test_messages_use_the_name():
    with pytest.raises(ValueError, match=r"^X_val\[0\]\[1\], the second"):
        as_pairs([("a", 3)], name="X_val")
