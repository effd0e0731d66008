"""Texts -> blocks of full length, and what of them a language model is to predict.

What is predicted stands in ``Encoded.words``: the places whose vectors the model reads. Before
masks are drawn, it holds the units that may be masked: tokens, or whole words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sktransformers.inputs.batching import Encoded, Ragged, Words, starts
from sktransformers.inputs.encoding import (
    Counts,
    Encoding,
    as_valid,
    chunks,
    keep_all_tokens,
    pad_id,
    room,
    special_tokens,
    tokenize,
)
from sktransformers.inputs.targets import Targets
from sktransformers.inputs.windows import WindowPlan, side_by_side, slices, within


class Unlabelled:
    """Coding of texts without targets: what is to be predicted are their own tokens."""

    names: Sequence[str] = ()
    problem_type = None

    @property
    def attributes(self) -> dict[str, Any]:
        """Nothing to set after fit."""
        return {}

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str = "y") -> Targets:
        """Placeholders, one a text."""
        return Targets(y, weights.astype(np.float64), np.zeros(len(y), np.int64))


@dataclass(frozen=True)
class TokenTargets(Targets):
    """Ids of the tokens that are predicted, and the blocks without a mask."""

    blocks: Encoded

    @classmethod
    def of(cls, values: Ragged, blocks: Encoded) -> "TokenTargets":
        """Targets that weigh the same."""
        weights = Ragged(np.ones(len(values.flat)), values.start)
        return cls(values, weights, np.zeros(len(values), np.int64), blocks)


class BlockEncoder:
    """Token ids of many texts, one after the other in blocks of full length.

    A separator stands between two texts, and attention goes across it, as in the input format
    FULL-SENTENCES of Liu et al. 2019 (arXiv:1907.11692), section 4.2. A text may begin in one
    block and end in the next; only the last block may be shorter.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it; only read.
    max_length : int
        Tokens of a block, special tokens included.
    is_causal : bool
        Whether tokens are predicted from those before them: a block does not end with a special
        token then, and nothing is masked.
    whole_word : bool, default=False
        Whether all tokens of a word are masked together.

    Attributes
    ----------
    pad_id : int
        Id to fill the places behind the last block with.
    room : int
        Tokens of the texts and separators in a block.

    Raises
    ------
    ValueError
        If max_length leaves no room, or the tokenizer does not know which tokens are a word.
    """

    def __init__(self, tokenizer: Any, max_length: int, is_causal: bool, whole_word: bool = False):
        keep_all_tokens(tokenizer)
        if whole_word and not _knows_words(tokenizer):
            raise ValueError(
                f"whole_word=True needs a fast tokenizer that splits texts into words; the "
                f"{type(tokenizer).__name__} of this backbone does not."
            )
        self.tokenizer = tokenizer
        self.pad_id = pad_id(tokenizer)
        self.prefix, suffix = special_tokens(tokenizer)
        self.suffix = [] if is_causal else suffix
        between = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.separator = [token for token in between if token is not None][:1]
        n_special = len(self.prefix) + len(self.suffix)
        self.room = room(max_length, n_special, "text", least=1 + is_causal)
        self.is_causal = is_causal
        self.whole_word = whole_word

    def encode(self, rows: Sequence[str]) -> Encoding:
        """Blocks of the texts in their order; a block is a row."""
        parts = list(self._read(rows))
        ids = np.concatenate([part.ids for part in parts])
        begins = np.concatenate([part.begins for part in parts])
        # Nothing comes after the last text.
        n = max(0, len(ids) - len(self.separator))
        ids, begins = ids[:n], begins[:n]
        first = np.arange(0, n, self.room)
        cut = Ragged.split(ids, np.diff(np.append(first, n)))
        blocks = Encoded.of_texts(side_by_side(self.prefix, cut, self.suffix))
        if not self.is_causal:
            begins[first] = True
            blocks = self._with_units(blocks, ids, begins)
        return Encoding(blocks, Counts.total([part.counts for part in parts]))

    def encode_alone(self, rows: Sequence[str]) -> tuple[Encoded, Ragged]:
        """Windows of each text by itself, and the tokens that are predicted in them.

        Windows overlap by half, so that a token that is not at the begin of its text is predicted
        from at least half a window of others. Each token is predicted once; only the first of a
        text is not where nothing stands before it.
        """
        bodies = Ragged.concatenate([Ragged.of(tokenize(self.tokenizer, c)) for c in chunks(rows)])
        lengths, plan = bodies.lengths, WindowPlan(stride=self.room // 2)
        needed = plan.needed(lengths, self.room)
        text, number, _ = plan.choose(needed)
        begin, end = plan.spans(lengths[text], self.room, number, needed[text])
        start = bodies.start[text]
        read = slices(bodies.flat, start + begin, start + end)
        new = np.where(number == 0, 0 if self.prefix else 1, np.roll(end, 1))
        return _predicted(side_by_side(self.prefix, read), len(self.prefix) + new - begin)

    def _read(self, rows: Sequence[str]) -> Iterator["_Stream"]:
        for texts in chunks(rows):
            if self.whole_word:
                ids, begins = _words(self.tokenizer, texts)
            else:
                ids = Ragged.of(tokenize(self.tokenizer, texts))
                begins = Ragged(np.ones(len(ids.flat), np.int32), ids.start)
            counts = Counts.of(self.tokenizer, ids.flat, np.zeros(len(texts), bool))
            kept = np.flatnonzero(ids.lengths)  # nothing stands for an empty text
            joined = side_by_side(ids.take(kept), self.separator)
            marks = side_by_side(begins.take(kept), [1] * len(self.separator))
            yield _Stream(joined.flat, marks.flat.astype(bool), counts)

    def _with_units(self, blocks: Encoded, ids: np.ndarray, begins: np.ndarray) -> Encoded:
        """Blocks that know what may be masked; special tokens may not."""
        special = np.isin(ids, self.tokenizer.all_special_ids)
        begins = begins | special
        begins[1:] |= special[:-1]
        begin = np.flatnonzero(begins)
        end = np.append(begin[1:], len(ids))
        kept = ~special[begin]
        begin, end = begin[kept], end[kept]
        block = begin // self.room
        start = starts(np.bincount(block, minlength=len(blocks)))
        offset = len(self.prefix) - block * self.room
        units = [Ragged((place + offset).astype(np.int32), start) for place in (begin, end)]
        return Encoded(blocks.sequences, blocks.windows, blocks.rows, words=Words(*units))


class _Stream(NamedTuple):
    """Tokens of a chunk of texts and separators, and which of them begin a unit."""

    ids: np.ndarray
    begins: np.ndarray
    counts: Counts


def _knows_words(tokenizer: Any) -> bool:
    """Whether a tokenizer says which tokens are a word."""
    if not tokenizer.is_fast:
        return False
    words = tokenizer.backend_tokenizer.encode("a b", add_special_tokens=False).word_ids
    return len({word for word in words if word is not None}) > 1


def _words(tokenizer: Any, texts: list[str]) -> tuple[Ragged, Ragged]:
    """Token ids, and which of the tokens begin a word."""
    texts = [as_valid(text) for text in texts]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = Ragged.of([encoding.ids for encoding in encodings])
    begins = [
        [int(i == 0 or word is None or word != words[i - 1]) for i, word in enumerate(words)]
        for words in (encoding.word_ids for encoding in encodings)
    ]
    return ids, Ragged.of(begins)


class Masking:
    """Which tokens are predicted, and what stands in their place.

    Of the tokens of a block that may be masked a share is drawn, at least one. Of these 80 %
    become the mask token, 10 % a random one, and 10 % stay as they are (Devlin et al. 2019,
    arXiv:1810.04805, section 3.1). Of whole words so many are drawn that their tokens come to
    that share as nearly as they can.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    probability : float
        The share.

    Raises
    ------
    ValueError
        If the tokenizer has no mask token.
    """

    def __init__(self, tokenizer: Any, probability: float):
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"The tokenizer {type(tokenizer).__name__} has no mask token (mask_token), which "
                f"masked-LM training needs."
            )
        self.mask_id = tokenizer.mask_token_id
        special = tokenizer.all_special_ids
        self.others = np.setdiff1d(np.arange(len(tokenizer)), special).astype(np.int32)
        self.probability = probability

    def draw(self, blocks: Encoded, rng: np.random.Generator) -> tuple[Encoded, Ragged]:
        """Blocks with masks, and the ids that these hide, in int64.

        Parameters
        ----------
        blocks : Encoded
            As `BlockEncoder` gives them, with units that may be masked.
        rng : numpy.random.Generator
        """
        units, sequences = blocks.words, blocks.sequences
        assert units is not None
        drawn = self._units(units, rng)
        begin, end = units.begin.flat[drawn], units.end.flat[drawn]
        block = np.repeat(np.arange(len(blocks)), units.begin.lengths)[drawn]
        sizes = end - begin
        place = np.repeat(begin, sizes) + within(sizes)
        block = np.repeat(block, sizes)
        start = starts(np.bincount(block, minlength=len(blocks)))
        at = sequences.start[block] + place
        hidden = sequences.flat[at]
        lot = rng.random(len(at))
        shown = np.where(lot < 0.8, self.mask_id, rng.choice(self.others, len(at)))
        ids = sequences.flat.copy()
        ids[at] = np.where(lot < 0.9, shown, hidden)
        words = Words(Ragged(place, start), Ragged(place + 1, start))
        masked = Encoded(Ragged(ids, sequences.start), blocks.windows, blocks.rows, words=words)
        return masked, Ragged(hidden.astype(np.int64), start)

    def _units(self, units: Words, rng: np.random.Generator) -> np.ndarray:
        """Positions of the units that are drawn, in their order."""
        start = units.begin.start
        sizes = (units.end.flat - units.begin.flat).astype(np.int64)
        block = np.repeat(np.arange(len(units.begin)), units.begin.lengths)
        order = np.lexsort((rng.random(len(sizes)), block))
        sizes = sizes[order]
        before = starts(sizes)[:-1] - starts(sizes)[start[:-1]][block]
        tokens = np.bincount(block, sizes, minlength=len(units.begin))
        wanted = np.maximum(1, np.round(self.probability * tokens))
        return np.sort(order[(before == 0) | (before + sizes / 2 < wanted[block])])


def next_tokens(blocks: Encoded) -> tuple[Encoded, Ragged]:
    """Blocks whose tokens are predicted from those before them; the first one is not."""
    return _predicted(blocks.sequences, np.ones(len(blocks), np.int64))


def _predicted(sequences: Ragged, first: np.ndarray) -> tuple[Encoded, Ragged]:
    """Sequences of which all tokens from a first one on are predicted by the tokens before."""
    counts = np.maximum(0, sequences.lengths - first)
    place = np.repeat(first, counts) + within(counts)
    start = starts(counts)
    values = sequences.flat[np.repeat(sequences.start[:-1], counts) + place]
    words = Words(Ragged(place - 1, start), Ragged(place, start))
    plain = Encoded.of_texts(sequences)
    encoded = Encoded(sequences, plain.windows, plain.rows, words=words)
    return encoded, Ragged(values.astype(np.int64), start)
