"""Answers of a language model: sorted by length, in rectangles of bounded size, order restored."""

import copy
from typing import Any

import numpy as np
import torch

from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Encoded, as_budget, pad, token_budget
from sktransformers.modules.decoding import ids_of

# What these look at includes padding, unless they have the value that switches them off: else rows
# of one length go together.
_SEE_SOURCES = {"encoder_repetition_penalty": 1, "encoder_no_repeat_ngram_size": 0}
_SEE_ALL = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "min_length": 0}


def generate(
    predictor: Predictor, native: Any, encoded: Encoded, config: Any, tokenizer: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of an answer to each row.

    Parameters
    ----------
    predictor : Predictor
        ``max_batch_tokens`` is spent on sources and answers, those of all beams.
    native : PreTrainedModel
        The family's own model, in evaluation mode.
    encoded : Encoded
        One source a row.
    config : GenerationConfig
        With all special tokens, and ``max_new_tokens``.
    tokenizer : transformers tokenizer
        For stopping at strings.

    Returns
    -------
    ids : list of ndarray of int
        Without the source; what ends an answer, or pads it, may be at its end.
    truncated : ndarray of bool and shape (n_rows,)
        Whether an answer was cut at ``max_new_tokens``.
    """
    is_joined = not native.config.is_encoder_decoder
    most, n_beams = config.max_new_tokens, config.num_beams or 1
    lengths = encoded.sequences.lengths
    slots = (lengths + most) * n_beams
    budget = as_budget(predictor.max_batch_tokens)
    writer = copy.copy(native)  # shares all but the settings, which transformers falls back on
    writer.generation_config = config
    ends = np.array([*ids_of(config.eos_token_id), config.pad_token_id])
    by_length = _sees_padding(config, is_joined)

    def compute(rows: np.ndarray) -> np.ndarray:
        inputs = pad(encoded, rows, predictor.pad_id, predictor.device, left=is_joined)
        found = writer.generate(**inputs, generation_config=config, tokenizer=tokenizer)
        return found[:, inputs["input_ids"].shape[1] if is_joined else 1 :].cpu().numpy()

    def cut(rows: np.ndarray) -> list[np.ndarray]:
        pieces = token_budget(slots, rows, budget)
        if by_length:
            pieces = [
                piece[lengths[piece] == length]
                for piece in pieces
                for length in np.unique(lengths[piece])
            ]
        return pieces

    ids: list[np.ndarray] = [np.empty(0, np.int64)] * len(encoded)
    truncated = np.zeros(len(encoded), bool)
    each = np.arange(len(encoded))
    with torch.no_grad(), predictor.autocast():
        for rows, found in predictor.in_pieces(compute, cut, each, budget, slots.__getitem__):
            for row, answer in zip(rows, found):
                ids[row] = answer
            if found.shape[1] == most:
                truncated[rows] = ~np.isin(found[:, -1], ends)
    return ids, truncated


def _sees_padding(config: Any, is_joined: bool) -> bool:
    off = _SEE_SOURCES | _SEE_ALL if is_joined else _SEE_SOURCES
    return any(getattr(config, name, None) not in (None, value) for name, value in off.items())
