"""Which tokens of a text are read together, where it is longer than a backbone can read."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sktransformers.inputs.batching import Ragged, starts


@dataclass(frozen=True)
class WindowPlan:
    """How a text that is longer than the room is read.

    The first window begins with the text, the last one ends with it, and those between are
    spread evenly.

    Parameters
    ----------
    stride : int, default=None
        Tokens from the beginning of one window to that of the next, or a little fewer. By
        default windows do not overlap more than their even spread demands.
    max_windows : int, default=None
        Only so many windows of each text are read.
    """

    stride: int | None = None
    max_windows: int | None = None

    def check(self, room: int) -> None:
        """Raise ValueError if windows with room for so many tokens would leave gaps."""
        if self.stride is not None and not 1 <= self.stride <= room:
            raise ValueError(
                f"stride={self.stride} must be at least 1 and at most {room}, the room for "
                f"tokens of the text in a window."
            )
        if self.max_windows is not None and self.max_windows < 1:
            raise ValueError(f"max_windows={self.max_windows} must be at least 1.")

    def needed(self, lengths: np.ndarray, room: np.ndarray | int) -> np.ndarray:
        """How many windows it takes to read texts of these lengths to their ends."""
        room = np.maximum(room, 1)
        if self.stride is None:
            windows = -(-lengths // room)
        else:
            windows = -(-(lengths - room) // np.minimum(self.stride, room)) + 1
        return np.maximum(windows, 1)

    def choose(self, needed: np.ndarray) -> "Chosen":
        """The windows to read, of those that the texts need."""
        counts = needed if self.max_windows is None else np.minimum(needed, self.max_windows)
        return Chosen(np.repeat(np.arange(len(counts)), counts), within(counts), counts)

    def spans(
        self,
        lengths: np.ndarray,
        room: np.ndarray | int,
        number: np.ndarray,
        needed: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows of these numbers, counted from 0, begin and end in their texts."""
        width = -(-lengths // needed) if self.stride is None else np.minimum(lengths, room)
        begin = number * (lengths - width) // np.maximum(needed - 1, 1)
        return begin, begin + width


# To cut a text is to read its first window.
CUT = WindowPlan(stride=1, max_windows=1)


class Chosen(NamedTuple):
    """Windows of several texts: which text, the window's number in it, how many a text."""

    text: np.ndarray
    number: np.ndarray
    counts: np.ndarray


def within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... anew in each row of these lengths."""
    start = starts(lengths)
    return np.arange(start[-1]) - np.repeat(start[:-1], lengths)


def slices(flat: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Ragged:
    """The parts from begin to end of a flat array; they may overlap."""
    lengths = end - begin
    return Ragged.split(flat[np.repeat(begin, lengths) + within(lengths)], lengths)


def side_by_side(*parts: Ragged | list[int]) -> Ragged:
    """Rows made of the same row of each part; a list stands in every row."""
    n = next(len(part) for part in parts if isinstance(part, Ragged))
    columns = [
        part if isinstance(part, Ragged) else Ragged.of([part]).take(np.zeros(n, np.int64))
        for part in parts
    ]
    lengths = np.sum([column.lengths for column in columns], axis=0)
    whole = Ragged.split(np.empty(lengths.sum(), np.int32), lengths)
    offset = whole.start[:-1]
    for column in columns:
        at = np.repeat(offset, column.lengths) + within(column.lengths)
        whole.flat[at] = column.flat
        offset = offset + column.lengths
    return whole
