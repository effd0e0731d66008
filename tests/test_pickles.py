"""Pickles, joblib and copies of fitted estimators: what is in them, and what comes out."""

import copy
import io
import itertools
import json
import math
import pickle

import joblib
import pytest
import tiny_estimators as tiny
import torch
from hypothesis import given, strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import Callback
from tiny_estimators import KINDS, LABELS, TEXTS

from sktransformers import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Backbone,
    LoRA,
    RAdam,
    TorchOptimizer,
)
from sktransformers.training import runtime, vocabulary
from sktransformers.training.moments import Moments, _in_full


def _joblib_bytes(est):
    file = io.BytesIO()
    joblib.dump(est, file)
    return file.getvalue()


def _of_joblib(content):
    return joblib.load(io.BytesIO(content))


WAYS = {
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "joblib": lambda est: _of_joblib(_joblib_bytes(est)),
    "deepcopy": copy.deepcopy,
}


def storages(est):
    """Bytes of each storage that a pickle of an estimator holds, by where it is."""
    found = {}

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing):
            if isinstance(thing, torch.Tensor):
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
            return NotImplemented

    Pickler(io.BytesIO()).dump(est)
    return found


def n_bytes(model):
    tensors = (*model.parameters(), *model.buffers())
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def moments_bytes(est):
    return sum(
        value.untyped_storage().nbytes()
        for state in est._moments.tensors.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


# --------------------------------------------------------------------- every estimator


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out(kind, way):
    est = tiny.fitted(kind)
    other = WAYS[way](est)
    first, second = est.model_.state_dict(), other.model_.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert tensor.data_ptr() != second[name].data_ptr() or not tensor.numel()
    assert_array_equal(tiny.outputs(other, kind), tiny.outputs(est, kind))
    assert not other.model_.training
    flags = {name: p.requires_grad for name, p in est.model_.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in other.model_.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_share_and_clones_forget(kind):
    est = tiny.fitted(kind)
    shallow = copy.copy(est)
    assert shallow is not est
    assert shallow.model_ is est.model_
    pointers = [p.data_ptr() for p in est.model_.parameters()]
    assert [p.data_ptr() for p in shallow.model_.parameters()] == pointers
    fresh = clone(est)
    assert not [name for name in vars(fresh) if name.endswith("_") and not name.startswith("_")]
    with pytest.raises(NotFittedError):
        tiny.outputs(fresh, kind)
    assert [p.data_ptr() for p in est.model_.parameters()] == pointers


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_it(kind):
    est = tiny.fitted(kind)
    assert hasattr(est, "net_")
    state = est.__getstate__()
    assert not {"net_", "_frozen", "_engine", "_reservoir"} & set(state)
    n_weights = n_bytes(est.model_)
    # Nothing but the weights, once, and what is kept of the optimizer.
    total = sum(storages(est).values())
    assert n_weights <= total <= n_weights + moments_bytes(est) + 100
    assert all(p.grad is None for p in est.model_.parameters())


# -------------------------------------------------------------------------------- size


OPTIMIZERS = {
    "adamw": AdamW(),
    "amsgrad": Adam(amsgrad=True),
    "radam": RAdam(),
    "sgd": SGD(),
    "adagrad": Adagrad(),
    "adafactor": Adafactor(),
    "nadam": TorchOptimizer("NAdam"),
    "adadelta": TorchOptimizer("Adadelta"),
    "adamax": TorchOptimizer("Adamax"),
    "centered": TorchOptimizer("RMSprop", {"centered": True, "momentum": 0.5}),
    "rprop": TorchOptimizer("Rprop"),
    "asgd": TorchOptimizer("ASGD"),
}


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_vector_or_two_for_a_matrix(name, compact, monkeypatch):
    """Of an optimizer stay as many numbers as a matrix has rows and columns."""
    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 1)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    backbone = Backbone(tiny.backbone(), compact_vocabulary=compact)
    clf = tiny.fit("classifier", optimizer=OPTIMIZERS[name], backbone=backbone)
    moments = clf._moments
    parameters = dict(clf.model_.named_parameters())
    assert (moments.ids is not None) == (compact and name not in ("adafactor", "rprop", "asgd"))
    for key, state in moments.tensors.items():
        shape = moments.shapes[key]
        assert len(shape) == parameters[key].ndim
        if len(shape) > 1:
            kept = sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
            assert kept <= (8 + 3) * sum(shape) + 2
            assert kept <= 3 * math.prod(shape) + 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_products_are_kept_as_they_are(n_rows, n_columns, seed, several):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    second = random(n_rows, 1) * random(1, n_columns) + 1e-3
    second = second.mean(dim=1, keepdim=True) * second.mean(dim=0)  # of rank one again
    first = (random(n_rows, 3) - 0.5) @ random(3, n_columns)
    first = first / first.abs().max() * second.min().sqrt()
    first[0] = 0.0
    if several:
        second = torch.stack([second, 2 * second, torch.ones_like(second)])
        first = torch.stack([first, torch.zeros_like(first), first])
    state = {"step": torch.tensor(3.0), "exp_avg": first, "exp_avg_sq": second}
    shape = tuple(first.shape)
    small = Moments(("Adam",), {"w": state}, {"w": shape}).small()
    full = _in_full(small.tensors["w"], shape, torch.float64, (0.9, 0.999))
    assert full.keys() == state.keys()
    torch.testing.assert_close(full["exp_avg_sq"], second, rtol=1e-10, atol=0)
    torch.testing.assert_close(full["exp_avg"], first, rtol=0, atol=1e-10)
    assert not full["exp_avg"][..., 0, :].any()  # what has no gradient does not move
    # As tensors and what JSON holds, and back.
    tensors, about = small.as_tensors()
    again = Moments.of_tensors(tensors, json.loads(json.dumps(about)))
    assert (again.kind, again.shapes) == (("Adam",), {"w": shape})
    assert again.table is again.ids is None
    for key, value in small.tensors["w"].items():
        assert torch.equal(again.tensors["w"][key], value)


@pytest.mark.parametrize("n_steps", [1, 10, 1000])
def test_what_adam_has_of_a_gradient_is_kept(n_steps):
    gradient = torch.linspace(-1, 1, 30).outer(torch.linspace(1, 2, 40))
    weight = torch.zeros_like(gradient, requires_grad=True)
    adam = torch.optim.Adam([weight])
    for _ in range(n_steps):
        weight.grad = gradient
        adam.step()
    state = adam.state[weight]
    small = Moments(("Adam",), {"w": state}, {"w": (30, 40)}).small().tensors["w"]
    full = _in_full(small, (30, 40), torch.float32, adam.defaults["betas"])
    for key, value in state.items():
        torch.testing.assert_close(full[key], value, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 99), st.integers(1, 5000))
def test_what_is_near_is_no_larger_than_it_may_be(seed, n_steps):
    """Of other matrices the sums of rows and columns stay, and steps are no larger than a rate."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    second = first**2 * torch.rand(30, 40, generator=generator, dtype=torch.float64)
    state = {"step": n_steps, "exp_avg": first, "exp_avg_sq": second}
    small = Moments(("Adam",), {"w": state}, {"w": (30, 40)}).small()
    full = _in_full(small.tensors["w"], (30, 40), torch.float64, (0.9, 0.999))
    for dim in (0, 1):
        torch.testing.assert_close(full["exp_avg_sq"].sum(dim), second.sum(dim))
    step = full["exp_avg"].abs() / (1 - 0.9**n_steps)
    assert (step <= (full["exp_avg_sq"] / (1 - 0.999**n_steps)).sqrt() * (1 + 1e-9)).all()
    assert (full["exp_avg"] * first).sum() > 0.3 * (full["exp_avg"] ** 2).sum() > 0


class Steps(Callback):
    """Keep the weights before and after each step."""

    def on_batch_begin(self, net, **kwargs):
        self.__dict__.setdefault("weights_", []).append(self._now(net))

    def on_train_end(self, net, **kwargs):
        self.weights_.append(self._now(net))

    def _now(self, net):
        return {name: p.detach().clone() for name, p in net.module_.named_parameters()}


def test_first_steps_are_no_larger_than_a_rate(tmp_path):
    """Second moments of before, and first ones of nothing: no weight jumps."""
    clf = tiny.fit("classifier", max_epochs=4, callbacks=[Steps()])
    lr = clf.partial_fit(TEXTS, LABELS).lr_
    weights = next(c for _, c in clf.net_.callbacks_ if isinstance(c, Steps)).weights_
    for before, after in itertools.pairwise(weights):
        for name, weight in before.items():
            rate = lr * (1 if name.startswith("backbone.") else 10)
            moved = (after[name] - weight).abs()
            assert moved.max() < 4 * rate, name
            assert moved.mean() < rate, name


# --------------------------------------------------------------- machines and leftovers


def test_without_the_device(monkeypatch):
    """A state that says cuda, on a machine without it."""
    est = copy.copy(tiny.fitted("tagger")).set_params(device="cuda")
    monkeypatch.setattr(runtime, "is_available", lambda device: device.type == "cpu")
    for dump, read in ((pickle.dumps, pickle.loads), (_joblib_bytes, _of_joblib)):
        with pytest.warns(UserWarning, match="'cuda' is not available.* stays on the CPU"):
            other = read(dump(est))
        assert {p.device.type for p in other.model_.parameters()} == {"cpu"}
        assert_array_equal(tiny.outputs(other, "tagger"), tiny.outputs(est, "tagger"))


def test_leftovers_of_training_are_not_in_it(tmp_path, monkeypatch):
    """Frozen features, the small table of the vocabulary, hooks of training."""
    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 1)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    for finetune in ("full", "head", 1):
        clf = tiny.fit("classifier", finetune=finetune, memory=str(tmp_path / "memory"))
        other = pickle.loads(pickle.dumps(clf))
        kinds = {type(module) for module in other.model_.modules()}
        assert kinds == {type(module) for module in clf.model_.modules()}
        assert not any(issubclass(kind, vocabulary.CompactEmbedding) for kind in kinds)
        assert sum(storages(clf).values()) <= n_bytes(clf.model_) + moments_bytes(clf) + 10**4
        content = pickle.dumps(clf)
        assert not [text for text in TEXTS if " " in text and text.encode() in content]


def test_adapters_are_there_after_a_pickle():
    pytest.importorskip("peft")
    clf = tiny.fit("classifier", finetune=LoRA(r=2))
    other = pickle.loads(pickle.dumps(clf))
    for est in (clf, other):
        est.partial_fit(TEXTS, LABELS)
    for name, tensor in clf.model_.state_dict().items():
        assert torch.equal(tensor, other.model_.state_dict()[name]), name
