"""What an optimizer has gathered of the gradients, kept from one training to the next.

An optimizer is built anew for every training: groups, rates and the vocabulary's small table may
have changed. Its state (Adam's moments) is kept by the names of the parameters, on the CPU.

Between two trainings a fitted estimator, its pickles and its directory hold little of it, a few
vectors for each matrix: of second moments, which say how large steps may be, the means of rows and
columns, as in Adafactor (Shazeer and Stern 2018, arXiv:1804.04235, section 3); of first moments,
which say where steps go, the product of two narrow matrices that comes nearest.
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

# What torch's optimizers call means of gradients, and what is never below zero and large where
# gradients are.
_FIRST = {"exp_avg", "momentum_buffer"}
_SECOND = {"acc_delta", "exp_avg_sq", "exp_inf", "max_exp_avg_sq", "square_avg", "sum"}
_OF_VARIANCE = "grad_avg"  # its square is subtracted from second moments, and must be less
_ROWS, _COLUMNS = ".rows", ".columns"  # behind the name of a matrix, its factors
# Of first moments. After an epoch of 300 rows of trec6, ten trainings of 8 rows each move the
# weights by 0.24 with it, by 0.05 without first moments, and by 0.33 with all of them.
_RANK = 8
_PLAIN = {bool, float, int, str, type(None)}


@dataclass(frozen=True)
class Moments:
    """State of an optimizer.

    Parameters
    ----------
    kind : tuple
        Class of the optimizer, and what else its state depends on; no other can read it.
    tensors : dict of str to dict
        State of each parameter, by its name; as the optimizer has it, or in `small` form.
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

    def small(self) -> "Moments":
        """The same in little space, as it is kept from one training to the next.

        Of a matrix of second moments :math:`v_{ij}` there are the means of its rows :math:`r_i`
        and of its columns :math:`c_j`, as two factors whose product is
        :math:`r_i c_j / mean(r)`; of one of first moments, about its 8 largest singular vectors.
        Vectors, and matrices that are smaller than these, stay as they are. A parameter starts
        anew if the optimizer has many numbers of another kind, which may mean anything.
        """
        found = {name: _in_little(state, self.shapes[name]) for name, state in self.tensors.items()}
        return replace(self, tensors={name: state for name, state in found.items() if state})

    def as_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by names, and the rest as JSON knows it; see `of_tensors`."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, Any]] = {}
        for name, state in self.tensors.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"moments/{key}/{name}"] = value
                else:
                    numbers.setdefault(name, {})[key] = value
        if self.ids is not None:
            tensors["ids"] = torch.from_numpy(self.ids)
        about = {"kind": self.kind, "numbers": numbers, "shapes": self.shapes, "table": self.table}
        return tensors, about

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> "Moments":
        """What `as_tensors` was called of; tensors of other names are left alone.

        Raises
        ------
        AttributeError, KeyError, TypeError, ValueError
            If it is nothing that `as_tensors` gives.
        """
        found = {name: dict(values) for name, values in about["numbers"].items()}
        for full_name, tensor in tensors.items():
            part, _, rest = full_name.partition("/")
            if part == "moments":
                key, _, name = rest.partition("/")
                found.setdefault(name, {})[key] = tensor
        shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
        for name, state in found.items():
            _check_factors(state, shapes[name])
        ids = tensors.get("ids")
        if ids is not None and (ids.dtype != torch.int64 or ids.ndim != 1):
            raise ValueError(f"ids are of type {ids.dtype}")
        return cls(
            tuple(about["kind"]),
            found,
            shapes,
            about["table"],
            None if ids is None else ids.numpy(),
        )

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
                # Of factors there is a number a row, and a number a column.
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
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in net.module_.named_parameters():
            state = self.tensors.get(name)
            group = groups.get(parameter)
            if state is None or group is None:
                continue
            state = _in_full(state, self.shapes[name], parameter.dtype, group.get("betas"))
            if name == self.table or name in tables:
                state = {k: self._rows(v, parameter, tables.get(name)) for k, v in state.items()}
            elif self.shapes[name] != tuple(parameter.shape):
                continue
            on_device = bool(group.get("fused") or group.get("capturable"))
            optimizer.state[parameter] = {
                key: _beside(value, parameter, on_device) for key, value in state.items()
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


def _in_little(state: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """State of a parameter, see `Moments.small`; empty if it starts anew."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        if key == _OF_VARIANCE:
            found[key] = 0.0
        elif type(value) not in _PLAIN and not isinstance(value, Tensor):
            return {}
        elif not _is_array(value) or len(shape) < 2:
            found[key] = value
        elif key in _FIRST | _SECOND and value.shape == shape:
            precise = value.to(torch.promote_types(value.dtype, torch.float32))
            rows, columns = (_narrow if key in _FIRST else _means)(precise)
            if rows.numel() + columns.numel() < value.numel():
                found |= {key + _ROWS: rows, key + _COLUMNS: columns}
            else:
                found[key] = value
        elif value.numel() <= sum(shape):  # Adafactor's are means of rows and of columns
            found[key] = value
        else:
            return {}
    return found


def _means(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors with the sums of rows and of columns of a matrix, none of it negative."""
    rows = matrix.mean(dim=-1, keepdim=True)
    mean = rows.mean(dim=-2, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return rows, matrix.mean(dim=-2, keepdim=True) / mean


def _narrow(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is near a matrix (Halko et al. 2011, arXiv:0909.4061).

    Rows of zeros stay so.
    """
    generator = torch.Generator().manual_seed(0)
    rank = min(_RANK, *matrix.shape[-2:])
    basis = torch.randn(matrix.shape[-1], rank, generator=generator, dtype=matrix.dtype)
    for _ in range(2):  # subspace iterations
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis).Q).Q
    return matrix @ basis, basis.mT.contiguous()


def _in_full(
    state: Mapping[str, Any], shape: tuple[int, ...], dtype: Any, betas: Any
) -> dict[str, Any]:
    """The state as an optimizer reads it, whichever form it has; betas are those of Adam."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        if key == _OF_VARIANCE and not isinstance(value, Tensor):
            found[key] = torch.zeros(shape, dtype=dtype)
        elif key.endswith(_ROWS):
            key = key.removesuffix(_ROWS)
            found[key] = (value @ state[key + _COLUMNS]).to(dtype)
        elif not key.endswith(_COLUMNS):
            found[key] = value
    if f"exp_avg{_ROWS}" in state and "exp_avg_sq" in found:
        # What is but nearly right would make steps of several rates: here at most of one, by means
        # without the bias of their start at zero (Kingma and Ba 2015, arXiv:1412.6980, section 3).
        first, second = (1 - beta ** float(state["step"]) for beta in betas)
        most = first * (found["exp_avg_sq"] / second).sqrt()
        found["exp_avg"] = found["exp_avg"].clamp(-most, most)
    return found


def _check_factors(state: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    for key, rows in state.items():
        if key.endswith(_ROWS):
            columns = state[key.removesuffix(_ROWS) + _COLUMNS]
            inner = (*shape[:-2], rows.shape[-1], shape[-1])
            if (*rows.shape[:-1], columns.shape[-1]) != shape or columns.shape != inner:
                raise ValueError(f"{key} does not fit a parameter of shape {shape}")


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
