"""Ctrl-C in the middle of fit: it comes out, and what was trained so far can be used."""

import contextlib
import copy
import functools
import gc
import os
import pickle
import signal
import threading
import weakref
from typing import ClassVar

import numpy as np
import pytest
import tiny_estimators
import torch
from conftest import make_texts
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping
from transformers.models.bert.modeling_bert import BertLayer

import sktransformers
from sktransformers import AdamW, BatchHistory, Checkpoint, GradualUnfreezing, LoRA
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.training import vocabulary
from sktransformers.training.averaging import AverageWeights
from sktransformers.training.callbacks import ValidationScore

X, Y = make_texts(40)
# Epochs that do not hang on how many follow.
STEADY = {"schedule": "constant", "warmup": 0, "lr": 1e-2}
STEPS = 5  # an epoch has, with batches of 8


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler, which a worker of a test run may not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Press:
    """Ctrl-C in the n-th call."""

    def __init__(self, n=1):
        self.n = n

    def __call__(self, *args, **kwargs):
        self.n -= 1
        if self.n == 0:
            signal.raise_signal(signal.SIGINT)


class Watch(Callback):
    """Keeps the weights after each step, and presses Ctrl-C in the n-th call of a method."""

    seen: ClassVar[list] = []

    def __init__(self, method=None, n=1):
        self.method = method
        self.n = n

    def initialize(self):
        self.press_ = Press(self.n)
        if self.method is not None:
            setattr(self, self.method, self.pressed)
        return self

    def pressed(self, net, training=True, **kwargs):
        if training:
            self.press_()

    def on_train_begin(self, net, **kwargs):
        self.seen.append("begin")

    def on_grad_computed(self, net, **kwargs):
        self.seen[-1] = copy.deepcopy(net.module_.state_dict())


@pytest.fixture(autouse=True)
def seen():
    Watch.seen.clear()
    return Watch.seen


@pytest.fixture
def press_in(monkeypatch):
    """A function that has Ctrl-C pressed in the n-th call of a function, before or after it."""

    def patch(owner, name, n, when=lambda *args: True):
        inner, press = getattr(owner, name), Press(n)

        @functools.wraps(inner)
        def pressed(*args, **kwargs):
            if when(*args):
                press()
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, pressed)

    return patch


def weights(clf):
    return {name: w.numpy().copy() for name, w in clf.model_.state_dict().items()}


def assert_same(a, b, **tolerance):
    for name, w in a.items():
        assert_allclose(np.asarray(w), np.asarray(b[name]), **tolerance, err_msg=name)


# ------------------------------------------------------------------- what is left


def test_in_a_forward_pass_the_weights_of_the_moment_are_left(make_clf, press_in, seen):
    clf = make_clf(callbacks=[Watch()], **STEADY)
    # Two layers: in the eighth step of both epochs' ten.
    press_in(BertLayer, "forward", 15, lambda layer, *_: layer.training)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    # Of the eighth step there are no gradients: the last ones were seen before the seventh.
    reference = make_clf(callbacks=[Watch("on_grad_computed", 99)], **STEADY)
    assert len(clf.history_) == clf.n_iter_ == 1
    assert not np.allclose(weights(clf)["head.out.weight"], seen[0]["head.out.weight"])
    with pytest.raises(KeyboardInterrupt):
        reference.set_params(callbacks=[Watch("on_batch_end", 7)]).fit(X, Y)
    assert_same(weights(clf), weights(reference), rtol=0, atol=0)
    assert not clf.model_.training
    assert not any(p.grad is not None for p in clf.model_.parameters())
    assert_allclose(clf.predict_proba(X).sum(axis=1), 1)


def test_a_press_in_the_backward_pass(make_clf, seen):
    class Hooks(Callback):
        def on_train_begin(self, net, **kwargs):
            net.module_.head.out.weight.register_hook(Press(8))

    clf, other = make_clf(callbacks=[Hooks()], **STEADY), make_clf(**STEADY)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    with pytest.raises(KeyboardInterrupt):
        other.set_params(callbacks=[Watch("on_batch_end", 7)]).fit(X, Y)
    assert_same(weights(clf), weights(other), rtol=0, atol=0)


def test_in_the_first_step_nothing_changes(make_clf, press_in):
    clf = make_clf()
    press_in(BertLayer, "forward", 1, lambda layer, *_: layer.training)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert not [name for name in vars(clf) if name.endswith("_")]
    clf.fit(X, Y)
    before, old = dict(vars(clf)), weights(clf)
    press_in(BertLayer, "forward", 1, lambda layer, *_: layer.training)
    for again in (clf.fit, clf.set_params(warm_start=True).fit, clf.partial_fit):
        press_in(BertLayer, "forward", 1, lambda layer, *_: layer.training)
        with pytest.raises(KeyboardInterrupt):
            again(X, Y)
        assert all(vars(clf)[k] is v for k, v in before.items() if k.endswith("_"))
    assert_same(weights(clf), old, rtol=0, atol=0)


def test_while_rows_are_encoded(make_clf, press_in):
    press_in(TextEncoder, "encode", 1)
    clf = make_clf()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert not hasattr(clf, "model_")


@pytest.mark.parametrize("place", ["validation", "scoring", "begin", "step"])
def test_with_validation_the_best_epoch_is_left(make_clf, press_in, monkeypatch, place):
    given = {"X_val": X[:12], "y_val": Y[:12]}
    params = {**STEADY, "scoring": "accuracy" if place == "scoring" else "loss"}
    two = make_clf(**params, max_epochs=2).fit(X, Y, **given)
    clf = make_clf(**params, max_epochs=5, n_iter_no_change=9)
    if place == "validation":
        press_in(sktransformers.training.net.FineTuningNet, "validation_step", 5)
    elif place == "scoring":
        press_in(type(clf), "predict", 3)
    elif place == "step":
        press_in(torch.optim.AdamW, "step", 2 * STEPS + 3)
    else:
        clf.set_params(callbacks=[Watch("on_epoch_begin", 3)])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y, **given)
    monkeypatch.undo()
    assert clf.n_iter_ == len(clf.history_) == 2
    for row, expected in zip(clf.history_, two.history_, strict=True):
        assert row["valid_loss"] == expected["valid_loss"] and row.keys() == expected.keys()
    assert_same(weights(clf), weights(two), rtol=0, atol=0)
    best = int(np.argmin([row["valid_loss"] for row in clf.history_]))
    assert clf._held_out == two._held_out
    assert clf._held_out["epoch"] == best or place == "scoring"


def test_with_validation_and_no_whole_epoch(make_clf, press_in, tmp_path):
    clf = make_clf(**STEADY, early_stopping=True, callbacks=[Watch("on_batch_end", 3)])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert clf.history_ == [] and clf.n_iter_ == 0 and clf._held_out is None
    with pytest.raises(ValueError, match="history"):
        sktransformers.plotting.HistoryDisplay.from_estimator(clf)
    clf.set_params(callbacks=None).save_pretrained(tmp_path / "model")
    loaded = sktransformers.load(tmp_path / "model")
    assert_allclose(loaded.predict_proba(X), clf.predict_proba(X), atol=1e-6)


def test_while_the_best_weights_are_kept(make_clf, press_in, monkeypatch):
    given = {"X_val": X[:12], "y_val": Y[:12]}
    steady = {**STEADY, "lr": 1e-3}
    one = make_clf(**steady, max_epochs=1).fit(X, Y, **given)
    clf = make_clf(**steady, max_epochs=3)
    n_tensors = len([*one.model_.parameters(), *one.model_.buffers()])
    copies = lambda tensor, *args: args == ("cpu",)  # noqa: E731
    press_in(torch.Tensor, "to", n_tensors + n_tensors // 2, copies)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y, **given)
    monkeypatch.undo()
    assert clf._held_out["epoch"] < len(clf.history_)
    assert_same(weights(clf), weights(one), rtol=0, atol=0)


@pytest.mark.parametrize("place", ["step", "exchange"])
def test_with_averaging_the_average_is_left(make_clf, press_in, monkeypatch, place):
    params = {**STEADY, "optimizer": AdamW(averaging="ema")}
    one = make_clf(**params, max_epochs=1).fit(X, Y)
    clf = make_clf(**params, max_epochs=3)
    if place == "step":
        clf.set_params(callbacks=[Watch("on_epoch_begin", 2)])
    else:
        n_copied = [0]
        inner, press = AverageWeights._show, Press(3)

        def show(self, average):
            n_copied[0] = average and self.own_ is None
            return inner(self, average)

        monkeypatch.setattr(AverageWeights, "_show", show)
        copy_ = torch.Tensor.copy_

        def copied(tensor, *args, **kwargs):
            if n_copied[0] and not kwargs and isinstance(tensor, torch.nn.Parameter):
                press()
            return copy_(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "copy_", copied)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    monkeypatch.undo()
    assert_same(weights(clf), weights(one), rtol=0, atol=1e-7)


# ------------------------------------------------------------------- what went on before


STRATEGIES = {
    "head": {"finetune": "head"},
    "gradual": {"finetune": GradualUnfreezing()},
    "top": {"finetune": 1},
    "LoRA": {"finetune": LoRA(r=2)},
    "compact": {"weight_decay": 0.5},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_leaves_an_ordinary_model(make_clf, monkeypatch, strategy, tmp_path):
    if strategy == "LoRA":
        pytest.importorskip("peft")
    if strategy == "compact":
        monkeypatch.setattr(vocabulary, "_MIN_ROWS", 1)
        monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    clf = make_clf(**{**STEADY, **STRATEGIES[strategy]}, max_epochs=3)
    other = copy.deepcopy(clf)
    with pytest.raises(KeyboardInterrupt):
        clf.set_params(callbacks=[Watch("on_grad_computed", 8)]).fit(X, Y)
    with pytest.raises(KeyboardInterrupt):
        other.set_params(callbacks=[Watch("on_batch_end", 7)]).fit(X, Y)
    assert clf.n_iter_ == 1
    assert_same(weights(clf), weights(other), rtol=0, atol=0)
    assert all(p.requires_grad for p in clf.model_.parameters())
    assert type(clf.model_.backbone.get_input_embeddings()) is torch.nn.Embedding
    proba = clf.set_params(callbacks=None).predict_proba(X)
    assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), proba)
    clf.save_pretrained(tmp_path / "model")
    loaded = sktransformers.load(tmp_path / "model")
    assert_allclose(loaded.predict_proba(X), proba, atol=1e-6)
    for est in (loaded, clf):
        est.partial_fit(X, Y)
        assert est.n_iter_ == 2
    clf.set_params(warm_start=True, max_epochs=1).fit(X, Y)
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3]


KINDS = ["regressor", "pair", "tagger", "tasks", "generator", "answers", "adapter"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_is_left_usable(kind):
    known = tiny_estimators.KINDS[kind]
    est = tiny_estimators.make(kind, max_epochs=6, callbacks=[Watch("on_batch_end", 5)])
    with pytest.raises(KeyboardInterrupt):
        est.fit(known.X, known.y)
    assert est.n_iter_ == len(est.history_) >= 1
    found = tiny_estimators.outputs(est, kind)
    assert found.dtype.kind in "OU" or np.isfinite(found).all()
    assert len(pickle.dumps(est)) > 0 and est.net_.stopped_by is None


def test_in_what_follows_training(press_in, monkeypatch):
    known = tiny_estimators.KINDS["adapter"]
    est = tiny_estimators.make("adapter")
    press_in(type(est), "_measured", 2)
    with pytest.raises(KeyboardInterrupt):
        est.fit(known.X)
    monkeypatch.undo()
    assert est.n_iter_ == 1 and np.isnan(est.perplexity_[1])
    assert np.isfinite(est.perplexity(known.X))


# ------------------------------------------------------------------- who else is in it


def test_a_search_stops(make_clf):
    clf = make_clf(callbacks=[Watch("on_batch_end", 3)])
    search = GridSearchCV(clf, {"lr": [1e-3, 1e-2]}, cv=2, error_score=np.nan)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert len(Watch.seen) == 1


def test_a_callback_that_fails_afterwards_does_not_let_a_search_go_on(make_clf):
    class Fails(Callback):
        def on_train_end(self, net, **kwargs):
            raise RuntimeError("it counts on a whole epoch")

    clf = make_clf(callbacks=[Watch("on_batch_end", 3), Fails()])
    with pytest.raises(KeyboardInterrupt) as caught:
        clf.fit(X, Y)
    assert "whole epoch" in str(caught.value.__cause__)
    assert not hasattr(clf, "model_")


def test_find_lr_leaves_the_estimator(make_clf, press_in):
    clf = make_clf()
    press_in(torch.optim.AdamW, "step", 4)
    with pytest.raises(KeyboardInterrupt):
        clf.find_lr(X, Y, n_steps=10)
    assert not hasattr(clf, "model_")


class EndsWell(EarlyStopping):
    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)


class Scores(Callback):
    """A press while what the callback called runs."""

    def on_epoch_end(self, net, **kwargs):
        self.helper()

    def helper(self):
        signal.raise_signal(signal.SIGINT)


def test_a_press_at_the_end_of_an_epoch_is_told_from_a_callback_that_stops(make_clf):
    for kind in (EarlyStopping, EndsWell):
        stop = kind(monitor="train_loss", threshold=1e9, threshold_mode="abs", patience=1)
        clf = make_clf(max_epochs=3, callbacks=[("stop", stop)]).fit(X, Y)
        assert clf.n_iter_ == 2 or clf.n_iter_ == 1
    clf = make_clf(max_epochs=3, callbacks=[Scores(), BatchHistory()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert clf.n_iter_ == 1  # all that is ours had been written
    assert clf.predict(X).shape == (40,)


def test_our_own_callbacks_do_not_end_training_so(make_clf, monkeypatch):
    def on_epoch_end(self, net, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ValidationScore, "on_epoch_end", on_epoch_end)
    clf = make_clf(max_epochs=3, scoring="accuracy", early_stopping=True)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert clf.history_ == [] and clf.predict(X).shape == (40,)


def test_a_checkpoint_goes_on_from_there(make_clf, press_in, monkeypatch, tmp_path):
    params = {**STEADY, "max_epochs": 3}
    clf = make_clf(**params, checkpoint=Checkpoint(tmp_path, every=2, unit="step"))
    press_in(torch.optim.AdamW, "step", 9)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    monkeypatch.undo()
    assert clf.n_iter_ == 1
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: (steps.append(1), step(*args))[1])
    clf.fit(X, Y)
    assert len(steps) == 3 * STEPS - 8  # eight were made before
    assert_same(weights(clf), weights(make_clf(**params).fit(X, Y)), rtol=0, atol=0)


@pytest.mark.parametrize("method", [None, "on_batch_end"])
def test_the_rows_are_not_held_afterwards(make_clf, method):
    held = []

    class Look(Watch):
        def on_epoch_begin(self, net, **kwargs):
            held.append(weakref.ref(net.batches_.dataset))

    clf = make_clf(callbacks=[Look(method, STEPS)])
    with contextlib.suppress(KeyboardInterrupt):
        clf.fit(X, Y)
    gc.collect()
    assert held[0]() is None and clf.n_iter_ == (2 if method is None else 0)


def test_load_best_of_skorch(make_clf):
    stop = EarlyStopping(monitor="train_loss", load_best=True, patience=9)
    clf = make_clf(max_epochs=3, callbacks=[("stop", stop), Watch("on_batch_end", 3)])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert clf.history_ == [] and clf.predict(X).shape == (40,)


def test_scikit_learns_callbacks_are_torn_down(make_clf):
    pytest.importorskip("sklearn.callback")
    calls = []

    class Records:
        max_propagation_depth = 0

        def setup(self, estimator, context):
            calls.append("setup")

        def on_fit_task_begin(self, estimator, context):
            calls.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            calls.append(f"end {context.task_name}")

        def teardown(self, estimator, context):
            calls.append("teardown")

    clf = make_clf(max_epochs=3, callbacks=[Watch("on_batch_end", STEPS + 1)])
    clf.set_callbacks(Records())
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert calls.count("begin epoch") == 2 and calls.count("end epoch") == 1
    assert calls[-1] == "teardown" and "end fit" not in calls


def test_the_bar_of_an_interrupted_fit_is_closed(make_clf, capsys):
    clf = make_clf(verbose=2, callbacks=[Watch("on_batch_end", 3)])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert dict(clf.net_.callbacks_)["progress"].bar_.disable  # as tqdm leaves it
    assert "3/10" in capsys.readouterr().err


def test_a_press_at_any_time(make_clf):
    class Later(Callback):
        def on_batch_end(self, net, **kwargs):
            if net.n_made == 2:
                self.timer_ = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
                self.timer_.start()

        def on_train_end(self, net, **kwargs):
            self.timer_.cancel()

    clf = make_clf(max_epochs=10_000, callbacks=[Later()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert len(clf.history_) == clf.n_iter_ < 10_000
    assert np.isfinite(clf.predict_proba(X)).all()
