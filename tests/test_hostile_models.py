"""Directories that somebody wrote to do harm: an error that names the file, and nothing is run."""

import json
import os
import pickle
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

import sktransformers
from sktransformers import LoRA, SavedModelError, TransformerSequenceClassifier

ABOUT, CONFIG, WEIGHTS = "sktransformers.json", "config.json", "model.safetensors"
TOKENIZER, WORDS = "tokenizer_config.json", "tokenizer.json"
SECONDS, BYTES = 2, 200 * 2**20  # of the CPU, however busy it is with others


@pytest.fixture(scope="module")
def saved(make_clf, texts, labels, tmp_path_factory):
    """Directories of saved models, not to be changed."""
    home = tmp_path_factory.mktemp("saved")
    clf = make_clf(max_epochs=1).fit(texts, labels)
    clf.save_pretrained(home / "sktransformers")
    clf.save_pretrained(home / "delta", weights="delta")
    clf = make_clf(max_epochs=1, head="native", head_init="random").fit(texts, labels)
    clf.save_pretrained(home / "transformers")
    clf = make_clf(max_epochs=1, finetune=LoRA(r=2)).fit(texts, labels)
    clf.save_pretrained(home / "adapter")
    return home


@pytest.fixture(params=["sktransformers", "transformers"])
def model(request, saved, tmp_path):
    """A copy of one with all its weights, in either layout."""
    return Path(shutil.copytree(saved / request.param, tmp_path / "model"))


@pytest.fixture
def ours(saved, tmp_path):
    """A copy of one, where the layout does not matter."""
    return Path(shutil.copytree(saved / "sktransformers", tmp_path / "model"))


@pytest.fixture(params=["delta", "adapter"])
def partial(request, saved, tmp_path):
    """A copy of one that needs its backbone."""
    return Path(shutil.copytree(saved / request.param, tmp_path / "model"))


@pytest.fixture
def sentinel(tmp_path):
    """A file that is there if code of a model has run."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "code was run"


def change(path, **entries):
    """Change entries of a file of JSON."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")


def refused(model, file):
    """Check that a model is refused, soon, within bounds, naming a file."""
    for load in (sktransformers.load, TransformerSequenceClassifier.from_pretrained):
        before, begin = psutil.Process().memory_info().rss, time.process_time()
        with pytest.raises(SavedModelError) as caught:
            load(model)
        assert time.process_time() - begin < SECONDS
        assert psutil.Process().memory_info().rss - before < BYTES
        assert str(model / file) in str(caught.value), str(caught.value)
        assert len(str(caught.value)) < 2000


def dump(path, header, data=b""):
    """Write a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensors(model):
    return safetensors.torch.load_file(model / WEIGHTS)


def put(model, found):
    safetensors.torch.save_file(found, model / WEIGHTS, metadata={"format": "pt"})


class Evil:
    """An object whose pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w')",))


CODE = "import pathlib\npathlib.Path({path!r}).write_text('')\n"
CLASSES = """
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
class Config(BertConfig):
    model_type = "evil"
class Model(BertModel):
    config_class = Config
class Words(PreTrainedTokenizerFast):
    pass
"""


# ------------------------------------------------------------------- weights


def test_a_pickle_under_the_name_of_tensors(model, sentinel):
    with (model / WEIGHTS).open("wb") as file:
        pickle.dump(Evil(sentinel), file)
    refused(model, WEIGHTS)
    torch.save({"weight": Evil(sentinel)}, model / WEIGHTS)
    refused(model, WEIGHTS)


def test_a_pickle_beside_the_tensors(model, sentinel, texts):
    expected = sktransformers.load(model).predict_proba(texts)
    torch.save({"weight": Evil(sentinel)}, model / "pytorch_model.bin")
    assert np.array_equal(sktransformers.load(model).predict_proba(texts), expected)
    (model / WEIGHTS).unlink()
    refused(model, WEIGHTS)
    change(model / ABOUT, files=["pytorch_model.bin"])
    refused(model, WEIGHTS)


@pytest.mark.parametrize("length", [0, 5, 8, 100, 20_000])
def test_tensors_that_are_cut_off(model, length):
    os.truncate(model / WEIGHTS, length)
    refused(model, WEIGHTS)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]" * 50,
        b"[" * 100_000,
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "os.system", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}},
        {"a": {"shape": [1]}},
    ],
    ids=range(10),
)
def test_headers_that_lie(model, header):
    dump(model / WEIGHTS, header, b"\0\0\0\0")
    refused(model, WEIGHTS)


@pytest.mark.parametrize("length", [2**63, 2**40, 100 * 2**20])
def test_headers_that_are_too_long(model, length):
    with (model / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(200 * 2**20)  # sparse
    refused(model, WEIGHTS)


def test_tensors_that_are_not_the_models(model):
    found = tensors(model)
    name = next(name for name in found if name.endswith("word_embeddings.weight"))
    for other in (
        {**found, name: found[name][:-1].clone()},
        {**found, name: found[name].T.contiguous()},
        {**found, name: found[name].to(torch.int64)},
        {key: tensor for key, tensor in found.items() if key != name},
        {f"another.{key}": tensor for key, tensor in found.items()},
        {},
    ):
        put(model, other)
        refused(model, WEIGHTS)


@pytest.mark.parametrize(
    "name",
    ["../../outside.safetensors", "/tmp/outside.safetensors", "pytorch_model.bin", "..", "", 7],
    ids=repr,
)
def test_an_index_that_leads_elsewhere(model, name, sentinel):
    index = f"{WEIGHTS}.index.json"
    names = list(tensors(model))
    shutil.move(model / WEIGHTS, model / "../outside.safetensors")
    torch.save({"weight": Evil(sentinel)}, model / "pytorch_model.bin")
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (model / index).write_text(json.dumps(content), "utf-8")
    change(model / ABOUT, files=[index])
    refused(model, index)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": []}, {"weight_map": {"a": {}}}])
def test_an_index_of_another_form(model, content):
    index = f"{WEIGHTS}.index.json"
    (model / WEIGHTS).unlink()
    (model / index).write_text(json.dumps(content), "utf-8")
    change(model / ABOUT, files=[])
    refused(model, index)


# ------------------------------------------------------------ configurations


@pytest.mark.parametrize("kind", ["evil", "bert", None])
def test_code_beside_a_configuration(model, sentinel, kind):
    (model / "code.py").write_text(CODE.format(path=str(sentinel)) + CLASSES, "utf-8")
    there = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    there |= {"AutoModelForSequenceClassification": "code.Model"}
    kinds = {} if kind is None else {"model_type": kind}
    change(model / CONFIG, auto_map=there, **kinds)
    refused(model, CONFIG)


def test_code_for_a_part_of_a_configuration(model, sentinel):
    (model / "code.py").write_text(CODE.format(path=str(sentinel)) + CLASSES, "utf-8")
    part = {"model_type": "evil", "auto_map": {"AutoConfig": "code.Config"}}
    change(model / CONFIG, backbone_config=part, text_config=part)
    refused(model, CONFIG)


@pytest.mark.parametrize("classes", [["code.Words", None], {"AutoTokenizer": ["code.Words", None]}])
def test_code_beside_a_tokenizer(model, sentinel, classes):
    (model / "code.py").write_text(CODE.format(path=str(sentinel)) + CLASSES, "utf-8")
    change(model / TOKENIZER, auto_map=classes, tokenizer_class="Words")
    refused(model, TOKENIZER)


@pytest.mark.parametrize(
    "entries",
    [
        {"attn_implementation": "somebody/kernels"},
        {"_attn_implementation": "somebody/kernels"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"transformers_weights": "../../outside.safetensors"},
        {"model_type": "os.system"},
        {"model_type": ["bert"]},
        {"model_type": 10**4000},
        {"hidden_size": "32", "backbone_config": {"hidden_size": "32"}},
        {"backbone_config": "os.system", "hidden_act": "os.system"},
        {"backbone_config": [], "hidden_act": []},
        {"dtype": "os.system"},
        {"id2label": "code", "label2id": []},
    ],
    ids=lambda entries: ",".join(entries),
)
def test_a_configuration_of_something_else(model, entries):
    change(model / CONFIG, **entries)
    refused(model, CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 10**12),
        ("vocab_size", 10**40),
        ("vocab_size", 60_000),
        ("hidden_size", 65_000),
        ("hidden_size", -32),
        ("intermediate_size", 10**9),
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", 60_000),
        ("max_position_embeddings", 10**12),
        ("max_position_embeddings", 10**9),
        ("type_vocab_size", 60_000),
        ("num_labels", 10**9),
        ("head_hidden_sizes", [10**9]),
        ("head_hidden_sizes", [60_000] * 10),
    ],
)
def test_sizes_that_the_tensors_do_not_have(model, name, value):
    config = json.loads((model / CONFIG).read_text("utf-8"))
    own = name.startswith("head_") or name == "num_labels"
    if own and "backbone_config" not in config and name != "num_labels":
        pytest.skip("the layout of the transformers library has no such entry")
    place = config if own or "backbone_config" not in config else config["backbone_config"]
    place[name] = value
    (model / CONFIG).write_text(json.dumps(config), "utf-8")
    refused(model, CONFIG)


def test_sizes_in_the_description(model):
    about = json.loads((model / ABOUT).read_text("utf-8"))
    if "config" not in about["model"]:
        pytest.skip("it is in config.json")
    for sizes in ([10**9], 7):
        about["model"]["config"]["head_hidden_sizes"] = sizes
        (model / ABOUT).write_text(json.dumps(about), "utf-8")
        refused(model, ABOUT)


# ----------------------------------------------------------------- text files


def _huge(path):
    path.touch()
    os.truncate(path, 2**30)  # sparse


def _deep(path):
    path.write_bytes(b"[" * 10**6)


def _deep_object(path):
    path.write_bytes(b'{"a":' * 10**5)


def _binary(path):
    path.write_bytes(os.urandom(1000))


def _empty(path):
    path.write_bytes(b"")


def _list(path):
    path.write_bytes(b"[1, 2]")


def _no_number(path):
    path.write_bytes(b'{"a": NaN}')


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _outside(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


def _relative(path):
    shutil.move(path, path.parents[1] / path.name)
    path.symlink_to(f"../{path.name}")


def _itself(path):
    path.unlink()
    path.symlink_to(path.name)


def _device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("file", [ABOUT, CONFIG, TOKENIZER, WORDS, WEIGHTS])
@pytest.mark.parametrize(
    "spoil",
    [
        _huge,
        _deep,
        _deep_object,
        _binary,
        _empty,
        _list,
        _no_number,
        _fifo,
        _folder,
        _outside,
        _relative,
        _itself,
        _device,
    ],
)
def test_files_that_are_none(model, file, spoil):
    spoil(model / file)
    refused(model, file)


def test_links_to_other_places(model):
    (model / "additional_chat_templates").symlink_to("/etc")
    refused(model, "additional_chat_templates")


def test_the_links_of_the_hubs_cache(model, texts):
    expected = sktransformers.load(model).predict_proba(texts)
    home = model.parent / "models--somebody--something"
    snapshot = home / "snapshots" / "0123456789"
    (home / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(model.iterdir()):
        shutil.copy(file, home / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    for path in (snapshot, model.with_name("link")):
        if path != snapshot:
            path.symlink_to(snapshot)
        assert np.array_equal(sktransformers.load(path).predict_proba(texts), expected)
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to("../../../model/config.json")
    refused(snapshot, CONFIG)


def test_more_files_than_anybody_reads(model):
    (model / "many").mkdir()
    for i in range(1001):
        (model / "many" / str(i)).touch()
    with pytest.raises(SavedModelError, match="1000 files"):
        sktransformers.load(model)


@pytest.mark.parametrize(
    "entries",
    [
        {"init_inputs": ["/etc/passwd"]},
        {"vocab_file": "/etc/passwd"},
        {"tokenizer_file": "/etc/passwd"},
        {"tokenizer_class": ["os"]},
        {"model_max_length": "many"},
        {"added_tokens_decoder": {"-1": {"content": "x"}}, "extra_special_tokens": 7},
    ],
    ids=lambda entries: next(iter(entries)),
)
def test_a_tokenizer_of_something_else(model, entries):
    change(model / TOKENIZER, **entries)
    refused(model, "tokenizer")


def test_a_tokenizer_with_more_tokens_than_the_backbone(model):
    words = json.loads((model / WORDS).read_text("utf-8"))
    n = len(words["model"]["vocab"])
    words["model"]["vocab"] |= {f"more{i}": n + i for i in range(10)}
    (model / WORDS).write_text(json.dumps(words), "utf-8")
    refused(model, WORDS)


# ---------------------------------------------------------------- description


def describe(model, part, **entries):
    """Change what sktransformers.json says of a part."""
    about = json.loads((model / ABOUT).read_text("utf-8"))
    about[part].update(entries)
    (model / ABOUT).write_text(json.dumps(about), "utf-8")


@pytest.mark.parametrize(
    "value",
    [
        {"$spec": {"class": "os.system", "parameters": {"command": "ls"}}},
        {"$spec": {"class": "Popen", "parameters": {}}},
        {"$spec": {"class": "Backbone", "parameters": {"another": 1}}},
        {"$spec": {"class": "Backbone"}},
        {"$spec": []},
        {"$pickle": "gASV"},
        {"$metric": "os.system"},
        {"$metric": ["a"]},
        {"$array": {"dtype": "<f8", "shape": [10**12], "values": []}},
        {"$array": {"dtype": "<f8", "shape": [-1], "values": [1]}},
        {"$array": {"dtype": "<U1000000000", "shape": [1], "values": ["a"]}},
        {"$array": {"dtype": "<V1000000000", "shape": [1], "values": ["a"]}},
        {"$array": {"dtype": "O,O", "shape": [1], "values": ["a"]}},
        {"$scalar": {"dtype": "<f8", "shape": [2], "values": [1.0]}},
        {"$float": "1e999"},
        {"$tuple": "abc"},
        {"$set": [[1]]},
        {"$dict": [[1]]},
        {"$tuple": [], "$set": []},
    ],
    ids=range(19),
)
@pytest.mark.parametrize("part", ["parameters", "fitted"])
def test_values_that_no_save_writes(ours, part, value):
    name = "class_weight" if part == "parameters" else "classes_"
    describe(ours, part, **{name: value})
    refused(ours, ABOUT)


def test_values_that_are_nested_too_deep(ours):
    value = []
    for _ in range(400):
        value = [value]
    for part in ("parameters", "fitted"):
        describe(ours, part, class_weight=value)
        refused(ours, ABOUT)


@pytest.mark.parametrize(
    "name", ["predict", "fit", "__class__", "model_", "tokenizer_", "_engine", "net_", "device", 7]
)
def test_attributes_that_no_fit_sets(ours, name):
    describe(ours, "fitted", **{str(name): "something"})
    refused(ours, ABOUT)


@pytest.mark.parametrize(
    "entries",
    [{"nothing": 1}, {"max_epochs": "many"}, {"memory": "/tmp/elsewhere"}],
    ids=lambda entries: next(iter(entries)),
)
def test_parameters_that_no_save_writes(ours, entries):
    describe(ours, "parameters", **entries)
    refused(ours, ABOUT)


def test_nobody_but_the_user_trusts_code(ours):
    spec = {"name": str(ours), "trust_remote_code": True, "token": "hf_secret"}
    describe(ours, "parameters", backbone={"$spec": {"class": "Backbone", "parameters": spec}})
    backbone = sktransformers.load(ours).backbone
    assert backbone.trust_remote_code is False and backbone.token is None


def test_kernels_of_the_hub_are_code(ours):
    spec = {"name": "somebody/something", "attn_implementation": "somebody/kernels"}
    describe(ours, "parameters", backbone={"$spec": {"class": "Backbone", "parameters": spec}})
    refused(ours, ABOUT)
    clf = sktransformers.load(ours, backbone__attn_implementation="eager")
    assert clf.backbone.attn_implementation == "eager"


# ------------------------------------------------------- parts of the weights


@pytest.mark.parametrize("file", ["delta.safetensors", "optimizer.safetensors", CONFIG, ABOUT])
@pytest.mark.parametrize("spoil", ["cut", "pickle", "json", "link"])
def test_files_of_parts_that_are_none(partial, sentinel, file, spoil):
    path = partial / file
    if spoil == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif spoil == "pickle":
        path.write_bytes(pickle.dumps(Evil(sentinel)))
    elif spoil == "json":
        path.write_text('{"weights": []}', "utf-8")
    else:
        path.unlink()
        path.symlink_to("/etc/passwd")
    refused(partial, file)


@pytest.mark.parametrize(
    "entries",
    [
        {"backbone": None},
        {"backbone": "os.system"},
        {"tied": None},
        {"tied": "all"},
        {"kind": ["delta"]},
        {"digest": None},
        {"optimizer": [1]},
    ],
    ids=lambda entries: next(iter(entries)),
)
def test_descriptions_of_parts(partial, entries):
    if "optimizer" in entries:
        (partial / "optimizer.safetensors").write_bytes(b"")
    describe(partial, "weights", **entries)
    with pytest.raises(SavedModelError) as caught:
        sktransformers.load(partial)
    assert str(partial) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head_hidden_sizes", [10**12]),
        ("head_hidden_sizes", [10**6]),
        ("head_hidden_sizes", [60_000] * 10),
        ("num_labels", 10**9),
        ("auto_map", {"AutoConfig": "code.Config"}),
    ],
)
def test_configurations_of_parts(partial, name, value):
    change(partial / CONFIG, **{name: value})
    refused(partial, CONFIG)


@pytest.mark.parametrize(
    "entries",
    [
        {"r": 10**9},
        {"r": "two"},
        {"lora_alpha": "a"},
        {"target_modules": ["embeddings"]},
        {"target_modules": "all"},
        {"target_modules": []},
        {"auto_mapping": {"base_model_class": "os", "parent_library": "os"}, "r": -1},
    ],
    ids=lambda entries: ",".join(entries),
)
def test_adapters_of_something_else(saved, tmp_path, entries):
    model = Path(shutil.copytree(saved / "adapter", tmp_path / "model"))
    change(model / "adapter_config.json", **entries)
    refused(model, "adapter")


def test_adapters_beside_all_the_weights(model, saved):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(saved / "adapter" / name, model / name)
    refused(model, "adapter_config.json")


# --------------------------------------------------- checkpoints of others


def test_checkpoints_of_the_transformers_library(make_clf, texts, labels, tmp_path, sentinel):
    """Of these, too, no code is run, and what is wrong is said."""
    clf = make_clf(max_epochs=1, head="native", head_init="random").fit(texts, labels)
    clf.model_.native.save_pretrained(tmp_path / "model")
    clf.tokenizer_.save_pretrained(tmp_path / "model")
    model = tmp_path / "model"
    load = TransformerSequenceClassifier.from_pretrained
    assert np.allclose(load(model).predict_proba(texts), clf.predict_proba(texts), atol=1e-6)

    def broken():
        begin = time.process_time()
        with pytest.raises(ValueError, match="model"):
            load(model)
        assert time.process_time() - begin < SECONDS

    (model / "code.py").write_text(CODE.format(path=str(sentinel)) + CLASSES, "utf-8")
    config = (model / CONFIG).read_bytes()
    change(model / CONFIG, auto_map={"AutoConfig": "code.Config"}, model_type="evil")
    broken()
    os.truncate(model / CONFIG, 2**30)  # sparse
    broken()
    (model / CONFIG).write_bytes(b"[" * 10**6)
    broken()
    (model / CONFIG).write_bytes(config)
    weights = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(weights[:1000])
    broken()
    (model / WEIGHTS).write_bytes(pickle.dumps(Evil(sentinel)))
    broken()
    (model / WEIGHTS).unlink()
    torch.save({"weight": Evil(sentinel)}, model / "pytorch_model.bin")
    broken()
