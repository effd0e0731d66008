"""Parameter groups and optimizer."""

import torch
from torch import nn

from sktransformers.specs import AdamW


def default_lr(width: int) -> float:
    """Peak learning rate for a backbone's width when the user names none.

    lr = 2e-4 * (384 / width) ** 2, kept between 1e-5 and 1e-3: 2e-4 at a width of 384
    (chosen by measurement), 5e-5 at 768, 2.8e-5 at 1024, as is usual for these widths.
    """
    return float(min(1e-3, max(1e-5, 2e-4 * (384 / width) ** 2)))


def build_optimizer(
    model: nn.Module, spec: AdamW, *, lr: float, head_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW with up to four parameter groups: backbone or head, decayed or not.

    Biases and one-dimensional weights (norms, the vector of attention pooling) are not
    decayed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": lr if in_backbone else head_lr,
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
        ],
        lr=lr,
        betas=spec.betas,
        eps=spec.eps,
        fused=True,
    )
