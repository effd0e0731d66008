import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from conftest import make_texts, make_tokenizer
from families import FAMILIES
from hypothesis import example, given, settings, strategies as st
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast

from sktransformers.inputs import encoding
from sktransformers.inputs.encoding import (
    Counts,
    Ragged,
    TextEncoder,
    private_tokenizer,
    special_tokens,
)
from sktransformers.inputs.windows import CUT, WindowPlan

# One fast tokenizer of each kind, and two in plain Python.
TOKENIZERS = {
    "wordpiece": make_tokenizer,
    "bpe": FAMILIES["roberta"].tokenizer,
    "bpe, nothing added": FAMILIES["gpt2"].tokenizer,
    "bpe, only before": FAMILIES["llama"].tokenizer,
    "unigram": FAMILIES["xlm-roberta"].tokenizer,
    "slow, only after": ByT5Tokenizer,
    "slow": CanineTokenizer,
}
TEXTS = [
    "The fish and the boat.",
    "x",
    "o feijão é muito salty",
    "👍🏽 👩‍👩‍👧 emoji",
    "שלום עולם and العربية",
    "null \x00 inside, \x00",
    "[SEP] </s> <s> [MASK] written out",
    " \t\n ",
    "tabs\tand\nlines\r\n",
    "very " * 40,
]

_made = {}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return make(request.param)


def make(name):
    if name not in _made:
        _made[name] = private_tokenizer(TOKENIZERS[name]())
    return _made[name]


def state(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else None


def rows(encoder, texts):
    """Ids of each text, which is one row and one window."""
    encoded = encoder.encode(texts).encoded
    assert encoded.rows.tolist() == [[i] for i in range(len(texts))]
    assert encoded.windows.tolist() == list(range(len(texts) + 1))
    return [encoded.sequences.row(i).tolist() for i in range(len(texts))]


def windows(encoder, texts):
    """Ids of each text's windows."""
    encoded = encoder.encode(texts).encoded
    assert encoded.rows.tolist() == [[i] for i in range(len(texts))]
    found = [encoded.sequences.row(i).tolist() for i in range(len(encoded.sequences))]
    return [found[begin:end] for begin, end in pairwise(encoded.windows)]


# ------------------------------------------------------- what an encoder gives


@pytest.mark.parametrize("max_length", [4, 9, 512])
def test_same_ids_as_the_tokenizer_itself(tokenizer, max_length):
    copy = private_tokenizer(tokenizer)  # settings of a call stay inside
    expected = [copy(t, truncation=True, max_length=max_length)["input_ids"] for t in TEXTS]
    assert rows(TextEncoder(tokenizer, max_length), TEXTS) == expected


def test_an_empty_text_has_a_token(tokenizer):
    (row,) = rows(TextEncoder(tokenizer, 8), [""])
    prefix, suffix = special_tokens(tokenizer)
    if prefix or suffix:
        assert row == prefix + suffix
    else:  # attention over nothing has no value
        assert row == [tokenizer.eos_token_id]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1),
    max_length=st.integers(3, 20),
)
@example(texts=["half a pair \ud83d", "\udc4d", "whole"], max_length=8)
@example(texts=["\ud83d\udc4d"], max_length=8)
def test_any_text_becomes_ids_of_the_vocabulary(name, texts, max_length):
    tokenizer = make(name)
    encoder = TextEncoder(tokenizer, max_length)
    prefix, suffix = special_tokens(tokenizer)
    found = rows(encoder, texts)
    assert len(found) == len(texts)
    top = max(len(tokenizer), 0x110000 if name == "slow" else 0)  # Canine: a code point is an id
    for row in found:
        assert 1 <= len(row) <= max_length
        assert all(0 <= i < top for i in row)
        assert row[: len(prefix)] == prefix
        assert row[len(row) - len(suffix) :] == suffix


def test_half_a_surrogate_pair_does_not_touch_other_texts(tokenizer):
    encoder = TextEncoder(tokenizer, 30)
    with_half = rows(encoder, ["fish \ud83d", *TEXTS])
    assert with_half[1:] == rows(encoder, TEXTS)
    if not isinstance(tokenizer, CanineTokenizer):  # to which any code point is an id
        assert with_half[0] == rows(encoder, ["fish \ufffd"])[0]


def test_order_is_that_of_the_texts_across_chunks(tokenizer, monkeypatch):
    texts = [text + str(i) for i, text in enumerate(TEXTS * 2)]
    one_by_one = [rows(TextEncoder(tokenizer, 12), [text])[0] for text in texts]
    whole = TextEncoder(tokenizer, 12).encode(texts).counts
    monkeypatch.setattr(encoding, "CHUNK", 3)
    assert rows(TextEncoder(tokenizer, 12), texts) == one_by_one
    assert TextEncoder(tokenizer, 12).encode(texts).counts == whole


def test_no_texts_are_no_rows(tokenizer):
    encoded, counts = TextEncoder(tokenizer, 12).encode([])
    assert (len(encoded), len(encoded.sequences)) == (0, 0)
    assert counts == Counts(0, 0, 0, 0)


def test_no_room_for_a_token_of_the_text():
    tokenizer = make("wordpiece")  # two special tokens
    with pytest.raises(ValueError, match=r"max_length=2 leaves no room .* 2 special tokens"):
        TextEncoder(tokenizer, 2)
    assert len(rows(TextEncoder(tokenizer, 3), ["fish boat"])[0]) == 3


def test_ragged_rows():
    rows = [[1, 2, 3], [], [4], [5, 6]]
    ragged = Ragged.of(rows)
    assert ragged.lengths.tolist() == [3, 0, 1, 2]
    taken = ragged.take(np.array([3, 0, 1]))
    assert [taken.row(i).tolist() for i in range(3)] == [[5, 6], [1, 2, 3], []]
    joined = Ragged.concatenate([ragged, taken])
    assert [joined.row(i).tolist() for i in range(7)] == [*rows, [5, 6], [1, 2, 3], []]


# -------------------------------------------------------------------- windows


@st.composite
def plans(draw):
    """A plan, the room of its windows, and lengths of texts."""
    room = draw(st.integers(1, 30))
    plan = WindowPlan(
        draw(st.none() | st.integers(1, room)),
        draw(st.none() | st.integers(1, 5)),
    )
    return plan, room, np.array(draw(st.lists(st.integers(0, 200), min_size=1, max_size=20)))


def spans(plan, room, lengths):
    """Begin and end of the windows of each text."""
    needed = plan.needed(lengths, room)
    text, number, counts = plan.choose(needed)
    begin, end = plan.spans(lengths[text], room, number, needed[text])
    found = list(zip(begin.tolist(), end.tolist()))
    ends = np.cumsum(counts)
    return [found[e - c : e] for e, c in zip(ends, counts)]


@settings(max_examples=300)
@given(plans())
def test_windows_cover_a_text_as_far_as_they_may(case):
    plan, room, lengths = case
    needed = plan.needed(lengths, room)
    for n, k, found in zip(lengths.tolist(), needed.tolist(), spans(plan, room, lengths)):
        assert len(found) == (k if plan.max_windows is None else min(k, plan.max_windows))
        assert found[0][0] == 0
        if len(found) == k:
            assert found[-1][1] == n
        for begin, end in found:
            assert 0 < end - begin <= room or n == 0
        for (begin, end), (later, _) in pairwise(found):
            assert begin < later <= end
            if plan.stride is not None:
                assert later - begin <= plan.stride


@settings(max_examples=300)
@given(plans())
def test_windows_are_few_and_evenly_spread(case):
    plan, room, lengths = case
    unlimited = WindowPlan(plan.stride)
    for n, found in zip(lengths.tolist(), spans(unlimited, room, lengths)):
        assert len({end - begin for begin, end in found}) == 1
        steps = {later[0] - begin for (begin, _), later in pairwise(found)}
        assert not steps or max(steps) - min(steps) <= 1
        if n <= room:
            assert found == [(0, n)]
        elif plan.stride is None:
            assert len(found) == -(-n // room)
            assert found[0][1] == -(-n // len(found))  # hence they hardly overlap
        else:
            assert len(found) == -(-(n - room) // plan.stride) + 1
            assert found[0][1] == room


@settings(max_examples=100)
@given(plans())
def test_to_cut_is_to_read_the_first_window(case):
    _, room, lengths = case
    assert spans(CUT, room, lengths) == [[(0, min(n, room))] for n in lengths]
    assert ((CUT.needed(lengths, room) > 1) == (lengths > room)).all()


@pytest.mark.parametrize("plan", [WindowPlan(), WindowPlan(3), WindowPlan(max_windows=2)])
def test_every_window_stands_between_the_special_tokens(tokenizer, plan):
    encoder = TextEncoder(tokenizer, 9, plan)
    prefix, suffix = special_tokens(tokenizer)
    whole = rows(TextEncoder(tokenizer, 10_000), TEXTS)
    needed = 0
    for found, ids in zip(windows(encoder, TEXTS), whole, strict=True):
        body = np.array(ids[len(prefix) : len(ids) - len(suffix)])
        lengths = np.array([len(body)])
        expected = spans(plan, encoder.room, lengths)[0]
        assert found == [prefix + body[b:e].tolist() + suffix for b, e in expected]
        needed += plan.needed(lengths, encoder.room)[0] > len(found)
    assert encoder.encode(TEXTS).counts.truncated == needed
    assert (needed > 0) == (plan.max_windows is not None)


def test_an_empty_text_has_a_window(tokenizer):
    encoder = TextEncoder(tokenizer, 9, WindowPlan())
    assert windows(encoder, ["", "x" * 40])[0] == [rows(TextEncoder(tokenizer, 9), [""])[0]]


def test_windows_are_the_same_across_chunks(tokenizer, monkeypatch):
    encoder = TextEncoder(tokenizer, 8, WindowPlan(2, 3))
    expected, counts = windows(encoder, TEXTS), encoder.encode(TEXTS).counts
    monkeypatch.setattr(encoding, "CHUNK", 3)
    assert windows(encoder, TEXTS) == expected
    assert encoder.encode(TEXTS).counts == counts


@pytest.mark.parametrize("stride", [0, -1, 8])
def test_a_stride_that_leaves_gaps(stride):
    TextEncoder(make("wordpiece"), 9, WindowPlan(7))
    with pytest.raises(ValueError, match=f"stride={stride} must be at least 1 and at most 7"):
        TextEncoder(make("wordpiece"), 9, WindowPlan(stride))


def test_no_windows_at_all():
    with pytest.raises(ValueError, match="max_windows=0 must be at least 1"):
        TextEncoder(make("wordpiece"), 9, WindowPlan(max_windows=0))


def test_windows_of_a_hundred_thousand_words():
    book = " ".join(f"boat{i % 10}" for i in range(100_000))
    encoded, counts = TextEncoder(make("wordpiece"), 128, WindowPlan(63)).encode([book, "boat"])
    assert counts.tokens == 200_001
    assert counts.truncated == 0
    assert np.diff(encoded.windows).tolist() == [-(-(200_000 - 126) // 63) + 1, 1]


# ------------------------------------------------------------- shared tokenizers


@pytest.mark.parametrize("name", [n for n in TOKENIZERS if not n.startswith("slow")])
def test_the_users_tokenizer_is_left_alone(name):
    users = TOKENIZERS[name]()
    if users.pad_token_id is not None:
        users("fish", padding="max_length", max_length=7)
    users("fish", truncation=True, max_length=5)
    before = state(users)
    assert before["truncation"] is not None
    encoder = TextEncoder(private_tokenizer(users), 30)
    assert max(map(len, rows(encoder, TEXTS))) > 5
    assert state(users) == before


def test_encoding_does_not_change_the_tokenizer(tokenizer):
    before = state(tokenizer)
    TextEncoder(tokenizer, 5).encode(TEXTS)
    assert state(tokenizer) == before


def test_settings_of_a_call_do_not_stay(make_clf, texts, labels):
    clf = make_clf(max_epochs=1).fit(texts, labels)
    expected = clf.predict_proba(texts)
    clf.tokenizer_(texts, truncation=True, max_length=3, padding="max_length")
    np.testing.assert_array_equal(clf.predict_proba(texts), expected)


def test_eight_threads_with_different_lengths(tokenizer):
    texts = make_texts(64)[0] + TEXTS
    lengths = [3, 5, 8, 13, 21, 34] * 8
    expected = {n: rows(TextEncoder(tokenizer, n), texts) for n in set(lengths)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: rows(TextEncoder(tokenizer, n), texts), lengths))
    assert all(f == expected[n] for f, n in zip(found, lengths, strict=True))


# -------------------------------------------------------------------- warnings


def recorded(call, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    return caught


def test_cut_texts_are_counted_once_a_call(make_clf, texts, labels, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 2)
    long = [" ".join([text] * 60) for text in texts[:3]]
    clf = make_clf(max_epochs=1, max_length=40)
    in_fit = recorded(clf.fit, texts + long, labels + labels[:3])
    in_predict = recorded(clf.predict, [*texts[:7], long[0]])
    in_pipeline = recorded(make_pipeline(clf).score, [*texts[:7], long[0]], labels[:8])
    for caught, count in ((in_fit, "3 of 51"), (in_predict, "1 of 8"), (in_pipeline, "1 of 8")):
        (warning,) = caught
        message = f"{count} texts are longer than max_length=40 tokens and were cut there."
        assert str(warning.message) == message
        assert warning.category is UserWarning
        assert warning.filename == __file__  # it points at the user's line
    assert recorded(clf.predict, texts) == []


def test_exactly_max_length_is_not_cut():
    encoder = TextEncoder(make("wordpiece"), 6)
    assert encoder.encode(["fish " * 4]).counts.truncated == 0
    assert encoder.encode(["fish " * 5]).counts.truncated == 1


def test_texts_of_too_many_windows():
    encoder = TextEncoder(make("wordpiece"), 6, WindowPlan(max_windows=2))
    assert encoder.encode(["fish " * 8]).counts.truncated == 0
    counts = encoder.encode(["fish " * 9, "fish"]).counts
    (warning,) = recorded(counts.warn, 6)
    assert str(warning.message) == (
        "1 of 2 texts are longer than max_windows=2 windows of max_length=6 tokens and were "
        "read only so far."
    )
    assert recorded(TextEncoder(make("wordpiece"), 6, WindowPlan()).encode, ["fish " * 99]) == []


def test_counts_add_up():
    counts = Counts(3, 1, 30, 2, "pairs", 4)
    assert Counts.total([counts, counts]) == Counts(6, 2, 60, 4, "pairs", 4)


@pytest.mark.parametrize(("known", "warned"), [(94, True), (96, False)])
def test_unknown_tokens(make_clf, texts, labels, known, warned):
    clf = make_clf(max_epochs=1).fit(texts, labels)
    foreign = ["fish"] * known + ["привет"] * (100 - known)
    caught = recorded(clf.predict, foreign)
    assert len(caught) == warned
    if warned:
        message = str(caught[0].message)
        assert message.startswith("6% of the tokens are unknown")
        assert "paraphrase-multilingual-MiniLM-L12-v2" in message
        assert "neuralmind/bert-base-portuguese-cased" in message
        assert caught[0].filename == __file__


def test_unknown_tokens_in_fit(make_clf, labels):
    foreign = ["привет мир", "как дела", "добрый день"] * 16
    (warning,) = recorded(make_clf(max_epochs=1).fit, foreign, labels)
    assert str(warning.message).startswith("100% of the tokens are unknown")


# --------------------------------------------------------------- awkward texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fish",
        "👍🏽👩‍👩‍👧",
        "مرحبا بالعالم",
        "\x00",
        "fish\x00boat",
        "\ud83d lone",
        "\u202eright to left override",
        " \n\t ",
    ],
)
@pytest.mark.filterwarnings("ignore:.*tokens are unknown")
def test_awkward_texts_train_and_predict(make_clf, texts, labels, text):
    # Several, so that whole batches may consist of them.
    clf = make_clf(max_epochs=1).fit([*texts, *[text] * 9], [*labels, *["sea"] * 9])
    proba = clf.predict_proba([text, "fish"])
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(clf.predict_proba([text]), proba[:1], rtol=0, atol=1e-6)


def test_a_hundred_thousand_words(make_clf, texts, labels):
    book = "the boat is very noisy " * 20_000
    clf = make_clf(max_epochs=1)
    with pytest.warns(UserWarning, match="1 of 49 texts"):
        clf.fit([*texts, book], [*labels, "sea"])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        whole = clf.predict_proba([book])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        beginning = clf.predict_proba([book[:2000]])
    np.testing.assert_array_equal(whole, beginning)


def test_special_tokens_of_a_vocabulary_without_the_letter_a():
    # Byte-level BPE without an unknown token drops what it does not know, here all but "0".
    backend = Tokenizer(BPE(vocab={"0": 0, "<s>": 1, "</s>": 2}, merges=[]))
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert special_tokens(tokenizer) == ([1], [2])
