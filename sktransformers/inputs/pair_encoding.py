"""Pairs of texts -> ragged token ids, joined to one sequence or one text at a time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sktransformers.inputs.batching import Encoded, Ragged, starts
from sktransformers.inputs.encoding import (
    Counts,
    Encoding,
    TextEncoder,
    chunks,
    first_id,
    keep_all_tokens,
    not_in_one_piece,
    pad_id,
    places,
    probe,
    room,
    special_tokens,
    tokenize,
)
from sktransformers.inputs.windows import CUT, WindowPlan, side_by_side, slices


class PairFormat(NamedTuple):
    """How a tokenizer joins two texts.

    ``typed`` counts the tokens from the beginning of ``middle`` to the first one that the
    tokenizer marks as belonging to the second text; None if it marks none.
    """

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    typed: int | None


class PairEncoder:
    """Token ids of pairs of texts.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it; only read.
    max_length : int
        Most tokens a sequence may have, special tokens included.
    joined : bool
        Whether both texts stand in one sequence, as the tokenizer joins them. Otherwise each
        is a sequence of its own, and a text that stands in several pairs is there once.
    symmetric : bool, default=False
        Whether a joined pair is read in both orders.
    token_types : bool, default=False
        Whether to say where the second text of a joined pair begins.
    windows : WindowPlan, default=None
        How longer texts are read; by default they are cut, a joined pair as transformers'
        ``truncation="longest_first"`` does.

    Attributes
    ----------
    pad_id : int
        Id to fill the places behind a sequence with.

    Raises
    ------
    ValueError
        If max_length leaves no room for a token of each text, or the windows would leave
        gaps.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        *,
        joined: bool,
        symmetric: bool = False,
        token_types: bool = False,
        windows: WindowPlan | None = None,
    ):
        keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.pad_id = pad_id(tokenizer)
        self.joined = joined
        self.symmetric = symmetric
        self.token_types = token_types
        self.max_windows = None if windows is None else windows.max_windows
        if joined:
            self.format = pair_format(tokenizer)
            special = sum(map(len, self.format[:3]))
            self.room = room(max_length, special, "a pair of texts", least=2)
            self.plan = windows or CUT
            self.plan.check(self.room)
        else:
            self.single = TextEncoder(tokenizer, max_length, windows)

    def encode(self, rows: Sequence[tuple[str, str]]) -> Encoding:
        """Encode many pairs, tokenized a chunk at a time."""
        if self.joined:
            return Encoding.concatenate([self._join_chunk(chunk) for chunk in chunks(rows)])
        return self._encode_apart(rows)

    def encode_texts(self, texts: Sequence[str]) -> Encoding:
        """Encode single texts as those of pairs that are not joined."""
        return self.single.encode(texts)

    def _encode_apart(self, rows: Sequence[tuple[str, str]]) -> Encoding:
        known: dict[str, int] = {}
        texts = [known.setdefault(text, len(known)) for pair in rows for text in pair]
        of_pairs = np.array(texts, np.int64).reshape(-1, 2)
        (encoded, counts), cut = self.single.read(list(known))
        return Encoding(
            replace(encoded, rows=of_pairs),
            counts._replace(
                texts=len(of_pairs),
                truncated=int(np.count_nonzero(cut[of_pairs].any(axis=1))),
                unit="pairs",
            ),
        )

    def _join_chunk(self, pairs: list[tuple[str, str]]) -> Encoding:
        n = len(pairs)
        sides = [tokenize(self.tokenizer, [pair[side] for pair in pairs]) for side in (0, 1)]
        bodies = Ragged.of(sides[0] + sides[1])
        sides_of_row = [0, n, n, 0] if self.symmetric else [0, n]
        first, second = (np.arange(n)[:, None] + sides_of_row).reshape(-1, 2).T
        n_first, n_second = bodies.lengths[first], bodies.lengths[second]
        # As "longest_first" shares the room: a text that fits in half of it is left whole, and
        # the odd token is the longer one's.
        less = np.minimum(np.minimum(n_first, n_second), self.room // 2)
        room_first = np.where(n_first > n_second, self.room - less, less)
        room_second = self.room - room_first
        plan = self.plan
        needs_first = plan.needed(n_first, room_first)
        needs_second = plan.needed(n_second, room_second)
        needed = np.maximum(needs_first, needs_second)
        text, number, counts = plan.choose(needed)
        parts = []
        for body, lengths, space, needs in (
            (first, n_first, room_first, needs_first),
            (second, n_second, room_second, needs_second),
        ):
            # The text with fewer windows waits in each of them for the other one.
            own = number * needs[text] // needed[text]
            begin, end = plan.spans(lengths[text], space[text], own, needs[text])
            start = bodies.start[body[text]]
            parts.append(slices(bodies.flat, start + begin, start + end))
        prefix, middle, suffix, _ = self.format
        sequences = side_by_side(prefix, parts[0], middle, parts[1], suffix)
        rows = np.arange(len(first)).reshape(n, len(sides_of_row) // 2)
        cut = (needed > counts)[rows].any(axis=1)
        return Encoding(
            Encoded(
                sequences,
                starts(counts),
                rows,
                self._second(parts[0].lengths, sequences.lengths) if self.token_types else None,
            ),
            Counts.of(self.tokenizer, bodies.flat, cut, unit="pairs", max_windows=self.max_windows),
        )

    def _second(self, first: np.ndarray, whole: np.ndarray) -> np.ndarray:
        if self.format.typed is None:
            return whole
        return len(self.format.prefix) + first + self.format.typed


def pair_format(tokenizer: Any) -> PairFormat:
    """Ids that the tokenizer puts before, between and after the two texts of a pair.

    Raises
    ------
    ValueError
        If the texts do not stand in one piece between them.
    """
    text, bare = probe(tokenizer)
    if tokenizer.is_fast:
        encoding = tokenizer.backend_tokenizer.encode(text, text)
        full, types = encoding.ids, encoding.type_ids
    else:
        encoding = tokenizer(text, text, return_token_type_ids=True, verbose=False)
        full, types = encoding["input_ids"], encoding["token_type_ids"]
    found = places(bare, full)
    if len(found) < 2:
        raise not_in_one_piece(tokenizer, bare, full)
    begin, end = found[0] + len(bare), found[-1]
    typed = types.index(1) - begin if 1 in types else None
    prefix, middle, suffix = full[: found[0]], full[begin:end], full[end + len(bare) :]
    if not middle:
        # Nobody thought of pairs here, as for most decoders: without a mark between them the
        # two texts would be one. The specials of a single text then stand around the pair.
        prefix, suffix = special_tokens(tokenizer)
        middle = [first_id(tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)]
        typed = None if typed is None else len(middle)
    return PairFormat(list(prefix), list(middle), list(suffix), typed)
