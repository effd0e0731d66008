"""The skorch net: batches of rows, gradient accumulation under a token budget, schedule."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import skorch
import torch
from skorch.utils import TeeGenerator
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from sktransformers.inputs.batching import (
    Budget,
    Encoded,
    Ragged,
    bucketed_batches,
    feed,
    flat,
    on_device,
    rectangles,
    take,
    token_budget,
)
from sktransformers.modules.memory import free, make_room
from sktransformers.training import runtime
from sktransformers.training.divergence import Diverged, Guard
from sktransformers.training.dropout import cheap_dropout
from sktransformers.training.frozen import Frozen
from sktransformers.training.optimizers import add_penalty

# Sequences of unlike lengths go through one after the other where that saves so many slots of
# padding. On two cores a bi-encoder's step is 1 % faster so, and 3 % slower from 64 slots on; a
# GPU waits for its kernels to be called.
_MIN_SAVING = {"cpu": 256}
_MIN_SAVING_ELSEWHERE = 2048


class StopTraining(Exception):
    """Raised by a callback at the end of an epoch: train no further, all is well."""


@contextmanager
def _divided(optimizer: Any, factor: Tensor) -> Iterator[None]:
    """Let a fused step divide the gradients while it reads them, as it does for a loss scale."""
    optimizer.grad_scale = factor
    try:
        yield
    finally:
        del optimizer.grad_scale


def _ends_training(callback: Any, error: KeyboardInterrupt) -> bool:
    """Whether a callback ended training well at the end of an epoch, as skorch's own do.

    A Ctrl-C that comes while it runs is most likely seen in something that it called.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    is_ours = type(callback).__module__.startswith("sktransformers.")
    return not is_ours and trace is not None and trace.tb_frame.f_code.co_name == "on_epoch_end"


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


class EncodedDataset(Dataset):
    """Encoded rows, their targets and weights.

    Parameters
    ----------
    encoded : Encoded
        The rows.
    targets, weights : ndarray or Ragged
        One target and weight a row, or as many as the row has words.
    redraw : callable, default=None
        ``redraw()`` gives the rows, targets and weights of an epoch, if they are other ones in
        each.
    rng : numpy.random.Generator, default=None
        What ``redraw`` draws from.
    """

    def __init__(
        self,
        encoded: Encoded,
        targets: Any,
        weights: Any,
        redraw: Callable[[], tuple[Encoded, Any, Any]] | None = None,
        rng: np.random.Generator | None = None,
    ):
        self.encoded = encoded
        self.targets = targets
        self.weights = weights
        self.redraw = redraw
        self.rng = rng

    def begin_epoch(self) -> None:
        """Take new rows."""
        if self.redraw is not None:
            self.encoded, self.targets, self.weights = self.redraw()

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.take(np.array([i]))

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """One batch, not yet padded."""
        return {
            "encoded": self.encoded.take(rows),
            "targets": take(self.targets, rows),
            "weights": take(self.weights, rows),
            "rows": rows,
        }


class TrainingBatches:
    """Shuffled batches of similar length, drawn anew in every epoch."""

    def __init__(self, dataset: EncodedDataset, batch_size: int, rng: np.random.Generator):
        self.dataset = dataset
        self.batch_size = batch_size
        self.rng = rng
        self.n_made = 0  # of the next epoch: these come no more

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.dataset.begin_epoch()
        slots = self.dataset.encoded.slots
        batches = bucketed_batches(slots, self.batch_size, self.rng)[self.n_made :]
        self.n_made = 0
        for rows in batches:
            yield self.dataset.take(rows)


class ValidationBatches:
    """Batches sorted by length, always the same."""

    def __init__(self, dataset: EncodedDataset, batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.argsort(self.dataset.encoded.slots, kind="stable")
        for begin in range(0, len(order), self.batch_size):
            yield self.dataset.take(order[begin : begin + self.batch_size])


class FineTuningNet(skorch.NeuralNet):
    """What skorch needs to know of fine-tuning.

    Parameters
    ----------
    module : nn.Module
        The model; it is trained in place.
    criterion : nn.Module
        ``criterion(outputs, targets, weights)`` is the weighted sum of the losses. One that has
        ``begin_batch`` is told before each optimizer batch.
    optimizer : callable
        ``optimizer(module)`` returns a torch optimizer.
    schedule : callable
        ``schedule(step)`` is the factor on all learning rates.
    metrics : dict of str to callable
        ``metric(outputs, targets)`` is a sum over targets, or a tensor of the sum and of how
        many they are; the mean goes into the history.
    pad_id : int
        Id of the padding token.
    max_batch_tokens : int
        Slots, padding included, that go through the module at once. A batch that needs
        more goes through in groups of rows whose gradients add up; a row that needs more, in
        pieces that are computed once more for their gradients. What runs out of memory goes
        through in halves; ``budget`` has what is left for sequences of which length.
    max_grad_norm : float or None
        Gradients are scaled down to this norm.
    autocast_dtype : torch.dtype or None
        Lower precision of the forward pass; float16 also scales the loss.
    is_compiled : bool
        Whether blocks of the module are compiled. Dropout is then torch's own, which is too.
    rng : numpy.random.Generator
        Source of the order of rows.
    set_modes : callable
        Called in training mode: puts what is frozen in evaluation mode.
    frozen : Frozen, default=None
        What frozen parts of the module give for sequences.
    tallies : dict of str to callable, default=None
        As metrics, for callbacks that call ``validation_step``; not for the history.
    places : ndarray of int, default=None
        Positions in X of the rows of the data set, for error messages: -1 where one comes from
        elsewhere; None if a row is not one of X.
    default_callbacks : list of (str, Callback)
        Callbacks that run before the user's.
    **kwargs
        As in skorch.
    """

    def __init__(
        self,
        module: Any,
        criterion: Any,
        *,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]],
        pad_id: int,
        max_batch_tokens: int,
        max_grad_norm: float | None,
        autocast_dtype: torch.dtype | None,
        is_compiled: bool,
        rng: np.random.Generator,
        set_modes: Callable[[], None],
        default_callbacks: list[tuple[str, Any]],
        frozen: Frozen | None = None,
        tallies: dict[str, Callable[[Any, Tensor], Tensor]] | None = None,
        places: np.ndarray | None = None,
        **kwargs: Any,
    ):
        self.schedule = schedule
        self.metrics = metrics
        self.tallies = tallies or {}
        self.places = places
        self.pad_id = pad_id
        self.max_batch_tokens = max_batch_tokens
        self.budget = Budget(max_batch_tokens)
        self.max_grad_norm = max_grad_norm
        self.autocast_dtype = autocast_dtype
        self.is_compiled = is_compiled
        self.rng = rng
        self.set_modes = set_modes
        self.frozen = frozen
        self.is_stopping = False  # a callback has ended training
        self._modes: list[tuple[torch.nn.Module, bool]] = []
        self.default_callbacks = default_callbacks
        super().__init__(
            module,
            criterion,
            optimizer=optimizer,
            iterator_train=TrainingBatches,
            iterator_valid=ValidationBatches,
            **kwargs,
        )

    def get_default_callbacks(self) -> list[tuple[str, Any]]:
        """Ours instead of skorch's, which print and average without weights."""
        return self.default_callbacks

    def get_iterator(self, dataset: EncodedDataset, training: bool = False) -> Any:
        """Batches of a data set."""
        if not training:
            return self.iterator_valid(dataset, self.batch_size)
        self.batches_ = self.iterator_train(dataset, self.batch_size, self.rng)
        return self.batches_

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> "FineTuningNet":
        """Build optimizer, schedule and loss scaler for the module."""
        self.optimizer_ = self.optimizer(self.module_)
        self.scheduler_ = torch.optim.lr_scheduler.LambdaLR(self.optimizer_, self.schedule)
        self.scaler_ = torch.amp.GradScaler(
            self._device().type, enabled=self.autocast_dtype == torch.float16
        )
        return self

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> Any:
        """Train. What stopped it before its time is in ``stopped_by``, for the caller to raise.

        Raises
        ------
        KeyboardInterrupt, FloatingPointError
            If that was before the first step, so that nothing was trained.
        """
        if not self.initialized_:
            self.initialize()
        self.is_stopping, n_before = False, len(self.history)
        self.stopped_by: BaseException | None = None
        self.guard_ = Guard()
        self.notify("on_train_begin", X=X, y=y)
        # What a callback has brought back is not made once more.
        n_made = self.max_epochs if self.is_stopping else len(self.history) - n_before
        try:
            self.fit_loop(X, y, epochs=self.max_epochs - n_made, **fit_params)
        except StopTraining:
            pass
        except KeyboardInterrupt as error:
            self.stopped_by = error
        except Diverged as error:
            self.stopped_by = error
            self.scheduler_.last_epoch = error.n_made  # it may have been counted already
        try:
            self.notify("on_train_end", X=X, y=y)
        except Exception as error:  # of a callback that counts on whole epochs: a search stops
            if self.stopped_by is None:
                raise
            raise self.stopped_by from error
        self.batches_ = self.train_split = None  # they hold the rows
        if self.stopped_by is not None and self.n_made == 0:
            raise self.stopped_by
        return self

    @property
    def n_made(self) -> int:
        """Optimizer steps that were made, those of a state that training goes on from too."""
        return self.scheduler_.last_epoch

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Callable[..., Any], **kwargs: Any
    ) -> None:
        """As skorch's, but a GPU is not waited for after every batch."""
        if iterator is None:
            return
        try:
            for batch in iterator:
                self.notify("on_batch_begin", batch=batch, training=training)
                step = step_fn(batch, **kwargs)
                self.record_batch(f"{prefix}_loss", step["loss"])
                self.record_batch(f"{prefix}_batch_size", len(batch["encoded"]))
                self.notify("on_batch_end", batch=batch, training=training, **step)
            self.guard_.check()
        finally:
            for row in self.history[-1]["batches"]:
                row.update({k: x.item() for k, x in row.items() if _is_number(x)})
        # Those too that were made before training was killed.
        n_batches = sum(f"{prefix}_loss" in row for row in self.history[-1]["batches"])
        self.history.record(f"{prefix}_batch_count", n_batches)

    def record_batch(self, name: str, value: Any) -> None:
        """Write into a batch's row; a tensor on a GPU becomes a number when the epoch ends."""
        is_here = _is_number(value) and value.device.type == "cpu"
        self.history.record_batch(name, value.item() if is_here else value)

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call the callbacks: all of them, also after one that ends training."""
        getattr(self, method_name)(self, **cb_kwargs)
        stop = False
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            except StopTraining:
                stop = self.is_stopping = True
            except KeyboardInterrupt as error:
                if method_name != "on_epoch_end" or not _ends_training(callback, error):
                    raise
                stop = self.is_stopping = True
        if stop:
            raise StopTraining

    def train_step(self, batch: dict[str, Any], **fit_params: Any) -> dict[str, Any]:
        """One optimizer step on one batch."""
        self._begin_training_mode()
        self.optimizer_.zero_grad(set_to_none=True)
        step = self._run(batch, backward=True)
        self.scaler_.unscale_(self.optimizer_)
        add_penalty(self.optimizer_)
        self.notify(
            "on_grad_computed",
            named_parameters=TeeGenerator(self.get_all_learnable_params()),
            batch=batch,
            training=True,
        )
        step["grad_norm"], shrinking = self._clip()
        group = self.optimizer_.param_groups[0]  # all have the same factor
        step["lr"] = self.optimizer_.defaults["lr"] * group["lr"] / group["initial_lr"]
        scale = self.scaler_.get_scale()
        with shrinking, self.guard_.step(self, step, batch["rows"]):
            self.scaler_.step(self.optimizer_)
        self.scaler_.update()
        step["is_made"] = self.scaler_.get_scale() >= scale  # else float16 overflowed
        if step["is_made"]:
            self.scheduler_.step()
        return step

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Look anew at what is trained."""
        super().on_epoch_begin(net, **kwargs)
        self._modes = []

    def _begin_training_mode(self) -> None:
        """Training mode for what is trained; setting it takes longer than the step of a head."""
        if self._modes and all(module.training is mode for module, mode in self._modes):
            return
        self._set_training(True)
        self.set_modes()
        both = (*self.module_.modules(), *self.criterion_.modules())
        self._modes = [(module, module.training) for module in both]

    def _clip(self) -> tuple[Tensor, AbstractContextManager]:
        """The norm of the gradients, and a context of the step in which they keep to the limit."""
        groups = self.optimizer_.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return torch.zeros(()), nullcontext()
        norms = torch._foreach_norm(gradients)
        if len({x.device for x in norms}) > 1:
            norms = tuple(x.to(norms[-1].device) for x in norms)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.max_grad_norm is None:
            return norm, nullcontext()
        excess = ((norm + 1e-6) / self.max_grad_norm).clamp(min=1.0)  # as in clip_grad_norm_
        if norm.device.type == "cpu":
            fused = getattr(self.optimizer_, "_step_supports_amp_scaling", False)
            if fused and norm.dtype == torch.float32 and not self.scaler_.is_enabled():
                return norm, _divided(self.optimizer_, excess)
            if excess <= 1:  # a GPU would have to be waited for
                return norm, nullcontext()
        torch._foreach_mul_(gradients, excess.reciprocal())
        return norm, nullcontext()

    def validation_step(self, batch: dict[str, Any], **fit_params: Any) -> dict[str, Any]:
        """Loss and metrics of one batch."""
        self._set_training(False)
        with torch.no_grad():
            return self._run(batch, backward=False)

    def infer(self, x: Encoded, **fit_params: Any) -> Any:
        """What the module decides for encoded rows."""
        model, device = self.module_, self._device()
        starts = x.outputs(model.unit)
        sizes = np.diff(starts[x.windows])
        return model.decide(
            self._vectors(x, starts),
            on_device(sizes, device),
            on_device(x.rows, device),
        )

    def _vectors(self, x: Encoded, starts: np.ndarray) -> Tensor:
        model, device = self.module_, self._device()
        kept = None if self.frozen is None else self.frozen.vectors(x, device)
        if kept is not None:
            return model.encode(kept=kept)
        each = np.arange(len(x.sequences))
        lengths = x.sequences.lengths
        run = self._encode
        longest = int(lengths.max(initial=1))
        if len(each) * longest <= self.budget.of(longest) or len(each) == 1:
            pieces = rectangles(lengths, each, _MIN_SAVING.get(device.type, _MIN_SAVING_ELSEWHERE))
        else:
            # One row that is longer than the budget: what is between tokens and vectors is
            # forgotten, and computed once more, piece by piece, when gradients come back.
            pieces = token_budget(lengths, each, self.budget)
            run = self._encode_twice
        give = feed if self.frozen is None else self.frozen.feed
        fed = (give(model.encode, x, piece, self.pad_id, device) for piece in pieces)
        vectors = torch.cat([run(encode, inputs) for encode, inputs in fed])
        order = Ragged(each, starts).positions(np.concatenate(pieces))
        return vectors[on_device(np.argsort(order), device)]

    def _encode(self, encode: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
        return encode(**inputs)

    def _encode_twice(self, encode: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
        first, again = runtime.same_draws(self._device())

        def stage(_: Tensor, *tensors: Tensor) -> Tensor:
            with again if torch.is_grad_enabled() else first:
                return encode(**dict(zip(inputs, tensors)))

        # Reentrant: gradients of a piece are added to those of the parameters before the next
        # piece is computed, so that memory does not grow with the number of pieces. This form
        # wants an input that needs a gradient. By position: checkpoint takes the device, whose
        # random state it brings back, from tensors that come so and from no others.
        needs_gradient = torch.zeros((), requires_grad=True)
        return checkpoint(stage, needs_gradient, *inputs.values(), use_reentrant=True)

    def _run(self, batch: dict[str, Any], backward: bool) -> dict[str, Any]:
        """Loss of a batch: the mean over its weights; gradients are left in the parameters.

        What runs out of memory is made once more from the start, in smaller groups of rows.
        """
        device = self._device()
        restore = runtime.remembered_draws(device)
        whole = backward and getattr(self.module_, "needs_whole_batches", False)
        averages = [(x, x.clone()) for x in self.module_.buffers()] if whole else []
        while True:
            step = self._attempt(batch, backward, whole)
            if averages and (step is None or not step["loss"].isfinite()):
                for buffer, before in averages:
                    buffer.copy_(before)
            if step is not None:
                return step
            if backward:
                self.optimizer_.zero_grad(set_to_none=True)
            restore()
            free(device)

    def _attempt(self, batch: dict[str, Any], backward: bool, whole: bool) -> dict[str, Any] | None:
        """As `_run`; None if a group ran out of memory, for which there is less room then."""
        encoded, targets, weights = batch["encoded"], batch["targets"], batch["weights"]
        device = self._device()
        # A batch in which nothing weighs has a loss of zero, not of 0 / 0.
        total_weight = max(float(flat(weights).sum()), torch.finfo(torch.float32).tiny)
        measures = self.metrics if backward else self.metrics | self.tallies
        sums: dict[str, Any] = dict.fromkeys(measures, 0)
        precision = torch.promote_types(next(self.module_.parameters()).dtype, torch.float32)
        loss = torch.zeros((), device=device, dtype=precision)
        is_cheap = self.module_.training and not self.is_compiled
        dropout = cheap_dropout(device) if is_cheap else nullcontext()
        autocast = torch.autocast(
            device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        )
        if backward and hasattr(self.criterion_, "begin_batch"):  # draws once for all groups
            self.criterion_.begin_batch()
        # For whole batches only the backbone works in pieces.
        groups = [np.arange(len(encoded))] if whole else encoded.groups(self.budget)
        for rows in groups:
            group = encoded.take(rows)
            try:
                group_targets = on_device(flat(take(targets, rows)), device)
                with dropout, autocast:
                    outputs = self.infer(group)
                group_weights = on_device(flat(take(weights, rows)), device, precision)
                group_loss = self.criterion_(outputs, group_targets, group_weights) / total_weight
                if backward:
                    with dropout:  # pieces are computed again
                        self.scaler_.scale(group_loss).backward()
                loss += group_loss.detach()
                with torch.no_grad():
                    for name, metric in measures.items():
                        sums[name] = sums[name] + metric(outputs, group_targets)
            except Exception as error:
                make_room(error, self.budget, group.lengths)
                return None
        return {
            "loss": loss,
            "weight": total_weight,
            "sums": sums,
            "n_targets": len(flat(targets)),
            "n_tokens": int(encoded.sequences.lengths.sum()),
        }

    def _device(self) -> torch.device:
        return self.module_.device
