"""Frozen parts run once, and nothing else changes."""

import os
import pickle
import tempfile
import warnings
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import make_texts, save_backbone, save_tiny_bert
from families import FAMILIES
from hypothesis import given, strategies as st
from sklearn.model_selection import GridSearchCV, cross_val_score
from transformers import BertModel, T5Config, T5EncoderModel

from sktransformers import (
    SGD,
    Backbone,
    BitFit,
    Cache,
    GradualUnfreezing,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    RandomDeletion,
    TokenTagger,
    TransformerSequenceClassifier,
)
from sktransformers.inputs.batching import Encoded, Ragged, Words
from sktransformers.modules.resuming import Places
from sktransformers.training import frozen
from sktransformers.training.loading import load

TEXTS, LABELS = make_texts(36)
OFF = Cache(max_ram_mb=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A BERT of four layers, with dropout."""
    return save_tiny_bert(tmp_path_factory.mktemp("four"), num_hidden_layers=4)


@pytest.fixture(scope="module")
def fit(backbone):
    """A function that fits an estimator on the tiny backbone."""

    def fit(estimator=TransformerSequenceClassifier, X=TEXTS, y=LABELS, **params):
        defaults = {
            "backbone": backbone,
            "lr": 1e-2,
            # Of zero gradients, as of the biases of keys, Adam would make steps out of rounding.
            "optimizer": SGD(momentum=0.0),
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # texts that are cut
            return estimator(**{**defaults, **params}).fit(X, y)

    return fit


def distance(one, other):
    """The largest difference between the weights of two fitted estimators."""
    theirs = other.model_.state_dict()
    return max(
        float((tensor.float() - theirs[name].float()).abs().max())
        for name, tensor in one.model_.state_dict().items()
    )


class Reads:
    """Counts the sequences that go through the lowest block of any tiny BERT."""

    def __init__(self, monkeypatch):
        self.n = 0
        from transformers.models.bert.modeling_bert import BertLayer

        real = BertLayer.forward

        def forward(block, hidden_states, *args, **kwargs):
            if hidden_states.shape[1] > 2:  # two tokens only tell blocks from other parts
                self.n += len(hidden_states)
            return real(block, hidden_states, *args, **kwargs)

        monkeypatch.setattr(BertLayer, "forward", forward)

    def take(self, n_blocks=4):
        found, self.n = self.n, 0
        return found / n_blocks


@pytest.fixture
def reads(monkeypatch):
    return Reads(monkeypatch)


WORDS = [text.split() for text in TEXTS]
TAGS = [[word[0] for word in words] for words in WORDS]
SPLIT = [["B-X" if len(word) > 4 else "O" for word in words] for words in WORDS]
PAIRS = [*pairwise(TEXTS), (TEXTS[0], TEXTS[0])]
BOTH = np.array([[label, str(len(text) % 2)] for label, text in zip(LABELS, TEXTS)], dtype=object)
PAIR = {"estimator": PairClassifier, "X": PAIRS}
TAG = {"estimator": TokenTagger, "X": WORDS, "y": TAGS}
HEAD = {"finetune": "head"}
CASES = {
    "head": HEAD,
    "attention pooling": {**HEAD, "pooling": "attention"},
    "batch norm": {**HEAD, "head": MLPHead(batch_norm=True)},
    "native": {**HEAD, "head": "native"},
    "windows": {**HEAD, "long_text": "window", "max_length": 6},
    "small budget": {**HEAD, "max_batch_tokens": 9},
    "early stopping": {**HEAD, "early_stopping": True},
    "anchor": {"finetune": 2, "anchor": 0.1},
    "top blocks": {"finetune": 2},
    "top blocks, small budget": {"finetune": 2, "max_batch_tokens": 9},
    "top blocks, native": {"finetune": 1, "head": "native"},
    "top blocks, checkpointing": {"finetune": 2, "gradient": True},
    "gradual": {"finetune": GradualUnfreezing(), "max_epochs": 6},
    "pairs": {**PAIR, **HEAD},
    "pairs, attention": {**PAIR, **HEAD, "interaction": "attention"},
    "pairs, both orders": {**PAIR, "finetune": 2, "symmetric": True},
    "tags": {**TAG, **HEAD},
    "tags, CRF": {**TAG, **HEAD, "y": SPLIT, "crf": True},
    "tags, attention": {**TAG, **HEAD, "self_attention": True},
    "tags, top blocks": {**TAG, "finetune": 3, "subword": "mean"},
    "tags, native": {**TAG, **HEAD, "head": "native", "crf": False},
    "tasks": {"estimator": MultiTaskSequenceEstimator, "y": BOTH, **HEAD, "early_stopping": True},
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_changes(fit, backbone, case, capsys):
    params = dict(CASES[case])
    if params.pop("gradient", False):
        params["backbone"] = Backbone(backbone, gradient_checkpointing=True)
    kept = fit(**params, verbose=1)
    assert "run once" in capsys.readouterr().out
    # Dropout draws the same masks: whatever is frozen draws none.
    assert distance(kept, fit(**params, memory=OFF)) < 1e-5


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A function from the name of a family to the directory of a backbone of three layers."""
    made = {}

    def directory(name):
        if name not in made:
            tokenizer = FAMILIES[name].tokenizer()
            config = FAMILIES[name].config(len(tokenizer))
            made[name] = save_backbone(tmp_path_factory.mktemp(name), config, tokenizer)
        return made[name]

    return directory


# ALBERT has one block, whose weights serve all layers: none lies below it.
WITHOUT_LOWER = {"albert"}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("finetune", ["head", 1])
def test_every_family(fit, directories, name, finetune, capsys):
    # Pooling with a weight reads tokens: training begins behind the last block.
    params = {"finetune": finetune, "pooling": "attention", "max_epochs": 2}
    params |= {"backbone": directories(name)}
    kept = fit(**params, verbose=1)
    served = params["finetune"] == "head" or name not in WITHOUT_LOWER
    assert ("run once" in capsys.readouterr().out) == served
    assert distance(kept, fit(**params, memory=OFF)) < 1e-5


def test_a_family_that_cannot_go_on_computes_everything(fit, monkeypatch, capsys):
    monkeypatch.setattr(
        Places, "resumed", lambda *_: pytest.fail("a block that hands more on", pytrace=False)
    )
    monkeypatch.setattr(Places, "objection", lambda *_: "its blocks are special")
    clf = fit(finetune=2, verbose=1)
    assert "in every epoch: its blocks are special" in capsys.readouterr().out
    assert distance(clf, fit(finetune=2, memory=OFF)) == 0
    gradual = {"finetune": GradualUnfreezing(2), "max_epochs": 4}
    assert distance(fit(**gradual), fit(**gradual, memory=OFF)) < 1e-5  # the head's epochs are kept


@pytest.mark.parametrize("more", ["plain", "early stopping", "scoring"])
def test_each_text_is_read_once(fit, reads, more):
    params = {
        "plain": {},
        "early stopping": {"early_stopping": True},
        "scoring": {"early_stopping": True, "scoring": "accuracy", "n_iter_no_change": 5},
    }[more]
    X, y = [*TEXTS, *TEXTS[:5]], [*LABELS, *LABELS[:5]]
    fit(X=X, y=y, finetune="head", pooling="mean", max_epochs=5, head_init="probe", **params)
    assert reads.take() == len(set(TEXTS))
    fit(X=X, y=y, finetune="head", pooling="mean", max_epochs=5, memory=OFF, **params)
    assert reads.take() > 5 * len(set(TEXTS))


def test_gradual_unfreezing_reads_each_text_once(fit, reads):
    """As long as something is frozen: in three epochs the head, one block, two blocks."""
    params = {"finetune": GradualUnfreezing(), "head_init": "random", "pooling": "mean"}
    n = len(set(TEXTS))
    fit(**params, max_epochs=1)
    once = reads.take()
    assert n <= once < 1.5 * n  # and a few for the trial
    fit(**params, max_epochs=3)
    assert reads.take() < once + n * (1 + 2) / 4 + 0.5 * n


@pytest.mark.parametrize("what", ["full", "bitfit", "augment"])
def test_steps_aside(fit, what, capsys):
    params = {
        "full": {"finetune": "full"},
        "bitfit": {"finetune": BitFit()},
        "augment": {"finetune": "head", "augment": [RandomDeletion(random_state=0)]},
    }[what]
    clf = fit(**params, verbose=1)
    said = capsys.readouterr().out
    assert "run once" not in said
    assert ("rows are drawn anew" in said) == (what == "augment")
    assert distance(clf, fit(**params, memory=OFF)) == 0


def test_going_on(fit):
    """partial_fit, warm_start and find_lr, each from weights that have moved since."""

    def run(**params):
        clf = fit(finetune=2, **params).partial_fit(TEXTS[:20], LABELS[:20])
        clf.set_params(warm_start=True, finetune="head").fit(TEXTS, LABELS)
        return clf, clf.find_lr(TEXTS, LABELS, n_steps=6).losses

    (kept, losses), (other, expected) = run(), run(memory=OFF)
    assert distance(kept, other) < 1e-5
    assert np.allclose(losses, expected, atol=1e-5)


# ---------------------------------------------------------------- in a folder


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_a_folder_is_read_by_later_fits(fit, reads, tmp_path):
    params = {"finetune": "head", "pooling": "mean", "early_stopping": True}
    first = fit(**params, memory=tmp_path)
    assert reads.take() == len(set(TEXTS))
    features = [path for path in files(tmp_path) if "features" in path.parts]
    assert len(features) == 1
    assert features[0].parts[-4:-2] == ("sktransformers_cache", "features")
    again = fit(**params, memory=str(tmp_path))
    assert distance(first, again) == 0
    fit(**params, memory=tmp_path, lr=0.02, head=MLPHead(), random_state=7)
    assert reads.take() == 0
    assert features == [path for path in files(tmp_path) if "features" in path.parts]
    # Some more rows are some more reading; another part is another file.
    fit(X=[*TEXTS, "one more praia"], y=[*LABELS, "sea"], **params, memory=tmp_path)
    assert reads.take() == 1
    fit(**{**params, "pooling": "max"}, memory=tmp_path)
    assert reads.take() == len(set(TEXTS))
    (tmp_path / "other.txt").write_text("of others")
    Cache(tmp_path).clear()
    assert list(tmp_path.iterdir()) == [tmp_path / "other.txt"]
    fit(**params, memory=tmp_path)
    assert reads.take() == len(set(TEXTS))


def test_other_weights_or_settings_are_other_features(fit, backbone, reads, tmp_path):
    base = {"finetune": "head", "pooling": "mean", "memory": tmp_path}
    n = len(set(TEXTS))
    fit(**base)
    reads.take()
    loaded = load(Backbone(backbone), verbose=False)
    with torch.no_grad():
        loaded.backbone.encoder.layer[3].output.dense.bias[5] += 1e-3
    changed = Backbone(loaded.backbone, tokenizer=loaded.tokenizer)
    for other in (
        {"backbone": changed},
        {"backbone": Backbone(backbone, dtype="bfloat16")},
        {"precision": "bf16"},
        {"memory": Cache(tmp_path, dtype="float16")},
    ):
        fit(**{**base, **other})
        assert reads.take() == n, other
    fit(**base, max_length=4)  # other token ids
    assert 0 < reads.take() <= n
    # Another module, which the configuration does not know.
    loaded = load(Backbone(backbone), verbose=False)
    loaded.backbone.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()
    fit(**{**base, "backbone": Backbone(loaded.backbone, tokenizer=loaded.tokenizer)})
    assert reads.take() == n
    # What lies below the top block is the same.
    fit(**{**base, "finetune": 1, "head_init": "random"})
    reads.take()
    fit(**{**base, "finetune": 1, "head_init": "random", "backbone": changed, "max_epochs": 1})
    assert reads.take(1) < 2 * n + 20  # the top block once, and a trial


class Scaled(BertModel):
    """A user's own backbone: what it computes does not show in its weights."""

    factor = 1.0

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * self.factor
        return output


def test_code_of_others_keeps_nothing_in_the_folder(fit, backbone, tmp_path, monkeypatch, capsys):
    own = Backbone(Scaled.from_pretrained(backbone), tokenizer=backbone)
    X, y = TEXTS * 2, LABELS * 2
    params = {"X": X, "y": y, "backbone": own, "finetune": "head", "pooling": "mean"}
    fit(**params, memory=tmp_path, verbose=1)
    assert "code is of others" in capsys.readouterr().out
    assert not files(tmp_path)
    monkeypatch.setattr(Scaled, "factor", 3.0)
    changed, plain = fit(**params, memory=tmp_path), fit(**params, memory=OFF)
    assert distance(changed, plain) < 1e-5
    np.testing.assert_allclose(changed.predict_proba(X), plain.predict_proba(X), atol=1e-5)


def test_hooks_of_others_keep_nothing_in_the_folder(fit, backbone, tmp_path):
    model = BertModel.from_pretrained(backbone)
    params = {"finetune": "head", "pooling": "cls"}
    own = Backbone(model, tokenizer=backbone)
    fit(**params, backbone=own, memory=tmp_path)
    before = files(tmp_path)
    assert before  # our own hooks, for the pooling of one token, are known
    model.encoder.layer[3].register_forward_hook(lambda module, args, output: 3 * output)
    changed, plain = (fit(**params, backbone=own, memory=memory) for memory in (tmp_path, OFF))
    assert distance(changed, plain) < 1e-5
    assert files(tmp_path) == before


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "text", "gone"])
def test_damage_is_found(fit, tmp_path, damage):
    first = fit(finetune=2, memory=Cache(tmp_path))
    (path,) = (path for path in files(tmp_path) if "features" in path.parts)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        damaged = {"cut": data[:-9], "bit": flipped, "empty": b"", "text": b"hello" * 100}
        path.write_bytes(damaged[damage])
    clf = TransformerSequenceClassifier(**{**first.get_params(deep=False), "max_epochs": 1})
    if damage == "gone":
        clf.fit(TEXTS, LABELS)
    else:
        with pytest.warns(UserWarning, match="damaged and has been deleted"):
            clf.fit(TEXTS, LABELS)
    assert distance(clf.set_params(max_epochs=2).fit(TEXTS, LABELS), first) == 0
    (new,) = (path for path in files(tmp_path) if "features" in path.parts)
    assert new != path and len(new.read_bytes()) == len(data)


def test_files_hold_no_texts(fit, tmp_path):
    secret = "bread salty tower praia"
    fit(X=[secret, *TEXTS], y=["food", *LABELS], finetune="head", memory=tmp_path)
    for path in files(tmp_path):
        content = path.read_bytes()
        assert b"salty" not in content and b"praia" not in content
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(content)


@pytest.mark.parametrize("finetune", ["head", 2])
def test_half_precision(fit, tmp_path, finetune):
    params = {"finetune": finetune, "pooling": "mean", "lr": 1e-2}
    exact = fit(**params, memory=tmp_path / "whole")
    half = fit(**params, memory=Cache(tmp_path / "half", dtype="float16"))
    assert 0 < distance(half, exact) < 0.05
    assert np.allclose(half.predict_proba(TEXTS), exact.predict_proba(TEXTS), atol=0.05)
    sizes = [sum(path.stat().st_size for path in files(tmp_path / f)) for f in ("half", "whole")]
    assert sizes[0] < 0.75 * sizes[1]


def test_numbers_beyond_half_precision_are_an_error():
    features = frozen.Features([b"x"], np.array([1]), np.empty((1, 2), np.float16), None)
    with pytest.raises(ValueError, match="float16"):
        features.put(np.array([0]), torch.tensor([[1.0, 1e5]]))


def test_the_folder_keeps_to_its_size(fit, tmp_path):
    def size():
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    fit(finetune="head", memory=tmp_path)
    one = size()
    (oldest,) = files(tmp_path / "sktransformers_cache" / "features")
    os.utime(oldest, (1, 1))
    limit = 2.5 * one / 2**20
    for pooling in ("mean", "max", "last"):
        fit(finetune="head", pooling=pooling, memory=Cache(tmp_path, max_disk_mb=limit))
        assert size() <= 2.5 * one
    assert not oldest.exists()
    fit(finetune="head", memory=Cache(tmp_path / "small", max_disk_mb=1e-4))
    assert files(tmp_path / "small") == []


def test_use_makes_a_file_young(fit, tmp_path):
    fit(finetune="head", memory=tmp_path)
    (path,) = files(tmp_path / "sktransformers_cache" / "features")
    os.utime(path, (1, 1))
    fit(finetune="head", memory=tmp_path)
    assert path.stat().st_mtime > 1e9


def test_a_folder_that_cannot_be_written_is_no_error(fit, tmp_path, monkeypatch):
    def write(*_):
        raise OSError("no space left")

    monkeypatch.setattr(frozen.store, "write", write)
    clf = TransformerSequenceClassifier(
        **{**fit(finetune="head").get_params(deep=False), "memory": tmp_path, "warm_start": False}
    )
    with pytest.warns(UserWarning, match="no space left"):
        clf.fit(TEXTS, LABELS)
    assert distance(clf, fit(finetune="head")) == 0


@pytest.mark.parametrize("max_ram_mb", [0, 1024])
def test_a_file_is_no_folder(fit, tmp_path, max_ram_mb):
    (tmp_path / "file").write_text("no folder")
    memory = Cache(tmp_path / "file", max_ram_mb=max_ram_mb)
    clf = TransformerSequenceClassifier(
        **{**fit(finetune="head").get_params(deep=False), "memory": memory}
    )
    with pytest.warns(UserWarning, match="memory does not keep features"):
        clf.fit(TEXTS, LABELS)
    assert distance(clf, fit(finetune="head")) == 0
    assert np.array_equal(clf.predict(TEXTS * 2), [*clf.predict(TEXTS)] * 2)


def test_a_folder_of_the_name_of_the_package_is_left_alone(fit, tmp_path):
    (tmp_path / "sktransformers").mkdir()
    (tmp_path / "sktransformers" / "estimator.py").write_text("a checkout")
    fit(finetune="head", memory=Cache(tmp_path, max_disk_mb=0.01))
    Cache(tmp_path).clear()
    assert (tmp_path / "sktransformers" / "estimator.py").read_text() == "a checkout"


# --------------------------------------------------------------- where it lies


@pytest.mark.parametrize("location", [None, "folder"])
@pytest.mark.parametrize("finetune", ["head", 2, "gradual"])
def test_what_is_too_large_lies_on_disk(fit, location, finetune, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mapped = []
    real = np.memmap
    monkeypatch.setattr(frozen.np, "memmap", lambda *a, **k: mapped.append(a) or real(*a, **k))
    finetune = GradualUnfreezing() if finetune == "gradual" else finetune
    folder = None if location is None else tmp_path / location
    kept = fit(finetune=finetune, memory=Cache(folder, max_ram_mb=1e-3))
    assert len(mapped) >= 1
    assert not list(tmp_path.rglob("frozen-*"))
    assert distance(kept, fit(finetune=finetune, memory=OFF)) < 1e-5


def test_nothing_is_left_after_an_error(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    from skorch.callbacks import Callback

    class Fail(Callback):
        def on_batch_end(self, net, **kwargs):
            assert list(tmp_path.rglob("*.features"))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(finetune=2, memory=Cache(max_ram_mb=1e-3), callbacks=[Fail()])
    assert not list(tmp_path.iterdir())


def test_more_than_may_lie_on_disk_is_computed(fit, capsys):
    kept = fit(finetune=2, memory=Cache(max_ram_mb=1e-3, max_disk_mb=1e-3), verbose=1)
    assert "takes" in (said := capsys.readouterr().out) and "every epoch" in said
    assert distance(kept, fit(finetune=2, memory=OFF)) == 0


def test_memory_is_freed_and_pickles_are_small(fit, monkeypatch):
    made = []
    real = frozen.Features.__init__

    def init(self, *args):
        real(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(frozen.Features, "__init__", init)
    params = {"finetune": "head", "early_stopping": True, "scoring": "accuracy"}
    clf = fit(**params)
    assert len(made) == 1
    assert made[0]() is None
    assert clf.net_.frozen.vectors(None, None) is None
    off = fit(**params, memory=OFF)
    assert abs(len(pickle.dumps(clf)) - len(pickle.dumps(off))) < 500


# ------------------------------------------------------------------- searches


def test_folds_and_candidates_share(fit, reads, tmp_path):
    clf = fit(finetune="head", pooling="mean", memory=tmp_path, max_epochs=2)
    reads.take()
    grid = {"lr": [1e-3, 1e-2], "head": ["linear", MLPHead()]}
    GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss").fit(TEXTS, LABELS)
    n = len(set(TEXTS))
    assert reads.take() <= len(TEXTS) * 4  # what the candidates predict, and no more
    scores = cross_val_score(clf, TEXTS, LABELS, cv=2)
    assert reads.take() <= len(TEXTS) + n / 10
    expected = cross_val_score(clf.set_params(memory=OFF), TEXTS, LABELS, cv=2)
    assert np.array_equal(scores, expected)


@pytest.mark.parametrize("interaction", [None, "cross", "all"])
def test_prediction_reads_the_folder(fit, reads, tmp_path, interaction):
    X = [f"{TEXTS[i % 36]} {TEXTS[i * 7 % 35]}" for i in range(80)]
    y, task = LABELS * 2 + LABELS[:8], {}
    if interaction:
        task = {"estimator": PairClassifier, "interaction": interaction}
        X = list(pairwise([*X, X[0]]))
    options = {"X": X, "y": y, "finetune": "head", **task}
    fit(**options, memory=tmp_path)
    clf, plain = fit(**options, memory=tmp_path), fit(**options)
    reads.take()
    before = files(tmp_path)
    proba = clf.predict_proba(X)
    assert reads.take() == 0
    np.testing.assert_allclose(proba, plain.predict_proba(X), atol=1e-6)
    reads.take()
    some = [*X[:70], *(X[0:2] if interaction is None else [(X[0][0], X[5][1])]), X[1]]
    new = ["praia barco"] if interaction is None else [("praia barco", "onda")]
    np.testing.assert_allclose(
        clf.predict_proba([*some, *new]), plain.predict_proba([*some, *new]), atol=1e-6
    )
    assert files(tmp_path) == before  # new texts are not kept
    clf.set_params(memory=None)
    np.testing.assert_allclose(clf.predict_proba(X), proba, atol=1e-6)
    reads.take()
    clf.predict_proba(X)
    assert reads.take() > 0


def test_trained_weights_are_no_reason_to_look(fit, reads, tmp_path):
    X, y = [f"{text} {i}" for i, text in enumerate(TEXTS * 2)], LABELS * 2
    clf = fit(X=X, y=y, finetune=2, memory=tmp_path)
    reads.take()
    clf.predict(X)
    assert reads.take() >= len(X)


def test_processes_share(backbone, tmp_path):
    clf = TransformerSequenceClassifier(
        backbone, finetune="head", memory=tmp_path, device="cpu", random_state=0, max_epochs=2
    )
    grid = {"lr": [1e-3, 1e-2]}
    together = GridSearchCV(clf, grid, cv=2, n_jobs=2, error_score="raise").fit(TEXTS, LABELS)
    alone = GridSearchCV(clf.set_params(memory=OFF), grid, cv=2, error_score="raise")
    alone.fit(TEXTS, LABELS)
    assert np.allclose(
        together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert files(tmp_path / "sktransformers_cache" / "features")
    assert not list(tmp_path.rglob("*.part"))


# -------------------------------------------------------------------- details


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=4),
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3),
        ),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
    st.booleans(),
)
def test_keys_tell_sequences_apart(rows, with_second, with_words):
    ids, second, words = zip(*rows)
    words = [[*zip(*pairs)] or [(), ()] for pairs in words]
    encoded = Encoded(
        Ragged.of(ids),
        np.arange(len(rows) + 1),
        np.arange(len(rows))[:, None],
        np.array(second) if with_second else None,
        Words(Ragged.of([b for b, _ in words]), Ragged.of([e for _, e in words])),
    )
    keys = frozen._keys(encoded, np.arange(len(rows)), with_words)
    seen = [
        (tuple(i), s if with_second else None, tuple(map(tuple, w)) if with_words else None)
        for i, s, w in zip(ids, second, words)
    ]
    assert len(set(keys)) == len(set(seen))
    assert [keys.index(key) for key in keys] == [seen.index(row) for row in seen]
    distinct, names = frozen._distinct(encoded, with_words)
    assert len(distinct) == len(names) == len(set(seen))
    assert frozen._keys(distinct, np.arange(len(names)), with_words) == names


def test_blocks_are_as_before(backbone):
    model = load(Backbone(backbone), verbose=False).backbone.eval()
    places = Places(model)
    ids = torch.tensor([[2, 9, 12, 3], [2, 30, 3, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    assert places.objection([1, 2, 4], inputs) == ""
    marker = model.encoder.layer[0].forward
    model.encoder.layer[0].forward = marker  # one of its own, as others put there
    with pytest.raises(RuntimeError), places.resumed(2, torch.zeros(2, 4, 32)):
        raise RuntimeError
    assert model.encoder.layer[0].forward is marker
    assert "forward" not in vars(model.encoder.layer[1])
    (states,) = places.states([3], **inputs)
    with torch.no_grad(), places.resumed(3, states):
        found = model(**inputs).last_hidden_state
    assert torch.allclose(found, model(**inputs).last_hidden_state, atol=1e-6)


def test_a_wrong_continuation_is_seen(backbone):
    model = load(Backbone(backbone), verbose=False).backbone.eval()
    first, second = model.encoder.layer[:2]
    seen = []  # by a block, of what happens inside of another
    first.attention.register_forward_hook(lambda _, args, output: seen.append(output[0][0, 0]))
    real = second.forward
    second.forward = lambda hidden, *args, **kwargs: real(hidden + seen[-1], *args, **kwargs)
    ids = torch.tensor([[2, 9, 12, 3], [2, 30, 3, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    places = Places(model)
    assert places.objection([1], inputs) == "from block 1 on it gives something else"


def test_blocks_that_hand_on_more_are_no_place_to_stop():
    """T5's first block makes the position biases that the others add."""
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    model = T5EncoderModel(T5Config(vocab_size=40, **size)).eval()
    ids = torch.tensor([[2, 9, 12, 3], [2, 30, 3, 0]])
    assert Places(model).objection([2], {"input_ids": ids, "attention_mask": (ids > 0).long()})


def test_weights_are_read_once_a_prediction(fit, reads, tmp_path, monkeypatch):
    X, y = [f"{text} {i}" for i, text in enumerate(TEXTS * 6)], LABELS * 6
    clf = fit(X=X, y=y, finetune="head", memory=tmp_path)
    expected = clf.predict_proba(X)
    names, real = [], frozen.Frozen._name
    monkeypatch.setattr(frozen.Frozen, "_name", lambda *args: names.append(args) or real(*args))
    monkeypatch.setattr("sktransformers.fitted._PREDICT_CHUNK", 72)
    reads.take()
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
    assert len(names) == 1 and reads.take() == 0
