import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sktransformers.inputs.batching import bucketed_batches, pad, token_budget
from sktransformers.inputs.encoding import Ragged

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


@given(st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=20), st.data())
def test_padding(ids, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1)))
    padded = pad(Ragged.of(ids), rows, 777, torch.device("cpu"))
    longest = max(1, max(len(ids[row]) for row in rows))
    assert {name: t.dtype for name, t in padded.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
    }
    for row, found, mask in zip(rows, padded["input_ids"], padded["attention_mask"], strict=True):
        padding = longest - len(ids[row])
        assert found.tolist() == ids[row] + [777] * padding
        assert mask.tolist() == [1] * len(ids[row]) + [0] * padding
