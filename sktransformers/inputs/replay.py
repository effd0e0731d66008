"""A bounded sample of all rows that ever came, about the same number of each stratum."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Reservoir:
    """Rows that were kept.

    Every row draws a key when it comes; of a stratum (a class) the rows with the smallest keys
    are kept, which is a uniform sample of all that came. What a stratum may hold only shrinks
    while others come, but for the one row that some have above the others.

    Parameters
    ----------
    rows : list
        Rows as the encoder reads them.
    y : ndarray of shape (n_rows, ...)
        Their targets as the user's.
    weights : ndarray of shape (n_rows,)
        Their sample weights.
    keys : ndarray of shape (n_rows,)
        The smaller, the longer a row stays.
    columns : list or None
        What the columns of y stand for, if that may change.
    """

    rows: list[Any]
    y: np.ndarray
    weights: np.ndarray
    keys: np.ndarray
    columns: list[Any] | None

    @classmethod
    def of(
        cls,
        rows: Sequence[Any],
        y: np.ndarray,
        weights: np.ndarray,
        rng: np.random.Generator,
        columns: list[Any] | None = None,
    ) -> "Reservoir":
        """All of some rows, with new keys."""
        return cls(list(rows), y, weights, rng.random(len(rows)), columns)

    def like(self, other: "Reservoir") -> "Reservoir":
        """These rows with the columns of others: by what they stand for, and zero in new ones.

        Raises
        ------
        ValueError
            If the y of one is no matrix like the other's.
        """
        y, columns = np.asarray(self.y), other.columns
        if self.columns is not None and columns is not None:
            known = {label: place for place, label in enumerate(self.columns)}
            order = np.array([known.get(label, -1) for label in columns])
            y = y[:, order] * (order >= 0).astype(y.dtype)
        if y.shape[1:] != other.y.shape[1:]:
            raise ValueError(
                f"replay: the rows that were kept and the new ones have a y of other forms, with "
                f"{_width(y)} and {_width(other.y)} a row: pass replay=None to forget those."
            )
        y = y.view(type(other.y))
        y.__array_finalize__(other.y)
        return replace(self, y=y, columns=columns)

    def joined(self, new: "Reservoir") -> "Reservoir":
        """These rows and others of the same columns behind them."""
        y = np.concatenate([self.y, new.y]).view(type(self.y))
        y.__array_finalize__(self.y)
        weights = np.concatenate([self.weights, new.weights])
        keys = np.concatenate([self.keys, new.keys])
        return Reservoir(self.rows + new.rows, y, weights, keys, self.columns)

    def kept(self, strata: np.ndarray, size: int) -> "Reservoir":
        """At most so many of the rows, each stratum with the same number or all it has."""
        sizes = np.bincount(strata)
        most = level(sizes[sizes > 0], size)
        order = np.lexsort((self.keys, strata))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # What that leaves goes to the next row of some strata.
        next_ones = np.flatnonzero(rank == most)
        spare = size - np.minimum(sizes, most).sum()
        next_ones = next_ones[np.argsort(self.keys[next_ones], kind="stable")[:spare]]
        return self.take(np.sort(np.append(np.flatnonzero(rank < most), next_ones)))

    def take(self, places: np.ndarray) -> "Reservoir":
        """Some of the rows."""
        rows = [self.rows[int(i)] for i in places]
        y, weights, keys = self.y[places], self.weights[places], self.keys[places]
        return Reservoir(rows, y, weights, keys, self.columns)


def level(sizes: np.ndarray, total: int) -> int:
    """The largest number that each group may have, if together they have at most the total."""
    left = total
    for done, size in enumerate(np.sort(sizes)):
        share = left // (len(sizes) - done)
        if size > share:
            return share
        left -= int(size)
    return total


def _width(y: np.ndarray) -> str:
    return f"{y.shape[1]} entries" if y.ndim == 2 else "one entry"
