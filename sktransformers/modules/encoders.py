"""Backbones from configurations: decoders and encoders as they are, of T5 the encoder alone."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
)

from sktransformers.modules.attention import unmask
from sktransformers.modules.backbone import drop_pooler


def encoder_class(config: Any) -> Any:
    """The class that an encoder-decoder family such as T5 has for its encoder alone, or None."""
    if type(config) not in AutoModelForSeq2SeqLM._model_mapping:
        return None
    return AutoModelForTextEncoding._model_mapping.get(type(config), None)


def is_decoder(config: Any) -> bool:
    """Whether the models of a family write from left to right and do nothing else."""
    writes = type(config) in AutoModelForCausalLM._model_mapping
    return writes and type(config) not in AutoModelForMaskedLM._model_mapping


def backbone_class(config: Any) -> Any:
    """The class of the transformers library that reads and makes the backbones of a family."""
    return AutoModel if encoder_class(config) is None else AutoModelForTextEncoding


def new_backbone(config: Any) -> Any:
    """A backbone with random weights."""
    config.is_encoder_decoder = False  # an encoder-decoder's encoder
    return backbone_class(config).from_config(config)


def encoder_alone(model: Any) -> Any:
    """A copy of the encoder of a loaded encoder-decoder whose family has a class for it."""
    config = copy.deepcopy(model.config)
    config.is_encoder_decoder = False
    with torch.device("meta"):
        alone = encoder_class(config)(config)
    alone.encoder = copy.deepcopy(model.get_encoder())
    alone.set_input_embeddings(alone.encoder.get_input_embeddings())
    return alone


def settle(backbone: Any) -> None:
    """Bring a backbone into the form in which our models read it; once more changes nothing."""
    drop_pooler(backbone)
    if encoder_class(backbone.config) is not None:
        # T5 knows its table by two modules, one of which never runs.
        backbone.set_input_embeddings(backbone.get_input_embeddings())
    if not getattr(backbone.config, "is_causal", True):
        unmask(backbone)
    if getattr(backbone.config, "use_cache", False):
        backbone.config.use_cache = False  # keys and values of all blocks, for tokens to come
