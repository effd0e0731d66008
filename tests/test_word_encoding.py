import copy
import time
from itertools import chain

import numpy as np
import pytest
from conftest import make_texts, make_tokenizer
from families import FAMILIES
from hypothesis import example, given, settings, strategies as st
from test_encoding import TOKENIZERS, make
from tokenizers.pre_tokenizers import ByteLevel

from sktransformers.inputs import encoding
from sktransformers.inputs.encoding import private_tokenizer, special_tokens
from sktransformers.inputs.word_encoding import WordEncoder, needs_spaces, split_words


def windows(encoded, row=0):
    """Ids of a row's windows, and the token positions of the words that belong to each."""
    (text,) = encoded.rows[row]
    found = []
    for i in range(encoded.windows[text], encoded.windows[text + 1]):
        begin, end = (column.row(i).tolist() for column in encoded.words)
        found.append((encoded.sequences.row(i).tolist(), list(zip(begin, end))))
    return found


def pieces(encoded, row=0):
    """Token ids of each word of a row, in the order of its windows."""
    return [ids[begin:end] for ids, words in windows(encoded, row) for begin, end in words]


# -------------------------------------------------- as transformers splits them


def with_space(tokenizer):
    """What transformers demands of byte-level tokenizers that get words."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    return tokenizer


REFERENCES = {
    "wordpiece": copy.deepcopy(make("wordpiece")),
    "unigram": copy.deepcopy(make("unigram")),
    "bpe": with_space(make("bpe")),
    "bpe, nothing added": with_space(make("bpe, nothing added")),
}
words_ = st.lists(
    st.sampled_from(["fish", "noisy!", "feijão", "x", "Boat", "don't", "…", "3.14"])
    | st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
    max_size=12,
)


@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=150)
@given(words_)
@example(["", "\x00", "a b", " c", "  d", "\u200b", "\u3000", "ﷺ"])
def test_same_ids_as_transformers_for_split_words(name, words):
    reference = REFERENCES[name](words, is_split_into_words=True) if words else None
    tokenizer = make(name)
    encoded = WordEncoder(tokenizer, 500).encode([words]).encoded
    if not words:
        assert windows(encoded) == []
        return
    (found,) = windows(encoded)
    # transformers drops words of which the vocabulary leaves nothing.
    unknown = tokenizer.eos_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    ids = np.array(reference["input_ids"], int)
    owners = np.array([-1 if w is None else w for w in reference.word_ids()], int)
    expected = [ids[owners == i].tolist() or [unknown] for i in range(len(words))]
    assert pieces(encoded) == expected
    prefix, suffix = special_tokens(tokenizer)
    assert found[0] == prefix + list(chain.from_iterable(expected)) + suffix
    if len(set(owners) - {-1}) == len(words):
        assert found[0] == reference["input_ids"]
    # The words fill the sentence.
    begin, end = np.array(found[1]).T
    assert begin[0] == len(prefix)
    assert begin[1:].tolist() == end[:-1].tolist()
    assert end[-1] == len(found[0]) - len(suffix)


def test_byte_level_words_have_their_spaces():
    for name in ("roberta", "modernbert", "gpt2", "llama", "qwen3"):
        tokenizer = private_tokenizer(FAMILIES[name].tokenizer())
        assert needs_spaces(tokenizer)
        assert not needs_spaces(with_space(tokenizer))
        expected = WordEncoder(with_space(tokenizer), 99).encode([["the", "fish"]]).encoded
        assert windows(WordEncoder(tokenizer, 99).encode([["the", "fish"]]).encoded) == windows(
            expected
        )
    for name in ("bert", "xlm-roberta", "mpnet", "albert"):
        assert not needs_spaces(private_tokenizer(FAMILIES[name].tokenizer()))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_read_as_inside_a_text(name):
    """All words but the first, which byte-level vocabularies read without a space."""
    tokenizer = make(name)
    words = make_texts(9)[0][2].split()
    text = tokenizer(" ".join(["the", *words]), add_special_tokens=False)["input_ids"]
    first = tokenizer("the", add_special_tokens=False)["input_ids"]
    found = pieces(WordEncoder(tokenizer, 500).encode([words]).encoded)
    assert first + list(chain.from_iterable(found)) == text


# ------------------------------------------------------------- every word, once


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=()), max_size=9), max_size=12), max_size=4
    ),
    st.integers(3, 12),
)
@example([["\ud83d", "\udc4d x", ""], [], ["\x00"]], 5)
def test_every_word_has_a_token(name, rows, max_length):
    tokenizer = make(name)
    encoder = WordEncoder(tokenizer, max_length)
    prefix, suffix = special_tokens(tokenizer)
    encoded, counts = encoder.encode(rows)
    assert len(encoded) == counts.texts == len(rows)
    assert counts.truncated == 0
    for i, words in enumerate(rows):
        found = windows(encoded, i)
        assert (found == []) == (words == [])
        for ids, places in found:
            assert len(ids) <= max_length
            assert ids[: len(prefix)] == prefix
            assert ids[len(ids) - len(suffix) :] == suffix
            assert places
            assert all(
                len(prefix) <= begin < end <= len(ids) - len(suffix) for begin, end in places
            )
        # Alone, and in a window that has no end, a word has the same tokens.
        alone = WordEncoder(tokenizer, 1000).encode([[word] for word in words]).encoded
        expected = [pieces(alone, j)[0][: encoder.room] for j in range(len(words))]
        assert pieces(encoded, i) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_of_nothing_is_unknown(name):
    tokenizer = make(name)
    (found,) = pieces(WordEncoder(tokenizer, 9).encode([[""]]).encoded)
    unknown = tokenizer.unk_token_id
    assert found == [tokenizer.eos_token_id or 0 if unknown is None else unknown]


def test_a_word_longer_than_a_window_keeps_its_beginning():
    encoder = WordEncoder(make("wordpiece"), 6)
    found = pieces(encoder.encode([["fish", "x" * 50, "boat"]]).encoded)
    assert list(map(len, found)) == [1, 4, 1]


def test_sentences_are_rows():
    rows = [["the", "fish"], [], ["a", "very", "noisy", "boat"] * 5, [], ["salty"]]
    encoder = WordEncoder(make("wordpiece"), 8)
    encoded, counts = encoder.encode(rows)
    assert encoded.rows.tolist() == [[i] for i in range(5)]
    assert np.diff(encoded.windows)[[0, 1, 3, 4]].tolist() == [1, 0, 0, 1]
    for i, row in enumerate(rows):
        assert windows(encoded, i) == windows(encoder.encode([row]).encoded)
    assert (counts.tokens, counts.unknown, counts.unit) == (23, 0, "sentences")
    # As it comes from a data frame.
    series = np.empty(5, object)
    series[:] = [np.array(row, object) for row in rows]
    assert windows(encoder.encode(series).encoded, 2) == windows(encoded, 2)


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_no_words(rows):
    encoded, counts = WordEncoder(make("wordpiece"), 8).encode(rows)
    assert len(encoded) == len(rows)
    assert len(encoded.sequences) == counts.tokens == 0
    assert [windows(encoded, i) for i in range(len(rows))] == [[]] * len(rows)


def test_unknown_words_are_counted_each_time():
    counts = WordEncoder(make("wordpiece"), 9).encode([["привет", "fish"], ["привет"]]).counts
    assert (counts.tokens, counts.unknown) == (3, 2)


def test_words_are_the_same_across_chunks(monkeypatch):
    rows = [text.split() for text in make_texts(20)[0]]
    encoder = WordEncoder(make("bpe"), 12)
    expected = [windows(encoder.encode([row]).encoded) for row in rows]
    monkeypatch.setattr(encoding, "CHUNK", 3)
    encoded = encoder.encode(rows).encoded
    assert [windows(encoded, i) for i in range(20)] == expected


# -------------------------------------------------------------------- windows


@st.composite
def long_sentences(draw):
    room = draw(st.integers(1, 25))
    lengths = draw(st.lists(st.integers(1, room), min_size=1, max_size=60))
    if sum(lengths) <= room:
        lengths += [room] * 2
    return np.concatenate([[0], np.cumsum(lengths)]), room, draw(st.integers(1, room))


@settings(max_examples=400)
@given(long_sentences(), st.integers(0, 99))
def test_windows_of_whole_words(case, offset):
    token, room, stride = case
    first, last, own_first, own_last = split_words(token + offset, room, stride)
    n = len(token) - 1
    assert (first[0], last[-1]) == (0, n)
    assert (token[last] - token[first] <= room).all()
    assert (np.diff(first) > 0).all()
    # Every word in one window, in the order of the sentence, and every window for a word.
    assert own_first[0] == 0
    assert own_last[-1] == n
    assert (own_first[1:] == own_last[:-1]).all()
    assert (own_first < own_last).all()
    assert (first <= own_first).all()
    assert (own_last <= last).all()
    # No more context would have fitted.
    assert all(e == n or token[e + 1] - token[b] > room for b, e in zip(first, last))
    assert token[n] - token[first[-1] - 1] > room


@settings(max_examples=400)
@given(long_sentences())
def test_a_word_belongs_where_most_of_its_context_is(case):
    token, room, stride = case
    first, last, own_first, own_last = split_words(token, room, stride)
    n = len(token) - 1
    for j in range(n):
        distances = [
            min(
                np.inf if begin == 0 else token[j] - token[begin],
                np.inf if end == n else token[end] - token[j + 1],
            )
            if begin <= j < end
            else -1
            for begin, end in zip(first, last)
        ]
        (owner,) = np.flatnonzero((own_first <= j) & (j < own_last))
        assert owner == np.argmax(distances)  # the first of the largest


def test_windows_of_short_words():
    # Ten words of one token, room for four, a new window every second word.
    spans = split_words(np.arange(11), 4, 2)
    assert spans.T.tolist() == [[0, 4, 0, 3], [2, 6, 3, 5], [4, 8, 5, 7], [6, 10, 7, 10]]


def test_stride_is_half_a_window_by_default():
    sentence = ["fish"] * 60
    default = WordEncoder(make("wordpiece"), 22).encode([sentence]).encoded
    assert windows(default) == windows(
        WordEncoder(make("wordpiece"), 22, 10).encode([sentence]).encoded
    )
    assert len(default.sequences) == 5
    assert len(WordEncoder(make("wordpiece"), 22, 20).encode([sentence]).encoded.sequences) == 3
    assert len(WordEncoder(make("wordpiece"), 3).encode([sentence]).encoded.sequences) == 60


@pytest.mark.parametrize("stride", [0, -3, 8])
def test_a_stride_that_leaves_gaps(stride):
    WordEncoder(make("wordpiece"), 9, 7)
    with pytest.raises(ValueError, match=f"stride={stride} must be at least 1 and at most 7"):
        WordEncoder(make("wordpiece"), 9, stride)


def test_no_room_for_a_word():
    with pytest.raises(ValueError, match="max_length=2 leaves no room for text"):
        WordEncoder(make("wordpiece"), 2)


# ------------------------------------------------------------------- in seconds


@pytest.mark.parametrize("name", ["wordpiece", "bpe", "slow"])
def test_many_sentences_and_a_long_one(name):
    rng = np.random.default_rng(0)
    vocabulary = [f"boat{i}" for i in range(5000)]
    rows = [[vocabulary[i] for i in rng.integers(0, 5000, 30)] for _ in range(10_000)]
    begin = time.perf_counter()
    encoder = WordEncoder(make(name), 256)
    encoded = encoder.encode([*rows, list(chain.from_iterable(rows[:3400]))]).encoded
    assert time.perf_counter() - begin < 20  # mostly less than one
    words = np.concatenate([[0], np.cumsum(encoded.words.begin.lengths)])[encoded.windows]
    assert np.diff(words).tolist() == [30] * 10_000 + [102_000]


def test_the_tokenizer_is_left_alone():
    tokenizer = private_tokenizer(make_tokenizer())
    before = tokenizer.backend_tokenizer.to_str()
    WordEncoder(tokenizer, 9).encode([["fish", "\ud83d"], ["boat"] * 30])
    assert tokenizer.backend_tokenizer.to_str() == before
