"""Weights that stay near where training starts."""

from typing import Any

import torch
from skorch.callbacks import Callback


class StayNear(Callback):
    r"""Add the gradient of :math:`\frac{a}{2} \|w - w_0\|^2` in every step.

    L2-SP (Li et al. 2018, arXiv:1802.01483, equation 4); :math:`w_0` are the weights at the begin
    of training. The penalty is no part of the loss that the history shows.

    Parameters
    ----------
    weight : float
        Weight a of the penalty.
    part : str
        Name of the part of the module that has somewhere to stay near; empty for all of it.
    """

    def __init__(self, weight: float, part: str):
        self.weight = weight
        self.part = part

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        trained = {p for group in net.optimizer_.param_groups for p in group["params"]}
        part = getattr(net.module_, self.part) if self.part else net.module_
        self.start_ = {p: p.detach().clone() for p in part.parameters() if p in trained}

    @torch.no_grad()
    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        moved = [p for p in self.start_ if p.grad is not None]
        if moved:
            gradients = [p.grad for p in moved]
            starts = [self.start_[p] for p in moved]
            torch._foreach_add_(
                gradients, torch._foreach_sub(moved, starts), alpha=float(self.weight)
            )

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        del self.start_
