"""What a training goes on from that was made before: checkpoints, and states of searches."""

import json
from collections.abc import Callable
from numbers import Integral
from types import FunctionType
from typing import Any

import numpy as np

from sktransformers.course import Course, Data, Options
from sktransformers.modules.dispatch import is_offloaded
from sktransformers.training import schedules, store
from sktransformers.training.callbacks import tensors_of
from sktransformers.training.checkpoints import KeepStates, opened, remembered_seed
from sktransformers.training.continuing import Continue, States
from sktransformers.training.fingerprint import fingerprint
from sktransformers.training.net import EncodedDataset

# Parameters that do not decide what k epochs of training give, or show in the model; and those of
# a backbone that say where it comes from.
_NOT_DECISIVE = {
    *("backbone", "callbacks", "checkpoint", "device", "max_epochs", "memory"),
    *("random_state", "scoring", "verbose"),
}
_ORIGIN = {"keep_weights", "name", "revision", "token", "tokenizer", "trust_remote_code"}


def seed_of(estimator: Any, options: Options, train: Data, validation: Data | None) -> int:
    """The seed of this training: that of an earlier one, where the user leaves it open.

    Raises
    ------
    TypeError
        If states of training are to be kept, but their training could not be told from others.
    """
    if options.checkpoint is None:
        return options.seed
    parameters = _told(estimator, options)
    if estimator.random_state is not None:
        return options.seed
    rows = [(x.rows, x.y, x.weights) for x in (train, validation) if x is not None]
    name = fingerprint(parameters, rows, guess=True)
    return remembered_seed(options.checkpoint, f"{type(estimator).__name__}-{name}", options.seed)


def checkpointed(
    estimator: Any,
    options: Options,
    course: Course,
    model: Any,
    begin_epoch: Callable[[int], None],
    train: EncodedDataset,
    held_out: EncodedDataset | None,
) -> KeepStates | None:
    """What keeps states of training, and begins with the last one; None keeps none."""
    spec = options.checkpoint
    if spec is None or not course.is_whole:
        return None
    training = fingerprint(
        _told(estimator, options),
        [(x.encoded, x.targets, x.weights) for x in (train, held_out) if x is not None],
        *_beginning(options, model),
        [course.moments, options.seed],
    )
    name = f"{type(estimator).__name__}-{training}"
    run = course.held.enter_context(opened(spec, name))
    state = run.latest()
    if state is not None:
        made = "has ended before" if state.is_finished else "goes on"
        print(
            f"Training {made}, {state.n_epochs} of {course.n_epochs} epochs and {state.n_steps} "
            f"steps were made: {run.path}"
        )
    return KeepStates(run, state, spec.every, spec.unit, begin_epoch)


def continuation(
    estimator: Any,
    options: Options,
    course: Course,
    model: Any,
    begin_epoch: Callable[[int], None],
    train: EncodedDataset,
    held_out: EncodedDataset | None,
    y: Any,
    n_steps: int,
) -> Continue | None:
    """What goes on where the same training with fewer epochs ended; None starts afresh."""
    folder = options.cache._folder()
    if folder is None or not course.is_whole:
        return None
    n_shared = schedules.shared_steps(course.schedule, course.warmup, n_steps)
    n_epochs = n_shared * course.n_epochs // n_steps
    objections = {
        "random_state is no integer": not isinstance(estimator.random_state, Integral),
        "schedule or warmup make all rates depend on max_epochs": n_epochs == 0,
        "optimizer averages the weights": options.optimizer.averaging is not None,
        "rows are held out for validation": held_out is not None,
        "augment draws other rows": train.redraw is not None,
        "warm_start goes on from what was fitted": bool(estimator.warm_start),
        "replay keeps rows": estimator.replay is not None,
        "callbacks may do anything": bool(
            estimator.callbacks or getattr(estimator, "_skl_callbacks", None)
        ),
        "the code of the model or the estimator is of others": not store.is_known(
            estimator, *model.modules()
        ),
        "parts of the backbone lie elsewhere": is_offloaded(model),
    }
    try:
        for objection, applies in objections.items():
            if applies:
                raise TypeError(objection)
        data = fingerprint(
            type(estimator).__name__, train.encoded, train.targets, train.weights, np.asarray(y)
        )
        training = fingerprint(
            data,
            _parameters(estimator, options, whole=False),
            *_beginning(options, model),
            options.seed,
        )
    except TypeError as error:
        if estimator.verbose:
            print(f"The state of training is not kept: {error}.")
        return None
    states = States(folder, options.cache.max_disk_mb, data, training)
    state = states.latest(n_epochs)
    if state is not None and estimator.verbose:
        print(f"Training goes on from the end of epoch {state.n_epochs}.")
    return Continue(states, state, n_epochs, begin_epoch)


def _parameters(estimator: Any, options: Options, whole: bool) -> dict[str, Any]:
    """What decides how training goes, by names; without what its end alone hangs on, or all."""
    others = _NOT_DECISIVE - ({"max_epochs", "scoring"} if whole else set())
    params = estimator.get_params(deep=False)
    backbone = options.backbone.get_params()
    return {
        "class": _code(type(estimator)),
        **{name: value for name, value in params.items() if name not in others},
        **{f"backbone__{name}": x for name, x in backbone.items() if name not in _ORIGIN},
        "memory__dtype": options.cache.dtype,
        "device": [options.device.type, str(options.precision)],
    }


def _code(kind: type) -> list[Any]:
    """A class, and the methods of it and its bases that are not of these libraries."""
    methods = [
        [method for method in vars(base).values() if isinstance(method, FunctionType)]
        for base in kind.__mro__
        if base.__module__.partition(".")[0] not in {"builtins", "sklearn", "sktransformers"}
    ]
    return [kind.__module__, kind.__qualname__, [each for each in methods if each]]


def _told(estimator: Any, options: Options) -> dict[str, str]:
    """Fingerprints of all parameters that show in the fitted estimator, by their names.

    Raises
    ------
    TypeError
        If one cannot be told from others.
    """
    found = {"callbacks": fingerprint(list(map(_about, estimator.callbacks or [])))}
    for name, value in _parameters(estimator, options, whole=True).items():
        try:
            found[name] = fingerprint(value, guess=True)
        except TypeError as error:
            raise TypeError(
                f"checkpoint goes on from the states of the same training, but that cannot be seen "
                f"from the parameter {name}: {error}. Give it an object that can be pickled, or "
                f"leave out checkpoint."
            ) from error
    return found


def _about(callback: Any) -> list[Any]:
    """What can be told of a callback of the user's, or of a tuple of its name and it."""
    name, callback = callback if isinstance(callback, (tuple, list)) else (None, callback)
    kind = callback if isinstance(callback, type) else type(callback)
    try:
        params = fingerprint({} if kind is callback else callback.get_params(False), guess=True)
    except Exception:  # it may hold anything, such as a connection, and have any signature
        params = None
    return [name, kind.__module__, kind.__qualname__, params]


def _beginning(options: Options, model: Any) -> list[Any]:
    """The model before the first step."""
    origin = [str(options.backbone.name), options.backbone.revision]
    return [
        origin if is_offloaded(model) else [],  # for weights that are not at hand
        [
            repr(model),
            json.loads(model.config.to_json_string(use_diff=False), object_hook=_nameless),
        ],
        [(name, tensor.requires_grad, tensor) for name, tensor in tensors_of(model)],
    ]


def _nameless(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the place that it was read from."""
    return {name: value for name, value in config.items() if name != "_name_or_path"}
