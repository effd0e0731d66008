"""More outputs for a model that is trained: those it had stay as they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sktransformers.modules.crf import LinearChainCRF

_STD = 0.02  # of the weights of a new output, as of a new head


def regrown(tensor: Tensor, order: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Entries of a tensor in another order along some dimensions, and zeros for new ones.

    Parameters
    ----------
    tensor : Tensor
    order : sequence of int
        For each new place the old one, or -1.
    dims : sequence of int
        Dimensions that are as long as there were outputs.
    """
    index = torch.as_tensor(order, device=tensor.device)
    for dim in dims:
        shape = [1] * tensor.ndim
        shape[dim] = -1
        kept = tensor.index_select(dim, index.clamp(min=0))
        tensor = kept.masked_fill((index < 0).view(shape), 0)
    return tensor


@torch.no_grad()
def grow(model: Any, order: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Give a model other outputs: in another order, and new ones among them.

    A new output starts with weights from N(0, 0.02) and a bias of zero; a CRF scores a new tag's
    neighbours zero, and forbids none.

    Parameters
    ----------
    model : PreTrainedModel
        One of ours whose last layer is linear.
    order : sequence of int
        The present output that each of the new ones is, or -1.

    Returns
    -------
    dims : dict of str to tuple of int
        Names of the parameters that grew, and their dimensions that did.
    """
    layer = model.head.out
    grown: dict[nn.Parameter, tuple[int, ...]] = {layer.weight: (0,)}
    if layer.bias is not None:
        grown[layer.bias] = (0,)
    for part in model.modules():
        if isinstance(part, LinearChainCRF):
            grown |= {part.start: (0,), part.transitions: (0, 1), part.end: (0,)}
            for name, mask in list(part.named_buffers()):
                setattr(part, name, regrown(mask, order, range(mask.ndim)))
    names = {parameter: name for name, parameter in model.named_parameters()}
    new = torch.as_tensor([place < 0 for place in order], device=layer.weight.device)
    for parameter, dims in grown.items():
        parameter.data = regrown(parameter.data, order, dims)
        parameter.grad = None
    layer.weight[new] = torch.empty_like(layer.weight[new]).normal_(std=_STD)
    layer.out_features = len(order)
    return {names[parameter]: dims for parameter, dims in grown.items()}
