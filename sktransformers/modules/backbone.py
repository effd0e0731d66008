"""What the package has to know of a pretrained model, whatever its family."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def drop_pooler(backbone: Any) -> None:
    """Remove the backbone's own pooler: our pooling reads the token vectors below it."""
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None


def hidden_size(config: Any) -> int:
    """Width of the backbone's token vectors.

    Raises
    ------
    ValueError
        If its configuration has none.
    """
    width = getattr(config.get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(
            f"The configuration {type(config).__name__} of this backbone states no hidden_size."
        )
    return width


def token_vectors(backbone: PreTrainedModel, input_ids: Any, attention_mask: Any, **kw: Any) -> Any:
    """Vectors of the last layer, of shape (batch, length, width)."""
    return backbone(input_ids=input_ids, attention_mask=attention_mask, **kw).last_hidden_state


def uses_token_types(backbone: PreTrainedModel) -> bool:
    """Whether the backbone tells the two texts of a pair apart by their token types."""
    return (getattr(backbone.config, "type_vocab_size", None) or 0) > 1


def position_limit(backbone: PreTrainedModel) -> int | None:
    """How many tokens the backbone can number, or None when it has no limit of its own.

    Learned position tables that skip the padding row (RoBERTa, XLM-R, MPNet) number two
    tokens fewer than they have rows.
    """
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    if _has_relative_positions(backbone.config):
        return None
    return getattr(backbone.config.get_text_config(), "max_position_embeddings", None)


def _has_relative_positions(config: Any) -> bool:
    # DeBERTa's buckets and T5's biases reach any distance.
    return bool(
        getattr(config, "relative_attention", False)
        or getattr(config, "relative_attention_num_buckets", None)
    )


def used_parameters(backbone: PreTrainedModel) -> set[str]:
    """Names of the parameters that the token vectors depend on."""
    was_training = backbone.training
    backbone.eval()
    ids = torch.tensor([[0, 1]])
    with torch.enable_grad():
        token_vectors(backbone, ids, torch.ones_like(ids)).sum().backward()
    used = {name for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad(set_to_none=True)
    backbone.train(was_training)
    return used
