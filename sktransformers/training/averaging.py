"""Averages of the weights over training steps."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sktransformers.specs import EMA, SWA


class AverageWeights(Callback):
    """Average weights on the side, and show them wherever the model is looked at.

    Training goes on with its own weights. From the validation rows to the end of an epoch, and
    at the end of training, the model has the average. Has to run before callbacks that look at the
    model.

    The average is linear in the weights. So it is right for a compacted vocabulary too, whose
    decay is one of them.

    Parameters
    ----------
    spec : EMA or SWA
        Which average.
    n_steps : int
        Steps of the whole training.
    """

    def __init__(self, spec: EMA | SWA, n_steps: int):
        self.spec = spec
        self.n_steps = n_steps

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.n_made_ = 0
        self.n_averaged_ = 0
        self.tensors_ = list(_moving(net))
        self.average_: list[Tensor] | None = None
        self.own_: list[Tensor] | None = None  # of training, while the model has the average
        if isinstance(self.spec, EMA):
            self.average_ = self._copies()
            self.first_ = 0
        else:
            self.first_ = min(round(self.spec.start * self.n_steps), self.n_steps - 1)

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self._show(average=False)

    def on_batch_begin(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        if not training:
            self._show(average=True)

    def on_batch_end(self, net: Any, training: bool = True, **step: Any) -> None:
        if not training or not step["is_made"]:
            return
        if self.n_made_ >= self.first_:
            if self.average_ is None:
                self.average_ = self._copies()
            else:
                self._update(1.0 - self._decay())
            self.n_averaged_ += 1
        self.n_made_ += 1

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self._show(average=True)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.own_ = None  # a Ctrl-C may have come when half of them had been exchanged
        self._show(average=True)
        self.tensors_, self.average_, self.own_ = [], None, None

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        names = ("n_made_", "n_averaged_", "average_", "own_")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.n_made_, self.n_averaged_ = int(state["n_made_"]), int(state["n_averaged_"])
        self.average_, self.own_ = state["average_"], state["own_"]
        shapes = [tensor.shape for tensor in self.tensors_]
        for found in (self.average_, self.own_):
            if found is not None and [tensor.shape for tensor in found] != shapes:
                raise ValueError("the averages are not of the model's weights")

    def _decay(self) -> float:
        """Share of the average that the next step leaves of it."""
        if isinstance(self.spec, EMA):
            return min(self.spec.decay, (1 + self.n_made_) / (10 + self.n_made_))
        return self.n_averaged_ / (self.n_averaged_ + 1)

    @torch.no_grad()
    def _update(self, share: float) -> None:
        assert self.average_ is not None
        now = [t.detach().to(average.dtype) for t, average in zip(self.tensors_, self.average_)]
        torch._foreach_lerp_(self.average_, now, share)

    @torch.no_grad()
    def _show(self, average: bool) -> None:
        """Give the model the average, or its own weights back."""
        if average and self.own_ is None and self.average_ is not None:
            self.own_ = [tensor.detach().clone() for tensor in self.tensors_]
            for tensor, mean in zip(self.tensors_, self.average_):
                tensor.copy_(mean)
        elif not average and self.own_ is not None:
            for tensor, own in zip(self.tensors_, self.own_):
                tensor.copy_(own)
            self.own_ = None

    def _copies(self) -> list[Tensor]:
        # Small changes of many steps would be lost in half precision.
        return [
            tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for tensor in self.tensors_
        ]


def _moving(net: Any) -> Iterator[Tensor]:
    """Floating tensors that training may change."""
    trained = {id(p) for group in net.optimizer_.param_groups for p in group["params"]}
    for tensor in chain(net.module_.parameters(), net.module_.buffers()):
        if not tensor.is_floating_point():
            continue  # counters
        if isinstance(tensor, torch.nn.Parameter):
            if id(tensor) in trained:
                yield tensor
        elif tensor.isfinite().all():  # infinities are in constants, such as masks
            yield tensor
