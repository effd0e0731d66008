"""Losses as weighted sums: whoever accumulates gradients divides by the weights of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    r"""Weighted sum of :math:`-\log softmax(z)_y` over the rows."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of shape (), computed in float32 or, for logits in it, in float64.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes)
        targets : Tensor of shape (n,)
            Class positions.
        weights : Tensor of shape (n,)
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, targets, reduction="none")
        return (losses * weights).sum()


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """How many rows have their largest logit at the target."""
    return (logits.argmax(dim=-1) == targets).sum()
