"""States of training on disk, from which a training that was killed goes on by itself.

Each training has a directory of its own, named after the content of all that decides how it goes.
One process holds it at a time. Files are written whole, beside, and older ones are deleted only
afterwards: whenever a process dies, what is there can be read.
"""

import contextlib
import itertools
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from skorch.callbacks import Callback
from torch import Tensor

from sktransformers.files import held
from sktransformers.specs import Checkpoint
from sktransformers.training import store
from sktransformers.training.callbacks import KeepBest, tensors_of
from sktransformers.training.state import Place, State

# In the order of their names: the end of an epoch comes after the batch that it ends with.
_STATE = re.compile(r"step-\d{9}-(?:batch|epoch)(?:-best-(\d{6}))?\.safetensors")
_BEST = re.compile(r"best-(\d{6})\.safetensors")


class Run:
    """The directory of one training.

    Parameters
    ----------
    folder : Path
    keep : int
        How many states stay, beside the weights of the best epoch.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.n_kept = keep
        self.path: Path | None = None  # of the state that was read
        self._is_ill = False

    def latest(self) -> State | None:
        """The last state that can be read."""
        for path in reversed(self._states()):
            found = _read(path)
            if found is not None:
                self.path = path
                return State(*found)
        return None

    def best(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch before the state that was read; empty if there were none.

        Raises
        ------
        ValueError
            If they are not there, or damaged.
        """
        assert self.path is not None
        row = _row(self.path)
        if row is None:
            return {}
        path = self.folder / f"best-{row}.safetensors"
        try:
            return store.load(path)[0]
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name} belongs to it: {error}") from error

    def keep(self, state: State, best: KeepBest | None) -> None:
        """Write a state, and the weights of the best epoch; then delete older ones.

        What cannot be written is left out with a warning, and nothing is deleted.
        """
        row = f"{best.best_row_:06d}" if best is not None and best.weights_ else ""
        name = f"step-{state.n_steps:09d}-{'batch' if state.is_midway else 'epoch'}"
        path = self.folder / f"{name}{f'-best-{row}' if row else ''}.safetensors"
        try:
            if best is not None and row:
                file = self.folder / f"best-{row}.safetensors"
                if not file.is_file():
                    store.write(file, best.weights_, None, sync=True)
            store.write(path, state.tensors, state.about, sync=True)
        except (OSError, TypeError) as error:
            if not self._is_ill:
                warnings.warn(
                    f"checkpoint: {path} could not be written: {error}. Training goes on; what "
                    f"was written before is left.",
                    stacklevel=2,
                )
            self._is_ill = True
            return
        self._is_ill = False
        self._clean_up()

    def _clean_up(self) -> None:
        states = self._states()
        kept = states[-self.n_kept :]
        rows = set(map(_row, kept))
        with contextlib.suppress(OSError):  # another time
            for path in states[: -self.n_kept]:
                path.unlink(missing_ok=True)
            for path in self.folder.iterdir():
                best = _BEST.fullmatch(path.name)
                if (best and best[1] not in rows) or path.suffix == ".part":
                    path.unlink(missing_ok=True)

    def _states(self) -> list[Path]:
        """States by the number of steps."""
        with contextlib.suppress(OSError):
            return sorted(x for x in self.folder.iterdir() if _STATE.fullmatch(x.name))
        return []


@contextlib.contextmanager
def opened(spec: Checkpoint, name: str) -> Iterator[Run]:
    """The directory of a training; another one beside it while others are at the same.

    Raises
    ------
    ValueError
        If it cannot be made.
    """
    for i in itertools.count(1):
        folder = spec._folder() / (name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held(folder, wait=False)
            is_held = lock.__enter__()
        except OSError as error:
            raise ValueError(f"checkpoint: {folder} cannot be used: {error}") from error
        try:
            if is_held is not False:
                yield Run(folder, spec.keep)
                return
        finally:
            lock.__exit__(None, None, None)


def remembered_seed(spec: Checkpoint, name: str, seed: int) -> int:
    """The seed of an earlier training of that name; if there was none, the given one.

    Raises
    ------
    ValueError
        If it cannot be written.
    """
    path = spec._folder() / f"{name}.seed"
    temporary = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            found = file.read(20)
            if re.fullmatch(rb"\d{1,10}", found):
                return int(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(str(seed))
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"checkpoint: {path} cannot be used: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return seed


class KeepStates(Callback):
    """Go on from the last state, and keep later ones. Has to be the last callback.

    Parameters
    ----------
    run : Run
    state : State or None
        What to go on from.
    every : int
    unit : {"epoch", "step"}
        How often a state is kept, beside the last one.
    begin_epoch : callable
        Called with the number of the last epoch that was made.
    """

    def __init__(
        self,
        run: Run,
        state: State | None,
        every: int,
        unit: str,
        begin_epoch: Callable[[int], None],
    ):
        self.run = run
        self.state = state
        self.every = every
        self.unit = unit
        self.begin_epoch = begin_epoch
        self.came_from = 0 if state is None else state.n_epochs

    def on_train_begin(self, net: Any, X: Any = None, **kwargs: Any) -> None:
        # A state of a search may have brought some back.
        self.n_steps_ = sum(row["train_batch_count"] for row in net.history)
        self.midway_: State | None = None
        self.generators_ = [x for x in (net.rng, X.rng) if x is not None]
        if self.state is not None:
            place = self._load(self.state, net)
            if place.n_batches is not None:
                self.midway_, self.place_ = self.state, place
            if self.came_from:
                self.begin_epoch(self.came_from - 1)  # what had thawed has thawed
            self.n_steps_ = place.n_steps
            del self.state  # the net has it

    def _load(self, state: State, net: Any) -> Place:
        try:
            best = self.run.best()
            place = state.load_into(net, self.generators_)
            keeper = _best_of(net)
            if keeper is not None and best:
                keeper.weights_ = _checked(best, net)
            return place
        except ValueError as error:
            raise ValueError(
                f"checkpoint: {self.run.path} is no state of this training: {error}. Delete it to "
                f"go on from an earlier one."
            ) from error

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.began_ = [x.bit_generator.state for x in self.generators_]
        if self.midway_ is not None:  # the other callbacks have just begun an epoch
            self.midway_.remind(net)
            net.history[-1]["batches"].extend(self.place_.batches)
            net.batches_.n_made = self.place_.n_batches
            self.midway_ = None

    def on_batch_end(self, net: Any, training: bool, **step: Any) -> None:
        if training:
            self.n_steps_ += 1
            if self.unit == "step" and self.n_steps_ % self.every == 0:
                self._keep(net, len(net.history[-1]["batches"]), False, self.began_)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        n_epochs = len(net.history)
        is_last = net.is_stopping or n_epochs == net.max_epochs
        if is_last or (self.unit == "epoch" and n_epochs % self.every == 0):
            generators = [x.bit_generator.state for x in self.generators_]
            self._keep(net, None, is_last, generators)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.generators_ = []

    def _keep(self, net: Any, n_batches: int | None, is_last: bool, generators: list[Any]) -> None:
        place = Place(self.n_steps_, n_batches, is_last, generators, [])
        self.run.keep(State.of(net, place), _best_of(net))


def _best_of(net: Any) -> KeepBest | None:
    return next((x for _, x in net.callbacks_ if isinstance(x, KeepBest)), None)


def _checked(best: Mapping[str, Tensor], net: Any) -> dict[str, Tensor]:
    """Weights, if they are of the model."""
    own = dict(tensors_of(net.module_))
    for name, tensor in own.items():
        found = best.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ValueError(f"the best weights of {name} do not fit")
    return {name: best[name] for name in own}


def _row(path: Path) -> str | None:
    found = _STATE.fullmatch(path.name)
    return found[1] if found else None


def _read(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """What is in a file; None, with a warning, if it is damaged."""
    try:
        return store.load(path)
    except (OSError, ValueError) as error:
        warnings.warn(f"checkpoint: {path} cannot be read and is left out: {error}", stacklevel=2)
        return None
