"""What a masked language model would put where masks are."""

from typing import Any

import numpy as np
import torch

from sktransformers.inference.predictor import to_numpy
from sktransformers.inputs.batching import Encoded, Ragged, pad, starts, token_budget

_MOST_LOGITS = 2**26  # at once, each a number for every token of the vocabulary: 256 MB


def masks_in(encoded: Encoded, mask_id: int) -> np.ndarray:
    """Number of masks in each sequence."""
    before = starts(encoded.sequences.flat == mask_id)
    return np.diff(before[encoded.sequences.start])


def fillings(
    model: Any, encoded: Encoded, mask_id: int, allowed: np.ndarray, n: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens for each mask.

    Parameters
    ----------
    model : PreTrainedModel
        A masked language model in evaluation mode.
    encoded : Encoded
        Texts with masks, a sequence each.
    mask_id, pad_id : int
        Ids of the tokens for masks and for padding.
    allowed : ndarray of int and shape (n_allowed,)
        Ids of the tokens to choose from.
    n : int
        How many for each mask; not more than there are.

    Returns
    -------
    best, logits : ndarray of shape (n_masks, n)
        Positions in allowed and their logits, likeliest first; masks in the order of the texts.
    """
    counts = masks_in(encoded, mask_id)
    masks = Ragged(np.arange(counts.sum()), starts(counts))
    n = min(n, len(allowed))
    best, logits = np.empty((len(masks.flat), n), np.int64), np.empty((len(masks.flat), n))
    device, columns = model.device, torch.from_numpy(allowed).to(model.device)
    most = max(1, _MOST_LOGITS // model.config.get_text_config().vocab_size)
    with torch.inference_mode():
        for piece in token_budget(encoded.sequences.lengths, np.flatnonzero(counts), most):
            inputs = pad(encoded, piece, pad_id, device)
            found = model(**inputs).logits[inputs["input_ids"] == mask_id][:, columns].topk(n)
            where = masks.positions(piece)
            best[where], logits[where] = found.indices.cpu().numpy(), to_numpy(found.values)
    return best, logits
