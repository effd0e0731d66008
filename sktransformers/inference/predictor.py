"""Run a model over encoded texts: sorted, in rectangles of bounded size, order restored."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sktransformers.inputs.batching import Ragged, pad, token_budget


def run(
    forward: Callable[..., Tensor],
    ids: Ragged,
    *,
    device: torch.device,
    pad_id: int,
    max_batch_tokens: int,
    autocast_dtype: torch.dtype | None,
) -> np.ndarray:
    """Rows that forward gives for encoded texts.

    Parameters
    ----------
    forward : callable
        ``forward(input_ids=, attention_mask=)`` returns a tensor of shape (batch, width).
        Whatever it belongs to must be in evaluation mode.
    ids : Ragged
        Token ids.
    device : torch.device
        Where forward computes.
    pad_id : int
        Id of the padding token.
    max_batch_tokens : int
        Slots, padding included, that go through at once.
    autocast_dtype : torch.dtype or None
        Lower precision of the forward pass.

    Returns
    -------
    outputs : ndarray of float32 or float64 and shape (n_texts, width)
        In the order of ids.
    """
    outputs: np.ndarray = np.empty((len(ids), 0), dtype=np.float32)
    pieces = token_budget(ids.lengths, np.arange(len(ids)), max_batch_tokens)
    with torch.inference_mode():
        for piece in pieces:
            inputs = pad(ids, piece, pad_id, device)
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                part = forward(**inputs)
            # NumPy has no bfloat16.
            rows = part.to(torch.promote_types(part.dtype, torch.float32)).cpu().numpy()
            if outputs.shape[1] == 0:
                outputs = np.empty((len(ids), rows.shape[1]), dtype=rows.dtype)
            outputs[piece] = rows
    return outputs
