import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.training import probe
from sktransformers.training.probe import logistic_probe, probe_rows


def blobs(n, n_classes, width=12, spread=1.0, seed=0):
    """Vectors around one centre a class, far from the origin and of different scales."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(n_classes, width))
    codes = np.arange(n) % n_classes
    vectors = centers[codes] + spread * rng.normal(size=(n, width))
    return 0.1 * vectors + 5.0, codes


def fit(vectors, codes, weights=None, n_classes=None, seed=0):
    weights = np.ones(len(codes)) if weights is None else weights
    n_classes = n_classes or codes.max() + 1
    return logistic_probe(vectors, codes, weights, n_classes, np.random.default_rng(seed))


def proba(head, vectors):
    coef, intercept = head
    return softmax(vectors @ coef.T + intercept, axis=1)


@pytest.fixture
def choose(monkeypatch):
    """A function that sets the strength and the held-out loss that a probe finds."""

    def set_choice(strength, loss=0.0):
        monkeypatch.setattr(probe, "_best_strength", lambda *args: (strength, loss))

    return set_choice


@pytest.fixture(autouse=True)
def whole_probe(monkeypatch):
    """What these tests compare with is the probe itself, not the half that a head gets."""
    monkeypatch.setattr(probe, "_SHARE", 1.0)


# ----------------------------------------------------------------- the formula


def test_a_head_starts_with_half_of_the_logits(monkeypatch):
    vectors, codes = blobs(60, 3)
    whole = fit(vectors, codes)
    monkeypatch.undo()
    for part, half in zip(whole, fit(vectors, codes)):
        np.testing.assert_allclose(half, 0.5 * part, rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_logistic_regression_of_scikit_learn(choose, n_classes, strength, weighted):
    choose(strength)
    vectors, codes = blobs(70, n_classes)
    weights = np.random.default_rng(1).uniform(0.1, 5, 70) if weighted else np.ones(70)
    center = (weights @ vectors) / weights.sum()
    scaled = (vectors - center) / np.sqrt(((vectors - center) ** 2).mean())
    reference = LogisticRegression(C=strength, tol=1e-3, max_iter=200)
    reference.fit(scaled, codes, sample_weight=weights / weights.mean())
    found = proba(fit(vectors, codes, weights), vectors)
    np.testing.assert_allclose(found, reference.predict_proba(scaled), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", [0.5, 0.9, 1.05])
def test_logits_are_scaled_down_to_the_held_out_loss(choose, loss):
    vectors, codes = blobs(60, 3)
    choose(10.0, 0.0)
    full = fit(vectors, codes)
    assert log_loss(codes, proba(full, vectors)) < 0.1
    choose(10.0, loss)
    coef, intercept = fit(vectors, codes)
    assert log_loss(codes, proba((coef, intercept), vectors)) == pytest.approx(loss, abs=0.01)
    factor = coef[0, 0] / full[0][0, 0]
    assert 0 < factor < 1
    np.testing.assert_allclose(coef, factor * full[0], rtol=1e-9)
    np.testing.assert_allclose(intercept, factor * full[1], rtol=1e-9)


def test_logits_are_never_scaled_up(choose):
    vectors, codes = blobs(60, 3)
    choose(0.001, 0.0)
    weak = fit(vectors, codes)
    choose(0.001, log_loss(codes, proba(weak, vectors)) - 0.2)
    np.testing.assert_array_equal(fit(vectors, codes)[0], weak[0])


# ------------------------------------------------------------- how far to trust


def test_noise_is_not_trusted():
    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(90, 60)), rng.integers(0, 3, 90)
    assert LogisticRegression().fit(vectors, codes).score(vectors, codes) > 0.9  # a trap
    assert np.abs(proba(fit(vectors, codes), vectors) - 1 / 3).max() < 0.1


def test_signal_is_trusted():
    vectors, codes = blobs(190, 3, spread=0.5)
    found = proba(fit(vectors[:90], codes[:90]), vectors[90:])
    assert log_loss(codes[90:], found) < 0.1


@pytest.mark.parametrize("signal", [0.0, 0.2, 0.6, 3.0])
def test_strength_is_the_one_that_predicts_new_rows_best(signal, monkeypatch):
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 2, 3000)
    vectors = rng.normal(size=(3000, 40))
    vectors[:, 0] += signal * 4 * (codes - 0.5)
    choices = []
    best_strength = probe._best_strength
    monkeypatch.setattr(
        probe, "_best_strength", lambda *a: choices.append(best_strength(*a)) or choices[-1]
    )
    fit(vectors[:120], codes[:120])
    strength, loss = choices[0]

    def new_loss(strength):
        scaled = vectors / np.sqrt((vectors[:120] ** 2).mean())
        model = LogisticRegression(C=strength).fit(scaled[:120], codes[:120])
        return log_loss(codes[120:], model.predict_proba(scaled[120:]))

    by_strength = {s: new_loss(s) for s in probe._STRENGTHS}
    # Three folds of 120 rows are noisy: a neighbour of the best may win.
    assert by_strength[strength] < 1.1 * min(by_strength.values())
    assert loss == pytest.approx(by_strength[strength], abs=0.12)
    if signal == 0:
        assert strength <= 0.01


# --------------------------------------------------------------------- weights


def test_unit_of_the_weights_does_not_count():
    vectors, codes = blobs(60, 3, spread=3)
    weights = np.random.default_rng(1).uniform(0.5, 2, 60)
    ours, scaled = fit(vectors, codes, weights), fit(vectors, codes, 1000 * weights)
    np.testing.assert_allclose(proba(ours, vectors), proba(scaled, vectors), atol=1e-6)


def test_place_and_unit_of_the_vectors_do_not_count():
    vectors, codes = blobs(60, 3, spread=3)
    moved = 1e-3 * vectors + 7.0
    found = proba(fit(moved, codes), moved)
    np.testing.assert_allclose(found, proba(fit(vectors, codes), vectors), atol=1e-4)


def test_heavier_classes_are_predicted_more():
    vectors, codes = blobs(90, 3, spread=6)
    weights = np.where(codes == 2, 5.0, 1.0)
    even, heavy = proba(fit(vectors, codes), vectors), proba(fit(vectors, codes, weights), vectors)
    assert heavy[:, 2].mean() > even[:, 2].mean() + 0.1


# ------------------------------------------------------------------- odd cases


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_class_without_a_row():
    vectors, codes = blobs(60, 3)
    codes = np.array([0, 2, 3])[codes]  # 1 and 4 are not there
    coef, intercept = fit(vectors, codes, n_classes=5)
    assert not coef[[1, 4]].any()
    found = proba((coef, intercept), vectors)
    assert set(found.argmax(axis=1)) == {0, 2, 3}
    assert (found > 0).all()  # fine-tuning may still learn them


@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_class_only(n_classes):
    # Ten thousand of very many rows may miss a rare class.
    vectors, _ = blobs(30, 2)
    coef, intercept = fit(vectors, np.ones(30, dtype=int), n_classes=n_classes)
    assert coef.shape == (n_classes, 12)
    assert np.isfinite(coef).all()
    assert np.isfinite(intercept).all()


@pytest.mark.parametrize("codes", [np.arange(12), [0] * 11 + [1], [0, 1], [0, 1, 1, 2]])
def test_single_rows_of_a_class(codes):
    codes = np.array(codes)
    vectors = np.random.default_rng(0).normal(size=(len(codes), 5))
    found = proba(fit(vectors, codes), vectors)
    assert np.isfinite(found).all()
    counts = np.bincount(codes)
    if counts.max() == 1:  # nothing to choose a strength from: hardly to be trusted
        assert np.ptp(found) < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_separable_vectors_of_any_size_do_not_blow_up(scale):
    codes = np.arange(60) % 3
    vectors = scale * np.eye(3)[codes] + 1e-3 * scale * np.random.default_rng(0).normal(
        size=(60, 3)
    )
    coef, intercept = fit(vectors, codes)
    found = proba((coef, intercept), vectors)
    assert (found.argmax(axis=1) == codes).all()
    assert np.abs(coef).max() * scale < 1e3
    assert np.isfinite(intercept).all()


def test_equal_vectors():
    found = proba(fit(np.full((30, 4), 2.0), np.arange(30) % 3), np.full((1, 4), 2.0))
    np.testing.assert_allclose(found, 1 / 3, atol=0.02)


def test_weightless_class():
    vectors, codes = blobs(60, 3)
    found = proba(fit(vectors, codes, np.where(codes == 1, 0.0, 1.0)), vectors)
    assert np.isfinite(found).all()
    assert (found[codes != 1].argmax(axis=1) == codes[codes != 1]).all()


def test_the_generator_alone_decides():
    vectors, codes = blobs(60, 3, spread=4)
    state = np.random.get_state()[1].copy()
    for ours, again in zip(fit(vectors, codes, seed=3), fit(vectors, codes, seed=3), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert (np.random.get_state()[1] == state).all()


def test_at_most_ten_thousand_rows():
    def rows_of(sizes):
        return probe_rows(sizes, np.random.default_rng(0))

    assert rows_of(np.ones(10_000, int)).tolist() == list(range(10_000))
    rows = rows_of(np.ones(40_000, int))
    assert len(np.unique(rows)) == 10_000
    assert 15_000 < np.median(rows) < 25_000  # of all, not the first


def test_rows_with_several_targets_count_as_many_times():
    sizes = np.random.default_rng(1).integers(0, 40, 4000)
    rows = probe_rows(sizes, np.random.default_rng(0))
    assert len(np.unique(rows)) == len(rows)
    assert rows.tolist() == sorted(rows)
    assert 10_000 <= sizes[rows].sum() < 10_000 + 40
    few = probe_rows(sizes[:200], np.random.default_rng(0))
    assert few.tolist() == list(range(200))


# --------------------------------------------------------------- the estimator


def test_fine_tuning_starts_from_the_probe(make_clf, texts, labels):
    weights = np.random.default_rng(0).uniform(0.5, 2, 48)
    clf = make_clf(lr=1e-12, max_epochs=1, class_weight={"sea": 3.0}, random_state=5)
    clf.fit(texts, labels, sample_weight=weights)
    encoded, _ = TextEncoder(clf.tokenizer_, clf.max_length_).encode(texts)
    predictor = Predictor(torch.device("cpu"), 0, 4096, None)
    vectors = predictor.rows(clf.model_.encode, None, encoded, "window").astype(float)
    codes = np.searchsorted(clf.classes_, labels)
    head = fit(vectors, codes, weights * np.where(codes == 2, 3.0, 1.0), seed=5)
    np.testing.assert_allclose(clf.predict_proba(texts), proba(head, vectors), atol=1e-4)


def test_random_start(make_clf, texts, labels):
    clf = make_clf(lr=1e-12, max_epochs=1, head_init="random").fit(texts, labels)
    weight, bias = clf.model_.head.out.weight, clf.model_.head.out.bias
    assert weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert bias.abs().max() < 1e-9
    probed = make_clf(lr=1e-12, max_epochs=1).fit(texts, labels)
    loss = [log_loss(labels, c.predict_proba(texts)) for c in (clf, probed)]
    assert loss[1] < loss[0]
