"""How likely a language model finds tokens."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Encoded, Ragged, on_device

_MOST_ROWS = 256  # whose vectors are kept at once
_MOST_LOGITS = 2**24  # at once: 64 MB


def mean_loss(model: Any, encoded: Encoded, targets: Ragged, predictor: Predictor) -> float:
    r"""Mean of :math:`-\log p` over the targets of all rows.

    Parameters
    ----------
    model : AdaptedModel
        In evaluation mode.
    encoded : Encoded
        Rows of one sequence, with the places of the targets as their words.
    targets : Ragged
        Token ids at these places; at least one.
    predictor : Predictor
        Where and how to compute.
    """
    vocabulary = model.native.config.get_text_config().vocab_size
    step = max(1, _MOST_LOGITS // vocabulary)
    total = 0.0
    for begin in range(0, len(encoded), _MOST_ROWS):
        rows = np.arange(begin, min(begin + _MOST_ROWS, len(encoded)))
        vectors = predictor.vectors(model.encode, encoded.take(rows), model.unit)
        wanted = on_device(targets.take(rows).flat, predictor.device)
        with torch.inference_mode(), predictor.autocast():
            for some, ids in zip(vectors.split(step), wanted.split(step)):
                logits = model.logits(some)
                precision = torch.promote_types(logits.dtype, torch.float32)
                total += float(F.cross_entropy(logits.to(precision), ids, reduction="sum"))
    return total / len(targets.flat)
