import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from sktransformers.inputs.batching import (
    Encoded,
    Ragged,
    Words,
    bucketed_batches,
    on_device,
    pad,
    rectangles,
    starts,
    token_budget,
)

lengths_ = st.lists(st.integers(0, 60), min_size=1, max_size=150).map(np.array)


@given(lengths_, st.integers(1, 40), st.integers(0, 9))
def test_batches_hold_every_row_once(lengths, batch_size, seed):
    batches = bucketed_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    # All full but one, wherever it stands: the number of steps is known beforehand.
    sizes = sorted(map(len, batches))
    assert sizes[1:] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-len(lengths) // batch_size)


@given(lengths_, st.integers(1, 40), st.integers(0, 9))
def test_the_generator_alone_decides_the_order(lengths, batch_size, seed):
    def flat(rng):
        return [batch.tolist() for batch in bucketed_batches(lengths, batch_size, rng)]

    state = np.random.get_state()[1].copy()
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    assert flat(rng) == flat(again)
    assert flat(rng) == flat(again)  # also in the next epoch
    assert (np.random.get_state()[1] == state).all()


def test_batches_differ_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).integers(1, 60, 64)
    rng = np.random.default_rng(0)
    first, second = (bucketed_batches(lengths, 8, rng) for _ in range(2))
    together = [{frozenset(batch.tolist()) for batch in epoch} for epoch in (first, second)]
    # Sorted by their plain lengths, the same rows would meet in every epoch.
    assert len(together[0] & together[1]) < 6


def test_all_rows_may_meet():
    # More rows than are sorted together: they must be shuffled before.
    batches = bucketed_batches(np.full(4000, 5), 8, np.random.default_rng(0))
    halves = [len(np.unique(batch // 2000)) for batch in batches]
    assert np.mean(halves) > 1.9


@pytest.mark.parametrize(("n", "most"), [(400, 1.2), (5000, 1.15)])
def test_rows_of_a_batch_have_similar_lengths(n, most):
    lengths = np.random.default_rng(0).geometric(0.06, n)

    def slots(batches):
        return sum(len(batch) * lengths[batch].max() for batch in batches)

    random = np.array_split(np.random.default_rng(1).permutation(n), n // 16)
    bucketed = bucketed_batches(lengths, 16, np.random.default_rng(1))
    assert slots(random) > 2.5 * lengths.sum()
    assert slots(bucketed) < most * lengths.sum()


@given(lengths_, st.integers(1, 300), st.data())
def test_rectangles_hold_every_row_once_within_the_budget(lengths, max_tokens, data):
    subset = data.draw(st.sets(st.integers(0, len(lengths) - 1)).map(sorted))
    rows = np.array(subset, dtype=int)
    pieces = token_budget(lengths, rows, max_tokens)
    assert sorted(row for piece in pieces for row in piece) == subset
    for piece in pieces:
        assert len(piece) == 1 or len(piece) * max(1, lengths[piece].max()) <= max_tokens
    # Longest first: memory runs out at once or never.
    longest = [lengths[piece].max() for piece in pieces]
    assert longest == sorted(longest, reverse=True)


def test_rectangles_are_as_few_as_the_budget_allows():
    lengths = np.array([10, 2, 5, 10, 2, 5, 30])
    pieces = token_budget(lengths, np.arange(7), 20)
    assert [piece.tolist() for piece in pieces] == [[6], [0, 3], [2, 5, 1, 4]]


@given(lengths_, st.integers(1, 200), st.data())
def test_a_cut_saves_padding(lengths, min_saving, data):
    subset = data.draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1).map(sorted))
    pieces = rectangles(lengths, np.array(subset), min_saving)
    assert sorted(row for piece in pieces for row in piece) == subset
    longest = [lengths[piece].max() for piece in pieces]
    assert longest == sorted(longest, reverse=True)
    slots = sum(len(piece) * top for piece, top in zip(pieces, longest, strict=True))
    assert slots + min_saving * (len(pieces) - 1) <= len(subset) * longest[0]
    for piece in pieces:  # no further cut in two would be worth it
        tail = np.sort(lengths[piece])[::-1]
        savings = (len(tail) - np.arange(len(tail))) * (tail[0] - tail)
        assert savings.max() < min_saving


def test_rectangles_of_unlike_lengths():
    lengths = np.array([10, 2, 100, 12, 2])
    cut = [piece.tolist() for piece in rectangles(lengths, np.arange(5), 30)]
    assert cut == [[2], [3, 0, 1, 4]]
    cut = [piece.tolist() for piece in rectangles(lengths, np.arange(5), 16)]
    assert cut == [[2], [3, 0], [1, 4]]
    assert len(rectangles(lengths, np.arange(5), 353)) == 1


# ------------------------------------------------------------ encoded rows


@st.composite
def encoded_(draw, texts_a_row=None, least_windows=0, kinds=("plain", "second", "words")):
    """Rows of one or two texts in any number of windows."""
    texts_a_row = texts_a_row or draw(st.integers(1, 2))
    counts = draw(st.lists(st.integers(least_windows, 4), min_size=1, max_size=12))
    sequences = [draw(st.lists(st.integers(0, 99), max_size=12)) for _ in range(sum(counts))]
    kind = draw(st.sampled_from(kinds))
    second = words = None
    if kind == "second":
        second = np.array([draw(st.integers(0, len(ids))) for ids in sequences], int)
    if kind == "words":
        edges = [
            draw(st.lists(st.integers(0, len(ids)), unique=True).map(sorted)) for ids in sequences
        ]
        words = Words(Ragged.of([e[:-1] for e in edges]), Ragged.of([e[1:] for e in edges]))
    row = st.tuples(*[st.integers(0, len(counts) - 1)] * texts_a_row)
    rows = np.array(draw(st.lists(row, min_size=1, max_size=15)))
    return Encoded(Ragged.of(sequences), starts(np.array(counts)), rows, second, words)


def content(encoded):
    """All that is known of each row: its texts, their windows, what stands in them."""

    def window(i):
        second = None if encoded.second is None else int(encoded.second[i])
        words = encoded.words and [column.row(i).tolist() for column in encoded.words]
        return encoded.sequences.row(i).tolist(), second, words

    return [
        [[window(i) for i in range(*encoded.windows[text : text + 2])] for text in row]
        for row in encoded.rows
    ]


@given(encoded_(), st.data())
def test_rows_keep_their_content(encoded, data):
    which = data.draw(st.lists(st.integers(0, len(encoded) - 1), max_size=20))
    which = np.array(which, int)
    taken, whole = encoded.take(which), content(encoded)
    assert content(taken) == [whole[i] for i in which]
    assert taken.slots.tolist() == encoded.slots[which].tolist()
    assert content(Encoded.concatenate([encoded, taken, encoded])) == (
        whole + [whole[i] for i in which] + whole
    )


@given(encoded_())
def test_slots_are_those_of_one_rectangle_a_row(encoded):
    sizes = [[len(w[0]) for text in row for w in text] for row in content(encoded)]
    assert encoded.slots.tolist() == [len(row) * max(row, default=0) for row in sizes]


@given(encoded_(texts_a_row=2), st.data())
def test_texts_that_rows_share_are_taken_once(encoded, data):
    which = data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=20))
    taken = encoded.take(np.array(which))
    assert len(taken.windows) - 1 == len(np.unique(encoded.rows[which]))


def test_one_text_a_row():
    encoded = Encoded.of_texts(Ragged.of([[1, 2], [], [3]]))
    assert content(encoded) == [[[(ids, None, None)]] for ids in ([1, 2], [], [3])]
    assert encoded.slots.tolist() == [2, 0, 1]


@given(encoded_(), st.integers(1, 80))
def test_groups_hold_every_row_once_within_the_budget(encoded, max_tokens):
    groups = encoded.groups(max_tokens)
    assert sorted(np.concatenate(groups)) == list(range(len(encoded)))
    heights = []
    for group in groups:
        lengths = encoded.take(group).sequences.lengths
        heights.append(lengths.max(initial=0))
        assert len(group) == 1 or len(lengths) * max(1, heights[-1]) <= max_tokens
    # Longest first: memory runs out at once or never.
    assert heights == sorted(heights, reverse=True)


def test_groups_where_texts_happen_to_be_as_many_as_rows():
    # So that a sequence's length is not that of the row in the same place.
    sequences = Ragged.of([[1] * 9, [2]])
    encoded = Encoded(sequences, np.array([0, 0, 2]), np.array([[0], [1]]))
    assert [group.tolist() for group in encoded.groups(9)] == [[1], [0]]
    shared = Encoded(
        Ragged.of([[1], [2], [3] * 9]), np.arange(4), np.array([[0, 2], [0, 1], [1, 0]])
    )
    assert [group.tolist() for group in shared.groups(9)] == [[0], [1, 2]]


# ----------------------------------------------------------------- padding


@given(encoded_(least_windows=1), st.data())
def test_padding(encoded, data):
    top = len(encoded.sequences) - 1
    which = np.array(data.draw(st.lists(st.integers(0, top), min_size=1)))
    padded = pad(encoded, which, 777, torch.device("cpu"))
    ids = [encoded.sequences.row(i).tolist() for i in which]
    longest = max(1, *map(len, ids))
    names = {"input_ids", "attention_mask"}
    names |= {"token_type_ids"} if encoded.second is not None else set()
    names |= {"word_rows", "word_begins", "word_ends"} if encoded.words else set()
    assert {name: t.dtype for name, t in padded.items()} == dict.fromkeys(names, torch.int64)
    for row, found, mask in zip(ids, padded["input_ids"], padded["attention_mask"], strict=True):
        padding = longest - len(row)
        assert found.tolist() == row + [777] * padding
        assert mask.tolist() == [1] * len(row) + [0] * padding
    if encoded.second is not None:
        for i, row, found in zip(which, ids, padded["token_type_ids"], strict=True):
            first = encoded.second[i]
            types = [0] * first + [1] * (len(row) - first)
            assert found.tolist() == types + [0] * (longest - len(row))
    if encoded.words:
        expected = [
            (place, begin, end)
            for place, i in enumerate(which)
            for begin, end in zip(encoded.words.begin.row(i), encoded.words.end.row(i))
        ]
        columns = (padded[name].tolist() for name in ("word_rows", "word_begins", "word_ends"))
        assert list(zip(*columns)) == expected


def test_a_copy_to_a_gpu_is_not_waited_for(monkeypatch):
    calls = []

    class Recorder:
        def to(self, *args, **kwargs):
            calls.append((args, kwargs))
            return self

        def pin_memory(self):
            calls.append("pinned")
            return self

    monkeypatch.setattr(torch, "from_numpy", lambda array: Recorder())
    device = torch.device("cuda")
    on_device(np.zeros(3), device, torch.float32)
    assert calls == [
        ((), {"dtype": torch.float32}),
        "pinned",
        ((device,), {"non_blocking": True}),
    ]
    calls.clear()
    on_device(np.zeros(3), torch.device("cpu"))
    assert "pinned" not in calls


def test_numbers_on_the_cpu():
    array = np.arange(3)
    assert on_device(array, torch.device("cpu")).data_ptr() == array.ctypes.data
    assert on_device(array, torch.device("cpu"), torch.float32).dtype == torch.float32
