"""Dropout on the CPU with masks that NumPy draws, and attention in bf16 without torch's kernel.

On the CPU torch draws a mask number by number on one core, which is a tenth of a training step
of a small backbone. NumPy's SFC64 gives 64 random bits at once, of which 16 decide whether a
number is kept. It is the same dropout but for the probability, a multiple of 2**-16; what is
kept is divided by its exact complement.

Torch's fused attention takes no dropout on the CPU, so attention with dropout is written out here.
Written out, attention in bf16 is also faster without dropout: for short texts, the gradients of
the fused kernel take up to ten times as long as products on the CPU's tiles (AMX).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from sktransformers.training import runtime

_LEVELS = 2**16
# Without dropout the fused kernel is faster for more keys, and need not keep all scores.
_MOST_KEYS = 128


def cheap_dropout(device: torch.device) -> AbstractContextManager:
    """Context of this thread's cheap dropout and attention; does nothing but on the CPU.

    A mask follows from the state of torch's random generator, which each mask moves on: what
    is seeded, forked or checkpointed draws what it would draw again.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        return nullcontext()
    return _CheapDropout()


class _CheapDropout(TorchFunctionMode):
    """Dropout, attention and backward passes of our own; torch does the rest."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _OURS or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func in _BACKWARD:
            with self:
                return _OURS[func](*args, **kwargs)
        found = _OURS[func](*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


class _Drop(torch.autograd.Function):
    """``x * keep * scale``, of which a byte for each number is remembered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        # Bytes become floats several times faster than booleans do; in place saves page faults.
        return keep.view(torch.int8).to(x.dtype).mul_(x).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return _Drop.apply(grad, keep, ctx.scale), None, None


def _threshold(p: float) -> int:
    """Random numbers below it drop theirs; 0 where there is nothing for us to do."""
    threshold = round(p * _LEVELS) if 0 < p < 1 else 0
    return threshold % _LEVELS


def _is_ours(*tensors: Tensor) -> bool:
    """Whether these are tensors of numbers on the CPU, not stand-ins for them."""
    return not torch._C._are_functorch_transforms_active() and all(
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.is_floating_point()
        for x in tensors
    )


def _drop(x: Tensor, threshold: int) -> Tensor:
    seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    n = x.numel()
    numbers = np.random.SFC64(seed).random_raw(-(-n // 4)).view(np.uint16)[:n]
    keep = torch.from_numpy(numbers >= threshold).view(x.shape)
    dropped: Tensor = _Drop.apply(x, keep, _LEVELS / (_LEVELS - threshold))
    return dropped


def _dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:
    """`torch.nn.functional.dropout`, or None to leave it to torch."""
    threshold = _threshold(p) if training else 0
    if not threshold or not _is_ours(input):
        return None
    dropped = _drop(input, threshold)
    return input.copy_(dropped) if inplace else dropped


def _dropout_function(input: Tensor, p: float, train: bool) -> Tensor | None:
    """`torch.dropout`, or None to leave it to torch."""
    return _dropout(input, p, train)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.scaled_dot_product_attention`, or None to leave it to torch."""
    threshold = _threshold(dropout_p)
    masked = attn_mask is not None
    if not _is_ours(query, key, value) or (masked and is_causal):
        return None
    dtype = query.dtype
    if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    on_tiles = dtype == torch.bfloat16 and runtime.cpu_has_bf16_tiles()
    if not threshold:
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        if dropout_p or not (on_tiles and trains and key.shape[-2] <= _MOST_KEYS):
            return None
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast("cpu", enabled=False):
        precise = torch.promote_types(dtype, torch.float32)
        if not on_tiles:  # as torch does where it has no fused kernel
            query, key, value = query.to(precise), key.to(precise), value.to(precise)
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = ((query * scale) @ key.transpose(-2, -1)).to(precise)
        seen = None
        if is_causal:
            scores = scores + scores.new_full(scores.shape[-2:], -math.inf).triu(1)
        elif attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = scores.new_zeros(()).where(attn_mask, -math.inf)
            some = (attn_mask > -math.inf).any(-1, keepdim=True)
            if not some.all():  # a query that may look at nothing finds 0
                seen, attn_mask = some, attn_mask.where(some, 0.0)
            scores = scores + attn_mask.to(precise)
        weights = scores.softmax(-1)
        if threshold:
            weights = _drop(weights, threshold)
        found = weights.to(value.dtype) @ value
        return (found if seen is None else found * seen).to(dtype)


# A mode is off inside of what it is asked for. But in a backward pass checkpointed layers are
# computed once more, and have to draw what they drew: the next two keep the mode on.


def _tensor_backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """`Tensor.backward`; in some versions of torch what it calls comes to the mode again."""
    torch.autograd.backward(self, gradient, retain_graph, create_graph, inputs=inputs)


def _backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Any = None,
) -> None:
    """`torch.autograd.backward` from edges of the graph, which come to no mode."""
    torch.autograd.backward(
        _edges(tensors),
        grad_tensors,
        retain_graph,
        create_graph,
        inputs=None if inputs is None else _edges(inputs),
    )


def _edges(tensors: Any) -> list[Any]:
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    return [get_gradient_edge(x) if isinstance(x, Tensor) else x for x in tensors]


_BACKWARD = {Tensor.backward, torch.autograd.backward}
_OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout_function,
    F.scaled_dot_product_attention: _attention,
    Tensor.backward: _tensor_backward,
    torch.autograd.backward: _backward,
}
