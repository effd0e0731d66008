"""Our models in the class that the backbone's family has for the task, and back.

No list of families says which class has which head: the class is built, its layers behind the
backbone are compared with ours, and both are tried out on a few tokens.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from sktransformers.inputs.encoding import probe, special_tokens
from sktransformers.inputs.pair_encoding import pair_format
from sktransformers.modules.backbone import are_alike, tried_out
from sktransformers.modules.model import PairModel, SequenceModel, TaggingModel
from sktransformers.modules.multitask import MultiTaskModel
from sktransformers.modules.native import labels_of, last_layer, set_labels

_CLASSES: dict[type, Any] = {
    SequenceModel: AutoModelForSequenceClassification,
    TaggingModel: AutoModelForTokenClassification,
}
# What families call the dropout in front of their last layer.
_DROPOUTS = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "cls_dropout")
_OTHERWISE = (
    'Take format="auto" or "sktransformers"; where the directory is read, import sktransformers.hf '
    "lets the Auto classes and pipelines load what goes with one forward pass a row, and "
    "sktransformers.load loads anything."
)
# How many of the standard deviations of y its mean may be away from zero: float32 has seven digits.
_MOST_FAR = 1e3


class NotExpressible(ValueError):
    """No class of the transformers library gives what a model gives.

    Parameters
    ----------
    why : str
        What stands in the way.
    """

    def __init__(self, why: str):
        super().__init__(f'format="transformers" cannot hold this model, since {why}. {_OTHERWISE}')


class Reading(NamedTuple):
    """What stands around a model, as far as its files must know of it.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    max_length : int or None
        Tokens that are read at once.
    pairs : bool
        Whether a row is a pair of texts.
    unit : tuple of ndarray or None
        Mean and scale of the numbers that the outputs stand for.
    """

    tokenizer: Any
    max_length: int | None = None
    pairs: bool = False
    unit: Any = None

    @classmethod
    def of(cls, saved: Any) -> "Reading":
        """That of an estimator, by what is saved of it."""
        fitted = saved.fitted
        unit = None
        if "target_scale_" in fitted:
            unit = fitted["target_mean_"], fitted["target_scale_"]
        pairs = "interaction" in (*saved.parameters, *saved.dropped)  # one may leave it out
        return cls(saved.tokenizer, fitted.get("max_length_"), pairs, unit)

    @property
    def has_unit(self) -> bool:
        """Whether outputs must be scaled and shifted to be what is predicted."""
        if self.unit is None:
            return False
        mean, scale = map(np.asarray, self.unit)
        return bool((mean != 0).any() or (scale != 1).any())


def auto_of(kind: type) -> Any:
    """The class of the transformers library that knows the families' models for one of ours.

    None if ours is built around such a model, or there is none for it.
    """
    return _CLASSES.get(kind)


def check_expressible(model: Any, reading: Reading) -> None:
    """Check what needs no weights.

    Raises
    ------
    NotExpressible
        If a row is more than one forward pass, or tokens are put together or read otherwise than
        plain transformers does it.
    """
    config: Any = model.config
    if isinstance(model, PairModel):
        raise NotExpressible(
            f"interaction={config.interaction!r} reads the two texts of a pair by themselves; "
            f'interaction="cross" with head="native" reads them as one sequence'
        )
    if isinstance(model, MultiTaskModel):
        raise NotExpressible("it has the outputs of several tasks")
    if getattr(config, "symmetric", False):
        raise NotExpressible("symmetric=True reads both orders of a pair")
    if getattr(config, "crf", False):
        raise NotExpressible(
            "a CRF (head, crf) scores the tags of a sentence together; crf=False does not"
        )
    if getattr(config, "subword", "first") != "first":
        raise NotExpressible(
            f"subword={config.subword!r}, and pipelines read a word at its first piece, as "
            f'subword="first" does'
        )
    if reading.pairs and not _joins_pairs(reading.tokenizer):
        raise NotExpressible(
            "the tokenizer puts nothing between the two texts of a pair, and the estimator does"
        )


def _joins_pairs(tokenizer: Any) -> bool:
    """Whether a tokenizer itself puts pairs together as the estimators do."""
    text, bare = probe(tokenizer)
    prefix, middle, suffix, _ = pair_format(tokenizer)
    return tokenizer(text, text)["input_ids"] == [*prefix, *bare, *middle, *bare, *suffix]


def as_native(model: Any, reading: Reading) -> Any:
    """The family's own model with the weights of one of ours, on the CPU.

    Parameters
    ----------
    model : SequenceModel or TaggingModel
        In evaluation mode, and `check_expressible`. It stays as it is.
    reading : Reading

    Raises
    ------
    NotExpressible
        If the family has no such class, or one that gives something else.
    """
    auto, config = _CLASSES[type(model)], _native_config(model, reading)
    family = config.model_type
    if type(config) not in auto._model_mapping:
        raise NotExpressible(f"{auto.__name__} does not know the family {family!r}")
    try:
        with torch.device("meta"):
            empty = auto.from_config(config)
    except Exception as error:  # of any family's constructor
        raise NotExpressible(f"{auto.__name__} cannot make a {family!r}: {error}") from error
    theirs, ours = _layers(empty), _layers(model)
    if type(empty.base_model) is not type(model.backbone) or not _fit(theirs, ours):
        raise _other_layers(model, empty, theirs, ours)
    state = {
        f"{empty.base_model_prefix}.{name}": weight.cpu()
        for name, weight in model.backbone.state_dict().items()
    }
    # Tried with weights at random: a layer of zeros would fit anywhere.
    draws = torch.Generator().manual_seed(0)
    for name, layer in theirs.items():
        for part, weight in layer.named_parameters():
            drawn = torch.randn(weight.shape, generator=draws) / layer.in_features**0.5
            state[f"{name}.{part}"] = drawn.to(model.backbone.dtype)
    for (name, layer), own in zip(theirs.items(), ours.values()):
        if layer.bias is not None and own.bias is None:
            state[f"{name}.bias"] = torch.zeros_like(state[f"{name}.bias"])
    native, info = type(empty).from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        dtype=model.backbone.dtype,
        output_loading_info=True,
    )
    lacking = info["missing_keys"] or info["mismatched_keys"]
    if lacking or not _gives_the_same(native, model, theirs, ours, state, reading):
        raise _other_layers(model, empty, theirs, ours)
    with torch.no_grad():
        for layer, own in zip(_layers(native).values(), ours.values()):
            layer.weight.copy_(own.weight)
            if own.bias is not None:
                layer.bias.copy_(own.bias)
    return native


def as_ours(kind: Any, config: Any, native: Any) -> Any:
    """One of our models with the weights of the family's own, which it takes over.

    Parameters
    ----------
    kind : type
    config : TextConfig
        With the configuration that the backbone had.
    native : PreTrainedModel
        As `as_native` made it.
    """
    theirs = _layers(native).values()
    backbone, written = native.base_model, native.config
    model = kind(config, backbone)
    given = config.backbone_config
    given._attn_implementation = written._attn_implementation
    for module in backbone.modules():
        if getattr(module, "config", None) is written:
            module.config = given
    with torch.no_grad():
        for layer, own in zip(theirs, _layers(model).values(), strict=True):
            own.weight.copy_(layer.weight)
            if own.bias is not None:
                own.bias.copy_(layer.bias)
    return model


def in_unit(native: Any, unit: Any) -> dict[str, Tensor]:
    """Weights of a regression model with a last layer that gives numbers in the unit of y.

    Parameters
    ----------
    native : PreTrainedModel
        It stays as it is.
    unit : tuple of float or ndarray
        Mean and scale.

    Raises
    ------
    NotExpressible
        If the layer has no bias, or not the digits.
    """
    name = last_layer(native)
    layer = native.get_submodule(name)
    mean, scale = (torch.as_tensor(x, dtype=torch.float64).reshape(-1) for x in unit)
    if layer.bias is None:
        raise NotExpressible(
            f"numbers are standardised for training, and the last layer of "
            f"{type(native).__name__} has no bias to bring them back to the unit of y"
        )
    is_coarse = torch.finfo(layer.weight.dtype).eps > torch.finfo(torch.float32).eps
    if is_coarse or bool((mean.abs() > _MOST_FAR * scale).any()):
        raise NotExpressible(
            f"numbers are standardised for training, and {layer.weight.dtype} has not the digits "
            f"to bring them back to the unit of y"
        )
    state = native.state_dict()
    mean, scale = mean.to(layer.weight.device), scale.to(layer.weight.device)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    state[f"{name}.weight"] = (weight * scale[:, None]).to(layer.weight.dtype)
    state[f"{name}.bias"] = (bias * scale + mean).to(layer.bias.dtype)
    return state


def _native_config(model: Any, reading: Reading) -> Any:
    """The configuration of the family's own model."""
    config = copy.deepcopy(model.backbone.config)
    set_labels(config, labels_of(model.config))
    config.problem_type = model.config.problem_type
    for name in _DROPOUTS:
        if hasattr(config, name) or name == _DROPOUTS[0]:
            setattr(config, name, model.config.head_dropout)
    if reading.tokenizer.pad_token_id is not None:
        # By it, and not by the mask, some classes know the last token.
        config.get_text_config().pad_token_id = reading.tokenizer.pad_token_id
    return config


def _layers(model: Any) -> dict[str, Any]:
    """Modules with weights behind the blocks of a model, the backbone's own pooler among them."""
    backbone = getattr(model, "backbone", None) or model.base_model
    pooler = getattr(backbone, "pooler", None)
    below = set(backbone.modules())
    below -= set(pooler.modules()) if isinstance(pooler, nn.Module) else set()
    return {
        name: module
        for name, module in model.named_modules()
        if module not in below and next(module.parameters(recurse=False), None) is not None
    }


def _fit(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether layer by layer theirs can hold the weights of ours."""
    return len(theirs) == len(ours) and all(
        type(layer) is type(own) is nn.Linear
        and layer.weight.shape == own.weight.shape
        and (own.bias is None or layer.bias is not None)
        for layer, own in zip(theirs.values(), ours.values())
    )


@torch.no_grad()
def _gives_the_same(
    native: Any,
    model: Any,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    state: dict[str, Tensor],
    reading: Reading,
) -> bool:
    """Whether both give the same for a few tokens, as they stand in a text."""
    device, where = model.device, native.device
    drawn = {
        f"{own}.{part}": state[f"{name}.{part}"].to(device)
        for (name, layer), own in zip(theirs.items(), ours)
        for part, _ in layer.named_parameters()
        if getattr(model.get_submodule(own), part) is not None
    }
    prefix, suffix = special_tokens(reading.tokenizer)
    special = {*reading.tokenizer.all_special_ids, native.config.get_text_config().pad_token_id}
    # The same numbers but for the order of sums; in half precision means of tokens come near too.
    roundings = 1e3 if torch.finfo(native.dtype).eps < 1e-6 else 4
    n_ids = native.config.get_text_config().vocab_size
    plain = [i for i in range(n_ids) if i not in special] or [0]
    native.to(device)
    try:
        with tried_out(model.backbone), tried_out(native):
            for n in (1, 2, 5):
                body = [plain[(7 * i + n) % len(plain)] for i in range(n)]
                ids = torch.tensor([[*prefix, *body, *suffix]], device=device)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                expected = torch.func.functional_call(model, drawn, kwargs=inputs).logits
                found = native(**inputs).logits
                if found.shape != expected.shape or not are_alike(found, expected, roundings):
                    return False
    except (RuntimeError, IndexError, TypeError, ValueError):  # a class that wants other inputs
        return False
    finally:
        native.to(where)
    return True


def _other_layers(
    model: Any, native: Any, theirs: dict[str, Any], ours: dict[str, Any]
) -> NotExpressible:
    pooling = getattr(model.config, "pooling", None)
    read = "" if pooling is None else f"pooling={pooling!r} and "
    return NotExpressible(
        f"{type(native).__name__} of the transformers library has layers of its own behind the "
        f"backbone ({_shown(theirs)}) or reads other tokens, and the model has {read}"
        f'{_shown(ours)}; head="native" is the head of that class'
    )


def _shown(layers: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {module}" for name, module in layers.items()) or "none"
