"""Averages of the weights against averages by hand of recorded weights."""

import math

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from sklearn.metrics import log_loss
from skorch.callbacks import Callback

from sktransformers import EMA, SGD, SWA, AdamW, Backbone, BatchHistory, Linear, MLPHead
from sktransformers.training import vocabulary

X_VAL, Y_VAL = make_texts(12, seed=1)


class Record(Callback):
    """Weights of training after each step, and those that the end of an epoch sees."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def on_batch_end(self, net, training=False, **step):
        if training:
            self.steps.append((state_of(net.module_), step["is_made"]))

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(state_of(net.module_))


class Start(Callback):
    def on_train_begin(self, net, **kwargs):
        self.state = state_of(net.module_)


def state_of(model):
    return {name: t.detach().double().numpy().copy() for name, t in model.state_dict().items()}


def record_of(clf):
    callbacks = dict(clf.net_.callbacks_)
    return callbacks["start"].state, callbacks["record"].steps, callbacks["record"].epochs


def by_hand(spec, start, steps):
    """Average after each step; None before it begins."""
    made = [state for state, is_made in steps if is_made]
    average = start if isinstance(spec, EMA) else None
    averages = []
    t = 0
    for state, is_made in steps:
        if is_made and isinstance(spec, EMA):
            d = min(spec.decay, (1 + t) / (10 + t))
            average = {name: d * average[name] + (1 - d) * state[name] for name in state}
        elif is_made and t >= round(spec.start * len(steps)):
            counted = made[round(spec.start * len(steps)) : t + 1]
            average = {name: np.mean([s[name] for s in counted], axis=0) for name in state}
        t += is_made
        averages.append(average)
    return averages


@pytest.fixture
def fit(make_clf, texts, labels):
    """A function that fits with an average and records everything."""

    def fit(averaging, kind=AdamW, fit_params=None, **params):
        callbacks = [("start", Start()), ("record", Record()), BatchHistory()]
        params = {"max_epochs": 3, "lr": 3e-3, "callbacks": callbacks, **params}
        clf = make_clf(optimizer=kind(averaging=averaging), **params)
        return clf.fit(texts, labels, **(fit_params or {}))

    return fit


def assert_same(found, expected, tolerance=1e-6):
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=tolerance, err_msg=name)


AVERAGES = [EMA(), EMA(decay=0.3), EMA(decay=0.0), SWA(), SWA(start=0.0), SWA(start=0.4)]


@pytest.mark.parametrize("spec", AVERAGES, ids=str)
@pytest.mark.parametrize("validation", [True, False])
def test_by_hand(fit, spec, validation):
    rows = {"X_val": X_VAL, "y_val": Y_VAL} if validation else {}
    clf = fit(spec, fit_params=rows, n_iter_no_change=9, scoring=_later_is_better())
    start, steps, epochs = record_of(clf)
    assert len(steps) == 18 and len(epochs) == 3
    averages = by_hand(spec, start, steps)
    for epoch in range(3):
        average = averages[6 * epoch + 5] or steps[6 * epoch + 5][0]  # else it has not begun
        assert_same(epochs[epoch], average)
    assert_same(state_of(clf.model_), averages[-1])
    # Training itself is what it was.
    plain = fit(None, fit_params=rows, n_iter_no_change=9, scoring=_later_is_better())
    for (state, _), (expected, _) in zip(steps, record_of(plain)[1], strict=True):
        assert_same(state, expected, tolerance=0)
    assert [row["train_loss"] for row in clf.history_] == [
        row["train_loss"] for row in plain.history_
    ]


def _later_is_better():
    scores = iter(range(99))
    return lambda *args: next(scores)


@pytest.mark.parametrize(("name", "spec"), [("ema", EMA()), ("swa", SWA())])
def test_names(fit, name, spec):
    assert_same(state_of(fit(name).model_), state_of(fit(spec).model_), tolerance=0)


def test_validation_sees_the_average(fit):
    rows = {"X_val": X_VAL, "y_val": Y_VAL}
    clf = fit("ema", fit_params=rows, max_epochs=1, scoring="neg_log_loss")
    loss = log_loss(Y_VAL, clf.predict_proba(X_VAL))
    (row,) = clf.history_
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["valid_score"] == pytest.approx(-loss, rel=1e-5)
    (plain,) = fit(None, fit_params=rows, max_epochs=1, scoring="neg_log_loss").history_
    assert plain["train_loss"] == row["train_loss"]
    assert abs(plain["valid_loss"] - row["valid_loss"]) > 1e-3


@pytest.mark.parametrize("spec", [EMA(), SWA(start=0.5)], ids=str)
@pytest.mark.parametrize("best", [0, 1, 2])
def test_best_epochs_average_is_kept(fit, spec, best):
    scores = iter([float(epoch == best) for epoch in range(3)])
    clf = fit(
        spec,
        fit_params={"X_val": X_VAL, "y_val": Y_VAL},
        scoring=lambda *args: next(scores),
        n_iter_no_change=9,
    )
    start, steps, _ = record_of(clf)
    expected = by_hand(spec, start, steps)[6 * best + 5] or steps[6 * best + 5][0]
    assert_same(state_of(clf.model_), expected)


@pytest.mark.parametrize("spec", [EMA(), SWA(start=0.0)], ids=str)
def test_steps_that_were_not_made_do_not_count(fit, spec):
    class Overflow(Callback):
        def __init__(self):
            self.batches = 0

        def on_batch_begin(self, net, training=False, **kwargs):
            self.batches += 1
            if self.batches in (3, 4):
                net.scaler_.update(1e38 if self.batches == 3 else 1024.0)

    callbacks = [("start", Start()), ("record", Record()), Overflow()]
    clf = fit(spec, precision="fp16", max_epochs=1, callbacks=callbacks)
    start, steps, _ = record_of(clf)
    assert [is_made for _, is_made in steps] == [True, True, False, True, True, True]
    assert_same(state_of(clf.model_), by_hand(spec, start, steps)[-1])


@pytest.mark.parametrize("spec", [EMA(), SWA()], ids=str)
def test_buffers(fit, spec):
    """Running means of batch normalisation are averaged, counters are not."""
    clf = fit(spec, head=MLPHead(hidden_sizes=(8,), batch_norm=True))
    start, steps, _ = record_of(clf)
    expected = by_hand(spec, start, steps)[-1]
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    assert counters and any(name.endswith("running_mean") for name in expected)
    for name in counters:
        assert expected.pop(name) != steps[-1][0][name] == clf.model_.state_dict()[name]
    assert_same(state_of(clf.model_), expected)
    assert np.isfinite(clf.predict_proba(X_VAL)).all()


def test_buffers_that_hold_infinities(fit, texts, labels):
    clf = fit(None)
    clf.model_.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    clf.set_params(warm_start=True, optimizer=AdamW(averaging="ema")).fit(texts, labels)
    assert clf.model_.mask.tolist() == [0.0, -math.inf]


def test_half_precision_weights(make_clf, tmp_path, texts, labels):
    """What one step adds would be lost if the average were as coarse as the weights."""
    directory = save_tiny_bert(tmp_path, **NO_DROPOUT)
    clf = make_clf(
        backbone=Backbone(directory, dtype="bfloat16"),
        optimizer=SGD(averaging=SWA(start=0.0)),
        callbacks=[("start", Start()), ("record", Record())],
        max_epochs=20,
        lr=1e-2,
    ).fit(texts, labels)
    start, steps, _ = record_of(clf)
    expected = by_hand(SWA(start=0.0), start, steps)[-1]
    for name, weight in state_of(clf.model_).items():
        np.testing.assert_allclose(weight, expected[name], rtol=2**-8, atol=1e-6, err_msg=name)


def test_what_is_frozen_stays_as_it_is(fit):
    clf = fit("ema", finetune="head")
    start, _, _ = record_of(clf)
    for name, weight in state_of(clf.model_).items():
        if name.startswith("backbone."):
            np.testing.assert_array_equal(weight, start[name])
    (average,) = [c for name, c in clf.net_.callbacks_ if name == "average"]
    assert average.tensors_ == [] and average.average_ is None  # no memory is held


@pytest.mark.parametrize("spec", [EMA(), SWA(start=0.3)], ids=str)
@pytest.mark.parametrize("early_stopping", [True, False])
def test_compact_vocabulary(fit, tmp_path, monkeypatch, spec, early_stopping):
    """The average of rows that are only decayed is right too."""
    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 0)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    directory = save_tiny_bert(tmp_path, **NO_DROPOUT)

    def fit_one(compact):
        return fit(
            spec,
            backbone=Backbone(directory, dtype="float64", compact_vocabulary=compact),
            head=Linear(dropout=0.0),
            weight_decay=0.5,
            early_stopping=early_stopping,
            n_iter_no_change=9,
            lr=1e-2,
        )

    full, compact = fit_one(False), fit_one(True)
    assert_same(state_of(compact.model_), state_of(full.model_), tolerance=1e-7)
    start, _, _ = record_of(full)
    rows = "backbone.embeddings.word_embeddings.weight"
    moved = (state_of(full.model_)[rows] != start[rows]).any(axis=1)
    assert moved[1:].all()  # all were decayed; that of the padding is zero
    for row, expected in zip(compact.history_, full.history_, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)


def test_warm_start_goes_on_from_the_average(fit, texts, labels):
    clf = fit("swa", warm_start=True)
    before = state_of(clf.model_)
    clf.fit(texts, labels)
    assert_same(record_of(clf)[0], before, tolerance=0)
