"""What the package has to know of a pretrained model, whatever its family."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def drop_pooler(backbone: Any) -> None:
    """Remove the backbone's own pooler: our pooling reads the token vectors below it."""
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None


def below_pooler(backbone: Any) -> set[nn.Parameter]:
    """All parameters but those of the backbone's own pooler, which is part of a head."""
    pooler = getattr(backbone, "pooler", None)
    of_pooler = set(pooler.parameters()) if isinstance(pooler, nn.Module) else set()
    return set(backbone.parameters()) - of_pooler


# Words in the names of what is no dropout of numbers, or belongs to heads.
_NOT_THE_BACKBONES = ("layerdrop", "path", "classif", "summary", "pooler", "cls_", "qa_")


def set_dropout(backbone: Any, p: float) -> None:
    """Set the probability of all dropout below the pooler.

    In the layers, in the numbers that attention modules keep for themselves, and in the
    configuration, which some families read in every forward pass and others when rebuilt.

    Raises
    ------
    ValueError
        If p is not zero and the backbone has no dropout.
    """
    p = float(p)  # configurations take nothing else, False neither
    pooler = getattr(backbone, "pooler", None)
    above = set(pooler.modules()) if isinstance(pooler, nn.Module) else set()
    places: list[Any] = [m for m in backbone.modules() if m not in above]
    found = False
    for place in places:
        if isinstance(place, nn.modules.dropout._DropoutNd):
            place.p, found = p, True
    configs = {id(m.config): m.config for m in places if hasattr(m, "config")}
    text = backbone.config.get_text_config()
    for config in (*configs.values(), text):
        if getattr(config, "classifier_dropout", 0) is None:  # heads would follow the backbone
            config.classifier_dropout = getattr(config, "hidden_dropout_prob", None)
    for place in (*configs.values(), text, *places):
        for name, value in list(vars(place).items()):
            if _is_dropout(name, value):
                setattr(place, name, p)
                found = True
    if p and not found:
        raise ValueError(
            f"Backbone(dropout={p}): the backbone {type(backbone).__name__} has no dropout."
        )


def _is_dropout(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return "drop" in name and not any(word in name for word in _NOT_THE_BACKBONES)


def hidden_size(config: Any) -> int:
    """Width of the backbone's blocks.

    Raises
    ------
    ValueError
        If its configuration has none.
    """
    width = getattr(_text_config(config), "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(
            f"The configuration {type(config).__name__} of this backbone states no hidden_size."
        )
    return width


def vector_size(config: Any) -> int:
    """Width of the backbone's token vectors, which are narrower than the blocks in OPT-350m."""
    width = getattr(_text_config(config), "word_embed_proj_dim", None)
    return width if isinstance(width, int) else hidden_size(config)


def _text_config(config: Any) -> Any:
    """What a configuration says of token vectors; of T5Gemma's encoder alone, its own part."""
    encoder = getattr(config, "encoder", None)
    if not config.is_encoder_decoder and hasattr(encoder, "hidden_size"):
        return encoder
    return config.get_text_config()


def token_vectors(backbone: PreTrainedModel, input_ids: Any, attention_mask: Any, **kw: Any) -> Any:
    """Vectors of the last layer, of shape (batch, length, width)."""
    return backbone(input_ids=input_ids, attention_mask=attention_mask, **kw).last_hidden_state


def padding_last(attention_mask: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """Inputs of shape (batch, length) with all padding on the right, where positions count from 0.

    By that also families that number the places of a batch, not its tokens, may be handed what a
    tokenizer has padded on the left.
    """
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    inputs["attention_mask"] = attention_mask
    return {
        name: x.gather(1, order) if isinstance(x, Tensor) and x.shape == order.shape else x
        for name, x in inputs.items()
    }


def padding_as_given(outputs: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Outputs of tokens (batch, length, n) where they stood before `padding_last`."""
    if attention_mask is None:
        return outputs
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    return outputs.gather(1, order.argsort(dim=1).unsqueeze(-1).expand_as(outputs))


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
    return getattr(_text_config(backbone.config), "max_position_embeddings", None)


def _has_relative_positions(config: Any) -> bool:
    # DeBERTa's buckets and T5's biases reach any distance.
    return bool(
        getattr(config, "relative_attention", False)
        or getattr(config, "relative_attention_num_buckets", None)
    )


@contextmanager
def tried_out(backbone: PreTrainedModel) -> Iterator[None]:
    """Inside, a backbone is in evaluation mode, and reads a few tokens wherever it lies.

    Flash attention would want a GPU and half precision.
    """
    was_training, config = backbone.training, backbone.config
    kernel = getattr(config, "_attn_implementation", None)
    is_flash = "flash" in str(kernel)
    backbone.eval()
    if is_flash:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        backbone.train(was_training)
        if is_flash:
            config._attn_implementation = kernel


# Of the largest number, in multiples of the precision: the same, computed in another shape. What
# is wrong differs by far more.
_SAME = 1e3
_MOST_TOLERANCE = 0.1


def are_alike(found: Tensor, expected: Tensor, multiple: float = _SAME) -> bool:
    """Whether two tensors of one shape differ by no more than so many roundings."""
    tolerance = min(multiple * torch.finfo(expected.dtype).eps, _MOST_TOLERANCE)
    return bool((found - expected).abs().amax() <= tolerance * expected.abs().amax())


def entrance(backbone: PreTrainedModel) -> torch.device:
    """A device that inputs may lie on: any, where weights come to them from elsewhere."""
    return torch.device("cpu") if backbone.device.type == "meta" else backbone.device


def used_parameters(backbone: PreTrainedModel) -> set[str]:
    """Names of the parameters that the token vectors depend on."""
    with torch.enable_grad(), tried_out(backbone):
        _first_output(backbone).sum().backward()
    used = {name for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad(set_to_none=True)
    return used


def _first_output(backbone: Any) -> torch.Tensor:
    """What a backbone gives for two tokens: vectors, or the logits of a language model."""
    ids = torch.tensor([[0, 1]], device=entrance(backbone))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return backbone(**inputs)[0]


class Parts(NamedTuple):
    """What a backbone consists of, from the input to the output.

    Parameters
    ----------
    below : dict of str to Parameter
        Embeddings, and whatever else the blocks read or share.
    blocks : list of Module
        The layers, the lowest first.
    above : dict of str to Parameter
        What comes behind the last block, such as a final norm.
    """

    below: dict[str, nn.Parameter]
    blocks: list[nn.Module]
    above: dict[str, nn.Parameter]


# Share of the blocks' parameters that may lie between blocks, outside of all of them: the
# convolution of a large DeBERTa does, but XLM's layers are taken apart throughout.
_MOST_BETWEEN = 0.25


def parts(backbone: PreTrainedModel) -> Parts:
    """Find embeddings, blocks and final norm, whatever the family calls them.

    The blocks are the outermost list of like modules with the most parameters, of an
    encoder-decoder those of the encoder and then those of the decoder. What else has parameters
    is above them if it runs after the last of them, else below; which it is, two tokens tell that
    go through the backbone. What runs at both ends, such as a shared table, is below.

    Raises
    ------
    ValueError
        If the layers are no list of blocks.
    """
    name = type(backbone).__name__
    stacks = [backbone]
    if backbone.config.is_encoder_decoder:
        stacks = [backbone.get_encoder(), backbone.get_decoder()]
    found = [max(_block_lists(stack), key=_n_parameters, default=[]) for stack in stacks]
    blocks = [block for stack in found for block in stack]
    if not all(found):
        raise ValueError(f"No list of blocks was found in the backbone {name}.")
    inside = {id(module) for block in blocks for module in block.modules()}
    owners: dict[str, nn.Module] = {
        path: module
        for path, module in backbone.named_modules()
        if id(module) not in inside and next(module.parameters(recurse=False), None) is not None
    }
    seen = _first_calls(backbone, blocks, owners)
    between = [module for path, module in owners.items() if seen.get(path) == "between"]
    if len(stacks) == 1 and sum(map(_own_size, between)) > _MOST_BETWEEN * _n_parameters(blocks):
        raise ValueError(
            f"The layers of the backbone {name} are no list of blocks: too much of them lies "
            f"outside of {type(blocks[0]).__name__}."
        )
    below: dict[str, nn.Parameter] = {}
    above: dict[str, nn.Parameter] = {}
    for path, module in owners.items():
        where = above if seen.get(path) == "above" else below
        for name, parameter in module.named_parameters(recurse=False):
            where[f"{path}.{name}" if path else name] = parameter
    shared = set(below.values())
    return Parts(below, blocks, {name: p for name, p in above.items() if p not in shared})


def _block_lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Outermost lists of modules of one type."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            blocks = [
                block
                for entry in child
                for block in (entry if isinstance(entry, nn.ModuleList) else [entry])
            ]
            if blocks and len({type(block) for block in blocks}) == 1:
                yield blocks
                continue
        yield from _block_lists(child)


def _first_calls(
    backbone: PreTrainedModel, blocks: list[nn.Module], owners: dict[str, nn.Module]
) -> dict[str, str]:
    """Whether modules run below, between or above the blocks."""
    begun, ended = False, False
    seen: dict[str, str] = {}

    def begin(*_: Any) -> None:
        nonlocal begun
        begun = True

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True

    def record(path: str) -> Any:
        def called(*_: Any) -> None:
            seen.setdefault(path, "above" if ended else "between" if begun else "below")

        return called

    hooks = [blocks[0].register_forward_pre_hook(begin), blocks[-1].register_forward_hook(end)]
    hooks += [
        module.register_forward_pre_hook(record(path)) for path, module in owners.items() if path
    ]
    try:
        with torch.no_grad(), tried_out(backbone):
            _first_output(backbone)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _n_parameters(modules: list[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _own_size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))
