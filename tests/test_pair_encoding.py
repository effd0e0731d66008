import copy
import random
from itertools import pairwise

import numpy as np
import pytest
from conftest import make_tokenizer
from families import FAMILIES
from hypothesis import example, given, settings, strategies as st
from test_encoding import TEXTS, make, recorded
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast

from sktransformers.inputs import encoding
from sktransformers.inputs.encoding import Counts, TextEncoder, private_tokenizer, special_tokens
from sktransformers.inputs.pair_encoding import PairEncoder, pair_format
from sktransformers.inputs.windows import WindowPlan


def with_pairs(name, single, pair):
    """The tokenizer of a family, with the pairs of its kind."""
    tokenizer = FAMILIES[name].tokenizer()
    tokens = {token.partition(":")[0] for token in f"{single} {pair}".split()} - {"$A", "$B"}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens],
    )
    return tokenizer


# As transformers' own tokenizers of these models join pairs.
JOINED = {
    "bert": lambda: with_pairs("bert", "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": lambda: with_pairs("roberta", "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "xlm-roberta": lambda: with_pairs("xlm-roberta", "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "deberta-v3": lambda: with_pairs("deberta-v3", "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "llama": lambda: with_pairs("llama", "<s> $A", "<s> $A <s>:1 $B:1"),
}
_made = {}


def joined(name):
    if name not in _made:
        _made[name] = private_tokenizer(JOINED[name]())
    return _made[name]


def sequences(encoded):
    return [encoded.sequences.row(i).tolist() for i in range(len(encoded.sequences))]


def types(encoded):
    """Token types of each sequence, as `pad` will write them."""
    lengths = encoded.sequences.lengths
    return [(np.arange(n) >= s).astype(int).tolist() for n, s in zip(lengths, encoded.second)]


# ---------------------------------------------------------------- joined, cut


def test_formats():
    bert = pair_format(make_tokenizer())
    cls, sep = make_tokenizer().convert_tokens_to_ids(["[CLS]", "[SEP]"])
    assert bert == ([cls], [sep], [sep], 1)
    assert pair_format(joined("roberta")) == ([0], [2, 2], [2], None)
    # The second <s> belongs to the second text.
    assert pair_format(joined("llama")) == ([0], [0], [], 0)
    assert pair_format(ByT5Tokenizer()) == ([], [1], [1], None)
    assert pair_format(CanineTokenizer()) == ([0xE000], [0xE001], [0xE001], None)


@pytest.mark.parametrize("name", FAMILIES)
def test_something_stands_between_the_texts(name):
    tokenizer = private_tokenizer(FAMILIES[name].tokenizer())
    prefix, middle, suffix, _ = pair_format(tokenizer)
    separator = tokenizer.sep_token_id
    assert middle == [tokenizer.eos_token_id if separator is None else separator]
    assert (prefix, suffix) == special_tokens(tokenizer)
    encoder = PairEncoder(tokenizer, 20, joined=True)
    (row,) = sequences(encoder.encode([("the boat", "noisy fish")]).encoded)
    first, second = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("the boat", "noisy fish")
    )
    room = 20 - len(prefix + middle + suffix)
    assert len(row) == min(20, len(first + second) + 20 - room)
    if len(row) < 20:
        assert row == prefix + first + middle + second + suffix
    (empty,) = sequences(encoder.encode([("", "")]).encoded)
    assert empty == prefix + middle + suffix


def words(rng, n):
    return " ".join(rng.choices(["the", "boat", "noisy", "fish", "salty!", "жук"], k=n))


@pytest.mark.parametrize("name", JOINED)
@settings(max_examples=150)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(6, 40), st.integers(0, 9))
@example(30, 30, 21, 0)
@example(30, 30, 22, 0)
@example(30, 31, 21, 0)
@example(31, 30, 21, 0)
@example(3, 40, 20, 0)
@example(40, 3, 20, 0)
def test_cut_as_transformers_cuts_the_longer_text_first(name, n1, n2, max_length, seed):
    rng = random.Random(seed)
    a, b = words(rng, n1), words(rng, n2)
    # In lists: an empty second text on its own would be none at all.
    expected = copy_of(name)(
        [a], [b], truncation="longest_first", max_length=max_length, return_token_type_ids=True
    )
    encoder = PairEncoder(joined(name), max_length, joined=True, token_types=True)
    encoded, counts = encoder.encode([(a, b)])
    assert sequences(encoded) == expected["input_ids"]
    assert types(encoded) == expected["token_type_ids"]
    (whole,) = copy_of(name)([a], [b])["input_ids"]
    assert counts.truncated == (len(whole) > max_length)


_copies = {}


def copy_of(name):
    """A separate tokenizer for calls that leave settings inside."""
    if name not in _copies:
        _copies[name] = copy.deepcopy(joined(name))
    return _copies[name]


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("max_length", [8, 512])
def test_awkward_texts_as_transformers_reads_them(name, max_length):
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    tokenizer = copy_of(name)
    expected = [
        tokenizer(a, b, truncation="longest_first", max_length=max_length)["input_ids"]
        for a, b in pairs
    ]
    encoder = PairEncoder(joined(name), max_length, joined=True)
    assert sequences(encoder.encode(pairs).encoded) == expected


@pytest.mark.parametrize("name", ["wordpiece", "bpe", "bpe, nothing added", "unigram", "slow"])
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=()), max_size=30)] * 2), max_size=5
    ),
    st.integers(5, 20),
    st.booleans(),
    st.sampled_from([None, WindowPlan(), WindowPlan(2), WindowPlan(1, 2)]),
)
@example([("half a pair \ud83d", "\udc4d"), ("\udc4d", "")], 8, True, None)
def test_any_pair_becomes_sequences(name, pairs, max_length, symmetric, windows):
    encoder = PairEncoder(
        make(name), max_length, joined=True, symmetric=symmetric, token_types=True, windows=windows
    )
    prefix, middle, suffix, _ = encoder.format
    encoded, counts = encoder.encode(pairs)
    assert counts.texts == len(encoded) == len(pairs)
    assert encoded.rows.shape == (len(pairs), 1 + symmetric)
    assert (np.diff(encoded.windows) >= 1).all()
    assert len(encoded.second) == len(encoded.sequences)
    for row in sequences(encoded):
        assert len(prefix + middle + suffix) <= len(row) <= max_length
        assert row[: len(prefix)] == prefix
        assert row[len(row) - len(suffix) :] == suffix


def test_both_orders():
    pairs = [("the boat", "fish"), ("salty", "a very noisy street")]
    turned = [pair[::-1] for pair in pairs]
    one = PairEncoder(joined("bert"), 6, joined=True, token_types=True)
    both = PairEncoder(joined("bert"), 6, joined=True, token_types=True, symmetric=True)
    encoded, counts = both.encode(pairs)
    assert encoded.rows.tolist() == [[0, 1], [2, 3]]
    forth, back = one.encode(pairs).encoded, one.encode(turned).encoded
    assert sequences(encoded)[::2] == sequences(forth)
    assert sequences(encoded)[1::2] == sequences(back)
    assert types(encoded)[::2] == types(forth)
    assert types(encoded)[1::2] == types(back)
    assert counts == one.encode(pairs).counts
    assert counts.truncated == 1


def test_token_types_only_on_demand():
    assert PairEncoder(joined("bert"), 9, joined=True).encode([("a", "b")]).encoded.second is None
    roberta = PairEncoder(joined("roberta"), 9, joined=True, token_types=True)
    (found,) = types(roberta.encode([("a", "b")]).encoded)
    assert not any(found)  # its format knows one type only


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("windows", [None, WindowPlan(2)])
def test_pairs_are_the_same_across_chunks(name, windows, monkeypatch):
    pairs = [(a, b) for a in TEXTS[:4] for b in TEXTS[-3:]]
    encoder = PairEncoder(joined(name), 10, joined=True, symmetric=True, windows=windows)
    expected = encoder.encode(pairs)
    monkeypatch.setattr(encoding, "CHUNK", 5)
    found = encoder.encode(pairs)
    assert sequences(found.encoded) == sequences(expected.encoded)
    np.testing.assert_array_equal(found.encoded.rows, expected.encoded.rows)
    np.testing.assert_array_equal(found.encoded.windows, expected.encoded.windows)
    assert found.counts == expected.counts


def test_no_room_for_a_pair():
    PairEncoder(joined("roberta"), 6, joined=True)
    with pytest.raises(ValueError, match=r"max_length=5 leaves no room for a pair .* 4 special"):
        PairEncoder(joined("roberta"), 5, joined=True)
    with pytest.raises(ValueError, match="stride=3 must be at least 1 and at most 2"):
        PairEncoder(joined("roberta"), 6, joined=True, windows=WindowPlan(3))


def test_a_tokenizer_that_leaves_nothing_of_any_text():
    backend = Tokenizer(BPE(vocab={"<s>": 0}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    with pytest.raises(ValueError, match="does not keep a text in one piece"):
        PairEncoder(private_tokenizer(tokenizer), 9, joined=True)


def test_the_tokenizer_is_left_alone():
    tokenizer = joined("bert")
    before = tokenizer.backend_tokenizer.to_str()
    for apart in (True, False):
        PairEncoder(tokenizer, 9, joined=apart, windows=WindowPlan(2)).encode([("a", "b " * 30)])
    assert tokenizer.backend_tokenizer.to_str() == before


# ---------------------------------------------------------- joined, in windows

# To Canine's tokenizer a character is a token, so every token can tell where it comes from.
CLS, SEP = 0xE000, 0xE001
FIRST, SECOND = 0x1000, 0x3000


def numbered(base, n):
    return "".join(chr(base + i) for i in range(n))


def sides(row):
    """Positions in the two texts that a sequence shows."""
    assert row[0] == CLS
    assert row[-1] == SEP
    middle = row.index(SEP)
    return [i - FIRST for i in row[1:middle]], [i - SECOND for i in row[middle + 1 : -1]]


@settings(max_examples=300)
@given(
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(5, 40),
    st.none() | st.integers(1, 10),
    st.none() | st.integers(1, 4),
)
def test_windows_read_all_of_both_texts(n1, n2, max_length, stride, max_windows):
    room = max_length - 3
    plan = WindowPlan(stride and min(stride, room), max_windows)
    encoder = PairEncoder(make("slow"), max_length, joined=True, windows=plan)
    pair = (numbered(FIRST, n1), numbered(SECOND, n2))
    encoded, counts = encoder.encode([pair])
    rows = sequences(encoded)
    assert encoded.windows.tolist() == [0, len(rows)]
    assert max(map(len, rows)) <= max_length
    if max_windows is not None:
        assert len(rows) <= max_windows
    read = [sides(row) for row in rows]
    for side, n in ((0, n1), (1, n2)):
        parts = [window[side] for window in read]
        for part in parts:  # in one piece
            assert part == list(range(part[0], part[0] + len(part))) if part else n == 0
        for part, later in pairwise(parts):  # in order and without a gap
            assert part[:1] <= later[:1] <= [i + 1 for i in part[-1:]]
        if not counts.truncated:
            assert {i for part in parts for i in part} == set(range(n))
        if n <= room // 2 and n == min(n1, n2):
            assert all(len(part) == n for part in parts)
    if counts.truncated:
        assert len(rows) == max_windows
    if n1 + n2 <= room:
        assert len(rows) == 1
    # The first window is what would be left of the pair if it were cut, but for a few tokens
    # where the windows need not be full.
    cut = sequences(PairEncoder(make("slow"), max_length, joined=True).encode([pair]).encoded)[0]
    for part, whole in zip(read[0], sides(cut)):
        assert part == whole[: len(part)]
        assert stride is None or len(part) == len(whole)


def test_a_short_text_stands_in_every_window():
    # Room for 10: 3 tokens of the first text, 7 of the second.
    encoder = PairEncoder(make("slow"), 13, joined=True, windows=WindowPlan())
    encoded, _ = encoder.encode([(numbered(FIRST, 3), numbered(SECOND, 20))])
    parts = [sides(row) for row in sequences(encoded)]
    assert [first for first, _ in parts] == [[0, 1, 2]] * 3
    assert [(second[0], second[-1]) for _, second in parts] == [(0, 6), (6, 12), (13, 19)]


def test_two_long_texts_advance_together():
    # Room for 10, 5 a side: 2 windows of the first text, 4 of the second.
    encoder = PairEncoder(make("slow"), 13, joined=True, windows=WindowPlan())
    encoded, _ = encoder.encode([(numbered(FIRST, 10), numbered(SECOND, 20))])
    parts = [[(side[0], side[-1]) for side in sides(row)] for row in sequences(encoded)]
    assert parts == [
        [(0, 4), (0, 4)],
        [(0, 4), (5, 9)],
        [(5, 9), (10, 14)],
        [(5, 9), (15, 19)],
    ]


def test_pairs_of_too_many_windows():
    plan = WindowPlan(max_windows=3)
    encoder = PairEncoder(make("slow"), 13, joined=True, windows=plan)
    pairs = [("x" * 10, "y" * 20), ("x" * 10, "y" * 15), ("", "")]
    counts = encoder.encode(pairs).counts
    assert counts == Counts(3, 1, 55, 0, "pairs", 3)
    (warning,) = recorded(counts.warn, 13)
    assert str(warning.message).startswith("1 of 3 pairs are longer than max_windows=3 windows of")


def test_cut_pairs_are_called_pairs():
    counts = PairEncoder(joined("bert"), 9, joined=True).encode([("a " * 5, "b " * 5)]).counts
    (warning,) = recorded(counts.warn, 9)
    assert str(warning.message) == (
        "1 of 1 pairs are longer than max_length=9 tokens and were cut there."
    )


# --------------------------------------------------------------- one at a time


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("windows", [None, WindowPlan(), WindowPlan(2, 3)])
def test_texts_apart_are_encoded_as_single_texts(name, windows):
    tokenizer = private_tokenizer(FAMILIES[name].tokenizer())
    pairs = [(a, b) for a in TEXTS for b in TEXTS[:3]]
    encoded, counts = PairEncoder(tokenizer, 12, joined=False, windows=windows).encode(pairs)
    single = TextEncoder(tokenizer, 12, windows)
    assert encoded.rows.shape == (len(pairs), 2)
    assert len(encoded.windows) - 1 == len(TEXTS)  # each distinct text once
    assert (encoded.second, encoded.words) == (None, None)
    cut = 0
    for texts, pair in zip(encoded.rows, pairs, strict=True):
        cut += any(single.encode([text]).counts.truncated for text in pair)
        for i, text in zip(texts, pair):
            expected = sequences(single.encode([text]).encoded)
            assert sequences(encoded)[encoded.windows[i] : encoded.windows[i + 1]] == expected
    assert (counts.texts, counts.truncated, counts.unit) == (len(pairs), cut, "pairs")


def test_single_texts_of_an_encoder_of_pairs():
    encoder = PairEncoder(make("bpe"), 12, joined=False, windows=WindowPlan())
    expected = TextEncoder(make("bpe"), 12, WindowPlan()).encode(TEXTS)
    found = encoder.encode_texts(TEXTS)
    assert sequences(found.encoded) == sequences(expected.encoded)
    assert found.encoded.rows.tolist() == expected.encoded.rows.tolist()
    assert found.counts == expected.counts


@pytest.mark.parametrize("apart", [True, False])
def test_no_pairs(apart):
    encoded, counts = PairEncoder(joined("bert"), 9, joined=not apart).encode([])
    assert len(encoded) == len(encoded.sequences) == counts.texts == 0


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("windows", [None, WindowPlan(60)])
def test_a_hundred_thousand_words(apart, windows):
    book = " ".join(f"boat{i % 10}" for i in range(100_000))
    encoder = PairEncoder(joined("bert"), 128, joined=not apart, windows=windows)
    encoded, counts = encoder.encode([(book, book[:-7]), ("boat", book)])
    assert counts.truncated == (2 if windows is None else 0)
    assert encoded.sequences.lengths.max() == 128
