"""One optimizer step after another: accumulation, optimizer, schedule, stopping, precision."""

import math
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU_HAS_BF16_TILES, NO_DROPOUT, make_texts, make_tokenizer, save_tiny_bert
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochTimer, Freezer
from torch import nn
from transformers import AutoModel

from sktransformers import AdamW, Backbone, BatchHistory, Linear
from sktransformers.inputs.targets import validation_rows
from sktransformers.modules.losses import CrossEntropy, count_correct
from sktransformers.specs import SCHEDULES as SPECS
from sktransformers.training import runtime
from sktransformers.training.net import FineTuningNet
from sktransformers.training.optimizers import build_optimizer
from sktransformers.training.schedules import schedule_factor

WEIGHTS = np.random.default_rng(0).uniform(0.2, 3.0, 48)


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory):
    """The tiny backbone without dropout."""
    return save_tiny_bert(tmp_path_factory.mktemp("still-bert"), **NO_DROPOUT)


@pytest.fixture
def make_still(make_clf, still_backbone):
    """A function that makes a classifier whose only randomness is the order of rows."""

    def make(dtype="float32", **params):
        backbone = Backbone(still_backbone, dtype=dtype)
        return make_clf(**{"backbone": backbone, "head": Linear(dropout=0.0), **params})

    return make


def weights_of(clf):
    return {name: weight.numpy() for name, weight in clf.model_.state_dict().items()}


def steps_of(clf):
    return [step for row in clf.history_ for step in row["batch_history"]]


# ----------------------------------------------------------- gradient accumulation


@pytest.mark.parametrize("budget", [1, 17, 23])
@pytest.mark.parametrize("head_init", ["probe", "random"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 2e-4)])
def test_token_budget_changes_nothing(
    make_still, texts, labels, budget, head_init, dtype, tolerance
):
    def fit(max_batch_tokens):
        clf = make_still(
            dtype,
            max_batch_tokens=max_batch_tokens,
            head_init=head_init,
            class_weight={"sea": 2.0},
            callbacks=[BatchHistory()],
        )
        X_val, y_val = make_texts(12, seed=1)
        return clf.fit(texts, labels, sample_weight=WEIGHTS, X_val=X_val, y_val=y_val)

    lengths = [len(ids) for ids in make_tokenizer()(texts)["input_ids"]]
    assert budget < 8 * min(lengths) < 8 * max(lengths) < 4096  # batches are split, or never
    whole, split = fit(4096), fit(budget)
    for name, weight in weights_of(whole).items():
        # The softmax does not depend on it: Adam makes steps of the rounding error.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(weights_of(split)[name], weight, rtol=0, atol=tolerance)
    proba = whole.predict_proba(texts)
    np.testing.assert_allclose(split.predict_proba(texts), proba, rtol=0, atol=tolerance)
    measured = {"seconds", "tokens_per_second", "batch_history"}
    for row, expected in zip(split.history_, whole.history_, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - measured:
            assert row[name] == pytest.approx(expected[name], rel=10 * tolerance), name
    for step, expected in zip(steps_of(split), steps_of(whole), strict=True):
        assert step == pytest.approx(expected, rel=10 * tolerance)


def test_gradient_is_that_of_the_weighted_mean(make_still, texts, labels):
    clf = make_still("float64", lr=1e-12, max_epochs=1, batch_size=100, max_batch_tokens=30)
    clf.fit(texts, labels, sample_weight=WEIGHTS)
    model = clf.model_.train()  # without dropout the same
    loss = 0.0
    for text, label, weight in zip(texts, labels, WEIGHTS, strict=True):
        ids = torch.tensor([clf.tokenizer_(text)["input_ids"]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        position = clf.classes_.tolist().index(label)
        loss = loss - weight / WEIGHTS.sum() * logits.log_softmax(0)[position]
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert clf.history_[0]["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert clf.history_[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    expected = log_loss(labels, clf.predict_proba(texts), sample_weight=WEIGHTS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert clf.history_[0]["train_accuracy"] == clf.score(texts, labels)  # without weights


def test_numbers_of_batches_that_wait_for_the_end_of_an_epoch(
    make_still, texts, labels, monkeypatch
):
    # As on a GPU, where reading a number waits for all work before it.
    params = {"callbacks": [BatchHistory()], "max_epochs": 2}
    validation = dict(zip(("X_val", "y_val"), make_texts(12, seed=1), strict=True))
    expected = make_still(**params).fit(texts, labels, **validation)
    seen = []

    def record(self, name, value):
        seen.append(type(value))
        self.history.record_batch(name, value)

    monkeypatch.setattr(FineTuningNet, "record_batch", record)
    found = make_still(**params).fit(texts, labels, **validation)
    assert seen.count(torch.Tensor) > 2 * len(steps_of(found))
    assert steps_of(found) == steps_of(expected)
    for row in found.net_.history:
        assert all(isinstance(value, int | float) for r in row["batches"] for value in r.values())
    for row, wanted in zip(found.net_.history, expected.net_.history, strict=True):
        assert row["batches"] == wanted["batches"]


# ------------------------------------------------------------------- odd weights


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_weights_of_any_size(make_still, texts, labels, scale):
    expected = make_still().fit(texts, labels, sample_weight=WEIGHTS).predict_proba(texts)
    found = make_still().fit(texts, labels, sample_weight=scale * WEIGHTS).predict_proba(texts)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_class_that_weighs_nothing(make_clf, texts, labels, batch_size):
    # Batches of this class alone have no mean.
    clf = make_clf(class_weight={"sea": 0.0}, batch_size=batch_size, max_epochs=1, lr=1e-3)
    clf.fit(texts, labels, X_val=["fish", "bread", "tram"], y_val=["sea", "food", "city"])
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    assert np.isfinite(clf.predict_proba(texts)).all()
    # Its texts are not there at all.
    others = [i for i, label in enumerate(labels) if label != "sea"]
    moved = [text if label != "sea" else "soup" for text, label in zip(texts, labels, strict=True)]
    again = make_clf(class_weight={"sea": 0.0}, batch_size=batch_size, max_epochs=1, lr=1e-3)
    again.fit(moved, labels, X_val=["fish", "bread", "tram"], y_val=["sea", "food", "city"])
    kept = [texts[i] for i in others]
    np.testing.assert_array_equal(again.predict_proba(kept), clf.predict_proba(kept))
    assert clf.history_[0]["valid_loss"] == pytest.approx(
        log_loss(
            ["food", "city", "sea"],
            clf.predict_proba(["bread", "tram", "fish"]),
            sample_weight=[1, 1, 0],
        ),
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({}, "Every row of X weighs nothing, by its sample_weight"),
        ({"X_val": ["fish"], "y_val": ["sea"]}, "X_val weighs nothing"),
    ],
)
def test_nothing_weighs_anything(make_clf, texts, labels, validation, message):
    nothing = {"sea": 0, "food": 0, "city": 0} if not validation else {"sea": 0}
    with pytest.raises(ValueError, match=message):
        make_clf(class_weight=nothing).fit(texts, labels, **validation)


# -------------------------------------------------------------------------- loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
def test_cross_entropy(dtype, scale):
    rng = np.random.default_rng(0)
    logits = torch.tensor(scale * rng.normal(size=(20, 5)), dtype=dtype, requires_grad=True)
    targets = rng.integers(0, 5, 20)
    weights = rng.uniform(0, 2, 20)
    loss = CrossEntropy()(logits, torch.tensor(targets), torch.tensor(weights))
    exact = logits.detach().double().numpy()
    log_proba = log_softmax(exact, axis=1)[np.arange(20), targets]
    precise = dtype == torch.float64
    assert loss.item() == pytest.approx(-(weights @ log_proba), rel=1e-12 if precise else 1e-5)
    loss.backward()
    gradient = weights[:, None] * (softmax(exact, axis=1) - np.eye(5)[targets])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    np.testing.assert_allclose(logits.grad.double().numpy(), gradient, rtol=0, atol=tolerance)


def test_count_correct():
    logits = torch.tensor([[0.0, 1.0], [3.0, 2.0], [-1.0, 5.0]])
    assert count_correct(logits, torch.tensor([1, 1, 1])) == 2


# --------------------------------------------------------------------- optimizer


class Small(nn.Module):
    """A backbone and a head, with everything that is not to be decayed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        self.pooling = nn.Linear(4, 1, bias=False)
        self.pooling.weight = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)
        self.double()


def test_update_is_that_of_the_paper():
    with torch.random.fork_rng(devices=[]):
        model = Small()
    spec = AdamW(betas=(0.8, 0.95), eps=1e-4)
    lr, head_lr, decay = 0.01, 0.05, 0.3
    optimizer = build_optimizer(model, spec, lr=lr, head_lr=head_lr, weight_decay=decay)
    factor = schedule_factor(SPECS["linear"](), 9, 3, 3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng = np.random.default_rng(0)
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    m, v = {name: 0.0 for name in w}, {name: 0.0 for name in w}
    for t in range(1, 10):
        for name, parameter in model.named_parameters():
            g = rng.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(g)
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.95 * v[name] + 0.05 * g**2
            direction = (m[name] / (1 - 0.8**t)) / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-4)
            if w[name].ndim > 1:  # neither biases nor norms
                direction = direction + decay * w[name]
            peak = lr if name.startswith("backbone.") else head_lr
            w[name] = w[name] - peak * factor(t - 1) * direction
        optimizer.step()
        scheduler.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("head_init", "head_lr", "expected"),
    [("probe", None, 1e-2), ("random", None, 1e-2), ("probe", 0.5, 0.5), ("random", 0.5, 0.5)],
)
@pytest.mark.parametrize("pooling", ["cls", "attention"])
def test_parameter_groups(make_clf, texts, labels, head_init, head_lr, expected, pooling):
    clf = make_clf(
        optimizer=AdamW(head_lr=head_lr),
        head_init=head_init,
        weight_decay=0.2,
        pooling=pooling,
        max_epochs=1,
        schedule="constant",
        warmup=0.0,
    ).fit(texts, labels)
    groups = clf.net_.optimizer_.param_groups
    of = {id(p): group for group in groups for p in group["params"]}
    names = dict(clf.model_.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(of) == len(names)
    for name, parameter in names.items():
        group = of[id(parameter)]
        decayed = not ("bias" in name or "LayerNorm" in name or name == "pooling.score")
        assert group["weight_decay"] == (0.2 if decayed else 0.0), name
        assert group["lr"] == (1e-3 if name.startswith("backbone.") else expected), name


def test_weight_decay(make_still, texts, labels):
    still = {"lr": 1e-2, "max_epochs": 1, "batch_size": 100, "schedule": "constant", "warmup": 0}
    plain = weights_of(make_still(weight_decay=0.0, **still).fit(texts, labels))
    decayed = weights_of(make_still(weight_decay=0.5, **still).fit(texts, labels))
    start = weights_of(make_still(**{**still, "lr": 1e-12}).fit(texts, labels))
    for name, weight in start.items():  # in one step decay takes lr * decay of each weight
        rate = 1e-2 if name.startswith("backbone.") else 1e-1  # the head's is ten times as large
        taken = rate * 0.5 * weight if weight.ndim > 1 and "position_ids" not in name else 0.0
        np.testing.assert_allclose(plain[name] - decayed[name], taken, atol=1e-5, err_msg=name)


class GradientNorms(Callback):
    def __init__(self):
        self.norms = []

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            norms = [p.grad.norm() for p in net.module_.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(norms).norm()))


@pytest.mark.parametrize("max_grad_norm", [0.05, 1.0, None])
def test_clipping(make_still, texts, labels, max_grad_norm):
    clf = make_still(
        optimizer=AdamW(max_grad_norm=max_grad_norm),
        callbacks=[("norms", GradientNorms()), BatchHistory()],
    ).fit(texts, labels)
    clipped = np.array(dict(clf.net_.callbacks_)["norms"].norms)
    before = np.array([float(step["grad_norm"]) for step in steps_of(clf)])
    assert before.max() > 1.5 > 1.0  # else nothing would be clipped
    expected = before if max_grad_norm is None else np.minimum(before, max_grad_norm)
    np.testing.assert_allclose(clipped, expected, rtol=1e-4)


class GradientsBefore(Callback):
    def __init__(self):
        self.norms = []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        norms = [p.grad.norm() for _, p in named_parameters if p.grad is not None]
        self.norms.append(float(torch.stack(norms).norm()))


@pytest.mark.parametrize("max_grad_norm", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("way", ["fused", "not fused", "float64"])
def test_clipping_is_torchs(make_still, texts, labels, monkeypatch, max_grad_norm, way):
    def by_torch(self):
        return nn.utils.clip_grad_norm_(self.module_.parameters(), max_grad_norm), nullcontext()

    def build(self, *args, **kwargs):
        initialize(self, *args, **kwargs)
        assert self.optimizer_._step_supports_amp_scaling  # else nothing is tested
        if way == "not fused":
            self.optimizer_._step_supports_amp_scaling = False
        return self

    def fit():
        return make_still(
            "float64" if way == "float64" else "float32",
            optimizer=AdamW(max_grad_norm=max_grad_norm, eps=1e-3),
            max_epochs=1,
            head_init="random",
            callbacks=[("before", GradientsBefore()), BatchHistory()],
        ).fit(texts, labels)

    initialize = FineTuningNet.initialize_optimizer
    monkeypatch.setattr(FineTuningNet, "initialize_optimizer", build)
    clf = fit()
    monkeypatch.setattr(FineTuningNet, "_clip", by_torch)
    expected = fit()
    for name, weight in weights_of(expected).items():
        np.testing.assert_allclose(weights_of(clf)[name], weight, rtol=0, atol=1e-7, err_msg=name)
    norms = [float(step["grad_norm"]) for step in steps_of(clf)]
    np.testing.assert_allclose(norms, dict(clf.net_.callbacks_)["before"].norms, rtol=1e-4)
    assert not hasattr(clf.net_.optimizer_, "grad_scale")


# ---------------------------------------------------------------- early stopping


class Snapshots(Callback):
    def __init__(self):
        self.states = []

    def on_epoch_end(self, net, **kwargs):
        state = {name: weight.clone() for name, weight in net.module_.state_dict().items()}
        self.states.append(state)


@pytest.mark.parametrize(
    ("scores", "tol", "n_epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 0.0, 4, 2),  # stops before the last
        ([0.1, 0.5, 0.5, 0.5, 0.9], 0.0, 4, 2),  # of equals the first
        ([0.5, 0.4, 0.6, 0.5, 0.7], 0.0, 5, 5),  # waits long enough
        ([0.5, 0.504, 0.508, 0.9, 0.9], 0.01, 3, 3),  # too little to go on, but better
        ([0.5, 0.507, 0.514, 0.521, 0.528], 0.01, 5, 5),  # together it is enough
        ([-3.0, -2.0, -1.0, -2.0, -3.0], 0.0, 5, 3),
        ([float("nan")] * 5, 0.0, 2, 1),
    ],
)
def test_best_epoch_and_end(make_clf, texts, labels, scores, tol, n_epochs, best):
    scripted = iter(scores)
    clf = make_clf(
        scoring=lambda *args: next(scripted),
        tol=tol,
        n_iter_no_change=2,
        max_epochs=5,
        callbacks=[("snapshots", Snapshots())],
    ).fit(texts, labels, X_val=texts[:6], y_val=labels[:6])
    assert clf.n_iter_ == len(clf.history_) == n_epochs
    found = [row["valid_score"] for row in clf.history_]
    np.testing.assert_array_equal(found, scores[:n_epochs])
    states = dict(clf.net_.callbacks_)["snapshots"].states
    same = [
        all(torch.equal(weight, state[name]) for name, weight in clf.model_.state_dict().items())
        for state in states
    ]
    assert same == [epoch + 1 == best for epoch in range(n_epochs)]


def test_scorer_sees_the_weights_of_the_epoch(make_clf, texts, labels):
    X_val, y_val = make_texts(15, seed=3)
    clf = make_clf(max_epochs=1, scoring="neg_log_loss").fit(
        texts, labels, X_val=X_val, y_val=y_val
    )
    (row,) = clf.history_
    loss = log_loss(y_val, clf.predict_proba(X_val))
    assert row["valid_score"] == pytest.approx(-loss, rel=1e-5)
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["valid_accuracy"] == clf.score(X_val, y_val)


def test_scorer_sees_the_columns_of_fit(make_clf, texts, labels):
    frame = pd.DataFrame({"text": texts})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as one about unknown feature names
        clf = make_clf(max_epochs=1, scoring="accuracy", early_stopping=True).fit(frame, labels)
        clf.fit(frame, labels, X_val=frame[:9], y_val=labels[:9])
    assert clf.feature_names_in_.tolist() == ["text"]


def test_validation_texts_are_not_trained_on(make_clf, texts, labels):
    # Held-out rows with other labels: the same steps are made, the same weights come out.
    clf = make_clf(early_stopping=True, validation_fraction=0.25, max_epochs=1)
    clf.fit(texts, labels)
    strata = np.unique(labels, return_inverse=True)[1]
    held_out = validation_rows(strata, 0.25, np.random.default_rng(0))  # as random_state=0
    changed = [text if i not in held_out else "tram" for i, text in enumerate(texts)]
    again = make_clf(early_stopping=True, validation_fraction=0.25, max_epochs=1)
    again.fit(changed, labels)
    for name, weight in weights_of(clf).items():
        np.testing.assert_array_equal(weights_of(again)[name], weight)
    assert again.history_[0]["valid_loss"] != clf.history_[0]["valid_loss"]


strata_ = st.lists(st.integers(0, 5), min_size=2, max_size=120).map(np.array)


@given(strata_, st.one_of(st.floats(0.01, 0.9), st.integers(1, 60)), st.integers(0, 5))
def test_rows_that_are_held_out(strata, fraction, seed):
    n, n_strata = len(strata), len(np.unique(strata))
    wanted = fraction if fraction >= 1 else max(1, round(fraction * n))
    if wanted > n - n_strata:
        with pytest.raises(ValueError, match=f"holds out {wanted} of {n} rows"):
            validation_rows(strata, fraction, np.random.default_rng(seed))
        return
    rows = validation_rows(strata, fraction, np.random.default_rng(seed))
    assert len(rows) == len(set(rows)) == wanted
    assert rows.tolist() == sorted(rows)
    sizes, held = np.bincount(strata), np.bincount(strata[rows], minlength=strata.max() + 1)
    present = sizes > 0
    assert (held[present] < sizes[present]).all()
    # Each class gives about its share, unless it has to keep its last row.
    share = wanted / n * sizes
    free = present & (sizes > 1)
    if (sizes[present] * (1 - wanted / n) >= 1).all():
        assert (np.abs(held - share)[free] < 2).all()
    again = validation_rows(strata, fraction, np.random.default_rng(seed))
    assert rows.tolist() == again.tolist()


def test_other_rows_with_another_seed():
    strata = np.arange(90) % 3
    drawn = {tuple(validation_rows(strata, 0.2, np.random.default_rng(s))) for s in range(5)}
    assert len(drawn) == 5


# --------------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision(make_still, texts, labels, precision):
    params = {"max_epochs": 4, "callbacks": [BatchHistory()]}
    exact = make_still(**params).fit(texts, labels)
    clf = make_still(precision=precision, **params).fit(texts, labels)
    assert {p.dtype for p in clf.model_.parameters()} == {torch.float32}
    proba = clf.predict_proba(texts)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    in_fp32 = clf.set_params(precision="fp32").predict_proba(texts)
    assert 0 < np.abs(proba - in_fp32).max() < 0.05
    for row, expected in zip(clf.history_, exact.history_, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], abs=0.1)
    norms, expected = ([step["grad_norm"] for step in steps_of(c)] for c in (clf, exact))
    assert np.median(norms) == pytest.approx(np.median(expected), rel=0.2)  # unscaled
    assert log_loss(labels, proba) == pytest.approx(
        log_loss(labels, exact.predict_proba(texts)), abs=0.1
    )


def test_auto_trains_in_bf16_where_the_cpu_has_it(make_still, texts, labels, monkeypatch):
    in_fp32 = make_still().fit(texts, labels)
    monkeypatch.setattr(runtime, "cpu_has_bf16_tiles", lambda: True)
    auto = make_still().fit(texts, labels)
    bf16 = make_still(precision="bf16").fit(texts, labels)
    assert torch.equal(auto.model_.head.out.weight, bf16.model_.head.out.weight)
    assert not torch.equal(auto.model_.head.out.weight, in_fp32.model_.head.out.weight)
    # Predictions do not depend on what the CPU has: those of fp32.
    proba = auto.predict_proba(texts)
    assert_array_equal(proba, auto.set_params(precision="fp32").predict_proba(texts))
    assert np.abs(proba - in_fp32.predict_proba(texts)).max() < 0.05
    auto.set_params(precision="auto", max_batch_tokens=16)
    assert_allclose(auto.predict_proba(texts), proba, atol=1e-6)


def test_whether_the_cpu_has_amx(monkeypatch):
    # conftest replaces the function: its code is asked here.
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert CPU_HAS_BF16_TILES() is True
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert CPU_HAS_BF16_TILES() is False  # older versions of torch do not tell


class Overflow(Callback):
    """Once, a gradient that float16 cannot hold."""

    def __init__(self):
        self.batches = 0

    def on_batch_begin(self, net, training=False, **kwargs):
        self.batches += 1
        if self.batches in (3, 4):
            net.scaler_.update(1e38 if self.batches == 3 else 1024.0)


def test_fp16_makes_no_step_when_it_overflows(make_still, texts, labels):
    clf = make_still(
        precision="fp16", max_epochs=1, callbacks=[("overflow", Overflow()), BatchHistory()]
    ).fit(texts, labels)
    rates = [step["lr"] for step in steps_of(clf)]
    assert rates[2] == rates[3]  # the third step was not made, so the schedule waited
    assert len(set(rates)) == 5
    assert np.isfinite(clf.predict_proba(texts)).all()


# --------------------------------------------------------------------- callbacks


def test_users_callbacks_are_copied(make_clf, texts, labels):
    snapshots = Snapshots()
    clf = make_clf(callbacks=[snapshots]).fit(texts, labels)
    assert snapshots.states == []
    assert clf.callbacks == [snapshots]
    (copied,) = [c for _, c in clf.net_.callbacks_ if isinstance(c, Snapshots)]
    assert len(copied.states) == 2


def test_callbacks_of_skorch(make_clf, tiny_backbone, texts, labels, tmp_path):
    stop = EarlyStopping(patience=1, threshold=100, sink=lambda _: None)
    clf = make_clf(
        max_epochs=5,
        callbacks=[
            Freezer("backbone.*"),
            EpochTimer(),
            Checkpoint(monitor=None, dirname=tmp_path, f_pickle=None),
            ("stop", stop),
        ],
    ).fit(texts, labels, X_val=texts[:9], y_val=labels[:9])
    assert clf.n_iter_ == 2  # patience=1: the second epoch brings no 100
    assert all(row["dur"] > 0 for row in clf.history_)
    assert (tmp_path / "params.pt").stat().st_size > 1000
    untrained = AutoModel.from_pretrained(tiny_backbone).state_dict()
    assert all(torch.equal(w, untrained[n]) for n, w in clf.model_.backbone.state_dict().items())


class Interrupt(Callback):
    def __init__(self, method, error):
        self.method = method
        self.error = error

    def initialize(self):
        setattr(self, self.method, self._raise)
        return self

    def _raise(self, net, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("on_batch_begin", KeyboardInterrupt),  # later ones: test_interruptions.py
        ("on_epoch_begin", KeyboardInterrupt),
        ("on_batch_begin", ZeroDivisionError),
        ("on_batch_end", ZeroDivisionError),
        ("on_epoch_begin", ZeroDivisionError),
    ],
)
def test_ctrl_c_and_errors_come_out_of_fit(make_clf, texts, labels, method, error):
    clf = make_clf(max_epochs=1).fit(texts, labels)
    proba = clf.predict_proba(texts)
    with pytest.raises(error):
        clf.set_params(callbacks=[Interrupt(method, error)]).fit(texts[:20], labels[:20])
    np.testing.assert_array_equal(clf.predict_proba(texts), proba)
    clf.set_params(callbacks=None).fit(texts, labels)
    np.testing.assert_array_equal(clf.predict_proba(texts), proba)
