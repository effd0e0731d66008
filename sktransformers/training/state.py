"""Where a training stands, so that another process goes on as this one would have.

Weights, what the optimizer has gathered, random states, the place in the shuffled rows, the
history, and what callbacks remember. Nothing in it is a text of the user's.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransformers.training.callbacks import tensors_of
from sktransformers.training.moments import Moments
from sktransformers.training.schedules import Plateau

_TENSOR = "$tensor"
# What is there, and the types that it may be of.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("n_epochs", "n_steps", "step"), (int,)),
    "n_batches": (int, type(None)),
    "is_finished": (bool,),
    "generators": (list,),
    "budget": (list,),
    **dict.fromkeys(("callbacks", "moments", "scaler"), (dict,)),
}
# What fails where it is not of this training.
_MISFITS = (AttributeError, LookupError, OverflowError, RecursionError, RuntimeError, TypeError)


@dataclass(frozen=True)
class State:
    """Where training stands after a step, or at the end of an epoch.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Weights, what the optimizer has gathered, random states.
    about : dict
        The rest, as JSON knows it.
    """

    tensors: Mapping[str, Tensor]
    about: dict[str, Any]

    @property
    def n_epochs(self) -> int:
        """Epochs that were made."""
        return int(self.about["n_epochs"])

    @property
    def n_steps(self) -> int:
        """Batches that were made."""
        return int(self.about["n_steps"])

    @property
    def is_midway(self) -> bool:
        """Whether an epoch has begun and not ended."""
        return self.about["n_batches"] is not None

    @property
    def is_finished(self) -> bool:
        """Whether training has ended here."""
        return bool(self.about["is_finished"])

    @property
    def n_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @classmethod
    def of(cls, net: Any, place: "Place") -> "State":
        """State of a net, inside `compacted` if at all."""
        moments, about_moments = Moments.of(net).as_tensors()
        tensors = {f"weights/{name}": tensor for name, tensor in _changing(net)} | moments
        tensors |= {f"random/{name}": state for name, (state, _) in _random(net).items()}
        # Long histories would not fit the header of a file.
        # Of the batches, only those of an epoch that is not finished are needed again.
        n_epochs = len(net.history) - (place.n_batches is not None)
        whole = [{**row, "batches": []} for row in net.history[:n_epochs]]
        rows = json.dumps([*whole, *net.history[n_epochs:]], default=_plain).encode()
        tensors["history"] = torch.frombuffer(bytearray(rows), dtype=torch.uint8)
        callbacks = {
            name: _without_tensors(callback.state_dict(), f"callbacks/{name}", tensors)
            for name, callback in _remembering(net)
        }
        schedule = net.schedule.state_dict() if isinstance(net.schedule, Plateau) else None
        about = {
            "n_epochs": n_epochs,
            "n_steps": place.n_steps,
            "n_batches": place.n_batches,
            "is_finished": place.is_finished,
            "generators": place.generators,
            "step": net.scheduler_.last_epoch,
            "schedule": schedule,
            "scaler": net.scaler_.state_dict(),
            "budget": net.budget.left,
            "moments": about_moments,
            "callbacks": callbacks,
        }
        return cls(tensors, about)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], about: Any) -> "State":
        """What a file holds.

        Raises
        ------
        ValueError
            If it has not the form of a state.
        """
        if not isinstance(about, dict):
            raise ValueError("it is no state of training")
        for name, kinds in _KINDS.items():
            # A bool is an int to Python.
            if name not in about or type(about[name]) not in kinds:
                raise ValueError(f"it is no state of training: {name} is {about.get(name)!r:.50}")
            if type(about[name]) is int and about[name] < 0:
                raise ValueError(f"it is no state of training: {name} is negative")
        if about["is_finished"] and (about["n_batches"] is not None or about["n_epochs"] == 0):
            raise ValueError("it is no state of training: it has ended before it has begun")
        return cls(tensors, about)

    def load_into(self, net: Any, generators: Iterable[np.random.Generator]) -> "Place":
        """Let a net go on from here; all of the state is looked at before anything is changed.

        Raises
        ------
        ValueError
            If it is no state of this training.
        """
        try:
            return self._load_into(net, list(generators))
        except _MISFITS as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _load_into(self, net: Any, generators: list[np.random.Generator]) -> "Place":
        about = self.about
        own = {f"weights/{name}": tensor for name, tensor in _changing(net)}
        own |= {f"random/{name}": state for name, (state, _) in _random(net).items()}
        check_alike(self.tensors, own)
        moments = Moments.of_tensors(self.tensors, about["moments"])
        _check_moments(moments, net)
        history = self._history(net.max_epochs)
        if len(about["generators"]) != len(generators):
            raise ValueError("it has not the random states of this training")
        net.budget.restrict(about["budget"])
        for generator, state in zip(generators, about["generators"]):
            generator.bit_generator.state = state
        net.scaler_.load_state_dict(about["scaler"])
        moments.load_into(net)
        self.remind(net)
        if isinstance(net.schedule, Plateau):
            net.schedule.load_state_dict(about["schedule"])
        step = net.scheduler_.last_epoch = int(about["step"])
        for group in net.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * net.schedule(step)
        net.history.extend(history[: self.n_epochs])
        net.is_stopping = self.is_finished
        with torch.no_grad():
            for name, tensor in _changing(net):
                tensor.copy_(self.tensors[f"weights/{name}"])
        batches = history[-1]["batches"] if self.is_midway else []
        n_batches = about["n_batches"]
        return Place(self.n_steps, n_batches, self.is_finished, about["generators"], batches)

    def remind(self, net: Any) -> None:
        """Let callbacks remember what they knew, and random numbers go on from here."""
        device = next(net.module_.parameters()).device
        states = {
            name: _with_tensors(self.about["callbacks"][name], self.tensors, device)
            for name, _ in _remembering(net)
        }
        for name, callback in _remembering(net):
            callback.load_state_dict(states[name])
        for name, (_, restore) in _random(net).items():
            restore(self.tensors[f"random/{name}"])

    def _history(self, max_epochs: int) -> list[dict[str, Any]]:
        """Rows of the history, the last of which may be of an epoch that is not finished."""
        history = json.loads(self.tensors["history"].numpy().tobytes())
        if len(history) != self.n_epochs + self.is_midway or len(history) > max_epochs:
            raise ValueError("it does not fit the number of epochs")
        for i, row in enumerate(history):
            n_batches = len(row["batches"])
            is_whole = i < self.n_epochs
            if row["epoch"] != i + 1 or not all(isinstance(x, dict) for x in row["batches"]):
                raise ValueError(f"row {i} of its history is none")
            if is_whole and not {"train_loss", "tokens_per_second"} <= row.keys():
                raise ValueError(f"row {i} of its history is not whole")
            if not is_whole and n_batches != self.about["n_batches"]:
                raise ValueError(f"its history has {n_batches} batches of the last epoch")
        return history


@dataclass
class Place:
    """A place in the shuffled rows.

    Parameters
    ----------
    n_steps : int
        Batches of all epochs that were made.
    n_batches : int or None
        Those of an epoch that is not finished; None between epochs.
    is_finished : bool
        Whether training ends here.
    generators : list of dict
        States of NumPy's generators; within an epoch, those of its beginning.
    batches : list of dict
        Rows of the history of the batches of an epoch that is not finished.
    """

    n_steps: int
    n_batches: int | None
    is_finished: bool
    generators: list[dict[str, Any]]
    batches: list[dict[str, Any]]


def check_alike(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that tensors are like those that they take the place of.

    Raises
    ------
    ValueError
        If one is missing, or has another shape or type, or is not finite.
    """
    for name, tensor in own.items():
        other = found.get(name)
        if other is None:
            raise ValueError(f"{name} is missing")
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise ValueError(
                f"{name} is of shape {tuple(other.shape)} and {other.dtype}; expected "
                f"{tuple(tensor.shape)} and {tensor.dtype}"
            )
        if not other.isfinite().all() and tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
        # Positions and the like, which no training changes: others may lie outside of a table.
        is_fixed = name.startswith("weights/") and tensor.ndim and not tensor.is_floating_point()
        if is_fixed and not torch.equal(other, tensor.to(other.device)):
            raise ValueError(f"{name} has other numbers")


def _check_moments(moments: Moments, net: Any) -> None:
    """Check that nothing is left out, and that nothing would fail in a later step."""
    own = Moments.of(net)
    if (moments.kind, moments.table) != (own.kind, own.table):
        raise ValueError(f"it is of the optimizer {moments.kind[0]}; this one is {own.kind[0]}")
    ids = [[] if x.ids is None else x.ids.tolist() for x in (own, moments)]
    if ids[0] != ids[1]:
        raise ValueError("it is of other tokens")
    shapes = {name: tuple(p.shape) for name, p in net.module_.named_parameters()}
    for name in moments.tensors:
        if shapes.get(name) != moments.shapes[name]:
            raise ValueError(f"{name} has moments, but the model has no such parameter")
    keys: dict[int, set[str]] = {}  # by the number of dimensions, on which Adafactor's depend
    for name, parameter in net.module_.named_parameters():
        state = moments.tensors.get(name, {})
        if state and keys.setdefault(parameter.ndim, set(state)) != set(state):
            raise ValueError(f"{name} has not the moments that others have")
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            # Adafactor's are means along one dimension.
            fits = len(value.shape) == parameter.ndim and all(
                n in (1, size) for n, size in zip(value.shape, parameter.shape)
            )
            if not value.isfinite().all():
                raise ValueError(f"{key} of {name} is not finite")
            if not fits or value.dtype not in (parameter.dtype, torch.float32):
                raise ValueError(
                    f"{key} of {name} is of shape {tuple(value.shape)} and {value.dtype}; the "
                    f"parameter is of shape {tuple(parameter.shape)}"
                )


def _changing(net: Any) -> Iterable[tuple[str, Tensor]]:
    """Weights that training may change, and all buffers."""
    trained = {id(p) for group in net.optimizer_.param_groups for p in group["params"]}
    for name, tensor in tensors_of(net.module_):
        if id(tensor) in trained or not isinstance(tensor, torch.nn.Parameter):
            yield name, tensor


def _random(net: Any) -> dict[str, tuple[Tensor, Callable[[Tensor], None]]]:
    """Random states that training draws from, and what brings each of them back."""
    device = next(net.module_.parameters()).device
    found: dict[str, tuple[Tensor, Callable[[Tensor], None]]] = {
        "cpu": (torch.get_rng_state(), torch.set_rng_state)
    }
    if device.type == "cuda":
        restore = partial(torch.cuda.set_rng_state, device=device)
        found["cuda"] = (torch.cuda.get_rng_state(device), restore)
    if device.type == "mps":
        found["mps"] = (torch.mps.get_rng_state(), torch.mps.set_rng_state)
    return found


def _remembering(net: Any) -> Iterable[tuple[str, Any]]:
    """Callbacks that give what they remember, and take it back."""
    both = ("state_dict", "load_state_dict")
    return [(name, x) for name, x in net.callbacks_ if all(hasattr(x, method) for method in both)]


def _without_tensors(thing: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON knows it; its tensors are put among the others, under its path."""
    if isinstance(thing, Tensor):
        tensors[path] = thing
        return {_TENSOR: path}
    if isinstance(thing, Mapping):
        return {str(k): _without_tensors(v, f"{path}/{k}", tensors) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_without_tensors(x, f"{path}/{i}", tensors) for i, x in enumerate(thing)]
    return thing.item() if isinstance(thing, np.generic) else thing


def _with_tensors(thing: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if isinstance(thing, dict):
        if list(thing) == [_TENSOR]:
            return tensors[thing[_TENSOR]].to(device)
        return {name: _with_tensors(value, tensors, device) for name, value in thing.items()}
    if isinstance(thing, list):
        return [_with_tensors(value, tensors, device) for value in thing]
    return thing


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch, for JSON."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return value.tolist()
    raise TypeError(f"history holds an object of type {type(value).__name__}")
