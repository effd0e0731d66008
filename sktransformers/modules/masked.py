"""A language model that is asked for the tokens at a few places of its texts."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sktransformers.modules.backbone import token_vectors
from sktransformers.modules.model import TextConfig


class AdaptedConfig(TextConfig):
    """Configuration of `AdaptedModel`; ``backbone_config`` is that of the whole model.

    Parameters
    ----------
    is_causal : bool, default=False
        Whether a token is predicted from those before it, and not from those around it.
    has_new_head : bool, default=False
        Whether what stands behind the backbone was not pretrained with it.
    **kwargs
        As in `TextConfig`.
    """

    model_type = "sktransformers-adapted"

    def __init__(self, is_causal: bool = False, has_new_head: bool = False, **kwargs: Any):
        self.is_causal = is_causal
        self.has_new_head = has_new_head
        super().__init__(**kwargs)


class AdaptedModel(PreTrainedModel):
    """A masked or causal language model of the transformers library, in our two stages.

    ``encode`` gives the vectors of a few tokens of each sequence, and only for these does
    ``decide`` compute the logits of the vocabulary.

    Parameters
    ----------
    config : AdaptedConfig
    native : PreTrainedModel, default=None
        The model with its head, taken over as it is; None builds one with random weights.
    """

    config_class: Any = AdaptedConfig
    base_model_prefix = "native"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    needs_whole_batches = False
    unit = "word"

    def __init__(self, config: Any, native: PreTrainedModel | None = None):
        super().__init__(config)
        if native is None:
            auto = AutoModelForCausalLM if config.is_causal else AutoModelForMaskedLM
            native = auto.from_config(config.backbone_config)
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
        """What is trained as one: all of the model, or what is below a new head."""
        return self.native.base_model if self.config.has_new_head else self.native

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_rows: Tensor,
        word_begins: Tensor,
        word_ends: Tensor,
    ) -> Tensor:
        """Vectors of the tokens that stand at ``word_begins`` in the sequences ``word_rows``."""
        how = {"use_cache": False} if self.config.is_causal else {}
        hidden = token_vectors(self.native.base_model, input_ids, attention_mask, **how)
        return hidden[word_rows, word_begins]

    def decide(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Logits of shape (n_vectors, vocabulary_size); sizes and rows are not looked at."""
        return self.logits(vectors)

    def logits(self, vectors: Tensor) -> Tensor:
        """What the family's head gives for vectors of shape (n_vectors, width)."""

        def given(*args: Any, **kwargs: Any) -> _Given:
            return _Given(last_hidden_state=vectors.unsqueeze(0))

        # The family's own forward, of copies that share all weights: other threads may be using
        # the model itself.
        base = _copy(self.native.base_model)
        base.forward = given
        if "decoder" in base._modules:  # what OPT's class calls
            base._modules["decoder"] = _copy(base.decoder)
            base.decoder.forward = given
        head = _copy(self.native)
        head._modules[self.native.base_model_prefix] = base
        return head().logits[0]


class _Given(BaseModelOutputWithPastAndCrossAttentions):
    """Token vectors, and None for whatever else a family's head hands through."""

    def __getattr__(self, name: str) -> None:
        return None


def _copy(module: Any) -> Any:
    """A module of its own with the same weights and the same parts."""
    new = copy.copy(module)
    new._modules = dict(module._modules)
    return new
