"""What a sequence-to-sequence model makes of texts."""

from typing import Any

import numpy as np
import torch

from sktransformers.inputs.batching import Encoded, pad, token_budget

# A text becomes at most so many times as long, and so many tokens longer.
_GROWTH, _MORE = 2, 16


def generate(
    model: Any,
    encoded: Encoded,
    pad_id: int,
    max_tokens: int,
    longest: int | None,
    **options: Any,
) -> list[list[int]]:
    """Token ids of what the model writes for each text.

    Parameters
    ----------
    model : PreTrainedModel
        A sequence-to-sequence model in evaluation mode.
    encoded : Encoded
        Texts, a sequence each.
    pad_id : int
        Id of the padding token.
    max_tokens : int
        Slots, padding included, that are read at once.
    longest : int or None
        Most tokens that the model can write.
    **options
        As in the model's own ``generate``.
    """
    sequences = encoded.sequences
    ids: list[list[int]] = [[] for _ in range(len(sequences))]
    with torch.inference_mode():
        for piece in token_budget(sequences.lengths, np.arange(len(sequences)), max_tokens):
            room = _GROWTH * int(sequences.lengths[piece].max()) + _MORE
            if longest is not None:
                room = min(room, longest - 1)  # what it begins with takes a place
            inputs = pad(encoded, piece, pad_id, model.device)
            written = model.generate(**inputs, max_new_tokens=room, **options)
            for i, row in zip(piece, written.tolist()):
                ids[i] = row
    return ids
