"""Texts that are longer than the backbone can read: windows, and what memory they need."""

import copy
import pickle
import tracemalloc
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from conftest import LEARNS, NO_DROPOUT, WORDS, make_texts, save_tiny_bert
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from sktransformers import (
    CRF,
    AdamW,
    Backbone,
    Linear,
    PairClassifier,
    TokenTagger,
    TransformerSequenceClassifier,
    Windows,
)
from sktransformers.training import loading, net, runtime
from sktransformers.training.probe import logistic_probe

POOLINGS = ("mean", "max", "attention")
ROOM = 62  # of the 64 tokens that the tiny backbone reads, two are special


def make_documents(n, least=80, most=300, seed=0):
    """n documents of words that are a token each, of so many words, and their topics."""
    rng = np.random.default_rng(seed)
    documents, labels = [], []
    for i in range(n):
        topic = sorted(WORDS)[i % 3]
        words = rng.choice([w for w in WORDS[topic] if w.isascii()], rng.integers(least, most + 1))
        documents.append(" ".join(words))
        labels.append(topic)
    return documents, labels


DOCUMENTS, TOPICS = make_documents(12)
SHORT, SHORT_TOPICS = make_texts(12, seed=4)
MIXED = [*DOCUMENTS[:6], *SHORT[:6], ""]


@pytest.fixture(scope="module")
def windowed(make_clf):
    """A function that gives a classifier that reads windows, fitted; copy it to change it."""
    known = {}

    def fit(pooling):
        if pooling not in known:
            clf = make_clf(**LEARNS, long_text=Windows(pooling=pooling))
            known[pooling] = clf.fit(SHORT + DOCUMENTS, SHORT_TOPICS + TOPICS)
            if pooling == "attention":
                generator = torch.Generator().manual_seed(0)
                score = known[pooling].model_.window_pooling.score
                with torch.no_grad():
                    score.copy_(torch.randn(len(score), generator=generator))
        return known[pooling]

    return fit


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("long_text", ["window", Windows(), Windows(stride=31)])
def test_all_of_a_text_is_read(make_clf, long_text):
    clf = make_clf(long_text=long_text).fit(SHORT, SHORT_TOPICS)
    text = "the " * 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after = clf.decision_function([text + "a", text + "fish"])
    assert np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize("long_text", ["truncate", Windows(max_windows=2)])
def test_a_text_is_not_read_to_its_end(make_clf, long_text):
    clf = make_clf(long_text=long_text).fit(SHORT, SHORT_TOPICS)
    text = "the " * 200
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than"):
        before, after, _ = clf.decision_function([text + "a", text + "fish", "bread"])
    assert_array_equal(before, after)


def test_warning_of_max_windows(make_clf):
    clf = make_clf(long_text=Windows(max_windows=2), max_epochs=1)
    expected = "max_windows=2 windows of max_length=64 tokens and were read only so far"
    with pytest.warns(UserWarning, match=expected):
        clf.fit(DOCUMENTS, TOPICS)


@pytest.mark.parametrize("interaction", ["cross", "all", "difference", "attention"])
@pytest.mark.parametrize("long_text", ["window", "truncate"])
def test_all_of_a_pair_is_read(make_pair, interaction, long_text):
    clf = make_pair(interaction=interaction, long_text=long_text)
    clf.fit(list(zip(SHORT, SHORT[::-1])), SHORT_TOPICS)
    text = "the " * 100
    pairs = [(text + a, text + b) for a, b in (("a", "a"), ("fish", "a"), ("a", "fish"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error" if long_text == "window" else "ignore")
        plain, *others = clf.decision_function(pairs)
    for other in others:
        changed = np.abs(plain - other).max()
        assert changed > 1e-4 if long_text == "window" else changed < 1e-6


@pytest.mark.parametrize(
    "params", [{"crf": False}, {"crf": True}, {"long_text": Windows(stride=10)}]
)
def test_every_word_has_its_tag(make_tagger, params):
    sentences = [document.split() for document in DOCUMENTS]
    tags = [[tag_of(word) for word in words] for words in sentences]
    shorter = make_documents(24, 3, 90, seed=2)[0]
    tagger = make_tagger(**LEARNS, **params, batch_size=4)
    tagger.fit([text.split() for text in SHORT + shorter], tags_of(SHORT + shorter))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tagger.predict(sentences)
    assert [len(row) for row in found] == [len(row) for row in tags]
    right = [a == b for x, y in zip(found, tags, strict=True) for a, b in zip(x, y, strict=True)]
    assert np.mean(right) > 0.9


def test_short_texts_are_read_alike(make_clf):
    # Also in training: the same steps are made.
    first, second = (
        make_clf(long_text=long_text).fit(SHORT, SHORT_TOPICS)
        for long_text in ("truncate", "window")
    )
    assert_array_equal(first.predict_proba(SHORT), second.predict_proba(SHORT))
    second.set_params(long_text="truncate")
    assert_array_equal(first.predict_proba(SHORT), second.predict_proba(SHORT))


# -------------------------------------------------------------------- pooling


def windows_by_hand(n, stride):
    """Where the windows of n tokens begin and end."""
    if n <= ROOM:
        return [(0, n)]
    if stride is None:
        count = -(-n // ROOM)
        width = -(-n // count)
    else:
        count = -(-(n - ROOM) // stride) + 1
        width = ROOM
    return [(b, b + width) for b in (i * (n - width) // (count - 1) for i in range(count))]


@pytest.mark.parametrize("stride", [None, 20])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_window_pooling_by_hand(windowed, pooling, stride):
    clf = copy.copy(windowed(pooling)).set_params(long_text=Windows(stride, pooling))
    model, tokenizer = clf.model_, clf.tokenizer_
    assert model.config.window_pooling == pooling
    expected = []
    for text in MIXED:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        vectors = []
        for begin, end in windows_by_hand(len(ids), stride):
            part = [tokenizer.cls_token_id, *ids[begin:end], tokenizer.sep_token_id]
            with torch.no_grad():
                vectors.append(model.backbone(torch.tensor([part])).last_hidden_state[0, 0])
        vectors = torch.stack(vectors)
        if pooling == "mean":
            vector = vectors.mean(dim=0)
        elif pooling == "max":
            vector = vectors.max(dim=0).values
        else:
            vector = (vectors @ model.window_pooling.score).softmax(dim=0) @ vectors
        expected.append(model.head.out.weight @ vector + model.head.out.bias)
    expected = torch.stack(expected).detach().numpy()
    assert np.ptp(expected) > 1  # else this test could not fail
    assert_allclose(clf.decision_function(MIXED), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_predictions_do_not_depend_on_batch_or_budget(windowed, pooling):
    clf = copy.copy(windowed(pooling))
    together = clf.predict_proba(MIXED)
    assert np.ptp(together) > 0.5  # else this test could not fail
    alone = np.concatenate([clf.predict_proba([text]) for text in MIXED])
    assert_allclose(alone, together, rtol=0, atol=1e-5)
    assert_allclose(clf.predict_proba(MIXED[::-1])[::-1], together, rtol=0, atol=1e-5)
    for budget in (1, 70, 500, 10**6):
        clf.set_params(max_batch_tokens=budget)
        assert_allclose(clf.predict_proba(MIXED), together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_of_documents(windowed, chunk, monkeypatch):
    clf = windowed("max")
    expected = clf.predict_proba(MIXED)
    monkeypatch.setattr("sktransformers.fitted._PREDICT_CHUNK", chunk)
    assert_allclose(clf.predict_proba(MIXED), expected, rtol=0, atol=1e-5)


def test_documents_are_learnt(windowed):
    documents, topics = make_documents(9, seed=9)
    for pooling in ("mean", "max"):
        assert windowed(pooling).score(documents, topics) == 1.0


# ----------------------------------------------------------------- parameters


def test_parameters_reach_a_search(make_clf):
    clf = make_clf(long_text=Windows(), max_epochs=1)
    grid = [
        {"long_text__stride": [None, 20]},
        {"long_text__pooling": ["max", "attention"]},
        {"long_text__max_windows": [2]},
        {"long_text": ["truncate", "window"]},
    ]
    search = GridSearchCV(clf, grid, cv=2, error_score="raise", refit=False)
    with pytest.warns(UserWarning) as caught:
        search.fit(DOCUMENTS, TOPICS)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == scores[-1]  # None and "window" are the same
    messages = {str(warning.message).split("longer than ")[1] for warning in caught}
    assert messages == {
        "max_windows=2 windows of max_length=64 tokens and were read only so far.",
        "max_length=64 tokens and were cut there.",
    }
    assert vars(clf.long_text) == vars(Windows())
    best = GridSearchCV(clf, {"long_text__pooling": ["attention"]}, cv=2).fit(DOCUMENTS, TOPICS)
    assert best.best_estimator_.model_.config.window_pooling == "attention"


def count_windows(clf, texts):
    """Sequences that go through the backbone."""
    counts = []
    hook = clf.model_.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.predict(texts)
    hook.remove()
    return sum(counts)


def test_number_of_windows(windowed):
    text = " ".join(["fish"] * 200)
    for params, expected in (
        ({}, 4),
        ({"stride": 62}, 4),
        ({"stride": 20}, 8),
        ({"stride": 20, "max_windows": 5}, 5),
        ({"max_windows": 1}, 1),
    ):
        clf = copy.copy(windowed("mean")).set_params(long_text=Windows(**params))
        assert count_windows(clf, [text, "fish"]) == expected + 1


BAD = {
    "'long_text' parameter of TransformerSequenceClassifier": "all",
    "'long_text' parameter of Trans": None,
    "'stride' parameter of Windows": Windows(stride=0),
    "'stride' parameter of Win": Windows(stride=1.5),
    "'pooling' parameter of Windows": Windows(pooling="median"),
    "'max_windows' parameter of Windows": Windows(max_windows=0),
}


@pytest.mark.parametrize("message", BAD)
def test_refused_before_anything_is_loaded(message, make_clf, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a backbone was loaded"))
    with pytest.raises(ValueError, match=message):
        make_clf(long_text=BAD[message]).fit(DOCUMENTS, TOPICS)


@pytest.mark.parametrize("stride", [63, 1000])
def test_gaps_are_refused_before_training(stride, make_clf, monkeypatch):
    monkeypatch.setattr(net.FineTuningNet, "fit", lambda *a, **k: pytest.fail("training has begun"))
    with pytest.raises(ValueError, match=f"stride={stride} must be at least 1 and at most 62"):
        make_clf(long_text=Windows(stride=stride)).fit(DOCUMENTS, TOPICS)


@pytest.mark.parametrize("long_text", ["truncate", Windows(max_windows=3)])
def test_a_tagger_reads_all(make_tagger, long_text, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a backbone was loaded"))
    with pytest.raises(ValueError, match="long_text"):
        make_tagger(long_text=long_text).fit([["fish"], ["soup"]], [["a"], ["b"]])


# ------------------------------------------------------------------- gradients


class Gradients(Callback):
    """Gradients of each step."""

    def __init__(self):
        self.steps = []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in named_parameters if p.grad is not None})


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory):
    """The tiny backbone without dropout."""
    return save_tiny_bert(tmp_path_factory.mktemp("still-bert"), **NO_DROPOUT)


def tag_of(word):
    topic = next((topic for topic, words in WORDS.items() if word in words), None)
    return f"B-{topic}" if topic else "O"


def tags_of(texts):
    return [[tag_of(word) for word in text.split()] for text in texts]


@pytest.fixture
def make_pair(tiny_backbone):
    return partial(
        PairClassifier, tiny_backbone, lr=1e-3, max_epochs=1, device="cpu", random_state=0
    )


@pytest.fixture
def make_tagger(tiny_backbone):
    def make(**params):
        defaults = {"lr": 1e-3, "max_epochs": 1, "device": "cpu", "random_state": 0}
        return TokenTagger(tiny_backbone, **{**defaults, **params})

    return make


ROWS = {  # rows that weigh differently, the first of them longer than any budget below
    TransformerSequenceClassifier: (MIXED, ["a", "b", "c"] * 4 + ["a"]),
    PairClassifier: (list(zip(MIXED, reversed(MIXED))), ["a", "b", "c"] * 4 + ["a"]),
    TokenTagger: ([text.split() for text in MIXED[:-1]], tags_of(MIXED[:-1])),
}
CASES = {
    **{
        f"sequence {pooling}": (
            TransformerSequenceClassifier,
            {"long_text": Windows(None, pooling)},
        )
        for pooling in POOLINGS
    },
    "sequence overlapping": (TransformerSequenceClassifier, {"long_text": Windows(stride=25)}),
    "sequence attention over tokens": (
        TransformerSequenceClassifier,
        {"long_text": "window", "pooling": "attention"},
    ),
    "pair cross": (PairClassifier, {"interaction": "cross", "long_text": "window"}),
    "pair cross symmetric": (
        PairClassifier,
        {"interaction": "cross", "long_text": Windows(pooling="max"), "symmetric": True},
    ),
    "pair all": (PairClassifier, {"interaction": "all", "long_text": "window"}),
    "pair attention": (PairClassifier, {"interaction": "attention", "long_text": "window"}),
    "tagger": (TokenTagger, {"subword": "mean"}),
    "tagger self-attention": (TokenTagger, {"self_attention": True}),
    "tagger crf": (TokenTagger, {"head": CRF(dropout=0.0)}),
}


def one_step(case, backbone, budget, **params):
    """An estimator after one step, and the gradients of it."""
    cls, options = CASES[case]
    X, y = ROWS[cls]
    options = {"head": Linear(dropout=0.0), **options, **params}
    estimator = cls(
        Backbone(backbone, dtype="float64"),
        lr=1e-3,
        max_epochs=1,
        batch_size=len(X),
        max_batch_tokens=budget,
        device="cpu",
        random_state=0,
        callbacks=[("gradients", Gradients())],
        **options,
    )
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    estimator.fit(X, y, sample_weight=weights)
    (gradients,) = dict(estimator.net_.callbacks_)["gradients"].steps
    return estimator, gradients


@pytest.fixture
def repeated(monkeypatch):
    """Types of the arguments, and of those by name, for each piece that is computed twice."""
    calls = []

    def spy(function, *args, **kwargs):
        calls.append(([type(a) for a in args], [type(a) for a in kwargs.values()]))
        return checkpoint(function, *args, **kwargs)

    checkpoint = net.checkpoint
    monkeypatch.setattr(net, "checkpoint", spy)
    return calls


@pytest.mark.parametrize("case", CASES)
def test_gradients_do_not_depend_on_the_budget(case, still_backbone, repeated):
    # One of these starts from a probe, that is, from vectors of windows.
    params = {"head_init": "probe" if case == "sequence attention" else "random"}
    whole, expected = one_step(case, still_backbone, 10**6, **params)
    assert not repeated
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    for budget in (64, 150):
        estimator, gradients = one_step(case, still_backbone, budget, **params)
        assert len(repeated) > 3
        repeated.clear()
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_allclose(gradients[name], gradient, rtol=1e-7, atol=1e-10, err_msg=name)
        row, whole_row = estimator.history_[0], whole.history_[0]
        for name in row.keys() - {"seconds", "tokens_per_second"}:
            assert row[name] == pytest.approx(whole_row[name], rel=1e-9), name


@pytest.mark.parametrize(
    "case", ["sequence attention", "pair cross symmetric", "pair attention", "tagger crf"]
)
def test_masks_are_the_same_the_second_time(case, tiny_backbone, monkeypatch):
    # The slope of the loss, with dropout from the same seed, is what the gradient says.
    estimator, _ = one_step(case, tiny_backbone, 150)
    trained, module = estimator.net_, estimator.model_
    encoder = estimator._make_encoder(module, estimator.tokenizer_, estimator.max_length_)
    X, y = ROWS[type(estimator)]
    coding = estimator._make_coding(estimator._check_y(y, X), np.ones(len(X)), estimator)
    targets = coding.encode(estimator._check_y(y, X), np.ones(len(X)), "y")
    batch = net.EncodedDataset(encoder.encode(X).encoded, targets.values, targets.weights).take(
        np.arange(3)
    )
    parameters = [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def loss(step, backward=False):
        module.train()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            found = trained._run(batch, backward=backward)["loss"].item()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= step * d
        return found

    def slope_of_gradient():
        module.zero_grad(set_to_none=True)
        loss(0.0, backward=True)
        return sum(
            float((p.grad * d).sum())
            for p, d in zip(parameters, direction, strict=True)
            if p.grad is not None
        )

    assert loss(0.0) == loss(0.0)
    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert slope_of_gradient() == pytest.approx(slope, rel=1e-5)
    careless = partial(net.checkpoint, preserve_rng_state=False)
    monkeypatch.setattr(net, "checkpoint", careless)
    assert slope_of_gradient() != pytest.approx(slope, rel=1e-4)  # this test can fail


def test_same_seed_same_model(make_clf):
    first, second = (
        make_clf(long_text="window", max_batch_tokens=150).fit(DOCUMENTS, TOPICS) for _ in "ab"
    )
    for name, weight in first.model_.state_dict().items():
        assert torch.equal(weight, second.model_.state_dict()[name]), name


def test_budget_leaves_training_alone_with_dropout(make_clf):
    # The masks differ, what is learnt does not.
    for budget in (70, 10**6):
        clf = make_clf(**LEARNS, long_text="window", max_batch_tokens=budget)
        assert clf.fit(DOCUMENTS, TOPICS).score(*make_documents(9, seed=9)) == 1.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision(make_clf, still_backbone, precision, repeated):
    def fit(**params):
        clf = make_clf(
            backbone=still_backbone,
            head=Linear(dropout=0.0),
            long_text="window",
            max_epochs=1,
            batch_size=12,
            precision=precision,
            callbacks=[("gradients", Gradients())],
            **params,
        ).fit(DOCUMENTS, TOPICS)
        return dict(clf.net_.callbacks_)["gradients"].steps[0]

    whole, split = fit(max_batch_tokens=10**6), fit(max_batch_tokens=150)
    assert repeated
    norm = torch.stack([g.norm() for g in whole.values()]).norm()
    difference = torch.stack([(split[name] - g).norm() for name, g in whole.items()]).norm()
    assert difference < 0.02 * norm


def test_checkpoint_sees_where_tensors_are(make_clf, repeated):
    # It brings back the random state of the devices of its positional arguments alone.
    make_clf(long_text="window", max_batch_tokens=150, max_epochs=1).fit(DOCUMENTS, TOPICS)
    assert repeated
    for by_position, by_name in repeated:
        assert set(by_position) == {torch.Tensor}
        assert torch.Tensor not in by_name


def test_masks_on_apple_devices(monkeypatch):
    # The CPU's generator stands in for theirs.
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        straight = torch.rand(4)
        torch.manual_seed(0)
        first, second = runtime.same_draws(torch.device("mps"))
        with first:
            drawn = torch.rand(2)
        with second:
            again = torch.rand(2)
        rest = torch.rand(2)
    assert torch.equal(drawn, again)
    assert torch.equal(torch.cat([drawn, rest]), straight)


# ---------------------------------------------------------------------- memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are there, as operators give them."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._see, result)
        return result

    def _see(self, tensor):
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen[storage] = True
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, n_bytes):
        self.live -= n_bytes


def test_live_bytes():
    with LiveBytes() as memory:
        a = torch.zeros(1000, requires_grad=True)
        b = a.exp() + 1  # exp keeps its result for the gradient
        assert (memory.live, memory.peak) == (12_000, 12_000)
        b.view(10, 100).sum().backward()
        del b
        assert memory.live == 8_000
    assert memory.peak in range(12_000, 24_001)


@pytest.fixture(scope="module")
def wide_backbone(tmp_path_factory):
    """A backbone that reads 512 tokens and looks at memory as large ones do."""
    return save_tiny_bert(
        tmp_path_factory.mktemp("wide-bert"),
        max_position_embeddings=512,
        hidden_size=64,
        intermediate_size=256,
        **NO_DROPOUT,
    )


def document_of(n_windows, room=510):
    """Words that are a token each, for so many windows."""
    rng = np.random.default_rng(0)
    words = [word for topic in WORDS.values() for word in topic if word.isascii()]
    return " ".join(rng.choice(words, n_windows * room))


def joined_rows(n_windows):
    text = document_of(n_windows, 507).rsplit(" ", 1)[0]
    return [("fish", text), (text, "soup")]


MEMORY = {
    "sequence": (TransformerSequenceClassifier, {}, lambda n: [document_of(n)] * 2, 120),
    "pair cross": (PairClassifier, {"interaction": "cross"}, joined_rows, 40),
    "pair all": (
        PairClassifier,
        {"interaction": "all", "long_text": Windows(pooling="attention")},
        lambda n: [("fish", document_of(n)), (document_of(n), "soup")],
        40,
    ),
    "tagger": (TokenTagger, {}, lambda n: [document_of(n).split()] * 2, 40),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_of_training_does_not_grow_with_the_text(case, wide_backbone, repeated):
    cls, options, rows, most = MEMORY[case]
    params = {"long_text": "window", "max_length": 512, "head_init": "random"}
    params |= {"max_epochs": 1, "batch_size": 1, "device": "cpu", "random_state": 0}
    y = ["a", "b"] if cls is not TokenTagger else None

    def peak(n_windows):
        X = rows(n_windows)
        tags = y or [["a", "b"] * (len(words) // 2) for words in X]
        estimator = cls(wide_backbone, warm_start=True, **{**params, **options})
        short = [row[:4] if cls is TokenTagger else row for row in rows(2)]
        estimator.fit(short, y or [["a", "b", "a", "b"]] * 2)
        with LiveBytes() as memory:
            estimator.fit(X, tags)
        return memory.peak

    few = peak(10)
    assert len(repeated) >= 4  # two rows of two pieces: more than the budget already
    repeated.clear()
    many = peak(most)
    assert len(repeated) >= 2 * most // 10
    # What grows: a vector a window, and the token ids.
    assert many < 1.1 * few


def test_memory_without_a_budget_would_grow(wide_backbone):
    def peak(n_windows, budget):
        clf = TransformerSequenceClassifier(
            wide_backbone,
            long_text="window",
            max_batch_tokens=budget,
            max_epochs=1,
            batch_size=1,
            device="cpu",
            head_init="random",
        )
        with LiveBytes() as memory:
            clf.fit([document_of(n_windows)] * 2, ["a", "b"])
        return memory.peak

    assert peak(40, 10**6) > 3 * peak(40, 4096)


def test_a_hundred_thousand_words(make_clf):
    clf = make_clf(long_text="window", max_epochs=1).fit(SHORT, SHORT_TOPICS)

    def peaks(text):
        tracemalloc.start()
        try:
            with LiveBytes() as memory:
                proba = clf.predict_proba([text])
            return proba, memory.peak, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    _, tensors, _ = peaks(document_of(1, 5_000))
    proba, tensors_of_all, others = peaks(document_of(1, 100_000))
    assert_allclose(proba.sum(), 1.0)
    # A vector a window stays: 1613 of 32 numbers.
    assert tensors_of_all < 1.1 * tensors + 1613 * 32 * 4
    assert others < 100 * 100_000  # bytes a word: ids as Python's and NumPy's integers


# ------------------------------------------------------- as any other estimator


def test_pickle_and_clone(windowed):
    for pooling in POOLINGS:
        clf = windowed(pooling)
        expected = clf.predict_proba(MIXED)
        assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(MIXED), expected)
        copied = clone(clf)
        assert copied.long_text is not clf.long_text
        assert copied.long_text.get_params() == clf.long_text.get_params()


def test_fit_is_repeatable_after_clone(make_clf):
    clf = make_clf(long_text=Windows(30, "max"), max_epochs=1).fit(DOCUMENTS, TOPICS)
    again = clone(clf).fit(DOCUMENTS, TOPICS)
    assert_array_equal(again.predict_proba(MIXED), clf.predict_proba(MIXED))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_weights_count_as_repetition(make_clf, still_backbone, pooling):
    params = {"head_init": "random", "batch_size": 100, "max_epochs": 1, "max_batch_tokens": 150}
    params |= {"head": Linear(dropout=0.0), "backbone": Backbone(still_backbone, dtype="float64")}
    params |= {"long_text": Windows(pooling=pooling), "optimizer": AdamW(max_grad_norm=None)}
    params["callbacks"] = [("gradients", Gradients())]
    weights = [0, 2, 1, 3] * 3
    X = [text for text, n in zip(DOCUMENTS, weights, strict=True) for _ in range(n)]
    y = [topic for topic, n in zip(TOPICS, weights, strict=True) for _ in range(n)]
    weighted = make_clf(**params).fit(DOCUMENTS, TOPICS, sample_weight=weights)
    repeated = make_clf(**params).fit(X, y)
    first, second = (
        dict(clf.net_.callbacks_)["gradients"].steps[0] for clf in (weighted, repeated)
    )
    for name, gradient in first.items():
        assert_allclose(gradient, second[name], rtol=1e-7, atol=1e-11, err_msg=name)
    assert weighted.history_[0]["train_loss"] == pytest.approx(repeated.history_[0]["train_loss"])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_warm_start(make_clf, pooling):
    clf = make_clf(long_text=Windows(pooling=pooling), warm_start=True, max_batch_tokens=150)
    before = log_loss(TOPICS, clf.fit(DOCUMENTS, TOPICS).predict_proba(DOCUMENTS))
    first = clf.model_
    clf.fit(DOCUMENTS, TOPICS).fit(DOCUMENTS, TOPICS)
    assert clf.model_ is not first
    assert clf.n_iter_ == len(clf.history_) == 6
    assert log_loss(TOPICS, clf.predict_proba(DOCUMENTS)) < before


@pytest.mark.parametrize("scoring", ["loss", "neg_log_loss"])
def test_validation_documents(make_clf, scoring):
    X_val, y_val = make_documents(6, seed=5)
    clf = make_clf(long_text="window", max_batch_tokens=150, scoring=scoring, max_epochs=1)
    clf.fit(DOCUMENTS, TOPICS, X_val=X_val, y_val=y_val)
    (row,) = clf.history_
    loss = log_loss(y_val, clf.predict_proba(X_val))
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["valid_accuracy"] == clf.score(X_val, y_val)
    if scoring != "loss":
        assert row["valid_score"] == pytest.approx(-loss, rel=1e-5)


def test_early_stopping(make_clf):
    clf = make_clf(
        long_text="window", early_stopping=True, n_iter_no_change=1, tol=100.0, max_epochs=9
    )
    clf.fit(DOCUMENTS * 2, TOPICS * 2)
    assert clf.n_iter_ == 2
    losses = [row["valid_loss"] for row in clf.history_]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_head_starts_from_a_probe_on_pooled_windows(make_clf):
    clf = make_clf(long_text=Windows(pooling="max"), lr=1e-12, max_epochs=1)
    clf.fit(DOCUMENTS, TOPICS)
    encoded = clf._make_encoder(clf.model_, clf.tokenizer_, 64).encode(DOCUMENTS).encoded
    vectors = clf._predictor(clf.model_, 0).texts(clf.model_, encoded).double().numpy()
    codes = np.searchsorted(clf.classes_, TOPICS)
    coef, intercept = logistic_probe(vectors, codes, np.ones(12), 3, np.random.default_rng(0))
    assert np.abs(coef).max() > 1e-3
    assert_allclose(clf.model_.head.out.weight.detach(), coef, rtol=1e-3, atol=1e-5)
    assert_allclose(
        clf.decision_function(DOCUMENTS), vectors @ coef.T + intercept, rtol=1e-3, atol=1e-4
    )
