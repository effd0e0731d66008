"""skorch callbacks: history, progress, best weights, and the bridge to scikit-learn's."""

import math
import time
from collections.abc import Callable, Iterable
from itertools import chain
from types import NoneType
from typing import Any

import torch
from skorch.callbacks import Callback
from tqdm.auto import tqdm

from sktransformers.training.net import StopTraining

# Names of callbacks that an estimator adds: the user's go by others.
OURS = frozenset(
    "anchor average best collapse going_on history keep_states moments plateau progress score "
    "sklearn strategy".split()
)


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse what skorch could not call.

    Raises
    ------
    TypeError
        If an entry is neither a callback of skorch nor a tuple of a name and one.
    ValueError
        If two have the same name, or one has that of a callback of ours.
    """
    taken = set(OURS)
    for i, entry in enumerate(callbacks):
        is_named = isinstance(entry, (tuple, list)) and len(entry) == 2
        name, callback = entry if is_named else (None, entry)
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback) or not isinstance(name, (str, NoneType)):
            raise TypeError(
                f"callbacks[{i}] is {entry!r}; expected a callback of skorch, or a tuple of a "
                f"name and one. Callbacks of scikit-learn go to set_callbacks."
            )
        if name in taken:
            whose = "a callback of this package" if name in OURS else "another one"
            raise ValueError(f"callbacks[{i}] has the name {name!r}, which {whose} has.")
        if name is not None:
            taken.add(name)


class EpochHistory(Callback):
    """Write one row an epoch: losses, metrics, gradient norm, rate, time and throughput."""

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.start_ = time.perf_counter()
        self.train_seconds_ = 0.0
        self.sums_: dict[str, dict[str, Any]] = {"train": {}, "valid": {}}
        self.norms_: list[Any] = []

    def on_batch_begin(self, net: Any, training: bool, **kwargs: Any) -> None:
        if not training:
            self._end_training()

    def _end_training(self) -> None:
        # Not after the last batch: a GPU may still be at work on it.
        self.train_seconds_ = self.train_seconds_ or time.perf_counter() - self.start_

    def on_batch_end(self, net: Any, batch: Any, training: bool, **step: Any) -> None:
        sums = self.sums_["train" if training else "valid"]
        values = {
            "loss": step["loss"] * step["weight"],
            "weight": step["weight"],
            "targets": step["n_targets"],
            "tokens": step["n_tokens"],
            **step["sums"],
        }
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value
        if training:
            self.norms_.append(step["grad_norm"])
            self.lr_ = step["lr"]
            net.record_batch("grad_norm", step["grad_norm"])
            net.record_batch("lr", self.lr_)
            net.record_batch("tokens", step["n_tokens"])

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self._end_training()
        record = net.history.record
        for split, sums in self.sums_.items():
            if sums:
                record(f"{split}_loss", float(sums["loss"]) / sums["weight"])
                for name in net.metrics:
                    total, *count = torch.as_tensor(sums[name]).reshape(-1).tolist()
                    count = count[0] if count else sums["targets"]
                    record(f"{split}_{name}", total / count if count else math.nan)
        # A float16 step that overflowed was not made: it does not count.
        norms = list(map(float, self.norms_))
        norms = [norm for norm in norms if math.isfinite(norm)] or norms
        record("grad_norm", sum(norms) / len(norms))
        record("lr", self.lr_)
        record("seconds", time.perf_counter() - self.start_)
        record("tokens_per_second", self.sums_["train"]["tokens"] / self.train_seconds_)

    def state_dict(self) -> dict[str, Any]:
        """What an epoch has gathered so far."""
        norms = [torch.as_tensor(norm) for norm in self.norms_]
        return {
            "seconds": time.perf_counter() - self.start_,
            "train_seconds": self.train_seconds_,
            "sums": self.sums_,
            # In one: there may be many.
            "norms": torch.stack([norm.to(norms[-1].device) for norm in norms]),
            "lr": self.lr_,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.start_ = time.perf_counter() - float(state["seconds"])
        self.train_seconds_ = float(state["train_seconds"])
        self.sums_ = {split: dict(state["sums"][split]) for split in ("train", "valid")}
        self.norms_ = list(state["norms"])
        self.lr_ = float(state["lr"])


def drop_unfinished(history: list[dict[str, Any]], monitor: str) -> None:
    """Leave whole epochs in a history whose last one may have been interrupted.

    Parameters
    ----------
    history : list of dict
    monitor : str
        Column that decides whether an epoch was good.
    """
    # The last of `EpochHistory`, and what comes after it.
    if history and not {"tokens_per_second", monitor} <= history[-1].keys():
        history.pop()


class BatchHistory(Callback):
    """Keep the history of every batch, on request.

    Pass it in ``callbacks``: each row of ``history_`` then has a key ``batch_history``, a
    list of dicts with the loss, gradient norm, learning rate and number of tokens of each step.

    Examples
    --------
    >>> from sktransformers import BatchHistory, TransformerSequenceClassifier
    >>> clf = TransformerSequenceClassifier(callbacks=[BatchHistory()])
    """

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Copy the batches of this epoch into its row."""
        names = {"train_loss": "loss", "grad_norm": "grad_norm", "lr": "lr", "tokens": "tokens"}
        net.history.record(
            "batch_history",
            [
                {new: row[old] for old, new in names.items()}
                for row in net.history[-1]["batches"]
                if "grad_norm" in row
            ],
        )


class ValidationScore(Callback):
    """Score the validation rows with a function of the estimator's."""

    def __init__(self, score: Callable[[], float]):
        self.score = score

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        net.module_.eval()
        try:
            score = float(self.score())
        except (TypeError, ValueError) as error:
            raise ValueError(f"scoring failed on the validation rows: {error}") from error
        net.history.record("valid_score", score)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        del self.score  # it holds the user's rows


class KeepBest(Callback):
    """Keep the best epoch's weights, and stop when epochs bring no more.

    Parameters
    ----------
    monitor : str
        Column of the history.
    sign : {1, -1}
        Whether more is better.
    n_iter_no_change : int
        Epochs in a row without an improvement after which training stops.
    tol : float
        An improvement is larger than this.
    """

    def __init__(self, monitor: str, sign: int, n_iter_no_change: int, tol: float):
        self.monitor = monitor
        self.sign = sign
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.best_ = self.reference_ = -float("inf")
        self.best_row_ = -1
        self.waited_ = 0
        self.weights_: dict[str, torch.Tensor] = {}

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        value = self.sign * net.history[-1, self.monitor]
        if math.isnan(value):
            value = -math.inf
        if value > self.best_ or not self.weights_:
            weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in tensors_of(net.module_)
            }
            # At once: a Ctrl-C may come while they are copied.
            self.best_, self.best_row_, self.weights_ = value, len(net.history) - 1, weights
        if value > self.reference_ + self.tol:
            self.reference_ = value
            self.waited_ = 0
        else:
            self.waited_ += 1
            if self.waited_ >= self.n_iter_no_change:
                raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        if self.weights_:  # else no epoch came to its end
            with torch.no_grad():
                for name, tensor in tensors_of(net.module_):
                    tensor.copy_(self.weights_[name])
        self.weights_ = {}

    def state_dict(self) -> dict[str, Any]:
        """What was best so far, but for its weights."""
        names = ("best_", "reference_", "best_row_", "waited_")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.best_, self.reference_ = float(state["best_"]), float(state["reference_"])
        self.best_row_, self.waited_ = int(state["best_row_"]), int(state["waited_"])


def tensors_of(module: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """Parameters and buffers; of a compacted vocabulary only the rows that are trained.

    Without what lies elsewhere (`sktransformers.modules.dispatch`), which no training changes.
    """
    # The state dict would give all rows.
    named = chain(module.named_parameters(), module.named_buffers())
    return ((name, tensor) for name, tensor in named if not tensor.is_meta)


class Progress(Callback):
    """A bar over all steps; one line an epoch when asked for.

    Parameters
    ----------
    n_steps : int
        Steps of the whole training.
    lines : bool
        Whether each epoch writes a line.
    """

    def __init__(self, n_steps: int, lines: bool):
        self.n_steps = n_steps
        self.lines = lines

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.bar_ = tqdm(total=self.n_steps, desc="fine-tuning", unit="step")

    def on_batch_end(self, net: Any, training: bool, **step: Any) -> None:
        if training:  # the first ones may have been made before
            n_earlier = self.n_steps // net.max_epochs * (len(net.history) - 1)
            self.bar_.update(n_earlier + len(net.history[-1]["batches"]) - self.bar_.n)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        row = net.history[-1]
        shown = {
            name: f"{row[name]:.4g}"
            for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
            if name in row
        }
        self.bar_.set_postfix(shown)
        if self.lines:
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            tqdm.write(f"epoch {len(net.history)}: {values} ({row['seconds']:.1f} s)")

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.bar_.close()


class SklearnBridge(Callback):
    """Tell scikit-learn's own callbacks (``sklearn.callback``) of every epoch and step.

    Parameters
    ----------
    root : sklearn.callback.CallbackContext
        Context of the estimator's fit.
    hooks : dict
        Keywords of every hook call: the estimator, X, y and what rebuilds a fitted
        estimator from the weights of the moment.
    n_batches : int
        Steps an epoch.
    """

    def __init__(self, root: Any, hooks: dict[str, Any], n_batches: int):
        self.root = root
        self.hooks = hooks
        self.n_batches = n_batches

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.root.call_on_fit_task_begin(**self.hooks)

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.epoch_ = self.root.subcontext("epoch", max_subtasks=self.n_batches)
        self.epoch_.call_on_fit_task_begin(**self.hooks)

    # Steps count, but offer no fitted estimator: scoring all rows at each would take ages.

    def on_batch_begin(self, net: Any, training: bool, **kwargs: Any) -> None:
        if training:
            self.step_ = self.epoch_.subcontext("step")
            self.step_.call_on_fit_task_begin(estimator=self.hooks["estimator"])

    def on_batch_end(self, net: Any, training: bool, **step: Any) -> None:
        if training:
            self.step_.call_on_fit_task_end(estimator=self.hooks["estimator"])

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        net.module_.eval()
        if self.epoch_.call_on_fit_task_end(**self.hooks):
            raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        net.module_.eval()
        if net.stopped_by is None:  # else fit ends with an error, and its task does not end
            self.root.call_on_fit_task_end(**self.hooks)
        del self.hooks  # they hold the user's rows
