"""Rows of token ids, which of them go together, and the rectangles they are padded to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

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
        return cls(flat, _starts(lengths))

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """Rows of several parts, one part after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), _starts(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids in each row."""
        return np.diff(self.start)

    def row(self, i: int) -> np.ndarray:
        """Ids of one row, as a view."""
        return self.flat[self.start[i] : self.start[i + 1]]

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some of the rows, in the order asked for."""
        return Ragged(np.concatenate([self.row(i) for i in rows]), _starts(self.lengths[rows]))

    def __len__(self) -> int:
        return len(self.start) - 1


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Shuffled batches of rows of similar length, every row once.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        Tokens a row.
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


def token_budget(lengths: np.ndarray, rows: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut rows into rectangles of at most max_tokens slots, padding included.

    Rows of similar length go together, longest first. A row that is longer than the budget
    makes a rectangle of its own.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    pieces = []
    begin = 0
    while begin < len(rows):
        longest = max(1, int(lengths[rows[begin]]))
        end = begin + max(1, max_tokens // longest)
        pieces.append(rows[begin:end])
        begin = end
    return pieces


def pad(
    ids: Ragged, rows: np.ndarray, pad_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Right-padded ids and their attention mask, both of shape (n_rows, longest)."""
    lengths = ids.lengths[rows]
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : lengths[i]] = ids.row(row)
    return {
        "input_ids": torch.from_numpy(input_ids).to(device),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device),
    }
