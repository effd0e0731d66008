"""Seconds, tokens a second and accuracy of fine-tuning: ours and transformers.Trainer.

    python examples/benchmarks/finetune.py --rows 2000 --seeds 0 1 2

Contestants run in turn, once a seed, on the same rows with the same epochs, batch size,
learning rate and schedule; the ratios are of medians. The data are docstring sentences
(`sktransformers.datasets.load_docstrings`), or ``--train`` and ``--test`` files of JSON
lines with the fields ``text`` and ``label``. Needs the extras ``offline`` and ``bench``.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from datetime import date

import numpy as np
import peers
import torch
from sklearn.model_selection import train_test_split

from sktransformers import AdamW, Backbone, TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings
from sktransformers.inputs.encoding import TextEncoder
from sktransformers.training import loading


def read_rows(args, seed):
    """Rows of one seed; the test rows are the same for all."""
    if args.train:
        (X, y), (X_test, y_test) = (read_lines(path) for path in (args.train, args.test))
        order = np.random.default_rng(seed).permutation(len(X))[: args.rows]
        X, y = [X[i] for i in order], [y[i] for i in order]
        return peers.Rows(X, y, X_test[: args.test_rows], y_test[: args.test_rows])
    bunch = load_docstrings()
    X, X_test, y, y_test = train_test_split(
        bunch.data, list(bunch.target), test_size=args.test_rows, stratify=bunch.target,
        random_state=0,
    )  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(X))[: args.rows]
    return peers.Rows([X[i] for i in order], [y[i] for i in order], X_test, y_test)


def read_lines(path):
    """Texts and labels of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def ours(rows, args, seed, head_init):
    """The estimator, with the Trainer's one learning rate for backbone and head."""
    clf = TransformerSequenceClassifier(
        backbone=args.backbone,
        head_init=head_init,
        lr=args.lr,
        optimizer=AdamW(head_lr=args.lr),
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        max_length=256,
        random_state=seed,
    )
    begin = time.perf_counter()
    clf.fit(rows.X, rows.y)
    seconds = time.perf_counter() - begin
    encoder = TextEncoder(clf.tokenizer_, clf.max_length_)
    tokens = args.epochs * len(encoder.encode(rows.X).encoded.sequences.flat)
    return peers.Run(seconds, clf.score(rows.X_test, rows.y_test), tokens / seconds)


def main():
    """Run all contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    directory = loading.locate(args.backbone, Backbone()).name
    recipe = {"lr": args.lr, "epochs": args.epochs, "batch_size": args.batch_size}
    grouped = {"train_sampling_strategy": "group_by_length"}
    contestants = {
        "ours, random head": lambda r, s: ours(r, args, s, "random"),
        "ours, probe start": lambda r, s: ours(r, args, s, "probe"),
        "Trainer": lambda r, s: peers.trainer(r, directory, seed=s, **recipe),
        "Trainer, grouped": lambda r, s: peers.trainer(r, directory, seed=s, **recipe, **grouped),
        "Trainer, grouped, bf16": lambda r, s: peers.trainer(
            r, directory, seed=s, **recipe, **grouped, bf16=True
        ),
    }
    runs = {name: [] for name in contestants}
    # A first short run of each warms caches and allocators and is thrown away.
    warm = read_rows(args, 0)
    warm = peers.Rows(warm.X[:64], warm.y[:64], warm.X_test[:8], warm.y_test[:8])
    for contestant in contestants.values():
        contestant(warm, 0)
    for seed in args.seeds:
        rows = read_rows(args, seed)
        for name, contestant in contestants.items():
            runs[name].append(contestant(rows, seed))
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.rows} rows, {args.epochs} epochs, batch "
        f"{args.batch_size}, lr {args.lr}, seeds {args.seeds}"
    )
    print(f"{'':24} {'seconds (min-max)':>22} {'tokens/s':>9} {'accuracy (min-max)':>24}")
    medians = {}
    for name, results in runs.items():
        seconds = [run.fit_seconds for run in results]
        accuracy = [run.score for run in results]
        medians[name] = statistics.median(seconds)
        speed = statistics.median(run.tokens_per_second for run in results)
        print(
            f"{name:24} {medians[name]:8.1f} ({min(seconds):5.1f}-{max(seconds):5.1f}) "
            f"{speed:9.0f} {np.mean(accuracy):10.3f} "
            f"({min(accuracy):.3f}-{max(accuracy):.3f})"
        )
    base = medians["ours, random head"]
    for name in list(contestants)[1:]:
        print(f"{name} / ours, random head: {medians[name] / base:.2f}")


if __name__ == "__main__":
    main()
