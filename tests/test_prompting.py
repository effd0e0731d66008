"""Classifiers whose answers are words of a language model."""

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, make_texts
from hypothesis import given, settings, strategies as st
from language_models import (
    LANGUAGE_MODELS,
    language_model,
    save_language_model,
    word_tokenizer,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from sktransformers import Backbone, RandomDeletion, Text2TextClassifier
from sktransformers.inference.label_trie import trie
from sktransformers.inputs.batching import Ragged

TOPICS = {"food": "food", "new": "new", "york": "new york"}  # prefixes of one another
CLASSES = ["food", "new", "york"]
IN_PROMPTS = ["classify:", "label:", "food", "new", "york"]
VOCABULARY = [w for words in WORDS.values() for w in words] + FILLERS + IN_PROMPTS
FAST = {"lr": 1e-2, "max_epochs": 8, "batch_size": 8}


def topics(n, seed=0):
    """Texts of three topics, and classes for them whose words begin alike."""
    X, y = make_texts(n, seed=seed)
    names = dict(zip(WORDS, CLASSES))
    return X, [names[topic] for topic in y]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of a T5 and a Llama that know a token a word."""
    found = {}
    for kind, end, options in (
        ("t5", "</s>", {"dropout_rate": 0.0}),
        ("llama", "", {"max_position_embeddings": 128}),
    ):
        tokenizer = word_tokenizer(VOCABULARY, end=end)
        folder = tmp_path_factory.mktemp(f"{kind}-of-words")
        found[kind] = save_language_model(folder, kind, tokenizer, **options)
    return found


@pytest.fixture(scope="module")
def make(models):
    """A function that makes a classifier on the tiny T5, with some defaults."""

    def make_one(kind="t5", **params):
        defaults = {
            "backbone": models[kind],
            "label_words": TOPICS,
            "device": "cpu",
            "random_state": 0,
        }
        return Text2TextClassifier(**{**defaults, **params})

    return make_one


@pytest.fixture(scope="module")
def prompted(make):
    """A classifier that has seen no labelled rows; copy it before changing it."""
    return make().fit(None, CLASSES)


def teacher_forced(clf, texts):
    """Scores from the loss of the family's own class, a text and a label at a time."""
    model = clf.model_
    encoder = clf._make_encoder(model, clf.tokenizer_, clf.max_length_)
    sources = encoder.encode(texts).encoded.sequences
    labels = clf._label_ids(model, clf.tokenizer_, clf.label_words_)
    found = np.empty((len(texts), len(labels)))
    for i in range(len(texts)):
        for j in range(len(labels)):
            source, target = (
                torch.from_numpy(row.astype(np.int64)).unsqueeze(0)
                for row in (sources.row(i), labels.row(j))
            )
            if model.reads_source_first:
                target = torch.cat([torch.full_like(source, -100), target], dim=1)
                source = torch.cat([source, target[:, source.shape[1] :]], dim=1)
            with torch.no_grad():
                found[i, j] = -model.native(input_ids=source, labels=target).loss
    return found


# ----------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_scores_are_those_of_teacher_forcing(kind):
    classes = ["the boat", "the", "bread", "the boat is noisy"]
    clf = Text2TextClassifier(language_model(kind), device="cpu").fit(None, classes)
    texts = make_texts(7)[0]
    expected = teacher_forced(clf, texts)
    assert expected.std() > 0.01
    assert_allclose(clf.decision_function(texts), expected, atol=1e-5)
    proba = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert_allclose(clf.predict_proba(texts), proba, atol=1e-5)
    assert_allclose(clf.predict_log_proba(texts), np.log(proba), atol=1e-5)
    assert_array_equal(clf.predict(texts), clf.classes_[expected.argmax(axis=1)])


_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param((MistralConfig, MistralForCausalLM), {"sliding_window": 4}, id="a window"),
        pytest.param(
            (Qwen3NextConfig, Qwen3NextForCausalLM),
            {
                "head_dim": 16,
                "num_experts": 0,
                "layer_types": ["linear_attention", "full_attention"],
                "linear_num_key_heads": 1,
                "linear_num_value_heads": 2,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            },
            id="linear attention",
        ),
        pytest.param(
            (MambaConfig, MambaForCausalLM), {"state_size": 4}, id="a state that is no cache"
        ),
    ],
)
def test_scores_of_families_that_keep_other_things(kind, options):
    tokenizer = word_tokenizer(VOCABULARY, end="")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind[1](kind[0](vocab_size=len(tokenizer), **_SIZE, **ids, **options))
    clf = Text2TextClassifier(
        Backbone(model, tokenizer=tokenizer), label_words=TOPICS, device="cpu"
    ).fit(None, CLASSES)
    texts = make_texts(5)[0]
    expected = teacher_forced(clf, texts)
    assert_allclose(clf.decision_function(texts), expected, atol=1e-5)
    assert_allclose(
        clf.set_params(max_batch_tokens=1).decision_function(texts), expected, atol=1e-5
    )


class Calls:
    """Counts the calls of a module, and notes what it read."""

    def __init__(self, module):
        self.shapes = []
        self.handle = module.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs):
        self.shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def hundred_labels():
    """100 texts of one to three words, of which many begin alike."""
    words = sorted({word for topic in WORDS.values() for word in topic})[:20]
    texts = words + [f"{a} {b}" for a, b in pairwise(words)]
    texts += [f"{a} {b} {c}" for a in words[:2] for b in words[:6] for c in words[:6]]
    return list(dict.fromkeys(texts))[:100]


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_text_is_read_once_and_a_depth_is_one_step(make, kind):
    labels = hundred_labels()
    assert len(labels) == 100
    clf = make(kind, label_words=None, max_batch_tokens=10**6).fit(None, labels)
    texts = make_texts(6)[0]
    native = clf.model_.native
    with Calls(native.get_decoder()) as decoder:
        if kind == "t5":
            with Calls(native.get_encoder()) as encoder:
                clf.predict(texts)
            assert [n for n, _ in encoder.shapes] == [6]
        else:
            clf.predict(texts)
    prefixes = [{tuple(label.split()[:depth]) for label in labels} for depth in (1, 2, 3)]
    at_depth = [len({p for p in found if len(p) == d}) for d, found in enumerate(prefixes, 1)]
    assert [n for n, _ in decoder.shapes] == [6] + [6 * n for n in at_depth]
    assert {length for _, length in decoder.shapes[1:]} == {1}


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_what_goes_through_at_once_is_bounded(make, kind):
    clf = make(kind, label_words=None).fit(None, hundred_labels())
    texts = make_texts(6)[0]
    expected = clf.set_params(max_batch_tokens=10**6).decision_function(texts)
    slots = 200  # of a source, a label, and its end
    clf.set_params(max_batch_tokens=slots)
    with Calls(clf.model_.native.get_decoder()) as decoder:
        assert_allclose(clf.decision_function(texts), expected, atol=1e-5)
    rows = np.array([n for n, length in decoder.shapes if length == 1])
    shortest = 4  # a word of the prompt, one of the text, one of the label, the end
    assert rows.max() <= slots / shortest < 100


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_predictions_do_not_depend_on_the_batch(kind):
    clf = Text2TextClassifier(language_model(kind), device="cpu").fit(None, ["bread", "the boat"])
    texts = make_texts(9)[0]
    expected = clf.decision_function(texts)
    order = np.random.default_rng(0).permutation(9)
    assert_allclose(clf.decision_function([texts[i] for i in order]), expected[order], atol=1e-5)
    one_by_one = np.concatenate([clf.decision_function([text]) for text in texts])
    assert_allclose(one_by_one, expected, atol=1e-5)
    for budget in (1, 60, 300):
        clf.set_params(max_batch_tokens=budget)
        assert_allclose(clf.decision_function(texts), expected, atol=1e-5)


def test_the_same_text_is_read_once(prompted):
    texts = make_texts(4)[0]
    with Calls(prompted.model_.native.get_encoder()) as encoder:
        scores = prompted.decision_function(texts * 3)
    assert sum(n for n, _ in encoder.shapes) == 4
    assert_array_equal(scores, np.tile(prompted.decision_function(texts), (3, 1)))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
@settings(max_examples=25)
def test_nothing_but_a_class_is_predicted(prompted, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown tokens
        labels = prompted.predict(texts)
        proba = prompted.predict_proba(texts)
    assert set(labels.tolist()) <= set(CLASSES)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert (proba >= 0).all()


def test_memory_that_runs_out_halves_what_goes_through(prompted, monkeypatch):
    clf = pickle.loads(pickle.dumps(prompted))
    texts = make_texts(12)[0]
    expected = clf.decision_function(texts)
    forward = type(clf.model_.native).forward

    def narrow(self, **inputs):
        if len(inputs["decoder_input_ids"]) > 12:
            raise torch.OutOfMemoryError("no memory")
        return forward(self, **inputs)

    monkeypatch.setattr(type(clf.model_.native), "forward", narrow)
    with pytest.warns(UserWarning, match="Out of memory with 12 sequences"):
        assert_allclose(clf.decision_function(texts), expected, atol=1e-5)


labels_of_tokens = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple
)


@given(labels_of_tokens)
def test_a_trie_has_each_prefix_once_and_every_token(labels):
    found = trie(Ragged.of(labels))
    prefixes = [()]
    read = [[] for _ in labels]
    for depth, node in enumerate(found):
        if depth:
            prefixes = [
                (*prefixes[p], t) for p, t in zip(node.parents.tolist(), node.tokens.tolist())
            ]
        expected = {tuple(label[:depth]) for label in labels if len(label) > depth}
        assert set(prefixes) == expected
        assert len(prefixes) == len(expected)
        for label, place, token in zip(node.labels, node.nodes, node.following):
            assert prefixes[place] == tuple(labels[label][:depth])
            read[label].append(int(token))
    assert read == labels


# --------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"food": "food", "new": "new"}, "no words for the class 'york'"),
        ({**TOPICS, "sea": "sea"}, "names 'sea', which is none of the 3 classes"),
        ({**TOPICS, "new": "new york"}, "classes 'new' and 'york' cannot be told apart"),
        ({**TOPICS, "new": "  "}, "words of the class 'new' are '  '"),
        ({**TOPICS, "new": 3}, "words of the class 'new' are 3"),
        (["food", "new", "york"], "label_words"),
    ],
    ids=["missing", "unknown", "equal", "empty", "no text", "no dict"],
)
def test_bad_words_are_refused_before_anything_is_loaded(words, message):
    clf = Text2TextClassifier("there/is-no-such-model", label_words=words)
    with pytest.raises(ValueError, match=message):
        clf.fit(None, CLASSES)
    with pytest.raises(ValueError, match=message):
        clf.fit(*topics(6))


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_words_that_are_the_same_tokens_are_refused_before_training(make, kind):
    clf = make(kind, label_words={"food": "qqq", "new": "zzz", "york": "york"})
    X, y = topics(6)
    for rows, labels in ((None, CLASSES), (X, y)):  # both are unknown to the vocabulary
        with pytest.raises(ValueError, match=r"'food' and 'new' .* words 'qqq' and 'zzz'"):
            clf.fit(rows, labels)
        with pytest.raises(NotFittedError):
            clf.predict(X)


def test_words_behind_a_prompt_are_tokenized_as_there():
    clf = Text2TextClassifier(language_model("gpt2"), template="{text} is", device="cpu")
    clf.fit(None, ["the boat", "bread"])
    ids = clf._label_ids(clf.model_, clf.tokenizer_, clf.label_words_)
    end = clf.tokenizer_.eos_token_id
    for i, words in enumerate(clf.classes_):
        whole = clf.tokenizer_(f"the soup is {words}")["input_ids"]
        source = clf.tokenizer_("the soup is")["input_ids"]
        assert source + ids.row(i).tolist() == [*whole, end]


def test_classes_name_themselves(make):
    clf = make(label_words=None).fit(None, ["york", "new", "food"])
    assert clf.classes_.tolist() == CLASSES
    assert clf.label_words_ == {c: c for c in CLASSES}


@pytest.mark.parametrize(
    "classes",
    [[1, 0, 2], [True, False], np.array([3, 4]), ["a", "b"]],
    ids=["int", "bool", "numpy", "str"],
)
def test_classes_of_any_type(make, classes):
    words = dict(zip(np.unique(classes).tolist(), ("food", "new", "new york")))
    clf = make(label_words=words).fit(None, classes)
    labels = clf.predict(make_texts(5)[0])
    assert labels.dtype == clf.classes_.dtype == np.asarray(classes).dtype
    assert_array_equal(clf.classes_, np.unique(classes))
    X, y = make_texts(6)[0], [classes[i % len(classes)] for i in range(6)]
    trained = make(label_words=words, max_epochs=1).fit(X, y)
    assert trained.predict(X).dtype == clf.classes_.dtype


# -------------------------------------------------------------- prompting


def weights_of(clf):
    return {name: tensor.clone() for name, tensor in clf.model_.state_dict().items()}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_zero_shot_says_at_once_that_there_is_no_room(make):
    with pytest.raises(ValueError, match="max_length=1 leaves no room"):
        make(finetune=None, max_length=1).fit(*topics(12))


def test_zero_shot_trains_nothing(make, prompted):
    X, y = topics(12)
    named = make(finetune=None).fit(X, y)
    assert_same_weights(weights_of(named), weights_of(prompted))
    assert_array_equal(named.predict_proba(X), prompted.predict_proba(X))
    for clf in (prompted, named):
        assert clf.prompt_ == "classify: {text}"
        assert clf.history_ == []
        assert clf.n_iter_ == 0
        assert clf.n_trained_parameters_ == 0
        assert not hasattr(clf, "lr_")
    assert make("llama").fit(None, CLASSES).prompt_ == "{text}\nlabel:"


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [
        ({"examples_in_prompt": 2}, CLASSES, "examples_in_prompt=2 needs labelled rows"),
        ({}, None, "X and y are None"),
        ({}, ["food", "food", "new"], "y names 'food' more than once"),
        ({"label_words": None}, ["food"], "at least 2 classes"),
    ],
    ids=["examples", "no classes", "twice", "one class"],
)
def test_bad_classes_are_refused(params, y, message):
    params = {"label_words": TOPICS, **params}
    with pytest.raises(ValueError, match=message):
        Text2TextClassifier("there/is-no-such-model", **params).fit(None, y)


def test_weights_of_no_rows_are_refused():
    clf = Text2TextClassifier("there/is-no-such-model")
    for name in ("sample_weight", "X_val", "y_val"):
        with pytest.raises(ValueError, match=f"{name} was passed, but X is None"):
            clf.fit(None, CLASSES, **{name: [1, 1, 1]})


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_examples_stand_in_the_prompt(make, prompted, kind):
    X, y = topics(24)
    weights = np.ones(24)
    weights[:6] = 0
    clf = make(kind, examples_in_prompt=6).fit(X, y, sample_weight=weights)
    known = {
        "t5": [f"classify: {text}\n{TOPICS[label]}" for text, label in zip(X, y)],
        "llama": [f"{text}\nlabel: {TOPICS[label]}" for text, label in zip(X, y)],
    }[kind]
    *examples, last = clf.prompt_.split("\n\n")
    assert last == {"t5": "classify: {text}", "llama": "{text}\nlabel:"}[kind]
    drawn = [known.index(example) for example in examples]
    assert min(drawn) >= 6
    assert sorted(y[i] for i in drawn) == sorted(CLASSES * 2)
    assert clf.n_iter_ == 0
    assert_allclose(clf.decision_function(X[:4]), teacher_forced(clf, X[:4]), atol=1e-5)
    again = clone(clf).fit(X, y, sample_weight=weights)
    assert again.prompt_ == clf.prompt_
    other = clone(clf).set_params(random_state=1).fit(X, y, sample_weight=weights)
    assert other.prompt_ != clf.prompt_
    encoder = clf._make_encoder(clf.model_, clf.tokenizer_, clf.max_length_)
    assert encoder.prompts(["a {boat}"])[0].endswith(last.format(text="a {boat}"))


def test_examples_with_braces_are_texts(make):
    X, y = ["{bread} {0}", "boat }", "the { \ud800"] * 2, CLASSES * 2
    clf = make(examples_in_prompt=3).fit(X, y)
    encoder = clf._make_encoder(clf.model_, clf.tokenizer_, clf.max_length_)
    (prompt,) = encoder.prompts(["boat"])
    assert all(f"classify: {text}\n" in prompt for text in X)
    assert prompt.endswith("\n\nclassify: boat")


def test_examples_that_are_too_long_are_cut_and_counted(make):
    X, y = topics(12)
    X[::2] = [f"{text} {'boat ' * 40}" for text in X[::2]]
    clf = make(examples_in_prompt=11, max_length=150)
    with pytest.warns(UserWarning, match=r"[56] of 11 examples in the prompt were cut"):
        clf.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.predict(["the boat is noisy"])
    with pytest.warns(UserWarning, match="1 of 2 sources are longer than max_length=150"):
        clf.predict(["the boat", "boat " * 200])
    clf.set_params(max_length=20)
    with pytest.raises(ValueError, match="examples_in_prompt=11 and max_length=20 contradict"):
        clf.fit(X, y)


def test_more_examples_than_rows_are_refused(make):
    X, y = topics(6)
    with pytest.raises(ValueError, match=r"examples_in_prompt=7 takes 7 of the rows of X.*6"):
        make(examples_in_prompt=7).fit(X, y)
    make(examples_in_prompt=6).fit(X, y)
    with pytest.raises(ValueError, match=r"examples_in_prompt=6.*finetune='full' has nothing"):
        make(examples_in_prompt=6, finetune="full").fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"template": "classify"}, "no field"),
        ({"template": "{a} and {b}"}, "fields a, b; expected one"),
        ({"examples_in_prompt": True}, "examples_in_prompt"),
        ({"examples_in_prompt": -1}, "examples_in_prompt"),
        ({"finetune": "head"}, "finetune"),
        ({"loss": "focal"}, "loss"),
    ],
    ids=["no field", "two fields", "bool", "negative", "head", "loss"],
)
def test_bad_parameters_are_refused_before_anything_is_loaded(params, message):
    clf = Text2TextClassifier("there/is-no-such-model", label_words=TOPICS, **params)
    with pytest.raises(ValueError, match=message):
        clf.fit(None, CLASSES)
    with pytest.raises(ValueError, match=message):
        clf.fit(*topics(6))


def test_a_decoder_numbers_prompt_and_words_together(models, make):
    limit = 128
    clf = make("llama").fit(None, CLASSES)
    assert clf.max_length_ == limit - 3  # new, york, the end
    with pytest.raises(ValueError, match=r"max_length=126 leaves no room for label_words.*3 tok"):
        make("llama", max_length=126).fit(None, CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert clf.predict(["boat " * 300])[0] in CLASSES


# ------------------------------------------------------------ fine-tuning


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_it_learns(make, kind):
    X, y = topics(120)
    X_test, y_test = topics(60, seed=1)
    clf = make(kind, **FAST).fit(X, y)
    assert clf.score(X, y) >= 0.98
    assert clf.score(X_test, y_test) >= 0.9
    assert clf.history_[-1]["train_loss"] < 0.2 * clf.history_[0]["train_loss"]
    proba = clf.predict_proba(X_test)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(X_test), proba)
    assert again.prompt_ == clf.prompt_


def test_the_same_seed_gives_the_same_model(make):
    X, y = topics(12)
    clf = make(lr=1e-3, max_epochs=1).fit(X, y)
    assert_array_equal(clone(clf).fit(X, y).predict_proba(X), clf.predict_proba(X))


def test_the_loss_is_the_mean_over_the_tokens_of_a_rows_label(make, prompted):
    X, y = topics(10)
    weights = np.linspace(0.5, 2, 10)
    params = {"lr": 1e-12, "max_epochs": 1, "batch_size": 10, "class_weight": {"york": 3.0}}
    clf = make(**params).fit(X, y, sample_weight=weights)
    scores = prompted.decision_function(X)[np.arange(10), [CLASSES.index(label) for label in y]]
    weights = weights * np.where(np.array(y) == "york", 3.0, 1.0)
    expected = -(scores * weights).sum() / weights.sum()
    assert_allclose(clf.history_[0]["train_loss"], expected, rtol=1e-5)


def test_rows_that_weigh_nothing_are_as_if_they_were_not_there(make):
    X, y = topics(16)
    weights = np.ones(16)
    weights[12:] = 0
    one = make(lr=1e-3, max_epochs=1).fit(X, y, sample_weight=weights)
    other = make(lr=1e-3, max_epochs=1).fit(X[:12], y[:12])
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_examples_in_the_prompt_are_not_trained_on(make):
    X, y = topics(20)
    clf = make(examples_in_prompt=4, finetune="full", max_epochs=1, batch_size=100)
    shapes = []
    forward = torch.nn.Module.__call__

    def note(self, *args, **kwargs):
        if type(self).__name__ == "T5ForConditionalGeneration":
            shapes.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", note)
        clf.set_params(max_batch_tokens=10**6).fit(X, y)
    assert shapes[0] == 16  # what follows is a look at the parts of the model
    assert clf.n_iter_ == 1
    assert len(clf.prompt_.split("\n\n")) == 5


def test_prompting_and_fine_tuning_in_one_grid(make):
    X, y = topics(36)
    grid = {"finetune": [None, "full"], "examples_in_prompt": [0, 3]}
    search = GridSearchCV(make(**FAST), grid, cv=2, error_score="raise").fit(X, y)
    scores = dict(
        zip(
            [tuple(p.values()) for p in search.cv_results_["params"]],
            search.cv_results_["mean_test_score"],
        )
    )
    assert len(scores) == 4
    assert search.best_params_["finetune"] == "full"
    assert scores[(0, "full")] > scores[(0, None)] + 0.2


def test_what_was_prompted_is_then_fine_tuned(make):
    X, y = topics(48)
    clf = make(lr=4e-2, batch_size=8, max_epochs=1, warm_start=True).fit(None, CLASSES)
    before = clf.score(X, y)
    for _ in range(9):
        clf.partial_fit(X, y)
    assert clf.score(X, y) > max(0.7, before)
    assert clf.n_iter_ == 9
    trained = weights_of(clf)
    clf.set_params(examples_in_prompt=3).fit(X, y)  # an example or two for what was trained
    assert_same_weights(weights_of(clf), trained)
    assert len(clf.prompt_.split("\n\n")) == 4
    prompt = clf.prompt_
    clf.partial_fit(X, y)
    assert clf.prompt_ == prompt
    assert clf.n_iter_ == 10
    clf.set_params(examples_in_prompt=0).fit(X, y)
    assert clf.prompt_ == "classify: {text}"
    assert clf.n_iter_ == 11


def test_fit_starts_over(make, prompted):
    X, y = topics(12)
    clf = make(max_epochs=1, lr=1e-2).fit(X, y)
    clf.fit(None, CLASSES)
    assert_same_weights(weights_of(clf), weights_of(prompted))
    assert clf.history_ == []
    assert not hasattr(clf, "lr_")


def test_new_classes_are_new_words(make):
    X, y = topics(24)
    clf = make(label_words=None, lr=1e-3)
    clf.partial_fit(X, y, classes=["food", "new", "york"])
    scores = clf.decision_function(X)
    clf.partial_fit(X[:2], ["boat", "food"], classes=["boat"])
    assert clf.classes_.tolist() == ["boat", "food", "new", "york"]
    assert clf.decision_function(X).shape == (24, 4)
    assert_allclose(clf.decision_function(X)[:, 1:], scores, atol=1.0)
    with pytest.raises(ValueError, match=r"y\[0\] is 'sea'"):
        clf.partial_fit(X[:2], ["sea", "food"])


def test_what_trains_nothing_says_so(make, prompted):
    X, y = topics(6)
    with pytest.raises(ValueError, match="partial_fit trains, but finetune=None"):
        make(finetune=None).partial_fit(X, y)
    with pytest.raises(ValueError, match="find_lr trains, but finetune=None"):
        make(finetune=None).find_lr(X, y)
    with pytest.raises(ValueError, match="nothing with examples_in_prompt=3"):
        make(examples_in_prompt=3).find_lr(X, y)
    with pytest.raises(ValueError, match=r"fit\(None, classes\)"):
        Text2TextClassifier.from_pretrained("some/model")
    with pytest.raises(ValueError, match="language model"):
        prompted.accelerate()


def test_rows_are_watched_and_drawn_anew(make):
    X, y = topics(36)
    clf = make(
        **{**FAST, "max_epochs": 3},
        early_stopping=True,
        validation_fraction=6,
        scoring="accuracy",
        augment=RandomDeletion(rate=0.1),
    ).fit(X, y)
    assert {"valid_score", "valid_loss", "valid_accuracy"} <= set(clf.history_[0])
    scores = [row["valid_score"] * 6 for row in clf.history_]
    assert_allclose(scores, np.round(scores), atol=1e-9)


# ---------------------------------------------------------- scikit-learn


def test_contract(make, prompted):
    X, y = topics(18)
    assert is_classifier(make())
    with pytest.raises(NotFittedError):
        make().predict(X)
    params = make().get_params()
    assert {"template", "label_words", "examples_in_prompt", "finetune"} <= set(params)
    pipeline = make_pipeline(FunctionTransformer(), make()).fit(None, CLASSES)
    assert_array_equal(pipeline.predict_proba(X), prompted.predict_proba(X))
    calibrated = CalibratedClassifierCV(make(finetune=None), cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (18, 3)
    binary = make(label_words=None).fit(None, ["new", "food"])
    decision = binary.decision_function(X)
    assert decision.shape == (18,)
    assert_array_equal(binary.predict(X), np.where(decision > 0, "new", "food"))


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_adapters_train(kind):
    pytest.importorskip("peft")
    from sktransformers import LoRA

    X, y = make_texts(12)
    clf = Text2TextClassifier(
        language_model(kind),
        template="{text}:",
        finetune=LoRA(r=2),
        max_epochs=1,
        lr=1e-2,
        device="cpu",
        random_state=0,
    )
    before = clone(clf).fit(None, sorted(set(y))).decision_function(X)
    clf.fit(X, y)
    assert 0 < clf.n_trained_parameters_ < clf.n_parameters_ / 4
    assert np.abs(clf.decision_function(X) - before).max() > 1e-3
    assert_allclose(clf.decision_function(X), teacher_forced(clf, X), atol=1e-5)
