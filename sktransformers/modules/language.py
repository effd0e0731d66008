"""A language model of the transformers library that answers a text with a text."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from sktransformers.modules.model import TextConfig


class LanguageConfig(TextConfig):
    """Configuration of `LanguageModel`; ``backbone_config`` is that of the whole model."""

    model_type = "sktransformers-language"

    def __init__(self, **kwargs: Any):  # transformers would write one of its own
        super().__init__(**kwargs)


class LanguageModel(PreTrainedModel):
    r"""An encoder-decoder, or a decoder that reads the source in front of the target.

    The probability of a target :math:`y_1 \dots y_n` with the source x is
    :math:`\prod_i p(y_i | x, y_1 \dots y_{i-1})` (Sutskever et al. 2014, arXiv:1409.3215,
    equation 1).

    Parameters
    ----------
    config : LanguageConfig
    native : PreTrainedModel, default=None
        The model with its weights, taken over as it is; None builds one with random weights.
    """

    config_class: Any = LanguageConfig
    base_model_prefix = "native"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    needs_whole_batches: ClassVar[bool] = False

    def __init__(self, config: Any, native: PreTrainedModel | None = None):
        super().__init__(config)
        if native is None:
            native = auto_class(config.backbone_config).from_config(config.backbone_config)
        else:
            module: Any
            for module in native.modules():  # post_init must leave these weights alone
                module._is_hf_initialized = True
        self.native: Any = native
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the start of all weights to the family's own class."""

    @property
    def backbone(self) -> Any:
        """All of the family's model: the layer of the vocabulary was trained with the rest."""
        return self.native

    @property
    def reads_source_first(self) -> bool:
        """Whether source and target are one sequence to it, as to a decoder."""
        return not self.native.config.is_encoder_decoder

    def token_logits(
        self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        """Logits of every token of the targets, each after the true tokens before it.

        Parameters
        ----------
        source, source_mask : LongTensor of shape (n, source_length)
            Token ids, padded on the right, and where they are no padding.
        target, target_mask : LongTensor of shape (n, target_length)
            Likewise.

        Returns
        -------
        logits : Tensor of shape (n_target_tokens, vocabulary_size)
            Target after target.
        """
        read = self._read_joined if self.reads_source_first else self._read_apart
        return read(source, source_mask, target, target_mask)

    def _read_apart(
        self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        logits = self.native(
            input_ids=source,
            attention_mask=source_mask,
            decoder_input_ids=shifted(target, decoder_start(self.native)),
            use_cache=False,
        ).logits
        return logits[target_mask.bool()]

    def _read_joined(
        self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        ids, mask, places = joined(source, source_mask, target, target_mask)
        real = target_mask.bool()
        before = places[real] - 1  # the token before says what comes
        kept: dict[str, Tensor] = {}
        if "logits_to_keep" in inspect.signature(self.native.forward).parameters:
            # Logits of sources, a vocabulary wide, would be most of the memory.
            first = int(before.min())
            kept["logits_to_keep"] = torch.arange(first, ids.shape[1], device=ids.device)
            before = before - first
        logits = self.native(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits
        each = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(places)
        return logits[each[real], before]


def auto_class(config: Any) -> Any:
    """The class of the transformers library that knows the language models of a kind."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def decoder_start(native: Any) -> int:
    """The token that an encoder-decoder's decoder begins with."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")  # as generate() has it
    found = (getattr(native.config, name, None) for name in names)
    return next((token for token in found if token is not None), 0)


def shifted(target: Tensor, start: int) -> Tensor:
    """What the decoder reads while it is to give the target: a start token, and all but the end."""
    first = target.new_full((len(target), 1), start)
    return torch.cat([first, target[:, :-1]], dim=1)


def joined(
    source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Source and target as one sequence, padded on the right.

    Returns
    -------
    ids, mask : LongTensor of shape (n, length)
    places : LongTensor of shape (n, target_length)
        Where the tokens of each target stand.
    """
    n_source = source_mask.sum(dim=1, keepdim=True)
    n_all = n_source + target_mask.sum(dim=1, keepdim=True)
    length = int(n_all.max())
    places = n_source + torch.arange(target.shape[1], device=target.device)
    # One column more takes the padding of the targets.
    ids = source.new_zeros(len(source), max(length, source.shape[1]) + 1)
    ids[:, : source.shape[1]] = source
    ids.scatter_(1, places.where(target_mask.bool(), ids.shape[1] - 1), target)
    mask = (torch.arange(length, device=ids.device) < n_all).long()
    return ids[:, :length], mask, places
