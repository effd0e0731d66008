"""Scores of taggers, number by number as seqeval's, and of regressors, as SciPy's."""

import pickle
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from sktransformers import metrics
from sktransformers.metrics import (
    pearson_score,
    span_classification_report,
    span_f1_score,
    span_precision_score,
    span_recall_score,
    spans,
    spearman_score,
    word_accuracy_score,
)

TRUE = [
    ["B-PER", "I-PER", "O", "B-LOC"],
    ["O", "O"],
    ["B-ORG", "I-ORG", "I-ORG"],
    ["O", "B-LOC", "B-LOC"],
]
PRED = [
    ["B-PER", "I-PER", "O", "O"],
    ["O", "O"],
    ["B-ORG", "I-ORG", "O"],
    ["O", "B-LOC", "B-LOC"],
]
SCORES = {
    "f1": span_f1_score,
    "precision": span_precision_score,
    "recall": span_recall_score,
}
AVERAGES = ["micro", "macro", "weighted", None]


# ------------------------------------------------------------------------------------- spans

GROUPED = {
    "B I": (["O", "B-A", "I-A", "O"], [(1, 3, "A")]),
    "at both ends": (["B-A", "O", "B-A"], [(0, 1, "A"), (2, 3, "A")]),
    "adjacent": (["B-A", "B-A", "I-A"], [(0, 1, "A"), (1, 3, "A")]),
    "I alone": (["I-A", "I-A", "O", "I-B"], [(0, 2, "A"), (3, 4, "B")]),
    "I of another type": (["B-A", "I-B", "I-B"], [(0, 1, "A"), (1, 3, "B")]),
    "E ends": (["B-A", "E-A", "I-A"], [(0, 2, "A"), (2, 3, "A")]),
    "E alone": (["E-A", "E-A"], [(0, 1, "A"), (1, 2, "A")]),
    "S": (["S-A", "S-A", "B-A", "S-A"], [(0, 1, "A"), (1, 2, "A"), (2, 3, "A"), (3, 4, "A")]),
    "I after S": (["S-A", "I-A"], [(0, 1, "A"), (1, 2, "A")]),
    "hyphen in a type": (["B-A-B", "I-A-B", "I-A"], [(0, 2, "A-B"), (2, 3, "A")]),
    "no type": (["B", "I", "O", "I"], [(0, 2, "_"), (3, 4, "_")]),
    "all O": (["O", "O"], []),
    "empty": ([], []),
}


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("container", [list, tuple, np.array, pd.Series])
def test_spans(name, container):
    tags, expected = GROUPED[name]
    found = spans(container(tags))
    assert found == expected
    assert all(type(start) is int and type(kind) is str for start, _, kind in found)


TAGS = st.sampled_from(
    ["O", "O"]
    + [f"{letter}-{kind}" for letter in "BIES" for kind in ("A", "BB", "A-B", "_")]
    + ["B", "I", "E", "S", "B-", "I-", "L-A", "U-A"]
)
PAIRS_OF_TAGS = st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=8), min_size=1, max_size=5)


@given(tags=st.lists(TAGS | st.text("BIESO.-AB", min_size=1), max_size=12))
def test_spans_as_seqeval(tags):
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    with warnings.catch_warnings(action="ignore"):
        expected = seqeval.get_entities(tags)
    assert spans(tags) == [(start, end + 1, kind) for kind, start, end in expected]


# ----------------------------------------------------------------------- precision, recall, F1


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", SCORES)
def test_scores_by_hand(name, average):
    # LOC: 3 true, 2 predicted and right. ORG: 1 true, 1 predicted, wrong. PER: 1, right.
    expected = {
        "precision": {"micro": 3 / 4, "macro": 2 / 3, "weighted": 4 / 5, None: [1, 0, 1]},
        "recall": {"micro": 3 / 5, "macro": 5 / 9, "weighted": 3 / 5, None: [2 / 3, 0, 1]},
        "f1": {"micro": 2 / 3, "macro": 3 / 5, "weighted": 17 / 25, None: [4 / 5, 0, 1]},
    }
    score = SCORES[name](TRUE, PRED, average=average)
    assert_allclose(score, expected[name][average], rtol=1e-15)
    assert isinstance(score, np.ndarray if average is None else float)


@pytest.mark.parametrize("zero_division", ["warn", 0, 1])
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", SCORES)
@given(rows=PAIRS_OF_TAGS)
def test_scores_as_seqeval(name, average, zero_division, rows):
    seqeval = pytest.importorskip("seqeval.metrics")
    y_true, y_pred = unzip(rows)
    with warnings.catch_warnings(action="ignore"):
        expected = getattr(seqeval, f"{name}_score")(
            y_true, y_pred, average=average, zero_division=zero_division
        )
        score = SCORES[name](y_true, y_pred, average=average, zero_division=zero_division)
    if average == "macro" and not any(map(spans, y_true + y_pred)):
        assert np.isnan(expected)  # a mean of nothing
        expected = float(zero_division == 1)
    np.testing.assert_array_equal(score, expected)  # to the last bit


def unzip(rows):
    return [[a for a, _ in row] for row in rows], [[b for _, b in row] for row in rows]


@given(rows=PAIRS_OF_TAGS, digits=st.integers(1, 20))
def test_report_as_seqeval(rows, digits):
    seqeval = pytest.importorskip("seqeval.metrics")
    y_true, y_pred = unzip(rows)
    if not any(map(spans, y_true + y_pred)):
        y_true, y_pred = [*y_true, ["B-A"]], [*y_pred, ["O"]]  # seqeval's report needs a span
    with warnings.catch_warnings(action="ignore"):
        expected = seqeval.classification_report(y_true, y_pred, output_dict=True)
        report = span_classification_report(y_true, y_pred, output_dict=True)
        text = span_classification_report(y_true, y_pred, digits=digits)
        assert text == seqeval.classification_report(y_true, y_pred, digits=digits)
    assert report == expected
    assert list(report) == list(expected)


def test_report_without_spans():
    with pytest.warns(UndefinedMetricWarning) as caught:
        report = span_classification_report([["O"]], [["O"]])
    assert len(caught) == 1 and caught[0].filename == __file__
    assert [line.split()[0] for line in report.splitlines()[2:]] == ["micro", "macro", "weighted"]
    report = span_classification_report([["O"]], [["O"]], output_dict=True, zero_division=1)
    assert report["macro avg"] == {"precision": 1, "recall": 1, "f1-score": 1, "support": 0}


@pytest.mark.parametrize("name", SCORES)
def test_labels_choose_types_and_their_order(name):
    each = dict(zip(["LOC", "ORG", "PER"], SCORES[name](TRUE, PRED, average=None)))
    chosen = SCORES[name](TRUE, PRED, average=None, labels=["PER", "LOC"])
    assert chosen.tolist() == [each["PER"], each["LOC"]]
    assert SCORES[name](TRUE, PRED, labels=["PER"]) == 1
    assert SCORES[name](TRUE, PRED, labels=["PER", "ORG"], average="macro") == 0.5
    with pytest.warns(UndefinedMetricWarning, match=r"spans \(1 of 2\)"):
        scores = SCORES[name](TRUE, PRED, average=None, labels=["PER", "MISC"])
    assert scores.tolist() == [1, 0]


@pytest.mark.parametrize("zero_division", [0, 1, np.nan])
@pytest.mark.parametrize("average", AVERAGES)
@given(
    types=st.lists(st.tuples(st.sampled_from("OABC"), st.sampled_from("OABC")), min_size=1),
)
def test_zero_division_as_sklearn(average, zero_division, types):
    # Spans of one word are labels that sklearn can count, with O left out.
    y_true, y_pred = zip(*types)
    tags = [[t if t == "O" else f"B-{t}" for t in y] for y in (y_true, y_pred)]
    for ours, theirs in zip(SCORES.values(), (f1_score, precision_score, recall_score)):
        options = {"labels": ["A", "B", "C"], "average": average, "zero_division": zero_division}
        with warnings.catch_warnings(action="error"):
            score = ours([tags[0]], [tags[1]], **options)
        assert_allclose(score, theirs(y_true, y_pred, **options), rtol=1e-12)


UNDEFINED = {
    "no predicted": (span_precision_score, [["B-A"]], [["O"]]),
    "no true spans": (span_recall_score, [["O"]], [["B-A"]]),
    "no true nor predicted": (span_f1_score, [["O"]], [["O"]]),
}


@pytest.mark.parametrize("message", UNDEFINED)
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_undefined_scores_warn(message, average):
    score, y_true, y_pred = UNDEFINED[message]
    with pytest.warns(UndefinedMetricWarning, match=message) as caught:
        assert score(y_true, y_pred, average=average) == 0
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        assert score(y_true, y_pred, average=average, zero_division=1.0) == 1
        assert np.isnan(score(y_true, y_pred, average=average, zero_division=np.nan))


def test_tags_that_mark_no_spans_warn():
    with pytest.warns(UserWarning, match=r"y_true\[0\]\[1\] is 'NOUN', which is no tag") as caught:
        span_f1_score([["O", "NOUN", "VERB"]], [["O", "O", "B-A"]])
    assert len(caught) == 1 and caught[0].filename == __file__


# ----------------------------------------------------------------------------------- words


def test_word_accuracy():
    assert word_accuracy_score(TRUE, PRED) == 10 / 12
    assert word_accuracy_score([[1, 2], [], [3]], [[1, 3], [], [3]]) == 2 / 3
    assert word_accuracy_score([[True, False]], np.array([[True, True]])) == 0.5
    assert type(word_accuracy_score(np.array([[1, 2]]), np.array([[1, 2]]))) is float


def test_word_accuracy_of_no_words():
    with pytest.warns(UndefinedMetricWarning):
        assert word_accuracy_score([[], []], [[], []]) == 0


# ------------------------------------------------------------------------------ containers


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        array[i] = list(row)
    return array


CONTAINERS = {
    "tuple": tuple,
    "tuples": lambda y: [tuple(row) for row in y],
    "object array": object_array,
    "arrays": lambda y: [np.array(row) for row in y],
    "object array of object arrays": lambda y: object_array(
        [np.array(row, dtype=object) for row in y]
    ),
    "Series": lambda y: pd.Series(y, index=[7] * len(y)),
    "Series of Series": lambda y: pd.Series([pd.Series(row) for row in y]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container):
    make = CONTAINERS[container]
    for score in [*SCORES.values(), word_accuracy_score, span_classification_report]:
        expected = score(TRUE, PRED)
        assert score(make(TRUE), PRED) == expected
        assert score(TRUE, make(PRED)) == expected


def test_equal_lengths_that_collapsed():
    y_true, y_pred = np.array([["B-A", "I-A"], ["O", "O"]]), [["B-A", "I-A"], ["O", "B-A"]]
    assert span_precision_score(y_true, y_pred) == 0.5
    assert span_precision_score(y_true.astype(object), np.array(y_pred)) == 0.5


BAD = {
    r"^y_true\[1\] has 2 tags, y_pred\[1\] has 1; .*\(1 of 4 sentences": (
        TRUE,
        [PRED[0], ["O"], *PRED[2:]],
    ),
    "inconsistent numbers of samples: y_true has 4 sentences, y_pred has 3": (TRUE, PRED[:3]),
    r"0 sample\(s\): y_true is empty": ([], []),
    r"y_pred\[0\] is a value of type str; .*\[tags\]": (TRUE, PRED[0]),
    "y_true is one single str": ("O", TRUE),
}
BAD_TAGS = {
    r"^y_true\[0\]\[1\] is 3 of type int; expected 'O', or a type behind B-": (
        [["O", 3]],
        [["O"] * 2],
    ),
    r"^y_pred\[0\]\[0\] is missing \(None\)": ([["O"]], [[None]]),
    r"^y_pred\[0\]\[0\] is a value of type str": ([["O"]], [[""]]),
}


@pytest.mark.parametrize("message", [*BAD, *BAD_TAGS])
def test_bad_tags(message):
    y_true, y_pred = {**BAD, **BAD_TAGS}[message]
    for score in [*SCORES.values(), span_classification_report]:
        with pytest.raises(ValueError, match=message):
            score(y_true, y_pred)
    if message in BAD:
        with pytest.raises(ValueError, match=message):
            word_accuracy_score(y_true, y_pred)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"average": "samples"}, "average is 'samples'; expected 'micro'"),
        ({"zero_division": 2}, "zero_division is 2; expected 'warn', 0, 1 or nan"),
        ({"zero_division": "0"}, "zero_division is '0'"),
        ({"labels": "PER"}, "labels is a value of type str; expected a list"),
        ({"labels": ["PER", "PER"]}, "distinct"),
        ({"labels": []}, "labels is"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        span_f1_score(TRUE, PRED, **options)


@pytest.mark.parametrize(
    "tags, message",
    [
        ("B-PER", "^tags is a value of type str; expected the list of tags"),
        (["O", None], r"^tags\[1\] is missing \(None\)"),
        ([["O"]], r"^tags\[0\] is a value of type list"),
    ],
)
def test_bad_tags_of_one_sentence(tags, message):
    with pytest.raises(ValueError, match=message):
        spans(tags)


# ------------------------------------------------------------------------------ correlations

NUMBERS = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 3)), min_size=2, max_size=20
)


@given(rows=NUMBERS)
def test_correlations_as_scipy(rows):
    a, b, _ = np.array(rows).T
    with warnings.catch_warnings(action="ignore"):
        pearson, spearman = (
            np.nan_to_num(f(a, b).statistic) for f in (scipy.stats.pearsonr, scipy.stats.spearmanr)
        )
        assert_allclose(pearson_score(a, b), pearson, atol=1e-12)
        assert_allclose(spearman_score(a, b), spearman, atol=1e-12)


@pytest.mark.parametrize("score", [pearson_score, spearman_score])
@given(rows=NUMBERS)
def test_a_weight_is_a_repetition(score, rows):
    a, b, weights = np.array(rows).T
    with warnings.catch_warnings(action="ignore"):
        if weights.any():
            expected = score(np.repeat(a, weights), np.repeat(b, weights))
            assert_allclose(score(a, b, sample_weight=weights), expected, atol=1e-12)


@pytest.mark.parametrize("score", [pearson_score, spearman_score])
def test_constant_is_zero(score):
    for a, b in [([1, 2, 3], [0.1] * 3), ([0.1] * 3, [1, 2, 3]), ([1], [1])]:
        with pytest.warns(UndefinedMetricWarning, match="constant") as caught:
            assert score(a, b) == 0.0
        assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", [pearson_score, spearman_score])
def test_correlation_of_extreme_numbers(score):
    x = np.arange(5.0)
    for scale in (1e-300, 1e-160, 1.0, 1e160):
        assert_allclose(score(x, scale * x), 1)
        assert_allclose(score(-scale * x, x), -1)
    assert type(score(pd.Series(x), x[:, None].ravel())) is float


@pytest.mark.parametrize("score", [pearson_score, spearman_score])
def test_bad_numbers(score):
    with pytest.raises(ValueError, match="y_pred contains NaN"):
        score([1, 2], [1, np.nan])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        score([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="1d array"):
        score([[1, 2], [2, 3]], [1, 2])
    with pytest.raises(ValueError, match="Negative"):
        score([1, 2], [1, 2], sample_weight=[1, -1])


# ---------------------------------------------------------------------------------- scorers


class Tagger(BaseEstimator):
    """The most frequent tag of each word, and O for words not seen `min_count` times."""

    def __init__(self, min_count=1):
        self.min_count = min_count

    def fit(self, X, y):
        counts = {}
        for words, tags in zip(X, y):
            for word, tag in zip(words, tags):
                counts.setdefault(word, Counter())[tag] += 1
        self.tags_ = {
            word: tags.most_common(1)[0][0]
            for word, tags in counts.items()
            if tags.total() >= self.min_count
        }
        return self

    def predict(self, X):
        return object_array([[self.tags_.get(word, "O") for word in words] for words in X])


class Median(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.median_ = np.median(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.median_)


SENTENCES = [["Ana", "saw", "Rio"], ["Rio", "saw", "Ana"], ["Ana", "Lee", "ran"]] * 6
TAGGED = [["B-PER", "O", "B-LOC"], ["B-LOC", "O", "B-PER"], ["B-PER", "I-PER", "O"]] * 6
SPAN_SCORERS = ["span_f1_scorer", "span_precision_scorer", "span_recall_scorer"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("make_y", [list, object_array], ids=["list", "object array"])
def test_scorers_in_cross_validation(make_y, n_jobs):
    scoring = {name: getattr(metrics, name) for name in [*SPAN_SCORERS, "word_accuracy_scorer"]}
    found = cross_validate(
        Tagger(), SENTENCES, make_y(TAGGED), cv=3, scoring=scoring, n_jobs=n_jobs
    )
    for name in scoring:
        assert found[f"test_{name}"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", [*SPAN_SCORERS, "word_accuracy_scorer"])
def test_scorers_in_a_grid_search(name):
    search = GridSearchCV(
        Tagger(),
        {"min_count": [100, 1]},
        scoring=getattr(metrics, name),
        cv=3,
        n_jobs=2,
        error_score="raise",
    ).fit(SENTENCES, object_array(TAGGED))
    assert search.best_params_ == {"min_count": 1} and search.best_score_ == 1
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(SENTENCES, TAGGED) == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("name", ["pearson_scorer", "spearman_scorer"])
def test_scorers_of_regressors(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] + 0.1 * rng.normal(size=60)
    scorer = getattr(metrics, name)
    assert cross_val_score(Ridge(), X, y, scoring=scorer, n_jobs=2).min() > 0.9
    assert cross_val_score(Median(), X, y, scoring=scorer).tolist() == [0] * 5
    weights = np.arange(60)
    model = Ridge().fit(X, y)
    expected = scorer._score_func(y, model.predict(X), sample_weight=weights)
    assert scorer(model, X, y, sample_weight=weights) == expected


@pytest.mark.parametrize("name", [name for name in metrics.__all__ if name.endswith("_scorer")])
def test_scorers_pickle(name):
    scorer = getattr(metrics, name)
    copied = pickle.loads(pickle.dumps(scorer))
    assert copied._score_func is scorer._score_func is getattr(metrics, name.removesuffix("r"))


def test_metrics_need_no_torch():
    code = "import sys, sktransformers as s; s.metrics.spans; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
