"""States of training that are kept in a folder, for the same training with more epochs.

A search that halves its candidates trains the better ones again, for longer. Where the rates of the
first epochs do not hang on how many follow, a longer training begins as the shorter one went:
what that one left is taken over, random states included, and the result is the same, bit by bit.

A state is found by the content of all that decides it: the encoded rows and their targets, the
weights before the first step, and the parameters. Nothing in it is a text of the user's.
"""

import dataclasses
import hashlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor

from sktransformers.specs import Spec
from sktransformers.training import store
from sktransformers.training.callbacks import tensors_of
from sktransformers.training.moments import Moments

_FORMAT = 2  # of the files, and of what their numbers mean
# With others, training may go another way.
_VERSIONS = ("sktransformers", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class State:
    """Where training stands at the end of an epoch.

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
        return len(self.about["history"])

    @property
    def n_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @classmethod
    def of(cls, net: Any) -> "State":
        """State of a net between two epochs, inside `compacted` if at all."""
        moments, about_moments = Moments.of(net).as_tensors()
        tensors = {f"weights/{name}": tensor for name, tensor in _changing(net)} | moments
        tensors |= {f"random/{name}": state for name, (state, _) in _random(net).items()}
        about = {
            "history": list(net.history),
            "step": net.scheduler_.last_epoch,
            "scaler": net.scaler_.state_dict(),
            "rng": net.rng.bit_generator.state,
            "moments": about_moments,
        }
        return cls(tensors, about)

    def load_into(self, net: Any) -> None:
        """Let a net go on from here."""
        with torch.no_grad():
            for name, tensor in _changing(net):
                tensor.copy_(self.tensors[f"weights/{name}"])
        Moments.of_tensors(self.tensors, self.about["moments"]).load_into(net)
        for name, (_, restore) in _random(net).items():
            restore(self.tensors[f"random/{name}"])
        net.rng.bit_generator.state = self.about["rng"]
        net.scaler_.load_state_dict(self.about["scaler"])
        net.history.extend(self.about["history"])
        step = net.scheduler_.last_epoch = self.about["step"]
        for group in net.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * net.schedule(step)


class States:
    """States of one training, in a folder that they share with those of other parameters.

    Parameters
    ----------
    folder : Path
        Folder of all that is kept.
    max_mb : float
        Megabytes that it may take.
    data : str
        Fingerprint of the rows, see `fingerprint`.
    training : str
        Fingerprint of the rows and of all else that decides what is trained.
    """

    def __init__(self, folder: Path, max_mb: float, data: str, training: str):
        self.folder = folder
        self.max_mb = max_mb
        self.data = data
        self.training = training

    def latest(self, n_epochs: int) -> State | None:
        """The state after the most epochs, at most so many."""
        own = {n: path for path, name, n in self._files() if name == self.training}
        for n in sorted((n for n in own if n <= n_epochs), reverse=True):
            found = store.read(own[n])
            if found is not None:
                return State(*found)
        return None

    def keep(self, state: State, came_from: int) -> None:
        """Write a state, and delete those that it makes useless.

        These are the earlier ones of this training. And where training came from the end of some
        epoch, a search had chosen it among those that had come as far: what is left from before is
        of candidates that have lost.
        """
        try:
            if not store.make_room(self.folder, self.max_mb, state.n_bytes):
                return
            store.write(self._path(state.n_epochs), state.tensors, state.about)
        except OSError as error:
            warnings.warn(f"memory does not keep the state of training: {error}", stacklevel=2)
            return
        for path, name, n in self._files():
            if n < (state.n_epochs if name == self.training else came_from):
                path.unlink(missing_ok=True)

    def _path(self, n_epochs: int) -> Path:
        return self.folder / "states" / self.data / f"{self.training}-{n_epochs}.safetensors"

    def _files(self) -> Iterable[tuple[Path, str, int]]:
        """States of the same rows: path, fingerprint and number of epochs."""
        for path in self._path(0).parent.glob("*-*.safetensors"):
            name, _, n_epochs = path.stem.partition("-")
            yield path, name, int(n_epochs)


class Continue(Callback):
    """Go on from a state, and keep that of a later epoch.

    Parameters
    ----------
    states : States
        Where the state is kept.
    state : State or None
        What to go on from.
    n_epochs : int
        The epoch at whose end the state is kept.
    begin_epoch : callable
        Called with the number of the last epoch that was made.
    """

    def __init__(
        self,
        states: States,
        state: State | None,
        n_epochs: int,
        begin_epoch: Callable[[int], None],
    ):
        self.states = states
        self.state = state
        self.n_epochs = n_epochs
        self.begin_epoch = begin_epoch
        self.came_from = 0 if state is None else state.n_epochs

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.max_epochs_ = net.max_epochs
        if self.state is not None:
            self.state.load_into(net)
            self.begin_epoch(self.came_from - 1)  # what had thawed has thawed
            net.max_epochs -= self.came_from
            del self.state  # the net has it

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if len(net.history) == self.n_epochs:
            self.states.keep(State.of(net), self.came_from)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        net.max_epochs = self.max_epochs_


def fingerprint(*things: Any) -> str:
    """Hexadecimal digest of the content of numbers, texts, arrays, tensors, option objects, ...

    It is another one with other versions of what trains.

    Raises
    ------
    TypeError
        If something is of another type, such as a function.
    """
    digest = hashlib.blake2b(digest_size=16)
    versions = [importlib.metadata.version(name) for name in _VERSIONS]
    _feed(digest, (_FORMAT, versions, things))
    return digest.hexdigest()


def _feed(digest: Any, thing: Any) -> None:
    if thing is None or isinstance(thing, (str, bytes, bool, int, float, np.generic)):
        digest.update(f"{thing.item() if isinstance(thing, np.generic) else thing!r};".encode())
    elif isinstance(thing, Tensor):
        store.feed(digest, thing)
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        digest.update(f"{thing.dtype.str}{thing.shape}".encode())
        digest.update(np.ascontiguousarray(thing).view(np.uint8))
    else:
        parts = list(_parts(thing))
        digest.update(f"{type(thing).__name__}{len(parts)}:".encode())
        for part in parts:
            _feed(digest, part)


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, np.ndarray):
        return (*thing.shape, *thing.ravel().tolist())
    if isinstance(thing, (list, tuple)):
        return thing
    if isinstance(thing, Mapping):
        return thing.items()
    if isinstance(thing, Spec):
        return thing.get_params(deep=False).items()
    if dataclasses.is_dataclass(thing):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    raise TypeError(f"{thing!r} cannot be told from others by its content")


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
