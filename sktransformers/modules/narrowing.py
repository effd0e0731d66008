"""The last block only at the token that pooling reads.

Behind the attention of the last block every token's vector is computed on its own. Where pooling
reads one token a sequence (CLS or last), a module there whose inputs are cut to that token gives
all that is read of its output. What is added to that in full length is broadcast: right at the
token, and at the others never looked at.

Which modules these are is tried, not looked up: those that may be cut without a change of the
result. They get a hook, which cuts nothing but inside of `only_read_by`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from sktransformers.modules.backbone import entrance, parts, token_vectors, tried_out
from sktransformers.modules.pooling import Pooling

# Of the largest number. What is wrong differs by far more.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

_UNFIT = (RuntimeError, IndexError, TypeError, ValueError)  # shapes that do not go together


class _Read:
    """One token of each sequence of a rectangle."""

    def __init__(self, positions: Tensor, length: int):
        self.shape = (len(positions), length)
        # Rows of a flat matrix: their gradient is added several times faster.
        self.rows = torch.arange(len(positions), device=positions.device) * length + positions
        self.cut: list[nn.Module] = []

    def of(self, x: Any) -> Any:
        """What is read of token vectors (batch, length, width); anything else as it is."""
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[:2] != self.shape:
            return x
        return x.flatten(0, 1).index_select(0, self.rows).unsqueeze(1)


# Of this thread: a model may predict in several. Checkpointed blocks find it again in the backward
# pass (training/speedups.py).
_READ: ContextVar[_Read | None] = ContextVar("_READ", default=None)


@contextmanager
def only_read_by(pooling: Pooling, mask: Tensor) -> Iterator[_Read | None]:
    """Inside, a narrowed backbone computes its last block only where pooling reads it.

    Its last vectors then have the shape (batch, 1, width), or are right where they are read.

    Parameters
    ----------
    pooling : Pooling
        Does nothing where this reads all tokens.
    mask : LongTensor of shape (batch, length)
        The attention mask.
    """
    read = None
    if pooling.reads_one and mask.shape[1] > 1:
        read = _Read(pooling.positions(mask), mask.shape[1])
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


def _cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Hook before a module that reads each token on its own."""
    read = _READ.get()
    if read is None or torch.compiler.is_compiling():
        return None
    values = [*args, *kwargs.values()]
    cut = [read.of(x) for x in values]
    if all(x is y for x, y in zip(values, cut)):
        return None
    read.cut.append(module)
    return tuple(cut[: len(args)]), dict(zip(kwargs, cut[len(args) :]))


def narrow(backbone: Any, pooling: Pooling) -> bool:
    """Let a backbone compute its last block only where pooling reads it; tell whether it can.

    The hooks are part of copies and pickles. A few tokens tell where they may be: the pooled
    vectors and the gradients of the last block must be the same with and without them.

    Parameters
    ----------
    backbone : PreTrainedModel
        In float32 or float64: half precision could not tell right from wrong.
    pooling : Pooling
    """
    if not pooling.reads_one or backbone.dtype not in _TOLERANCE:
        return False
    try:
        block = parts(backbone).blocks[-1]
    except ValueError:
        return False
    with tried_out(backbone):
        inputs = _some_tokens(backbone)
        hooks = _hooks(backbone, block, inputs, pooling)
        is_same = bool(hooks) and _is_same(backbone, block, inputs, pooling)
    if not is_same:
        for hook in hooks:
            hook.remove()
    return is_same


def widen(backbone: nn.Module) -> None:
    """Take the hooks of `narrow` away: exporters and quantisers stumble over them."""
    for module in backbone.modules():
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _cut]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def _some_tokens(backbone: Any) -> dict[str, Tensor]:
    device = entrance(backbone)
    lengths = torch.tensor([[5], [3], [4]], device=device)
    places = torch.arange(5, device=device)
    n_ids = getattr(backbone.config.get_text_config(), "vocab_size", 2)
    ids = torch.arange(15, device=device).view(3, 5) % n_ids
    return {"input_ids": ids, "attention_mask": (places < lengths).long()}


@torch.no_grad()
def _hooks(
    backbone: Any, block: nn.Module, inputs: dict[str, Tensor], pooling: Pooling
) -> list[Any]:
    """Hook the modules of a block, outermost and first ones first, that may be cut."""
    order: dict[nn.Module, None] = {}
    calls: list[Any] = []

    def record_call(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append(copy.deepcopy((args, kwargs)))  # a cache of keys would grow

    def record(module: nn.Module, *_: Any) -> None:
        order.setdefault(module)

    inside = [module for module in block.modules() if module is not block]
    recorders = [block.register_forward_pre_hook(record_call, with_kwargs=True)]
    recorders += [module.register_forward_pre_hook(record) for module in inside]
    try:
        token_vectors(backbone, **inputs)
    except _UNFIT:  # it cannot read so many tokens
        return []
    finally:
        for recorder in recorders:
            recorder.remove()
    if len(calls) != 1:  # its weights serve several layers
        return []

    def output() -> Tensor:
        args, kwargs = copy.deepcopy(calls[0])
        found = block(*args, **kwargs)
        return found if isinstance(found, Tensor) else found[0]

    mask = inputs["attention_mask"]
    expected = pooling(output(), mask)
    hooks = []
    for module in order:
        hook = module.register_forward_pre_hook(_cut, with_kwargs=True)
        with only_read_by(pooling, mask) as read:
            try:
                is_right = _are_close(pooling(output(), mask), expected)
            except _UNFIT:
                is_right = False
        if is_right and read is not None and module in read.cut:
            hooks.append(hook)
        else:
            hook.remove()
    return hooks


def _is_same(backbone: Any, block: nn.Module, inputs: dict[str, Tensor], pooling: Pooling) -> bool:
    """Whether vectors and gradients of the last block are the same narrowed and in full."""
    mask = inputs["attention_mask"]
    weights = [weight for weight in block.parameters() if weight.requires_grad]
    if any(weight.is_meta for weight in weights):  # elsewhere, where nothing is trained
        weights = []

    def results(context: Any) -> list[Tensor]:
        with torch.enable_grad(), context:
            pooled = pooling(token_vectors(backbone, **inputs), mask)
        if not weights:
            return [pooled]
        steps = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype, device=pooled.device)
        loss = (pooled.flatten() * steps).sum()
        grads = torch.autograd.grad(loss, weights, materialize_grads=True)
        return [pooled, torch.cat([grad.flatten() for grad in grads])]  # some are but rounding

    try:
        narrowed = results(only_read_by(pooling, mask))
    except _UNFIT:
        return False
    return all(map(_are_close, narrowed, results(nullcontext())))


def _are_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    tolerance = _TOLERANCE[expected.dtype] * expected.abs().amax()
    return bool((found - expected).abs().amax() <= tolerance)
