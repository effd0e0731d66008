"""What differs from a pretrained backbone, adapters, the optimizer's state, in a directory."""

import copy
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors
import safetensors.torch
import tiny_estimators as tiny
import torch
from conftest import save_backbone, save_tiny_bert
from families import FAMILIES
from huggingface_hub import constants
from numpy.testing import assert_array_equal
from tiny_estimators import KINDS, LABELS, TEXTS
from transformers import AutoModel, AutoModelForSequenceClassification

import sktransformers
from sktransformers import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Backbone,
    LoRA,
    RAdam,
    SavedModelError,
    TorchOptimizer,
    load,
)
from sktransformers.training import store
from sktransformers.training.strategies import lora_layers

# With adapters of each way to be a model: ours, the family's, a language model.
ADAPTED = ["classifier", "native", "tagger", "bi-encoder", "tasks", "generator", "answers"]
ADAPTED += ["adapter"]


def state_of(est):
    return est.model_.state_dict()


def assert_same(one, other):
    first, second = state_of(one), state_of(other)
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


def tensors_in(path):
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def bytes_of(tensors):
    return sum(tensor.nbytes for tensor in tensors.values())


def about(folder):
    return json.loads((folder / "sktransformers.json").read_text("utf-8"))


def go_on(est, kind):
    X, y = KINDS[kind].X, KINDS[kind].y
    some = slice(0, 12)
    return est.partial_fit(X[some], y[some])


# ------------------------------------------------------------------------------- delta


@pytest.mark.parametrize("kind", KINDS)
def test_what_differs_is_enough(kind, tmp_path):
    est = tiny.fitted(kind)
    est.save_pretrained(tmp_path / "saved", weights="delta")
    loaded = load(tmp_path / "saved")
    assert_same(loaded, est)
    assert_array_equal(tiny.outputs(loaded, kind), tiny.outputs(est, kind))
    assert about(tmp_path / "saved")["weights"]["kind"] == "delta"
    assert not (tmp_path / "saved" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("finetune", "behind"),
    [("head", ("head.",)), (1, ("head.", "backbone.encoder.layer.1."))],
    ids=["head", "top"],
)
def test_what_is_frozen_is_left_out(finetune, behind, tmp_path):
    clf = tiny.fit("classifier", finetune=finetune)
    clf.save_pretrained(tmp_path / "saved", weights="delta")
    names = set(tensors_in(tmp_path / "saved" / "delta.safetensors"))
    assert (
        {name for name in state_of(clf) if name.startswith(behind)}
        >= names
        >= {
            "head.out.weight",
            "head.out.bias",
        }
    )
    assert all(name.startswith(behind) for name in names)
    assert_same(load(tmp_path / "saved"), clf)
    # What is kept of the optimizer is of the same order.
    kept = bytes_of(tensors_in(tmp_path / "saved" / "optimizer.safetensors"))
    assert kept <= 2 * bytes_of(tensors_in(tmp_path / "saved" / "delta.safetensors"))


@pytest.fixture
def headed(tmp_path):
    """A classifier whose head alone was trained, on a backbone of its own, and its directory."""
    backbone = save_tiny_bert(tmp_path / "bert", num_hidden_layers=1)
    clf = tiny.fit("classifier", backbone=backbone, finetune="head")
    clf.save_pretrained(tmp_path / "saved", weights="delta")
    return clf, tmp_path / "saved", Path(backbone)


def test_a_backbone_that_moved(headed, tmp_path):
    clf, saved, backbone = headed
    shutil.move(backbone, tmp_path / "elsewhere")
    with pytest.raises(SavedModelError, match=rf"{backbone}.*does not exist.*load\(path, backbone"):
        load(saved)
    for found in (tmp_path / "elsewhere", Backbone(str(tmp_path / "elsewhere"))):
        loaded = load(saved, backbone=found)
        assert_same(loaded, clf)
        assert loaded.backbone is found
    model = AutoModel.from_pretrained(tmp_path / "elsewhere")
    assert_same(load(saved, backbone=Backbone(model, tokenizer=clf.tokenizer_)), clf)


def test_a_backbone_that_changed(headed):
    _, saved, backbone = headed
    path = backbone / "model.safetensors"
    tensors = tensors_in(path)
    name = next(name for name in tensors if name.endswith("output.dense.weight"))
    tensors[name][0, 0] += 1e-6
    path.unlink()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(SavedModelError, match=rf"not the one in '{backbone}': its weights"):
        load(saved)


@pytest.mark.parametrize("file", ["delta.safetensors", "config.json", "optimizer.safetensors"])
def test_files_that_are_damaged_or_missing(file, headed):
    _, saved, _ = headed
    path = saved / file
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"12345678" if file != "config.json" else content[:20])
    with pytest.raises(SavedModelError, match=file):
        load(saved)
    path.unlink()
    with pytest.raises(SavedModelError, match=file):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"kind": None},
        {"backbone": "name"},
        {"digest": 1},
        {"tied": 3},
        {"optimizer": [1]},
    ],
    ids=str,
)
def test_entries_that_make_no_sense(change, headed):
    _, saved, _ = headed
    entries = about(saved)
    entries["weights"] |= change
    (saved / "sktransformers.json").write_text(json.dumps(entries))
    with pytest.raises(SavedModelError):
        load(saved)


def test_states_that_make_no_sense(headed):
    _, saved, _ = headed
    path = saved / "optimizer.safetensors"
    tensors, known = store.load(path)
    name = next(name for name in tensors if ".rows/" in name)
    other = name.replace(".rows/", ".columns/")
    for bad, about_it in (
        ({**tensors, name: torch.zeros(10**3, 1)}, known),
        ({n: tensor for n, tensor in tensors.items() if n != other}, known),
        (tensors, {}),
        (tensors, [1]),
        (tensors, {**known, "shapes": {}}),
        (tensors, {**known, "shapes": 3}),
        (tensors, {**known, "numbers": {"head.out.weight": 3}}),
        ({**tensors, "ids": torch.zeros(3)}, known),
    ):
        store.write(path, bad, about_it)
        with pytest.raises(SavedModelError, match=r"optimizer\.safetensors"):
            load(saved)


def test_tensors_of_another_model(headed):
    _, saved, _ = headed
    path = saved / "delta.safetensors"
    tensors, _ = store.load(path)
    for bad in (
        {**tensors, "head.out.weight": torch.zeros(7, 7)},
        {"head.out.weight": tensors["head.out.weight"]},
        {**tensors, "other": torch.zeros(1)},
    ):
        store.write(path, bad, {})
        with pytest.raises(SavedModelError, match=r"delta\.safetensors' does not fit"):
            load(saved)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A backbone that the hub's local cache knows by an id."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny.backbone(), folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return folder


@pytest.mark.parametrize("backbone", ["org/tiny", Backbone("org/tiny", revision="main")], ids=str)
def test_the_revision_is_written_down(backbone, cached, tmp_path):
    clf = tiny.fit("classifier", backbone=backbone, finetune="head")
    clf.save_pretrained(tmp_path / "saved", weights="delta")
    assert about(tmp_path / "saved")["weights"]["backbone"] == {
        "name": "org/tiny",
        "revision": "a" * 40,
    }
    # Later the main branch is another one.
    later = cached / "snapshots" / ("b" * 40)
    save_tiny_bert(later, initializer_range=0.1)
    (cached / "refs" / "main").write_text("b" * 40)
    assert huggingface_hub.try_to_load_from_cache("org/tiny", "config.json").startswith(str(later))
    loaded = load(tmp_path / "saved")
    assert_same(loaded, clf)
    assert str(loaded.backbone) == str(backbone)


@pytest.mark.parametrize(
    ("backbone", "drop", "message"),
    [
        ("loaded", [], "the loaded BertModel, which has no name"),
        ("random", [], "pretrained=False"),
        (None, ["backbone"], "backbone is left out"),
        ("other", [], "not built from"),
    ],
    ids=["loaded", "random", "dropped", "another"],
)
def test_backbones_that_nobody_could_load(backbone, drop, message, tmp_path):
    clf = sktransformers.TransformerSequenceClassifier()
    clf.__dict__.update(vars(tiny.fitted("classifier")))
    if backbone == "loaded":
        model = AutoModel.from_pretrained(tiny.backbone())
        clf.set_params(backbone=Backbone(model, tokenizer=clf.tokenizer_))
    elif backbone == "random":
        clf.set_params(backbone=Backbone(tiny.backbone(), pretrained=False))
    elif backbone == "other":
        clf.set_params(backbone=save_tiny_bert(tmp_path / "bert", num_hidden_layers=3))
    with pytest.raises((TypeError, ValueError), match=message if backbone != "loaded" else "backb"):
        clf.save_pretrained(tmp_path / "saved", weights="delta", drop=drop)
    assert not (tmp_path / "saved").exists()


def test_weights_and_formats_that_contradict_each_other(tmp_path):
    with pytest.raises(ValueError, match='weights="delta" and format="transformers"'):
        tiny.fitted("native").save_pretrained(
            tmp_path / "saved", weights="delta", format="transformers"
        )
    assert not (tmp_path / "saved").exists()


# ---------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A function: an estimator of a kind with adapters, and its directory."""
    pytest.importorskip("peft")
    known = {}

    def make(kind):
        if kind not in known:
            est = tiny.fit(kind, finetune=LoRA(r=2, alpha=8, dropout=0.1), lr=1e-2)
            folder = tmp_path_factory.mktemp("adapted") / "saved"
            # The directory of an adapter is a backbone, and so has all weights unless asked.
            est.save_pretrained(folder, weights="delta" if kind == "adapter" else "auto")
            known[kind] = est, folder
        return known[kind]

    return make


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_alone(kind, adapted):
    est, folder = adapted(kind)
    assert about(folder)["weights"]["kind"] == "adapter"
    assert not (folder / "model.safetensors").exists()
    rest = tensors_in(folder / "delta.safetensors")
    layers = lora_layers(est.model_.backbone)
    assert not any(f"{name}.weight" in key for name in layers for key in rest)
    loaded = load(folder)
    assert_same(loaded, est)
    assert_array_equal(tiny.outputs(loaded, kind), tiny.outputs(est, kind))
    for name, layer in lora_layers(loaded.model_.backbone).items():
        assert layer.merged
        assert layer.lora_dropout["default"].p == layers[name].lora_dropout["default"].p == 0.1
    flags = {name: p.requires_grad for name, p in est.model_.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in loaded.model_.named_parameters()}


@pytest.mark.parametrize("kind", ["classifier", "native", "generator", "answers"])
def test_adapters_go_on(kind, adapted, tmp_path):
    est, folder = adapted(kind)
    loaded, est = load(folder), copy.deepcopy(est)
    for each in (loaded, est):
        go_on(each, kind)
    assert_same(loaded, est)
    assert len(lora_layers(loaded.model_.backbone)) == len(lora_layers(est.model_.backbone)) > 0
    # They were taken off and put on again, which leaves some rounding.
    est.save_pretrained(tmp_path / "saved")
    assert about(tmp_path / "saved")["weights"]["kind"] == "adapter"
    again = load(tmp_path / "saved")
    for name, tensor in state_of(est).items():
        torch.testing.assert_close(state_of(again)[name], tensor, rtol=1e-5, atol=1e-6)


def test_adapters_behind_a_narrowed_block_go_on(tmp_path):
    pytest.importorskip("peft")
    tokenizer = FAMILIES["gpt2"].tokenizer()
    config = FAMILIES["gpt2"].config(len(tokenizer))
    backbone = save_backbone(tmp_path / "gpt2", config, tokenizer)
    est = tiny.make("classifier", backbone=backbone, finetune=LoRA(r=2)).fit(TEXTS, LABELS)
    est.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    for each in (est, loaded):
        each.partial_fit(TEXTS, LABELS)  # dropout draws for as many tokens
    assert_same(loaded, est)


def test_a_second_save_writes_the_same_bytes(adapted, tmp_path):
    est, folder = adapted("classifier")
    est.save_pretrained(tmp_path / "saved")
    for path in folder.iterdir():
        assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("kind", ["classifier", "tagger"])
def test_peft_reads_adapters(kind, adapted):
    peft = pytest.importorskip("peft")
    est, folder = adapted(kind)
    plain = AutoModel.from_pretrained(tiny.backbone()).eval()
    model = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    with torch.no_grad():
        found = model(input_ids=ids).last_hidden_state
        expected = est.model_.backbone(input_ids=ids).last_hidden_state
        unadapted = AutoModel.from_pretrained(tiny.backbone()).eval()(input_ids=ids)
    assert (found - expected).abs().max() < 1e-5
    assert (unadapted.last_hidden_state - expected).abs().max() > 1e-3


def test_nobody_loads_half_a_model(adapted):
    _, folder = adapted("classifier")
    with pytest.raises((OSError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("weights", ["full", "delta"])
def test_adapters_otherwise(weights, adapted, tmp_path):
    est, adapter = adapted("classifier")
    est.save_pretrained(tmp_path / "saved", weights=weights)
    loaded = load(tmp_path / "saved")
    assert_array_equal(tiny.outputs(loaded, "classifier"), tiny.outputs(est, "classifier"))
    if weights == "full":
        assert not lora_layers(loaded.model_)
        assert set(state_of(loaded)) == set(state_of(tiny.fitted("classifier")))
    else:
        assert about(tmp_path / "saved")["weights"] == about(adapter)["weights"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_on_weights_that_were_trained(dtype, tmp_path, capsys):
    """After full fine-tuning the backbone and the adapters are not all there is."""
    pytest.importorskip("peft")
    backbone = Backbone(tiny.backbone(), dtype=dtype)
    clf = tiny.fit("classifier", backbone=backbone, warm_start=True, verbose=0, lr=1e-2)
    clf.set_params(finetune=LoRA(r=2), lr=1e-2).fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    for weights, kind in (("auto", "full"), ("delta", "delta")):
        clf.set_params(verbose=1)
        capsys.readouterr()
        clf.save_pretrained(tmp_path / weights, weights=weights)
        assert "saved merged" in capsys.readouterr().out
        assert about(tmp_path / weights)["weights"]["kind"] == kind
        assert_array_equal(load(tmp_path / weights).predict_proba(TEXTS), expected)


def test_adapters_in_half_precision(tmp_path):
    """They stand alone as long as nothing was rounded away by taking them off."""
    pytest.importorskip("peft")
    clf = tiny.fit(
        "classifier",
        backbone=Backbone(tiny.backbone(), dtype="bfloat16"),
        finetune=LoRA(r=2),
        lr=1e-2,
    )
    for kind in ("adapter", "full"):
        clf.save_pretrained(tmp_path / kind)
        assert about(tmp_path / kind)["weights"]["kind"] == kind
        assert_array_equal(load(tmp_path / kind).predict_proba(TEXTS), clf.predict_proba(TEXTS))
        clf.partial_fit(TEXTS, LABELS)


def test_adapters_on_a_loaded_model_are_saved_merged(tmp_path, capsys):
    pytest.importorskip("peft")
    model = AutoModel.from_pretrained(tiny.backbone())
    clf = tiny.fit("classifier", backbone=model, finetune=LoRA(r=2), verbose=0)
    clf.set_params(verbose=1)
    clf.save_pretrained(tmp_path / "saved", drop=["backbone"])
    assert "All weights are saved" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="backbone"):
        loaded = load(tmp_path / "saved")
    assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_damaged_adapters(adapted, tmp_path):
    _, folder = adapted("classifier")
    saved = shutil.copytree(folder, tmp_path / "saved")
    config = json.loads((saved / "adapter_config.json").read_text())
    for change in ({"r": 3}, {"target_modules": ["nonesuch"]}, {"r": "x"}, {"lora_alpha": -1}):
        (saved / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SavedModelError, match="adapter"):
            load(saved)
    os.unlink(saved / "adapter_config.json")
    with pytest.raises(SavedModelError, match=r"adapter_config\.json"):
        load(saved)


# --------------------------------------------------------------- the optimizer's state

OPTIMIZERS = {
    "adamw": AdamW(),
    "amsgrad": Adam(amsgrad=True),
    "radam": RAdam(),
    "sgd": SGD(),
    "adagrad": Adagrad(),
    "adafactor": Adafactor(),
    "nadam": TorchOptimizer("NAdam"),
    "rprop": TorchOptimizer("Rprop"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_partial_fit_after_load(name, tmp_path):
    clf = tiny.fit("classifier", optimizer=OPTIMIZERS[name])
    clf.save_pretrained(tmp_path / "saved")
    loaded, forgetful = load(tmp_path / "saved"), load(tmp_path / "saved")
    for est in (clf, loaded):
        go_on(est, "classifier")
    assert_same(loaded, clf)
    if name != "rprop":  # of which nothing is known but the last gradients
        del forgetful._moments
        forgetful.set_params(warmup=0)
        go_on(forgetful, "classifier")
        assert any(
            not torch.equal(tensor, state_of(clf)[key])
            for key, tensor in state_of(forgetful).items()
        )


@pytest.mark.parametrize("kind", ["pair", "tagger", "tasks", "generator", "answers"])
def test_partial_fit_after_load_of_other_kinds(kind, tmp_path):
    est = copy.deepcopy(tiny.fitted(kind))
    est.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    for each in (est, loaded):
        go_on(each, kind)
    assert_same(loaded, est)
    assert np.all(tiny.outputs(loaded, kind) == tiny.outputs(est, kind))
