"""Gradient checkpointing, compiled blocks and attention kernels: options of training."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, make_texts, save_backbone, save_tiny_bert
from families import FAMILIES
from sklearn.base import clone
from transformers import AutoModel, PreTrainedConfig

from sktransformers import (
    Backbone,
    GradualUnfreezing,
    Linear,
    LoRA,
    MultiTaskSequenceEstimator,
    PairClassifier,
    TokenTagger,
    TransformerSequenceRegressor,
)
from sktransformers.modules.backbone import parts
from sktransformers.modules.narrowing import narrow
from sktransformers.modules.pooling import Pooling
from sktransformers.training import loading, speedups
from sktransformers.training.net import FineTuningNet

TEXTS, LABELS = make_texts(24)
CPU = torch.device("cpu")


def fit(make_clf, path, estimator=None, X=TEXTS, y=LABELS, backbone=None, **params):
    spec = Backbone(path, **(backbone or {}))
    params = {"max_epochs": 1, "backbone": spec, **params}
    if estimator is None:
        return make_clf(**params).fit(X, y)
    defaults = {"lr": 1e-3, "batch_size": 8, "device": "cpu", "random_state": 0}
    return estimator(**{**defaults, **params}).fit(X, y)


def assert_equal_models(found, expected, tolerance=1e-6):
    theirs = expected.model_.state_dict()
    for name, weight in found.model_.state_dict().items():
        difference = (weight.double() - theirs[name].double()).abs().max()
        assert difference <= tolerance, f"{name}: {difference}"


@pytest.fixture
def checkpoints(monkeypatch):
    """How many layers were forgotten."""
    calls, original = [], speedups._checkpoint

    def counted(device, function, *args):
        calls.append(torch.is_grad_enabled())
        return original(device, function, *args)

    monkeypatch.setattr(speedups, "_checkpoint", counted)
    return calls


# ------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "modernbert", "deberta-v3", "gpt2", "llama"]
)
def test_same_weights_with_dropout(family, make_clf, tmp_path, checkpoints):
    tokenizer = FAMILIES[family].tokenizer()
    path = save_backbone(tmp_path, FAMILIES[family].config(len(tokenizer)), tokenizer)
    options = {"dropout": None if family == "llama" else 0.2}
    expected = fit(make_clf, path, backbone=options)
    assert not checkpoints
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit(make_clf, path, backbone={**options, "gradient_checkpointing": True})
    assert len(checkpoints) == 2 * 3  # layers, batches
    assert_equal_models(found, expected)


TAGGED = [text.split() for text in TEXTS]
VARIANTS = {
    "accumulation": {"max_batch_tokens": 40},
    "pieces": {"long_text": "window", "max_length": 5, "max_batch_tokens": 6},
    "head": {"finetune": "head"},
    "top block": {"finetune": 1},
    "gradual": {"finetune": GradualUnfreezing(), "max_epochs": 2},
    "lora": {"finetune": LoRA(r=2)},
    "native": {"head": "native"},
    "validation": {"early_stopping": True, "validation_fraction": 6},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "cls": {"pooling": "cls"},
    "last token": {"pooling": "last"},
    "mean": {"pooling": "mean"},
    "pairs": {
        "estimator": PairClassifier,
        "X": list(zip(TEXTS, TEXTS[::-1])),
        "interaction": "all",
    },
    "tags": {
        "estimator": TokenTagger,
        "X": TAGGED,
        "y": [["X" if len(word) > 4 else "O" for word in words] for words in TAGGED],
    },
    "numbers": {"estimator": TransformerSequenceRegressor, "y": [float(len(x)) for x in TEXTS]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_weights_however_trained(variant, make_clf, tiny_backbone, checkpoints):
    params = VARIANTS[variant]
    expected = fit(make_clf, tiny_backbone, **params)
    found = fit(make_clf, tiny_backbone, backbone={"gradient_checkpointing": True}, **params)
    assert bool(checkpoints) == (variant != "head")
    assert_equal_models(found, expected)


def test_several_tasks(make_clf, tiny_backbone, checkpoints):
    y = np.array([LABELS, [len(x) % 2 for x in TEXTS]], dtype=object).T
    results = [
        MultiTaskSequenceEstimator(
            backbone=Backbone(tiny_backbone, gradient_checkpointing=on),
            max_epochs=1,
            device="cpu",
            random_state=0,
        ).fit(TEXTS, y)
        for on in (True, False)
    ]
    assert checkpoints
    assert_equal_models(*results)


def test_large_vocabulary(make_clf, tmp_path):
    path = save_tiny_bert(tmp_path, vocab_size=5000)
    results = [fit(make_clf, path, backbone={"gradient_checkpointing": on}) for on in (True, False)]
    assert_equal_models(*results)


def saved_bytes(model, spec, inputs):
    """Bytes that a forward pass in training keeps for the gradients, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), x)  # alive, or its place is taken
        return x

    model.train()
    with (
        speedups.prepared_for_training(model, spec),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        model(**inputs).last_hidden_state.sum().backward()
    return sum(size for size, _ in saved.values())


def test_less_memory(tmp_path):
    model = AutoModel.from_pretrained(save_tiny_bert(tmp_path, num_hidden_layers=8))
    ids = torch.arange(4 * 32).view(4, 32)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    without = saved_bytes(model, Backbone(), inputs)
    forgetful = saved_bytes(model, Backbone(gradient_checkpointing=True), inputs)
    assert forgetful < without / 5


# ------------------------------------------------------------------ undone afterwards


def switches(model):
    return [vars(m).get("gradient_checkpointing") for m in model.modules()], [
        name
        for m in model.modules()
        for name in ("_gradient_checkpointing_func", "_compiled_call_impl")
        if vars(m).get(name) is not None
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left(make_clf, tiny_backbone, monkeypatch, checkpoints, fails):
    plain = fit(make_clf, tiny_backbone)
    models, original = [], FineTuningNet.fit

    def watched(self, *args):
        models.append(self.module)
        original(self, *args)
        if fails:
            raise RuntimeError("on purpose")

    monkeypatch.setattr(FineTuningNet, "fit", watched)
    clf = make_clf(backbone=Backbone(tiny_backbone, gradient_checkpointing=True), max_epochs=1)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            clf.fit(TEXTS, LABELS)
    else:
        clf.fit(TEXTS, LABELS)
        assert (
            pickle.loads(pickle.dumps(clf)).predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
        )
        again = clone(clf).set_params(warm_start=True).fit(TEXTS, LABELS)
        again.fit(TEXTS, LABELS)
    (model, *_) = models
    assert switches(model) == switches(plain.model_)
    assert model.config.to_dict() == plain.model_.config.to_dict()
    assert switches(copy.deepcopy(model)) == switches(plain.model_)


def test_a_setting_of_the_user_stays(tiny_backbone, make_clf, checkpoints):
    """A loaded model with checkpointing on is trained with ours, and keeps its own."""
    model = AutoModel.from_pretrained(tiny_backbone)
    for layer in model.modules():
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = True
    clf = fit(make_clf, model)
    assert checkpoints
    assert all(layer.gradient_checkpointing for layer in clf.model_.backbone.encoder.layer)
    with pytest.raises(ValueError, match=r"compile=True.*gradient_checkpointing=True.*contradict"):
        speedups.check_backbone(model, Backbone(compile=True))


@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_family_without_checkpointing(family, make_clf, tmp_path, monkeypatch):
    tokenizer = FAMILIES[family].tokenizer()
    path = save_backbone(tmp_path, FAMILIES[family].config(len(tokenizer)), tokenizer)
    monkeypatch.setattr(FineTuningNet, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"gradient_checkpointing=True\): (MPNet|Albert)Model"):
        fit(make_clf, path, backbone={"gradient_checkpointing": True})


# ------------------------------------------------------------------------- compile


@pytest.fixture
def no_loading(monkeypatch):
    for name in ("load", "load_native"):
        monkeypatch.setattr(loading, name, lambda *_, **__: pytest.fail("a backbone was loaded"))


def test_no_compiler(make_clf, tiny_backbone, monkeypatch, no_loading):
    def compiled(*args, **kwargs):
        raise RuntimeError("no C++ here")

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(speedups, "_try_to_compile", speedups._try_to_compile.__wrapped__)
    with pytest.raises(
        ValueError, match=r"Backbone\(compile=True\): torch.compile .*no C\+\+ here"
    ):
        fit(make_clf, tiny_backbone, backbone={"compile": True})


def test_compiled_and_forgetful(make_clf, tiny_backbone, no_loading):
    options = {"compile": True, "gradient_checkpointing": True}
    with pytest.raises(ValueError, match=r"compile=True.*gradient_checkpointing=True.*contradict"):
        fit(make_clf, tiny_backbone, backbone=options)


def test_no_blocks_to_compile():
    class Flat(torch.nn.Module):
        config = PreTrainedConfig()
        supports_gradient_checkpointing = False

    with pytest.raises(ValueError, match=r"compile=True\): No list of blocks .* Flat"):
        speedups.check_backbone(Flat(), Backbone(compile=True))


def test_compiled(make_clf, tmp_path, monkeypatch):
    try:
        speedups.check_options(Backbone(compile=True), CPU)
    except ValueError as error:
        pytest.skip(str(error))
    path = save_tiny_bert(tmp_path, **NO_DROPOUT)
    params = {"head": Linear(dropout=0), "optimizer": "sgd", "lr": 0.1}
    expected = fit(make_clf, path, **params)
    compiled, original = [], FineTuningNet.train_step

    def watched(self, *args, **kwargs):
        blocks = parts(self.module.backbone).blocks
        compiled.append(all(block._compiled_call_impl is not None for block in blocks))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FineTuningNet, "train_step", watched)
    limit = torch._dynamo.config.cache_size_limit
    clf = fit(make_clf, path, backbone={"compile": True}, **params)
    assert compiled == [True] * 3
    assert torch._dynamo.config.cache_size_limit == limit
    assert_equal_models(clf, expected, 1e-4)
    assert switches(clf.model_) == switches(expected.model_)
    assert pickle.loads(pickle.dumps(clf)).predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()


def test_compiled_dropout_is_torchs(make_clf, tiny_backbone, monkeypatch):
    """The blocks are left as they are here: only who draws the masks is looked at."""
    drawn = []
    monkeypatch.setattr(speedups, "_try_to_compile", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr("sktransformers.training.dropout._drop", lambda *_: drawn.append(1))
    fit(make_clf, tiny_backbone, backbone={"compile": True})
    assert not drawn


# ------------------------------------------------------------------- flash attention


def test_flash_attention_is_passed_on(tiny_backbone, monkeypatch):
    seen = []

    def from_pretrained(name, **kwargs):
        seen.append(kwargs["attn_implementation"])
        raise ImportError("no such package")

    monkeypatch.setattr(loading.AutoModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(loading, "_check_kernel", lambda *_: None)
    spec = Backbone(tiny_backbone, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match=r"attn_implementation='flash_attention_2': no such pack"):
        loading.load(spec, verbose=False)
    assert seen == ["flash_attention_2"]


@pytest.mark.parametrize("kernel", ["flash_attention_2", "nonesuch"])
@pytest.mark.parametrize("keep_weights", [True, False])
def test_kernel_that_is_not_there(kernel, keep_weights, tiny_backbone, monkeypatch):
    """Said before any weights are read, which may be a download."""
    if kernel == "flash_attention_2" and loading.importlib.util.find_spec("flash_attn"):
        pytest.skip("it is there")
    monkeypatch.setattr(loading, "_from_files", lambda *_: pytest.fail("weights were read"))
    spec = Backbone(tiny_backbone, attn_implementation=kernel, keep_weights=keep_weights)
    with pytest.raises(ValueError, match=f"attn_implementation='{kernel}'"):
        loading.load(spec, verbose=False)


def test_flash_attention_wants_a_gpu(make_clf, tiny_backbone, no_loading):
    with pytest.raises(
        ValueError, match=r"attn_implementation='flash_attention_2'.*device is 'cpu'"
    ):
        fit(make_clf, tiny_backbone, backbone={"attn_implementation": "flash_attention_2"})


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_trials_need_no_gpu(family):
    """A backbone for flash attention is looked at before it is on its device."""
    backbone = AutoModel.from_config(FAMILIES[family].config(100))
    expected = [len(x) for x in parts(backbone)]
    backbone.config._attn_implementation = "flash_attention_2"
    assert [len(x) for x in parts(backbone)] == expected
    assert narrow(backbone, Pooling("last", 32))
    assert backbone.config._attn_implementation == "flash_attention_2"


def test_same_results_with_every_kernel(make_clf, tiny_backbone):
    results = [
        fit(
            make_clf,
            tiny_backbone,
            backbone={"attn_implementation": kernel, "dropout": 0.0},
            optimizer="sgd",
        )
        for kernel in (None, "sdpa", "eager")
    ]
    for found in results[1:]:
        assert_equal_models(found, results[0], 1e-5)
