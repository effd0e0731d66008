"""A backbone whose parts lie on several devices, or wait elsewhere until they are needed.

The library accelerate has replaced the ``forward`` of its modules by one that brings inputs to
weights, or weights to inputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sktransformers.modules.backbone import entrance, parts, token_vectors, tried_out


def is_dispatched(backbone: nn.Module) -> bool:
    """Whether the parts of a backbone are on several devices."""
    return hasattr(backbone, "_hf_hook")


def is_offloaded(backbone: nn.Module) -> bool:
    """Whether parts of a backbone are nowhere but while they compute, and so cannot be trained."""
    return any(parameter.is_meta for parameter in backbone.parameters())


def place_behind(model: Any) -> None:
    """Move all of our model but its backbone to where the output of the last block is."""
    device = _exit(model.backbone)
    for name, part in model.named_children():
        if name != "backbone":
            part.to(device)


@torch.no_grad()
def _exit(backbone: Any) -> torch.device:
    found: list[torch.device] = []

    def record(_: nn.Module, args: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output[0]).device)

    handle = parts(backbone).blocks[-1].register_forward_hook(record)
    try:
        ids = torch.tensor([[0, 1]], device=entrance(backbone))
        with tried_out(backbone):
            token_vectors(backbone, ids, torch.ones_like(ids))
    finally:
        handle.remove()
    return found[-1]


def check_in_one_place(model: Any, what: str) -> None:
    """Check that a model can be copied: accelerate's functions would go on with the old one.

    Raises
    ------
    ValueError
        If its backbone is on several devices; begins with what cannot be done.
    """
    backbone = getattr(model, "backbone", model)
    if is_dispatched(backbone):
        raise ValueError(
            f"{what} does not go with a backbone on several devices "
            f"(Backbone(device_map={getattr(backbone, 'hf_device_map', None)})), which cannot be "
            f"copied."
        )
