"""The template of fit that the estimators share; no task is named here."""

import copy
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from skorch.helper import predefined_split

from sktransformers.augmentation import Surroundings, check_augmenters, row_drawer
from sktransformers.concurrency import DRAWING
from sktransformers.course import Course, Data, Options, Redraw
from sktransformers.fitted import FittedTransformer
from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Encoded, Ragged, flat
from sktransformers.inputs.encoding import private_tokenizer, users_level
from sktransformers.inputs.replay import Reservoir
from sktransformers.inputs.targets import Targets, validation_rows
from sktransformers.inputs.validation import check_weights
from sktransformers.inputs.windows import WindowPlan
from sktransformers.modules.backbone import hidden_size, position_limit
from sktransformers.modules.dispatch import check_in_one_place, place_behind
from sktransformers.modules.growing import grow
from sktransformers.modules.losses import count_predicted
from sktransformers.modules.model import probe_vectors
from sktransformers.modules.native import labels_of, set_labels
from sktransformers.modules.summary import summarise
from sktransformers.resuming import checkpointed, continuation, seed_of
from sktransformers.specs import (
    AVERAGES,
    HEADS,
    OPTIMIZERS,
    SCHEDULES,
    WINDOWS,
    Backbone,
    BitFit,
    Constant,
    GradualUnfreezing,
    Linear,
    LoRA,
    MLPHead,
    NativeHead,
    Replay,
    Spec,
    TorchOptimizer,
    Windows,
    as_cache,
    as_checkpoint,
    named,
)
from sktransformers.specs.spec import LARGEST
from sktransformers.training import loading, optimizers, runtime, schedules
from sktransformers.training.anchor import StayNear
from sktransformers.training.averaging import AverageWeights
from sktransformers.training.callbacks import (
    EpochHistory,
    KeepBest,
    Progress,
    SklearnBridge,
    ValidationScore,
    check_callbacks,
    drop_unfinished,
)
from sktransformers.training.collapse import Collapse
from sktransformers.training.divergence import check_finite
from sktransformers.training.finder import RangeTest, check_range
from sktransformers.training.frozen import Frozen
from sktransformers.training.layer_probe import fit_layer
from sktransformers.training.moments import GoOn, Moments
from sktransformers.training.net import EncodedDataset, FineTuningNet
from sktransformers.training.probe import probe_rows, start_layer
from sktransformers.training.speedups import (
    check_backbone,
    check_options,
    check_trainable,
    prepared_for_training,
)
from sktransformers.training.strategies import BeginEpoch, Strategy, strategy_of
from sktransformers.training.vocabulary import compacted

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method):
        """Nothing to call."""
        return method


# Of lr, in partial_fit: on trec6 a half forgets some of what fit had learnt, and a tenth learns too
# little where there was no fit.
_PART_RATE = 0.25


class TransformerEstimator(CallbackSupportMixin, FittedTransformer):
    """Fit for any task whose rows go through one backbone.

    A task fills in the hooks at the end of this class.
    """

    # The model with the head of the backbone's family, the parameters that this head decides,
    # and those that a fine-tuned checkpoint is read with.
    _native_model: ClassVar[Any]
    _native_choices: ClassVar[dict[str, tuple[Any, ...]]] = {}
    _checkpoint_parameters: ClassVar[dict[str, Any]] = {}
    _reads_words: ClassVar[bool] = False  # rows are words, and each has a target
    _net: ClassVar[type[FineTuningNet]] = FineTuningNet
    _keeps_frozen: ClassVar[bool] = True  # whether frozen parts run once for all epochs
    _max_default_length: ClassVar[int] = 512
    _is_trial = False  # whether training is meant to go wrong at its end

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "backbone": "no_validation",
        "finetune": [
            StrOptions({"full", "head"}),
            Interval(Integral, 1, None, closed="left"),
            GradualUnfreezing,
            LoRA,
            BitFit,
        ],
        "head": [StrOptions(set(HEADS)), Linear, MLPHead, NativeHead],
        "head_init": [StrOptions({"probe", "random"})],
        "lr": [Interval(Real, 0, LARGEST, closed="neither"), None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions(set(OPTIMIZERS)), *OPTIMIZERS.values(), TorchOptimizer],
        "schedule": [StrOptions(set(SCHEDULES)), *SCHEDULES.values()],
        "warmup": [
            Interval(Real, 0, 1, closed="left"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "weight_decay": [Interval(Real, 0, LARGEST, closed="left")],
        "anchor": [Interval(Real, 0, LARGEST, closed="left")],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "long_text": [StrOptions({"truncate", "window"}), Windows],
        "max_batch_tokens": [Interval(Integral, 1, None, closed="left")],
        "augment": [HasMethods("transform"), list, tuple, None],
        "early_stopping": ["boolean"],
        "validation_fraction": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "warm_start": ["boolean"],
        "replay": [Interval(Integral, 1, None, closed="left"), Replay, None],
        "memory": "no_validation",
        "checkpoint": "no_validation",
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
        X : array-like of shape (n_samples,), (n_samples, 1) or (n_samples, 2)
            What the class reads, one a row, in a list, tuple, array, Series or table: texts
            (one column), pairs of texts (two columns or tuples), or lists of words.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Targets: a label or number a row, or a list of tags; for several labels a row an
            indicator matrix of 0 and 1, sparse or not.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the loss and in the probe. Rows of weight zero are dropped
            before anything else.
        X_val, y_val : array-like, default=None
            Validation rows and targets. They are scored after every epoch, as with
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
        FloatingPointError
            If the loss or the gradients of a step are no finite numbers. The estimator is fitted
            nevertheless: with the weights of the best epoch so far if there are validation rows,
            else with those from before that step. In the very first step it stays what it was.
        KeyboardInterrupt
            After Ctrl-C, with the estimator in the same state. ``history_`` has whole epochs only.

        Warns
        -----
        ConvergenceWarning
            If a classifier has come no further than to the frequencies of the classes, and
            predicts one of them for all training rows.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, **names: Any) -> Any:
        """`partial_fit`; names are what tells outputs that y does not show."""
        self._validate_params()
        if self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it trains for one epoch."
            )
        return self._fit(X, y, sample_weight, in_part=True, **names)

    @DRAWING  # two threads may go on with this estimator: one after the other
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        X_val: Any = None,
        y_val: Any = None,
        in_part: bool = False,
        **names: Any,
    ) -> Any:
        options = self._check_options()
        going_on = in_part or self.warm_start
        earlier = self if going_on and self.__sklearn_is_fitted__() else None
        if earlier is not None:
            check_in_one_place(earlier.model_, "To go on with training")
        history = list(earlier.history_) if earlier else []
        if in_part and earlier is not None:
            self._check_features(X)
        given = {"X": X, "y": y}
        if sample_weight is not None:
            given["metadata"] = {"sample_weight": sample_weight}
        train, coding = self._check_data(X, y, sample_weight, earlier, names)
        validation = self._given_validation(X_val, y_val, coding)
        if not in_part:
            options.seed = seed_of(self, options, train, validation)
        rng = np.random.default_rng(options.seed)
        if validation is None and self.early_stopping:
            held_out = validation_rows(train.targets.strata, self.validation_fraction, rng)
            validation = train.take(held_out)
            train = train.take(np.setdiff1d(np.arange(len(train.rows)), held_out))
        self._check_plan(coding, validation, earlier)
        counted = self._counted(train, coding, earlier)
        if earlier is not None:  # other draws than before, but the same rows held out
            again = np.random.SeedSequence([options.seed, len(history)])
            options.seed = int(again.generate_state(1)[0])
            rng = np.random.default_rng(options.seed)
        train, reservoir = self._with_replay(train, coding, earlier, rng)
        course = self._course(options, earlier, in_part)

        with runtime.seeded(options.seed, options.device), course.frozen, course.held:
            if earlier is None:
                fitted = self._build(options, coding)
            else:
                fitted = {
                    "model_": copy.deepcopy(earlier.model_),
                    "tokenizer_": earlier.tokenizer_,
                    "max_length_": earlier.max_length_,
                }
                self._grow(fitted["model_"], earlier, coding, course)
            fitted |= coding.attributes
            strategy = strategy_of(options.finetune)
            strategy.prepare(fitted["model_"])
            probe = earlier is None and self.head_init == "probe"
            net, moments = self._train(
                options, course, fitted, strategy, train, validation, coding, probe, rng, given
            )
        model = fitted["model_"]
        fitted |= counts_of(model, strategy.finish())
        model.eval()
        model.zero_grad(set_to_none=True)
        drop_unfinished(net.history, dict(net.callbacks_)["plateau"].monitor)
        fitted |= counted | {"_held_out": _chosen_epoch(net, validation, len(history))}
        # It would hold the rows; what training was stopped by is raised at the end of all.
        stopped_by, net.stopped_by = net.stopped_by, None
        new = copy.copy(self)
        try:
            fitted |= new._after_training(fitted, train, validation, coding)
        except KeyboardInterrupt as error:  # what it adds is nothing that predictions need
            stopped_by = error
        except Exception as error:
            if stopped_by is None:
                raise
            raise stopped_by from error  # a search stops

        # Everything fitted appears at once: a fit that failed leaves what was there.
        history += [_epoch_row(row, len(history)) for row in net.history]
        new._set_features(X)
        lr = net.optimizer_.defaults["lr"]
        new.__dict__.update(fitted, net_=net, history_=history, n_iter_=len(history), lr_=lr)
        new._moments = moments
        for name in ("_reservoir", "_engine", "backend_"):
            new.__dict__.pop(name, None)
        if reservoir is not None:
            new._reservoir = reservoir
        self.__dict__ = new.__dict__
        if stopped_by is not None:
            raise stopped_by
        return self

    def _course(self, options: Options, earlier: Any, in_part: bool) -> Course:
        """How this training goes."""
        moments = getattr(earlier, "_moments", None)
        where = "backbone" if earlier is None else ""
        frozen = Frozen(options.cache, bool(self.verbose))
        if not in_part:
            return Course(
                self.max_epochs,
                options.schedule,
                self.warmup,
                moments=moments,
                stays_near=where,
                frozen=frozen,
            )
        return Course(
            1,
            Constant(),
            self.warmup if moments is None else 0,
            _PART_RATE,
            0 if earlier is None else len(earlier.history_),
            moments,
            is_whole=False,
            stays_near=where,
            frozen=frozen,
        )

    def _grow(self, model: Any, earlier: Any, coding: Any, course: Course) -> None:
        """Give a model the outputs that a coding has more than its own."""
        order = self._growth(earlier, coding)
        if order is None:
            return
        dims = grow(model, order)
        for part in (model, getattr(model, "native", model)):
            set_labels(part.config, coding.names)
        self._adapt(model, coding)
        if course.moments is not None:
            course.moments = course.moments.grown(dims, order)

    def _with_replay(
        self, new: Data, coding: Any, earlier: Any, rng: np.random.Generator
    ) -> tuple[Data, Reservoir | None]:
        """New rows with some earlier ones behind them, and what is kept of both."""
        if self.replay is None:
            return new, None
        replay = self.replay if isinstance(self.replay, Replay) else Replay(size=self.replay)
        columns = getattr(coding, "columns", None)
        arrived = Reservoir.of(new.rows, new.y, new.weights, rng, columns)
        old = getattr(earlier, "_reservoir", None)
        if old is None:
            return new, arrived.kept(new.targets.strata, replay.size)
        old = old.like(arrived)
        n_drawn = min(len(old.rows), round(replay.ratio * len(new.rows)))
        drawn = old.take(np.sort(rng.choice(len(old.rows), n_drawn, replace=False)))
        both = arrived.joined(drawn)
        targets = coding.encode(both.y, both.weights, "replay")
        places = np.append(new.places, np.full(n_drawn, -1))
        everything = old.joined(arrived)
        strata = coding.encode(everything.y, everything.weights, "replay").strata
        data = Data(both.rows, both.y, both.weights, targets, new.X, places)
        return data, everything.kept(strata, replay.size)

    def _check_options(self) -> Options:
        """Check what can be checked without the data."""
        backbone = loading.as_backbone(self.backbone)
        for name in ("finetune", "replay"):
            if isinstance(getattr(self, name), bool):  # an int to Python
                raise ValueError(f"The '{name}' parameter is no boolean.")
        head, loss = self._head(), self._loss()
        optimizer, schedule = named(self.optimizer, OPTIMIZERS), named(self.schedule, SCHEDULES)
        windows = None if self.long_text == "truncate" else named(self.long_text, WINDOWS)
        cache = as_cache(self.memory)
        cache._folder()
        checkpoint = as_checkpoint(self.checkpoint)
        specs = (backbone, self.finetune, head, loss, optimizer, schedule, windows, self.replay)
        for spec in (*specs, cache, checkpoint):
            if isinstance(spec, Spec):
                spec._validate_params()
        if checkpoint is not None:
            checkpoint._check()
        if isinstance(head, NativeHead):
            self._check_native(windows)
        self._check_direction(backbone, "")
        optimizers.resolve_optimizer(optimizer)
        check_callbacks(self.callbacks or [])
        self._augmenters()
        device = runtime.resolve_device(self.device)
        if backbone.device_map is not None and self.device != "auto":
            raise ValueError(
                f"device={self.device!r} and Backbone(device_map={backbone.device_map!r}) "
                f"contradict each other: both say where the backbone is."
            )
        check_options(backbone, device)
        precision = runtime.resolve_precision(self.precision, device, training=True)
        seed = runtime.resolve_seed(self.random_state)
        return Options(
            backbone,
            self.finetune,
            head,
            loss,
            optimizer,
            schedule,
            cache,
            checkpoint,
            device,
            precision,
            seed,
        )

    def _check_native(self, windows: Any) -> None:
        """Check that nothing is asked for that the head of a family does not do."""
        for name, choices in self._native_choices.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f'{name}={value!r} and head="native" contradict each other: the head of the '
                    f"backbone's family goes with {name}={' or '.join(map(repr, choices))} only."
                )
        if windows is not None and windows.pooling != "mean":
            raise ValueError(
                f'long_text with pooling={windows.pooling!r} and head="native" contradict each '
                f"other: the head of the backbone's family gives logits of each window, and their "
                f"mean is taken."
            )

    def _check_direction(self, backbone: Backbone, trained: str) -> None:
        """Check that a decoder that sees both ways is not read at its last token.

        trained is the pooling that ``"auto"`` stands for; empty while that is not known.
        """
        pooling = getattr(self, "pooling", None)
        if backbone.bidirectional and "last" in (pooling, pooling == "auto" and trained):
            raise ValueError(
                f"pooling={pooling!r} and Backbone(bidirectional=True) contradict each other: "
                f'pooled is the last token, which has seen all the others anyway. Take "mean", '
                f'"max" or "attention", or leave the backbone as it is.'
            )

    def _head(self) -> Any:
        """The head that the parameters ask for."""
        return named(self.head, HEADS)

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, earlier: Any, names: dict[str, Any]
    ) -> tuple[Data, Any]:
        """Training rows that weigh something, and the coding of their targets."""
        rows = self._check_X(X)
        weights = check_weights(sample_weight, len(rows))
        y = self._check_y(y, rows)
        kept = np.flatnonzero(weights)
        if len(kept) < len(rows):
            rows, y, weights = [rows[int(i)] for i in kept], y[kept], weights[kept]
        coding = self._make_coding(y, weights, earlier, **names)
        data = Data(rows, y, weights, coding.encode(y, weights, "y"), X, kept)
        kept = np.flatnonzero(data.targets.row_weights)  # once more: a class may weigh nothing
        if len(kept) == 0:
            raise ValueError(
                "Every row of X weighs nothing, by its sample_weight or class_weight: there is "
                "nothing to learn from."
            )
        return data.take(kept), coding

    def _build(self, options: Options, coding: Any) -> dict[str, Any]:
        """Load the backbone, put a head on it, prepare the tokenizer."""
        names, native = coding.names, isinstance(options.head, NativeHead)
        if native:
            loaded = self._load_native(options.backbone, names)
        else:
            loaded = loading.load(options.backbone, verbose=bool(self.verbose))
            self._check_direction(options.backbone, loaded.pooling)
        max_length = self._resolve_max_length(loaded)
        tokenizer = private_tokenizer(loaded.tokenizer)
        if native:
            model = self._make_native(loaded.native)
            model.start_last_layer()
        else:
            model = self._make_model(
                loaded.backbone,
                loaded.pooling,
                coding,
                backbone_config=loaded.backbone.config,
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
                head_softmax=getattr(coding, "softmax", None),
                **{f"head_{name}": value for name, value in options.head._layers().items()},
            )
            if options.backbone.skip_unread and not model.narrow() and self.verbose:
                print("The last block is computed for all tokens, though pooling reads one.")
        _set_problem_type(model, coding)
        if self.verbose:
            print(
                f"New {type(options.head).__name__.lower().removesuffix('head')} head on "
                f"{loading.label(options.backbone)}: "
                f"{model.num_parameters() - loaded.backbone.num_parameters()} parameters, "
                f"started {'from a probe' if self.head_init == 'probe' else 'at random'}."
            )
        return {"model_": model, "tokenizer_": tokenizer, "max_length_": max_length}

    def _load_native(self, backbone: Backbone, names: list[str] | None) -> loading.Loaded:
        auto = self._native_model.auto
        return loading.load_native(backbone, auto, names, verbose=bool(self.verbose))

    def _make_native(self, native: Any) -> Any:
        """The model around one of the transformers library."""
        names = labels_of(native.config)
        config = self._native_model.config_class(
            backbone_config=native.config,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            **self._native_config(),
        )
        return self._native_model(config, native)

    def _resolve_max_length(self, loaded: loading.Loaded) -> int:
        limit = position_limit(loaded.backbone)
        if self.max_length is not None:
            if limit is not None and self.max_length > limit:
                raise ValueError(
                    f"max_length={self.max_length} is more than the {limit} tokens that the "
                    f"backbone can read."
                )
            return int(self.max_length)
        limits = [self._max_default_length, loaded.tokenizer.model_max_length, limit]
        return int(min(x for x in limits if x is not None))

    def _train(
        self,
        options: Options,
        course: Course,
        fitted: dict[str, Any],
        strategy: Strategy,
        train: Data,
        validation: Data | None,
        coding: Any,
        probe: bool,
        rng: np.random.Generator,
        given: dict[str, Any],
    ) -> tuple[FineTuningNet, Moments]:
        """Train the model in place; return the net that did, and its optimizer's state."""
        model = fitted["model_"]
        check_backbone(model.backbone, options.backbone)
        check_trainable(model.backbone, options.backbone, options.finetune)
        if options.backbone.device_map is None:
            model.to(options.device)
        else:
            place_behind(model)
            options.device = model.device
            options.precision = runtime.resolve_precision(
                self.precision, options.device, training=True
            )
        encoder = self._make_encoder(model, fitted["tokenizer_"], fitted["max_length_"])
        encoded, counts = encoder.encode(train.rows)
        counts.warn(fitted["max_length_"])
        encoded, targets = self._with_answers(encoded, train.targets, fitted)
        train = replace(train, targets=targets)
        redraw = self._redraw(options, fitted, encoder, train, rng)
        n_batches = -(-len(encoded) // self.batch_size)
        n_steps = n_batches * course.n_epochs
        rows = _dataset(encoded, train.targets, redraw)
        known, held_out = [encoded], None
        if validation is not None:
            held_out = _dataset(
                *self._with_answers(
                    encoder.encode(validation.rows).encoded, validation.targets, fitted
                )
            )
            known.append(held_out.encoded)
        about = (self, options, course, model, strategy.begin_epoch, rows, held_out)
        keep_states = checkpointed(*about)
        is_known = keep_states is not None and keep_states.state is not None
        course.going_on = None if is_known else continuation(*about, train.y, n_steps)
        going_on = keep_states if is_known else course.going_on
        last = [] if keep_states is None else [("keep_states", keep_states)]
        n_made = 0 if going_on is None else going_on.came_from
        epochs = range(course.first_epoch + n_made, course.first_epoch + course.n_epochs)
        # In front of the head as in prediction, which then finds the same in a folder.
        # Never more is frozen than before: the last epoch tells.
        in_training = not math.isinf(strategy.n_frozen(course.first_epoch + course.n_epochs - 1))
        predictor = self._predictor(model, encoder.pad_id, in_training)
        if redraw is None and self._keeps_frozen:
            course.frozen.prepare(model, strategy.n_frozen, epochs, known, predictor)
        elif self.verbose and redraw is not None and strategy.n_frozen(course.first_epoch):
            print(
                "The frozen part of the backbone is computed in every epoch: rows are drawn anew."
            )
        predictor = predictor._replace(feed=course.frozen.feed)
        if probe and not is_known and not n_made:
            self._start_from_probe(model, encoded, train.targets, coding, predictor, rng)
        lr = self.lr or strategy.lr_factor * optimizers.default_lr(
            hidden_size(model.backbone.config)
        )
        head_lr = options.optimizer.head_lr or 10 * lr / strategy.lr_factor
        criterion, metrics = self._objective(model, options.loss, coding)
        collapse, tallies = self._collapse(criterion, train.targets, coding)
        criterion.to(options.device)
        net = self._net(
            model,
            criterion,
            optimizer=partial(
                optimizers.build_optimizer,
                spec=options.optimizer,
                lr=course.lr_factor * lr,
                head_lr=course.lr_factor * head_lr,
                weight_decay=self.weight_decay,
            ),
            schedule=schedules.schedule_factor(
                course.schedule,
                n_steps,
                schedules.warmup_steps(course.warmup, n_steps),
                n_batches,
            ),
            metrics=metrics,
            pad_id=encoder.pad_id,
            max_batch_tokens=self.max_batch_tokens,
            max_grad_norm=options.optimizer.max_grad_norm,
            autocast_dtype=options.precision,
            is_compiled=options.backbone.compile,
            rng=rng,
            set_modes=strategy.set_modes,
            frozen=course.frozen,
            tallies=tallies,
            places=self._places(train),
            default_callbacks=[
                ("strategy", BeginEpoch(strategy, course.first_epoch)),
                *self._callbacks(options, course, fitted, validation, n_batches, n_steps, given),
                *collapse,
            ],
            callbacks=[*copy.deepcopy(list(self.callbacks or [])), *last],
            train_split=None if held_out is None else predefined_split(held_out),
            batch_size=self.batch_size,
            max_epochs=course.n_epochs,
            device=None,  # it is there
            verbose=0,
        )
        ids = [encoded.sequences.flat, fitted["tokenizer_"].all_special_ids]
        if course.moments is not None:
            ids.append(course.moments.touched(model))
        small = options.backbone.compact_vocabulary and not self._needs_all_rows(model)
        with compacted(net, np.concatenate(ids), bool(self.verbose)) if small else nullcontext():
            with prepared_for_training(model.backbone, options.backbone):
                net.fit(rows)
                if net.stopped_by is None and not self._is_trial:
                    check_finite(net)
            return net, Moments.of(net).small()

    def _needs_all_rows(self, model: Any) -> bool:
        """Whether tokens that do not occur in X may change; says so."""
        if self.anchor and self.verbose:
            print(f"The vocabulary is not compacted: anchor={self.anchor} moves all of it.")
        elif self.augment and self.verbose:
            print("The vocabulary is not compacted: augment may bring other tokens.")
        return bool(self.anchor or self.augment)

    def _augmenters(self) -> list[Any]:
        """What the parameter ``augment`` stands for."""
        return check_augmenters(self.augment, self._reads_words and type(self).__name__)

    def _redraw(
        self,
        options: Options,
        fitted: dict[str, Any],
        encoder: Any,
        train: Data,
        rng: np.random.Generator,
    ) -> Redraw | None:
        """What draws and encodes the rows of an epoch; None if they are always the same."""
        augmenters = self._augmenters()
        if not augmenters:
            return None
        there = Surroundings(
            options.backbone,
            options.device,
            fitted["model_"].backbone,
            fitted["tokenizer_"],
            self._reads_words and type(self).__name__,
            bool(self.verbose),
        )
        # Its own generator: the order of rows is as without augmentation.
        own = rng.spawn(1)[0]
        draw = row_drawer(augmenters, there, own)

        def redraw() -> tuple[Encoded, Targets]:
            drawn = encoder.encode(self._draw_rows(draw, train.rows)).encoded
            return self._with_answers(drawn, train.targets, fitted)

        return Redraw(redraw, own)

    def _start_from_probe(
        self,
        model: Any,
        encoded: Encoded,
        targets: Targets,
        coding: Any,
        predictor: Predictor,
        rng: np.random.Generator,
    ) -> None:
        """Give the head the weights of a linear model on the frozen backbone's vectors."""
        rows = probe_rows(targets.sizes, rng)
        model.eval()
        some = encoded.take(rows)
        vectors = probe_vectors(
            model, lambda encode, decide: predictor.rows(encode, decide, some, model.unit)
        )
        targets = targets.take(rows)
        out = model.head.out
        if not isinstance(out, torch.nn.Linear):
            fit_layer(out, vectors, flat(targets.values), flat(targets.weights), rng)
            return
        coef, intercept = self._fit_probe(
            vectors.astype(np.float64), flat(targets.values), flat(targets.weights), coding, rng
        )
        start_layer(out, vectors, coef, intercept)

    def _given_validation(self, X_val: Any, y_val: Any, coding: Any) -> Data | None:
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together: pass both or none.")
        if X_val is None:
            return None
        rows = self._check_X(X_val, name="X_val")
        y = self._check_y(y_val, rows, name="y_val")
        weights = np.ones(len(rows))
        targets = coding.encode(y, weights, "y_val")
        if not targets.row_weights.any():
            raise ValueError("X_val weighs nothing: y_val has nothing of what training weighs.")
        return Data(rows, y, weights, targets, X_val, np.arange(len(rows)))

    def _callbacks(
        self,
        options: Options,
        course: Course,
        fitted: dict[str, Any],
        validation: Data | None,
        n_batches: int,
        n_steps: int,
        data: dict[str, Any],
    ) -> list[tuple[str, Any]]:
        """Callbacks of skorch that run before the user's."""
        callbacks: list[tuple[str, Any]] = []
        if course.moments is not None:
            callbacks.append(("moments", GoOn(course.moments)))
        if self.anchor:
            callbacks.append(("anchor", StayNear(self.anchor, course.stays_near)))
        average = named(options.optimizer.averaging, AVERAGES)
        if average is not None:  # first: the others are to see it
            callbacks.append(("average", AverageWeights(average, n_steps)))
        callbacks.append(("history", EpochHistory()))
        monitor, sign = "train_loss", -1
        if validation is not None:
            monitor, sign = "valid_loss", -1
            if self.scoring != "loss":
                monitor, sign = "valid_score", 1
                view = copy.copy(self)  # fitted with the weights of the moment
                view.__dict__.update(fitted, _frozen=course.frozen)
                view._set_features(data["X"])
                y = view._scored_y(validation.y)
                score = partial(
                    check_scoring(view, scoring=self.scoring), view, validation.given, y
                )
                callbacks.append(("score", ValidationScore(score)))
            keep = KeepBest(monitor, sign, self.n_iter_no_change, self.tol)
            callbacks.append(("best", keep))
        callbacks.append(("plateau", schedules.TellPlateau(monitor, sign)))
        if course.going_on is not None:
            callbacks.append(("going_on", course.going_on))
        if course.is_whole and hasattr(self, "_init_callback_context"):
            root = self._init_callback_context(max_subtasks=self.max_epochs)
            hooks = {"estimator": self, "reconstruction_attributes": fitted, **data}
            callbacks.append(("sklearn", SklearnBridge(root, hooks, n_batches)))
        if self.verbose:
            callbacks.append(("progress", Progress(n_steps, lines=self.verbose > 1)))
        return callbacks

    def _collapse(
        self, criterion: Any, targets: Targets, coding: Any
    ) -> tuple[list[tuple[str, Any]], dict[str, Callable[..., Any]]]:
        """Callback that notices if the model learns nothing, and the tally that it reads."""
        names = self._class_names(coding)
        if names is None or self._is_trial or not hasattr(criterion, "of_frequencies"):
            return [], {}
        values = flat(targets.values)
        if not (values != values[0]).any():  # one class is what is there to be learnt
            return [], {}
        return [("collapse", Collapse(names, _warn))], {"predicted": count_predicted}

    def find_lr(self, X, y, sample_weight=None, *, lr_min=1e-7, lr_max=1.0, n_steps=100):
        """Learning rate range test (Smith 2017, arXiv:1506.01186).

        A model is built and started as in ``fit``, and trained while the learning rate of the
        backbone grows exponentially from batch to batch; that of the head keeps its proportion
        to it. The loss first hardly moves, then falls, and rises when steps become too large.
        Training ends early when the running mean of the loss is four times its smallest. The
        estimator itself stays as it is, fitted or not.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``fit``.
        lr_min, lr_max : float, default=1e-7, 1.0
            Learning rate of the backbone in the first and in the last step.
        n_steps : int, default=100
            Number of steps. Batches are drawn again when all have been seen.

        Returns
        -------
        curve : LearningRateCurve
            ``lrs``, ``losses``, ``smoothed`` losses, and as ``suggestion`` the rate at which these
            fall fastest; ``plot()`` draws them.

        Examples
        --------
        >>> curve = clf.find_lr(X, y)  # doctest: +SKIP
        >>> clf.set_params(lr=curve.suggestion).fit(X, y)  # doctest: +SKIP
        """
        self._validate_params()
        check_range(lr_min, lr_max, n_steps)
        optimizer = copy.copy(named(self.optimizer, OPTIMIZERS))
        optimizer.averaging = None
        view = copy.copy(self)
        view.__dict__.update(
            max_epochs=n_steps,  # a batch each, if there is but one
            optimizer=optimizer,
            schedule="constant",
            warmup=0,
            early_stopping=False,
            warm_start=False,
            callbacks=[("range_test", RangeTest(lr_min, lr_max, n_steps))],
            checkpoint=None,
            random_state=copy.deepcopy(self.random_state),
            verbose=0,
            _is_trial=True,
        )
        if hasattr(view, "set_callbacks"):  # scikit-learn's
            view.set_callbacks()
        try:
            view.fit(X, y, sample_weight)
        except FloatingPointError:  # the range is known as far as it goes
            if vars(view).get("net_") is vars(self).get("net_"):
                raise
        return dict(view.net_.callbacks_)["range_test"].curve()

    @classmethod
    def _from_checkpoint(cls, name: Any, **params: Any) -> Any:
        estimator = cls(**{**cls._checkpoint_parameters, **params, "backbone": name})
        if "head" in params and not isinstance(named(params["head"], HEADS), NativeHead):
            raise ValueError(
                f"from_pretrained keeps the head of the checkpoint: leave out "
                f"head={params['head']!r}."
            )
        estimator.set_params(head="native")
        estimator._validate_params()
        options = estimator._check_options()
        loaded = estimator._load_native(options.backbone, None)
        config = loaded.native.config
        names = labels_of(config)
        coding = estimator._checkpoint_coding(
            names, config.problem_type, loading.label(options.backbone)
        )
        model = estimator._make_native(loaded.native)
        _set_problem_type(model, coding)
        if len(names) > 1:
            model.reorder([names.index(name) for name in coding.names])
        model.to(options.device).eval()
        estimator.__dict__.update(
            coding.attributes,
            model_=model,
            tokenizer_=private_tokenizer(loaded.tokenizer),
            max_length_=estimator._resolve_max_length(loaded),
            history_=[],
            n_iter_=0,
            **estimator._counted(None, coding, None),
            **counts_of(model, ()),
        )
        return estimator

    # ---------------------------------------------------- what a task fills in

    def _check_y(self, y: Any, rows: Sequence[Any], name: str = "y") -> np.ndarray:
        """y as an array with one entry for each of the rows of X, or a clear error."""
        raise NotImplementedError

    def _make_coding(self, y: np.ndarray, weights: np.ndarray, earlier: Any) -> Any:
        """Coding of y: ``encode`` gives `Targets`, ``attributes`` what to set after fit.

        ``names`` and ``problem_type`` go into the model's configuration.
        """
        raise NotImplementedError

    def _growth(self, earlier: Any, coding: Any) -> list[int] | None:
        """The output of a fitted estimator that each of a coding's is, or -1; None for no new."""
        return None

    def _adapt(self, model: Any, coding: Any) -> None:
        """Let what stands behind the head know of new outputs."""

    def _check_plan(self, coding: Any, validation: Data | None, earlier: Any) -> None:
        """Check what parameters ask for that hangs on the rows at hand."""

    def _counted(self, train: Data | None, coding: Any, earlier: Any) -> dict[str, Any]:
        """Fitted attributes that count rows: those of this training, and earlier ones."""
        n = 0 if train is None else len(train.rows)
        return {"n_samples_seen_": n if earlier is None else earlier.n_samples_seen_ + n}

    def _class_names(self, coding: Any) -> Sequence[str] | None:
        """Name of each output, if a row or a word has one of them; else None."""
        return None

    def _places(self, train: Data) -> np.ndarray | None:
        """Where the rows of the net come from in X; None if they are others."""
        return train.places

    def _after_training(
        self, fitted: dict[str, Any], train: Data, validation: Data | None, coding: Any
    ) -> dict[str, Any]:
        """What to set beside the fitted attributes, from the trained model."""
        return {}

    def _with_answers(
        self, encoded: Encoded, targets: Targets, fitted: dict[str, Any]
    ) -> tuple[Encoded, Targets]:
        """Rows as the net reads them, and what the loss reads, once there is a tokenizer."""
        return encoded, targets

    def _draw_rows(self, draw: Callable[..., list[Any]], rows: Sequence[Any]) -> list[Any]:
        """Rows whose texts augmenters drew anew."""
        return draw(rows)

    def _scored_y(self, y: Any) -> Any:
        """y as a scorer reads it."""
        return y

    def _make_model(self, backbone: Any, pooling: str, coding: Any, **config: Any) -> Any:
        """The model around a backbone, which was trained with some pooling."""
        raise NotImplementedError

    def _native_config(self) -> dict[str, Any]:
        """What the parameters say of the configuration of ``_native_model``."""
        raise NotImplementedError

    def _checkpoint_coding(self, names: list[str], problem_type: str | None, name: str) -> Any:
        """Coding of what a checkpoint predicts, whose outputs have these names.

        Its own names are the same in the order of its outputs.
        """
        raise NotImplementedError

    def _loss(self) -> Any:
        """The loss that the parameters ask for."""
        raise NotImplementedError

    def _objective(
        self, model: Any, loss: Any, coding: Any
    ) -> tuple[torch.nn.Module, dict[str, Callable[..., Any]]]:
        """The loss, and sums for the history."""
        raise NotImplementedError

    def _fit_probe(
        self,
        vectors: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        coding: Any,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of a linear model from vectors to outputs."""
        raise NotImplementedError


def window_plan(long_text: Any) -> WindowPlan | None:
    """How the parameter ``long_text`` reads what does not fit; None cuts it."""
    if long_text == "truncate":
        return None
    windows = named(long_text, WINDOWS)
    return WindowPlan(windows.stride, windows.max_windows)


def check_one_window(long_text: Any) -> None:
    """Check that texts are cut, as what is exported does it."""
    if long_text != "truncate":
        raise ValueError(
            f"export_onnx writes a model that cuts long texts, but long_text={long_text!r} reads "
            f'them in windows: set_params(long_text="truncate") first.'
        )


def window_pooling(long_text: Any) -> str:
    """How the vectors of several windows become one."""
    return "mean" if long_text == "truncate" else named(long_text, WINDOWS).pooling


def _set_problem_type(model: Any, coding: Any) -> None:
    """Say what logits stand for, also to those who have the model of the family alone."""
    for part in (model, getattr(model, "native", model)):
        part.config.problem_type = coding.problem_type


def _dataset(
    encoded: Encoded,
    targets: Targets,
    redraw: Redraw | None = None,
) -> EncodedDataset:
    if redraw is None:
        return EncodedDataset(*_columns(encoded, targets))
    return EncodedDataset(*_columns(encoded, targets), lambda: _columns(*redraw.draw()), redraw.rng)


def _columns(encoded: Encoded, targets: Targets) -> tuple[Encoded, Any, Any]:
    """Rows, what the loss compares them with, and their weights."""
    # Only their proportions count: around one they are safe in the precision of any loss.
    mean = flat(targets.weights).mean()
    weights = targets.weights
    if isinstance(weights, Ragged):
        weights = Ragged(weights.flat / mean, weights.start)
    else:
        weights = weights / mean
    return encoded, targets.values, weights


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=users_level())


def _chosen_epoch(
    net: FineTuningNet, validation: Data | None, n_earlier: int
) -> dict[str, int] | None:
    """How many rows were held out, and the row of the history whose weights they chose."""
    if validation is None:
        return None
    best = dict(net.callbacks_)["best"].best_row_
    if best < 0:  # the first epoch did not come to its end
        return None
    return {"n_samples": len(validation.rows), "epoch": n_earlier + best}


def _epoch_row(row: dict[str, Any], earlier_epochs: int) -> dict[str, Any]:
    shown = {
        name: value
        for name, value in row.items()
        if name != "batches" and not name.endswith("_batch_count")
    }
    return shown | {"epoch": earlier_epochs + row["epoch"]}


def counts_of(model: Any, trained: Collection[str]) -> dict[str, Any]:
    """Fitted attributes that say how large a model is, and what of it was trained."""
    summary = summarise(model, trained)
    return {
        "_summary": summary,
        "n_blocks_": summary.n_blocks,
        "n_parameters_": summary.n_parameters,
        "n_trained_parameters_": summary.n_trained,
    }
