"""Sentences of words -> ragged token ids that know where each word stands."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from sktransformers.inputs.batching import Encoded, Ragged, Words, starts
from sktransformers.inputs.encoding import (
    Counts,
    Encoding,
    chunks,
    first_id,
    keep_all_tokens,
    pad_id,
    probe,
    room,
    special_tokens,
    token_ids,
    tokenize,
)
from sktransformers.inputs.windows import WindowPlan, side_by_side, slices


class WordEncoder:
    """Token ids of sentences that come as lists of words.

    A sentence that is too long is read in overlapping windows of whole words. Each word
    belongs to the window that shows most of what stands around it. Of a word that is longer
    than a window only the beginning is read.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it; only read.
    max_length : int
        Most tokens a window may have, special tokens included.
    stride : int, default=None
        Tokens from the beginning of one window to that of the next, or somewhat less; by
        default half of what a window holds.

    Attributes
    ----------
    pad_id : int
        Id to fill the places behind a sequence with.
    room : int
        Most tokens of the sentence itself in a window.

    Raises
    ------
    ValueError
        If max_length leaves no room for a token of a word, or the windows would leave gaps.
    """

    def __init__(self, tokenizer: Any, max_length: int, stride: int | None = None):
        keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.pad_id = pad_id(tokenizer)
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.room = room(max_length, len(self.prefix) + len(self.suffix), "text")
        WindowPlan(stride).check(self.room)
        self.stride = max(1, self.room // 2) if stride is None else stride
        self.spaced = needs_spaces(tokenizer)
        # Every word gets a label, hence a token.
        self.nothing = [
            first_id(tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        ]

    def encode(self, rows: Sequence[Sequence[str]]) -> Encoding:
        """Encode many sentences; one text a row, and no window for a sentence of no words."""
        # A tokenizer reads the words of a split sentence one by one: each is needed only once.
        known: dict[str, int] = {}
        words = [known.setdefault(word, len(known)) for word in chain.from_iterable(rows)]
        which = np.array(words, np.int64)
        pieces = self._pieces(list(known))
        flat = pieces.take(which).flat
        token = starts(pieces.lengths[which])
        word = starts(np.fromiter(map(len, rows), np.int64, len(rows)))
        counts, (first, last, own_first, own_last) = self._windows(word, token)

        sentences = slices(flat, token[first], token[last])
        own = slices(np.arange(len(which)), own_first, own_last)
        offset = np.repeat(token[first] - len(self.prefix), own.lengths)
        return Encoding(
            Encoded(
                side_by_side(self.prefix, sentences, self.suffix),
                starts(counts),
                np.arange(len(rows))[:, None],
                words=Words(
                    Ragged(token[own.flat] - offset, own.start),
                    Ragged(token[own.flat + 1] - offset, own.start),
                ),
            ),
            Counts.of(self.tokenizer, flat, np.zeros(len(rows), bool), unit="sentences"),
        )

    def _pieces(self, words: list[str]) -> Ragged:
        """Token ids of each word, as many of them as fit into a window and at least one."""
        if self.spaced:
            # Nothing stays nothing.
            words = [word and " " + word.removeprefix(" ") for word in words]
        return Ragged.of(
            [
                ids[: self.room] or self.nothing
                for chunk in chunks(words)
                for ids in tokenize(self.tokenizer, chunk)
            ]
        )

    def _windows(self, word: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows of sentences whose words begin at word, and those at token.

        Returns
        -------
        counts : ndarray of shape (n_sentences,)
            Windows a sentence.
        spans : ndarray of shape (4, n_windows)
            The first word of each window, the one behind the last, and the same of those
            that belong to it.
        """
        counts = np.minimum(np.diff(word), 1)
        long = np.flatnonzero(np.diff(token[word]) > self.room)
        split = [
            word[i] + split_words(token[word[i] : word[i + 1] + 1], self.room, self.stride)
            for i in long
        ]
        counts[long] = [spans.shape[1] for spans in split]
        spans = np.empty((4, counts.sum()), np.int64)
        begin = starts(counts)
        whole = counts == 1
        spans[:, begin[:-1][whole]] = np.stack([word[:-1], word[1:]] * 2)[:, whole]
        for i, windows in zip(long, split):
            spans[:, begin[i] : begin[i + 1]] = windows
        return counts, spans


def split_words(token: np.ndarray, room: int, stride: int) -> np.ndarray:
    """Windows of whole words over a sentence that is longer than the room.

    A word belongs to the window where its distance to the nearer edge is largest, the first
    such window. From one window to the next the distance to the left edge falls and that to
    the right one does not. Hence a later word never belongs to an earlier window; and it is
    all the same whether the sentence's own beginning and end, behind which there is nothing
    to see, count as edges.

    Parameters
    ----------
    token : ndarray of shape (n_words + 1,)
        Where each word begins, and where the last one ends; no word is longer than the room.
    room : int
        Most tokens a window.
    stride : int
        Tokens from the beginning of one window to that of the next, or fewer, as whole words
        demand; one word at least.

    Returns
    -------
    spans : ndarray of shape (4, n_windows)
        The first word of each window, the one behind the last, and the same of those that
        belong to it, one at least.
    """
    token = token - token[0]
    n, at = len(token) - 1, token.tolist()
    first, last = [0], [bisect_right(at, room) - 1]
    while last[-1] < n:
        begin = at[first[-1]]
        first.append(max(first[-1] + 1, bisect_right(at, begin + stride) - 1))
        last.append(bisect_right(at, at[first[-1]] + room) - 1)
    first[-1] = bisect_left(at, at[-1] - room)  # the last one need not be short

    best, owner = np.full(n, -1), np.zeros(n, np.int64)
    for i, (begin, end) in enumerate(zip(first, last)):
        left = token[begin:end] - token[begin]
        right = token[end] - token[begin + 1 : end + 1]
        distance = np.minimum(left, right)
        better = begin + np.flatnonzero(distance > best[begin:end])
        best[better], owner[better] = distance[better - begin], i
    windows = np.arange(len(first))
    own_first, own_last = (np.searchsorted(owner, windows, side) for side in ("left", "right"))
    return np.stack([first, last, own_first, own_last])[:, own_first < own_last]


def needs_spaces(tokenizer: Any) -> bool:
    """Whether a word inside a text has a space before it that the tokenizer must see.

    Byte-level vocabularies (RoBERTa, the decoders) know most words only with their space;
    transformers demands ``add_prefix_space=True`` of them, which is the same for all words.
    """
    text, bare = probe(tokenizer)
    inside = token_ids(tokenizer, f"{text} {text}")
    return inside != bare + bare and inside == bare + token_ids(tokenizer, f" {text}")
