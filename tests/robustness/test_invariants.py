"""Predictions hang on the row alone: not on its neighbours, its place, or how rows are cut."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import tiny_estimators
from hypothesis import HealthCheck, given, settings, strategies as st
from tiny_estimators import KINDS

import sktransformers

# Of probabilities, numbers and scores in float32, which other shapes of a matrix product round
# in another order. Texts are the same.
TOLERANCE = 1e-5
ROWWISE = [kind for kind in KINDS if kind != "adapter"]  # whose perplexity is that of all rows
SLOTS = [1, 7, 30, 64, 4096]
FEW = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "error::RuntimeWarning")


def rows_of(kind):
    """Twelve rows of the kind, an empty one, and one that is longer than any backbone reads."""
    rows = list(KINDS[kind].X[:10])
    if "tagger" in kind:
        return [*rows, ["fish"], ["the", "onda"] * 100]
    if isinstance(rows[0], tuple):
        return [*rows, ("", "fish"), ("the onda " * 100, "a")]
    return [*rows, "", "the onda " * 100]


def found(estimator, kind, rows):
    """An array of numbers or texts a row."""
    if "tagger" in kind:
        proba = estimator.predict_proba if hasattr(estimator, "predict_proba") else None
        return [np.asarray(part) for part in (proba or estimator.predict)(rows)]
    if hasattr(estimator, "predict_proba"):
        proba = estimator.predict_proba(rows)
        if not isinstance(proba, np.ndarray):  # of several tasks, and numbers beside them
            parts = [part for part in proba if part is not None]
            numbers = pd.DataFrame(estimator.predict(rows)).select_dtypes("number")
            proba = np.hstack([*parts, numbers.to_numpy(float)])
        return list(proba)
    return list(estimator.predict(rows))


def check_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if np.asarray(a).dtype.kind in "fiu":
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def known():
    cache = {}

    def expected(kind):
        if kind not in cache:
            cache[kind] = found(tiny_estimators.fitted(kind), kind, rows_of(kind))
        return cache[kind]

    return expected


@pytest.mark.parametrize("kind", ROWWISE)
@FEW
@given(
    order=st.lists(st.integers(0, 11), min_size=1, max_size=12),
    slots=st.sampled_from(SLOTS),
    batch_size=st.integers(1, 20),
)
def test_neither_neighbours_nor_order_nor_batches_matter(kind, order, slots, batch_size, known):
    estimator = copy.copy(tiny_estimators.fitted(kind))
    estimator.set_params(max_batch_tokens=slots, batch_size=batch_size)
    rows = rows_of(kind)
    check_same(found(estimator, kind, [rows[i] for i in order]), [known(kind)[i] for i in order])


@pytest.mark.parametrize("kind", ROWWISE)
def test_one_call_or_many(kind, known):
    estimator, rows = tiny_estimators.fitted(kind), rows_of(kind)
    calls = [found(estimator, kind, rows[a:b]) for a, b in [(0, 1), (1, 6), (6, 12)]]
    check_same([part for call in calls for part in call], known(kind))


@pytest.mark.parametrize("kind", ROWWISE)
def test_containers_do_not_matter(kind, known):
    estimator, rows = tiny_estimators.fitted(kind), rows_of(kind)
    odd = np.empty(len(rows), object)
    odd[:] = [tuple(row) if isinstance(row, list) else row for row in rows]
    for container in (tuple(rows), odd if "tagger" in kind else list(rows)):
        check_same(found(estimator, kind, container), known(kind))
    if isinstance(rows[0], tuple):
        table = pd.DataFrame(rows, columns=["a", "b"], index=[1] * len(rows))
        check_same(found(estimator, kind, table), known(kind))
    elif isinstance(rows[0], str):
        check_same(found(estimator, kind, pd.Series(rows, index=[1] * len(rows))), known(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_copied_and_loaded_ones_are_the_same(kind, tmp_path):
    estimator = tiny_estimators.fitted(kind)
    expected = tiny_estimators.outputs(estimator, kind)
    estimator.save_pretrained(tmp_path / "saved")
    for other in (
        pickle.loads(pickle.dumps(estimator)),
        copy.deepcopy(estimator),
        sktransformers.load(tmp_path / "saved"),
    ):
        np.testing.assert_array_equal(tiny_estimators.outputs(other, kind), expected)


@pytest.mark.parametrize("kind", ROWWISE)
def test_prediction_changes_nothing(kind, known):
    rows = rows_of(kind)
    before = copy.deepcopy(rows)
    estimator = copy.deepcopy(tiny_estimators.fitted(kind))
    first = found(estimator, kind, rows)
    again = found(estimator, kind, rows)
    assert rows == before
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    check_same(first, known(kind))


def test_the_tolerance_would_show_a_difference(known):
    rows = rows_of("classifier")[::-1]
    with pytest.raises(AssertionError):
        check_same(
            found(tiny_estimators.fitted("classifier"), "classifier", rows), known("classifier")
        )
