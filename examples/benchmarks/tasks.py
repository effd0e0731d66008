"""Pairs, numbers and tags: ours with the defaults, and transformers.Trainer, in one process.

    python examples/benchmarks/tasks.py DATA --sets snli sick wnut17 --seeds 0 1 2

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line
with ``text``, ``text_a`` and ``text_b``, or ``tokens``, and with ``label`` or ``tags``. The
training rows are the first of a shuffle by the seed; the test rows are the same for all
seeds. All contestants make the same number of passes over the same rows in batches of the same
size. Which of them runs first alternates from seed to seed. ``--also crf=True`` lets ours run
once more with a parameter changed. Prints a line a run and a table a set. Needs the extras
``offline`` and ``bench``, and seqeval for spans.
"""

import argparse
import ast
import json
import platform
import random
import statistics
import time
import warnings
from datetime import date
from functools import partial
from pathlib import Path

import peers
import torch

from sktransformers import (
    Backbone,
    PairClassifier,
    PairRegressor,
    TokenTagger,
    TransformerSequenceClassifier,
)
from sktransformers.training import loading

RECIPE = {"epochs": 3, "batch_size": 16}


def read(path):
    """X and y of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    target = next(key for key in ("tags", "labels", "label") if key in rows[0])
    if "text_a" in rows[0]:
        X = [(row["text_a"], row["text_b"]) for row in rows]
    else:
        X = [row.get("tokens", row.get("text")) for row in rows]
    return X, [row[target] for row in rows]


def sample(path, n, seed):
    """n rows of a file, drawn without replacement."""
    X, y = read(path)
    order = list(range(len(X)))
    random.Random(seed).shuffle(order)
    return [X[i] for i in order[:n]], [y[i] for i in order[:n]]


def estimator(rows):
    """The class for a task."""
    if rows.task == "tags":
        return TokenTagger
    if isinstance(rows.X[0], tuple):
        return PairRegressor if rows.task == "numbers" else PairClassifier
    if rows.task == "labels":
        return TransformerSequenceClassifier
    raise SystemExit("There is no estimator for a number a text.")


def ours(rows, seed, backbone, **params):
    """The estimator with its defaults but for what is asked for."""
    params = {"max_epochs": RECIPE["epochs"], "batch_size": RECIPE["batch_size"], **params}
    model = estimator(rows)(backbone, random_state=seed, **params)
    begin = time.perf_counter()
    model.fit(rows.X, rows.y)
    seconds = time.perf_counter() - begin
    return peers.Run(seconds, rows.score(model.predict(rows.X_test).tolist()))


def theirs(rows, seed, backbone, lr, **arguments):
    """The Trainer at one learning rate."""
    return peers.trainer(rows, backbone, lr=lr, seed=seed, max_length=256, **RECIPE, **arguments)


def parameter(text):
    """("crf", True) from "crf=True"; what is no Python literal stays a str."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def spread(values, digits):
    """Median and range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def print_table(name, metric, runs):
    """Medians of a set's runs; ratios are of medians."""
    print(f"\n{name:24} {metric:26} {'seconds of fit':26} times ours")
    base = statistics.median(run.fit_seconds for run in runs["ours"])
    for contestant, results in runs.items():
        seconds = [run.fit_seconds for run in results]
        print(
            f"{contestant:24} {spread([run.score for run in results], 3):26} "
            f"{spread(seconds, 1):26} {statistics.median(seconds) / base:.2f}"
        )
    print(flush=True)


def main():
    """Run every contestant on every set and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument(
        "--sets", nargs="+", default=["snli", "sick", "stsb_part", "wnut17", "ud_en_ewt_pos"]
    )
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lrs", type=float, nargs="*", default=[5e-5, 2e-4])
    parser.add_argument("--bf16", action="store_true", help="let the Trainer run in bf16 as well")
    parser.add_argument("--also", nargs="*", default=[], type=parameter, metavar="PARAM=VALUE")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    directory = loading.locate(args.backbone, Backbone()).name
    contestants = {"ours": partial(ours, backbone=args.backbone)}
    for param, value in args.also:
        changed = partial(ours, backbone=args.backbone, **{param: value})
        contestants[f"ours, {param}={value}"] = changed
    for lr in args.lrs:
        contestants[f"Trainer {lr:g}"] = partial(theirs, backbone=directory, lr=lr)
        if args.bf16:
            contestants[f"Trainer {lr:g}, bf16"] = partial(
                theirs, backbone=directory, lr=lr, bf16=True
            )
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.rows} rows, {args.test_rows} to test on, "
        f"{RECIPE['epochs']} epochs, batch {RECIPE['batch_size']}, seeds {args.seeds}"
    )
    for name in args.sets:
        X_test, y_test = sample(args.data / name / "test.jsonl", args.test_rows, 0)
        runs = {contestant: [] for contestant in contestants}
        for turn, seed in enumerate(args.seeds):
            X, y = sample(args.data / name / "train.jsonl", args.rows, seed)
            rows = peers.Rows(X, y, X_test, y_test)
            if turn == 0:  # a short run of each warms caches and allocators and is thrown away
                few = peers.Rows(X[:64], y[:64], X_test[:8], y_test[:8])
                for fit_predict in contestants.values():
                    fit_predict(few, seed)
            for contestant in list(contestants)[:: -1 if turn % 2 else 1]:
                run = contestants[contestant](rows, seed)
                runs[contestant].append(run)
                print(
                    f"{name:14} seed {seed} {contestant:24} {run.score:.3f} "
                    f"({run.fit_seconds:.1f} s)",
                    flush=True,
                )
        print_table(name, rows.metric, runs)


if __name__ == "__main__":
    main()
