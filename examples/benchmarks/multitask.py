"""Several targets at once against one model a target, on the same rows.

    python examples/benchmarks/multitask.py DATA --seeds 0 1 2

DATA holds ``emobank`` and ``sick``, each with ``train.jsonl`` and ``test.jsonl``, one JSON object
a line: ``text`` and ``vad`` (three numbers), or ``text_a``, ``text_b``, ``label`` (a number) and
``nli`` (a class). The training rows are the first of a shuffle by the seed; the test rows are the
same for all seeds. All contestants have the defaults; pairs are read as one sequence by all.

- emobank: one ``TransformerSequenceRegressor`` of three outputs, or one of each.
- sick: one ``MultiTaskSequenceEstimator``, or a ``PairRegressor`` and a ``PairClassifier``.
- sick, stacked: half of the rows have one target, half the other; the single models see their
  half.

Prints a line a run and a table in Markdown: mean and range over the seeds. Needs the extra
``offline``.
"""

import argparse
import json
import platform
import random
import statistics
import time
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import torch

from sktransformers import (
    Backbone,
    MultiTaskSequenceEstimator,
    PairClassifier,
    PairRegressor,
    TransformerSequenceRegressor,
)

VAD = ("valence", "arousal", "dominance")


def sample(path, n, seed):
    """n rows of a file, drawn without replacement."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(seed).shuffle(rows)
    return rows[:n]


def pearson(true, predicted):
    """Pearson's correlation."""
    return float(np.corrcoef(np.asarray(true, float), np.asarray(predicted, float))[0, 1])


def accuracy(true, predicted):
    """Share of equal labels."""
    return float(np.mean(np.asarray(true) == np.asarray(predicted)))


def timed(estimator, X, y, X_test):
    """Predictions after fit, and the seconds of fit."""
    begin = time.perf_counter()
    estimator.fit(X, y)
    return estimator.predict(X_test), time.perf_counter() - begin


def emobank(train, test, params):
    """Three outputs together, and each alone."""
    X, X_test = [row["text"] for row in train], [row["text"] for row in test]
    y, y_test = (np.array([row["vad"] for row in rows]) for rows in (train, test))
    found, seconds = timed(TransformerSequenceRegressor(**params), X, y, X_test)
    yield "together", seconds, {v: pearson(y_test[:, j], found[:, j]) for j, v in enumerate(VAD)}
    scores, seconds = {}, 0.0
    for j, name in enumerate(VAD):
        found, more = timed(TransformerSequenceRegressor(**params), X, y[:, j], X_test)
        scores[name], seconds = pearson(y_test[:, j], found), seconds + more
    yield "alone", seconds, scores


def sick(train, test, params, stacked=False):
    """Relatedness and entailment together, and each alone."""
    X, X_test = ([(row["text_a"], row["text_b"]) for row in rows] for rows in (train, test))
    numbers, labels = [row["label"] for row in train], [row["nli"] for row in train]
    half = len(X) // 2
    of_number, of_label = (slice(half), slice(half, None)) if stacked else (slice(None),) * 2
    y = np.empty((len(X), 2), dtype=object)
    y[of_number, 0], y[of_label, 1] = numbers[of_number], labels[of_label]
    scorers = (pearson, [row["label"] for row in test]), (accuracy, [row["nli"] for row in test])

    def score(number, label):
        (first, numbers_test), (second, labels_test) = scorers
        return {
            "relatedness": first(numbers_test, number),
            "entailment": second(labels_test, label),
        }

    tasks = ["regression", "classification"]
    found, seconds = timed(MultiTaskSequenceEstimator(tasks=tasks, **params), X, y, X_test)
    yield "together", seconds, score(found[:, 0], found[:, 1])
    params = {**params, "interaction": "cross"}
    number, first = timed(PairRegressor(**params), X[of_number], numbers[of_number], X_test)
    label, second = timed(PairClassifier(**params), X[of_label], labels[of_label], X_test)
    yield "alone", first + second, score(number, label)


def spread(values, digits=3):
    """Mean and range."""
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main():
    """Run both ways on every set and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    runs = {
        "emobank": ("emobank", emobank),
        "sick": ("sick", sick),
        "sick, stacked": ("sick", lambda *data: sick(*data, stacked=True)),
    }
    scores, seconds = defaultdict(list), defaultdict(list)
    for name, (folder, run) in runs.items():
        test = sample(args.data / folder / "test.jsonl", args.test_rows, 0)
        for seed in args.seeds:
            train = sample(args.data / folder / "train.jsonl", args.rows, seed)
            params = {
                "backbone": args.backbone,
                "max_epochs": args.epochs,
                "random_state": seed,
            }
            for way, spent, found in run(train, test, params):
                seconds[name, way].append(spent)
                for task, score in found.items():
                    scores[name, task, way].append(score)
                shown = ", ".join(f"{task} {score:.3f}" for task, score in found.items())
                print(f"{name:14} seed {seed} {way:9} {shown} ({spent:.1f} s)", flush=True)
    print(
        f"\n{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {args.rows} rows, {args.test_rows} to test on, {args.epochs} "
        f"epochs, seeds {args.seeds}. Pearson's r, of entailment accuracy.\n"
    )
    print("| set | target | together | alone |\n| --- | --- | --- | --- |")
    for name in runs:
        for task in dict.fromkeys(task for other, task, _ in scores if other == name):
            both = (spread(scores[name, task, way]) for way in ("together", "alone"))
            print(f"| {name} | {task} | {' | '.join(both)} |")
        both = (spread(seconds[name, way], 1) for way in ("together", "alone"))
        print(f"| {name} | seconds of fit | {' | '.join(both)} |")


if __name__ == "__main__":
    main()
