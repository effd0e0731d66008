"""Options of a backbone that hold while it is trained, and no longer."""

import contextvars
import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sktransformers.modules.backbone import parts
from sktransformers.modules.dispatch import is_offloaded
from sktransformers.specs import Backbone
from sktransformers.training import runtime

# What a layer of the transformers library looks at.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"
# A block is compiled for training and evaluation, with and without gradients, for single rows, ...
_VARIANTS = 16
_CONTRADICTION = (
    "Backbone(compile=True) and Backbone(gradient_checkpointing=True) contradict each other: what "
    "a compiled block keeps for the gradients is up to the compiler."
)


def check_options(spec: Backbone, device: torch.device) -> None:
    """Check what can be checked without the backbone; that takes seconds if it is to be compiled.

    Raises
    ------
    ImportError
        If a library is missing that an option needs.
    ValueError
        If options contradict each other, or ``torch.compile`` does not work here.
    """
    if spec.device_map is not None:
        _check_device_map(spec)
    if "flash" in str(spec.attn_implementation) and device.type != "cuda":
        raise ValueError(
            f"Backbone(attn_implementation={spec.attn_implementation!r}) needs a GPU with CUDA, "
            f"and device is {device.type!r}."
        )
    if spec.compile and spec.gradient_checkpointing:
        raise ValueError(_CONTRADICTION)
    if spec.compile:
        try:
            _try_to_compile(device)
        except Exception as error:  # no compiler, no Triton, a version of Python, ...
            raise ValueError(
                f"Backbone(compile=True): torch.compile does not work here. It needs a C++ "
                f"compiler, and Triton on a GPU. The error was: {error}"
            ) from error


def _check_device_map(spec: Backbone) -> None:
    objections = {
        "a loaded model": isinstance(spec.name, PreTrainedModel),
        "Backbone(pretrained=False)": not spec.pretrained,
        "Backbone(compile=True)": spec.compile,
    }
    for objection, applies in objections.items():
        if applies:
            raise ValueError(
                f"Backbone(device_map={spec.device_map!r}) and {objection} contradict each other: "
                f"weights go from files to the devices."
            )
    if importlib.util.find_spec("accelerate") is None:
        raise ImportError(
            "Backbone(device_map=...) needs the library accelerate: pip install "
            "sktransformers[devices]"
        )


@functools.cache
def _try_to_compile(device: torch.device) -> None:
    torch.compile(_double)(torch.ones(2, device=device))


def _double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def check_trainable(backbone: Any, spec: Backbone, finetune: Any) -> None:
    """Check that what is to be trained is there.

    Raises
    ------
    ValueError
        If parts of the backbone lie elsewhere.
    """
    if is_offloaded(backbone) and finetune != "head":
        raise ValueError(
            f"finetune={finetune!r} and Backbone(device_map={spec.device_map!r}) contradict each "
            f'other: what lies on disk, or on the CPU beside a GPU, is not trained; take "head".'
        )


def check_backbone(backbone: Any, spec: Backbone) -> None:
    """Check that a backbone can do what is asked of it.

    Raises
    ------
    ValueError
        If its family knows no gradient checkpointing, its blocks are not found, or it was loaded
        with a setting that contradicts an option.
    """
    if spec.compile and _is_on(backbone):
        raise ValueError(_CONTRADICTION)
    if spec.gradient_checkpointing and not _layers(backbone):
        raise ValueError(
            f"Backbone(gradient_checkpointing=True): {type(backbone).__name__} of the "
            f"transformers library does not support gradient checkpointing."
        )
    if spec.compile:
        try:
            parts(backbone)
        except ValueError as error:
            raise ValueError(f"Backbone(compile=True): {error}") from error


@contextmanager
def prepared_for_training(backbone: Any, spec: Backbone) -> Iterator[None]:
    """Inside, the backbone does what its options say of training; afterwards it is as before.

    Parameters
    ----------
    backbone : PreTrainedModel
        On the device where it is trained; `check_backbone` found nothing.
    spec : Backbone
    """
    with ExitStack() as stack:
        # A loaded model that the user switched it on for is better off with ours, too.
        if spec.gradient_checkpointing or _is_on(backbone):
            stack.enter_context(_checkpointed(backbone))
        if spec.compile:
            stack.enter_context(_compiled(parts(backbone).blocks))
        yield


def _layers(backbone: Any) -> list[nn.Module]:
    """The modules that can forget what is inside of them."""
    if not backbone.supports_gradient_checkpointing:
        return []
    return [module for module in backbone.modules() if hasattr(module, _SWITCH)]


def _is_on(backbone: Any) -> bool:
    return any(getattr(layer, _SWITCH) for layer in _layers(backbone))


@contextmanager
def _checkpointed(backbone: Any) -> Iterator[None]:
    """Inside, layers in training mode keep their inputs only (Chen et al. 2016, arXiv:1604.06174).

    The library's own switch warns in some versions, and cannot be put back.
    """
    # Decoders would keep keys and values twice, and warn that they do not.
    settings: list[tuple[Any, dict[str, Any]]] = [(backbone.config, {"use_cache": False})]
    function = functools.partial(_checkpoint, backbone.device)
    settings += [(layer, {_SWITCH: True, _FUNCTION: function}) for layer in _layers(backbone)]
    before = [vars(owner).copy() for owner, _ in settings]
    for owner, values in settings:
        vars(owner).update(values)
    try:
        yield
    finally:
        for (owner, values), old in zip(settings, before):
            for name in values:
                vars(owner).pop(name)
                vars(owner).update({name: old[name]} if name in old else {})


def _checkpoint(device: torch.device, function: Callable[..., Any], *args: Any) -> Any:
    # What is computed again finds the same context variables, also outside of their ``with``.
    run = functools.partial(contextvars.copy_context().run, function)
    again = functools.partial(runtime.same_draws, device)
    return checkpoint(run, *args, use_reentrant=False, context_fn=again)


@contextmanager
def _compiled(blocks: list[nn.Module]) -> Iterator[None]:
    """Inside, each of these modules is compiled, for all shapes at once."""
    # Blocks are of one class: torch counts the variants of all of them together.
    limit = _VARIANTS * len(blocks)
    with torch._dynamo.config.patch(cache_size_limit=limit, accumulated_cache_size_limit=8 * limit):
        try:
            for block in blocks:
                block.compile(dynamic=True)
            yield
        finally:
            for block in blocks:
                vars(block).pop("_compiled_call_impl", None)
