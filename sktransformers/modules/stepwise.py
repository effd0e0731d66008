"""Texts behind sources, read token by token with the decoder's cache."""

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from sktransformers.modules.language import LanguageModel, decoder_start


class Read(NamedTuple):
    """What a decoder has read: a source a row, and some tokens behind it.

    Parameters
    ----------
    logits : Tensor of shape (n_rows, vocabulary_size)
        Of the token that follows.
    cache : Any
        What the decoder keeps of all it has read.
    mask : Tensor of shape (n_rows, length)
        Where there is no padding, in the source of an encoder-decoder or in all of the sequence.
    hidden : Tensor of shape (n_rows, length, width) or None
        The encoder's vectors, if there is one.
    """

    logits: Tensor
    cache: Any
    mask: Tensor
    hidden: Tensor | None

    @property
    def goes_on(self) -> bool:
        """Whether `go_on` can read on: some families keep a state that it does not know."""
        return isinstance(self.cache, Cache)


def begin(model: LanguageModel, source: Tensor, mask: Tensor) -> Read:
    """Sources, with what comes first behind them.

    Parameters
    ----------
    model : LanguageModel
    source, mask : LongTensor of shape (n, source_length)
        Token ids and where they are no padding, which for a decoder is on the left.
    """
    native = model.native
    if model.reads_source_first:
        return _decode(native, source, None, mask, None)
    hidden = native.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state
    start = source.new_full((len(source), 1), decoder_start(native))
    return _decode(native, start, None, mask, hidden)


def go_on(model: LanguageModel, read: Read, rows: Tensor, tokens: Tensor) -> Read:
    """One token more behind some of the rows, each of them any number of times.

    Parameters
    ----------
    model : LanguageModel
    read : Read
        It stays as it is.
    rows, tokens : LongTensor of shape (n,)
        Which rows, and what is read behind each.
    """
    cache, mask, hidden = _gathered(read.cache, rows), read.mask[rows], read.hidden
    if hidden is None:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    else:
        hidden = hidden[rows]
    return _decode(model.native, tokens.unsqueeze(1), cache, mask, hidden)


def _decode(native: Any, ids: Tensor, cache: Any, mask: Tensor, hidden: Tensor | None) -> Read:
    inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
    if hidden is not None:
        inputs["decoder_input_ids"] = ids
        inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden)
    else:
        inputs["input_ids"] = ids
        known = inspect.signature(native.forward).parameters
        if "position_ids" in known:  # counted from the first token that is no padding
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in known:
            inputs["logits_to_keep"] = 1
    outputs = native(**inputs)
    cache = getattr(outputs, "past_key_values", None)
    return Read(outputs.logits[:, -1], cache, mask, hidden)


def _gathered(cache: Any, rows: Tensor) -> Any:
    """A cache of some of the rows; the given one stays as it is."""
    new = copy.copy(cache)
    if isinstance(cache, EncoderDecoderCache):
        new.is_updated = dict(cache.is_updated)
        new.self_attention_cache = _gathered(cache.self_attention_cache, rows)
        new.cross_attention_cache = _gathered(cache.cross_attention_cache, rows)
        return new
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:  # those without attention keep their states in dicts
        vars(layer).update({k: dict(v) for k, v in vars(layer).items() if isinstance(v, dict)})
    new.reorder_cache(rows)
    return new
