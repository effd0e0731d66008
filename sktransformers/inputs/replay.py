"""A bounded sample of all rows that ever came, about the same number of each stratum."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    rows: list[Any]
    y: np.ndarray
    weights: np.ndarray
    keys: np.ndarray

    @classmethod
    def of(
        cls, rows: Sequence[Any], y: np.ndarray, weights: np.ndarray, rng: np.random.Generator
    ) -> "Reservoir":
        """All of some rows, with new keys."""
        return cls(list(rows), y, weights, rng.random(len(rows)))

    def joined(self, new: "Reservoir") -> "Reservoir":
        """These rows and others behind them."""
        return Reservoir(
            self.rows + new.rows,
            stacked(self.y, new.y),
            np.concatenate([self.weights, new.weights]),
            np.concatenate([self.keys, new.keys]),
        )

    def kept(self, strata: np.ndarray, size: int) -> "Reservoir":
        """At most so many of the rows, each stratum with the same number or all it has."""
        sizes = np.bincount(strata)
        level = _level(sizes[sizes > 0], size)
        order = np.lexsort((self.keys, strata))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # What the level leaves goes to the next row of some strata.
        next_ones = np.flatnonzero(rank == level)
        spare = size - np.minimum(sizes, level).sum()
        next_ones = next_ones[np.argsort(self.keys[next_ones], kind="stable")[:spare]]
        return self.take(np.sort(np.append(np.flatnonzero(rank < level), next_ones)))

    def take(self, places: np.ndarray) -> "Reservoir":
        """Some of the rows."""
        rows = [self.rows[int(i)] for i in places]
        return Reservoir(rows, self.y[places], self.weights[places], self.keys[places])


def _level(sizes: np.ndarray, total: int) -> int:
    """The largest number that each group may have, if together they have at most the total."""
    left = total
    for done, size in enumerate(np.sort(sizes)):
        share = left // (len(sizes) - done)
        if size > share:
            return share
        left -= int(size)
    return total


def stacked(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Targets of rows and of others behind them, in the class that knows their columns."""
    joined = np.concatenate([np.asarray(first), np.asarray(second)]).view(type(second))
    if hasattr(second, "__array_finalize__"):
        joined.__array_finalize__(second)
    return joined
