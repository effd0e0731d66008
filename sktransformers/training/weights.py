"""What was read last from the files of a pretrained model, for the next fit of this process."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sktransformers.concurrency import Alone


class Last:
    """The value that was made last, for whoever asks for that very one again.

    It is shared: those who get it copy it before they change it.
    """

    def __init__(self) -> None:
        self._lock = Alone()
        self._key: Any = None
        self._value: Any = None

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make()`` gave for this key, or gives now; a key of None is never kept."""
        if key is None:
            return make()
        with self._lock:
            if key != self._key:
                self._key = self._value = None  # it need not wait in memory for the new one
                self._value = make()
                self._key = key
            return self._value


def files_state(directory: Path) -> tuple[Any, ...]:
    """What changes when a file of a model does: names, inodes, sizes and times.

    Folders inside of it count, such as that of a pooling, but not what is in theirs.
    """
    files = [path for pattern in ("*", "*/*") for path in directory.glob(pattern) if path.is_file()]
    states = [(str(path), path.stat()) for path in sorted(files)]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in states)


class Weights(NamedTuple):
    """The weights that the files of a model hold.

    Parameters
    ----------
    kind : type
        Class of the model.
    config : PreTrainedConfig
        With which it was read.
    tensors : dict of str to Tensor
        All that is in the files. The library maps safetensors into memory: until they are copied,
        these are pages that the processes of a machine share.
    info : dict
        What transformers said when it read the files.
    how : dict
        Its options then.
    generation : GenerationConfig, default=None
        What a file of its own says of how it writes.
    """

    kind: Any
    config: Any
    tensors: dict[str, Tensor]
    info: dict[str, Any]
    how: dict[str, Any]
    generation: Any = None

    @classmethod
    def of(cls, read: Callable[..., Any], config: Any, how: dict[str, Any]) -> "Weights":
        """Weights of the model and the info that ``read(config, how)`` gives.

        It draws what the files do not have, which is not kept: each model draws its own.
        """
        with torch.random.fork_rng(devices=[]):
            model, info = read(copy.deepcopy(config), how)
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        tensors = {name: x for name, x in model.state_dict().items() if name not in new}
        generation = getattr(model, "generation_config", None)
        return cls(type(model), config, tensors, info, how, generation)

    def model(self) -> Any:
        """A model of the caller's own: what ``from_pretrained`` would make of the files now."""
        model = self.kind.from_pretrained(
            None,
            config=copy.deepcopy(self.config),
            state_dict={name: x.clone() for name, x in self.tensors.items()},
            **self.how,
        )
        # It was not told where they come from.
        model.name_or_path = model.config.name_or_path = self.config.name_or_path
        if self.generation is not None:
            model.generation_config = copy.deepcopy(self.generation)
        return model
