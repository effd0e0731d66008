"""Parameter groups, optimizer and schedule."""

import math
from collections.abc import Callable

import torch
from torch import nn

from sktransformers.specs import AdamW

SCHEDULES = ("linear", "cosine", "constant")


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


def warmup_steps(warmup: float, n_steps: int) -> int:
    """Number of warm-up steps; a float below one is a share of all steps."""
    return round(warmup * n_steps) if warmup < 1 else int(warmup)


def schedule_factor(name: str, n_steps: int, n_warmup: int) -> Callable[[int], float]:
    r"""Factor on the learning rate at step t = 0, 1, ..., n_steps - 1.

    With W warm-up steps, the factor is :math:`(t + 1) / (W + 1)` for t < W. With
    :math:`p = (t - W) / (n - W)` from there on it is

    - linear: :math:`1 - p`,
    - cosine: :math:`(1 + \cos(\pi p)) / 2` (Loshchilov and Hutter 2017, arXiv:1608.03983),
    - constant: 1.

    No step of training has a factor of zero.
    """
    after: dict[str, Callable[[float], float]] = {
        "linear": lambda p: 1.0 - p,
        "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
        "constant": lambda p: 1.0,
    }
    decay = after[name]

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        return decay(min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup)))

    return factor
