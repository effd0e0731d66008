"""Whether the tokens of a backbone see those behind them, and how a decoder's come to."""

from typing import Any

import torch
from torch import Tensor

from sktransformers.modules.backbone import are_alike, entrance, token_vectors, tried_out

# In multiples of the precision: what a token that is not seen could change.
_ROUNDING = 1e3
_MOST_ROUNDING = 0.08


def attend_both_ways(backbone: Any) -> None:
    """Let every token of a decoder see those behind it too; an encoder stays as it is.

    Raises
    ------
    ValueError
        If the family does not obey. A few tokens tell: one that is changed must change the
        vectors before it, and padding must change none.
    """
    if looks_ahead(backbone):
        return
    unmask(backbone)
    if not _looks_both_ways(backbone):
        raise ValueError(
            f"Backbone(bidirectional=True): {type(backbone).__name__} of the transformers library "
            f"does not let its tokens see those behind them, or not as they should; leave it at "
            f"bidirectional=False."
        )


def unmask(backbone: Any) -> None:
    """Ask for attention without the causal mask."""
    for module in backbone.modules():
        # Masks go by the configuration; kernels that are given none go by the module.
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = False
        if hasattr(module, "config"):
            module.config.is_causal = False


def looks_ahead(backbone: Any) -> bool:
    """Whether the vectors of tokens depend on the tokens behind them."""
    mask = [1, 1, 1, 1]
    before, after = (_trial(backbone, [1, 2, 3, last], mask)[:3] for last in (4, 5))
    return _differ(before, after)


def _differ(found: Tensor, expected: Tensor) -> bool:
    """Whether some number is another one; by ordinary numbers, as a few are far larger."""
    tolerance = min(_ROUNDING * torch.finfo(expected.dtype).eps, _MOST_ROUNDING)
    precise = torch.promote_types(expected.dtype, torch.float32)
    found, expected = found.to(precise), expected.to(precise)
    size = expected.abs()
    return bool(((found - expected).abs() > tolerance * (size + size.median())).any())


def _looks_both_ways(backbone: Any) -> bool:
    """Whether tokens see those behind them, in batches with padding too, but no padding."""
    mask = [1, 1, 1, 1, 0, 0]
    padded, other = (_trial(backbone, [1, 2, 3, last, 0, 0], mask) for last in (4, 5))
    filled = _trial(backbone, [1, 2, 3, 4, 6, 5], mask)
    alone = _trial(backbone, [1, 2, 3, 4], mask[:4])
    return (
        looks_ahead(backbone)
        and _differ(padded[:3], other[:3])
        and all(are_alike(found[:4], alone) for found in (padded, filled))
    )


@torch.no_grad()
def _trial(backbone: Any, ids: list[int], mask: list[int]) -> Tensor:
    """Vectors of a few tokens, of shape (length, width)."""
    n_ids = getattr(backbone.config.get_text_config(), "vocab_size", 2)
    given, real = (torch.tensor([x], device=entrance(backbone)) for x in (ids, mask))
    with tried_out(backbone):
        return token_vectors(backbone, given % n_ids, real)[0]
