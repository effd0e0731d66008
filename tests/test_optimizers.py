"""Update rules, decay, penalty, parameter groups."""

import inspect
import math

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, save_tiny_bert
from families import FAMILIES
from sklearn.base import clone
from torch import nn
from transformers import AutoModel

import sktransformers.training.optimizers as optimizers
from sktransformers import (
    EMA,
    SGD,
    SWA,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Backbone,
    BatchHistory,
    BitFit,
    GradualUnfreezing,
    Linear,
    LoRA,
    RAdam,
    TorchOptimizer,
)
from sktransformers.modules.backbone import parts
from sktransformers.specs import OPTIMIZERS
from sktransformers.training.optimizers import add_penalty, build_optimizer
from sktransformers.training.vocabulary import leaves_unseen_rows_alone

SPECS = [*(cls() for cls in OPTIMIZERS.values()), TorchOptimizer(), TorchOptimizer("Adamax")]


class Small(nn.Module):
    """A backbone and a head, with everything that is not to be decayed."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4))
            self.head = nn.Linear(4, 3)
        self.double()


def weights_of(model):
    return {name: p.detach().clone().numpy() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory):
    """The tiny backbone with three blocks and without dropout."""
    directory = tmp_path_factory.mktemp("still-bert")
    return save_tiny_bert(directory, num_hidden_layers=3, **NO_DROPOUT)


@pytest.fixture
def make_still(make_clf, still_backbone):
    """A function that makes a classifier whose only randomness is the order of rows."""

    def make(dtype="float32", **params):
        backbone = Backbone(still_backbone, dtype=dtype)
        return make_clf(**{"backbone": backbone, "head": Linear(dropout=0.0), **params})

    return make


# ------------------------------------------------------------------- update rules


def adam(g, s, t, lr, w, amsgrad=False):
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.95 * s.get("v", 0) + 0.05 * g**2
    v = s["largest"] = np.maximum(s.get("largest", 0), s["v"]) if amsgrad else s["v"]
    return lr * s["m"] / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-4)


def radam(g, s, t, lr, w):
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.95 * s.get("v", 0) + 0.05 * g**2
    m = s["m"] / (1 - 0.8**t)
    longest = 2 / (1 - 0.95) - 1
    length = longest - 2 * t * 0.95**t / (1 - 0.95**t)
    if length <= 5:
        return lr * m
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return lr * math.sqrt(rectified) * m / (np.sqrt(s["v"]) + 1e-4) * math.sqrt(1 - 0.95**t)


def sgd(g, s, t, lr, w, nesterov=False):
    s["b"] = 0.7 * s.get("b", 0) + g
    return lr * (g + 0.7 * s["b"] if nesterov else s["b"])


def adagrad(g, s, t, lr, w):
    s["sum"] = s.get("sum", 0) + g**2
    return lr * g / (np.sqrt(s["sum"]) + 1e-4)


def adafactor(g, s, t, lr, w):
    def root_mean_square(x):
        return math.sqrt((x**2).mean())

    beta2 = 1 - t**-0.7
    squares = g**2
    if g.ndim > 1:
        s["rows"] = beta2 * s.get("rows", 0) + (1 - beta2) * squares.mean(1, keepdims=True)
        s["columns"] = beta2 * s.get("columns", 0) + (1 - beta2) * squares.mean(0, keepdims=True)
        v = s["rows"] * s["columns"] / s["rows"].mean()
    else:
        v = s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * squares
    update = g / np.sqrt(v)
    update = update / max(1.0, root_mean_square(update) / 1.1)
    return max(1e-2, root_mean_square(w)) * min(lr, 1 / math.sqrt(t)) * update


RULES = {
    "adamw": (AdamW(betas=(0.8, 0.95), eps=1e-4), adam),
    "adam": (Adam(betas=(0.8, 0.95), eps=1e-4), adam),
    "amsgrad": (
        Adam(betas=[0.8, 0.95], eps=1e-4, amsgrad=True),
        lambda *args: adam(*args, amsgrad=True),
    ),
    "radam": (RAdam(betas=(0.8, 0.95), eps=1e-4), radam),
    "sgd": (SGD(momentum=0.7), sgd),
    "nesterov": (SGD(momentum=0.7, nesterov=True), lambda *args: sgd(*args, nesterov=True)),
    "adagrad": (Adagrad(eps=1e-4), adagrad),
    "adafactor": (Adafactor(beta2_decay=-0.7, eps=1e-2, clip=1.1), adafactor),
    "any": (TorchOptimizer("SGD", {"momentum": 0.7}), sgd),
    "any class": (TorchOptimizer(torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-4}), adam),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_update_is_that_of_the_paper(rule, decay):
    spec, update = RULES[rule]
    model = Small()
    rates = {"backbone": 0.01, "head": 0.05}
    optimizer = build_optimizer(model, spec, lr=0.01, head_lr=0.05, weight_decay=decay)
    factors = [0.5, 1.0, 0.7, 0.7, 0.3, 0.9, 0.1, 1.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: [*factors, 0][t])
    rng = np.random.default_rng(0)
    weights, states = weights_of(model), {name: {} for name, _ in model.named_parameters()}
    for t, factor in enumerate(factors, start=1):
        for name, parameter in model.named_parameters():
            lr = factor * rates[name.split(".")[0]]
            gradient = rng.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            if parameter.ndim > 1:  # neither biases nor norms
                weights[name] = weights[name] * (1 - lr * decay)
            weights[name] = weights[name] - update(gradient, states[name], t, lr, weights[name])
        optimizer.step()
        scheduler.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach(), weights[name], rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_decay_does_not_go_through_the_gradient(spec):
    """With gradients of zero all that happens is decay, the same for all weights."""
    model = Small()
    before = weights_of(model)
    optimizer = build_optimizer(model, spec, lr=0.01, head_lr=0.1, weight_decay=0.2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        scheduler.step()
    for name, parameter in model.named_parameters():
        lr = 0.1 if name.startswith("head") else 0.01
        factor = (1 - lr * 0.2) * (1 - 0.5 * lr * 0.2) if parameter.ndim > 1 else 1.0
        np.testing.assert_allclose(parameter.detach(), factor * before[name], rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_nothing_decays_without_a_gradient_or_a_step(spec):
    model = Small().float()
    before = weights_of(model)
    optimizer = build_optimizer(model, spec, lr=0.01, head_lr=0.1, weight_decay=0.2)
    optimizer.step()  # no gradients
    scaler = torch.amp.GradScaler("cpu")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.head.weight.grad[0, 0] = torch.inf  # float16 overflowed
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    for name, weight in weights_of(model).items():
        np.testing.assert_array_equal(weight, before[name])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all((weight != before[name]).any() for name, weight in weights_of(model).items())


@pytest.mark.parametrize(
    ("spec", "fused"),
    [
        (AdamW(), True),
        (Adam(), True),
        (SGD(), True),
        (Adagrad(), True),
        (RAdam(), None),
        (TorchOptimizer("Adam"), True),
        (TorchOptimizer("Adam", {"foreach": True}), None),
        (TorchOptimizer("Adam", {"fused": False}), False),
    ],
    ids=str,
)
def test_one_kernel_where_there_is_one(spec, fused):
    optimizer = build_optimizer(Small(), spec, lr=0.1, head_lr=0.1, weight_decay=0.1)
    assert {group.get("fused") for group in optimizer.param_groups} == {fused}


@pytest.mark.parametrize("spec", [AdamW(), SGD(), Adagrad(), Adam(), RAdam()], ids=str)
def test_clipping_with_every_kernel(make_still, texts, labels, monkeypatch, spec):
    def fit():
        clf = make_still(
            optimizer=spec.set_params(max_grad_norm=0.3),
            callbacks=[BatchHistory()],
            max_epochs=1,
            lr=1e-3,
        ).fit(texts, labels)
        assert max(step["grad_norm"] for step in clf.history_[0]["batch_history"]) > 0.6
        return clf

    spec = clone(spec)
    fused = fit()
    monkeypatch.setattr(optimizers, "_FUSED", {})
    plain = fit()
    assert not any(group.get("fused") for group in plain.net_.optimizer_.param_groups)
    for name, weight in weights_of(fused.model_).items():
        if not name.endswith("key.bias"):  # its gradient is a rounding error
            np.testing.assert_allclose(
                weight, weights_of(plain.model_)[name], rtol=0, atol=1e-5, err_msg=name
            )


def test_clipped_step_of_sgd(make_still, texts, labels):
    params = {"batch_size": 100, "max_epochs": 1, "schedule": "constant", "warmup": 0}
    params |= {"weight_decay": 0.0, "lr": 0.1}
    still = make_still(**{**params, "lr": 1e-20}).fit(texts, labels)
    clf = make_still(optimizer=SGD(head_lr=0.1, max_grad_norm=0.125), **params).fit(texts, labels)
    after, before = weights_of(clf.model_), weights_of(still.model_)
    moved = math.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in after))
    assert clf.history_[0]["grad_norm"] > 0.2
    assert moved == pytest.approx(0.1 * 0.125, rel=1e-4)


# -------------------------------------------------------------------- l2 penalty


def test_penalty_is_part_of_the_gradient():
    model = Small()
    optimizer = build_optimizer(model, AdamW(l2=0.3), lr=0.1, head_lr=0.1, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.backbone[1].weight.grad = None
    add_penalty(optimizer)
    assert model.backbone[1].weight.grad is None
    for name, parameter in model.named_parameters():
        if name != "backbone.1.weight":
            penalty = 0.3 * parameter.detach() if parameter.ndim > 1 else 0.0
            np.testing.assert_allclose(parameter.grad, 1 + penalty)


def test_penalty_in_a_fit(make_still, texts, labels):
    one_step = {"batch_size": 100, "max_epochs": 1, "schedule": "constant", "warmup": 0}
    one_step |= {"weight_decay": 0.0, "lr": 1e-3, "head_init": "random", "dtype": "float64"}

    def fit(l2, momentum=0.0, **params):
        spec = SGD(l2=l2, head_lr=1e-3, momentum=momentum, max_grad_norm=None)
        return make_still(**{"optimizer": spec, **one_step, **params}).fit(texts, labels)

    start = make_still(**{**one_step, "lr": 1e-20}).fit(texts, labels)
    plain, penalised, decayed = fit(0.0), fit(0.5), fit(0.0, weight_decay=0.5)
    before, after = weights_of(start.model_), weights_of(plain.model_)
    gradient = {name: (before[name] - after[name]) / 1e-3 for name in before}
    squares = 0.0
    for name, weight in weights_of(penalised.model_).items():
        penalty = 0.5 * before[name] if weight.ndim > 1 else 0.0 * weight
        np.testing.assert_allclose(weight, after[name] - 1e-3 * penalty, atol=1e-8)
        # Under plain SGD it is decay.
        np.testing.assert_allclose(weights_of(decayed.model_)[name], weight, atol=1e-8)
        squares += ((gradient[name] + penalty) ** 2).sum()
    (row,), (unpenalised,) = penalised.history_, plain.history_
    assert row["train_loss"] == pytest.approx(unpenalised["train_loss"])  # the data's
    assert row["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-4)
    assert row["grad_norm"] > 1.1 * unpenalised["grad_norm"]


def test_only_what_is_trained_is_penalised(make_still, texts, labels):
    clf = make_still(finetune="head", optimizer=AdamW(l2=0.5), max_epochs=1).fit(texts, labels)
    start = make_still(lr=1e-20, max_epochs=1, optimizer=AdamW(head_lr=1e-20)).fit(texts, labels)
    for name, weight in weights_of(clf.model_).items():
        moved = np.abs(weight - weights_of(start.model_)[name]).max()
        assert moved < 1e-15 if name.startswith("backbone.") else moved > 1e-4


@pytest.mark.parametrize(
    ("spec", "alone"),
    [
        (AdamW(), True),
        (Adam(amsgrad=True), True),
        (RAdam(), True),
        (SGD(nesterov=True), True),
        (Adagrad(), True),
        (Adafactor(), False),
        (AdamW(l2=0.1), False),
        (SGD(l2=0.1), False),
        (TorchOptimizer("Rprop"), False),
    ],
    ids=str,
)
def test_rows_without_a_gradient(spec, alone):
    """What vocabulary compaction has to know."""
    model = Small()
    optimizer = build_optimizer(model, spec, lr=0.01, head_lr=0.01, weight_decay=0.1)
    assert leaves_unseen_rows_alone(optimizer) == alone


# -------------------------------------------------------------- parameter groups


@pytest.mark.parametrize("spec", [AdamW(layer_decay=0.5), SGD(layer_decay=0.5)], ids=str)
def test_rate_of_each_layer(make_still, texts, labels, spec):
    clf = make_still(
        optimizer=spec, lr=0.08, max_epochs=1, schedule="constant", warmup=0, weight_decay=0.2
    ).fit(texts, labels)
    model = clf.model_
    rates = {p: 0.8 for p in model.parameters()}  # pooling and head
    rates |= {p: 0.08 for p in model.backbone.parameters()}
    found = parts(model.backbone)
    rates |= {p: 0.01 for p in found.below.values()}
    for block, rate in zip(found.blocks, (0.02, 0.04, 0.08), strict=True):
        rates |= {p: rate for p in block.parameters()}
    groups = clf.net_.optimizer_.param_groups
    assert len(groups) == 2 * 5
    assert sum(len(group["params"]) for group in groups) == len(rates)
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(rates[parameter])
            decay = group["weight_decay"] + group["decoupled_decay"]
            assert decay == (0.2 if parameter.ndim > 1 else 0.0)
    assert {row["lr"] for row in clf.history_} == {clf.lr_} == {0.08}


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_every_family(name):
    family = FAMILIES[name]
    model = nn.Module()
    model.backbone = AutoModel.from_config(family.config(400))
    model.head = nn.Linear(4, 3)
    spec = AdamW(layer_decay=0.5)
    optimizer = build_optimizer(model, spec, lr=0.8, head_lr=3.0, weight_decay=0.1)
    groups = optimizer.param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == set(model.parameters())
    n_blocks = len(parts(model.backbone).blocks)
    expected = [*(0.8 * 0.5**depth for depth in range(n_blocks, -1, -1)), 3.0]
    assert sorted(set(rates.values())) == pytest.approx(expected)
    assert rates[model.backbone.get_input_embeddings().weight] == 0.8 * 0.5**n_blocks
    assert groups[0]["lr"] == 0.8


@pytest.mark.parametrize("averaging", ["ema", "swa"])
@pytest.mark.parametrize("finetune", ["head", 1, GradualUnfreezing(), LoRA(r=2), BitFit()], ids=str)
def test_with_every_strategy(make_clf, texts, labels, finetune, averaging):
    if isinstance(finetune, LoRA):
        pytest.importorskip("peft")
    spec = SGD(averaging=averaging, layer_decay=0.5, l2=1e-3)
    clf = make_clf(
        finetune=finetune, optimizer=spec, max_epochs=4, early_stopping=True, n_iter_no_change=9
    )
    clf.fit(texts, labels)
    trained = {p for group in clf.net_.optimizer_.param_groups for p in group["params"]}
    # The last of the four epochs of gradual unfreezing has reached the embeddings.
    assert sum(p.numel() for p in trained) == clf.n_trained_parameters_
    assert np.isfinite(clf.predict_proba(texts)).all()
    assert clf.lr_ == 1e-3
    curve = clf.find_lr(texts, labels, n_steps=4)
    assert np.isfinite(curve.losses).all()


def test_layer_decay_moves_lower_layers_less(make_still, texts, labels):
    """The update of plain SGD is the rate times the gradient."""
    params = {"batch_size": 100, "max_epochs": 1, "schedule": "constant", "warmup": 0}
    params |= {"weight_decay": 0.0, "lr": 1e-2, "dtype": "float64"}

    def fit(lr=1e-2, **options):
        spec = SGD(momentum=0.0, max_grad_norm=None, **options)
        clf = make_still(**{**params, "lr": lr, "optimizer": spec}).fit(texts, labels)
        return weights_of(clf.model_)

    start, even, uneven = fit(lr=1e-20), fit(), fit(layer_decay=0.1)
    for name in start:
        full, less = even[name] - start[name], uneven[name] - start[name]
        depth = [part in name for part in ("layer.2.", "layer.1.", "layer.0.", ".embeddings.")]
        factor = 0.1 ** depth.index(True) if True in depth else 1.0
        np.testing.assert_allclose(less, factor * full, atol=1e-12, err_msg=name)


def test_what_thaws_later_is_in_a_group():
    model = Small()
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    model.backbone[1].weight._thaws_later = True
    optimizer = build_optimizer(model, SGD(), lr=0.1, head_lr=0.2, weight_decay=0.3)
    groups = optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [1, 1, 1]
    assert groups[0]["params"][0] is model.backbone[1].weight
    frozen = model.backbone[1].weight.detach().clone()
    for parameter in model.head.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(model.backbone[1].weight, frozen)
    model.backbone[1].weight.requires_grad = True
    model.backbone[1].weight.grad = torch.zeros(4, 4, dtype=torch.float64)
    optimizer.step()
    np.testing.assert_allclose(model.backbone[1].weight.detach(), frozen * (1 - 0.1 * 0.3))


# ------------------------------------------------------------------ through fit


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [
        ("adam", 1e-2),
        ("radam", 1e-1),
        ("sgd", 1e-1),
        ("adagrad", 1e-2),
        ("adafactor", 1e-1),
        (TorchOptimizer(), 1e-2),
        (TorchOptimizer("RMSprop", {"momentum": 0.5}), 1e-3),
        (SGD(nesterov=True, averaging=EMA()), 1e-1),
        (Adam(amsgrad=True, averaging=SWA(), layer_decay=0.9, l2=1e-4), 1e-2),
    ],
    ids=str,
)
def test_every_optimizer_learns(make_clf, texts, labels, optimizer, lr):
    clf = make_clf(optimizer=optimizer, lr=lr, max_epochs=8, random_state=3)
    clf.fit(texts, labels)
    assert clf.score(texts, labels) > 0.9
    again = clone(clf).fit(texts, labels)
    np.testing.assert_array_equal(again.predict_proba(texts), clf.predict_proba(texts))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("spec", [SGD(), RAdam(), Adagrad(averaging="ema", l2=1e-3)], ids=str)
def test_lower_precision(make_clf, texts, labels, spec, precision):
    clf = make_clf(optimizer=spec, precision=precision).fit(texts, labels)
    assert np.isfinite(clf.predict_proba(texts)).all()
    assert clf.history_[1]["train_loss"] < clf.history_[0]["train_loss"] + 0.2


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (TorchOptimizer("Foo"), ValueError, r"'Foo'.*Take one of .*AdamW.*NAdam"),
        (TorchOptimizer("LBFGS"), ValueError, "'LBFGS'.*closure"),
        (TorchOptimizer(torch.optim.LBFGS), ValueError, "'LBFGS'.*closure"),
        (TorchOptimizer("SparseAdam"), ValueError, "sparse gradients"),
        (TorchOptimizer("Optimizer"), ValueError, "'Optimizer'"),
        (TorchOptimizer("lr_scheduler"), ValueError, "'lr_scheduler'"),
        (TorchOptimizer(3), TypeError, "neither a name nor"),
        (TorchOptimizer(nn.Linear), TypeError, "neither a name nor"),
        (TorchOptimizer("SGD", {"momentun": 0.9}), TypeError, r"'momentun'.*momentum"),
        (TorchOptimizer("SGD", {"lr": 0.9}), ValueError, "'lr'.*which the estimator sets"),
        (TorchOptimizer("SGD", {"weight_decay": 0.9}), ValueError, "which the estimator sets"),
        (TorchOptimizer("SGD", [1]), ValueError, "'options' parameter"),
        (SGD(momentum=1.0), ValueError, "'momentum' parameter"),
        (SGD(momentum=0.0, nesterov=True), ValueError, "needs a momentum"),
        (Adafactor(clip=0.5), ValueError, "'clip' parameter"),
        (Adagrad(l2=-1), ValueError, "'l2' parameter"),
        (RAdam(betas=(1, 2)), ValueError, "'betas' parameter"),
        (AdamW(layer_decay=0.0), ValueError, "'layer_decay' parameter"),
        (AdamW(averaging="mean"), ValueError, "'averaging' parameter"),
        (AdamW(averaging=EMA(decay=1.0)), ValueError, "'decay' parameter"),
    ],
    ids=str,
)
def test_bad_optimizers(make_clf, texts, labels, spec, error, message):
    clf = make_clf(optimizer=spec, backbone="no/such-backbone")  # found before anything is loaded
    with pytest.raises(error, match=message):
        clf.fit(texts, labels)


class Custom(torch.optim.SGD):
    """A class of the user's."""

    def __init__(self, params, lr, **kwargs):
        super().__init__(params, lr, **kwargs)


def test_class_of_the_users_own(make_clf, texts, labels):
    spec = TorchOptimizer(Custom, {"momentum": 0.9})
    expected = make_clf(optimizer="sgd").fit(texts, labels).predict_proba(texts)
    clf = make_clf(optimizer=spec).fit(texts, labels)
    assert type(clf.net_.optimizer_) is Custom
    np.testing.assert_allclose(clf.predict_proba(texts), expected, atol=1e-5)


@pytest.mark.parametrize("cls", [*OPTIMIZERS.values(), TorchOptimizer])
def test_every_parameter_is_documented(cls):
    doc = inspect.getdoc(cls)
    assert "{shared}" not in doc
    for name in inspect.signature(cls).parameters:
        assert f"\n{name} : " in doc


@pytest.mark.parametrize("name", ["adagrad", "radam", "sgd"])
def test_blocks_may_join_later(make_clf, texts, labels, name):
    clf = make_clf(optimizer=name, finetune=GradualUnfreezing(), max_epochs=4)
    before = make_clf(optimizer=name, finetune=GradualUnfreezing(), max_epochs=1)
    lowest = [
        estimator.fit(texts, labels).model_.backbone.get_input_embeddings().weight
        for estimator in (clf, before)
    ]
    assert not torch.equal(*lowest)  # the embeddings come last
