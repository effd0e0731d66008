"""The template of fit and predict that the estimators share; no task is named here."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.helper import predefined_split

from sktransformers.inference.predictor import run
from sktransformers.inputs.batching import Ragged
from sktransformers.inputs.encoding import Counts, TextEncoder, private_tokenizer
from sktransformers.inputs.targets import Targets, check_weights, validation_rows
from sktransformers.modules.backbone import hidden_size, position_limit
from sktransformers.modules.pooling import POOLINGS
from sktransformers.specs import AdamW, Linear
from sktransformers.training import loading, optimizers, runtime
from sktransformers.training.callbacks import (
    EpochHistory,
    KeepBest,
    Progress,
    SklearnBridge,
    ValidationScore,
    check_callbacks,
)
from sktransformers.training.net import EncodedDataset, FineTuningNet
from sktransformers.training.probe import probe_rows

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method):
        """Nothing to call."""
        return method


_PREDICT_CHUNK = 4096  # texts that are tokenized and sorted together
_MAX_DEFAULT_LENGTH = 512


@dataclass
class Validation:
    """Rows that are watched during training, as the user gave them and as the loss reads."""

    X: Any
    y: Any
    texts: Sequence[Any]
    targets: Targets


class TransformerEstimator(CallbackSupportMixin, BaseEstimator):
    """Fit and predict for any task with one output vector a row.

    A task declares ``_criterion`` (loss module), ``_metrics`` (sums for the history) and
    the hooks at the end of this class.
    """

    _criterion: ClassVar[Any]
    _metrics: ClassVar[dict[str, Callable[..., Any]]]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "backbone": "no_validation",
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "head": [StrOptions({"linear"}), Linear],
        "head_init": [StrOptions({"probe", "random"})],
        "lr": [Interval(Real, 0, None, closed="neither"), None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions({"adamw"}), AdamW],
        "schedule": [StrOptions(set(optimizers.SCHEDULES))],
        "warmup": [
            Interval(Real, 0, 1, closed="left"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "max_batch_tokens": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "device": "no_validation",
        "precision": [StrOptions({"auto", "fp32", "bf16", "fp16"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------------------ fit

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fine-tune the backbone and the head.

        Parameters
        ----------
        X : array-like of shape (n_samples,) or (n_samples, 1)
            Texts: a list, tuple, array or Series of str, or a table with one such column.
        y : array-like of shape (n_samples,)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text in the loss and in the probe. Texts of weight zero are
            dropped before anything else.
        X_val, y_val : array-like, default=None
            Validation texts and targets. They are scored after every epoch, as with
            ``early_stopping=True``, instead of a part of X.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or a weight is not as described, or no backbone can be
            loaded. Nothing is loaded or trained before everything else was checked.
        """
        optimizer = AdamW() if self.optimizer == "adamw" else self.optimizer
        head = Linear() if self.head == "linear" else self.head
        backbone = loading.as_backbone(self.backbone)
        for spec in (optimizer, head, backbone):
            spec._validate_params()
        check_callbacks(self.callbacks or [])
        device = runtime.resolve_device(self.device)
        precision = runtime.resolve_precision(self.precision, device)
        seed = runtime.resolve_seed(self.random_state)
        rng = np.random.default_rng(seed)
        earlier = self if self.warm_start and self.__sklearn_is_fitted__() else None
        given = {"X": X, "y": y}
        if sample_weight is not None:
            given["metadata"] = {"sample_weight": sample_weight}

        texts = self._check_X(X)
        weights = check_weights(sample_weight, len(texts))
        y = self._check_y(y, len(texts))
        kept = np.flatnonzero(weights)
        texts, y, weights = _take(texts, kept), y[kept], weights[kept]
        coding = self._make_coding(y, weights, earlier)
        targets = coding.encode(y, weights, "y")
        kept = np.flatnonzero(targets.weights)  # once more: a class may weigh nothing
        if len(kept) == 0:
            raise ValueError("Every text weighs nothing: all classes of y have a weight of zero.")
        texts, y, targets = _take(texts, kept), y[kept], targets.take(kept)
        validation = self._given_validation(X_val, y_val, coding)
        if validation is None and self.early_stopping:
            held_out = validation_rows(targets.strata, self.validation_fraction, rng)
            train = np.setdiff1d(np.arange(len(texts)), held_out)
            held_texts = _take(texts, held_out)
            validation = Validation(held_texts, y[held_out], held_texts, targets.take(held_out))
            texts, targets = _take(texts, train), targets.take(train)

        with runtime.seeded(seed, device):
            if earlier is None:
                fitted = self._build(backbone, head, coding)
            else:
                fitted = {
                    "model_": copy.deepcopy(earlier.model_),
                    "tokenizer_": earlier.tokenizer_,
                    "max_length_": earlier.max_length_,
                }
            fitted |= coding.attributes
            model = fitted["model_"].to(device)
            encoder = TextEncoder(fitted["tokenizer_"], fitted["max_length_"])
            ids, counts = encoder.encode(texts)
            counts.warn(fitted["max_length_"])
            if earlier is None and self.head_init == "probe":
                self._start_from_probe(model, ids, targets, coding, encoder.pad_id, precision, rng)

            lr = self.lr or optimizers.default_lr(hidden_size(model.backbone.config))
            head_lr = optimizer.head_lr or 10 * lr
            n_batches = -(-len(ids) // self.batch_size)
            n_steps = n_batches * self.max_epochs
            net = FineTuningNet(
                model,
                self._criterion,
                optimizer=partial(
                    optimizers.build_optimizer,
                    spec=optimizer,
                    lr=lr,
                    head_lr=head_lr,
                    weight_decay=self.weight_decay,
                ),
                schedule=optimizers.schedule_factor(
                    self.schedule, n_steps, optimizers.warmup_steps(self.warmup, n_steps)
                ),
                metrics=self._metrics,
                pad_id=encoder.pad_id,
                max_batch_tokens=self.max_batch_tokens,
                max_grad_norm=optimizer.max_grad_norm,
                autocast_dtype=precision,
                rng=rng,
                default_callbacks=self._callbacks(fitted, validation, n_batches, n_steps, given),
                callbacks=copy.deepcopy(list(self.callbacks or [])),
                train_split=self._train_split(validation, encoder),
                batch_size=self.batch_size,
                max_epochs=self.max_epochs,
                device=device,
                verbose=0,
            )
            net.fit(_dataset(ids, targets))
        model.eval()
        model.zero_grad(set_to_none=True)

        # Everything fitted appears at once: a fit that failed leaves what was there.
        history = list(earlier.history_) if earlier else []
        history += [_epoch_row(row, len(history)) for row in net.history]
        self._set_features(X)
        self.__dict__.update(
            fitted, net_=net, history_=history, n_iter_=len(history), lr_=float(lr)
        )
        return self

    def _build(self, backbone: Any, head: Linear, coding: Any) -> dict[str, Any]:
        """Load the backbone, put a head on it, prepare the tokenizer."""
        loaded = loading.load(backbone, verbose=bool(self.verbose))
        max_length = self._resolve_max_length(loaded)
        pooling = loaded.pooling if self.pooling == "auto" else self.pooling
        model = self._make_model(loaded.backbone, pooling, head, coding)
        if self.verbose:
            print(
                f"New {type(head).__name__.lower()} head on {loading.label(backbone)}: "
                f"{sum(p.numel() for p in model.head.parameters())} parameters, "
                f"{pooling} pooling, started "
                f"{'from a probe' if self.head_init == 'probe' else 'at random'}."
            )
        return {
            "model_": model,
            "tokenizer_": private_tokenizer(loaded.tokenizer),
            "max_length_": max_length,
        }

    def _resolve_max_length(self, loaded: loading.Loaded) -> int:
        limit = position_limit(loaded.backbone)
        if self.max_length is not None:
            if limit is not None and self.max_length > limit:
                raise ValueError(
                    f"max_length={self.max_length} is more than the {limit} tokens that the "
                    f"backbone can read."
                )
            return int(self.max_length)
        limits = [_MAX_DEFAULT_LENGTH, loaded.tokenizer.model_max_length, limit]
        return int(min(x for x in limits if x is not None))

    def _start_from_probe(
        self,
        model: Any,
        ids: Ragged,
        targets: Targets,
        coding: Any,
        pad_id: int,
        precision: torch.dtype | None,
        rng: np.random.Generator,
    ) -> None:
        """Give the head the weights of a linear model on the frozen backbone's vectors."""
        rows = probe_rows(len(ids), rng)
        model.eval()
        vectors = run(
            model.pool,
            ids.take(rows),
            device=model.device,
            pad_id=pad_id,
            max_batch_tokens=self.max_batch_tokens,
            autocast_dtype=precision,
        )
        coef, intercept = self._fit_probe(
            vectors.astype(np.float64), targets.take(rows), coding, rng
        )
        with torch.no_grad():
            model.head.out.weight.copy_(torch.from_numpy(coef))
            model.head.out.bias.copy_(torch.from_numpy(intercept))

    def _given_validation(self, X_val: Any, y_val: Any, coding: Any) -> Validation | None:
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together: pass both or none.")
        if X_val is None:
            return None
        texts = self._check_X(X_val, name="X_val")
        labels = self._check_y(y_val, len(texts), name="y_val")
        targets = coding.encode(labels, np.ones(len(texts)), "y_val")
        if not targets.weights.any():
            raise ValueError("X_val weighs nothing: all classes of y_val have a weight of zero.")
        return Validation(X_val, labels, texts, targets)

    def _train_split(self, validation: Validation | None, encoder: TextEncoder) -> Any:
        if validation is None:
            return None
        ids, _ = encoder.encode(validation.texts)
        return predefined_split(_dataset(ids, validation.targets))

    def _callbacks(
        self,
        fitted: dict[str, Any],
        validation: Validation | None,
        n_batches: int,
        n_steps: int,
        data: dict[str, Any],
    ) -> list[tuple[str, Any]]:
        """Callbacks of skorch that run before the user's."""
        callbacks: list[tuple[str, Any]] = [("history", EpochHistory())]
        if validation is not None:
            monitor, sign = "valid_loss", -1
            if self.scoring != "loss":
                monitor, sign = "valid_score", 1
                view = copy.copy(self)  # fitted with the weights of the moment
                view.__dict__.update(fitted)
                score = partial(
                    check_scoring(view, scoring=self.scoring), view, validation.X, validation.y
                )
                callbacks.append(("score", ValidationScore(score)))
            keep = KeepBest(monitor, sign, self.n_iter_no_change, self.tol)
            callbacks.append(("best", keep))
        if hasattr(self, "_init_callback_context"):
            root = self._init_callback_context(max_subtasks=self.max_epochs)
            hooks = {"estimator": self, "reconstruction_attributes": fitted, **data}
            callbacks.append(("sklearn", SklearnBridge(root, hooks, n_batches)))
        if self.verbose:
            callbacks.append(("progress", Progress(n_steps, lines=self.verbose > 1)))
        return callbacks

    # -------------------------------------------------------------- predict

    def _logits(self, X: Any) -> np.ndarray:
        """Logits of shape (n_samples, n_outputs) in float64."""
        check_is_fitted(self)
        texts = self._check_X(X)
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True, reset=False)
        encoder = TextEncoder(self.tokenizer_, self.max_length_)
        logits = np.empty((len(texts), self.model_.config.num_labels))
        counts = []
        for begin in range(0, len(texts), _PREDICT_CHUNK):
            part = slice(begin, begin + _PREDICT_CHUNK)
            ids, counted = encoder.encode(texts[part])
            counts.append(counted)
            logits[part] = run(
                lambda **inputs: self.model_(**inputs).logits,
                ids,
                device=self.model_.device,
                pad_id=encoder.pad_id,
                max_batch_tokens=self.max_batch_tokens,
                autocast_dtype=runtime.resolve_precision(self.precision, self.model_.device),
            )
        Counts.total(counts).warn(self.max_length_)
        return logits

    # ---------------------------------------------------------------- state

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def __copy__(self):
        # Through __getstate__ a shallow copy would copy the weights.
        new = type(self).__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def __getstate__(self):
        # The net would triple the size, and its closures cannot be pickled.
        state = {k: v for k, v in super().__getstate__().items() if k != "net_"}
        if "model_" in state and state["model_"].device.type != "cpu":
            state["model_"] = _cpu_copy(state["model_"])
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state:
            try:
                self.model_.to(runtime.resolve_device(self.device))
            except ValueError as error:
                warnings.warn(f"{error} The model stays on the CPU.", stacklevel=2)

    def _set_features(self, X: Any) -> None:
        """``n_features_in_`` and ``feature_names_in_`` where X is a table."""
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True, reset=True)

    # ---------------------------------------------------- what a task fills in

    def _check_X(self, X: Any, name: str = "X") -> Sequence[Any]:
        """Rows of X in the form that the encoder reads, or a clear error."""
        raise NotImplementedError

    def _check_y(self, y: Any, n_samples: int, name: str = "y") -> np.ndarray:
        """y as an array of n_samples rows, or a clear error."""
        raise NotImplementedError

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> Any:
        """Coding of y: ``encode`` gives `Targets`, ``attributes`` what to set after fit."""
        raise NotImplementedError

    def _make_model(self, backbone: Any, pooling: str, head: Linear, coding: Any) -> Any:
        """The model around the backbone."""
        raise NotImplementedError

    def _fit_probe(
        self, vectors: np.ndarray, targets: Targets, coding: Any, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of a linear model from vectors to outputs."""
        raise NotImplementedError


def _take(rows: Sequence[Any], positions: np.ndarray) -> Sequence[Any]:
    return rows if len(positions) == len(rows) else [rows[i] for i in positions]


def _dataset(ids: Ragged, targets: Targets) -> EncodedDataset:
    # Only their proportions count: around one they are safe in the precision of any loss.
    weights = torch.from_numpy(targets.weights / targets.weights.mean())
    return EncodedDataset(ids, torch.from_numpy(targets.values), weights)


def _epoch_row(row: dict[str, Any], earlier_epochs: int) -> dict[str, Any]:
    shown = {
        name: value
        for name, value in row.items()
        if name != "batches" and not name.endswith("_batch_count")
    }
    return shown | {"epoch": earlier_epochs + row["epoch"]}


def _cpu_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU that never holds a second one on the device."""
    tensors = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {}
    for tensor in tensors:
        there = tensor.detach().cpu()
        if isinstance(tensor, torch.nn.Parameter):
            there = torch.nn.Parameter(there, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = there
    return copy.deepcopy(model, memo)
