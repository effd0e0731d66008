"""What fit may depend on, what it must leave alone, and what it reports."""

import copy
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LEARNS, NO_DROPOUT, save_tiny_bert
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss
from skorch.callbacks import Callback, EarlyStopping
from transformers import AutoModel

from sktransformers import AdamW, Backbone, BatchHistory, Linear


@pytest.fixture(scope="module")
def exact(tmp_path_factory, make_clf):
    """Parameters that leave nothing to chance but the head's start, in float64."""
    directory = tmp_path_factory.mktemp("no-dropout")
    save_tiny_bert(directory, num_hidden_layers=1, intermediate_size=32, **NO_DROPOUT)
    return {
        "backbone": Backbone(str(directory), dtype="float64"),
        "head": Linear(dropout=0.0),
        "head_init": "random",
        "batch_size": 1000,
        "max_epochs": 5,
        "lr": 1e-2,
    }


def weights_of(clf):
    return clf.model_.state_dict()


def same_weights(first, second):
    first, second = weights_of(first), weights_of(second)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


# ------------------------------------------------------------------- sample weights


@pytest.mark.parametrize("head_init", ["probe", "random"])
def test_weights_of_one_are_none(head_init, make_clf, texts, labels):
    params = {"head_init": head_init, "early_stopping": True, "validation_fraction": 0.25}
    plain = make_clf(**params).fit(texts, labels)
    weighted = make_clf(**params).fit(texts, labels, sample_weight=np.ones(48))
    assert same_weights(plain, weighted)


def test_weight_two_is_a_row_twice(exact, make_clf, texts, labels):
    weights = np.array([1 + i % 2 for i in range(48)])
    weighted = make_clf(**exact).fit(texts, labels, sample_weight=weights)
    repeated = make_clf(**exact).fit(texts + texts[1::2], labels + labels[1::2])
    assert_allclose(weighted.predict_proba(texts), repeated.predict_proba(texts), rtol=1e-8)
    plain = make_clf(**exact).fit(texts, labels)
    assert np.abs(weighted.predict_proba(texts) - plain.predict_proba(texts)).max() > 1e-3


def test_scale_of_weights_does_not_matter(exact, make_clf, texts, labels):
    weights = np.random.default_rng(0).uniform(0.5, 2, 48)
    first, second = (
        make_clf(**exact).fit(texts, labels, sample_weight=scale * weights) for scale in (1, 64)
    )
    assert_allclose(first.predict_proba(texts), second.predict_proba(texts), rtol=1e-8)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"class_weight": "balanced"}])
def test_rows_of_weight_zero_are_not_there(params, make_clf, texts, labels):
    expected = make_clf(**params).fit(texts, labels)
    # In places that the others must not notice; with a class of its own.
    X = [*texts[:3], "", *texts[3:], "a bread in the sea " * 100]
    y = [*labels[:3], "moon", *labels[3:], "food"]
    weights = [1, 1, 1, 0, *[1] * 45, 0]
    clf = make_clf(**params).fit(X, y, sample_weight=weights)
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    assert same_weights(clf, expected)


def test_class_weight_multiplies_sample_weight(make_clf, texts, labels):
    factors = {"food": 3.0, "sea": 0.5}
    by_class = make_clf(class_weight=factors).fit(texts, labels)
    weights = [factors.get(label, 1.0) for label in labels]
    assert same_weights(by_class, make_clf().fit(texts, labels, sample_weight=weights))


def test_balanced_class_weight(exact, make_clf, texts, labels):
    rows = [i for i, label in enumerate(labels) if label != "sea" or i % 4 == 0]
    X, y = [texts[i] for i in rows], [labels[i] for i in rows]
    counts = pd.Series(y).value_counts()
    factors = {label: len(y) / (3 * n) for label, n in counts.items()}
    balanced = make_clf(**exact, class_weight="balanced").fit(X, y)
    by_hand = make_clf(**exact, class_weight=factors).fit(X, y)
    assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), rtol=1e-8)


# --------------------------------------------------------------------- random states


@pytest.mark.parametrize("params", [{}, {"head_init": "random"}, {"early_stopping": True}])
def test_same_seed_same_model(params, make_clf, texts, labels):
    first = make_clf(**params).fit(texts, labels)
    torch.manual_seed(1)  # global states have no say
    np.random.seed(1)
    random.seed(1)
    second = make_clf(**params).fit(texts, labels)
    assert same_weights(first, second)
    assert [row["train_loss"] for row in first.history_] == [
        row["train_loss"] for row in second.history_
    ]
    again = copy.copy(first).fit(texts, labels)  # a second fit starts anew
    assert same_weights(first, again)
    assert not same_weights(first, make_clf(**params, random_state=1).fit(texts, labels))


def test_random_state_may_be_an_instance(make_clf, texts, labels):
    state = np.random.RandomState(0)
    first, second = (make_clf(random_state=state).fit(texts, labels) for _ in range(2))
    assert not same_weights(first, second)
    anew = make_clf(random_state=np.random.RandomState(0)).fit(texts, labels)
    assert same_weights(first, anew)


def test_no_random_state_is_another_model_each_time(make_clf, texts, labels):
    first, second = (make_clf(random_state=None).fit(texts, labels) for _ in range(2))
    assert not same_weights(first, second)


class Fails(Callback):
    """Breaks the second epoch."""

    def __init__(self, error=RuntimeError):
        self.error = error

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 2:
            raise self.error("no more")


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("callbacks", [None, [Fails()]], ids=["finished", "failed"])
def test_global_random_states_stay(random_state, callbacks, make_clf, texts, labels):
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    clf = make_clf(random_state=random_state, callbacks=callbacks, early_stopping=True)
    try:
        clf.fit(texts, labels).predict(texts)
    except RuntimeError:
        assert callbacks is not None
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]
    assert random.getstate() == python_state


# ------------------------------------------------------------------ what fit leaves alone


class Counting(Callback):
    """Would show that fit used the user's object instead of a copy."""

    def __init__(self):
        self.calls = []

    def on_epoch_end(self, net, **kwargs):
        self.calls.append(len(net.history))


def test_fit_changes_no_parameter(make_clf, tiny_backbone, texts, labels):
    params = {
        "backbone": Backbone(tiny_backbone),
        "optimizer": AdamW(betas=[0.9, 0.99]),
        "head": Linear(),
        "callbacks": [Counting()],
        "class_weight": {"food": 2.0},
        "device": torch.device("cpu"),
        "lr": None,
    }
    clf = make_clf(**params)
    before = repr(clf.get_params())
    clf.fit(texts, labels)
    assert repr(clf.get_params()) == before
    assert all(getattr(clf, name) is value for name, value in params.items())
    assert params["callbacks"][0].calls == []
    assert params["class_weight"] == {"food": 2.0}


def test_fit_changes_no_data(make_clf, texts, labels):
    X = np.array(texts, dtype=object)
    y = np.array(labels)
    weights = np.array([i % 3 for i in range(48)], dtype=float)
    data = (X, y, weights)
    before = copy.deepcopy(data)
    for array in data:
        array.setflags(write=False)
    make_clf(early_stopping=True).fit(X, y, sample_weight=weights).predict(X)
    for array, old in zip(data, before, strict=True):
        assert_array_equal(array, old)


def test_a_given_model_is_not_trained(make_clf, tiny_backbone, texts, labels):
    model = AutoModel.from_pretrained(tiny_backbone).train()
    before = copy.deepcopy(model.state_dict())
    clf = make_clf(backbone=model).fit(texts, labels)
    assert model.training and clf.backbone is model
    assert all(torch.equal(model.state_dict()[name], old) for name, old in before.items())
    assert all(p.grad is None for p in model.parameters())
    by_path = make_clf(pooling=clf.model_.config.pooling).fit(texts, labels)
    assert_array_equal(clf.predict_proba(texts), by_path.predict_proba(texts))


FAILURES = {
    "parameter": ({"lr": -1.0}, {}, ValueError),
    "backbone": ({"backbone": "/no/such/directory"}, {}, ValueError),
    "text": ({}, {"X": ["bread", None]}, ValueError),
    "label": ({}, {"y": ["food"] * 48}, ValueError),
    "weight": ({}, {"sample_weight": np.zeros(48)}, ValueError),
    "class weight": ({"class_weight": {"moon": 1}}, {}, ValueError),
    "validation": ({}, {"X_val": ["bread"]}, ValueError),
    "callback": ({"callbacks": [Fails()]}, {}, RuntimeError),
    "warm start": ({"callbacks": [Fails()], "warm_start": True}, {}, RuntimeError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_fit_leaves_what_was_fitted(failure, make_clf, texts, labels):
    params, data, error = FAILURES[failure]
    clf = make_clf(lr=1e-2).fit(texts, labels)
    before = dict(vars(clf))
    proba = clf.predict_proba(texts)
    usual = clf.get_params()
    with pytest.raises(error):
        clf.set_params(**params).fit(**{"X": texts, "y": labels, **data})
    clf.set_params(**{name: usual[name] for name in params})
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is value for name, value in before.items() if name.endswith("_"))
    assert_array_equal(clf.predict_proba(texts), proba)
    assert_array_equal(clf.fit(texts, labels).predict_proba(texts), proba)


# ------------------------------------------------------------------------ warm start


def test_warm_start_goes_on(make_clf, texts, labels):
    clf = make_clf(warm_start=True, lr=1e-2, callbacks=[BatchHistory()]).fit(texts, labels)
    first = clf.predict_proba(texts)
    earlier = copy.copy(clf)
    clf.set_params(lr=1e-12, max_epochs=1).fit(texts, labels)
    assert_allclose(clf.predict_proba(texts), first, atol=1e-6)
    assert clf.lr_ == 1e-12
    clf.set_params(lr=1e-2, max_epochs=3).fit(texts[::-1], labels[::-1])
    assert np.abs(clf.predict_proba(texts) - first).max() > 1e-3
    assert clf.n_iter_ == 6
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3, 4, 5, 6]
    # The model that was there is another object, not one trained behind its owner's back.
    assert_array_equal(earlier.predict_proba(texts), first)
    assert len(earlier.history_) == 2


def test_warm_start_keeps_the_classes(make_clf, texts, labels):
    clf = make_clf(warm_start=True).fit(texts, labels)
    two = [i for i, label in enumerate(labels) if label != "sea"]
    clf.fit([texts[i] for i in two], [labels[i] for i in two])
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    assert clf.predict_proba(texts).shape == (48, 3)
    with pytest.raises(ValueError, match=r"y\[0\] is 'moon'"):
        clf.fit(["bread", "wave"], ["moon", "sea"])


def test_without_warm_start_fit_starts_anew(make_clf, fitted, texts, labels):
    clf = make_clf(**LEARNS).fit(texts[:20], labels[20:40]).fit(texts, labels)
    assert same_weights(clf, fitted)
    assert clf.n_iter_ == 8
    clf = make_clf(**LEARNS, warm_start=True).fit(texts, labels)  # nothing to go on from
    assert same_weights(clf, fitted)


# -------------------------------------------------------------------- early stopping


class Spoils(Callback):
    """From the fourth epoch on the head says the opposite of what it had learnt."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 4:
            net.module_.head.out.weight.data.neg_()


SPOILED = {"callbacks": [Spoils()], "lr": 1e-3, "max_epochs": 5, "n_iter_no_change": 5}


def test_best_epoch_by_loss(make_clf, texts, labels):
    clf = make_clf(**SPOILED).fit(texts[:24], labels[:24], X_val=texts[24:], y_val=labels[24:])
    losses = [row["valid_loss"] for row in clf.history_]
    assert np.argmin(losses) < 3 and losses[-1] > min(losses) + 0.1
    final = log_loss(labels[24:], clf.predict_proba(texts[24:]))
    assert final == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize(
    "scoring", ["accuracy", None, lambda clf, X, y: np.mean(clf.predict(X) == np.asarray(y))]
)
def test_best_epoch_by_score(scoring, make_clf, texts, labels):
    X_val = pd.Series(texts[24:], index=range(100, 124))
    clf = make_clf(**SPOILED, scoring=scoring)
    clf.fit(texts[:24], labels[:24], X_val=X_val, y_val=labels[24:])
    scores = [row["valid_score"] for row in clf.history_]
    assert scores == [row["valid_accuracy"] for row in clf.history_]
    assert clf.score(X_val, labels[24:]) == max(scores) > scores[-1]


def test_training_stops_when_nothing_improves(make_clf, texts, labels):
    clf = make_clf(early_stopping=True, lr=1e-9, max_epochs=10, n_iter_no_change=3)
    assert clf.fit(texts, labels).n_iter_ == 4
    # tol: an improvement must be larger.
    clf = make_clf(early_stopping=True, max_epochs=10, n_iter_no_change=2, tol=100.0)
    assert clf.fit(texts, labels).n_iter_ == 3


@pytest.mark.parametrize("fraction, held_out", [(0.25, 12), (6, 6)])
def test_held_out_rows(fraction, held_out, make_clf, texts, labels):
    clf = make_clf(
        early_stopping=True,
        validation_fraction=fraction,
        batch_size=1,
        max_epochs=1,
        callbacks=[BatchHistory()],
    ).fit(texts, labels)
    assert len(clf.history_[0]["batch_history"]) == 48 - held_out
    assert clf.history_[0]["valid_accuracy"] * held_out % 1 == pytest.approx(0)


def test_all_callbacks_see_the_last_epoch(make_clf, texts, labels):
    clf = make_clf(
        early_stopping=True, lr=1e-9, n_iter_no_change=1, max_epochs=5, callbacks=[BatchHistory()]
    ).fit(texts, labels)
    assert clf.n_iter_ == 2
    assert all("batch_history" in row for row in clf.history_)


def test_callbacks_of_skorch_may_end_training(make_clf, texts, labels):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=100, sink=lambda _: None)
    clf = make_clf(max_epochs=5, callbacks=[stop]).fit(texts, labels)
    assert clf.n_iter_ < 5


# --------------------------------------------------------------------------- history

ALWAYS = {
    "epoch",
    "train_loss",
    "train_accuracy",
    "grad_norm",
    "lr",
    "seconds",
    "tokens_per_second",
}
VALID = {"valid_loss", "valid_accuracy"}


@pytest.mark.parametrize(
    "params, keys",
    [
        ({}, ALWAYS),
        ({"early_stopping": True}, ALWAYS | VALID),
        ({"early_stopping": True, "scoring": "accuracy"}, ALWAYS | VALID | {"valid_score"}),
        ({"callbacks": [BatchHistory()]}, ALWAYS | {"batch_history"}),
    ],
)
def test_history(params, keys, make_clf, texts, labels):
    clf = make_clf(max_epochs=3, **params).fit(texts, labels)
    assert [set(row) for row in clf.history_] == [keys] * 3
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3]
    assert clf.n_iter_ == 3 and clf.lr_ == 1e-3
    for row in clf.history_:
        values = [value for name, value in row.items() if name != "batch_history"]
        assert all(type(value) in (int, float) for value in values)
        assert np.isfinite(values).all()
    rates = [row["lr"] for row in clf.history_]
    assert rates == sorted(rates, reverse=True) and rates[0] < 1e-3


def test_history_of_one_batch(exact, make_clf, texts, labels):
    clf = make_clf(**exact).fit(texts, labels)
    before = make_clf(**{**exact, "max_epochs": 1, "lr": 1e-30}).fit(texts, labels)
    # Dropout is off: the loss of the first epoch is that of the untrained model.
    loss = log_loss(labels, before.predict_proba(texts))
    assert clf.history_[0]["train_loss"] == pytest.approx(loss, abs=1e-6)
    assert clf.history_[0]["train_accuracy"] == before.score(texts, labels)


def test_batch_history(make_clf, texts, labels):
    clf = make_clf(callbacks=[BatchHistory()]).fit(texts, labels)
    for row in clf.history_:
        batches = row["batch_history"]
        assert len(batches) == 6
        assert set(batches[0]) == {"loss", "grad_norm", "lr", "tokens"}
        assert np.mean([b["loss"] for b in batches]) == pytest.approx(row["train_loss"], rel=1e-5)
        assert np.mean([b["grad_norm"] for b in batches]) == pytest.approx(row["grad_norm"])
        assert batches[-1]["lr"] == row["lr"]
    # Words and pieces of words, [CLS] and [SEP]; no padding.
    tokens = sum(len(ids) for ids in clf.tokenizer_(texts)["input_ids"])
    assert all(sum(b["tokens"] for b in row["batch_history"]) == tokens for row in clf.history_)


# ---------------------------------------------------------------------------- output


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("params", [{}, {"early_stopping": True, "scoring": "accuracy"}])
def test_silence(params, make_clf, texts, labels, capfd):
    make_clf(verbose=0, **params).fit(texts, labels).predict_proba(texts)
    assert capfd.readouterr() == ("", "")


def test_progress(make_clf, texts, labels, capfd):
    make_clf(verbose=1).fit(texts, labels).predict(texts)
    out, err = capfd.readouterr()
    assert "fine-tuning" in err and "12/12" in err and "train_loss" in err
    # A new head is no surprise: said once, in our words.
    assert out.startswith("New linear head") and out.count("\n") == 1
    make_clf(verbose=2).fit(texts, labels)
    out, _ = capfd.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == ["epoch 1", "epoch 2"]


def test_import_is_light():
    code = """
import sys
import sktransformers

assert "TransformerSequenceClassifier" in dir(sktransformers)
assert not hasattr(sktransformers, "no_such_name")
heavy = {"torch", "transformers", "skorch", "sklearn", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
from sktransformers import TransformerSequenceClassifier
assert "torch" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # transformers imports torchao where it is installed, and that has much to say.
    ours = [line for line in done.stderr.splitlines() if "torch" not in line.lower()]
    assert (done.returncode, done.stdout, ours) == (0, "", [])


@pytest.mark.parametrize("name", ["AdamW", "Backbone", "BatchHistory", "Linear"])
def test_public_names(name):
    import sktransformers

    assert name in sktransformers.__all__
    assert getattr(sktransformers, name).__name__ == name
