import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.special import expit, softmax
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import log_loss

from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.training import probe
from sktransformers.training.probe import (
    binary_probe,
    logistic_probe,
    probe_rows,
    ridge_probe,
    soft_probe,
)


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
    monkeypatch.setattr(probe, "SHARE", 1.0)


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


# ----------------------------------------------------------------------- numbers


def linear(n, width=8, noise=0.3, seed=0):
    """Vectors far from the origin, and standardised numbers that depend on them."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)) * np.linspace(0.1, 0.3, width)
    values = vectors @ rng.normal(size=width) / np.sqrt((vectors**2).sum() / n)
    values = values + noise * rng.normal(size=n)
    return vectors + 5.0, (values - values.mean()) / values.std()


def ridge(vectors, values, weights=None, seed=0):
    weights = np.ones(len(values)) if weights is None else weights
    return ridge_probe(vectors, values, weights, np.random.default_rng(seed))


def numbers(head, vectors):
    coef, intercept = head
    assert coef.shape == (1, vectors.shape[1]) and intercept.shape == (1,)
    return vectors @ coef[0] + intercept[0]


@pytest.fixture
def choose_penalty(monkeypatch):
    """A function that leaves only one penalty, and predictions as they are."""

    def set_choice(penalty):
        monkeypatch.setattr(probe, "_PENALTIES", np.array([penalty]))
        monkeypatch.setattr(probe, "_shrinking_factor", lambda *args: 1.0)

    return set_choice


@pytest.fixture
def choices(monkeypatch):
    """What each probe chose: penalty a row, factor, and what the factor was computed from."""
    found = []
    shrinking_factor = probe._shrinking_factor

    class Watched(Ridge):
        def fit(self, X, *args, **kwargs):
            found.append([self.alpha / len(X)])
            return super().fit(X, *args, **kwargs)

    def watch(*args):
        found[-1] += [shrinking_factor(*args), args]
        return found[-1][1]

    monkeypatch.setattr(probe, "Ridge", Watched)
    monkeypatch.setattr(probe, "_shrinking_factor", watch)
    return found


def test_numbers_start_half_way_from_the_mean(monkeypatch):
    vectors, values = linear(60)
    weights = np.random.default_rng(1).uniform(0.1, 5, 60)
    whole = numbers(ridge(vectors, values, weights), vectors)
    monkeypatch.undo()
    half = numbers(ridge(vectors, values, weights), vectors)
    mean = np.average(values, weights=weights)
    np.testing.assert_allclose(half - mean, 0.5 * (whole - mean), rtol=0, atol=1e-10)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [40, 2500])  # more than choose the penalty
def test_is_the_ridge_regression_of_scikit_learn(choose_penalty, penalty, weighted, n):
    choose_penalty(penalty)
    vectors, values = linear(n)
    weights = np.random.default_rng(1).uniform(0.1, 5, n) if weighted else np.ones(n)
    center = (weights @ vectors) / weights.sum()
    scaled = (vectors - center) / np.sqrt(((vectors - center) ** 2).mean())
    reference = Ridge(penalty * n).fit(scaled, values, sample_weight=weights / weights.mean())
    found = numbers(ridge(vectors, values, weights), vectors)
    np.testing.assert_allclose(found, reference.predict(scaled), rtol=0, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_factor_brings_the_error_to_that_of_left_out_rows(choices, weighted, noise):
    vectors, values = linear(40, width=12, noise=noise)
    weights = np.random.default_rng(1).uniform(0.2, 3, 40) if weighted else np.ones(40)
    found = numbers(ridge(vectors, values, weights), vectors)
    ((penalty, factor, (_, _, _, loss)),) = choices
    # Leave each row out in turn.
    center = (weights @ vectors) / weights.sum()
    scaled = (vectors - center) / np.sqrt(((vectors - center) ** 2).mean())
    scaled_weights = weights / weights.mean()

    def left_out(penalty):
        errors = []
        for i in range(40):
            others = np.arange(40) != i
            model = Ridge(penalty * 40)
            model.fit(scaled[others], values[others], sample_weight=scaled_weights[others])
            errors.append((values[i] - model.predict(scaled[[i]])[0]) ** 2)
        return np.average(errors, weights=weights)

    assert loss == pytest.approx(left_out(penalty), rel=1e-6)
    by_penalty = {p: left_out(p) for p in probe._PENALTIES}
    assert min(by_penalty, key=by_penalty.get) == pytest.approx(penalty)
    error = np.average((values - found) ** 2, weights=weights)
    variance = np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)
    assert error == pytest.approx(min(loss, variance), rel=1e-6)
    assert (factor > 0) == (loss < variance)
    assert 0 <= factor < 1


pairs_ = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=9)


@given(pairs_, st.floats(0, 30), st.data())
def test_the_largest_factor_with_that_error(pairs, loss, data):
    values, fitted = np.array(pairs).T
    weight = st.floats(0.1, 5)
    weights = np.array(data.draw(st.lists(weight, min_size=len(pairs), max_size=len(pairs))))
    factor = probe._shrinking_factor(values, fitted, weights, loss)
    assert 0 <= factor <= 1

    def error(factor):
        return np.average((values - factor * fitted) ** 2, weights=weights)

    if error(1.0) >= loss:
        assert factor == 1.0 or np.abs(fitted).max() < 1e-100
    elif error(0.0) <= loss:
        assert factor == pytest.approx(0.0, abs=1e-6)
    else:
        assert error(factor) == pytest.approx(loss, rel=1e-6, abs=1e-9)


def test_noise_of_numbers_is_not_trusted():
    rng = np.random.default_rng(0)
    vectors, values = rng.normal(size=(90, 60)), rng.normal(size=90)
    assert LinearRegression().fit(vectors, values).score(vectors, values) > 0.5  # a trap
    assert np.abs(numbers(ridge(vectors, values), vectors) - values.mean()).max() < 0.4


def test_signal_of_numbers_is_trusted():
    vectors, values = linear(300, noise=0.1)
    found = numbers(ridge(vectors[:100], values[:100]), vectors[100:])
    assert np.corrcoef(found, values[100:])[0, 1] > 0.97
    assert np.mean((found - values[100:]) ** 2) < 0.05


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_new_numbers_are_predicted_better_than_by_least_squares(noise):
    vectors, values = linear(3000, width=50, noise=noise)
    train, test = slice(0, 70), slice(70, None)
    found = numbers(ridge(vectors[train], values[train]), vectors[test])
    plain = LinearRegression().fit(vectors[train], values[train]).predict(vectors[test])
    errors = [np.mean((values[test] - p) ** 2) for p in (found, plain, values[train].mean())]
    assert errors[0] < errors[1]
    assert errors[0] < 1.02 * errors[2]  # nor worse than the mean


def test_penalty_grows_with_what_there_is_to_overfit(choices):
    for noise in (0.05, 0.5, 5.0):
        ridge(*linear(100, width=50, noise=noise))
    for width in (2, 20, 80):
        ridge(*linear(100, width=width, noise=0.7))
    penalties = [choice[0] for choice in choices]
    assert penalties[0] < penalties[1] < penalties[2]
    assert penalties[3] < penalties[5] and penalties[3] <= penalties[4] <= penalties[5]


def test_penalty_is_chosen_by_a_sample(choices):
    vectors, values = linear(5000, noise=1.0)
    found = numbers(ridge(vectors, values), vectors)
    plain = LinearRegression().fit(vectors, values).predict(vectors)
    assert np.abs(found - plain).max() < 0.2
    rows = np.random.default_rng(0).permutation(5000)[:2000]
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0).mean()
    reference = RidgeCV(probe._PENALTIES * 2000).fit(scaled[rows], values[rows])
    assert choices[0][0] == pytest.approx(reference.alpha_ / 2000)


def test_units_of_numbers_weights_and_vectors_do_not_count():
    vectors, values = linear(60, noise=1.0)
    weights = np.random.default_rng(1).uniform(0.5, 2, 60)
    expected = numbers(ridge(vectors, values, weights), vectors)
    assert np.ptp(expected) > 0.5
    moved = 1e-3 * vectors + 7.0
    for found in (
        numbers(ridge(vectors, values, 1000 * weights), vectors),
        numbers(ridge(moved, values, weights), moved),
        numbers(ridge(vectors, 100 * values + 3, weights), vectors) / 100 - 0.03,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_weights_of_numbers_are_repetitions(choose_penalty, penalty):
    # All but exactly: the unit of the vectors is that of the rows, however much they weigh.
    choose_penalty(penalty)
    vectors, values = linear(60, noise=1.0)
    weights = np.random.default_rng(1).integers(1, 5, 60)
    weighted = numbers(ridge(vectors, values, weights.astype(float)), vectors)
    again = np.repeat(np.arange(60), weights)
    repeated = numbers(ridge(vectors[again], values[again]), vectors)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=0.02)
    unweighted = numbers(ridge(vectors, values), vectors)
    assert np.abs(unweighted - repeated).max() > 0.2
    # Exactly, where all rows are there twice.
    twice = numbers(ridge(np.tile(vectors, (2, 1)), np.tile(values, 2)), vectors)
    np.testing.assert_allclose(unweighted, twice, rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -3.5])
@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_equal_numbers(n, value):
    vectors = np.random.default_rng(0).normal(size=(n, 4))
    coef, intercept = ridge(vectors, np.full(n, value))
    assert not coef.any()
    assert intercept == pytest.approx(value)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_numbers_to_leave_one_out(n):
    vectors = np.random.default_rng(0).normal(size=(n, 4))
    coef, intercept = ridge(vectors, np.array([1.0, 4.0])[:n], np.array([1.0, 2.0])[:n])
    assert not coef.any()
    assert intercept == pytest.approx(1.0 if n == 1 else 3.0)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_a_few_numbers(n):
    vectors, values = linear(n, width=20)
    found = numbers(ridge(vectors, values), vectors)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(values).max() + 1e-9


def test_columns_of_zeros():
    vectors, values = linear(60)
    head = ridge(vectors, values)
    padded = np.hstack([vectors, np.zeros((60, 8))])
    coef, intercept = ridge(padded, values)
    assert not coef[0, 8:].any()
    # Half of the columns: half the mean square, so other penalties are tried.
    np.testing.assert_allclose(
        numbers((coef, intercept), padded), numbers(head, vectors), rtol=0, atol=0.05
    )


@pytest.mark.parametrize("vector", [0.0, 2.0, 0.1])
def test_equal_vectors_of_numbers(vector):
    _, values = linear(30)
    weights = np.random.default_rng(1).uniform(0.5, 2, 30)
    found = numbers(ridge(np.full((30, 4), vector), values, weights), np.full((1, 4), vector))
    assert found == pytest.approx(np.average(values, weights=weights))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_numbers_of_vectors_of_any_size(scale):
    vectors, values = linear(60)
    found = numbers(ridge(scale * vectors, values), scale * vectors)
    np.testing.assert_allclose(found, numbers(ridge(vectors, values), vectors), atol=1e-6)


def test_the_generator_alone_decides_about_numbers():
    vectors, values = linear(2500)
    state = np.random.get_state()[1].copy()
    for ours, again in zip(ridge(vectors, values, seed=3), ridge(vectors, values, seed=3)):
        np.testing.assert_array_equal(ours, again)
    assert (np.random.get_state()[1] == state).all()


# ------------------------------------------------------------------- soft targets


def fit_soft(vectors, targets, weights=None, seed=0):
    weights = np.ones(len(targets)) if weights is None else weights
    return soft_probe(vectors, targets, weights, np.random.default_rng(seed))


def test_sure_soft_targets_give_the_probe_of_labels():
    vectors, codes = blobs(60, 3)
    weights = np.random.default_rng(1).uniform(0.5, 2, 60)
    for found, expected in zip(
        fit_soft(vectors, np.eye(3)[codes], weights), fit(vectors, codes, weights)
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_soft_targets_are_weighted_entries(choose, strength):
    choose(strength)
    vectors, codes = blobs(60, 3)
    targets = 0.7 * np.eye(3)[codes] + 0.3 * np.random.default_rng(0).dirichlet(np.ones(3), 60)
    scaled = vectors - vectors.mean(axis=0)
    scaled /= np.sqrt((scaled**2).mean())
    reference = LogisticRegression(C=strength, tol=1e-3, max_iter=200)
    reference.fit(np.repeat(scaled, 3, axis=0), [0, 1, 2] * 60, sample_weight=targets.ravel())
    found = proba(fit_soft(vectors, targets), vectors)
    np.testing.assert_allclose(found, reference.predict_proba(scaled), rtol=0, atol=1e-3)


def test_many_soft_targets_are_read_as_their_most_probable_class(monkeypatch):
    monkeypatch.setattr(probe, "_MAX_ENTRIES", 100)
    vectors, codes = blobs(60, 3)
    targets = 0.7 * np.eye(3)[codes] + 0.1
    for found, expected in zip(fit_soft(vectors, targets), fit(vectors, codes)):
        np.testing.assert_array_equal(found, expected)


def test_entries_of_a_row_are_held_out_together(monkeypatch):
    """Noise cannot be learnt; a copy of a row that is held out would give it away."""
    rng = np.random.default_rng(0)
    vectors, targets = rng.normal(size=(60, 200)), rng.dirichlet(np.full(3, 0.5), 60)
    chosen = []
    best_strength = probe._best_strength
    monkeypatch.setattr(
        probe, "_best_strength", lambda *a: chosen.append(best_strength(*a)) or chosen[-1]
    )
    fit_soft(vectors, targets)
    assert chosen[0][0] <= 0.01
    assert chosen[0][1] > 0.95 * np.log(3)


# ----------------------------------------------------------------- several labels


def many(n, n_labels, width=12, seed=0):
    """Vectors and labels of any frequency that depend on them."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)) * rng.uniform(0.1, 3, width)
    logits = vectors @ rng.normal(size=(width, n_labels)) + np.linspace(-6, 3, n_labels)
    return 0.1 * vectors + 5.0, (logits + rng.logistic(size=logits.shape) > 0).astype(np.int8)


def fit_many(vectors, targets, weights=None, pos_weight=None, seed=0):
    weights = np.ones(len(targets)) if weights is None else weights
    return binary_probe(vectors, targets, weights, pos_weight, np.random.default_rng(seed))[:2]


def binary_loss(head, vectors, targets):
    z = vectors @ head[0].T + head[1]
    return np.logaddexp(0, np.where(targets > 0, -z, z)).mean()


@pytest.mark.parametrize("strength", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_a_logistic_regression_a_label(monkeypatch, strength, weighted):
    nothing = np.empty(0, int), np.empty((0, 5))
    monkeypatch.setattr(probe, "_best_shared_strength", lambda *args: (strength, 0.0, *nothing))
    vectors, targets = many(200, 5)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 5, 200) if weighted else np.ones(200)
    pos_weight = rng.uniform(0.5, 4, 5) if weighted else np.ones(5)
    center = (weights @ vectors) / weights.sum()
    scaled = (vectors - center) / np.sqrt(((vectors - center) ** 2).mean())
    coef, intercept = fit_many(vectors, targets, weights, pos_weight)
    for j in range(5):
        w = weights / weights.mean() * np.where(targets[:, j], pos_weight[j], 1)
        reference = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        reference.fit(scaled, targets[:, j], sample_weight=w)
        np.testing.assert_allclose(
            expit(vectors @ coef[j] + intercept[j]),
            reference.predict_proba(scaled)[:, 1],
            atol=5e-3,
        )


def test_labels_share_the_strength_that_serves_them_best_together(monkeypatch):
    vectors, targets = many(300, 6)
    chosen = []
    best = probe._best_shared_strength
    monkeypatch.setattr(
        probe, "_best_shared_strength", lambda *a: chosen.append(best(*a)) or chosen[-1]
    )
    head = fit_many(vectors, targets)
    rate = targets.mean(axis=0).clip(0.001, 0.999)
    base = (np.zeros_like(head[0]), np.log(rate / (1 - rate)))
    assert chosen[0][0] in probe._STRENGTHS
    assert binary_loss(head, vectors, targets) < binary_loss(base, vectors, targets)
    # The head is as sure as it is right on rows that were held out.
    assert binary_loss(head, vectors, targets) >= chosen[0][1] - 1e-3


def test_a_head_of_labels_starts_half_way_from_their_frequencies(monkeypatch):
    vectors, targets = many(200, 4)
    whole = fit_many(vectors, targets)
    monkeypatch.setattr(probe, "SHARE", 0.5)
    half = fit_many(vectors, targets)
    np.testing.assert_allclose(half[0], 0.5 * whole[0], rtol=1e-9)
    present = targets.sum(axis=0) + 0.5
    base = np.log(present / (201 - present))
    logits = [vectors @ coef.T + intercept for coef, intercept in (whole, half)]
    np.testing.assert_allclose(logits[1], base + 0.5 * (logits[0] - base), atol=1e-9)


def test_noise_gives_labels_their_frequencies():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(100, 50))
    targets = (rng.random((100, 8)) < np.linspace(0.05, 0.95, 8)).astype(np.int8)
    coef, intercept = fit_many(vectors, targets)
    found = expit(vectors @ coef.T + intercept)
    assert np.abs(found - targets.mean(axis=0)).max() < 0.15


def test_labels_with_one_value():
    vectors, targets = many(60, 3)
    targets = np.column_stack([targets, np.ones(60), np.zeros(60)])
    coef, intercept = fit_many(vectors, targets)
    assert (coef[3:] == 0).all()
    np.testing.assert_allclose(intercept[3:], [np.log(60.5 / 0.5), -np.log(60.5 / 0.5)])
    coef, intercept = fit_many(vectors, np.ones((60, 2)))
    assert (coef == 0).all() and np.isfinite(intercept).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_rows_of_labels(n):
    vectors, targets = many(n, 3)
    targets[0] = 1 - targets[-1]
    for part in fit_many(vectors, targets):
        assert np.isfinite(part).all()


def test_equal_vectors_say_nothing():
    targets = many(30, 3)[1]
    coef, intercept = fit_many(np.ones((30, 4)), targets)
    assert np.isfinite(coef).all() and np.isfinite(intercept).all()
    assert np.abs(coef).max() < 1e-6


def test_many_labels_take_no_longer_than_they_must(monkeypatch):
    fits = []
    fit_labels = probe._fit_labels
    monkeypatch.setattr(probe, "_fit_labels", lambda *a: fits.append(a[2].shape) or fit_labels(*a))
    monkeypatch.setattr(probe, "_MAX_LOGITS", 15_000)
    vectors, targets = many(300, 150)
    coef, _ = fit_many(vectors, targets)
    assert len(fits) == 4  # three strengths once, and the best of them
    assert fits[-1][0] == 100 and coef.shape == (150, 12)


def test_unit_of_the_weights_does_not_matter_to_labels():
    vectors, targets = many(100, 3)
    weights = np.random.default_rng(0).uniform(0.5, 2, 100)
    for part, same in zip(
        fit_many(vectors, targets, weights), fit_many(vectors, targets, 7 * weights)
    ):
        np.testing.assert_allclose(part, same, rtol=1e-6, atol=1e-8)


def test_what_labels_are_given_is_counted_on_held_out_rows():
    """A probe that knows its own rows by heart says nothing about what it will find."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 200))
    targets = (rng.random((60, 4)) < 0.1).astype(np.int8)
    *_, share = binary_probe(noise, targets, np.ones(60), None, rng)
    assert share > 2 * targets.mean()  # of noise F1 is best with nearly everything
    vectors = 10.0 * targets[:, [0, 1, 2, 3]] + 0.01 * noise[:, :4]
    *_, share = binary_probe(vectors, targets, np.ones(60), None, rng)
    assert share == pytest.approx(targets.mean(), abs=0.03)
    *_, share = binary_probe(noise[:2], targets[:2], np.ones(2), None, rng)
    assert share == targets[:2].mean()
