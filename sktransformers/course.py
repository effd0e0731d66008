"""What the template of fit hands from one of its steps to the next."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import _safe_indexing

from sktransformers.inputs.batching import Encoded
from sktransformers.inputs.targets import Targets
from sktransformers.specs import Backbone, Cache, Checkpoint
from sktransformers.training.continuing import Continue
from sktransformers.training.frozen import Frozen
from sktransformers.training.moments import Moments


@dataclass
class Options:
    """What the parameters of an estimator stand for, checked."""

    backbone: Backbone
    finetune: Any
    head: Any
    loss: Any
    optimizer: Any
    schedule: Any
    cache: Cache
    checkpoint: Checkpoint | None
    device: torch.device
    precision: torch.dtype | None
    seed: int


@dataclass
class Data:
    """Rows as the encoder reads them, y, its weights, what the loss reads, places in X."""

    rows: Sequence[Any]
    y: Any
    weights: np.ndarray
    targets: Targets
    X: Any
    places: np.ndarray

    def take(self, positions: np.ndarray) -> "Data":
        """Some of the rows."""
        if len(positions) == len(self.rows):
            return self
        rows = [self.rows[i] for i in positions]
        weights, places = self.weights[positions], self.places[positions]
        targets = self.targets.take(positions)
        return Data(rows, self.y[positions], weights, targets, self.X, places)

    @property
    def given(self) -> Any:
        """The rows as the user gave them."""
        return _safe_indexing(self.X, self.places)


class Redraw(NamedTuple):
    """What draws and encodes the rows of an epoch, and what it draws from."""

    draw: Callable[[], tuple[Encoded, Targets]]
    rng: np.random.Generator


@dataclass
class Course:
    """How long and at which rates training goes, and what it goes on from.

    Parameters
    ----------
    n_epochs : int
    schedule : Spec
        What the rates do behind the warm-up.
    warmup : int or float
        Warm-up steps, as in the parameter.
    lr_factor : float, default=1.0
        Factor on all rates.
    first_epoch : int, default=0
        Epochs that count as made, for what is trained later than the rest.
    moments : Moments or None, default=None
        State of the optimizer.
    is_whole : bool, default=True
        Whether this is all of ``fit``, and not a part of a longer training.
    stays_near : str, default="backbone"
        The part of the model that has somewhere to stay near; empty for all of it.
    going_on : Continue or None, default=None
        What takes over where a shorter training ended, and keeps where this one ends.
    held : ExitStack
        What training holds until it ends.
    frozen : Frozen
        What frozen parts of the model give for the rows.
    """

    n_epochs: int
    schedule: Any
    warmup: float
    lr_factor: float = 1.0
    first_epoch: int = 0
    moments: Moments | None = None
    is_whole: bool = True
    stays_near: str = "backbone"
    going_on: Continue | None = None
    held: ExitStack = field(default_factory=ExitStack)
    frozen: Frozen = field(kw_only=True)
