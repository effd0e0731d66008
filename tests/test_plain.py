"""Values as JSON and back: equal, of the same types, and nothing else can come out."""

import itertools
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import accuracy_score, make_scorer
from transformers import GenerationConfig

from sktransformers import (
    CRF,
    AdamW,
    Backbone,
    BackTranslation,
    BatchHistory,
    BinaryCrossEntropy,
    Cache,
    GradualUnfreezing,
    LoRA,
    MaskedReplacement,
    MLPHead,
    RandomDeletion,
    Replay,
    SavedModelError,
    SynonymReplacement,
    TransformerSequenceClassifier,
    Windows,
    metrics,
)
from sktransformers.persistence.plain import NotPlain, all_to_plain, from_plain, to_plain


def back(value):
    """A value that has been JSON."""
    return from_plain(json.loads(json.dumps(to_plain(value, "x"), allow_nan=False)), "x")


def same(a, b):
    """Whether two values are equal, and of equal types, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and (a == b or bool(a != a and b != b))
    if isinstance(a, np.ndarray):
        right = a.dtype == b.dtype and a.shape == b.shape
        return right and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
    if isinstance(a, dict):  # in the same order
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "get_params"):
        return same(a.get_params(deep=False), b.get_params(deep=False))
    return a == b


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([Path("a/b"), Path(), Decimal("1.50"), torch.device("cuda:1")])
)
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | hnp.unicode_string_dtypes(endianness="?", max_len=5)
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?"),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS)
VALUES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.filter(lambda array: array.size).map(lambda array: array.flat[0]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(st.text("$a", max_size=2), inner, max_size=3)
        | st.builds(GradualUnfreezing)
        | st.builds(BinaryCrossEntropy, pos_weight=inner)
        | st.builds(RandomDeletion, rate=inner)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_what_comes_back_is_equal_and_of_the_same_types(value):
    assert same(back(value), value)


def mixed():
    """An array of objects, among them such that NumPy would take apart."""
    array = np.empty((2, 2), dtype=object)
    array.flat[:] = ["a", None, (1, 2), [np.int8(3)]]
    return array


@pytest.mark.parametrize(
    "value",
    [
        {1: 0.5, "a": 2, np.str_("b"): 3, (1, "x"): None},
        {"$spec": 1},
        {1, 2},
        frozenset({"a"}),
        mixed(),
        np.array([True, "a"], dtype=object)[1:],
        np.array(3.5),
        np.array([], dtype="<U3"),
        np.datetime64("2020-01-01T00:00:00.000000001"),
        np.datetime64("NaT"),
        "\ud800",
        sparse.csr_array,
        sparse.csr_matrix,
        [SynonymReplacement({"film": ["movie"]}, backbone=Backbone("x")), RandomDeletion()],
        MLPHead((5, 6)),
        AdamW(betas=(np.float64(0.9), 0.99), averaging="ema"),
        Windows(stride=np.int64(3)),
        [BatchHistory(), ("second", BatchHistory())],
    ],
    ids=map(str, itertools.count()),  # what str gives of some is an address
)
def test_odd_values(value):
    assert same(_described(back(value)), _described(value))


def _described(value):
    """Callbacks of skorch have no parameters, and are no equals of their copies."""
    return repr(value).partition(" object at")[0] if "BatchHistory" in repr(value) else value


def test_settings_of_generation():
    settings = GenerationConfig(num_beams=3, do_sample=True, eos_token_id=[1, 2])
    assert back(settings) == settings and type(back(settings)) is GenerationConfig


@pytest.mark.parametrize("name", [name for name in metrics.__all__ if name.endswith("_scorer")])
def test_scorers_of_the_package_are_known_after_clone_too(name):
    scorer = getattr(metrics, name)
    copied = clone(TransformerSequenceClassifier(scoring=scorer)).scoring
    assert copied is not scorer
    assert back(copied) is back(scorer) is scorer


def test_options_of_backbones_that_are_secrets_or_decisions_are_left_out():
    given = Backbone("x", token="hf_secret", trust_remote_code=True, revision="r")
    for value in (given, [MaskedReplacement(given)], BackTranslation(given, backward="y")):
        text = json.dumps(to_plain(value, "x"))
        assert "hf_secret" not in text and '"trust_remote_code": true' not in text
    assert back(given).get_params() == Backbone("x", revision="r").get_params()
    # Nor do they come out of a file.
    hostile = {"class": "Backbone", "parameters": {"trust_remote_code": True, "token": "a"}}
    found = from_plain({"$spec": hostile}, "x")
    assert found.trust_remote_code is False and found.token is None


# ---------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": [1.5], "b": ["x"], "c": [True]}),
        pd.DataFrame([[1, 2.5]]),
        pd.DataFrame([["x", 1]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])),
        pd.DataFrame([[1]], columns=pd.Index([7], name="tasks")),
        pd.DataFrame({"a": pd.Categorical(["x"], ["y", "x"], ordered=True)}),
        pd.DataFrame({"a": pd.Categorical([3], [3, 1])}),
        pd.DataFrame({"a": pd.Series([1], dtype="Int64"), "b": pd.Series(["x"], dtype="string")}),
        pd.DataFrame({"a": pd.Series(["x"], dtype=pd.StringDtype("python"))}),
        pd.DataFrame(
            {"a": pd.Series([True], dtype="boolean"), "b": pd.Series(["x"], dtype=object)}
        ),
        pd.DataFrame({"a": pd.Series([1], dtype="int64[pyarrow]")}),
    ],
    ids=str,
)
def test_tables_of_pandas_without_rows(table):
    empty = table.head(0)
    found = back(empty)
    pd.testing.assert_frame_equal(found, empty, check_index_type=False, check_column_type="equiv")
    assert found.columns.equals(empty.columns) and found.columns.names == empty.columns.names
    with pytest.raises(NotPlain):
        to_plain(table, "x")  # rows are the user's


def test_tables_of_polars_without_rows():
    schema = {
        "a": pl.String(),
        "b": pl.Int16(),
        "c": pl.Boolean(),
        "d": pl.Float32(),
        "e": pl.Enum(["x", "y"]),
        "f": pl.Decimal(10, 2),
        "g": pl.Categorical(),
    }
    found = back(pl.DataFrame(schema=schema))
    assert type(found) is pl.DataFrame and dict(found.schema) == schema and len(found) == 0
    with pytest.raises(NotPlain):
        to_plain(pl.DataFrame(schema={"a": pl.List(pl.Int8)}), "x")


# ------------------------------------------------------------------------- refusals


class Mine(AdamW):
    """No class of the package's."""


@pytest.mark.parametrize(
    "value",
    [
        len,
        object(),
        make_scorer(accuracy_score),
        np.random.RandomState(0),
        torch.zeros(2),
        b"bytes",
        1j,
        np.array([1j]),
        np.longdouble(1),
        Mine(),
        pd.Series([1]),
        type,
        [[1], {"a": (object(),)}],
    ],
    ids=[
        *("function", "object", "scorer", "RandomState", "tensor", "bytes", "complex"),
        *("complex array", "longdouble", "subclass", "Series", "type", "inside"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(value):
    with pytest.raises(NotPlain) as caught:
        to_plain(value, "here")
    assert list(caught.value.found) == ["here"]


def test_what_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(NotPlain):
        to_plain(value, "x")


def test_all_that_json_cannot_hold_is_named_at_once():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(NotPlain) as caught:
        all_to_plain(
            {
                "callbacks": [1, object()],
                "lr": 1e-3,
                "backbone": Backbone(model, tokenizer=model, dtype="bfloat16"),
                "augment": [MaskedReplacement(model)],
                "other": BackTranslation(model, "x"),
            }
        )
    # Of a list the whole, and so of an option that has no default.
    assert sorted(caught.value.found) == sorted(
        ["callbacks", "backbone__name", "backbone__tokenizer", "augment", "other"]
    )


# -------------------------------------------------------------------- hostile files

_ARRAY = {"dtype": "<i8", "shape": [1], "values": [1]}
_DEEP = 1
for _ in range(200):
    _DEEP = [_DEEP]


@pytest.mark.parametrize(
    "plain",
    [
        {"$unknown": 1},
        {"$eval": "1"},
        {"$float": "1e5"},
        {"$float": 3},
        {"$float": ["nan"]},
        {"$tuple": "abc"},
        {"$tuple": {"a": 1}},
        {"$set": [[1]]},
        {"$set": {"$set": []}},
        {"$dict": [[1]]},
        {"$dict": ["ab"]},
        {"$dict": [[[1], 2]]},
        {"$dict": 7},
        {"$path": 7},
        {"$path": None},
        {"$decimal": "x"},
        {"$decimal": [1]},
        {"$device": "nowhere"},
        {"$device": 7.5},
        {"$array": 1},
        {"$array": {}},
        {"$array": {**_ARRAY, "dtype": "O"}},
        {"$array": {**_ARRAY, "dtype": None}},
        {"$array": {**_ARRAY, "dtype": ["a", "i4"]}},
        {"$array": {**_ARRAY, "dtype": "i4,i4"}},
        {"$array": {**_ARRAY, "dtype": "<i3"}},
        {"$array": {**_ARRAY, "dtype": "<f16"}},
        {"$array": {**_ARRAY, "dtype": "<U999999999999"}},
        {"$array": {"dtype": "<U400000000", "shape": [1], "values": ["a"]}},
        {"$array": {**_ARRAY, "dtype": "<M8[elephants]"}},
        {"$array": {**_ARRAY, "shape": [2]}},
        {"$array": {**_ARRAY, "shape": [-1]}},
        {"$array": {**_ARRAY, "shape": [10**30]}},
        {"$array": {**_ARRAY, "shape": ["1"]}},
        {"$array": {**_ARRAY, "shape": 1}},
        {"$array": {**_ARRAY, "values": 1}},
        {"$array": {**_ARRAY, "values": ["1"]}},
        {"$array": {**_ARRAY, "values": [10**30]}},
        {"$array": {**_ARRAY, "values": [[1]]}},
        {"$array": {**_ARRAY, "values": [1.5]}},
        {"$array": {"dtype": "|b1", "shape": [1], "values": [2]}},
        {"$array": {"dtype": "object", "shape": [3], "values": [1]}},
        {"$scalar": 3},
        {"$generation": {"no_such_setting": 1}},
        {"$generation": {"num_beams": -5, "__class__": "x"}},
        {"$generation": 1},
        {"$spec": 1},
        {"$spec": {"class": "os.system", "parameters": {}}},
        {"$spec": {"class": "BaseEstimator", "parameters": {}}},
        {"$spec": {"class": ["Backbone"], "parameters": {}}},
        {"$spec": {"class": "Backbone"}},
        {"$spec": {"class": "Backbone", "parameters": []}},
        {"$spec": {"class": "Backbone", "parameters": {"self": 1}}},
        {"$spec": {"class": "LoRA", "parameters": {"no_such": 1}}},
        {"$spec": {"class": "BackTranslation", "parameters": {}}},
        {"$type": "type"},
        {"$type": ["csr_array"]},
        {"$table": 1},
        {"$table": {"library": "os", "columns": [["a", "int64"]], "names": [None], "dtype": "str"}},
        {"$table": {"library": "polars", "columns": [["a", "read_csv"]]}},
        {"$table": {"library": "polars", "columns": []}},
        {"$table": {"library": "polars", "columns": [["a", {"categories": 7}]]}},
        {
            "$table": {
                "library": "pandas",
                "columns": [["a", "nonsense"]],
                "names": [None],
                "dtype": "str",
            }
        },
        {"$metric": "make_scorer"},
        {"$metric": ["span_f1_scorer"]},
        {"$path": "a", "$float": "nan"},
        {"a": 1, "$float": "nan"},
        _DEEP,
    ],
    ids=str,
)
def test_what_was_not_written_by_us_is_an_error_of_our_own(plain):
    with pytest.raises(SavedModelError, match=r"^'file': x"):
        from_plain(plain, "'file': x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("$float", "$tuple", "$set", "$frozenset", "$dict", "$path", "$decimal"),
                    *("$device", "$scalar", "$array", "$generation", "$spec", "$table", "$type"),
                    *("$metric", "dtype", "shape", "values", "class", "parameters", "library"),
                    *("columns", "names"),
                ]
            ),
            inner | st.sampled_from(["<i8", "<U3", "object", "Backbone", "pandas", "polars"]),
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_value_or_an_error_of_our_own(plain):
    try:
        from_plain(plain, "x")
    except SavedModelError:
        pass


@given(st.sampled_from(["$array", "$scalar", "$spec", "$table", "$generation"]), JSON, JSON, JSON)
def test_entries_with_any_content(kind, first, second, third):
    names = {
        "$spec": ("class", "parameters", "x"),
        "$table": ("library", "columns", "names"),
    }.get(kind, ("dtype", "shape", "values"))
    try:
        from_plain({kind: dict(zip(names, (first, second, third)))}, "x")
    except SavedModelError:
        pass


def test_every_option_object_of_the_package_is_known():
    import sktransformers

    for name in sktransformers.__all__:
        value = getattr(sktransformers, name)
        if hasattr(value, "get_params") and not hasattr(value, "predict"):
            if name not in ("BackTranslation", "Cache", "Checkpoint", "MaskedLMAdapter"):
                assert repr(back(value())).partition(" object")[0] in repr(value())
    assert same(back(Replay(7)), Replay(7)) and same(back(CRF("BIO")), CRF("BIO"))
    assert same(back(LoRA(r=3)), LoRA(r=3)) and same(back(Cache("x")), Cache("x"))
