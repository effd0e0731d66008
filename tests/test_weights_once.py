"""Weights read once a process: the same models and draws as from the files, and no leaks."""

import gc
import json
import os
import shutil
import threading
import weakref
from pathlib import Path

import psutil
import pytest
import torch
from conftest import make_texts, make_tokenizer, save_backbone, save_tiny_bert
from families import FAMILIES
from safetensors.torch import load_file, save_file
from sklearn.model_selection import GridSearchCV
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    RobertaConfig,
)

from sktransformers import Backbone, LoRA, TransformerSequenceClassifier
from sktransformers.training import loading

NAMES = ["a", "b", "c"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """Each test begins as a new process does."""
    for name in ("_weights", "_tokenizers", "_poolings"):
        monkeypatch.setattr(loading, name, loading.Last())


@pytest.fixture
def reads(monkeypatch):
    """What was read from files: names of classes."""
    calls = []

    def counted(kind):
        original = kind.from_pretrained.__func__

        def read(cls, name, *args, **kwargs):
            if name is not None:
                calls.append(cls.__name__)
            return original(cls, name, *args, **kwargs)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(read))

    for kind in (PreTrainedModel, AutoTokenizer):
        counted(kind)
    return calls


@pytest.fixture
def directory(tiny_backbone, tmp_path):
    """A copy of the tiny backbone that a test may change."""
    shutil.copytree(tiny_backbone, tmp_path / "backbone")
    return tmp_path / "backbone"


def load(name, native=False, seed=0, **options):
    """A backbone, or the model with its family's head, and the state of torch's generator then."""
    spec = loading.as_backbone(Backbone(name, **options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if native:
            auto = AutoModelForSequenceClassification
            loaded = loading.load_native(spec, auto, NAMES, verbose=False)
        else:
            loaded = loading.load(spec, verbose=False)
        return loaded, torch.get_rng_state()


def assert_same(found, expected):
    model, other = ((x.backbone if x.native is None else x.native) for x, _ in (found, expected))
    theirs = other.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    for ours, buffer in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, buffer)
    assert [type(m) for m in model.modules()] == [type(m) for m in other.modules()]
    assert model.config.to_dict() == other.config.to_dict()
    assert model.name_or_path == other.name_or_path
    assert model.config._attn_implementation == other.config._attn_implementation
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in other.named_parameters() if p.requires_grad
    }
    assert (model.training, found[0].pooling) == (other.training, expected[0].pooling)
    assert found[0].tokenizer.get_vocab() == expected[0].tokenizer.get_vocab()
    assert torch.equal(found[1], expected[1])  # whatever is drawn next is the same


# ---------------------------------------------------------------- the same as from files


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, native, tmp_path, reads):
    tokenizer = FAMILIES[family].tokenizer()
    path = save_backbone(tmp_path, FAMILIES[family].config(len(tokenizer)), tokenizer)
    expected = load(path, native, keep_weights=False)
    first = load(path, native)
    del reads[:]
    second = load(path, native)
    other_draws = load(path, native, seed=1)
    assert reads == []
    assert_same(first, expected)
    assert_same(second, expected)
    assert_same(other_draws, load(path, native, seed=1, keep_weights=False))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("lacking", ["pooler", "embeddings.token_type_embeddings"])
def test_weights_that_the_files_lack(tiny_backbone, directory, native, lacking, reads):
    path = directory / "model.safetensors"
    weights = {n: w for n, w in load_file(path).items() if not n.startswith(lacking)}
    save_file(weights, path, metadata={"format": "pt"})
    if lacking != "pooler":  # refused, also the second time
        for _ in range(2):
            with pytest.raises(ValueError, match=r"lack 1 weights.*token_type"):
                load(directory, native)
        return
    expected = load(directory, native, keep_weights=False)
    assert_same(load(directory, native), expected)
    assert_same(load(directory, native), expected)


def test_head_of_another_shape(directory, reads):
    """A checkpoint with two outputs, read for three."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=2)
    model.save_pretrained(directory)
    expected = load(directory, native=True, keep_weights=False)
    assert_same(load(directory, native=True), expected)
    assert_same(load(directory, native=True), expected)


@pytest.mark.parametrize("head", ["linear", "native"])
def test_fits_are_equal_bit_by_bit(make_clf, tiny_backbone, texts, labels, head, reads):
    def fit(**options):
        clf = make_clf(backbone=Backbone(tiny_backbone, **options), head=head)
        return clf.fit(texts, labels).model_.state_dict()

    expected = fit(keep_weights=False)
    for _ in range(2):
        found = fit()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    assert (
        reads
        == ["BertForSequenceClassification" if head == "native" else "BertModel", "AutoTokenizer"]
        * 2
    )


def test_random_weights_follow_the_seed(tiny_backbone):
    load(tiny_backbone)
    drawn = [load(tiny_backbone, seed=seed, pretrained=False)[0].backbone for seed in (1, 1, 2)]
    one, same, other = (model.encoder.layer[0].output.dense.weight for model in drawn)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(
        one, load(tiny_backbone)[0].backbone.encoder.layer[0].output.dense.weight
    )


# -------------------------------------------------------------------- read once


def test_a_search_reads_once(make_clf, texts, labels, reads):
    search = GridSearchCV(make_clf(max_epochs=1), {"lr": [1e-3, 1e-4]}, cv=2)
    search.fit(texts, labels)
    assert reads == ["BertModel", "AutoTokenizer"]


def test_keep_weights_false_reads_anew(tiny_backbone, reads):
    load(tiny_backbone)
    load(tiny_backbone, keep_weights=False)
    assert reads == ["BertModel", "AutoTokenizer"] * 2
    load(tiny_backbone)  # still there
    assert len(reads) == 4


def test_what_decides_the_weights(tiny_backbone, reads):
    load(tiny_backbone)
    load(tiny_backbone, dropout=0.3)
    load(tiny_backbone, skip_unread=False, compact_vocabulary=False)
    assert reads.count("BertModel") == 1
    half = load(tiny_backbone, dtype="bfloat16")[0].backbone
    assert half.dtype == torch.bfloat16
    assert load(tiny_backbone)[0].backbone.dtype == torch.float32
    eager = load(tiny_backbone, attn_implementation="eager")[0].backbone
    assert eager.config._attn_implementation == "eager"
    assert load(tiny_backbone, native=True)[0].native.num_labels == 3
    assert reads.count("BertModel") == 4  # and AutoTokenizer once
    assert len(reads) == 6


def test_only_the_last_is_kept(tiny_backbone, directory):
    load(tiny_backbone)
    kept = [weakref.ref(x) for x in loading._weights._value.tensors.values()]
    load(directory)
    gc.collect()
    assert kept
    assert all(ref() is None for ref in kept)


def test_code_from_elsewhere_is_read_anew(tiny_backbone, reads):
    load(tiny_backbone, trust_remote_code=True)
    load(tiny_backbone, trust_remote_code=True)
    assert reads == ["BertModel", "AutoTokenizer"] * 2


# ----------------------------------------------------------------- files that change


def test_model_saved_anew(directory):
    before = load(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModel.from_config(before[0].backbone.config).save_pretrained(directory)
    after = load(directory)
    name = "encoder.layer.1.attention.self.query.weight"
    weights = [x[0].backbone.state_dict()[name] for x in (before, after)]
    assert not torch.equal(*weights)
    assert torch.equal(weights[1], AutoModel.from_pretrained(directory).state_dict()[name])


def test_tokenizer_saved_anew(directory):
    load(directory)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(directory)
    with pytest.raises(ValueError, match="do not belong together"):
        load(directory)


def test_pooling_written_anew(directory):
    (directory / "modules.json").write_text('[{"type": "a.Pooling", "path": "p"}]')
    (directory / "p").mkdir()
    for mode in ("max", "mean"):
        (directory / "p" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        assert load(directory)[0].pooling == mode


def test_another_directory_in_its_place(directory, tmp_path, tiny_backbone):
    """With files of the same names and sizes, and times that were copied too."""
    other = save_tiny_bert(tmp_path / "other")
    weights = {n: w + 1 for n, w in load_file(Path(other, "model.safetensors")).items()}
    save_file(weights, Path(other, "model.safetensors"), metadata={"format": "pt"})
    for file in directory.iterdir():
        os.utime(file, (1, 1))
        os.utime(Path(other, file.name), (1, 1))
    before = load(directory)[0].backbone
    directory.rename(tmp_path / "away")
    Path(other).rename(directory)
    after = load(directory)[0].backbone
    weight, changed = (x.embeddings.LayerNorm.weight for x in (before, after))
    assert torch.equal(changed, weight + 1)


# -------------------------------------------------------------------- nothing shared


def test_models_are_their_owners(tiny_backbone):
    expected = load(tiny_backbone, keep_weights=False)
    for native in (False, True):
        expected = load(tiny_backbone, native, keep_weights=False)
        for _ in range(3):
            found = load(tiny_backbone, native)
            assert_same(found, expected)
            loaded = found[0]
            model = loaded.backbone if loaded.native is None else loaded.native
            with torch.no_grad():
                for weight in model.parameters():
                    weight.zero_().requires_grad_(False)
            model.train()
            model.config.hidden_size = 7
            model.config.id2label.clear()


def test_tokenizers_of_estimators_are_their_own(make_clf, texts, labels):
    clf = make_clf(max_epochs=1).fit(texts, labels)
    clf.tokenizer_.add_tokens(["zebra"])
    clf.tokenizer_.model_max_length = 3
    other = make_clf(max_epochs=1).fit(texts, labels)
    assert "zebra" not in other.tokenizer_.get_vocab()
    assert other.max_length_ == 64
    assert other.tokenizer_ is not loading._tokenizers._value


def test_loaded_models_are_not_kept(tiny_backbone, make_clf, texts, labels):
    model = AutoModel.from_pretrained(tiny_backbone)
    clf = make_clf(backbone=model, max_epochs=1).fit(texts, labels)
    assert loading._weights._value is None
    ref = weakref.ref(model)
    del model, clf
    gc.collect()
    assert ref() is None


def test_threads(tiny_backbone, tmp_path):
    tokenizer = make_tokenizer()
    config = RobertaConfig(vocab_size=len(tokenizer), intermediate_size=64, **SIZE)
    paths = [tiny_backbone, save_backbone(tmp_path, config, tokenizer)]
    spec = [loading.as_backbone(Backbone(path)) for path in paths]
    expected = [load(path, keep_weights=False)[0].backbone.state_dict() for path in paths]
    failures, done = [], []

    def work(i):
        for _ in range(4):
            found = loading.load(spec[i % 2], verbose=False).backbone.state_dict()
            for name, weight in expected[i % 2].items():
                if not torch.equal(found[name], weight):
                    failures.append(name)
            done.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 16
    assert not failures


# -------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "params",
    [{}, {"head": "native", "finetune": LoRA(r=2), "early_stopping": True}],
    ids=["default", "others"],
)
def test_memory_comes_back(params, tmp_path):
    path = save_tiny_bert(tmp_path, vocab_size=30_000, hidden_size=96, intermediate_size=256)
    assert (tmp_path / "model.safetensors").stat().st_size > 10 * 2**20
    X, y = make_texts(12)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    used, on_device, alive = [], [], []
    for _ in range(20):
        clf = TransformerSequenceClassifier(
            backbone=path, lr=1e-3, max_epochs=1, validation_fraction=3, device=device, **params
        )
        clf.fit(X, y).predict(X)
        refs = [weakref.ref(x) for x in (clf, clf.model_, clf.net_, clf.net_.optimizer_)]
        del clf
        assert all(ref() is None for ref in refs)  # there are no circles
        used.append(psutil.Process().memory_info().rss)
        on_device.append(torch.cuda.memory_allocated() if device == "cuda" else 0)
        if len(used) in (5, 20):
            gc.collect()
            alive.append(sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()))
    # The allocator may take and keep what one model needs; leaks of all fits would be 15 of them.
    assert used[-1] - used[4] < 20 * 2**20
    assert on_device[-1] == on_device[4]
    assert alive[0] == alive[1]


def test_a_fit_that_failed_holds_nothing(make_clf, texts, labels, monkeypatch):
    models = []
    original = TransformerSequenceClassifier._make_model

    def watched(self, *args, **kwargs):
        model = original(self, *args, **kwargs)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(TransformerSequenceClassifier, "_make_model", watched)
    clf = make_clf(scoring=_fails, early_stopping=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        clf.fit(texts, labels)
    gc.collect()
    assert [ref() for ref in models] == [None]


def _fails(estimator, X, y):
    raise RuntimeError("on purpose")
