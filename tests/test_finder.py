"""The learning rate range test."""

import copy
import math
import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback

from sktransformers import SGD, AdamW, PairClassifier, TokenTagger
from sktransformers.training.finder import LearningRateCurve


def state_of(clf):
    return {name: weight.numpy().copy() for name, weight in clf.model_.state_dict().items()}


def test_rates_grow_exponentially(make_clf, texts, labels):
    curve = make_clf().find_lr(texts, labels, lr_min=1e-6, lr_max=1e-2, n_steps=13)
    np.testing.assert_allclose(curve.lrs, np.logspace(-6, -2, 13))
    assert len(curve.losses) == len(curve.smoothed) == 13  # 6 batches an epoch
    assert np.isfinite(curve.losses).all()


def test_first_loss_is_that_of_the_start(make_clf, texts, labels):
    """Probe, dropout, first batch: all is as in fit."""
    clf = make_clf(max_epochs=1, warmup=0, lr=1e-20, optimizer=AdamW(head_lr=1e-20))
    losses = []

    class Record(Callback):
        def on_batch_end(self, net, loss=None, **kwargs):
            losses.append(float(loss))

        def __deepcopy__(self, memo):
            return self

    clf.set_params(callbacks=[Record()]).fit(texts, labels)
    curve = clf.find_lr(texts, labels, n_steps=6, lr_min=1e-19, lr_max=1e-18)
    assert len(losses) == 6  # callbacks of the user are left out
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-6)


def test_steps_are_made_with_the_rates(make_clf, texts, labels, monkeypatch):
    """Backbone and head in the proportion of fit."""
    from sktransformers.training import finder

    found = []

    def on_batch_begin(self, net, **step):
        begin(self, net, **step)
        found.append([group["lr"] for group in net.optimizer_.param_groups])

    begin = finder.RangeTest.on_batch_begin
    monkeypatch.setattr(finder.RangeTest, "on_batch_begin", on_batch_begin)
    spec = AdamW(head_lr=3e-3, layer_decay=0.5)
    clf = make_clf(lr=1e-3, optimizer=spec, schedule="cosine", warmup=0.5)
    curve = clf.find_lr(texts, labels, lr_min=1e-5, lr_max=1e-3, n_steps=3)
    np.testing.assert_allclose(curve.lrs, [1e-5, 1e-4, 1e-3])
    for lr, rates in zip(curve.lrs, found, strict=True):
        assert sorted(set(np.round(np.array(rates) / lr, 6))) == [0.25, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("fitted", [True, False])
def test_estimator_stays_as_it_was(make_clf, texts, labels, fitted):
    clf = make_clf(
        random_state=np.random.RandomState(0),
        warm_start=True,
        early_stopping=True,
        optimizer=SGD(averaging="ema"),
    )
    if fitted:
        clf.fit(texts, labels)
    before = pickle.dumps(clf)
    weights = state_of(clf) if fitted else {}
    spec = clf.optimizer
    params = copy.deepcopy(clf.get_params() | {"random_state": 0})
    curve = clf.find_lr(texts, labels, n_steps=8)
    again = clf.find_lr(texts, labels, n_steps=8)  # the random state is where it was
    np.testing.assert_array_equal(curve.losses, again.losses)
    assert clf.optimizer is spec
    assert str(clf.get_params() | {"random_state": 0}) == str(params)
    assert vars(clf).keys() == vars(pickle.loads(before)).keys() | ({"net_"} if fitted else set())
    for name, weight in weights.items():
        np.testing.assert_array_equal(clf.model_.state_dict()[name].numpy(), weight)
    if not fitted:
        with pytest.raises(NotFittedError):
            check_is_fitted(clf)


def test_ends_when_training_diverges(make_clf, texts, labels):
    clf = make_clf(optimizer=SGD(max_grad_norm=None))
    curve = clf.find_lr(texts, labels, lr_min=1e-4, lr_max=1e6, n_steps=60)
    assert 2 < len(curve.lrs) == len(curve.losses) < 60
    assert not math.isfinite(curve.losses[-1]) or curve.losses[-1] > 2 * curve.smoothed.min()
    assert curve.suggestion is None or 1e-4 <= curve.suggestion < curve.lrs[-1]


def test_sample_weight_and_callbacks_of_sklearn(make_clf, texts, labels):
    callback = pytest.importorskip("sklearn.callback")
    clf = make_clf()
    even = clf.find_lr(texts, labels, n_steps=4)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(texts))
    uneven = clf.find_lr(texts, labels, weights, n_steps=4)
    assert (even.losses != uneven.losses).all()
    monitor = callback.ProgressBar()
    clf.set_callbacks(monitor)
    np.testing.assert_array_equal(clf.find_lr(texts, labels, n_steps=4).losses, even.losses)
    assert clf._skl_callbacks == [monitor]


def test_other_tasks(tiny_backbone, texts, labels):
    params = {"backbone": tiny_backbone, "device": "cpu", "random_state": 0, "batch_size": 16}
    pairs = list(zip(texts, texts[::-1], strict=True))
    assert len(PairClassifier(**params).find_lr(pairs, labels, n_steps=4).lrs) == 4
    words = [text.split() for text in texts]
    tags = [[label] * len(sentence) for label, sentence in zip(labels, words, strict=True)]
    assert len(TokenTagger(**params).find_lr(words, tags, n_steps=4).lrs) == 4


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"lr_min": 1e-3, "lr_max": 1e-3}, ValueError, "lr_min must be above zero and below"),
        ({"lr_min": 1e-3, "lr_max": 1e-4}, ValueError, "lr_min must be above zero and below"),
        ({"lr_min": 0.0}, ValueError, "lr_min must be above zero and below"),
        ({"lr_min": math.nan}, ValueError, "lr_min must be above zero and below"),
        ({"lr_max": math.inf}, ValueError, "lr_min must be above zero and below"),
        ({"lr_max": "1"}, TypeError, "lr_max must be a number"),
        ({"n_steps": 1}, ValueError, "n_steps must be at least 2"),
        ({"n_steps": 2.5}, TypeError, "n_steps must be an integer"),
    ],
)
def test_bad_input(make_clf, texts, labels, params, error, message):
    with pytest.raises(error, match=message):
        make_clf(backbone="no/such-backbone").find_lr(texts, labels, **params)


def test_bad_parameters_are_found(make_clf, texts, labels):
    with pytest.raises(ValueError, match="'optimizer' parameter"):
        make_clf(optimizer="adamx").find_lr(texts, labels)


# ------------------------------------------------------------------- suggestion


def curve_of(losses):
    return LearningRateCurve(np.logspace(-6, 0, len(losses)), np.array(losses, dtype=float))


@pytest.mark.parametrize("place", [-4.5, -3.0, -2.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_suggestion_is_where_the_loss_falls_fastest(place, noise):
    exponents = np.linspace(-6, 0, 121)
    losses = 2 / (1 + np.exp(4 * (exponents - place))) + 3 * np.exp(8 * (exponents + 0.5))
    losses += noise * np.random.default_rng(0).normal(size=121)
    curve = curve_of(losses)
    assert math.log10(curve.suggestion) == pytest.approx(place, abs=0.15 if not noise else 0.4)


@pytest.mark.parametrize(
    "losses", [[1, 2, 3, 4], [1, 1], [math.nan, math.nan], [math.nan], [1, math.inf], [2.0]]
)
def test_no_suggestion_if_the_loss_never_falls(losses):
    assert curve_of(losses).suggestion is None


def test_smoothing():
    losses = np.random.default_rng(0).normal(size=90)
    losses[40] = math.inf
    smoothed = curve_of(losses).smoothed
    for i in (0, 13, 41, 89):
        weights = np.array([math.exp(-0.5 * ((i - j) / 3) ** 2) for j in range(90)])
        weights[40] = 0
        expected = weights @ np.nan_to_num(losses, posinf=0) / weights.sum()
        assert smoothed[i] == pytest.approx(expected)
    np.testing.assert_allclose(curve_of(np.full(7, 2.5)).smoothed, 2.5)
