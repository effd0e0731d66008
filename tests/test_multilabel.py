"""Any number of labels a row: few and many of them, dense and sparse, and their thresholds."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import LEARNS, make_texts
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit
from sklearn import metrics
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import MultiLabelBinarizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sktransformers import (
    BinaryCrossEntropy,
    PairClassifier,
    TransformerSequenceClassifier,
    outputs,
)
from sktransformers.inputs.targets import check_indicator
from sktransformers.training import loading, probe
from sktransformers.training.thresholds import best_share, best_thresholds, threshold_of

NAMES = ["city", "food", "sea", "ashore"]
SPARSE = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo array": sparse.coo_array,
    "lil": sparse.lil_matrix,
}


def indicator(labels):
    """The topic of each text, and whether it is no sea."""
    y = np.array([[label == c for c in NAMES[:3]] for label in labels], int)
    return np.column_stack([y, 1 - y[:, 2]])


def random_labels(n, n_labels, seed=0):
    """A few labels a row, some frequent and some rare, each in one row at least."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_labels)) < np.geomspace(0.4, 0.01, n_labels)).astype(int)
    y[rng.integers(0, n, n_labels), np.arange(n_labels)] = 1
    y[rng.integers(0, n, n_labels), np.arange(n_labels)] = 0
    return y


Y = indicator(make_texts(48)[1])


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(Y, columns=NAMES)


@pytest.fixture(scope="module")
def several(make_clf):
    """A classifier that has learnt four labels; copy it before changing it."""
    return make_clf(**LEARNS, random_state=2).fit(make_texts(48)[0], pd.DataFrame(Y, columns=NAMES))


@pytest.fixture
def never_load(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)


# ------------------------------------------------------------- numbers of labels


@pytest.mark.parametrize("n_labels", [2, 3, 28, 1200])
@pytest.mark.parametrize("as_y", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_numbers_of_labels(make_clf, texts, n_labels, as_y):
    y = random_labels(48, n_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of many labels some have one value only
        clf = make_clf(max_epochs=1).fit(texts, as_y(y))
    proba, found = clf.predict_proba(texts), clf.predict(texts)
    assert proba.shape == found.shape == (48, n_labels)
    assert sparse.issparse(found) == (as_y is not np.asarray)
    assert_array_equal(clf.classes_, np.arange(n_labels))
    found = found.toarray() if sparse.issparse(found) else found
    assert_array_equal(found, proba > 0.5)
    # The probe has seen the frequencies.
    assert_allclose(proba.mean(axis=0), y.mean(axis=0), atol=0.25)
    assert 0 <= clf.score(texts, as_y(y)) <= 1
    first = np.arange(48) < 12
    weighted = clf.score(texts, as_y(y), sample_weight=first * 2.0)
    assert_allclose(weighted, np.mean((found == y).all(axis=1)[first]))


def test_many_labels_are_learnt(make_clf):
    """1,200 labels, of which three depend on the text."""
    texts, labels = make_texts(96)
    y = np.zeros((96, 1200), np.int8)
    y[:, :3] = indicator(labels)[:, :3]
    y[np.arange(96), 3 + np.arange(96)] = 1
    with pytest.warns(UserWarning, match=r"^None of the rows of y has the labels \[99, 100"):
        clf = make_clf(lr=1e-2, max_epochs=20).fit(texts, sparse.csr_array(y))
    found = clf.predict(texts)
    assert metrics.f1_score(y[:, :3], found[:, :3].toarray(), average="macro") > 0.9
    assert found[:, 3:].sum() == 0


def test_sparse_y_is_held_in_small_integers(texts):
    y = sparse.random(2000, 1000, density=0.003, random_state=0, format="coo")
    y.data[:] = 1.0
    found = check_indicator(y, 2000)
    assert found.dtype == np.int8
    assert_array_equal(np.asarray(found), y.toarray())


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_y_and_what_predict_gives(make_clf, texts, name):
    given, before = SPARSE[name](Y), SPARSE[name](Y).toarray()
    clf = make_clf(max_epochs=1).fit(texts, given)
    assert_array_equal(given.toarray(), before)
    found = clf.predict(texts)
    assert found.format == "csr" and isinstance(found, sparse.sparray) == ("array" in name)
    expected = make_clf(max_epochs=1).fit(texts, Y)
    assert type(expected.predict(texts)) is np.ndarray
    assert_array_equal(found.toarray(), expected.predict(texts))
    assert found.dtype == expected.predict(texts).dtype == np.int64
    again = pickle.loads(pickle.dumps(clf)).predict(texts)
    assert type(again) is type(found)
    assert type(clf.fit(texts, Y).predict(texts)) is np.ndarray


def test_sparse_predictions_are_those_of_scikit_learn():
    """If this fails, scikit-learn has changed what sparse y is answered with: think again."""
    X = np.random.default_rng(0).normal(size=(48, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlp = MLPClassifier(max_iter=2, random_state=0)
        assert sparse.issparse(mlp.fit(X, sparse.csr_matrix(Y)).predict(X))
        assert type(mlp.fit(X, Y).predict(X)) is np.ndarray


def test_entries_of_a_sparse_y_add_up(make_clf, texts, never_load):
    twice = sparse.coo_matrix((np.ones(2), ([3, 3], [1, 1])), shape=(48, 4))
    with pytest.raises(ValueError, match=r"^y\[3, 1\] is 2.0; .* 0 and 1"):
        make_clf().fit(texts, twice)
    stored = sparse.csr_matrix(Y.astype(float))
    stored.data[5] = np.nan
    with pytest.raises(ValueError, match=r"^y\[\d+, \d\] is nan; "):
        make_clf().fit(texts, stored)
    stored.data[:] = 0  # zeros that are stored are zeros
    with pytest.raises(ValueError, match=r"^Each of the 4 label columns of y has one value only"):
        make_clf().fit(texts, stored)


@pytest.mark.parametrize("as_y", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_columns_of_tables_name_the_labels(make_clf, texts, as_y):
    clf = make_clf(max_epochs=1).fit(texts, as_y(dict(zip(NAMES, Y.T))))
    assert clf.classes_.tolist() == NAMES
    assert type(clf.predict(texts)) is np.ndarray


def test_a_sparse_pandas_table(make_clf, texts):
    table = pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(Y), columns=NAMES)
    clf = make_clf(max_epochs=1).fit(texts, table)
    expected = make_clf(max_epochs=1).fit(texts, Y)
    assert_array_equal(clf.predict_proba(texts), expected.predict_proba(texts))


# ---------------------------------------------------------- with scikit-learn


def test_labels_come_back_through_the_binarizer(make_clf, texts, labels):
    lists = [[label] if label == "sea" else [label, "ashore"] for label in labels]
    for sparse_output in (False, True):
        binarizer = MultiLabelBinarizer(sparse_output=sparse_output)
        clf = make_clf(**LEARNS, random_state=2).fit(texts, binarizer.fit_transform(lists))
        back = binarizer.inverse_transform(clf.predict(texts))
        assert np.mean([set(a) == set(b) for a, b in zip(back, lists)]) > 0.9


AVERAGES = ("micro", "macro", "samples", "weighted")
SCORERS = [
    *(
        f"{name}_{average}"
        for name in ("f1", "precision", "recall", "jaccard")
        for average in AVERAGES
    ),
    "accuracy",
    "roc_auc",
    "average_precision",
]


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("is_sparse", [False, True])
def test_scorers(several, texts, name, is_sparse):
    clf = copy.copy(several)
    if is_sparse:
        clf._csr = sparse.csr_matrix
    assert metrics.get_scorer(name)(clf, texts, Y) > 0.9


def test_metrics(several, texts):
    found, proba = several.predict(texts), several.predict_proba(texts)
    assert metrics.hamming_loss(Y, found) < 0.05
    assert metrics.zero_one_loss(Y, found) < 0.1
    assert metrics.coverage_error(Y, proba) < 1.8
    assert metrics.label_ranking_average_precision_score(Y, proba) > 0.9
    assert metrics.label_ranking_loss(Y, proba) < 0.05
    assert metrics.roc_auc_score(Y, proba, average=None).shape == (4,)
    assert metrics.multilabel_confusion_matrix(Y, found).sum() == Y.size
    report = metrics.classification_report(Y, found, target_names=NAMES, output_dict=True)
    assert report["micro avg"]["f1-score"] > 0.9
    assert metrics.log_loss(Y[:, 0], proba[:, 0]) < 0.3
    assert metrics.ndcg_score(Y, proba) > 0.9


@pytest.mark.parametrize("as_y", [np.asarray, sparse.csr_matrix, pd.DataFrame])
def test_cross_validation(make_clf, texts, as_y):
    clf, y = make_clf(max_epochs=1), as_y(Y)
    found = cross_val_predict(clf, texts, y, cv=KFold(2))
    assert found.shape == (48, 4) and sparse.issparse(found) == sparse.issparse(y)
    if not sparse.issparse(y):  # which scikit-learn itself does not read there
        proba = cross_val_predict(clf, texts, y, cv=KFold(2), method="predict_proba")
        assert proba.shape == (48, 4) and (proba > 0).all() and (proba < 1).all()
        assert np.isfinite(cross_val_score(clf, texts, y, cv=2, scoring="f1_micro")).all()


def test_a_search_over_thresholds(make_clf, texts):
    grid = {"threshold": [0.3, [0.2, 0.5, 0.5, 0.8], "tuned", {2: 0.1}]}
    search = GridSearchCV(
        make_clf(max_epochs=1), grid, cv=2, scoring="f1_micro", error_score="raise"
    )
    search.fit(texts, Y)
    assert "threshold_" in vars(search.best_estimator_)


# ----------------------------------------------------------------- thresholds


def test_a_threshold_is_what_a_probability_exceeds(make_clf, texts, several):
    proba, before = several.predict_proba(texts), None
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        clf = make_clf(**LEARNS, random_state=2, threshold=threshold).fit(texts, Y)
        assert clf.threshold_ == threshold and isinstance(clf.threshold_, float)
        assert_array_equal(clf.predict_proba(texts), proba)
        found = clf.predict(texts)
        assert_array_equal(found, proba > threshold)
        assert before is None or (found <= before).all()
        before = found


@pytest.mark.parametrize(
    "threshold",
    [
        [0.2, 0.5, 0.5, 0.9],
        (0.2, 0.5, 0.5, 0.9),
        np.array([0.2, 0.5, 0.5, 0.9], np.float32),
        pd.Series([0.2, 0.5, 0.5, 0.9], index=[4, 3, 2, 1]),
        {"city": 0.2, "ashore": 0.9},
    ],
    ids=["list", "tuple", "float32", "Series", "dict"],
)
def test_a_threshold_for_each_label(make_clf, texts, frame, threshold):
    kept = copy.deepcopy(threshold)
    clf = make_clf(max_epochs=1, threshold=threshold).fit(texts, frame)
    assert_allclose(clf.threshold_, [0.2, 0.5, 0.5, 0.9], rtol=1e-7)
    assert clf.threshold_.dtype == np.float64
    assert_array_equal(clf.predict(texts), clf.predict_proba(texts) > clf.threshold_)
    assert clf.threshold is threshold
    assert all(np.ravel(list(threshold)) == np.ravel(list(kept)))
    assert_array_equal(clone(clf).fit(texts, frame).threshold_, clf.threshold_)
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict(texts), clf.predict(texts))


def test_a_fitted_threshold_stays_until_the_next_fit(make_clf, texts):
    clf = make_clf(max_epochs=1).fit(texts, Y)
    before = clf.predict(texts)
    clf.set_params(threshold=0.01)
    assert clf.threshold_ == 0.5
    assert_array_equal(clf.predict(texts), before)
    clf.threshold_ = 0.01  # what predict reads
    assert clf.predict(texts).sum() > before.sum()


def test_one_label_a_row_has_no_threshold(make_clf, texts, labels):
    clf = make_clf(max_epochs=1).fit(texts, Y)
    assert hasattr(clf, "threshold_")
    assert not hasattr(clf.fit(texts, labels), "threshold_")


def test_pairs(tiny_backbone, texts):
    X = [*zip(texts, texts)]
    clf = PairClassifier(tiny_backbone, max_epochs=1, threshold="tuned", random_state=0)
    clf.fit(X, sparse.csr_matrix(Y))
    assert_array_equal(clf.predict(X).toarray(), clf.predict_proba(X) > clf.threshold_)


# -------------------------------------------------------------- tuned thresholds


def test_tuned_on_given_validation_rows(make_clf, texts):
    y = random_labels(48, 6)
    X_val, y_val = make_texts(200, seed=1)[0], random_labels(200, 6, seed=1)
    clf = make_clf(threshold="tuned", random_state=1).fit(texts, y, X_val=X_val, y_val=y_val)
    expected = best_thresholds(clf.predict_proba(X_val), y_val, np.ones(200))
    assert_array_equal(clf.threshold_, expected)
    assert len(set(clf.threshold_)) > 1
    plain = make_clf(random_state=1).fit(texts, y, X_val=X_val, y_val=y_val)
    assert_array_equal(plain.predict_proba(texts), clf.predict_proba(texts))
    score = [
        metrics.f1_score(y_val, c.predict(X_val), average="micro", zero_division=0)
        for c in (plain, clf)
    ]
    assert score[1] > score[0]
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.threshold_, clf.threshold_)


def test_tuned_on_rows_held_out_with_the_best_weights(make_clf, texts):
    params = {"early_stopping": True, "validation_fraction": 12, "head_init": "random"}
    y = pd.DataFrame(random_labels(48, 4), columns=NAMES)
    tuned = make_clf(threshold="tuned", max_epochs=4, **params).fit(texts, y)
    plain = make_clf(max_epochs=4, **params).fit(texts, y)
    assert tuned.threshold_.shape == (4,)
    assert_array_equal(tuned.predict_proba(texts), plain.predict_proba(texts))


def test_tuned_on_rows_that_the_probe_held_out(make_clf, texts):
    y = random_labels(48, 6)
    tuned, plain = make_clf(threshold="tuned").fit(texts, y), make_clf().fit(texts, y)
    proba = tuned.predict_proba(texts)
    assert_array_equal(proba, plain.predict_proba(texts))  # the same draws
    assert isinstance(tuned.threshold_, float) and 0 < tuned.threshold_ < 1
    assert tuned.threshold_ == make_clf(threshold="tuned").fit(texts, y).threshold_
    # The share of labels that is best on held-out rows is what training rows are given.
    some = (proba > tuned.threshold_).mean()
    assert 0.5 * y.mean() < some


def test_the_share_of_the_probe_reaches_the_threshold(make_clf, texts, monkeypatch):
    given_shares, found = [0.1, 0.4], []

    def binary_probe(*args):
        return *probe.binary_probe(*args)[:2], given_shares[len(found)]

    monkeypatch.setattr(outputs, "binary_probe", binary_probe)
    for _ in given_shares:
        clf = make_clf(threshold="tuned", max_epochs=1).fit(texts, Y)
        found.append(clf.predict(texts).mean())
    assert_allclose(found, given_shares, atol=0.01)


def test_the_probe_says_how_many_labels_to_give():
    """On rows like these the threshold with that share of entries has about the best F1."""
    rng = np.random.default_rng(0)
    vectors, coef = rng.normal(size=(2, 600, 8)), rng.normal(size=(8, 5))
    y = (vectors @ coef - 2 + rng.logistic(size=(2, 600, 5)) > 0).astype(np.int8)
    *head, share = probe.binary_probe(vectors[0], y[0], np.ones(600), None, rng)
    proba = expit(vectors[1] @ head[0].T + head[1])
    cut = threshold_of(proba, share)
    scores = [
        metrics.f1_score(y[1], proba > t, average="micro")
        for t in (cut, *np.quantile(proba, np.linspace(0.01, 0.99, 99)))
    ]
    assert scores[0] > max(scores) - 0.02
    # Labels that all or no rows have keep to themselves.
    wide = np.column_stack([y[0], np.ones(600), np.zeros((600, 4))])
    *_, with_constants = probe.binary_probe(
        vectors[0], wide, np.ones(600), None, np.random.default_rng(1)
    )
    assert with_constants * 10 == pytest.approx(share * 5 + 1, rel=0.1)


def test_going_on_with_a_tuned_threshold(make_clf, texts):
    """Without validation rows there is nothing new to tune on."""
    X_val, y_val = make_texts(60, seed=2)[0], random_labels(60, 4, seed=2)
    y = pd.DataFrame(random_labels(48, 4), columns=NAMES)
    clf = make_clf(threshold="tuned", warm_start=True)
    first = clf.fit(texts, y, X_val=X_val, y_val=y_val).threshold_
    assert_array_equal(clf.fit(texts, y).threshold_, first)
    other = clf.fit(texts, y, X_val=X_val[:30], y_val=y_val[:30]).threshold_
    assert_array_equal(
        other, best_thresholds(clf.predict_proba(X_val[:30]), y_val[:30], np.ones(30))
    )
    assert clf.set_params(threshold=0.4).fit(texts, y).threshold_ == 0.4


def test_thresholds_go_with_their_labels_when_more_come(make_clf, texts):
    clf = make_clf(threshold="tuned")
    clf.fit(texts, pd.DataFrame(Y, columns=NAMES), X_val=texts, y_val=Y)
    clf.threshold_ = np.array([0.1, 0.2, 0.3, 0.4])
    more = [*NAMES, "moon"]
    y = pd.DataFrame(np.column_stack([Y, np.arange(48) < 9]), columns=more)
    clf.partial_fit(texts, y, classes=more)
    assert_array_equal(clf.threshold_, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert clf.predict(texts).shape == (48, 5)


def test_a_scorer_watches_one_half_until_the_threshold_is_tuned(make_clf, texts):
    clf = make_clf(threshold="tuned", scoring="f1_micro", max_epochs=1)
    clf.fit(texts, Y, X_val=texts, y_val=Y)
    proba = clf.predict_proba(texts)
    assert clf.history_[0]["valid_score"] == pytest.approx(
        metrics.f1_score(Y, proba > 0.5, average="micro")
    )


# ----------------------------------------------- what the best thresholds are


def f1(proba, y, weights, threshold, prior=50.0):
    """F1 of each label at a threshold, with so many entries of all labels beside its own."""
    found, w = proba > threshold, weights[:, None] / weights.mean()
    right, given_, present = ((w * x).sum(axis=0) for x in (found * y, found * 1, y * 1))
    total = present.sum()
    return (right + prior * right.sum() / total) / (
        given_ + present + prior * (given_.sum() / total + 1)
    )


@st.composite
def problems(draw):
    n, n_labels = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    # Few distinct values, so that ties occur, and one that float64 rounds to.
    values = st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(1e-9, 1))
    proba = draw(arrays(float, (n, n_labels), elements=values))
    y = draw(arrays(np.int8, (n, n_labels), elements=st.integers(0, 1)))
    weights = draw(arrays(float, n, elements=st.floats(0.1, 10)))
    return proba, y, weights


@given(problems())
def test_no_threshold_has_a_larger_f1(problem):
    proba, y, weights = problem
    found = best_thresholds(proba, y, weights)
    assert found.shape == (y.shape[1],)
    if not y.any():
        assert (found == 0.5).all()
        return
    at_best = np.array([f1(proba, y, weights, t)[j] for j, t in enumerate(found)])
    for cut in (-1.0, *np.unique(proba)):  # all ways to split the entries
        assert (f1(proba, y, weights, cut) <= at_best + 1e-12).all()


@given(problems(), st.floats(0.1, 10))
def test_the_unit_of_weights_does_not_matter(problem, unit):
    proba, y, weights = problem
    if not y.any():
        return
    assert_allclose(
        f1(proba, y, weights, best_thresholds(proba, y, unit * weights)),
        f1(proba, y, weights, best_thresholds(proba, y, weights)),
        rtol=1e-9,
    )


@given(problems())
def test_the_share_is_that_of_the_largest_f1_of_all_entries(problem):
    proba, y, weights = problem
    if not y.any():
        return
    column, each = proba.reshape(-1, 1), np.repeat(weights, y.shape[1])
    share = best_share(proba, y, weights)
    scores = {
        (column > cut).mean(): f1(column, y.reshape(-1, 1), each, cut, prior=0.0)[0]
        for cut in (-1.0, *np.unique(proba))
    }
    assert scores[share] == pytest.approx(max(scores.values()))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_a_threshold_with_a_share_of_entries_above(seed, n_above):
    proba = expit(np.random.default_rng(seed).normal(0, 5, (10, 3)))
    cut = threshold_of(proba, n_above / 30)
    assert 0 < cut < 1
    assert abs((proba > cut).sum() - n_above) <= 1


def test_a_label_of_many_rows_has_its_own_threshold_and_a_rare_one_that_of_the_others():
    rng = np.random.default_rng(0)
    y = (rng.random((20_000, 4)) < [0.3, 0.3, 0.3, 0.0002]).astype(np.int8)
    y[:2, 3] = 1
    # The best thresholds of the frequent labels are 0.2, 0.2 and 0.8.
    low, high = np.array([0.1, 0.1, 0.6, 0.1]), np.array([0.3, 0.3, 1.0, 0.3])
    proba = np.where(
        y, low + (high - low) * (0.5 + 0.5 * rng.random(y.shape)), low * rng.random(y.shape)
    )
    found = best_thresholds(proba, y, np.ones(len(y)))
    assert ((found[:2] > 0.1) & (found[:2] < 0.21)).all()
    assert 0.6 < found[2] < 0.81
    assert found[3] < 0.35
    # More cuts than are tried cost next to nothing.
    score = metrics.f1_score(y[:, :3], proba[:, :3] > found[:3], average="macro")
    assert score > 0.999


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (0, "'threshold' parameter of Transformer"),
        (1, "'threshold' parameter of Transformer"),
        (1.5, "'threshold' parameter of Transformer"),
        (-0.1, "'threshold' parameter of Transformer"),
        (float("nan"), "'threshold' parameter of Transformer"),
        (None, "'threshold' parameter of Transformer"),
        ("best", "'threshold' parameter of Transformer"),
        ([0.5, 0.5, 0.5], "^threshold has 3 entries, but y has 4 labels"),
        ([], "^threshold has 0 entries, but y has 4 labels"),
        ([[0.5] * 4], r"^threshold has \(1, 4\) entries, but y has 4"),
        ([0.5, 0.5, 0.0, 0.5], r"^threshold\[2\] is 0.0; expected a number between 0 and 1"),
        ([0.5, 0.5, 0.5, 1.0], r"^threshold\[3\] is 1.0; "),
        ([0.5, np.nan, 0.5, 0.5], r"^threshold\[1\] is nan; "),
        ([0.5, None, 0.5, 0.5], r"^threshold\[1\] is None; "),
        (["a", "b", "c", "d"], r"^threshold\[0\] is 'a'; "),
        (np.array(1.5), r"^threshold\[0\] is 1.5; "),
        ({"moon": 0.3}, "^threshold names the class 'moon', which y does not have"),
        ({"sea": 1.3}, r"^threshold\['sea'\] is 1.3; "),
        ({"sea": "tuned"}, r"^threshold\['sea'\] is 'tuned'; "),
    ],
)
def test_refused_thresholds(make_clf, texts, frame, never_load, threshold, message):
    with pytest.raises(ValueError, match=message):
        make_clf(threshold=threshold).fit(texts, frame)


@pytest.mark.parametrize("threshold", [0.3, [0.5, 0.5, 0.5], {"sea": 0.3}, "tuned"])
def test_a_threshold_is_for_any_number_of_labels(make_clf, texts, labels, never_load, threshold):
    with pytest.raises(ValueError, match=r"^threshold=.* but y gives a row one"):
        make_clf(threshold=threshold).fit(texts, labels)


def test_nothing_to_tune_on(make_clf, texts, never_load):
    clf = make_clf(threshold="tuned", head_init="random")
    message = "^threshold='tuned' and head_init='random' contradict each other"
    with pytest.raises(ValueError, match=message):
        clf.fit(texts, Y)
    with pytest.raises(ValueError, match=message):
        clf.partial_fit(texts, Y)
    assert not hasattr(clf, "classes_")


def test_a_label_with_one_value_only(make_clf, texts, labels):
    y = pd.DataFrame(Y, columns=NAMES).assign(text=1, moon=0, sun=0)
    message = (
        r"^None of the rows of y has the labels \['moon', 'sun'\]; each of the rows of y has the "
        r"labels \['text'\]: there is nothing to learn"
    )
    for params in ({}, {"head_init": "random"}, {"loss": BinaryCrossEntropy("balanced")}):
        with pytest.warns(UserWarning, match=message) as caught:
            clf = make_clf(**LEARNS, **params).fit(texts, y)
        assert sum("nothing to learn" in str(w.message) for w in caught) == 1
        assert_array_equal(clf.predict(texts)[:, 4:], np.tile([1, 0, 0], (48, 1)))
        assert np.isfinite(clf.decision_function(texts)).all()
    # Before any training their probability is their frequency, half a row more of both.
    with pytest.warns(UserWarning, match=message):
        start = make_clf(max_epochs=1, lr=1e-12, threshold="tuned").fit(texts, y)
    expected = np.tile([48.5 / 49, 0.5 / 49, 0.5 / 49], (48, 1))
    assert_allclose(start.predict_proba(texts)[:, 4:], expected, rtol=1e-3)


def test_the_warning_is_about_rows_that_weigh_something(make_clf, texts):
    y, weights = np.column_stack([Y, np.arange(48) < 4]), np.ones(48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_clf(max_epochs=1).fit(texts, y)
    weights[:4] = 0
    with pytest.warns(UserWarning, match=r"^None of the rows of y has the labels \[4\]"):
        make_clf(max_epochs=1).fit(texts, y, sample_weight=weights)


def test_rare_labels_do_not_break_cross_validation(make_clf, texts):
    y = np.column_stack([Y, np.arange(48) == 0])
    with pytest.warns(UserWarning, match="nothing to learn"):
        scores = cross_val_score(
            make_clf(max_epochs=1), texts, y, cv=KFold(2), scoring="f1_micro", error_score="raise"
        )
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("y", [np.ones((48, 3)), np.zeros((48, 2)), np.tile([0, 1], (48, 1))])
def test_no_label_to_tell_apart(make_clf, texts, never_load, y):
    with pytest.raises(ValueError, match=r"^Each of the \d label columns of y has one value only"):
        make_clf().fit(texts, y)


@pytest.fixture(scope="module")
def checkpoint(tiny_backbone, tmp_path_factory):
    """A fine-tuned model of the transformers library; a function of its problem type."""

    def make(problem_type):
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny_backbone, id2label=dict(enumerate(NAMES)), problem_type=problem_type
        )
        model.classifier.weight.data.normal_(0, 1)
        directory = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(directory)
        return str(directory)

    return make


@pytest.mark.parametrize("threshold", [0.2, [0.2, 0.3, 0.4, 0.5], {"sea": 0.3}])
def test_thresholds_of_checkpoints(checkpoint, texts, threshold):
    name = checkpoint("multi_label_classification")
    clf = TransformerSequenceClassifier.from_pretrained(name, threshold=threshold, device="cpu")
    expected = {"city": 0.5, "food": 0.5, "sea": 0.3, "ashore": 0.5}
    if not isinstance(threshold, dict):
        expected = dict(zip(NAMES, np.broadcast_to(threshold, 4)))
    assert_allclose(clf.threshold_ + np.zeros(4), [expected[c] for c in clf.classes_])
    assert_array_equal(clf.predict(texts), clf.predict_proba(texts) > clf.threshold_)


def test_refused_thresholds_of_checkpoints(checkpoint):
    several, one = checkpoint("multi_label_classification"), checkpoint(None)
    load = TransformerSequenceClassifier.from_pretrained
    with pytest.raises(ValueError, match=r"^threshold='tuned' needs rows to tune on, and"):
        load(several, threshold="tuned")
    with pytest.raises(ValueError, match=r"^threshold has 2 entries, but y has 4 labels"):
        load(several, threshold=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"^threshold=0.3 is for any number of labels a row, but"):
        load(one, threshold=0.3)
    assert not hasattr(load(one), "threshold_")


def test_defaults_are_documented():
    for cls in (TransformerSequenceClassifier, PairClassifier):
        assert cls().threshold == 0.5
        assert "threshold_ : float or ndarray" in cls.__doc__
