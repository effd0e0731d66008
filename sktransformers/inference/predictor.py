"""Run a model over encoded rows: sorted, in rectangles of bounded size, order restored."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sktransformers.inputs.batching import (
    Budget,
    Encoded,
    Feed,
    Ragged,
    as_budget,
    feed,
    on_device,
    token_budget,
)
from sktransformers.modules.memory import free, make_room

# Vectors of so many windows, words or tokens are kept at once: 200 MB at a width of 384.
_MOST_VECTORS = 2**17


class Predictor(NamedTuple):
    """Where and how a model computes.

    Parameters
    ----------
    device : torch.device
        Where the model is.
    pad_id : int
        Id of the padding token.
    max_batch_tokens : int or Budget
        Slots, padding included, that go through at once. What runs out of memory goes through
        in halves; a `Budget` remembers it.
    autocast_dtype : torch.dtype or None
        Lower precision of the forward pass.
    feed : callable
        As `sktransformers.inputs.batching.feed`; another may have kept what encode gives.
    """

    device: torch.device
    pad_id: int
    max_batch_tokens: int | Budget
    autocast_dtype: torch.dtype | None
    feed: Feed = feed

    def vectors(self, encode: Callable[..., Tensor], encoded: Encoded, unit: str) -> Tensor:
        """What encode gives for all sequences, in their order.

        Parameters
        ----------
        encode : callable
            First stage of a model, which must be in evaluation mode.
        encoded : Encoded
            The rows.
        unit : {"window", "word", "token"}
            What encode gives one vector for.

        Returns
        -------
        vectors : Tensor of shape (n_vectors, width)
        """
        starts = encoded.outputs(unit)
        places = Ragged(np.arange(starts[-1]), starts)
        vectors = torch.empty((0, 0))
        each, budget = np.arange(len(encoded.sequences)), as_budget(self.max_batch_tokens)
        lengths = encoded.sequences.lengths

        def compute(piece: np.ndarray) -> Tensor:
            stage, inputs = self.feed(encode, encoded, piece, self.pad_id, self.device)
            with torch.inference_mode(), self.autocast():
                return stage(**inputs)

        def cut(sequences: np.ndarray) -> list[np.ndarray]:
            return token_budget(lengths, sequences, budget)

        with self.autocast():  # left and entered for each piece, it would cast the weights anew
            for piece, part in self.in_pieces(compute, cut, each, budget, lengths.__getitem__):
                with torch.inference_mode():
                    if vectors.shape[1] == 0:
                        vectors = part.new_empty((int(starts[-1]), part.shape[1]))
                    vectors[on_device(places.positions(piece), self.device)] = part
        return vectors

    def rows(
        self,
        encode: Callable[..., Tensor],
        decide: Callable[..., Tensor] | None,
        encoded: Encoded,
        unit: str,
    ) -> np.ndarray:
        """What decide gives for all rows, in their order.

        Parameters
        ----------
        encode, encoded, unit
            As in `vectors`.
        decide : callable or None
            Second stage of the model; None leaves the vectors of encode as they are.

        Returns
        -------
        outputs : ndarray of float32 or float64 and shape (n_rows, width)
        """
        starts = encoded.outputs(unit)[encoded.windows]
        counts = np.diff(starts)[encoded.rows].sum(axis=1)
        part = (np.cumsum(counts) - counts) // _MOST_VECTORS
        some = np.flatnonzero(counts)  # a cut only before these: no part is without a vector
        cuts = some[1:][np.diff(part[some]) > 0]
        if len(cuts) == 0:
            return self._rows(encode, decide, encoded, unit)
        parts = np.split(np.arange(len(encoded)), cuts)
        return np.concatenate(
            [self._rows(encode, decide, encoded.take(rows), unit) for rows in parts]
        )

    def _rows(
        self,
        encode: Callable[..., Tensor],
        decide: Callable[..., Tensor] | None,
        encoded: Encoded,
        unit: str,
    ) -> np.ndarray:
        vectors = self.vectors(encode, encoded, unit)
        if decide is None:
            return to_numpy(vectors)
        starts = encoded.outputs(unit)[encoded.windows]
        places, sizes = Ragged(np.arange(starts[-1]), starts), np.diff(starts)
        budget = as_budget(self.max_batch_tokens)

        def compute(rows: np.ndarray) -> np.ndarray:
            texts, where = encoded.texts_of(rows)
            return self.decide(decide, vectors, places.positions(texts), sizes[texts], where)

        def cut(rows: np.ndarray) -> list[np.ndarray]:
            return [rows[group] for group in encoded.take(rows).groups(budget)]

        def lengths(rows: np.ndarray) -> np.ndarray:
            return encoded.take(rows).sequences.lengths

        outputs: Any = None
        each = np.arange(len(encoded))
        for rows, part in self.in_pieces(compute, cut, each, budget, lengths):
            if outputs is None:
                outputs = np.empty((len(encoded), part.shape[1]), part.dtype)
            outputs[rows] = part
        return outputs

    def in_pieces(
        self,
        compute: Callable[[np.ndarray], Any],
        cut: Callable[[np.ndarray], list[np.ndarray]],
        items: np.ndarray,
        budget: Budget,
        lengths: Callable[[np.ndarray], np.ndarray],
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Pieces of items and what is computed of them; smaller ones when memory runs out."""
        pieces = deque(cut(items))
        while pieces:
            found = None
            try:
                found = compute(pieces[0])
            except Exception as error:
                make_room(error, budget, lengths(pieces[0]))
            if found is None:
                free(self.device)
                pieces = deque(cut(np.concatenate(pieces)))
            else:
                yield pieces.popleft(), found

    def decide(
        self,
        decide: Callable[..., Tensor],
        vectors: Tensor,
        positions: np.ndarray,
        sizes: np.ndarray,
        rows: np.ndarray,
    ) -> np.ndarray:
        """What decide gives for rows of texts whose vectors lie at some positions."""
        where, *layout = (on_device(array, self.device) for array in (positions, sizes, rows))
        with torch.inference_mode(), self.autocast():
            return to_numpy(decide(vectors[where], *layout))

    def texts(self, model: Any, encoded: Encoded) -> Tensor:
        """One vector a text, of shape (n_texts, width), from a model that pools windows."""
        vectors = self.vectors(model.encode, encoded, "window")
        sizes = on_device(np.diff(encoded.windows), self.device)
        with torch.inference_mode(), self.autocast():
            return model.window_pooling(vectors, sizes)

    def autocast(self) -> Any:
        dtype = self.autocast_dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of float32 or float64: NumPy has no bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).cpu().numpy()
