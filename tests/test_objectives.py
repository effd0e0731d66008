"""What training minimises: losses of labels, soft targets, several labels a row."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from conftest import LEARNS, NO_DROPOUT, make_texts, save_tiny_bert
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit, log_softmax
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import get_tags

from sktransformers import (
    CRF,
    BinaryCrossEntropy,
    CrossEntropy,
    FocalLoss,
    HuberLoss,
    Linear,
    PairClassifier,
    PairRegressor,
    SquaredError,
    TokenTagger,
)
from sktransformers.training import loading

CLASSES = ["sea", "food", "city"]  # not sorted
# Nothing random but the order of rows, and one step over all of them.
STILL = {"head": Linear(dropout=0.0), "max_epochs": 1, "batch_size": 100, "lr": 1e-12}


@pytest.fixture(scope="module")
def make_pair(tiny_backbone):
    def make(cls=PairClassifier, **params):
        defaults = {"backbone": tiny_backbone, "lr": 1e-3, "max_epochs": 2, "batch_size": 8}
        return cls(**{**defaults, "device": "cpu", "random_state": 0, **params})

    return make


@pytest.fixture(scope="module")
def make_tagger(tiny_backbone):
    def make(**params):
        defaults = {"backbone": tiny_backbone, "lr": 1e-3, "max_epochs": 1, "batch_size": 8}
        return TokenTagger(**{**defaults, "device": "cpu", "random_state": 0, **params})

    return make


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("still"), **NO_DROPOUT)


@pytest.fixture
def never_load(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)


def softened(labels, classes=CLASSES, sure=0.8, seed=0):
    """Probabilities around labels, columns in the order of classes."""
    rng = np.random.default_rng(seed)
    hard = np.array([[label == c for c in classes] for label in labels], float)
    return sure * hard + (1 - sure) * rng.dirichlet(np.ones(len(classes)), len(labels))


def texts_as_counts(texts):
    return CountVectorizer().fit_transform(texts)


def train_loss(clf):
    return clf.history_[0]["train_loss"]


# ------------------------------------------------------------ losses of labels


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("auto", lambda log_p: -log_p),
        ("cross_entropy", lambda log_p: -log_p),
        ("focal", lambda log_p: -((1 - np.exp(log_p)) ** 2) * log_p),
        (FocalLoss(0.5), lambda log_p: -((1 - np.exp(log_p)) ** 0.5) * log_p),
    ],
    ids=["auto", "cross_entropy", "focal", "FocalLoss(0.5)"],
)
@pytest.mark.parametrize("balanced", [None, "balanced"])
def test_the_loss_is_the_one_asked_for(
    make_clf, still_backbone, texts, labels, loss, expected, balanced
):
    texts, labels = texts[:40], np.array(labels[:40])
    weights = np.random.default_rng(0).uniform(0.5, 2, 40)
    clf = make_clf(backbone=still_backbone, loss=loss, class_weight=balanced, **STILL)
    clf.fit(texts, labels, sample_weight=weights)
    if balanced:
        mass = {c: weights[labels == c].sum() for c in clf.classes_}
        weights = np.array([w / mass[c] for w, c in zip(weights, labels)])
    log_p = clf.predict_log_proba(texts)[np.arange(40), np.searchsorted(clf.classes_, labels)]
    found = np.average(expected(log_p), weights=weights)
    assert train_loss(clf) == pytest.approx(found, rel=1e-4)


def test_label_smoothing(make_clf, still_backbone, texts, labels):
    clf = make_clf(backbone=still_backbone, loss=CrossEntropy(0.3), **STILL).fit(texts, labels)
    log_p = clf.predict_log_proba(texts)
    y = np.searchsorted(clf.classes_, labels)
    expected = -(0.7 * log_p[np.arange(48), y] + 0.3 * log_p.mean(axis=1)).mean()
    assert train_loss(clf) == pytest.approx(expected, rel=1e-4)
    # A model that is told to doubt does.
    sure = make_clf(**LEARNS).fit(texts, labels).predict_proba(texts).max(axis=1)
    doubts = make_clf(loss=CrossEntropy(0.3), **LEARNS).fit(texts, labels)
    assert doubts.predict_proba(texts).max(axis=1).mean() < sure.mean() - 0.05
    assert doubts.score(texts, labels) > 0.95


@pytest.mark.parametrize("loss", ["huber", HuberLoss(0.2), SquaredError()], ids=repr)
def test_losses_of_numbers(make_pair, still_backbone, texts, loss):
    X = [*zip(texts, texts[::-1])]
    y = np.random.default_rng(0).normal(3, 2, 48)
    reg = make_pair(PairRegressor, backbone=still_backbone, loss=loss, **STILL).fit(X, y)
    e = np.abs(reg.predict(X) - y) / reg.target_scale_
    delta = {"huber": 1.0}.get(loss, getattr(loss, "delta", None))
    expected = e**2 if delta is None else np.where(e < delta, e**2 / 2, delta * (e - delta / 2))
    assert train_loss(reg) == pytest.approx(expected.mean(), rel=1e-4)


def test_options_reach_a_search(make_clf, texts, labels):
    clf = make_clf(loss=CrossEntropy(), max_epochs=1)
    search = GridSearchCV(clf, {"loss__label_smoothing": [0.0, 0.1]}, cv=2, error_score="raise")
    search.fit(texts, labels)
    search = GridSearchCV(
        clf, {"loss": ["focal", FocalLoss(5.0), "cross_entropy"]}, cv=2, error_score="raise"
    )
    search.fit(texts, labels)


# ---------------------------------------------------------------------- taggers

SENTENCES = [["the", "boat", "is", "salty"], ["rua", "is", "noisy"]] * 8
BIO = [["O", "B-sea", "O", "O"], ["B-city", "O", "O"]] * 8


@pytest.mark.parametrize("loss", ["focal", "cross_entropy", CrossEntropy(0.1), FocalLoss(1.0)])
def test_a_tagger_with_a_loss_has_no_crf(make_tagger, loss):
    assert make_tagger().fit(SENTENCES, BIO).model_.config.crf
    tagger = make_tagger(loss=loss, lr=1e-12, head=Linear(0.0)).fit(SENTENCES, BIO)
    assert not tagger.model_.config.crf
    tagger = make_tagger(loss=loss, max_epochs=15, lr=1e-2).fit(SENTENCES, BIO)
    assert not tagger.model_.config.crf
    assert tagger.score(SENTENCES, BIO) > 0.9


def test_a_taggers_loss_is_the_one_asked_for(make_tagger, still_backbone):
    tagger = make_tagger(backbone=still_backbone, loss=CrossEntropy(0.2), **STILL)
    tagger.fit(SENTENCES, BIO)
    log_p = np.log(np.concatenate(list(tagger.predict_proba(SENTENCES))))
    codes = np.searchsorted(tagger.classes_, np.concatenate(BIO))
    expected = -(0.8 * log_p[np.arange(len(codes)), codes] + 0.2 * log_p.mean(axis=1)).mean()
    assert train_loss(tagger) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"crf": True, "loss": "focal"}, "^loss='focal'.*crf=True"),
        ({"crf": True, "loss": CrossEntropy()}, r"^loss=CrossEntropy\(\).*crf=True"),
        ({"crf": True, "loss": CrossEntropy(classes=["a", "b"])}, r"^loss=CrossEntropy\(classes"),
        ({"loss": CrossEntropy(classes=["a", "b"])}, r"^loss=CrossEntropy\(classes=...\)"),
        ({"loss": "binary_cross_entropy"}, "'loss' parameter of TokenTagger"),
        ({"loss": BinaryCrossEntropy()}, "'loss' parameter of TokenTagger"),
    ],
)
def test_refused_for_taggers(make_tagger, never_load, params, message):
    with pytest.raises(ValueError, match=message):
        make_tagger(**params).fit(SENTENCES, BIO)


def test_a_crf_goes_on_with_its_own_loss_only(make_tagger):
    with pytest.raises(ValueError, match=r"^loss='focal'.*head=CRF\(\)"):
        make_tagger(head=CRF(), loss="focal").fit(SENTENCES, BIO)
    tagger = make_tagger(warm_start=True).fit(SENTENCES, BIO)
    with pytest.raises(ValueError, match=r"^loss='focal'"):
        tagger.set_params(loss="focal").fit(SENTENCES, BIO)


# ----------------------------------------------------------------- soft targets


def test_soft_targets(make_clf, texts, labels):
    soft = softened(labels)
    clf = make_clf(loss=CrossEntropy(classes=CLASSES), **LEARNS).fit(texts, soft)
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    assert clf.model_.config.id2label == {0: "city", 1: "food", 2: "sea"}
    assert clf.predict_proba(texts).shape == (48, 3)
    # Both y mean the same, since the most probable class is the label.
    assert clf.score(texts, soft) == clf.score(texts, labels) > 0.9
    assert clf.history_[-1]["train_accuracy"] > 0.8
    wrong = soft[:, [1, 2, 0]]
    assert clf.score(texts, wrong) < 0.1
    again = pickle.loads(pickle.dumps(clf))
    assert again.score(texts, soft) == clf.score(texts, soft)
    assert clone(clf).fit(texts, soft).score(texts, soft) == clf.score(texts, soft)


@pytest.mark.parametrize("class_weight", [None, {"sea": 3.0, "city": 0.5}, "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_soft_targets(make_clf, still_backbone, texts, labels, class_weight, smoothing):
    soft, w = softened(labels), np.random.default_rng(1).uniform(0.5, 2, 48)
    loss = CrossEntropy(smoothing, classes=CLASSES)
    clf = make_clf(backbone=still_backbone, loss=loss, class_weight=class_weight, **STILL)
    clf.fit(texts, soft, sample_weight=w)
    log_p, q = clf.predict_log_proba(texts), soft[:, [2, 1, 0]]
    factors = {
        None: lambda: np.ones(3),
        "balanced": lambda: w.sum() / (3 * (w @ q)),
    }.get(class_weight if not isinstance(class_weight, dict) else 0, lambda: np.array([0.5, 1, 3]))
    weights = w * (q @ factors())
    target = q * factors() / (q @ factors())[:, None]
    target = (1 - smoothing) * target + smoothing / 3
    expected = np.average(-(target * log_p).sum(axis=1), weights=weights)
    assert train_loss(clf) == pytest.approx(expected, rel=1e-4)
    # Accuracy is that of y, whatever classes weigh.
    right = (log_p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert clf.history_[0]["train_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    "as_y",
    [
        lambda y: y,
        lambda y: y.tolist(),
        lambda y: pd.DataFrame(y),
        lambda y: pd.DataFrame(y, columns=CLASSES, index=np.arange(len(y))[::-1]),
        lambda y: pd.DataFrame(y, columns=CLASSES)[sorted(CLASSES)],  # read by name
        lambda y: pl.DataFrame(dict(zip(CLASSES, y.T))),
        lambda y: pa.table(dict(zip(CLASSES, y.T))),
        lambda y: [*y],
    ],
)
def test_containers_of_soft_targets(make_clf, texts, labels, as_y):
    loss = CrossEntropy(classes=CLASSES)
    expected = make_clf(loss=loss, max_epochs=1).fit(texts, softened(labels))
    found = make_clf(loss=loss, max_epochs=1).fit(texts, as_y(softened(labels)))
    assert_array_equal(found.predict_proba(texts), expected.predict_proba(texts))
    assert found.score(texts, as_y(softened(labels))) == expected.score(texts, softened(labels))


def test_sure_soft_targets_are_labels(make_clf, texts, labels):
    hard = softened(labels, sure=1.0)
    expected = make_clf().fit(texts, labels)
    found = make_clf(loss=CrossEntropy(classes=CLASSES)).fit(texts, hard)
    assert_allclose(found.predict_proba(texts), expected.predict_proba(texts), atol=1e-5)


def test_validation_of_soft_targets(make_clf, texts, labels):
    soft = softened(labels)
    params = {"loss": CrossEntropy(classes=CLASSES), "max_epochs": 2}
    clf = make_clf(**params, early_stopping=True, validation_fraction=12).fit(texts, soft)
    assert {"valid_loss", "valid_accuracy"} <= set(clf.history_[0])
    for scoring in (None, "accuracy", "neg_log_loss"):
        clf = make_clf(**params, scoring=scoring).fit(texts, soft, X_val=texts, y_val=soft)
        expected = get_scorer(scoring or "accuracy")(clf, texts, labels)
        assert max(row["valid_score"] for row in clf.history_) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"^y_val is one-dimensional; loss=CrossEntropy"):
        make_clf(**params).fit(texts, soft, X_val=texts, y_val=labels)


def test_held_out_rows_have_each_most_probable_class(make_clf, texts, labels):
    clf = make_clf(loss=CrossEntropy(classes=CLASSES))
    codes = clf._make_coding(softened(labels), np.ones(48), None)
    strata = codes.encode(softened(labels), np.ones(48), "y").strata
    assert_array_equal(codes.classes[strata], labels)


def test_a_class_that_weighs_nothing(make_clf, texts, labels):
    soft = softened(labels, sure=1.0)
    clf = make_clf(loss=CrossEntropy(classes=CLASSES), class_weight={"sea": 0.0}).fit(texts, soft)
    assert all(np.isfinite(row["train_loss"]) for row in clf.history_)
    expected = make_clf(class_weight={"sea": 0.0}).fit(texts, labels)
    assert_allclose(clf.predict_proba(texts), expected.predict_proba(texts), atol=1e-5)


def test_soft_targets_of_pairs(make_pair, texts, labels):
    X = [*zip(texts, texts[::-1])]
    soft = softened(labels)
    clf = make_pair(loss=CrossEntropy(classes=CLASSES)).fit(X, soft)
    assert clf.score(X, soft) == clf.score(X, labels)


def test_going_on_with_soft_targets(make_clf, texts, labels):
    clf = make_clf(loss=CrossEntropy(classes=CLASSES), warm_start=True).fit(texts, softened(labels))
    clf.fit(texts, softened(labels))
    assert clf.n_iter_ == 4
    clf.set_params(loss="auto").fit(texts, labels)
    clf.set_params(loss=CrossEntropy(classes=["sea", "food", "moon"]))
    with pytest.raises(ValueError, match=r"^Training goes on from .*'city'.*'moon'"):
        clf.fit(texts, softened(labels))


SOFT = softened(make_texts(48)[1])


def changed(i, j, value, y=SOFT):
    y = y.copy()
    y[i, j] = value
    return y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (SOFT[:, :2], r"^y has 2 columns; .* 3 columns"),
        (SOFT[:40], r"inconsistent numbers of samples: X has 48 rows, y has 40"),
        (SOFT[:, 0], "^y is one-dimensional; loss=CrossEntropy"),
        (make_texts(48)[1], "^y is one-dimensional; loss=CrossEntropy"),
        (changed(3, 1, -0.1), r"^y\[3, 1\] is -0.1, which is no probability"),
        (changed(3, 1, np.nan), r"^y\[3, 1\] is nan, which is no probability"),
        (changed(3, 1, np.inf), r"^y\[3, 1\] is inf, which is no probability"),
        (SOFT + np.eye(48, 3) * 0.001, r"^y\[0\] sums to 1.001, not to one"),
        (0 * SOFT, r"^y\[0\] sums to 0, not to one"),
        ([["a", "b", "c"]] * 48, r"^y\[0, 0\] is a value of type str"),
        ([[None, 0.5, 0.5]] * 48, r"^y\[0, 0\] is nan, which"),
        ([[0.5, 0.5, 0.0]] * 47 + [[0.5, 0.5]], r"^y\[47\] has 2 entries and y\[0\] 3"),
        (None, "requires y to be passed"),
    ],
)
def test_refused_soft_targets(make_clf, texts, never_load, y, message):
    with pytest.raises(ValueError, match=message):
        make_clf(loss=CrossEntropy(classes=CLASSES)).fit(texts, y)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b", "a"], "^classes of CrossEntropy names 'a' more than once"),
        (["a"], "^classes of CrossEntropy must be a list of at least 2 classes"),
        (["a", "b", None], "classes of CrossEntropy contains NaN"),
        (["a", "b", 1], "^classes of CrossEntropy mixes strings"),
        ("abc", "'classes' parameter of CrossEntropy"),
    ],
)
def test_refused_classes(make_clf, texts, never_load, classes, message):
    with pytest.raises(ValueError, match=message):
        make_clf(loss=CrossEntropy(classes=classes)).fit(texts, SOFT)


def test_float32_probabilities_sum_to_one(make_clf, texts):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(48, 3))).float()
    make_clf(loss=CrossEntropy(classes=CLASSES), max_epochs=1).fit(texts, logits.softmax(1).numpy())


# ------------------------------------------------------------------ several labels


def indicator(labels, classes=("city", "food", "sea"), extra=True):
    """The topic of each text, and whether it is no sea."""
    y = np.array([[label == c for c in classes] for label in labels], int)
    return np.column_stack([y, 1 - y[:, 2]]) if extra else y


NAMES = ["city", "food", "sea", "ashore"]


@pytest.fixture(scope="module")
def several(make_clf):
    """A classifier that has learnt four labels; copy it before changing it."""
    texts, labels = make_texts(48)
    return make_clf(**LEARNS, random_state=2).fit(
        texts, pd.DataFrame(indicator(labels), columns=NAMES)
    )


def test_several_labels(several, texts, labels):
    y, clf = indicator(labels), several
    assert clf.classes_.tolist() == NAMES
    assert clf.model_.config.problem_type == "multi_label_classification"
    assert clf.model_.config.id2label == dict(enumerate(NAMES))
    proba, logits, labels_ = (
        f(texts) for f in (clf.predict_proba, clf.decision_function, clf.predict)
    )
    assert proba.shape == logits.shape == labels_.shape == (48, 4)
    assert proba.dtype == logits.dtype == np.float64
    assert np.issubdtype(labels_.dtype, np.integer) and set(np.unique(labels_)) == {0, 1}
    assert_allclose(proba, expit(logits), rtol=1e-12)
    assert_allclose(clf.predict_log_proba(texts), np.log(proba), rtol=1e-9, atol=1e-12)
    assert_array_equal(labels_, proba > 0.5)
    assert clf.score(texts, y) == (labels_ == y).all(axis=1).mean() > 0.9
    assert clf.history_[-1]["train_accuracy"] > 0.95
    assert get_tags(clf).classifier_tags.multi_label


@pytest.mark.parametrize("reload", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_several_labels_are_stored(several, texts, reload, tmp_path):
    clf = reload(several)
    assert_array_equal(clf.predict(texts), several.predict(texts))
    several.model_.save_pretrained(tmp_path)
    clf.model_ = type(several.model_).from_pretrained(tmp_path).eval()
    assert_allclose(clf.predict_proba(texts), several.predict_proba(texts), atol=1e-6)


AS_Y = {
    "bool": lambda y: y.astype(bool),
    "float": lambda y: y.astype(float),
    "int8": lambda y: y.astype(np.int8),
    "object": lambda y: y.astype(object),
    "lists": lambda y: y.tolist(),
    "tuples": lambda y: [tuple(row) for row in y],
    "arrays": lambda y: [*y],
    "frame": pd.DataFrame,
    "masked": lambda y: pd.DataFrame(y, dtype="Int64"),
    "mixed": lambda y: pd.DataFrame(y).astype({0: bool}),
    "polars": pl.DataFrame,
    "pyarrow": lambda y: pa.table({str(i): c for i, c in enumerate(y.T)}),
    "csr": sparse.csr_matrix,
    "csc array": sparse.csc_array,
}


@pytest.mark.parametrize("name", AS_Y)
def test_containers_of_several_labels(make_clf, texts, labels, name):
    y = indicator(labels)
    expected = make_clf(max_epochs=1).fit(texts, y)
    assert_array_equal(expected.classes_, np.arange(4))
    found = make_clf(max_epochs=1).fit(texts, AS_Y[name](y))
    assert len(found.classes_) == 4
    assert_array_equal(found.predict_proba(texts), expected.predict_proba(texts))


@pytest.mark.parametrize(
    ("pos_weight", "expected"),
    [
        (None, [1, 1, 1, 1]),
        (3.0, [3, 3, 3, 3]),
        ([1, 2, 0.5, 4], [1, 2, 0.5, 4]),
        ({"sea": 5, "city": 0.5}, [0.5, 1, 5, 1]),
        ("balanced", None),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_several_labels(
    make_clf, still_backbone, texts, labels, pos_weight, expected, weighted
):
    y = pd.DataFrame(indicator(labels), columns=NAMES)
    w = np.random.default_rng(0).uniform(0.5, 2, 48) if weighted else np.ones(48)
    clf = make_clf(backbone=still_backbone, loss=BinaryCrossEntropy(pos_weight), **STILL)
    clf.fit(texts, y, sample_weight=w)
    y = y.to_numpy()
    if expected is None:
        expected = (w @ (1 - y)) / (w @ y)
    p = clf.predict_proba(texts)
    loss = -(np.array(expected) * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=1)
    assert train_loss(clf) == pytest.approx(np.average(loss, weights=w), rel=1e-4)
    right = ((p > 0.5) == y).mean()
    assert clf.history_[0]["train_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("loss", ["auto", "binary_cross_entropy", BinaryCrossEntropy()], ids=repr)
def test_names_of_the_loss(make_clf, texts, labels, loss, several):
    clf = make_clf(loss=loss, **LEARNS, random_state=2).fit(texts, indicator(labels))
    assert_array_equal(clf.predict_proba(texts), several.predict_proba(texts))


def test_a_large_pos_weight_finds_more(make_clf, texts, labels):
    y = indicator(labels)
    found = [
        make_clf(loss=BinaryCrossEntropy(weight)).fit(texts, y).predict_proba(texts).mean()
        for weight in (0.05, 1.0, 20.0)
    ]
    assert found == sorted(found)


def test_weights_of_rows_with_several_labels(make_clf, texts, labels):
    y, weights = indicator(labels), np.ones(48)
    weights[:24] = 0
    found = make_clf().fit(texts, y, sample_weight=weights)
    expected = make_clf().fit(texts[24:], y[24:])
    assert_array_equal(found.predict_proba(texts), expected.predict_proba(texts))


@pytest.mark.parametrize("n_labels", [1, 2])
def test_one_and_two_labels(make_clf, texts, labels, n_labels):
    y = indicator(labels)[:, :n_labels]
    clf = make_clf(loss=BinaryCrossEntropy(), **LEARNS).fit(texts, y)
    for method in (clf.predict, clf.predict_proba, clf.decision_function):
        assert method(texts).shape == (48, n_labels)
    assert clf.classes_.tolist() == list(range(n_labels))
    assert clf.score(texts, y) > 0.9


def test_a_column_of_labels_is_still_labels(make_clf, texts, labels):
    with pytest.warns(Warning, match="column-vector y"):
        clf = make_clf(max_epochs=1).fit(texts, indicator(labels)[:, :1])
    assert clf.predict(texts).shape == (48,)


def test_scorers_read_several_labels(several, texts, labels):
    y = indicator(labels)
    for name in ("accuracy", "f1_micro", "f1_macro", "f1_samples", "roc_auc", "average_precision"):
        assert get_scorer(name)(several, texts, y) > 0.9
    assert several.score(texts, y.tolist()) == several.score(texts, sparse.csr_matrix(y))


def test_two_labels_and_scorers_of_probabilities(make_clf, texts, labels):
    """scikit-learn takes two classes for two that exclude each other, also those of its own."""
    y = indicator(labels)[:, :2]
    clf = make_clf(**LEARNS).fit(texts, y)
    for name in ("f1_macro", "roc_auc", "average_precision"):  # they read decision_function
        assert get_scorer(name)(clf, texts, y) > 0.9
    by_proba = make_scorer(roc_auc_score, response_method="predict_proba")
    own = OneVsRestClassifier(LogisticRegression()).fit(texts_as_counts(texts), y)
    for estimator, X in ((clf, texts), (own, texts_as_counts(texts))):
        with pytest.raises(ValueError):
            by_proba(estimator, X, y)
    assert roc_auc_score(y, clf.predict_proba(texts)) > 0.9


def test_model_selection_with_several_labels(make_clf, texts, labels):
    y, clf = indicator(labels), make_clf(max_epochs=1)
    assert len(cross_val_score(clf, texts, y, cv=KFold(2), scoring="f1_micro")) == 2
    for method in ("predict", "predict_proba", "decision_function"):
        assert cross_val_predict(clf, texts, y, cv=2, method=method).shape == (48, 4)
    grid = {"loss": ["auto", BinaryCrossEntropy("balanced")]}
    GridSearchCV(clf, grid, cv=2, error_score="raise").fit(texts, sparse.csr_matrix(y))


def test_validation_of_several_labels(make_clf, texts, labels):
    y = indicator(labels)
    clf = make_clf(early_stopping=True, validation_fraction=10).fit(texts, y)
    assert {"valid_loss", "valid_accuracy"} <= set(clf.history_[0])
    clf = make_clf(scoring="f1_micro").fit(texts, y, X_val=texts, y_val=y.tolist())
    expected = get_scorer("f1_micro")(clf, texts, y)
    assert max(row["valid_score"] for row in clf.history_) == pytest.approx(expected)


def test_pairs_with_several_labels(make_pair, texts, labels):
    X, y = [*zip(texts, texts)], indicator(labels)
    for interaction in ("cross", "all", "attention"):
        clf = make_pair(interaction=interaction, symmetric=True, max_epochs=1).fit(X, y)
        assert clf.predict(X).shape == (48, 4)
        assert_allclose(clf.predict_proba(X), expit(clf.decision_function(X)))
    assert make_pair(**LEARNS, interaction="concat").fit(X, y).score(X, y) > 0.9


def test_going_on_with_several_labels(make_clf, texts, labels):
    y = pd.DataFrame(indicator(labels), columns=NAMES)
    clf = make_clf(warm_start=True).fit(texts, y).fit(texts, y.to_numpy())
    assert clf.n_iter_ == 4 and clf.classes_.tolist() == NAMES
    with pytest.raises(ValueError, match=r"^y has the columns \['ashore'.*\['city'"):
        clf.fit(texts, y[NAMES[::-1]])
    with pytest.raises(ValueError, match=r"^Training goes on from .* any number of"):
        clf.fit(texts, labels)
    with pytest.raises(ValueError, match=r"^Training goes on"):
        clf.fit(texts, y.iloc[:, :3])
    assert clf.n_iter_ == 4
    one = make_clf(warm_start=True).fit(texts, labels)
    with pytest.raises(ValueError, match=r"^Training goes on from .* one of"):
        one.fit(texts, y.iloc[:, :3])


MANY = indicator(make_texts(48)[1])


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [
        ({}, changed(5, 2, 2, MANY), r"^y\[5, 2\] is 2; .* 0 and 1.*CrossEntropy\(classes="),
        ({}, SOFT, r"^y\[0, 0\] is 0\.\d+; .*CrossEntropy\(classes="),
        ({}, changed(5, 2, np.nan, MANY.astype(float)), r"^y\[5, 2\] is nan; "),
        ({}, changed(5, 2, None, MANY.astype(object)), r"^y\[5, 2\] is None; "),
        ({}, changed(5, 2, "x", MANY.astype(object)), r"^y\[5, 2\] is 'x'; "),
        ({}, MANY.astype(str), r"^y\[0, 0\] is '0'; "),
        ({}, MANY[:40], "X has 48 rows, y has 40"),
        ({}, sparse.csr_matrix(MANY[:40]), "X has 48 rows, y has 40"),
        ({}, np.empty((48, 0)), "^y has no columns"),
        ({}, [["a", "b"], ["a"]] * 24, r"^y\[1\] has 1 entries and y\[0\] 2.*MultiLabelBinarizer"),
        ({}, pd.DataFrame(MANY, columns=[*"aaba"]), "^y has two columns with the name 'a'"),
        ({"class_weight": "balanced"}, MANY, "^class_weight='balanced'.*indicator.*pos_weight"),
        ({"class_weight": {0: 2}}, MANY, r"^class_weight=\{0: 2\}.*pos_weight"),
        ({"loss": "cross_entropy"}, MANY, "^loss='cross_entropy'.*y is an indicator matrix"),
        ({"loss": FocalLoss()}, MANY, r"^loss=FocalLoss\(\).*y is an indicator matrix"),
        ({"loss": BinaryCrossEntropy()}, make_texts(48)[1], r"^loss=BinaryCross.*but y holds one"),
        ({"loss": "binary_cross_entropy"}, None, "requires y to be passed"),
        ({"loss": BinaryCrossEntropy([1, 2, 3])}, MANY, "^pos_weight has 3 entries, but y has 4"),
        ({"loss": BinaryCrossEntropy({9: 2})}, MANY, "^pos_weight names the class 9"),
        ({"loss": BinaryCrossEntropy({1: -2})}, MANY, r"^pos_weight\[1\] is -2"),
        ({"loss": BinaryCrossEntropy([1, 2, 3, np.nan])}, MANY, r"^pos_weight\[3\] is nan"),
        ({"loss": BinaryCrossEntropy([1, 2, 3, 0])}, MANY, "^pos_weight holds a zero"),
        ({"loss": BinaryCrossEntropy(0.0)}, MANY, "'pos_weight' parameter of BinaryCrossEntropy"),
        ({"loss": BinaryCrossEntropy("some")}, MANY, "'pos_weight' parameter of BinaryCross"),
    ],
)
def test_refused_with_several_labels(make_clf, texts, never_load, params, y, message):
    with pytest.raises(ValueError, match=message):
        make_clf(**params).fit(texts, y)


def test_refused_validation_rows(make_clf, texts, labels, never_load):
    y = pd.DataFrame(MANY, columns=NAMES)
    with pytest.raises(ValueError, match=r"^y_val holds one label a row, but training"):
        make_clf().fit(texts, y, X_val=texts, y_val=labels)
    with pytest.raises(ValueError, match=r"^y_val has 3 columns"):
        make_clf().fit(texts, y, X_val=texts, y_val=MANY[:, :3])
    with pytest.raises(ValueError, match=r"^y_val has the columns \['ashore'"):
        make_clf().fit(texts, y, X_val=texts, y_val=y[NAMES[::-1]])
    with pytest.raises(ValueError, match=r"^y_val is a matrix of 4 columns, but training"):
        make_clf().fit(texts, labels, X_val=texts, y_val=y)


def test_soft_log_probabilities_are_what_training_sees(make_clf, still_backbone, texts, labels):
    """A column a class: the loss of soft targets that are all alike is the mean over classes."""
    clf = make_clf(backbone=still_backbone, loss=CrossEntropy(classes=CLASSES), **STILL)
    clf.fit(texts, np.full((48, 3), 1 / 3))
    expected = -log_softmax(clf.decision_function(texts), axis=1).mean()
    assert train_loss(clf) == pytest.approx(expected, rel=1e-4)
