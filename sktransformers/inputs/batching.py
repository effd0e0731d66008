"""Rows of token ids, which of them go together, and the rectangles they are padded to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

# Rows are sorted by length inside pieces of the shuffled data of so many batches. Lengths are
# blurred by up to so much, or the same rows of a small set would meet in every epoch. On short
# texts a batch is then a tenth padding or less; random batches are half padding.
_PIECE = 50
_BLUR = 0.05


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is flat[start[i]:start[i + 1]]."""

    flat: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """Pack lists of ids."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        return cls(flat, starts(lengths))

    @classmethod
    def split(cls, flat: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Cut a flat array into rows of these lengths."""
        return cls(flat, starts(lengths))

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """Rows of several parts, one part after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), starts(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids in each row."""
        return np.diff(self.start)

    def row(self, i: int) -> np.ndarray:
        """Ids of one row, as a view."""
        return self.flat[self.start[i] : self.start[i + 1]]

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some of the rows, in the order asked for."""
        return Ragged(self.flat[self.positions(rows)], starts(self.lengths[rows]))

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Where the entries of some rows lie in ``flat``, row after row."""
        lengths = self.lengths[rows]
        within = np.arange(lengths.sum()) - np.repeat(starts(lengths)[:-1], lengths)
        return np.repeat(self.start[:-1][rows], lengths) + within

    def __len__(self) -> int:
        return len(self.start) - 1


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths begin in a flat array, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


class Words(NamedTuple):
    """The words of each sequence: word j stands at the tokens begin[j] up to end[j]."""

    begin: Ragged
    end: Ragged

    def take(self, sequences: np.ndarray) -> "Words":
        """The words of some of the sequences."""
        return Words(self.begin.take(sequences), self.end.take(sequences))


@dataclass(frozen=True)
class Encoded:
    """Rows on their way through a backbone: row -> texts -> windows -> token ids.

    Parameters
    ----------
    sequences : Ragged
        Token ids of every window, special tokens included.
    windows : ndarray of shape (n_texts + 1,)
        Text i is read in the windows ``sequences[windows[i]:windows[i + 1]]``.
    rows : ndarray of shape (n_rows, n_texts_a_row)
        The texts of each row: one, or two where a pair is read one by one, or in both orders.
    second : ndarray of shape (n_sequences,), default=None
        Token at which the second text of a joined pair begins, for backbones that want to
        be told so.
    words : Words, default=None
        For tagging, the words of each window; every word stands in exactly one window, and
        in the order of the sentence.
    """

    sequences: Ragged
    windows: np.ndarray
    rows: np.ndarray
    second: np.ndarray | None = None
    words: Words | None = None

    @classmethod
    def of_texts(cls, sequences: Ragged) -> "Encoded":
        """One text a row, one window a text."""
        n = len(sequences)
        return cls(sequences, np.arange(n + 1), np.arange(n)[:, None])

    @classmethod
    def concatenate(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Rows of several parts, one part after the other."""
        counts = [np.diff(part.windows) for part in parts]
        offsets = starts(np.array([len(c) for c in counts]))
        rows = [part.rows + offset for part, offset in zip(parts, offsets)]
        first = parts[0]
        return cls(
            Ragged.concatenate([part.sequences for part in parts]),
            starts(np.concatenate(counts)),
            np.concatenate(rows),
            None if first.second is None else np.concatenate([part.second for part in parts]),
            None
            if first.words is None
            else Words(*(Ragged.concatenate(column) for column in zip(*(p.words for p in parts)))),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of what goes through at once or not at all: of each sequence."""
        return self.sequences.lengths

    @property
    def slots(self) -> np.ndarray:
        """Slots that the sequences of each row fill, padded to the longest of them."""
        longest, counts = self._longest()
        return longest * counts

    def _longest(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the longest sequence of each row, and its number of sequences."""
        counts = np.diff(self.windows)
        longest = np.zeros(len(counts), np.int64)
        text = np.repeat(np.arange(len(counts)), counts)
        np.maximum.at(longest, text, self.sequences.lengths)
        return longest[self.rows].max(axis=1), counts[self.rows].sum(axis=1)

    def take(self, rows: np.ndarray) -> "Encoded":
        """Some of the rows; a text that several of them share is there once."""
        texts, where = self.texts_of(rows)
        windows = Ragged(np.arange(len(self.sequences)), self.windows).take(texts)
        return type(self)(
            self.sequences.take(windows.flat),
            windows.start,
            where,
            None if self.second is None else self.second[windows.flat],
            None if self.words is None else self.words.take(windows.flat),
        )

    def texts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts of some of the rows, each once, and the places of each row's among them."""
        texts = self.rows[rows]
        if texts.shape[1] == 1:
            return texts[:, 0], np.arange(len(rows))[:, None]
        distinct, places = np.unique(texts, return_inverse=True)
        return distinct, places.reshape(texts.shape)

    def outputs(self, unit: str) -> np.ndarray:
        """Where the vectors of each sequence begin, and where the last one's end.

        A model gives one vector a ``"window"``, a ``"word"`` or a ``"token"``.
        """
        if unit == "window":
            return np.arange(len(self.sequences) + 1)
        if unit == "token":
            return self.sequences.start
        assert self.words is not None
        return self.words.begin.start

    def groups(self, max_tokens: "int | Budget") -> list[np.ndarray]:
        """Cut the rows into groups whose sequences fit into one rectangle of max_tokens slots.

        Rows of similar length go together, longest first. A row that is longer than the
        budget makes a group of its own.
        """
        longest, counts = self._longest()
        if (counts == 1).all():
            return token_budget(longest, np.arange(len(self)), max_tokens)
        groups: list[list[int]] = []
        room, budget = 0, as_budget(max_tokens)
        for i in np.argsort(-longest, kind="stable"):
            if not groups or counts[i] > room:
                groups.append([])
                room = budget.of(longest[i]) // max(1, int(longest[i]))
            groups[-1].append(int(i))
            room -= counts[i]
        return [np.array(group) for group in groups]


class Answered(Encoded):
    """Rows of a source and a target each, one sequence both, in rectangles of their own."""

    @property
    def lengths(self) -> np.ndarray:
        """As `slots`: source and target go through together."""
        return self.slots

    @property
    def slots(self) -> np.ndarray:
        """Tokens of source and target."""
        return self.sequences.lengths[self.rows].sum(axis=1)

    def groups(self, max_tokens: "int | Budget") -> list[np.ndarray]:
        """As `Encoded.groups`, for two rectangles that have max_tokens slots together."""
        lengths, budget = self.sequences.lengths[self.rows], as_budget(max_tokens)
        groups: list[list[int]] = []
        longest = np.zeros(2, np.int64)
        for i in np.argsort(-self.slots, kind="stable"):
            both = np.maximum(longest, lengths[i]) if groups else lengths[i]
            if not groups or (len(groups[-1]) + 1) * both.sum() > budget.of(int(both.sum())):
                groups.append([])
                both = lengths[i]
            groups[-1].append(int(i))
            longest = both
        return [np.array(group) for group in groups]


class Budget:
    """Slots, padding included, that go through a model at once.

    Where they ran out of memory it is half as many: for sequences of that length, to the next
    power of two below, and for longer ones. A long text takes more memory a slot than short ones:
    they keep their budget.

    Parameters
    ----------
    given : int
        Slots to begin with.
    """

    def __init__(self, given: int):
        self.given = given
        self._slots = [given] * 64  # by the binary digits of a length

    @property
    def is_whole(self) -> bool:
        """Whether all lengths still have what was given."""
        return self._slots[-1] == self.given

    @property
    def left(self) -> list[int]:
        """What is left of it, as `restrict` takes it."""
        return list(self._slots)

    def restrict(self, left: Sequence[int]) -> None:
        """Have no more than another one has left.

        Raises
        ------
        ValueError
            If that is not what another one has left.
        """
        if len(left) != len(self._slots) or not all(type(n) is int and n > 0 for n in left):
            raise ValueError("it has no slots for each length")
        self._slots = list(map(min, self._slots, left))

    def of(self, longest: int) -> int:
        """Slots of a rectangle, by the tokens of its longest sequence."""
        return self._slots[int(longest).bit_length()]

    def shrink(self, lengths: np.ndarray) -> bool:
        """Halve it until sequences of these lengths are cut smaller; False if they cannot be."""
        pieces = token_budget(lengths, np.arange(len(lengths)), self)
        pieces = [piece for piece in pieces if len(piece) > 1]
        for piece in pieces:
            longest = max(1, int(lengths[piece].max()))
            slots = self.of(longest)
            while slots >= len(piece) * longest:
                slots //= 2
            kind = longest.bit_length()
            self._slots[kind:] = [min(slots, other) for other in self._slots[kind:]]
        return bool(pieces)


def as_budget(max_tokens: "int | Budget") -> Budget:
    """The `Budget` that a number stands for."""
    return max_tokens if isinstance(max_tokens, Budget) else Budget(max_tokens)


def take(values: Any, rows: np.ndarray) -> Any:
    """Some rows of an array or of a `Ragged`."""
    return values.take(rows) if isinstance(values, Ragged) else values[rows]


def flat(values: Any) -> np.ndarray:
    """All entries of an array or of a `Ragged`, row after row."""
    return values.flat if isinstance(values, Ragged) else values


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Shuffled batches of rows of similar length, every row once.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        Tokens or slots a row.
    batch_size : int
        Rows a batch; one batch may have fewer.
    rng : numpy.random.Generator
        Source of the order.

    Returns
    -------
    batches : list of ndarray
        Row positions.
    """
    order = rng.permutation(len(lengths))
    blurred = lengths * rng.uniform(1 - _BLUR, 1 + _BLUR, len(lengths))
    piece = batch_size * _PIECE
    for begin in range(0, len(order), piece):
        part = order[begin : begin + piece]
        order[begin : begin + piece] = part[np.argsort(blurred[part], kind="stable")]
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def token_budget(
    lengths: np.ndarray, rows: np.ndarray, max_tokens: int | Budget
) -> list[np.ndarray]:
    """Cut rows into rectangles of at most max_tokens slots, padding included.

    Rows of similar length go together, longest first. A row that is longer than the budget
    makes a rectangle of its own.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    budget = as_budget(max_tokens)
    pieces = []
    begin = 0
    while begin < len(rows):
        longest = max(1, int(lengths[rows[begin]]))
        end = begin + max(1, budget.of(longest) // longest)
        pieces.append(rows[begin:end])
        begin = end
    return pieces


def rectangles(lengths: np.ndarray, rows: np.ndarray, min_saving: int) -> list[np.ndarray]:
    """Cut rows by length into rectangles, as long as a cut saves so many slots of padding."""
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    sorted_lengths = lengths[rows]
    if len(rows) < 2:
        return [rows]
    cuts = np.arange(1, len(rows))
    savings = (len(rows) - cuts) * (sorted_lengths[0] - sorted_lengths[1:])
    best = int(np.argmax(savings))
    if savings[best] < min_saving:
        return [rows]
    longer, shorter = rows[: best + 1], rows[best + 1 :]
    return [
        *rectangles(lengths, longer, min_saving),
        *rectangles(lengths, shorter, min_saving),
    ]


def pad(
    encoded: Encoded, which: np.ndarray, pad_id: int, device: torch.device, left: bool = False
) -> dict[str, torch.Tensor]:
    """Some sequences as tensors padded on the right, or left, by the names that the models read.

    ``input_ids`` and ``attention_mask`` of shape (n_sequences, longest); padded on the right
    ``token_type_ids`` too where the second text of a pair is marked, and for words ``word_rows``,
    ``word_begins`` and ``word_ends`` of shape (n_words,).
    """
    sequences = encoded.sequences.take(which)
    lengths = sequences.lengths
    places = np.arange(lengths.max(initial=1))
    mask = places < lengths[:, None]
    if left:
        mask = mask[:, ::-1]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = sequences.flat
    arrays = {"input_ids": input_ids, "attention_mask": mask}
    if encoded.second is not None:
        arrays["token_type_ids"] = mask & (places >= encoded.second[which][:, None])
    if encoded.words is not None:
        words = encoded.words.take(which)
        arrays["word_rows"] = np.repeat(np.arange(len(which)), words.begin.lengths)
        arrays["word_begins"], arrays["word_ends"] = words.begin.flat, words.end.flat
    return {name: on_device(array.astype(np.int64), device) for name, array in arrays.items()}


def on_device(
    array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """An array as a tensor, in another type if given; a copy to a GPU is not waited for."""
    tensor = torch.from_numpy(array).to(dtype=dtype)
    if device.type == "cuda":  # only from pinned memory does the copy go on alone
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


Feed = Callable[..., tuple[Callable[..., torch.Tensor], dict[str, torch.Tensor]]]


def feed(
    encode: Callable[..., torch.Tensor],
    encoded: Encoded,
    which: np.ndarray,
    pad_id: int,
    device: torch.device,
) -> tuple[Callable[..., torch.Tensor], dict[str, torch.Tensor]]:
    """The first stage of a model, and its inputs for some sequences by name."""
    return encode, pad(encoded, which, pad_id, device)
