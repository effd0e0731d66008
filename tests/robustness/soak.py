"""Many fits, predictions and kills: nothing grows, and nothing is lost. `make soak`.

    python tests/robustness/soak.py --fits 200 --predictions 100000 --kills 20

Fits estimators of every kind in all the ways in which something might be left behind, in one
process, in rounds of the same work, and predicts for texts that are all different. After every
round it looks at memory, live tensors and other objects, open files, threads and temporary files;
the second half of the rounds may not have more of them than the first. Before that, trainings
with ``checkpoint=`` are killed at random moments, go on, and have to end with the weights of one
that was left alone. Needs the extra ``dev``.
"""

import argparse
import contextlib
import gc
import hashlib
import io
import itertools
import math
import os
import pickle
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import peft  # noqa: F401, before there are children
import psutil
import tiny_estimators
import torch
import transformers
from kills import fork
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from skorch.callbacks import Callback
from tiny_estimators import KINDS, TEXTS

import sktransformers
from sktransformers import Cache, Checkpoint, GradualUnfreezing, LoRA
from sktransformers.training import store

# ------------------------------------------------------------------ what is done

LABELLED = ("classifier", "native", "pair", "answers")
SOME = ("classifier", "regressor", "tagger", "tasks", "bi-encoder")


class Stop(Callback):
    """Raises an error in the n-th batch."""

    def __init__(self, error: type[BaseException], n: int):
        self.error = error
        self.n = n

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.n_made_ = 0

    def on_batch_end(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        self.n_made_ += 1
        if self.n_made_ == self.n:
            raise self.error


def plainly(kind: str, home: Path) -> int:
    """Fit, predict, go through a pickle and a copy."""
    fitted = tiny_estimators.fit(kind)
    again = pickle.loads(pickle.dumps(fitted))
    tiny_estimators.outputs(again, kind)
    clone(again)
    return 1


def with_memory(kind: str, home: Path) -> int:
    """Frozen parts in a folder that is too small for all of them, and in memory."""
    cache = Cache(home / "cache", max_disk_mb=0.2)
    for finetune, memory in (("head", cache), (1, None), (GradualUnfreezing(), cache)):
        tiny_estimators.fit(kind, finetune=finetune, memory=memory, max_epochs=2)
    return 3


def early(kind: str, home: Path) -> int:
    """Stop early, on rows that are held out and on given ones."""
    params = {"early_stopping": True, "validation_fraction": 0.25, "max_epochs": 3}
    tiny_estimators.fit(kind, **params, n_iter_no_change=1)
    known = KINDS[kind]
    tiny_estimators.make(kind).fit(known.X, known.y, X_val=known.X[:6], y_val=known.y[:6])
    return 2


def going_on(kind: str, home: Path) -> int:
    """warm_start, and partial_fit with replay."""
    fitted = tiny_estimators.fit(kind, warm_start=True)
    known = KINDS[kind]
    fitted.fit(known.X, known.y)
    fitted.set_params(replay=8, warm_start=False)
    for _ in range(2):
        fitted.partial_fit(known.X[:8], known.y[:8])
    return 4


def saved(kind: str, home: Path) -> int:
    """Adapters and all weights, to a directory that is replaced, and back."""
    for finetune in (LoRA(r=2), "full"):
        fitted = tiny_estimators.fit(kind, finetune=finetune)
        fitted.save_pretrained(home / "saved", overwrite=True)
        tiny_estimators.outputs(sktransformers.load(home / "saved"), kind)
    return 2


def refused(kind: str, home: Path) -> int:
    """Bad input, before and in the middle of training."""
    known = KINDS[kind]
    bad = (
        ({}, [*known.X[:-1], None], known.y),
        ({}, known.X, known.y[:-1]),
        ({"lr": -1}, known.X, known.y),
        ({"backbone": str(home / "nowhere")}, known.X, known.y),
        ({"callbacks": [Stop(ZeroDivisionError, 2)]}, known.X, known.y),
    )
    for params, X, y in bad:
        try:
            tiny_estimators.make(kind, **params).fit(X, y)
        except (ValueError, TypeError, OSError, ZeroDivisionError):
            continue
        raise AssertionError(f"{kind}: nothing was wrong with {params}")
    return 1  # that trains


def interrupted(kind: str, home: Path) -> int:
    """Ctrl-C in the second epoch, a prediction with what is there, and another fit."""
    known = KINDS[kind]
    estimator = tiny_estimators.make(kind, max_epochs=3, callbacks=[Stop(KeyboardInterrupt, 5)])
    try:
        estimator.fit(known.X, known.y)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"{kind}: Ctrl-C was swallowed")
    tiny_estimators.outputs(estimator, kind)
    estimator.set_params(callbacks=None, max_epochs=1).fit(known.X, known.y)
    return 2


def checkpointed(kind: str, home: Path) -> int:
    """An error, and a fit that goes on."""
    known = KINDS[kind]
    with tempfile.TemporaryDirectory(dir=home) as folder:
        kept = Checkpoint(folder, unit="step")
        estimator = tiny_estimators.make(kind, checkpoint=kept, max_epochs=2)
        estimator.set_params(callbacks=[Stop(ZeroDivisionError, 4)])
        try:
            estimator.fit(known.X, known.y)
        except ZeroDivisionError:
            pass
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it goes on
            estimator.set_params(callbacks=None).fit(known.X, known.y)
    return 2


def folds(kind: str, home: Path) -> int:
    """Cross-validation."""
    known = KINDS[kind]
    cross_val_score(tiny_estimators.make(kind), known.X, known.y, cv=2)
    return 2


# What a round does, and with which kinds of estimators, one after the other.
WAYS: list[tuple[Callable[[str, Path], int], tuple[str, ...]]] = [
    (plainly, tuple(KINDS)),
    (with_memory, SOME),
    (early, LABELLED),
    (going_on, SOME),
    (saved, SOME),
    (refused, SOME),
    (interrupted, SOME),
    (checkpointed, SOME),
    (folds, LABELLED),
]


def texts(n: int, begin: int) -> list[str]:
    """n texts that nobody has seen."""
    return [f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(begin, begin + n)]


def predict(estimators: dict[str, Any], n: int, begin: int) -> None:
    """Predict for n texts in calls of uneven size."""
    sizes = itertools.cycle([1, 3, 64, 500])
    for name in itertools.cycle(estimators):
        size = min(next(sizes), n)
        estimators[name].predict(texts(size, begin))
        n, begin = n - size, begin + size
        if n == 0:
            return


# ------------------------------------------------------------------ what is seen

# What is counted, and how much of it may come in half of the rounds. A fitted estimator has
# hundreds of objects. A few a round are of other libraries: a data frame's dead weak references to
# its views, ctypes' types for arrays of each size.
COLUMNS = {
    "MB": 16,
    "tensors": 0,
    "tensors, kB": 0,
    "objects": 2000,
    "files": 0,
    "threads": 0,
    "temporary": 0,
}


def look() -> dict[str, float]:
    """What this process holds, and temporary files of its own."""
    for _ in range(3):
        gc.collect()
    process = psutil.Process()
    objects = gc.get_objects()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that are asked for their class
        tensors = [each for each in objects if isinstance(each, torch.Tensor)]
    return {
        "MB": process.memory_info().rss / 2**20,
        "tensors": len(tensors),
        "tensors, kB": sum(each.nbytes for each in tensors) // 2**10,
        "objects": len(objects),
        "files": process.num_fds(),
        "threads": threading.active_count(),
        "temporary": len(list(Path(tempfile.gettempdir()).rglob("*"))),
    }


def grown(rows: list[dict[str, float]]) -> list[str]:
    """What the last rounds have more of than those of the second quarter."""
    n = len(rows)
    early, late = rows[n // 4 : n // 2], rows[-(n // 4) :]
    found = []
    for name, most in COLUMNS.items():
        before, after = (statistics.median(row[name] for row in part) for part in (early, late))
        print(f"{name}: {before:,.1f} in the second quarter, {after:,.1f} in the last")
        if after - before > most:
            found.append(f"{name} grew by {after - before:,.1f}")
    return found


def work(home: Path, n_fits: int, n_predictions: int, n_rounds: int) -> list[str]:
    """Fit and predict in rounds; what has grown."""
    for kind in KINDS:  # what the first of a kind loads for good
        tiny_estimators.outputs(tiny_estimators.fit(kind), kind)
    lasting = {kind: tiny_estimators.fit(kind) for kind in ("classifier", "regressor")}
    lasting["head"] = tiny_estimators.fit("classifier", finetune="head", memory=home / "features")
    n_made, asked, rows = 0, 0, []
    todo = itertools.cycle([(i, way, kinds) for i in range(60) for way, kinds in WAYS])
    print("| round | fits | predictions | seconds | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (4 + len(COLUMNS)) + "|", flush=True)
    for n in range(1, n_rounds + 1):
        begin = time.perf_counter()
        while n_made < n_fits * n // n_rounds:
            i, way, kinds = next(todo)
            n_made += way(kinds[i % len(kinds)], home)
        part = n_predictions * n // n_rounds - asked
        predict(lasting, part, asked)
        asked += part
        rows.append(look())
        cells = [n, n_made, asked, round(time.perf_counter() - begin, 1)]
        cells += [round(value, 1) for value in rows[-1].values()]
        print("| " + " | ".join(f"{cell:,}" for cell in cells) + " |", flush=True)
    return grown(rows)


# ------------------------------------------------------------------ kills

# Trainings with dropout, each long enough to be killed several times.
TRAININGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("classifier", {}, {"unit": "step"}),
    ("classifier", {"early_stopping": True, "n_iter_no_change": 50}, {"unit": "step", "every": 3}),
    ("pair", {"max_batch_tokens": 64}, {"unit": "step", "every": 2, "keep": 2}),
    ("tagger", {"finetune": GradualUnfreezing()}, {"every": 2}),
    ("classifier", {"finetune": LoRA(r=2), "schedule": "cosine"}, {"keep": 3}),
]


def fit_and_tell(kind: str, params: dict[str, Any], told: Path) -> None:
    """Fit, and write down what came out."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        fitted = tiny_estimators.fit(kind, max_epochs=40, **params)
    digest = hashlib.blake2b()
    for name, tensor in sorted(fitted.model_.state_dict().items()):
        digest.update(name.encode())
        store.feed(digest, tensor)
    losses = [row["train_loss"] for row in fitted.history_]
    told.write_text(f"{digest.hexdigest()} {losses}", "utf-8")
    told.with_suffix(".said").write_text(said.getvalue(), "utf-8")


def stray(folder: Path, keep: int) -> list[str]:
    """Files of checkpoints that should not be there after the end."""
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    states = sorted(name for name in names if name.startswith("step-"))
    best = sorted(name for name in names if name.startswith("best-"))
    others = sorted(set(names) - set(states) - set(best))
    return [*states[keep:], *best[keep:], *others]


def kill(home: Path, n_kills: int, rng: np.random.Generator) -> list[str]:
    """Kill trainings until so many kills were made; what has gone wrong."""
    tiny_estimators.backbone()  # that of all children
    n_made, wrong = 0, []
    for turn, (kind, params, kept) in enumerate(itertools.cycle(TRAININGS)):
        if n_made >= n_kills:
            return wrong
        params = {**params, "random_state": turn}
        folder, told = home / f"checkpoints{turn}", home / f"told{turn}"
        begin = time.perf_counter()
        fork(partial(fit_and_tell, kind, params, told))
        seconds, expected = time.perf_counter() - begin, told.read_text("utf-8")
        told.unlink()
        checkpoint = Checkpoint(folder, **kept)
        again = partial(fit_and_tell, kind, {**params, "checkpoint": checkpoint}, told)
        n_before, ended = n_made, False
        while not ended:
            is_killed = n_made < min(n_kills, n_before + n_kills / len(TRAININGS))
            ended = fork(again, rng.uniform(0, seconds / 2) if is_killed else math.inf)
            n_made += not ended
        is_same = told.read_text("utf-8") == expected
        left_over = stray(folder, checkpoint.keep)
        said = told.with_suffix(".said").read_text("utf-8").partition(":")[0].strip()
        print(
            f"{kind} {params} {kept}: {n_made - n_before} kills; "
            f"{'the same weights' if is_same else 'OTHER WEIGHTS'}; left over: {left_over}; "
            f"at last: {said or 'it began anew'}",
            flush=True,
        )
        if not is_same or left_over:
            wrong.append(f"{kind} {params}: same={is_same}, left over: {left_over}")
    return wrong


def main() -> None:
    """Kill, then fit and predict; exit with what has gone wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    args = parser.parse_args()
    if args.fits and args.rounds < 4:
        parser.error("--rounds: at least 4, whose quarters are compared")
    seed = args.seed if args.seed is not None else int(np.random.SeedSequence().entropy) % 2**32
    print(vars(args), f"kills by seed {seed}", flush=True)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        wrong = kill(Path(home), args.kills, np.random.default_rng(seed))
        if args.fits:
            wrong += work(Path(home), args.fits, args.predictions, args.rounds)
    print(f"{time.perf_counter() - begin:.0f} s")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
