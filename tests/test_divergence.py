"""Losses that are no numbers, and models that learn nothing: what fit says, and what is left."""

import math
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_estimators
import torch
from conftest import make_texts
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from skorch.history import History

from sktransformers import SGD, AdamW, BatchHistory, Checkpoint, FocalLoss, Linear, MLPHead
from sktransformers.modules import losses
from sktransformers.modules.heads import BatchNorm
from sktransformers.training import divergence
from sktransformers.training.collapse import Collapse
from sktransformers.training.net import EncodedDataset

X, Y = make_texts(40)
STEADY = {"schedule": "constant", "warmup": 0, "lr": 1e-2}


def weights(clf):
    return {name: w.clone() for name, w in clf.model_.state_dict().items()}


def assert_same(a, b):
    for name, w in a.items():
        assert_allclose(w.numpy(), b[name].numpy(), rtol=0, atol=0, err_msg=name)


class Stop(Callback):
    """Ctrl-C behind the n-th step."""

    def __init__(self, n):
        self.n = n

    def on_batch_end(self, net, training=True, **step):
        if training and net.n_made == self.n:
            raise KeyboardInterrupt


@pytest.fixture
def spoil(monkeypatch):
    """A function that lets the loss of the n-th batch of training be another."""

    def patch(n, value=math.nan, cls=losses.CrossEntropy):
        forward, count = cls.forward, [0]

        def spoilt(self, logits, *args):
            found = forward(self, logits, *args)
            count[0] += logits.requires_grad
            return found * value if count[0] == n and logits.requires_grad else found

        monkeypatch.setattr(cls, "forward", spoilt)

    return patch


def stopped(make_clf, n, **params):
    """One that Ctrl-C stopped behind n steps."""
    clf = make_clf(**STEADY, **params, callbacks=[Stop(n)])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    return clf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(make_clf, spoil, value):
    spoil(8, value)
    rows = []

    class Look(Callback):
        def on_batch_begin(self, net, batch, **kwargs):
            rows[:] = batch["rows"]

    clf = make_clf(**STEADY, callbacks=[Look()])
    with pytest.raises(FloatingPointError) as caught:
        clf.fit(X, Y)
    message = str(caught.value)
    for part in (f"loss is {value}", "step 8", "epoch 2", "rate of 0.01", "smaller lr", "fp32"):
        assert part in message
    assert f"rows {', '.join(map(str, sorted(rows)))} of X" in message
    assert not any(text in message for text in X)
    assert clf.n_iter_ == len(clf.history_) == 1 and clf.net_.stopped_by is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # as workers send it
    assert_same(weights(clf), weights(stopped(make_clf, 7)))


def test_rows_are_named_by_their_places_in_X(make_clf, spoil):
    spoil(4)
    weight = np.ones(40)
    weight[:20] = 0
    clf = make_clf(batch_size=15).set_params(early_stopping=True)
    with pytest.raises(FloatingPointError, match=r"rows [23]") as caught:
        clf.fit(X, Y, sample_weight=weight)
    named = str(caught.value).split("rows ")[1].split(" of X")[0]
    numbers = [int(word) for word in named.replace(",", "").split() if word.isdigit()]
    assert " more" in named or len(numbers) < 10
    assert min(numbers[:10]) >= 20


def test_in_the_first_step_nothing_is_fitted(make_clf, spoil):
    spoil(1)
    clf = make_clf()
    with pytest.raises(FloatingPointError, match=r"(?s)step 1,.*nothing is fitted anew"):
        clf.fit(X, Y)
    assert not hasattr(clf, "model_")
    clf.fit(X, Y)
    before = clf.model_
    spoil(1)
    with pytest.raises(FloatingPointError, match="step 1,"):
        clf.fit(X, Y)
    assert clf.model_ is before


def test_gradients_that_are_no_numbers(make_clf):
    class Spoil(Callback):
        def on_grad_computed(self, net, **kwargs):
            if net.n_made == 7:
                net.module_.head.out.weight.grad[0, 0] = math.inf

    for norm in (1.0, None):
        params = {"optimizer": AdamW(max_grad_norm=norm)}
        clf = make_clf(**STEADY, callbacks=[Spoil()], **params)
        with pytest.raises(FloatingPointError, match=r"gradients are not finite in step 8"):
            clf.fit(X, Y)
        assert_same(weights(clf), weights(stopped(make_clf, 7, **params)))


def test_with_validation_the_best_epoch_is_left(make_clf, spoil):
    given = {"X_val": X[:12], "y_val": Y[:12]}
    one = make_clf(**STEADY, max_epochs=1).fit(X, Y, **given)
    spoil(8)
    clf = make_clf(**STEADY)
    with pytest.raises(FloatingPointError):
        clf.fit(X, Y, **given)
    assert_same(weights(clf), weights(one))


def test_running_means_of_batch_norm_stay_numbers(make_clf, monkeypatch):
    head = MLPHead(hidden_sizes=(8,), batch_norm=True)
    forward, count = BatchNorm.forward, [0]

    def spoilt(self, x):
        count[0] += self.training
        return forward(self, x * (math.nan if count[0] == 7 and self.training else 1))

    monkeypatch.setattr(BatchNorm, "forward", spoilt)
    clf = make_clf(**STEADY, head=head, head_init="random")
    with pytest.raises(FloatingPointError):
        clf.fit(X, Y)
    assert all(w.isfinite().all() for w in weights(clf).values())
    assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize("kind", ["regressor", "tagger", "tasks", "generator", "adapter", "pair"])
def test_every_class(kind, monkeypatch):
    known = tiny_estimators.KINDS[kind]
    est = tiny_estimators.make(kind, max_epochs=4)
    objective = type(est)._objective

    def spoilt(self, *args):
        criterion, metrics = objective(self, *args)
        forward, count = criterion.forward, [0]

        def other(*args):
            found = forward(*args)
            count[0] += found.requires_grad
            return found * math.nan if count[0] == 4 and found.requires_grad else found

        criterion.forward = other
        return criterion, metrics

    monkeypatch.setattr(type(est), "_objective", spoilt)
    with pytest.raises(FloatingPointError, match="step 4") as caught:
        est.fit(known.X, known.y)
    assert ("of X" in str(caught.value)) == (kind != "adapter")
    found = tiny_estimators.outputs(est, kind)
    assert found.dtype.kind in "OU" or np.isfinite(found).all()


def test_a_search_goes_on_with_the_other_candidates(make_clf, spoil):
    spoil(8)
    search = GridSearchCV(make_clf(max_epochs=2), {"lr": [1e-3, 1e-2]}, cv=2, error_score=np.nan)
    with pytest.warns(FitFailedWarning):
        search.fit(X, Y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False]
    assert search.best_params_ == {"lr": 1e-2}


def test_the_range_test_ends_there(make_clf, spoil):
    spoil(8)
    clf = make_clf()
    curve = clf.find_lr(X, Y, n_steps=20)
    assert len(curve.lrs) == len(curve.losses) == 7
    assert np.isfinite(curve.losses).all() and not hasattr(clf, "model_")


def test_a_real_one(make_clf):
    clf = make_clf(lr=6e4, optimizer=SGD(max_grad_norm=None), max_epochs=40)
    clf.set_params(warmup=0, weight_decay=0.0)
    with pytest.raises(FloatingPointError, match="learning rate of"):
        clf.fit(X, Y)
    if hasattr(clf, "model_"):
        assert all(w.isfinite().all() for w in weights(clf).values())


class Break(Callback):
    """Leaves a weight that is no number behind the last step."""

    def on_train_end(self, net, **kwargs):
        with torch.no_grad():
            net.module_.head.out.weight[0, 0] = float("inf")


def test_weights_that_are_no_numbers_are_no_result(make_clf):
    clf = make_clf(max_epochs=1, callbacks=[Break()])
    with pytest.raises(FloatingPointError, match="weights that are not finite"):
        clf.fit(X, Y)
    assert not hasattr(clf, "model_")
    assert clf.set_params(callbacks=None).fit(X, Y).n_iter_ == 1


def test_no_false_alarm(make_clf):
    """Weights near zero, batches in which next to nothing weighs, targets far from each other."""
    weight = np.where(np.arange(40) < 20, 1e-30, 1.0)
    assert make_clf(max_epochs=1).fit(X, Y, sample_weight=weight).n_iter_ == 1
    reg = tiny_estimators.make("regressor")
    reg.fit(X, np.where(np.arange(40) < 39, 1.0, 1e30))
    assert math.isfinite(reg.history_[0]["train_loss"])


@pytest.mark.parametrize("first", [True, False])
def test_an_epoch_whose_score_is_no_number_is_not_the_best(make_clf, first):
    seen = []

    def score(clf, X, y):
        seen.append(len(seen))
        return math.nan if (len(seen) == 1) == first else 0.5

    params = {**STEADY, "scoring": score, "max_epochs": 3, "n_iter_no_change": 9}
    clf = make_clf(**params, verbose=2).fit(X, Y, X_val=X[:9], y_val=Y[:9])
    assert clf.n_iter_ == 3
    assert clf._held_out["epoch"] == (1 if first else 0)
    n = 2 if first else 1
    other = make_clf(**{**STEADY, "max_epochs": n}).fit(X, Y)
    assert_same(weights(clf), weights(other))


def test_scores_that_are_never_numbers(make_clf, tmp_path):
    clf = make_clf(scoring=lambda *_: math.nan, schedule="reduce_on_plateau", max_epochs=3)
    clf.fit(X, Y, X_val=X[:9], y_val=Y[:9])
    assert clf.n_iter_ == 2  # none of n_iter_no_change=2 was better
    clf.set_params(scoring=None).save_pretrained(tmp_path / "model")


# --------------------------------------------------------------- devices that nobody waits for


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_step_that_is_looked_at_later_is_not_made(make_clf, spoil, monkeypatch, at):
    expected = weights(stopped(make_clf, at - 1))
    monkeypatch.setattr(divergence, "_LATE", {"cpu"})
    spoil(at)
    clf = make_clf(**STEADY)
    with pytest.raises(FloatingPointError, match=f"step {at},") as caught:
        clf.fit(X, Y)
    assert f"epoch {1 + (at > 5)}," in str(caught.value)
    assert clf.n_iter_ == at // 6  # the last step of an epoch is looked at before it ends
    assert_same(weights(clf), expected)
    assert not hasattr(clf.net_.optimizer_, "found_inf")


def test_a_first_step_that_is_looked_at_later(make_clf, spoil, monkeypatch):
    monkeypatch.setattr(divergence, "_LATE", {"cpu"})
    spoil(1)
    clf = make_clf()
    with pytest.raises(FloatingPointError, match=r"(?s)step 1,.*nothing is fitted anew"):
        clf.fit(X, Y)
    assert not hasattr(clf, "model_")


def test_no_state_of_a_step_that_was_not_made(make_clf, spoil, monkeypatch, tmp_path):
    monkeypatch.setattr(divergence, "_LATE", {"cpu"})
    spoil(3)
    clf = make_clf(**STEADY, checkpoint=Checkpoint(tmp_path, unit="step"))
    with pytest.raises(FloatingPointError, match="step 3,"):
        clf.fit(X, Y)
    (state,) = tmp_path.rglob("step-*")
    assert state.name.startswith("step-000000002-batch")


def test_what_is_not_fused_is_looked_at_at_once(make_clf, spoil, monkeypatch):
    monkeypatch.setattr(divergence, "_LATE", {"cpu"})
    spoil(3)
    params = {"optimizer": SGD()}  # its decay is beside the step
    clf = make_clf(**STEADY, **params)
    with pytest.raises(FloatingPointError, match="step 3,"):
        clf.fit(X, Y)
    assert_same(weights(clf), weights(stopped(make_clf, 2, **params)))


# ------------------------------------------------------------------- models that learn nothing


BOTH = make_texts(80, topics=("food", "sea"))
SAME = ["bread and sea"] * 80  # of which the frequencies of the classes are all that can be learnt
BLIND = {"head": Linear(dropout=0.0), "finetune": "head", "lr": 1e-2}


def collapses(est, X, y, **fit):
    """What fit warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est.fit(X, y, **fit)
    found = [w for w in caught if w.category is ConvergenceWarning]
    assert all(w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


def rare(share, n=80):
    return ["rare" if i < share * n else "frequent" for i in range(n)]


def test_a_model_that_learns_nothing(make_clf):
    clf = make_clf(**BLIND, max_epochs=6)
    (message,) = collapses(clf, SAME, rare(0.1))
    prior = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    for part in ("'frequent'", f"gives {prior:.4g}", "smaller lr", "lr=0.01", 'head_init="probe"'):
        assert part in message
    loss = float(message.split("a loss of ")[1].split(";")[0])
    assert prior * 0.999 < loss < prior * 1.2
    assert "for all of 80 training rows" in message and "after epoch 3 " in message
    assert set(clf.predict(SAME)) == {"frequent"}


def test_said_in_the_end_if_that_comes_first(make_clf):
    clf = make_clf(**BLIND, max_epochs=1, batch_size=2, head_init="random")
    (message,) = collapses(clf, SAME, rare(0.1))
    assert "after epoch 1 " in message


def test_what_is_looked_at_changes_nothing(make_clf, monkeypatch):
    params = {**BLIND, "head": "linear", "finetune": "full", "lr": 1e-3, "max_epochs": 6}
    params["callbacks"] = [BatchHistory()]
    clf, other = make_clf(**params), make_clf(**params)
    assert collapses(clf, SAME, rare(0.1))
    monkeypatch.setattr(Collapse, "_look", lambda self, net: "")
    assert not collapses(other, SAME, rare(0.1))
    assert_same(weights(clf), weights(other))
    for row, expected in zip(clf.history_, other.history_, strict=True):
        assert row.keys() == expected.keys()
        assert row["batch_history"] == expected["batch_history"]


@pytest.mark.parametrize("case", ["few steps", "learns", "focal", "one class", "range test"])
def test_not_said_without_a_reason(make_clf, case):
    texts, y, params = SAME, rare(0.1), {**BLIND, "max_epochs": 6}
    if case == "few steps":
        params["batch_size"] = 40
    elif case == "learns":
        texts, y, params = *BOTH, {"max_epochs": 4, "lr": 1e-2}
    elif case == "focal":
        params["loss"] = FocalLoss(2.0)
    elif case == "range test":
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            make_clf(**params).find_lr(SAME, y, n_steps=60)
        return
    clf = make_clf(**params)
    if case == "one class":
        clf.fit(BOTH[0], BOTH[1])
        assert collapses(clf.set_params(warm_start=True), BOTH[0][:40], ["food"] * 40) == []
        return
    assert collapses(clf, texts, y) == []


@pytest.mark.parametrize("loss", [0.3, 0.33])
def test_not_said_of_an_epoch_that_only_began_badly(loss):
    """One class is predicted, and the mean over the epoch is bad; but the loss is not, by now."""
    targets, weight = np.arange(100) < 10, np.ones(100)
    dataset = EncodedDataset(np.zeros(100), targets.astype(int), weight)
    dataset.take = lambda rows: rows
    net = SimpleNamespace(
        batches_=SimpleNamespace(dataset=dataset),
        batch_size=8,
        criterion_=losses.CrossEntropy(),
        history=History(),
        n_made=20,
        optimizer_=SimpleNamespace(defaults={"lr": 1e-3}),
        validation_step=lambda rows: {
            "sums": {"predicted": torch.tensor([len(rows), 0])},
            "loss": torch.tensor(loss),
            "weight": float(len(rows)),
        },
    )
    net.history.new_epoch()
    net.history.record("train_loss", 0.6)
    net.history.record("epoch", 1)
    said = Collapse(["frequent", "rare"], print)._look(net)
    assert bool(said) == (loss > 0.99 * 0.3251)
    assert not said or ("'frequent'" in said and "0.33" in said)


def test_not_said_after_ctrl_c(make_clf):
    clf = make_clf(**BLIND, max_epochs=6, batch_size=2, callbacks=[Stop(41)])
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        warnings.simplefilter("error", ConvergenceWarning)
        clf.fit(SAME, rare(0.1))
    assert dict(clf.net_.callbacks_)["collapse"].found_


def test_a_tagger_that_learns_nothing():
    sentences = [text.split()[:1] * 5 for text in SAME]
    rng = np.random.default_rng(0)
    tags = [["B-X" if rng.random() < 0.05 else "O" for _ in words] for words in sentences]
    params = {**BLIND, "crf": False, "max_epochs": 6}
    (message,) = collapses(tiny_estimators.make("tagger", **params), sentences, tags)
    assert "'O'" in message
    with_crf = tiny_estimators.make("tagger", lr=1e-2, max_epochs=6)
    assert collapses(with_crf, sentences, tags) == []


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_the_frequencies(soft, smoothing):
    """The smallest that one prediction for all rows can have, found by gradient descent."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (50,), generator=generator)
    factors = None
    if soft:
        targets = torch.rand(50, 3, generator=generator, dtype=torch.float64).softmax(1)
        factors = torch.tensor([1.0, 2.0, 0.5])
    weight = torch.rand(50, generator=generator, dtype=torch.float64)
    criterion = losses.CrossEntropy(smoothing, factors)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = criterion(logits.expand(50, 3), targets, weight) / weight.sum()
        found.backward()
        return found

    optimizer.step(loss)
    found = criterion.of_frequencies(targets, weight, 3)
    assert_allclose(found.item(), loss().item(), rtol=1e-6)


def test_counts_of_predictions():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 9.0]])
    assert losses.count_predicted(logits, torch.zeros(3)).tolist() == [1, 0, 2]
