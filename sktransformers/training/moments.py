"""What an optimizer has gathered of the gradients, kept from one training to the next.

An optimizer is built anew for every training: groups, rates and the vocabulary's small table may
have changed. Its state (Adam's moments) is kept by the names of the parameters, on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor

from sktransformers.modules.growing import regrown
from sktransformers.training.vocabulary import CompactEmbedding


@dataclass(frozen=True)
class Moments:
    """State of an optimizer.

    Parameters
    ----------
    kind : tuple
        Class of the optimizer, and what else its state depends on; no other can read it.
    tensors : dict of str to dict
        State of each parameter, by its name.
    shapes : dict of str to tuple
        Their shapes.
    table : str or None
        Name of the parameter that was a small table of the vocabulary.
    ids : ndarray of int or None
        Token ids that its rows stood for.
    """

    kind: tuple[Any, ...]
    tensors: dict[str, dict[str, Any]]
    shapes: dict[str, tuple[int, ...]]
    table: str | None = None
    ids: np.ndarray | None = None

    @classmethod
    def of(cls, net: Any) -> "Moments":
        """State of a net that has trained, inside `compacted` if at all."""
        names = {parameter: name for name, parameter in net.module_.named_parameters()}
        tensors = {
            names[parameter]: {key: _on_cpu(value) for key, value in state.items()}
            for parameter, state in net.optimizer_.state.items()
            if parameter in names and state
        }
        shapes = {names[p]: tuple(p.shape) for p in net.optimizer_.state if p in names}
        moments = cls(_kind(net.optimizer_), tensors, shapes)
        for name, module in net.module_.named_modules():
            if isinstance(module, CompactEmbedding):
                ids = module._table.ids.cpu().numpy()
                moments = replace(moments, table=f"{name}.weight", ids=ids)
        return moments

    def touched(self, model: Any) -> np.ndarray:
        """Token ids whose rows move on without occurring again: all that ever occurred."""
        if self.ids is not None:
            return self.ids
        try:
            table = model.backbone.get_input_embeddings().weight
        except (NotImplementedError, AttributeError):
            return np.empty(0, np.int64)
        names = {name for name, parameter in model.named_parameters() if parameter is table}
        return np.arange(len(table) if names & set(self.tensors) else 0)

    def grown(self, dims: Mapping[str, Sequence[int]], order: Sequence[int]) -> "Moments":
        """State of a model whose parameters have grown, see `sktransformers.modules.growing`."""
        tensors, shapes = dict(self.tensors), dict(self.shapes)
        for name in tensors.keys() & dims.keys():
            shape = shapes[name]
            tensors[name] = {
                # Adafactor keeps a number a row, and a number a column.
                key: regrown(value, order, [d for d in dims[name] if value.shape[d] == shape[d]])
                if _is_array(value)
                else value
                for key, value in tensors[name].items()
            }
            shapes[name] = tuple(len(order) if d in dims[name] else n for d, n in enumerate(shape))
        return replace(self, tensors=tensors, shapes=shapes)

    def load_into(self, net: Any) -> None:
        """Let the optimizer of a net begin with this state, where it still fits."""
        optimizer = net.optimizer_
        if _kind(optimizer) != self.kind:
            return
        tables = {
            f"{name}.weight": module
            for name, module in net.module_.named_modules()
            if isinstance(module, CompactEmbedding)
        }
        on_device = {
            parameter: bool(group.get("fused") or group.get("capturable"))
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name, parameter in net.module_.named_parameters():
            state = self.tensors.get(name)
            if state is None or parameter not in on_device:
                continue
            if name == self.table or name in tables:
                state = {k: self._rows(v, parameter, tables.get(name)) for k, v in state.items()}
            elif self.shapes[name] != tuple(parameter.shape):
                continue
            optimizer.state[parameter] = {
                key: _beside(value, parameter, on_device[parameter]) for key, value in state.items()
            }

    def _rows(self, value: Any, parameter: Tensor, embedding: Any) -> Any:
        """Rows of a table's state where they belong in the table of now."""
        if not _is_array(value):
            return value
        known = value if self.ids is None else value[: len(self.ids)]
        ids = np.arange(len(known)) if self.ids is None else self.ids
        found = value.new_zeros(parameter.shape)
        places = torch.from_numpy(ids)
        if embedding is not None:
            places = embedding._table.places.cpu()[places]
        return found.index_copy_(0, places, known)


class GoOn(Callback):
    """Begin training with the state of an earlier one."""

    def __init__(self, moments: Moments):
        self.moments = moments

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.moments.load_into(net)
        del self.moments  # the optimizer has it


def _kind(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """What a state is of: torch's optimizers read some entries with some options only."""
    options = optimizer.defaults
    used = [name for name in ("amsgrad", "centered", "momentum") if options.get(name)]
    return type(optimizer).__name__, *used


def _is_array(value: Any) -> bool:
    """Whether a value has the dimensions of its parameter; counters of steps have none."""
    return isinstance(value, Tensor) and value.ndim > 0


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _beside(value: Any, parameter: Tensor, counters_too: bool) -> Any:
    """A copy for an optimizer; counters of steps stay on the CPU unless its kernel reads them."""
    if not isinstance(value, Tensor):
        return value
    device = parameter.device if value.ndim or counters_too else value.device
    return value.detach().to(device, copy=True)
