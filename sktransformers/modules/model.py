"""Backbone, pooling and head as one model of the transformers library."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from sktransformers.modules.backbone import drop_pooler, hidden_size, token_vectors
from sktransformers.modules.heads import LinearHead
from sktransformers.modules.pooling import Pooling


class SequenceConfig(PreTrainedConfig):
    """Configuration of `SequenceModel`.

    Parameters
    ----------
    backbone_config : PreTrainedConfig or dict
        Configuration of the backbone.
    pooling : str
        One of the modes of `Pooling`.
    head_dropout : float
        Dropout of the head.
    id2label : dict of int to str
        Name of each logit.
    """

    model_type = "sktransformers-sequence"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 (transformers reads it so)

    def __init__(
        self,
        backbone_config: Any = None,
        pooling: str = "mean",
        head_dropout: float = 0.1,
        **kwargs: Any,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.pooling = pooling
        self.head_dropout = head_dropout
        # Not given, transformers would unset the backbone's: its masks would then be lost.
        kwargs.setdefault(
            "attn_implementation", getattr(backbone_config, "_attn_implementation", None)
        )
        super().__init__(**kwargs)


class SequenceModel(PreTrainedModel):
    r"""One vector a text, and logits from it.

    With token vectors :math:`H = backbone(x)` and :math:`h = pool(H)` (for CLS pooling
    :math:`h_{CLS} = H_1`), the class probabilities are :math:`y = softmax(h W_C)` with a
    bias, as in Devlin et al. 2019 (arXiv:1810.04805), section 4.1.

    Parameters
    ----------
    config : SequenceConfig
    backbone : PreTrainedModel, default=None
        Backbone with its weights, taken over as it is; None builds one with random weights.
    """

    config_class = SequenceConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SequenceConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            backbone = AutoModel.from_config(config.backbone_config)
        else:
            module: Any
            for module in backbone.modules():  # post_init must leave these weights alone
                module._is_hf_initialized = True
        drop_pooler(backbone)
        width = hidden_size(config.backbone_config)
        self.backbone = backbone
        self.pooling = Pooling(config.pooling, width)
        self.head = LinearHead(width, len(config.id2label or ()), config.head_dropout)
        for part in (self.pooling, self.head):
            part.to(backbone.dtype)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Only the head is ours to start: N(0, 0.02) and no bias, as BERT's.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled vectors of shape (batch, width)."""
        hidden = token_vectors(self.backbone, input_ids, attention_mask)
        return self.pooling(hidden, attention_mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Logits of shape (batch, n_labels)."""
        return SequenceClassifierOutput(logits=self.head(self.pool(input_ids, attention_mask)))
