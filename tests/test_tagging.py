"""Taggers: one tag a word, computed by hand too, and what scikit-learn does with them."""

import copy
import pickle
import warnings
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from conftest import FILLERS, NO_DROPOUT, WORDS, save_backbone, save_tiny_bert
from families import FAMILIES
from numpy.testing import assert_allclose, assert_array_equal
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    check_cv,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from tokenizers import pre_tokenizers
from transformers import AutoModel

from sktransformers import CRF, Backbone, Linear, MLPHead, TokenTagger, Windows
from sktransformers.metrics import span_f1_score, span_f1_scorer, spans, word_accuracy_score
from sktransformers.training import loading
from sktransformers.training.probe import logistic_probe


def make_sentences(n, seed=0):
    """n sentences of words, some of several pieces, and BIO tags."""
    rng = np.random.default_rng(seed)
    sentences, tags = [], []
    for _ in range(n):
        words, marks = [], []
        for _ in range(rng.integers(1, 4)):
            fillers = rng.choice(FILLERS, rng.integers(1 if words else 0, 3)).tolist()
            words += fillers
            marks += ["O"] * len(fillers)
            topic = ("food", "sea")[rng.integers(2)]
            span = rng.choice(WORDS[topic], rng.integers(1, 4)).tolist()
            if rng.random() < 0.3:
                span[-1] += "s"  # no word of the vocabulary: two pieces
            words += span
            marks += [f"B-{topic}"] + [f"I-{topic}"] * (len(span) - 1)
        sentences.append(words)
        tags.append(marks)
    return sentences, tags


X, Y = make_sentences(40)
TAGS = ["B-food", "B-sea", "I-food", "I-sea", "O"]
POS = [["NOUN" if tag != "O" else "X" for tag in row] for row in Y]
MIXED = [[], ["fish"], *X[:8], ["the", "Fish-boats", "xyzzy"], [], *X[8:12], ["bread"] * 25]
MODES = {
    "linear": {},
    "crf": {"crf": True},
    "attention": {"self_attention": True},
    "mlp": {"head": MLPHead((16,))},
    "crf and attention": {"head": CRF(), "self_attention": True},
}
SUBWORDS = ("first", "mean", "last", "max")


@pytest.fixture(scope="session")
def make_tagger(tiny_backbone):
    """A function that makes a tagger on the tiny backbone, with some defaults."""

    def make(**params):
        defaults = {
            "backbone": tiny_backbone,
            "lr": 1e-3,
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
        }
        if "head" not in params:
            defaults["crf"] = False
        return TokenTagger(**{**defaults, **params})

    return make


LEARNS = {"lr": 5e-3, "max_epochs": 12, "batch_size": 4}


@pytest.fixture(scope="session", params=MODES)
def learnt(request, make_tagger):
    """A tagger that has learnt the tags; copy it before changing it."""
    return make_tagger(**LEARNS, **MODES[request.param]).fit(X, Y)


@pytest.fixture(scope="session")
def fitted(make_tagger):
    """A tagger without a CRF; copy it before changing it."""
    return make_tagger().fit(X, Y)


@pytest.fixture(scope="session")
def untrained(make_tagger):
    """A function that makes a tagger that knows nothing: all but the backbone is random."""
    known = {}

    def make(y=Y, **params):
        key = repr((y, sorted(params.items(), key=lambda item: item[0])))
        if key not in known:
            est = make_tagger(max_epochs=1, lr=1e-12, head_init="random", **params)
            est.fit(X[: len(y)], y)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, parameter in est.model_.named_parameters():
                    if not name.startswith("backbone."):
                        parameter.normal_(std=0.3, generator=generator)
            known[key] = est
        return known[key]

    return make


@pytest.fixture(scope="session")
def exact(tmp_path_factory):
    """Parameters that leave nothing to chance but the head's start, in float64."""
    directory = tmp_path_factory.mktemp("no-dropout")
    save_tiny_bert(directory, num_hidden_layers=1, intermediate_size=32, **NO_DROPOUT)
    return {
        "backbone": Backbone(str(directory), dtype="float64"),
        "head": Linear(dropout=0.0),
        "head_init": "random",
        "batch_size": 1000,
        "max_epochs": 3,
        "lr": 1e-2,
        "warmup": 0.0,
    }


def logits_of(tagger, sentences):
    """Scores of the tags of each word, all sentences one after the other."""
    return tagger._word_logits(tagger._sentences(sentences))


def log_proba(tagger, sentences):
    with np.errstate(divide="ignore"):  # what a CRF forbids has a probability of zero
        return np.log(np.concatenate(tagger.predict_proba(sentences)))


# ------------------------------------------------------------------------ what comes out


def test_learns_tags(learnt):
    assert learnt.classes_.tolist() == TAGS
    assert learnt.metric_ == "span_f1"
    predicted = learnt.predict(X)
    assert word_accuracy_score(Y, predicted) > (0.95 if learnt.model_.config.crf else 0.8)
    assert learnt.score(X, Y) == span_f1_score(Y, predicted) == f1_score(Y, list(predicted)) > 0.6
    losses = [row["train_loss"] for row in learnt.history_]
    assert losses[-1] < 0.5 * losses[0]
    accuracies = [row["train_accuracy"] for row in learnt.history_]
    assert accuracies[0] < accuracies[-1] <= 1
    unseen = make_sentences(20, seed=1)
    assert word_accuracy_score(unseen[1], learnt.predict(unseen[0])) > (
        0.9 if learnt.model_.config.crf else 0.6
    )


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("subword", SUBWORDS)
def test_learns_with_each_subword_mode(subword, crf, make_tagger):
    tagger = make_tagger(**LEARNS, subword=subword, crf=crf).fit(X, Y)
    assert word_accuracy_score(Y, tagger.predict(X)) > 0.8


ODD = [
    [],
    ["fish"],
    [""],
    [" "],
    ["\x00"],
    ["\u200b", "\ufeff", "\u00ad"],
    ["\ud800"],
    ["fish", "", "\x07", "boat"],
    [" fish", "boat ", "the fish"],
    ["😀" * 3, "中文", "ﷺ"],
    ["x" * 300],
    ["fish", "x" * 300, "fish"],
    ["fish", "boat", "the"] * 333 + ["end"],
    [],
]


@pytest.mark.filterwarnings("ignore:.*of the tokens are unknown")
@pytest.mark.parametrize("max_length", [None, 5, 3])
@pytest.mark.parametrize("mode", ["linear", "crf", "attention"])
def test_every_word_gets_a_tag(mode, max_length, untrained):
    tagger = untrained(max_length=max_length, **MODES[mode])
    predicted, proba = tagger.predict(ODD), tagger.predict_proba(ODD)
    for found in (predicted, proba):
        assert isinstance(found, np.ndarray) and found.dtype == object
        assert found.shape == (len(ODD),)
        assert [len(row) for row in found] == [len(words) for words in ODD]
    assert all(type(row) is list for row in predicted)
    assert set().union(*predicted) <= set(TAGS)
    assert all(part.shape[1] == 5 and np.isfinite(part).all() for part in proba)
    assert_allclose(np.concatenate(proba).sum(axis=1), 1, rtol=1e-9)
    assert len(tagger.predict_spans(ODD)) == len(ODD)
    for alone, together in zip((tagger.predict([words]) for words in ODD), predicted):
        assert alone.shape == (1,)
        assert alone[0] == together


@pytest.mark.parametrize("mode", ["linear", "crf"])
@pytest.mark.parametrize("sentences", [[[]], [[], []], [["fish"]], [["fish"], ["boat"]]])
def test_few_words(sentences, mode, untrained):
    tagger = untrained(**MODES[mode])
    predicted = tagger.predict(sentences)
    assert predicted.shape == (len(sentences),)
    assert [len(tags) for tags in predicted] == list(map(len, sentences))
    assert [part.shape for part in tagger.predict_proba(sentences)] == [
        (len(words), 5) for words in sentences
    ]
    likelihood = tagger.score_sequences(sentences, predicted)
    assert likelihood.shape == (len(sentences),)
    assert (likelihood[[not words for words in sentences]] == 0).all()


@pytest.mark.parametrize("crf", [False, True])
def test_equally_long_sentences_stay_lists(crf, make_tagger):
    sentences, tags = [words[:2] for words in X if len(words) > 1], [t[:2] for t in Y if len(t) > 1]
    tagger = make_tagger(crf=crf).fit(sentences, tags)
    from_arrays = make_tagger(crf=crf).fit(np.array(sentences), np.array(tags))
    predicted = tagger.predict(sentences)
    assert predicted.shape == (len(sentences),) and type(predicted[0]) is list
    assert from_arrays.predict(np.array(sentences)).tolist() == predicted.tolist()
    assert not hasattr(from_arrays, "n_features_in_")
    proba = tagger.predict_proba(sentences)
    assert proba.shape == (len(sentences),) and proba[0].shape == (2, len(tagger.classes_))


KINDS = {
    "str": (lambda k: TAGS[k], str),
    "numpy str": (lambda k: np.str_(TAGS[k]), str),
    "int": (lambda k: 10 - k, int),
    "numpy int": (lambda k: np.int8(k - 3), int),
    "bool": (lambda k: k > 1, bool),
    "numpy bool": (lambda k: np.bool_(k > 1), bool),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tags_keep_their_type(kind, make_tagger):
    make, expected = KINDS[kind]
    y = [[make(TAGS.index(tag)) for tag in row] for row in Y]
    tagger = make_tagger(**LEARNS).fit(X, y)
    predicted = tagger.predict(X)
    assert {type(tag) for row in predicted for tag in row} == {expected}
    assert tagger.classes_.tolist() == sorted({expected(tag) for row in y for tag in row})
    assert word_accuracy_score(y, predicted) > 0.8
    if expected is not str:
        assert tagger.metric_ == "accuracy"
        assert tagger.score(X, y) == word_accuracy_score(y, predicted)
    assert tagger.model_.config.id2label == {
        i: str(tag) for i, tag in enumerate(tagger.classes_.tolist())
    }


def test_probabilities(fitted):
    proba = np.concatenate(fitted.predict_proba(MIXED))
    assert proba.dtype == np.float64 and proba.min() >= 0
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    flat = [tag for tags in fitted.predict(MIXED) for tag in tags]
    assert flat == fitted.classes_[proba.argmax(axis=1)].tolist()


CONTAINERS = {
    "tuple of tuples": lambda x: tuple(map(tuple, x)),
    "arrays": lambda x: [np.array(row, dtype=object) for row in x],
    "object array": lambda x: pd.Series(x).to_numpy(),
    "pandas Series": lambda x: pd.Series(x, index=np.arange(len(x))[::-1] * 3),
    "polars": lambda x: pl.Series(x),
    "pyarrow": lambda x: pa.array(x),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container, make_tagger, fitted):
    make = CONTAINERS[container]
    tagger = make_tagger().fit(make(X), make(Y))
    assert tagger.predict(make(X)).tolist() == fitted.predict(X).tolist()
    assert_array_equal(log_proba(tagger, make(X)), log_proba(fitted, X))
    assert tagger.score(make(X), make(Y)) == fitted.score(X, Y)
    scores = cross_val_score(make_tagger(max_epochs=1), make(X), make(Y), cv=2)
    assert np.isfinite(scores).all()


# -------------------------------------------------------------------- parity, by hand


@pytest.fixture(scope="session")
def roberta(tmp_path_factory):
    """Directory of a tiny RoBERTa."""
    family = FAMILIES["roberta"]
    tokenizer = family.tokenizer()
    path = tmp_path_factory.mktemp("words-roberta")
    return save_backbone(path, family.config(len(tokenizer)), tokenizer)


def words_by_hand(directory, tokenizer, words, subword):
    """Vectors of the words of one sentence, from transformers' own tokens and states."""
    tokenizer = copy.deepcopy(tokenizer)
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        # What transformers demands of such tokenizers for words that are split already.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    model = AutoModel.from_pretrained(directory).eval()
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[0]
    vectors = []
    for i in range(len(words)):
        pieces = hidden[[k for k, word in enumerate(inputs.word_ids()) if word == i]]
        vectors.append(
            {
                "first": pieces[0],
                "last": pieces[-1],
                "mean": pieces.mean(dim=0),
                "max": pieces.max(dim=0).values,
            }[subword]
        )
    return torch.stack(vectors)


def head_by_hand(tagger, vectors):
    out = tagger.model_.head.out
    with torch.no_grad():
        return (vectors @ out.weight.T + out.bias).numpy()


PIECES = [["fish", "boats", "xyzzy", "é", "Tasty"], *X[:3], ["boats"]]


@pytest.mark.parametrize("subword", SUBWORDS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_logits_of_words_by_hand(family, subword, tiny_backbone, roberta, untrained):
    directory = tiny_backbone if family == "bert" else roberta
    tagger = untrained(backbone=directory, subword=subword)
    vectors = [words_by_hand(directory, tagger.tokenizer_, words, subword) for words in PIECES]
    expected = head_by_hand(tagger, torch.cat(vectors))
    assert_allclose(logits_of(tagger, PIECES), expected, rtol=1e-3, atol=1e-4)
    proba = torch.from_numpy(expected).double().softmax(dim=1)
    assert_allclose(np.concatenate(tagger.predict_proba(PIECES)), proba, rtol=1e-3, atol=1e-4)


def test_subword_modes_differ(untrained):
    found = [logits_of(untrained(subword=subword), [["boats", "fish"]]) for subword in SUBWORDS]
    for i, j in ((0, 1), (0, 2), (1, 3)):
        assert np.abs(found[i] - found[j])[0].max() > 1e-2
        assert_allclose(found[i][1], found[j][1], atol=1e-5)  # one piece


def test_self_attention_by_hand(tiny_backbone, untrained):
    tagger = untrained(self_attention=True)
    layer = tagger.model_.self_attention.attention
    words = ["fish", "the", "tram"]
    inputs = tagger.tokenizer_(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tiny_backbone).eval()(**inputs).last_hidden_state[0]
        q, k, v = (
            hidden @ weight.T + bias
            for weight, bias in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3))
        )
        found = (q @ k.T / np.sqrt(32)).softmax(dim=1) @ v
        hidden = hidden + found @ layer.out_proj.weight.T + layer.out_proj.bias
    expected = head_by_hand(tagger, hidden[1:-1])
    assert_allclose(logits_of(tagger, [words]), expected, rtol=1e-3, atol=1e-4)


def windows_by_hand(n, room, stride):
    """For each of n words of one token: begin and end of the window with most context."""
    begins = [0]
    while begins[-1] + room < n:
        begins.append(begins[-1] + stride)
    begins[-1] = max(0, n - room)
    best = []
    for i in range(n):
        context = []
        for begin in begins:
            end = min(begin + room, n)
            left = i - begin if begin > 0 else n
            right = end - 1 - i if end < n else n
            context.append(min(left, right) if begin <= i < end else -1)
        begin = begins[int(np.argmax(context))]
        best.append((begin, min(begin + room, n)))
    return best


@pytest.mark.parametrize("stride", [None, 2, 7, 8])
@pytest.mark.parametrize("n", [8, 9, 16, 23])
def test_words_are_read_in_the_window_with_most_context(n, stride, tiny_backbone, untrained):
    tagger = untrained(max_length=10, long_text=Windows(stride=stride))  # room for 8 words
    words = [w for words in X for w in words if not w.endswith("s")][:n]
    assert len(words) == n
    windows = windows_by_hand(n, 8, stride or 4)
    assert len(set(windows)) > 1 or n == 8
    expected = []
    for i, (begin, end) in enumerate(windows):
        vectors = words_by_hand(tiny_backbone, tagger.tokenizer_, words[begin:end], "first")
        expected.append(head_by_hand(tagger, vectors)[i - begin])
    assert_allclose(logits_of(tagger, [words]), expected, rtol=1e-3, atol=1e-4)


def test_no_warning_of_long_sentences(untrained):
    with warnings.catch_warnings(action="error"):
        untrained().predict([["the", "fish"] * 200])


@pytest.mark.parametrize("mode", MODES)
def test_predictions_do_not_depend_on_the_batch(mode, untrained):
    tagger = untrained(max_length=12, **MODES[mode])
    together = tagger.predict_proba(MIXED)
    assert np.ptp(np.concatenate(together), axis=0).max() > 0.05  # else this could not fail
    alone = [tagger.predict_proba([words])[0] for words in MIXED]
    backwards = tagger.predict_proba(MIXED[::-1])[::-1]
    for budget in (1, 30, 10_000):
        small = copy.copy(tagger).set_params(max_batch_tokens=budget).predict_proba(MIXED)
        for found in (alone, backwards, small):
            for a, b in zip(found, together):
                assert_allclose(a, b, rtol=0, atol=1e-4)


def test_predictions_of_many_chunks(monkeypatch, untrained):
    for mode in ("linear", "crf"):
        tagger = untrained(**MODES[mode])
        expected = tagger.predict_proba(MIXED)
        with monkeypatch.context() as patch:
            patch.setattr("sktransformers.fitted._PREDICT_CHUNK", 1)
            found = tagger.predict_proba(MIXED)
        for a, b in zip(found, expected):
            assert_allclose(a, b, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ scores of sequences


@pytest.mark.parametrize("mode", ["linear", "attention"])
def test_likelihood_is_the_product_over_words(mode, untrained):
    tagger = untrained(**MODES[mode])
    proba = tagger.predict_proba(X)
    expected = [
        sum(np.log(p[TAGS.index(tag)]) for p, tag in zip(part, tags))
        for part, tags in zip(proba, Y)
    ]
    assert_allclose(tagger.score_sequences(X, Y), expected, rtol=1e-8)


TINY = [["fish"], ["the", "boats"], ["fish", "the", "bread"]]


@pytest.mark.parametrize(
    "params, y",
    [
        ({"crf": True}, Y),
        ({"head": CRF(constraints=None)}, Y),
        ({"crf": True}, POS),
        ({"head": CRF("bioes")}, [["O"] * len(t) for t in Y[:4]] + [["S-x"] * len(Y[4])]),
    ],
    ids=["bio", "unconstrained", "parts of speech", "bioes"],
)  # fmt: skip
def test_crf_by_brute_force(params, y, untrained):
    tagger = untrained(y=y, **params)
    tags = tagger.classes_.tolist()
    for words in TINY:
        paths = list(product(tags, repeat=len(words)))
        likelihood = tagger.score_sequences([words] * len(paths), paths)
        assert_allclose(np.exp(likelihood).sum(), 1, rtol=1e-9)
        (best,) = tagger.predict([words])
        assert tuple(best) == paths[int(np.argmax(likelihood))]
        marginals = np.zeros((len(words), len(tags)))
        for path, p in zip(paths, np.exp(likelihood)):
            for i, tag in enumerate(path):
                marginals[i, tags.index(tag)] += p
        assert_allclose(tagger.predict_proba([words])[0], marginals, rtol=1e-4, atol=1e-7)
        legal = [legal_bio(path) or tagger.metric_ == "accuracy" for path in paths]
        if params.get("crf") and y is Y:
            assert_array_equal(np.isfinite(likelihood), legal)
            assert not all(legal)
        else:
            assert np.isfinite(likelihood).all()


def legal_bio(tags):
    before = "O"
    for tag in tags:
        if tag[0] == "I" and before not in (tag, "B" + tag[1:]):
            return False
        before = tag
    return True


def test_viterbi_is_always_legal(untrained):
    tagger = untrained(crf=True, max_length=12)
    sentences = make_sentences(60, seed=5)[0] + [["fish", "the"] * 100]
    predicted = tagger.predict(sentences)
    assert all(map(legal_bio, predicted))
    free = untrained(head=CRF(constraints=None), max_length=12).predict(sentences)
    assert not all(map(legal_bio, free))  # the same weights: the constraints matter
    assert np.isfinite(tagger.score_sequences(sentences, predicted)).all()
    for part, tags in zip(tagger.predict_proba(sentences), predicted):
        if tags:
            assert part[0, [2, 3]].max() == 0  # no sentence begins inside a span


# -------------------------------------------------------------------------------- spans


@pytest.mark.parametrize("mode", ["linear", "crf"])
def test_spans_are_those_of_the_tags(mode, make_tagger):
    tagger = make_tagger(**LEARNS, **MODES[mode]).fit(X[:20], Y[:20])  # not perfect
    predicted, proba = tagger.predict(X), tagger.predict_proba(X)
    found = tagger.predict_spans(X)
    assert sum(map(len, found)) > 20
    for some, tags, p in zip(found, predicted, proba):
        assert [(span.start, span.end, span.type) for span in some] == spans(tags)
        entities = get_entities(tags)
        assert [(span.type, span.start, span.end - 1) for span in some] == entities
        for span in some:
            chosen = [p[i, TAGS.index(tags[i])] for i in range(span.start, span.end)]
            assert_allclose(span.score, np.mean(chosen), rtol=1e-9)
            assert type(span.score) is float
            assert span.char_start is None and span.char_end is None


def test_spans_of_tags_without_spans(make_tagger):
    tagger = make_tagger(**LEARNS).fit(X, POS)
    assert tagger.metric_ == "accuracy"
    for some, tags in zip(tagger.predict_spans(X), tagger.predict(X)):
        assert [tag for span in some for tag in [span.type] * (span.end - span.start)] == tags
        assert all(a.type != b.type and a.end == b.start for a, b in pairwise(some))


TEXTS = [
    "O pão, o queijo e a praia  são «muito» bons.",
    "",
    "  fish\tboats\n",
    "A pra\u0301tica do barco: onda, maré!",
    "Feijão-preto é tasty",
]


def halves(text):
    """Words of two characters each, as offsets."""
    return [(i, min(i + 2, len(text))) for i in range(0, len(text), 2) if text[i : i + 2].strip()]


@pytest.mark.filterwarnings("ignore:.*of the tokens are unknown")
@pytest.mark.parametrize("tokenize", ["whitespace", "regex", str.split, halves])
def test_spans_know_their_characters(tokenize, make_tagger):
    if tokenize is halves:
        words = [[text[a:b] for a, b in halves(text)] for text in TEXTS]
    elif tokenize == "regex":
        words = [
            [*"O pão , o queijo e a praia são « muito » bons .".split()],
            [],
            ["fish", "boats"],
            ["A", "pra\u0301tica", "do", "barco", ":", "onda", ",", "maré", "!"],
            ["Feijão", "-", "preto", "é", "tasty"],
        ]  # fmt: skip
    else:
        words = [text.split() for text in TEXTS]
    rng = np.random.default_rng(0)
    y = [rng.choice(["B-a", "I-a", "O"], len(row)).tolist() for row in words]
    tagger = make_tagger(tokenize=tokenize, max_epochs=1).fit(TEXTS, y)
    split = make_tagger(max_epochs=1).fit(words, y)
    assert tagger.predict(TEXTS).tolist() == split.predict(words).tolist()
    found = tagger.predict_spans(TEXTS)
    assert sum(map(len, found)) > 3
    for text, some, row, plain in zip(TEXTS, found, words, split.predict_spans(words)):
        assert [span[:4] for span in some] == [span[:4] for span in plain]
        for span in some:
            piece = text[span.char_start : span.char_end]
            assert "".join(piece.split()) == "".join("".join(row[span.start : span.end]).split())
            assert piece.startswith(row[span.start]) and piece.endswith(row[span.end - 1])
    assert tagger.score(TEXTS, y) == split.score(words, y)
    assert_array_equal(tagger.score_sequences(TEXTS, y), split.score_sequences(words, y))


def test_column_of_texts(make_tagger):
    frame = pd.DataFrame({"text": [" ".join(words) for words in X]})
    tagger = make_tagger(tokenize="whitespace").fit(frame, Y)
    plain = make_tagger().fit(X, Y)
    assert tagger.predict(frame).tolist() == plain.predict(X).tolist()
    assert tagger.feature_names_in_.tolist() == ["text"]
    with pytest.raises(ValueError, match="feature names should match"):
        tagger.predict(frame.rename(columns={"text": "title"}))


# --------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [4096, 20])
def test_loss_is_a_mean_over_words(budget, weighted, crf, exact, make_tagger):
    head = CRF(dropout=0.0) if crf else Linear(dropout=0.0)
    params = {**exact, "head": head, "lr": 1e-12, "max_epochs": 1, "max_batch_tokens": budget}
    weights = 1.0 + np.arange(40) % 3 if weighted else np.ones(40)
    factors = {"O": 0.5, "B-sea": 3.0} if weighted else {}
    tagger = make_tagger(**params, class_weight=factors or None)
    tagger.fit(X, Y, sample_weight=weights, X_val=MIXED, y_val=[["O"] * len(x) for x in MIXED])
    lengths = np.array([len(words) for words in X])
    of_word = np.repeat(weights, lengths) * [factors.get(tag, 1.0) for row in Y for tag in row]
    if crf:
        of_sentence = [part.mean() for part in np.split(of_word, np.cumsum(lengths)[:-1])]
        total = -(tagger.score_sequences(X, Y) * of_sentence).sum()
    else:
        codes = [TAGS.index(tag) for row in Y for tag in row]
        total = -(log_proba(tagger, X)[np.arange(len(codes)), codes] * of_word).sum()
    assert_allclose(tagger.history_[0]["train_loss"], total / of_word.sum(), rtol=1e-6)
    if not weighted:
        y_val = [["O"] * len(words) for words in MIXED]
        expected = -tagger.score_sequences(MIXED, y_val).sum() / sum(map(len, MIXED))
        assert_allclose(tagger.history_[0]["valid_loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("budget", [4096, 20])
def test_gradient_is_that_of_all_words_at_once(budget, exact, make_tagger):
    params = {**exact, "lr": 1e-14, "max_epochs": 1, "max_batch_tokens": budget}
    tagger = make_tagger(**params).fit(X, Y)
    model = copy.deepcopy(tagger.model_)
    logits = []
    for words in X:
        inputs = tagger.tokenizer_(words, is_split_into_words=True, return_tensors="pt")
        ids = inputs.word_ids()
        hidden = model.backbone(**inputs).last_hidden_state[0]
        logits.append(model.head.out(hidden[[ids.index(i) for i in range(len(words))]]))
    codes = torch.tensor([TAGS.index(tag) for row in Y for tag in row])
    loss = torch.nn.functional.cross_entropy(torch.cat(logits), codes)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert_allclose(tagger.history_[0]["grad_norm"], norm.item(), rtol=1e-5)
    assert_allclose(tagger.history_[0]["train_loss"], loss.item(), rtol=1e-6)


@pytest.mark.parametrize("crf", [False, True])
def test_training_does_not_depend_on_the_token_budget(crf, exact, make_tagger):
    head = CRF(dropout=0.0) if crf else Linear(dropout=0.0)
    first, second = (
        make_tagger(**{**exact, "head": head}, max_length=12, max_batch_tokens=budget).fit(
            [*X, ["bread", "wave"] * 20], [*Y, ["B-food", "B-sea"] * 20]
        )
        for budget in (4096, 20)
    )
    assert_allclose(logits_of(first, X), logits_of(second, X), rtol=1e-6, atol=1e-8)


def test_head_starts_from_a_probe(tiny_backbone, make_tagger):
    tagger = make_tagger(lr=1e-12, max_epochs=1).fit(X, Y)
    vectors = [words_by_hand(tiny_backbone, tagger.tokenizer_, words, "first") for words in X]
    codes = np.array([TAGS.index(tag) for row in Y for tag in row])
    coef, intercept = logistic_probe(
        torch.cat(vectors).numpy().astype(float),
        codes,
        np.ones(len(codes)),
        5,
        np.random.default_rng(0),
    )
    assert_allclose(tagger.model_.head.out.weight.detach(), coef, rtol=0, atol=1e-3)
    assert_allclose(tagger.model_.head.out.bias.detach(), intercept, rtol=0, atol=1e-3)
    random = make_tagger(lr=1e-12, max_epochs=1, head_init="random").fit(X, Y)
    accuracies = [word_accuracy_score(Y, est.predict(X)) for est in (tagger, random)]
    assert accuracies[0] > accuracies[1] + 0.2


# ------------------------------------------------------------------------- scikit-learn


def test_tags_of_scikit_learn():
    tagger = TokenTagger()
    assert not is_classifier(tagger) and not is_regressor(tagger)
    tags = get_tags(tagger)
    assert tags.input_tags.string and not tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert isinstance(check_cv(5, Y, classifier=is_classifier(tagger)), KFold)


@pytest.mark.parametrize("mode", ["linear", "crf"])
def test_cross_val_predict(mode, make_tagger):
    tagger = make_tagger(**MODES[mode])
    predicted = cross_val_predict(tagger, X, Y, cv=2)
    assert predicted.shape == (40,)
    train, test = next(iter(KFold(2).split(X)))
    expected = clone(tagger).fit([X[i] for i in train], [Y[i] for i in train])
    assert predicted[test].tolist() == expected.predict([X[i] for i in test]).tolist()
    assert 0 <= span_f1_score(Y, predicted) <= 1


def test_cross_validation_of_equally_long_sentences(make_tagger):
    sentences, tags = [["fish", "the"]] * 8, [["B-sea", "O"]] * 8
    predicted = cross_val_predict(make_tagger(max_epochs=1), sentences, tags, cv=2)
    assert predicted.shape == (8,) and all(type(row) is list for row in predicted)


@pytest.mark.parametrize("scoring", [None, span_f1_scorer])
def test_cross_val_score(scoring, make_tagger):
    tagger = make_tagger(**LEARNS)
    scores = cross_val_score(tagger, X, Y, cv=KFold(2), scoring=scoring, error_score="raise")
    for score, (train, test) in zip(scores, KFold(2).split(X)):
        tagger = make_tagger(**LEARNS).fit([X[i] for i in train], [Y[i] for i in train])
        assert score == tagger.score([X[i] for i in test], [Y[i] for i in test])


@pytest.mark.filterwarnings("ignore:F1-score is ill-defined")
@pytest.mark.parametrize("scoring", [None, span_f1_scorer])
@pytest.mark.parametrize(
    "base, grid",
    [
        ({}, {"crf": [True, False], "subword": ["first", "mean"]}),
        ({"head": CRF()}, {"head__constraints": ["auto", "bio", None]}),
        ({"long_text": Windows()}, {"long_text__stride": [3, None], "max_length": [10]}),
    ],
    ids=["crf", "constraints", "windows"],
)
def test_search(base, grid, scoring, make_tagger):
    tagger = make_tagger(max_epochs=1, **base)
    search = GridSearchCV(tagger, grid, cv=2, scoring=scoring, error_score="raise").fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = clone(tagger).set_params(**search.best_params_).fit(X, Y)
    assert search.predict(X).tolist() == best.predict(X).tolist()
    assert search.score(X, Y) == best.score(X, Y)


def test_search_in_workers(make_tagger):
    grid = {"crf": [True, False]}
    found = [
        GridSearchCV(make_tagger(), grid, cv=2, n_jobs=n_jobs, error_score="raise").fit(X, Y)
        for n_jobs in (1, 2)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in found]
    assert_allclose(scores[0], scores[1], atol=0.05)


def lower(sentences):
    return [[word.lower().strip("*") for word in words] for words in sentences]


def test_pipeline_cleans_words(make_tagger, fitted):
    pipe = Pipeline([("clean", FunctionTransformer(lower)), ("tagger", make_tagger())])
    marked = [[f"*{word.upper()}*" for word in words] for words in X]
    assert pipe.fit(marked, Y).predict(marked).tolist() == fitted.predict(X).tolist()
    assert pipe.score(marked, Y) == fitted.score(X, Y)


@pytest.mark.parametrize("mode", MODES)
def test_clone(mode, make_tagger):
    tagger = make_tagger(max_epochs=1, **MODES[mode]).fit(X, Y)
    twin = clone(tagger)
    assert repr(twin) == repr(tagger)
    with pytest.raises(NotFittedError):
        twin.predict(X)
    assert_array_equal(logits_of(twin.fit(X, Y), X), logits_of(tagger, X))


RELOADS = {
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("reload", RELOADS)
def test_reload(reload, learnt):
    before = logits_of(learnt, X)
    tagger = RELOADS[reload](learnt)
    assert_array_equal(logits_of(tagger, X), before)
    assert tagger.predict(X).tolist() == learnt.predict(X).tolist()
    assert_array_equal(tagger.score_sequences(X, Y), learnt.score_sequences(X, Y))
    tagger.set_params(max_epochs=1).fit(X[:5], Y[:5])
    assert_array_equal(logits_of(learnt, X), before)


@pytest.mark.parametrize("mode", MODES)
def test_model_is_saved_and_loaded(mode, untrained, tmp_path):
    tagger = copy.copy(untrained(**MODES[mode]))
    expected = tagger.predict(X).tolist(), log_proba(tagger, X)
    tagger.model_.save_pretrained(tmp_path)
    tagger.model_ = type(tagger.model_).from_pretrained(tmp_path).eval()
    assert tagger.predict(X).tolist() == expected[0]
    assert_array_equal(log_proba(tagger, X), expected[1])


def test_predict_changes_nothing(learnt):
    before = dict(vars(learnt))
    learnt.predict(X)
    learnt.predict_spans(X)
    learnt.score_sequences(X, Y)
    assert vars(learnt).keys() == before.keys()
    assert all(vars(learnt)[name] is value for name, value in before.items())
    assert not learnt.model_.training
    assert "Fitted" in learnt._repr_html_()


# ------------------------------------------------------------------------- weights


def same_weights(first, second):
    first, second = first.model_.state_dict(), second.model_.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


@pytest.mark.parametrize(
    "params", [{}, {"crf": True}, {"early_stopping": True}, {"class_weight": "balanced"}]
)
def test_sentences_of_weight_zero_are_not_there(params, make_tagger):
    expected = make_tagger(**params).fit(X, Y)
    # In places that the others must not notice; ill-formed, and with tags of their own.
    sentences = [*X[:3], ["moon", "x"], *X[3:], ["fish"] * 100]
    tags = [*Y[:3], ["I-moon", "wrong"], *Y[3:], ["I-sea"] * 100]
    weights = [1, 1, 1, 0, *[1] * 37, 0]
    tagger = make_tagger(**params).fit(sentences, tags, sample_weight=weights)
    assert tagger.classes_.tolist() == TAGS
    assert same_weights(tagger, expected)


def test_empty_sentences_are_not_there(make_tagger):
    expected = make_tagger().fit(X, Y)
    tagger = make_tagger().fit([[], *X[:7], [], *X[7:]], [[], *Y[:7], [], *Y[7:]])
    assert same_weights(tagger, expected)


@pytest.mark.parametrize("crf", [False, True])
def test_weight_two_is_a_sentence_twice(crf, exact, make_tagger):
    params = {**exact, "head": CRF(dropout=0.0) if crf else Linear(dropout=0.0)}
    weights = np.array([1 + i % 2 for i in range(40)])
    weighted = make_tagger(**params).fit(X, Y, sample_weight=weights)
    repeated = make_tagger(**params).fit(X + X[1::2], Y + Y[1::2])
    plain = make_tagger(**params).fit(X, Y)
    assert_allclose(logits_of(weighted, X), logits_of(repeated, X), rtol=1e-6, atol=1e-9)
    assert np.abs(logits_of(weighted, X) - logits_of(plain, X)).max() > 1e-3


@pytest.mark.parametrize("head_init", ["probe", "random"])
def test_balanced_class_weight(head_init, exact, make_tagger):
    params = {**exact, "head_init": head_init}
    counts = pd.Series([tag for row in Y for tag in row]).value_counts()
    factors = {tag: counts.sum() / (5 * n) for tag, n in counts.items()}
    balanced, by_hand, plain = (
        logits_of(make_tagger(**params, class_weight=weight).fit(X, Y), X)
        for weight in ("balanced", factors, None)
    )
    assert_allclose(balanced, by_hand, rtol=1e-7, atol=1e-9)
    assert np.abs(balanced - plain).max() > 1e-3


def test_tags_of_weight_zero_are_not_learnt(make_tagger):
    tagger = make_tagger(class_weight={"O": 0.0}, lr=5e-3, max_epochs=5)
    tagger.fit([["the", "a"], *X], [["O", "O"], *Y])
    others = [
        tag for row, true in zip(tagger.predict(X), Y) for tag, t in zip(row, true) if t != "O"
    ]
    assert "O" not in others


# ----------------------------------------------- validation, early stopping, warm start


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("scoring", [None, span_f1_scorer])
def test_validation_rows(scoring, crf, make_tagger):
    tagger = make_tagger(crf=crf, scoring=scoring, max_epochs=4, n_iter_no_change=9, lr=5e-3)
    held_out = [[], *X[20:], []], [[], *Y[20:], []]
    tagger.fit(X[:20], Y[:20], X_val=held_out[0], y_val=held_out[1])
    scores = [row["valid_score"] for row in tagger.history_]
    assert max(scores) == tagger.score(*held_out)
    best = tagger.history_[int(np.argmax(scores))]["valid_loss"]
    n_words = sum(map(len, held_out[0]))
    assert_allclose(-tagger.score_sequences(*held_out).sum() / n_words, best, rtol=1e-4)


@pytest.mark.parametrize("crf", [False, True])
def test_batches_of_empty_validation_sentences(crf, make_tagger):
    tagger = make_tagger(crf=crf, batch_size=2, max_epochs=1)
    few = tagger.fit(X, Y, X_val=X[:3], y_val=Y[:3]).history_[0]["valid_loss"]
    tagger.fit(X, Y, X_val=[[]] * 5 + X[:3], y_val=[[]] * 5 + Y[:3])
    assert_allclose(tagger.history_[0]["valid_loss"], few, rtol=1e-6)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("scoring", ["loss", None, span_f1_scorer])
def test_early_stopping(scoring, crf, make_tagger):
    tagger = make_tagger(
        crf=crf, early_stopping=True, scoring=scoring, lr=1e-9, max_epochs=9, n_iter_no_change=1
    ).fit([*X, []], [*Y, []])
    assert tagger.n_iter_ < 9
    assert ("valid_score" in tagger.history_[0]) == (scoring != "loss")
    assert "valid_loss" in tagger.history_[0]


@pytest.mark.parametrize("tokenize", ["whitespace", "regex"])
def test_early_stopping_on_texts(tokenize, make_tagger):
    tagger = make_tagger(tokenize=tokenize, early_stopping=True, scoring=None, max_epochs=1)
    tagger.fit([" ".join(words) for words in X], Y)
    assert "valid_score" in tagger.history_[0]


@pytest.mark.parametrize("mode", ["linear", "crf"])
def test_warm_start(mode, make_tagger):
    tagger = make_tagger(warm_start=True, lr=3e-3, **MODES[mode]).fit(X, Y)
    first = tagger.history_
    tagger.fit(X[:10], Y[:10])
    assert [row["epoch"] for row in tagger.history_] == [1, 2, 3, 4]
    assert tagger.history_[:2] == first
    assert tagger.history_[-1]["train_loss"] < first[0]["train_loss"]
    assert tagger.classes_.tolist() == TAGS
    with pytest.raises(ValueError, match=r"y\[0\]\[0\] is 'B-moon', which is none of the 5 tags"):
        tagger.fit([["moon"], ["the"]], [["B-moon"], ["O"]])


def test_warm_start_keeps_the_kind_of_head(make_tagger):
    tagger = make_tagger(warm_start=True).fit(X, Y)
    tagger.set_params(crf=True).fit(X, Y)
    assert not tagger.model_.config.crf
    tagger = make_tagger(warm_start=True, crf=True).fit(X, Y)
    tagger.set_params(crf=False).fit(X, Y)
    assert tagger.model_.config.crf and all(map(legal_bio, tagger.predict(X)))


def test_a_crf_by_default_for_spans(make_tagger):
    spans, words = (make_tagger(crf="auto").fit(X, y) for y in (Y, POS))
    assert spans.model_.config.crf and spans.model_.crf.forbidden.any()
    assert not words.model_.config.crf
    for head in (Linear(), MLPHead((16,))):
        assert not make_tagger(head=head, crf="auto").fit(X, Y).model_.config.crf
    assert same_weights(spans, make_tagger(crf=True).fit(X, Y))


def test_warm_start_keeps_the_constraints(make_tagger):
    tagger = make_tagger(warm_start=True, crf=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"y\[1\]\[0\] is 'I-sea', the first tag .*CRF forbid"):
        tagger.fit([["the"], ["fish"]], [["O"], ["I-sea"]])
    free = make_tagger(warm_start=True, head=CRF(constraints=None)).fit(X, Y)
    free.set_params(head__constraints="bio").fit([["the"], ["fish"]], [["O"], ["I-sea"]])
    assert not free.model_.crf.forbidden.any()


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_model(mode, make_tagger):
    first, second = (make_tagger(max_epochs=1, **MODES[mode]).fit(X, Y) for _ in range(2))
    assert same_weights(first, second)
    other = make_tagger(max_epochs=1, random_state=1, **MODES[mode]).fit(X, Y)
    assert not same_weights(first, other)


# ---------------------------------------------------------------------------- constraints

ILL = [["O", "I-x"], ["B-x", "I-x"]]
WORD_PAIRS = [["the", "fish"], ["a", "boat"]]


@pytest.mark.parametrize("constraints", ["bio", "bioes"])
def test_constraints_that_do_not_fit_the_tags(constraints, make_tagger, no_loading):
    tagger = make_tagger(head=CRF(constraints))
    with pytest.raises(ValueError, match=f'constraints="{constraints}" expects the tags to be'):
        tagger.fit(X, POS)
    with pytest.raises(
        ValueError, match=f'constraints="{constraints}" expects .* got the tag [01]'
    ):
        tagger.fit(X, [[len(tag) % 2 for tag in row] for row in Y])
    with pytest.raises(ValueError, match=r"y\[0\]\[1\] is 'I-x' behind 'O', which the constr"):
        tagger.fit(WORD_PAIRS, ILL)
    with pytest.raises(ValueError, match=r"y\[1\]\[0\] is 'I-x', the first tag of its sentence"):
        tagger.fit(WORD_PAIRS, [["O", "O"], ["I-x", "O"]])
    if constraints == "bioes":
        with pytest.raises(ValueError, match=r"y\[1\]\[1\] is 'B-x', the last tag of its sent"):
            tagger.fit(WORD_PAIRS, [["O", "S-x"], ["O", "B-x"]])


def test_ill_formed_tags_lift_the_constraints(make_tagger):
    with pytest.warns(
        UserWarning, match=r"y\[0\]\[1\] is 'I-x' behind 'O': the tags are no well-formed BIO"
    ) as caught:
        tagger = make_tagger(crf=True).fit(WORD_PAIRS, ILL)
    assert caught[0].filename == __file__
    assert not tagger.model_.crf.forbidden.any()
    assert np.isfinite(tagger.score_sequences(WORD_PAIRS, ILL)).all()
    assert tagger.metric_ == "span_f1"


def test_constraints_in_validation(make_tagger, no_loading):
    with pytest.raises(ValueError, match=r"y_val\[0\]\[0\] is 'I-sea', the first tag"):
        make_tagger(crf=True).fit(X, Y, X_val=[["fish"]], y_val=[["I-sea"]])


def test_constraints_of_parts_of_speech(make_tagger):
    with warnings.catch_warnings(action="error"):
        tagger = make_tagger(crf=True).fit(X, POS)
    assert not tagger.model_.crf.forbidden.any()


# ------------------------------------------------------------------------ what is refused


@dataclass
class Bad:
    message: str  # a regular expression
    data: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = ValueError


def with_entry(rows, i, value):
    return [*rows[:i], value, *rows[i + 1 :]]


BAD_X = {
    "bare string": Bad("^X is one single str.*into a list", {"X": "some text"}),
    "strings": Bad(
        r"^X\[0\] is a value of type str.* list of words.*tokenize=\"whitespace\"",
        {"X": [" ".join(w) for w in X]},
    ),
    "None": Bad("^X is of type NoneType", {"X": None}, error=TypeError),
    "number": Bad("^X is of type int", {"X": 3}, error=TypeError),
    "sparse": Bad("^X is a sparse matrix", {"X": scipy.sparse.eye(40)}, error=TypeError),
    "empty": Bad(r"0 sample\(s\): X is empty", {"X": [], "y": []}),
    "None inside": Bad(r"^X\[3\] is missing", {"X": with_entry(X, 3, None)}),
    "None in a sentence": Bad(
        r"^X\[3\]\[1\] is missing", {"X": with_entry(X, 3, ["a", None, "b"])}
    ),
    "number in a sentence": Bad(
        r"^X\[0\]\[0\] is 7 of type int; expected str for every word",
        {"X": with_entry(X, 0, [7, "a"])},
    ),
    "frame": Bad(r"^X is a table with 1 column", {"X": pd.DataFrame({"words": X})}),
    "words where texts are": Bad(
        r"^X\[0\] is a value of type list.*with tokenize='regex', every row is one str",
        params={"tokenize": "regex"},
    ),
}
BAD_Y = {
    "none": Bad("requires y to be passed, but the target y is None", {"y": None}),
    "sentences": Bad("X has 40 sentences, y has 39 lists", {"y": Y[:-1]}),
    "words": Bad(
        r"^y\[2\] has 1 tags, but its sentence has \d+ words.*1 of 40",
        {"y": with_entry(Y, 2, ["O"])},
    ),
    "strings": Bad(
        r"^y\[0\] is a value of type str.*list of tags.*str\.split", {"y": [" ".join(t) for t in Y]}
    ),
    "one string": Bad("^y is one single str", {"y": "O O O"}),
    "missing": Bad(
        r"^Input y contains NaN: y\[1\]\[0\] is missing",
        {"y": with_entry(Y, 1, [None, *Y[1][1:]])},
    ),
    "mixed": Bad(r"^y mixes types of tags: y\[0\]\[0\]", {"y": with_entry(Y, 1, [3, *Y[1][1:]])}),
    "floats": Bad(r"^y\[0\]\[0\] is 0\.5 of type float", {"y": [[0.5] * len(t) for t in Y]}),
    "one tag": Bad("at least two tags; y has 1 tag: 'O'", {"y": [["O"] * len(t) for t in Y]}),
    "no tag": Bad("at least two tags; y has none", {"X": [[], []], "y": [[], []]}),
    "length of weights": Bad("sample_weight.shape == .*expected", {"sample_weight": np.ones(39)}),
    "no weight": Bad("at least one non-zero", {"sample_weight": np.zeros(40)}),
    "unknown class": Bad("names the class 'moon'", params={"class_weight": {"moon": 2.0}}),
    "negative class": Bad(r"class_weight\['O'\] is -1", params={"class_weight": {"O": -1}}),
    "all classes zero": Bad("weighs nothing", params={"class_weight": dict.fromkeys(TAGS, 0.0)}),
    "validation tag": Bad(
        r"^y_val\[1\]\[2\] is 'B-moon', which is none of the 5 tags seen in training",
        {"X_val": [["a"], ["a", "b", "c"]], "y_val": [["O"], ["O", "O", "B-moon"]]},
    ),
    "validation lengths": Bad(r"^y_val\[0\] has 2 tags", {"X_val": [["a"]], "y_val": [["O", "O"]]}),
    "empty validation": Bad("X_val weighs nothing", {"X_val": [[]], "y_val": [[]]}),
    "half of a validation set": Bad("belong together", {"X_val": X}),
    "held out too much": Bad(
        "validation_fraction=40 holds out 40 of 40",
        params={"early_stopping": True, "validation_fraction": 40},
    ),
}
BAD_PARAMETERS = {
    f"{name}={value!r}": Bad(f"'{name}' parameter of .*Got .* instead", params={name: value})
    for name, values in {
        "tokenize": ["spaces", 3],
        "subword": ["middle", None],
        "self_attention": ["yes", 2],
        "head": ["crf", None],
        "crf": ["yes", None],
        "long_text": ["truncate", None],
        "class_weight": ["even"],
        "max_length": [0],
        "scoring": ["nonesuch"],
    }.items()
    for value in values
} | {
    "max_windows": Bad(
        r"max_windows=.*would leave words", params={"long_text": Windows(max_windows=3)}
    ),
    "stride": Bad("'stride' parameter of Windows", params={"long_text": Windows(stride=0)}),
    "constraints": Bad(
        "'constraints' parameter of CRF", params={"head": CRF("iob"), "crf": "auto"}
    ),
    "dropout": Bad("'dropout' parameter of CRF", params={"head": CRF(dropout=1.0), "crf": "auto"}),
    "crf and linear": Bad(
        r"crf=True and head=Linear\(\) contradict each other",
        params={"crf": True, "head": Linear()},
    ),
    "crf and mlp": Bad("crf=True .*contradict", params={"crf": True, "head": MLPHead()}),
    "no crf": Bad("crf=False .*contradict", params={"crf": False, "head": CRF()}),
}
CASES = {
    f"{group}: {name}": case
    for group, cases in {"X": BAD_X, "y": BAD_Y, "parameter": BAD_PARAMETERS}.items()
    for name, case in cases.items()
}


@pytest.fixture
def no_loading(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)


@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_loaded(name, fitted, no_loading):
    case = CASES[name]
    tagger = copy.copy(fitted).set_params(**case.params)
    before = dict(vars(tagger))
    with pytest.raises(case.error, match=case.message):
        tagger.fit(**{"X": X, "y": Y, **case.data})
    assert vars(tagger).keys() == before.keys()
    assert all(vars(tagger)[key] is value for key, value in before.items())


@pytest.mark.parametrize("name", BAD_X)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_spans"])
def test_bad_sentences_in_prediction(name, method, fitted):
    case = BAD_X[name]
    tagger = copy.copy(fitted).set_params(**case.params)
    with pytest.raises(case.error, match=case.message):
        getattr(tagger, method)(case.data.get("X", X))


@pytest.mark.parametrize("method", ["score", "score_sequences"])
def test_bad_tags_in_scores(method, learnt):
    score = getattr(learnt, method)
    with pytest.raises(ValueError, match=r"^y\[1\]\[1\] is 'B-moon', which is none of the 5 tags"):
        score([["a"], ["a", "b"]], [["O"], ["O", "B-moon"]])
    for name in ("none", "sentences", "words", "strings", "missing", "mixed"):
        with pytest.raises(ValueError, match=BAD_Y[name].message):
            score(X, BAD_Y[name].data["y"])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_spans", "score"])
def test_prediction_before_fit(method, make_tagger):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make_tagger(), method)(X, *[Y][: method == "score"])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        make_tagger().score_sequences(3, 4)


def test_refused_when_loading(make_tagger):
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 tokens"):
        make_tagger(max_length=65).fit(X, Y)
    with pytest.raises(ValueError, match="leaves no room"):
        make_tagger(max_length=2).fit(X, Y)
    with pytest.raises(ValueError, match="stride=30 must be"):
        make_tagger(max_length=9, long_text=Windows(stride=30)).fit(X, Y)


def test_nothing_is_checked_before_fit(make_tagger):
    params = dict.fromkeys(make_tagger().get_params(deep=False), object())
    assert make_tagger(**params).get_params(deep=False) == params
