"""Few rows, odd rows, odd weights: a model comes out, or a clear error before training."""

import numpy as np
import pandas as pd
import pytest
import tiny_estimators
from tiny_estimators import KINDS, LABELS, NUMBERS, PAIRS, TAGS, TEXTS, WORDS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "error::RuntimeWarning")
NAN = float("nan")
LONG = "the onda " * 12_000  # 108,000 characters


def fit(kind, n=None, X=None, y=None, **params):
    known = KINDS[kind]
    X = known.X[:n] if X is None else X
    if y is None and known.y is not None:
        y = known.y[: len(X)]
    weights = params.pop("sample_weight", None)
    extra = {} if weights is None else {"sample_weight": weights}
    held_out = {name: params.pop(name) for name in ("X_val", "y_val") if name in params}
    estimator = tiny_estimators.make(kind, **params)
    return estimator.fit(X, y, **extra, **held_out)


def check(estimator, kind):
    found = tiny_estimators.outputs(estimator, kind, KINDS[kind].X[:3])
    if found.dtype.kind == "f":
        assert np.isfinite(found).all()


def two(kind):
    """Two rows with different targets, of what is to be told apart."""
    return {"X": KINDS[kind].X[:2], "y": None if KINDS[kind].y is None else KINDS[kind].y[:2]}


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_is_refused(kind):
    with pytest.raises(ValueError, match=r"\bX\b.* empty"):
        fit(kind, X=[], y=None if KINDS[kind].y is None else KINDS[kind].y[:0])


CLASSES = ("classifier", "native", "pair", "answers")


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_is_learnt_or_refused(kind):
    if kind in CLASSES or kind == "tasks":
        with pytest.raises(ValueError, match=r"at least two classes; y.* has 1 class"):
            fit(kind, 1)
    else:
        check(fit(kind, 1), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_two_rows_are_enough(kind):
    check(fit(kind, **two(kind)), kind)


@pytest.mark.parametrize("kind", ["classifier", "regressor", "tagger", "tasks", "adapter"])
def test_held_out_rows_of_few(kind):
    # One is left for each side at least, or it is said that this is not enough.
    try:
        check(fit(kind, early_stopping=True, **two(kind)), kind)
    except ValueError as error:
        assert "validation_fraction" in str(error) or "early_stopping" in str(error), error


@pytest.mark.parametrize("kind", ["classifier", "pair", "tasks"])
def test_classes_of_one_row_and_early_stopping(kind):
    y = ["once", "twice", *LABELS[2:]]
    if kind == "tasks":
        y = pd.DataFrame({"a": y, "b": NUMBERS})
    estimator = fit(kind, y=y, early_stopping=True)
    check(estimator, kind)
    if kind != "tasks":
        assert {"once", "twice"} <= set(estimator.classes_)


@pytest.mark.parametrize("kind", CLASSES)
def test_one_class_is_refused(kind):
    with pytest.raises(ValueError, match="at least two classes; y has 1 class: 'food'"):
        fit(kind, y=["food"] * len(TEXTS))


def test_one_tag_is_refused():
    with pytest.raises(ValueError, match="at least two tags; y has 1 tag: 'O'"):
        fit("tagger", y=[["O"] * len(words) for words in WORDS])


@pytest.mark.parametrize("kind", ["regressor", "bi-encoder"])
def test_numbers_that_are_all_the_same_are_learnt(kind):
    estimator = fit(kind, y=np.full(len(TEXTS), 7.5))
    np.testing.assert_allclose(estimator.predict(KINDS[kind].X), 7.5, atol=0.5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adapter"])
@pytest.mark.parametrize("row", ["", " \t\u3000", "\u200b\ufeff"])
def test_rows_that_encode_to_nothing(kind, row):
    rows = {"p": [(row, row)], "b": [(row, row)]}.get(kind[0], [row])
    if "tagger" in kind:
        rows = [[row, "fish"]]
    X = rows * 4 + list(KINDS[kind].X[4:8])
    y = KINDS[kind].y[:8]
    if "tagger" in kind:
        y = [["O", "B-PER"]] * 4 + TAGS[4:8]
    check(fit(kind, X=X, y=y), kind)


def test_nothing_but_empty_rows():
    check(fit("classifier", X=[""] * 6, y=["a", "b"] * 3), "classifier")
    check(fit("bi-encoder", X=[("", "")] * 4, y=[0.0, 1.0] * 2), "bi-encoder")
    with pytest.raises(ValueError, match="All 2 texts of X are empty"):
        fit("adapter", X=["", " "])


@pytest.mark.parametrize("kind", ["classifier", "regressor", "pair", "tagger", "tasks"])
def test_weights_of_all_sizes(kind):
    n = len(TEXTS)
    check(fit(kind, sample_weight=np.geomspace(1e-300, 1e300, n)), kind)
    check(fit(kind, sample_weight=np.full(n, 1e-320)), kind)
    check(fit(kind, sample_weight=np.full(n, 1e300)), kind)


@pytest.mark.parametrize("kind", ["regressor", "tagger", "generator"])
def test_all_weight_on_one_row(kind):
    weights = np.eye(len(TEXTS))[5]
    check(fit(kind, sample_weight=weights), kind)


WEIGHTS = {
    "negative": ([-1.0] + [1.0] * 23, "Negative values .*sample_weight"),
    "NaN": ([NAN] + [1.0] * 23, "sample_weight contains NaN"),
    "infinite": ([np.inf] + [1.0] * 23, "sample_weight contains inf"),
    "none": (np.zeros(24), "at least one non-zero"),
    "short": (np.ones(23), "sample_weight"),
    "a table": (np.ones((24, 2)), "[Ss]ample.?weight"),
    "text": (["a"] * 24, r"sample_weight\[0\]"),
    "objects": ([{}] * 24, "sample_weight"),
    "empty": ([], "sample_weight"),
    "sum": (np.full(24, 1e308), "sample_weight is too large"),
    "one class left": (np.eye(24)[3], "y has 1 class"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_odd_weights_are_refused(name):
    weights, message = WEIGHTS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        fit("classifier", sample_weight=weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_a_hundred_thousand_characters(kind):
    X = list(KINDS[kind].X[:5])
    X.append({"p": (LONG, LONG), "b": (LONG, LONG)}.get(kind[0], LONG))
    if "tagger" in kind:
        X[-1] = LONG.split()[:2000]
    y = None if KINDS[kind].y is None else KINDS[kind].y[:6]
    if "tagger" in kind:
        y = [*y[:5], ["O"] * 2000]
    estimator = fit(kind, X=X, y=y, max_length=16, batch_size=1000)
    if kind == "adapter":
        assert estimator.perplexity(X) >= 1
    else:
        assert len(estimator.predict(X)) == 6


NUMBERS_REFUSED = {
    "text": (["a"] * 24, r"y\[0\]"),
    "number as text": (["1"] * 24, r"y\[0\]"),
    "NaN": ([NAN, *NUMBERS[1:]], r"y\[0\] is missing"),
    "infinite": ([np.inf, *NUMBERS[1:]], "y contains infinity"),
    "complex": ([1j] * 24, r"\by\b"),
    "None": ([None] * 24, r"y\[0\] is missing"),
    "dates": (np.full(24, np.datetime64("2020-01-01")), r"\by\b"),
    "short": (NUMBERS[1:], r"\by\b"),
    "ragged": ([[1.0], [1.0, 2.0]] * 12, r"\by\b"),
    "three axes": (np.ones((24, 1, 1)), r"\by\b"),
    "huge": ([1e308, -1e308] * 12, "y holds numbers that are too large"),
    "huger than a float": ([10**400] * 24, r"\by\b"),
}


@pytest.mark.parametrize("name", NUMBERS_REFUSED)
def test_odd_numbers_are_refused(name):
    y, message = NUMBERS_REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        fit("regressor", y=y)


@pytest.mark.parametrize(
    "y", [[1e30, -1e30], [1e-30, 2e-30], [1e300, 1e300], [0, 1], [True, False]]
)
def test_numbers_of_all_sizes_are_learnt(y):
    estimator = fit("regressor", y=np.array(y * 12))
    assert np.isfinite(estimator.predict(TEXTS[:3])).all()


TAGS_REFUSED = {
    "flat": (["O"] * 24, r"\by\b"),
    "short row": ([TAGS[0][1:], *TAGS[1:]], r"y\[0\]"),
    "missing": ([[None] * len(tags) for tags in TAGS], r"y\[0\]"),
    "NaN": ([[NAN] * len(tags) for tags in TAGS], r"y\[0\]"),
    "mixed": ([[*tags[:-1], 3] for tags in TAGS], r"\by\b"),
    "deep": ([[[tag] for tag in tags] for tags in TAGS], r"y\[0\]"),
    "text": (" ".join("O" for _ in range(24)), r"\by\b"),
}


@pytest.mark.parametrize("name", TAGS_REFUSED)
def test_odd_tags_are_refused(name):
    y, message = TAGS_REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        fit("tagger", y=y)


PAIRS_REFUSED = {
    "texts": (TEXTS, r"\bX\b"),
    "one text": ([(a,) for a, _ in PAIRS], r"\bX\b"),
    "three": ([(a, b, a) for a, b in PAIRS], r"\bX\b"),
    "None": ([(a, None) for a, _ in PAIRS], r"X\[0\]"),
    "ragged": ([PAIRS[0], ("a",), *PAIRS[2:]], r"X\[1\]"),
}


@pytest.mark.parametrize("name", PAIRS_REFUSED)
def test_odd_pairs_are_refused(name):
    X, message = PAIRS_REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        fit("pair", X=X)


HELD_OUT = {
    "empty": ({"X_val": [], "y_val": []}, "X_val is empty"),
    "no y": ({"X_val": TEXTS}, "X_val and y_val"),
    "short": ({"X_val": TEXTS[:3], "y_val": LABELS[:2]}, "X_val has 3 rows, y_val has 2"),
    "pairs": ({"X_val": PAIRS, "y_val": LABELS}, r"X_val\[0\]"),
    "other class": ({"X_val": ["a"], "y_val": ["moon"]}, r"y_val\[0\]"),
    "missing": ({"X_val": ["a"], "y_val": [None]}, "y_val"),
    "numbers": ({"X_val": ["a"], "y_val": [1.5]}, "y_val|label"),
    "table": ({"X_val": ["a"], "y_val": [["food", "sea"]]}, "y_val"),
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_odd_validation_rows_are_refused(name):
    params, message = HELD_OUT[name]
    with pytest.raises((ValueError, TypeError), match=message):
        fit("classifier", **params)


def test_validation_rows_of_one_class_are_scored():
    estimator = fit("classifier", X_val=["fish"], y_val=["sea"])
    assert np.isfinite(estimator.history_[-1]["valid_loss"])
