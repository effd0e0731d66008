"""States of training on disk, from which a training that was killed goes on by itself.

Each training has a directory of its own, named after the content of all that decides how it goes.
One process holds it at a time. Files are written whole, beside, and older ones are deleted only
afterwards: whenever a process dies, what is there can be read.
"""

import contextlib
import itertools
import re
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
from sktransformers.training.state import Place, State, check_alike

# In the order of their names: the end of an epoch comes after the batch that it ends with.
_STATE = re.compile(r"step-\d{9}-(?:batch|epoch)(?:-best-(\d{6}))?\.safetensors")
_BEST = re.compile(r"best-(\d{6})\.safetensors")


class Run:
    """The directory of one training.

    Parameters
    ----------
    folder : Path
    training : str
        Name of the training, which its files have to tell: one of another could be in its place.
    keep : int
        How many states stay, beside the weights of the best epoch.
    """

    def __init__(self, folder: Path, training: str, keep: int):
        self.folder = folder
        self.training = training
        self.n_kept = keep
        self.path: Path | None = None  # of the state that was read
        self.best: Mapping[str, Tensor] = {}  # weights of the best epoch before it
        self._row: str | None = None  # of the weights that are known to be whole

    def latest(self) -> State | None:
        """The last state that can be read, with a warning for each that cannot."""
        for path in reversed(self._states()):
            file = path
            try:
                state = State.of_tensors(*self._load(path))
                row = _row(path)
                if path.name != _name(state, row):
                    raise ValueError("it has another name than it was written under")
                if row is not None:
                    file = self._best(row)
                    self.best = self._load(file)[0]
            except (OSError, ValueError) as error:
                which = "" if file is path else f", and {path.name} with it"
                warnings.warn(
                    f"checkpoint: {file} cannot be used and is left out{which}: {error}. Training "
                    f"goes on from an earlier state, or begins anew.",
                    stacklevel=2,
                )
                continue
            self.path, self._row = path, row
            return state
        return None

    def keep(self, state: State, best: KeepBest | None) -> None:
        """Write a state, and the weights of the best epoch; then delete others.

        Raises
        ------
        OSError, TypeError, ValueError
            If it cannot be written; then nothing is deleted.
        """
        row = f"{best.best_row_:06d}" if best is not None and best.weights_ else None
        path = self.folder / _name(state, row)
        if best is not None and row is not None and (row != self._row or not self._has(row)):
            self._write(self._best(row), best.weights_, {})
            self._row = row
        self._write(path, state.tensors, state.about)
        self._clean_up(path)

    def _clean_up(self, last: Path) -> None:
        """Delete what the state that was just written makes useless."""
        states = self._states()
        # What would come after it could not be read.
        kept = [path for path in states if path.name <= last.name][-self.n_kept :]
        rows = set(map(_row, kept))
        others = set(states) - set(kept)
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                best = _BEST.fullmatch(path.name)
                if (best and best[1] not in rows) or path.suffix == ".part":
                    others.add(path)
        for path in others:
            with contextlib.suppress(OSError):  # another time
                path.unlink(missing_ok=True)

    def _states(self) -> list[Path]:
        """States by the number of steps."""
        with contextlib.suppress(OSError):
            return sorted(x for x in self.folder.iterdir() if _STATE.fullmatch(x.name))
        return []

    def _best(self, row: str) -> Path:
        return self.folder / f"best-{row}.safetensors"

    def _has(self, row: str) -> bool:
        return self._best(row).is_file()

    def _write(self, path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        store.write(path, tensors, {**about, "training": self.training}, sync=True)

    def _load(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, about = store.load(path)
        if not isinstance(about, dict) or about.pop("training", None) != self.training:
            raise ValueError("it is not of this training")
        return tensors, about


@contextlib.contextmanager
def opened(spec: Checkpoint, name: str) -> Iterator[Run]:
    """The directory of a training; another one beside it while others are at the same.

    Raises
    ------
    ValueError
        If it cannot be made.
    """
    location = spec._folder()
    for i in itertools.count(1):
        folder = location / (name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            store.check_place(folder, folder)
            lock = held(folder, wait=False)
            is_held = lock.__enter__()
        except OSError as error:
            raise ValueError(f"checkpoint: {folder} cannot be used: {error}") from error
        try:
            if is_held is not False:
                yield Run(folder, name, spec.keep)
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
    try:
        store.check_place(path, path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.parent):  # the same training may begin elsewhere
            store.check_place(path, path)
            if path.is_file():  # a pipe would be waited for
                with path.open("rb") as file:
                    found = re.fullmatch(rb"(\d{1,10})\n", file.read(20))
                if found:  # else a process was killed while it wrote
                    return int(found[1])
            elif path.exists():
                raise ValueError(f"checkpoint: {path} cannot be used: it is no file.")
            path.write_text(f"{seed}\n")
    except OSError as error:
        raise ValueError(f"checkpoint: {path} cannot be used: {error}") from error
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
        self._is_ill = False

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
            place = state.load_into(net, self.generators_)
            keeper = _best_of(net)
            if keeper is not None and self.run.best:
                keeper.weights_ = _checked(self.run.best, net)
            self.run.best = {}
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
                net.guard_.check()  # the step may not have been made
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
        try:
            self.run.keep(State.of(net, place), _best_of(net))
        except (OSError, TypeError, ValueError) as error:
            if not self._is_ill:
                warnings.warn(
                    f"checkpoint: the state of training could not be written to {self.run.folder}: "
                    f"{error}. Training goes on; what was written before is left.",
                    stacklevel=2,
                )
            self._is_ill = True
        else:
            self._is_ill = False


def _best_of(net: Any) -> KeepBest | None:
    return next((x for _, x in net.callbacks_ if isinstance(x, KeepBest)), None)


def _checked(best: Mapping[str, Tensor], net: Any) -> dict[str, Tensor]:
    """Weights, if they are of the model."""
    own = dict(tensors_of(net.module_))
    check_alike(best, own)
    return {name: best[name] for name in own}


def _name(state: State, row: str | None) -> str:
    """Name of the file of a state; row is that of the best epoch so far."""
    name = f"step-{state.n_steps:09d}-{'batch' if state.is_midway else 'epoch'}"
    return f"{name}{f'-best-{row}' if row else ''}.safetensors"


def _row(path: Path) -> str | None:
    found = _STATE.fullmatch(path.name)
    return found[1] if found else None
