"""Parameter groups and optimizer."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sktransformers.modules.backbone import parts
from sktransformers.specs import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    RAdam,
    TorchOptimizer,
)
from sktransformers.specs.optimizers import OptimizerSpec

# torch's own classes, and the devices for which they make a step in one kernel; None means all.
_FUSED: dict[type, set[str] | None] = {
    torch.optim.Adagrad: {"cpu"},
    torch.optim.Adam: None,
    torch.optim.AdamW: None,
    torch.optim.SGD: None,
}
# Classes of torch that cannot train a backbone, and why.
_REFUSED = {
    "LBFGS": "evaluates the loss several times in a step, which needs a closure",
    "Muon": "takes two-dimensional weights only, and a backbone has biases and norms",
    "SparseAdam": "takes sparse gradients only, and those of a backbone are dense",
}


def default_lr(width: int) -> float:
    """Peak learning rate for a backbone's width when the user names none.

    lr = 2e-4 * (384 / width) ** 2, kept between 1e-5 and 1e-3: 2e-4 at a width of 384
    (chosen by measurement), 5e-5 at 768, 2.8e-5 at 1024, as is usual for these widths.
    """
    return float(min(1e-3, max(1e-5, 2e-4 * (384 / width) ** 2)))


def resolve_optimizer(spec: OptimizerSpec) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and keywords that an option object stands for, but for rates and decay.

    Raises
    ------
    TypeError
        If a `TorchOptimizer` names something that is no optimizer, or has options that the
        class does not take.
    ValueError
        If there is no class of that name, or it cannot be used here.
    """
    if isinstance(spec, AdamW):
        return torch.optim.AdamW, {"betas": tuple(spec.betas), "eps": spec.eps}
    if isinstance(spec, Adam):
        options = {"betas": tuple(spec.betas), "eps": spec.eps, "amsgrad": spec.amsgrad}
        return torch.optim.Adam, options
    if isinstance(spec, RAdam):
        return torch.optim.RAdam, {"betas": tuple(spec.betas), "eps": spec.eps}
    if isinstance(spec, SGD):
        return torch.optim.SGD, {"momentum": spec.momentum, "nesterov": spec.nesterov}
    if isinstance(spec, Adagrad):
        return torch.optim.Adagrad, {"eps": spec.eps}
    if isinstance(spec, Adafactor):
        options = {"beta2_decay": spec.beta2_decay, "eps": (None, spec.eps), "d": spec.clip}
        return torch.optim.Adafactor, options
    assert isinstance(spec, TorchOptimizer)
    cls = _torch_class(spec.name)
    _check_options(cls, spec.options or {})
    return cls, dict(spec.options or {})


def _torch_class(name: Any) -> type[torch.optim.Optimizer]:
    base = torch.optim.Optimizer
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    cls = known.get(name) if isinstance(name, str) else name
    usable = ", ".join(sorted(set(known) - set(_REFUSED)))
    if cls is None:
        raise ValueError(
            f"TorchOptimizer(name={name!r}) is no optimizer in torch.optim. Take one of {usable}."
        )
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(
            f"TorchOptimizer(name={name!r}) is neither a name nor a subclass of "
            f"torch.optim.Optimizer."
        )
    for refused, reason in _REFUSED.items():
        if refused in known and issubclass(cls, known[refused]):
            raise ValueError(f"TorchOptimizer({refused!r}) {reason}. Take one of {usable}.")
    return cls


def _check_options(cls: type, options: dict[str, Any]) -> None:
    ours = {"params", "lr", "weight_decay"} & set(options)
    if ours:
        raise ValueError(
            f"TorchOptimizer(options=...) holds {sorted(ours)}, which the estimator sets: pass "
            f"lr and weight_decay to it."
        )
    known = _keywords(cls)
    unknown = [name for name in options if known is not None and name not in known]
    if unknown:
        raise TypeError(
            f"TorchOptimizer(options=...) holds {unknown}, which {cls.__name__} does not take; "
            f"it takes {sorted((known or set()) - {'lr', 'weight_decay'})}."
        )


def _keywords(cls: type) -> set[str] | None:
    """Names that a class takes behind the parameters; None if it takes any."""
    _, *parameters = inspect.signature(cls).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def build_optimizer(
    model: Any, spec: OptimizerSpec, *, lr: float, head_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Optimizer with a parameter group for each rate, decayed or not, the backbone's first.

    Biases and one-dimensional weights (norms, the vector of attention pooling) are not
    decayed. Decay is decoupled, whatever the class; but for AdamW, which does that itself, its
    rate is ``decoupled_decay`` of the group. ``l2`` of the group is that of `add_penalty`.
    """
    cls, options = resolve_optimizer(spec)
    rates = _rates(model.backbone, lr, spec.layer_decay)
    grouped: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        # What is frozen for now is kept too; without a gradient nothing happens to it.
        if parameter.requires_grad or getattr(parameter, "_thaws_later", False):
            in_head = id(parameter) not in rates
            rate = head_lr if in_head else rates[id(parameter)]
            grouped.setdefault((in_head, -rate, parameter.ndim <= 1), []).append(parameter)
    decayed = [(-minus_rate, in_head) for in_head, minus_rate, spared in grouped if not spared]
    highest, in_head = max(decayed, default=(0.0, False))
    if highest * weight_decay > 1:
        name = f"head_lr={head_lr:.3g} (lr={lr:.3g})" if in_head else f"lr={lr:.3g}"
        raise ValueError(
            f"weight_decay={weight_decay} and {name} contradict each other: a step takes the "
            f"product of decay and rate, here up to {highest:.3g}, of each weight, and there is no "
            f"more than all of it."
        )
    native = cls is torch.optim.AdamW
    groups = []
    for (_, minus_rate, spared), parameters in sorted(grouped.items(), key=lambda item: item[0]):
        decay = 0.0 if spared else float(weight_decay)
        groups.append(
            {
                "params": parameters,
                "lr": -minus_rate,
                "decoupled_decay": 0.0 if native else decay,
                "l2": 0.0 if spared else float(spec.l2),
                **({"weight_decay": decay} if native else {}),
            }
        )
    known = _keywords(cls)
    if known is None or "lr" in known:
        options["lr"] = lr
    if known is None or "weight_decay" in known:
        options["weight_decay"] = 0.0  # some classes have another default
    everything = [parameter for parameters in grouped.values() for parameter in parameters]
    # The fused SGD of torch wants the momentum of all parameters, or of none.
    joining = cls is torch.optim.SGD and any(hasattr(p, "_thaws_later") for p in everything)
    elsewise = {"foreach", "differentiable"} & set(options)
    if _has_kernel(cls, everything) and not elsewise and not joining:
        options.setdefault("fused", True)
    optimizer = cls(groups, **options)
    optimizer.defaults["lr"] = float(lr)
    if any(group["decoupled_decay"] for group in groups):
        optimizer.register_step_pre_hook(_decay)
    return optimizer


def _rates(backbone: Any, lr: float, layer_decay: float) -> dict[int, float]:
    """Learning rate of each parameter of the backbone, by identity."""
    rates = {id(p): lr for p in backbone.parameters()}
    if layer_decay != 1:
        found = parts(backbone)
        n_blocks = len(found.blocks)
        layers: list[Iterable[nn.Parameter]] = [found.below.values()]
        layers += [block.parameters() for block in found.blocks]
        # From the input up: what is in two places, such as a shared table, belongs to the lower.
        done: set[int] = set()
        for depth, parameters in enumerate(layers):
            for parameter in parameters:
                if id(parameter) not in done:
                    rates[id(parameter)] = lr * layer_decay ** (n_blocks - depth)
                    done.add(id(parameter))
    return rates


def _has_kernel(cls: type, parameters: list[nn.Parameter]) -> bool:
    if cls not in _FUSED:
        return False
    devices = _FUSED[cls]
    return devices is None or all(p.device.type in devices for p in parameters)


def _decay(optimizer: Any, *args: Any) -> None:
    """Multiply weights by 1 - lr * decay before a step."""
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None and found_inf.item():
        return  # a fused step with gradients that overflowed changes nothing either
    for group in optimizer.param_groups:
        weights = [p for p in group["params"] if p.grad is not None]
        if group["decoupled_decay"] and weights:
            with torch.no_grad():
                torch._foreach_mul_(weights, 1.0 - group["lr"] * group["decoupled_decay"])


def add_penalty(optimizer: torch.optim.Optimizer) -> None:
    r"""Add the gradient of :math:`\frac{l2}{2} \sum w^2` to the gradients of each group."""
    for group in optimizer.param_groups:
        weights = [p for p in group["params"] if p.grad is not None]
        if group["l2"] and weights:
            with torch.no_grad():
                torch._foreach_add_([p.grad for p in weights], weights, alpha=group["l2"])
