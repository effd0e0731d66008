"""States of training that are kept in a folder, for the same training with more epochs.

A search that halves its candidates trains the better ones again, for longer. Where the rates of the
first epochs do not hang on how many follow, a longer training begins as the shorter one went:
what that one left is taken over, random states included, and the result is the same, bit by bit.

A state is found by the content of all that decides it: the encoded rows and their targets, the
weights before the first step, and the parameters. Nothing in it is a text of the user's.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from skorch.callbacks import Callback

from sktransformers.training import store
from sktransformers.training.state import Place, State

_STATE = re.compile(r"([0-9a-f]+)-(\d{1,9})\.safetensors")


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
            found = store.read(own[n], self.max_mb * 2**20)
            if found is None:
                continue
            try:
                state = State.of_tensors(*found)
                if state.n_epochs != n:
                    raise ValueError("it has another name than it was written under")
                return state
            except ValueError as error:
                store.leave_out(own[n], error)
        return None

    def keep(self, state: State, came_from: int) -> None:
        """Write a state, and delete those that it makes useless.

        These are the earlier ones of this training. And where training came from the end of some
        epoch, a search had chosen it among those that had come as far: what is left from before is
        of candidates that have lost.
        """
        try:
            store.check_place(self._path(0).parent, self.folder)
            if not store.make_room(self.folder, self.max_mb, state.n_bytes):
                return
            store.write(self._path(state.n_epochs), state.tensors, state.about)
        except OSError as error:
            warnings.warn(f"memory does not keep the state of training: {error}", stacklevel=2)
            return
        for path, name, n in self._files():
            if n < (state.n_epochs if name == self.training else came_from):
                with contextlib.suppress(OSError):  # another time
                    path.unlink(missing_ok=True)

    def _path(self, n_epochs: int) -> Path:
        return self.folder / "states" / self.data / f"{self.training}-{n_epochs}.safetensors"

    def _files(self) -> Iterable[tuple[Path, str, int]]:
        """States of the same rows: path, fingerprint and number of epochs."""
        folder = self._path(0).parent
        try:
            store.check_place(folder, self.folder)
        except OSError:  # `keep` says so
            return
        for path in folder.glob("*.safetensors"):
            found = _STATE.fullmatch(path.name)
            if found:
                yield path, found[1], int(found[2])


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
        if self.state is not None:
            try:
                self.state.load_into(net, [net.rng])
            except ValueError as error:
                raise ValueError(
                    f"memory: {self.states.folder} holds a state that is not of this training: "
                    f"{error}. Clear it: Cache({str(self.states.folder.parent)!r}).clear()."
                ) from error
            self.begin_epoch(self.came_from - 1)  # what had thawed has thawed
            del self.state  # the net has it

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if len(net.history) == self.n_epochs:
            n_steps = sum(row["train_batch_count"] for row in net.history)
            place = Place(n_steps, None, False, [net.rng.bit_generator.state], [])
            self.states.keep(State.of(net, place), self.came_from)
