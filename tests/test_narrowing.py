"""What nobody reads is not computed: tokens in the last block, gradients of frozen parts."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import LEARNS, NO_DROPOUT, make_texts, save_tiny_bert
from families import FAMILIES
from torch import nn
from transformers import AutoModel

from sktransformers import (
    Backbone,
    Linear,
    LoRA,
    PairClassifier,
    TransformerSequenceClassifier,
)
from sktransformers.modules import narrowing
from sktransformers.modules.backbone import parts, token_vectors
from sktransformers.modules.narrowing import narrow, only_read_by
from sktransformers.modules.pooling import POOLINGS, Pooling
from sktransformers.training.net import FineTuningNet

TEXTS, LABELS = make_texts(24)


def backbone_of(name, **options):
    config = FAMILIES[name].config(50)
    for option, value in options.items():
        setattr(config, option, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float64).eval()


def some_inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (4, 9), generator=generator)
    lengths = torch.tensor([[9], [1], [4], [8]])
    return {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths).long()}


def hooked(model):
    return [
        name
        for name, module in model.named_modules()
        if narrowing._cut in module._forward_pre_hooks.values()
    ]


def pooled(backbone, pooling, inputs, narrowed=True):
    if not narrowed:
        return pooling(token_vectors(backbone, **inputs), inputs["attention_mask"])
    with only_read_by(pooling, inputs["attention_mask"]):
        return pooling(token_vectors(backbone, **inputs), inputs["attention_mask"])


# --------------------------------------------------------------------- families


@pytest.mark.parametrize("mode", ["cls", "last"])
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"albert"}))
def test_vectors_and_gradients_are_the_same(name, mode):
    backbone, pooling, inputs = backbone_of(name), Pooling(mode, 32), some_inputs()
    assert narrow(backbone, pooling)
    lengths = []  # of what the linear layers of the last block multiply
    layers = [m for m in parts(backbone).blocks[-1].modules() if hasattr(m, "weight")]
    for layer in layers:
        layer.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[-2]))

    def results(narrowed):
        lengths.clear()
        vectors = pooled(backbone, pooling, inputs, narrowed)
        above = torch.linspace(-1, 1, vectors.numel(), dtype=torch.float64).view_as(vectors)
        backbone.zero_grad()
        (vectors * above).sum().backward()
        grads = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
        return vectors.detach(), grads, lengths.count(9)

    vectors, grads, n_long = results(True)
    expected, expected_grads, n_all = results(False)
    torch.testing.assert_close(vectors, expected, rtol=1e-9, atol=1e-11)
    assert n_long <= n_all - 3  # the feed-forward part and what leads out of the attention
    for key, grad in expected_grads.items():
        found = grads.get(key, torch.zeros_like(grad))
        torch.testing.assert_close(found, grad, rtol=1e-9, atol=1e-10)


def test_a_block_that_serves_several_layers_is_left_alone():
    backbone = backbone_of("albert")
    assert not narrow(backbone, Pooling("cls", 32))
    assert hooked(backbone) == []


@pytest.mark.parametrize("mode", sorted(set(POOLINGS) - {"cls", "last"}))
def test_pooling_that_reads_all(mode):
    backbone = backbone_of("bert")
    assert not narrow(backbone, Pooling(mode, 32))
    assert hooked(backbone) == []


def test_half_precision_is_left_alone():
    backbone = backbone_of("bert").bfloat16()
    assert not narrow(backbone, Pooling("cls", 32))
    assert hooked(backbone) == []


@pytest.mark.parametrize(
    ("options", "is_narrowed"),
    [({"vocab_size": 7, "pad_token_id": 0}, True), ({"max_position_embeddings": 4}, False)],
    ids=["tokens", "positions"],
)
def test_a_backbone_that_knows_few(options, is_narrowed):
    backbone = backbone_of("bert", **options)
    assert narrow(backbone, Pooling("cls", 32)) == is_narrowed
    assert bool(hooked(backbone)) == is_narrowed


class Mixing(nn.Module):
    """A feed-forward layer that also looks at the other tokens, as a convolution does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        return self.inner(hidden + hidden.mean(dim=1, keepdim=True))


def test_a_block_that_mixes_tokens_behind_attention():
    backbone, pooling, inputs = backbone_of("bert"), Pooling("cls", 32), some_inputs()
    block = backbone.encoder.layer[-1]
    block.intermediate = Mixing(block.intermediate)
    expected = pooled(backbone, pooling, inputs, False)
    narrow(backbone, pooling)
    assert not any("attention" in name for name in hooked(backbone))
    torch.testing.assert_close(pooled(backbone, pooling, inputs), expected)


def test_what_comes_behind_the_last_block_mixes_tokens():
    backbone = backbone_of("modernbert")
    backbone.final_norm = Mixing(backbone.final_norm)
    assert not narrow(backbone, Pooling("cls", 32))
    assert hooked(backbone) == []


def test_outside_of_the_context_all_is_computed():
    backbone, inputs = backbone_of("bert"), some_inputs()
    expected = backbone(**inputs, output_hidden_states=True).hidden_states
    assert narrow(backbone, Pooling("cls", 32))
    found = backbone(**inputs, output_hidden_states=True).hidden_states
    assert all(map(torch.equal, found, expected))


def test_modes_and_weights_are_left_as_they_were():
    backbone = backbone_of("bert").train()
    backbone.encoder.layer[0].requires_grad_(False)
    before = copy.deepcopy(backbone.state_dict())
    frozen = [p.requires_grad for p in backbone.parameters()]
    state = torch.get_rng_state()
    assert narrow(backbone, Pooling("cls", 32))
    assert backbone.training and all(p.grad is None for p in backbone.parameters())
    assert [p.requires_grad for p in backbone.parameters()] == frozen
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


# ------------------------------------------------------------------- estimators


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Directory of a tiny BERT of three blocks without dropout."""
    directory = tmp_path_factory.mktemp("still")
    return save_tiny_bert(directory, num_hidden_layers=3, **NO_DROPOUT)


@pytest.fixture(scope="module")
def fit_both(still):
    """A function that fits with the option on and off."""

    def fit(estimator=TransformerSequenceClassifier, X=TEXTS, y=LABELS, options=(), **params):
        defaults = {"max_epochs": 2, "batch_size": 8, "device": "cpu", "random_state": 0}
        fitted = [
            estimator(
                Backbone(still, dtype="float64", skip_unread=on, **dict(options)),
                head=Linear(dropout=0.0),
                **{**defaults, "lr": 1e-3, "pooling": "cls", **params},
            ).fit(X, y)
            for on in (True, False)
        ]
        assert hooked(fitted[0].model_) and not hooked(fitted[1].model_)
        return fitted

    return fit


LONG = [" ".join(TEXTS[i : i + 4]) for i in range(16)]
SETTINGS = {
    "cls": {},
    "last": {"pooling": "last"},
    "random_head": {"head_init": "random"},
    "top": {"finetune": 1},
    "frozen": {"finetune": "head"},
    "lora": {"finetune": LoRA(dropout=0.0)},
    "groups": {"max_batch_tokens": 25},
    "checkpointing": {"options": {"gradient_checkpointing": True}.items()},
    "windows": {"X": LONG, "y": LABELS[:16], "long_text": "window", "max_length": 12},
    "pieces": {
        "X": LONG,
        "y": LABELS[:16],
        "long_text": "window",
        "max_length": 12,
        "max_batch_tokens": 24,
    },
    "pairs": {
        "estimator": PairClassifier,
        "X": list(zip(TEXTS, reversed(TEXTS), strict=True)),
        "interaction": "all",
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_the_same(name, fit_both):
    on, off = fit_both(**SETTINGS[name])
    before = on.model_.state_dict()
    for key, weight in off.model_.state_dict().items():
        torch.testing.assert_close(before[key], weight, rtol=0, atol=1e-6)
    X = SETTINGS[name].get("X", TEXTS)
    np.testing.assert_allclose(on.predict_proba(X), off.predict_proba(X), rtol=0, atol=1e-6)


def test_training_computes_less(fit_both, monkeypatch):
    calls, original = [], narrowing._Read.of

    def counted(self, x):
        found = original(self, x)
        if found is not x:
            calls.append(torch.is_grad_enabled())
        return found

    monkeypatch.setattr(narrowing._Read, "of", counted)
    on, off = fit_both(max_epochs=1)
    assert sum(calls) >= 3  # in training too
    calls.clear()
    off.predict(TEXTS)
    assert not calls
    on.predict(TEXTS)
    assert calls


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_other_pooling_gets_no_hooks(make_clf, pooling):
    clf = make_clf(pooling=pooling, max_epochs=1).fit(TEXTS, LABELS)
    assert hooked(clf.model_) == []


def test_copies_and_pickles(make_clf):
    clf = make_clf(pooling="cls", **LEARNS).fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    for other in (copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
        assert hooked(other.model_) == hooked(clf.model_) != []
        np.testing.assert_allclose(other.predict_proba(TEXTS), expected, rtol=0, atol=1e-6)


def test_a_loaded_model_is_left_alone(tiny_backbone, make_clf):
    model = AutoModel.from_pretrained(tiny_backbone)
    clf = make_clf(backbone=Backbone(model, tokenizer=tiny_backbone), pooling="cls", max_epochs=1)
    clf.fit(TEXTS, LABELS)
    assert hooked(clf.model_)
    assert hooked(model) == []


@pytest.mark.parametrize(("pooling", "on"), [("cls", False), ("mean", True), ("last", True)])
def test_a_loaded_model_that_was_narrowed_for_another(tiny_backbone, make_clf, pooling, on):
    first = make_clf(pooling="cls", max_epochs=1).fit(TEXTS, LABELS)
    hooks = hooked(first.model_)
    assert hooks
    backbone = Backbone(first.model_.backbone, tokenizer=tiny_backbone, skip_unread=on)
    clf = make_clf(backbone=backbone, pooling=pooling, max_epochs=1).fit(TEXTS, LABELS)
    counts = [len(m._forward_pre_hooks) for m in clf.model_.modules() if m._forward_pre_hooks]
    assert counts == [1] * (pooling == "last") * len(hooks)
    assert hooked(first.model_) == hooks


def test_threads(make_clf):
    clf = make_clf(pooling="last", **LEARNS).fit(TEXTS, LABELS)
    jobs = [make_texts(20, seed=seed)[0][: 3 + seed] for seed in range(12)]
    expected = [clf.predict_proba(X) for X in jobs]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(clf.predict_proba, jobs * 4), expected * 4, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "dtype", "is_said"),
    [("cls", "bfloat16", True), ("cls", "float32", False), ("mean", "bfloat16", False)],
)
def test_it_is_said_where_it_cannot_be(tiny_backbone, make_clf, capsys, pooling, dtype, is_said):
    backbone = Backbone(tiny_backbone, dtype=dtype)
    make_clf(backbone=backbone, pooling=pooling, max_epochs=1, verbose=1).fit(TEXTS, LABELS)
    assert ("last block" in capsys.readouterr().out) == is_said


# ----------------------------------------------------------------- frozen parts


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gradients_of_frozen_parts_are_not_computed(still, pooling, monkeypatch):
    needs, step, clip = [], FineTuningNet.train_step, FineTuningNet._clip

    def note(block, given, out):
        out = out if isinstance(out, torch.Tensor) else out[0]
        needs.append((given[0].requires_grad, out.requires_grad))

    def watched(self, *args, **kwargs):
        hook = self.module_.backbone.encoder.layer[-1].register_forward_hook(note)
        found = step(self, *args, **kwargs)
        hook.remove()
        return found

    def checked(self):
        model = self.module_
        trained = {*model.backbone.encoder.layer[-1].parameters(), *model.head.parameters()}
        for name, p in model.named_parameters():
            assert (p.grad is not None) == (p in trained), name
        return clip(self)

    monkeypatch.setattr(FineTuningNet, "train_step", watched)
    monkeypatch.setattr(FineTuningNet, "_clip", checked)
    params = {"finetune": 1, "max_epochs": 1, "device": "cpu", "random_state": 0}
    TransformerSequenceClassifier(still, pooling=pooling, **params).fit(TEXTS, LABELS)
    assert set(needs) == {(False, True)}  # below the last block there is no graph
