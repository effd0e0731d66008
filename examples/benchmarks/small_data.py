"""Accuracy with the defaults on small training sets, beside what a user would run instead.

    python examples/benchmarks/small_data.py DATA --sets trec6 clinc150 --seeds 0 1 2

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object with
``text`` and ``label`` a line. The training rows are the first of a shuffle by the seed;
the test rows are the same for all seeds. Prints a line a run and the means at the end.
Needs the extras ``offline`` and ``bench``.
"""

import argparse
import platform
import random
import time
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import peers
import torch
from finetune import read_lines

from sktransformers import Backbone, TransformerSequenceClassifier
from sktransformers.training import loading


def sample(path, n, seed):
    """n rows of a file, drawn without replacement."""
    X, y = read_lines(path)
    order = list(range(len(X)))
    random.Random(seed).shuffle(order)
    return [X[i] for i in order[:n]], [y[i] for i in order[:n]]


def ours(rows, args, seed):
    """The estimator with its defaults untouched."""
    clf = TransformerSequenceClassifier(args.backbone, random_state=seed)
    begin = time.perf_counter()
    clf.fit(rows.X, rows.y)
    return peers.Run(time.perf_counter() - begin, clf.score(rows.X_test, rows.y_test))


def main():
    """Run every contestant on every set and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--sets", nargs="+", default=["trec6", "clinc150", "ag_news", "sms_spam"])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    directory = loading.locate(args.backbone, Backbone()).name
    recipe = {"epochs": 3, "batch_size": 16}
    contestants = {"ours": lambda r, s: ours(r, args, s)}
    if not args.only_ours:
        contestants |= {
            "TF-IDF + linear": lambda r, s: peers.tfidf(r),
            "embeddings + linear": lambda r, s: peers.embeddings(r, directory),
            "Trainer 5e-5": lambda r, s: peers.trainer(r, directory, lr=5e-5, seed=s, **recipe),
            "Trainer 2e-4": lambda r, s: peers.trainer(r, directory, lr=2e-4, seed=s, **recipe),
        }
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.rows} rows, seeds {args.seeds}"
    )
    scores = defaultdict(list)
    for name in args.sets:
        X_test, y_test = sample(args.data / name / "test.jsonl", args.test_rows, 0)
        for seed in args.seeds:
            X, y = sample(args.data / name / "train.jsonl", args.rows, seed)
            rows = peers.Rows(X, y, X_test, y_test)
            for contestant, fit_predict in contestants.items():
                run = fit_predict(rows, seed)
                scores[name, contestant].append(run.accuracy)
                print(
                    f"{name:10} seed {seed} {contestant:20} {run.accuracy:.3f} "
                    f"({run.fit_seconds:.1f} s)",
                    flush=True,
                )
    for (name, contestant), values in scores.items():
        print(
            f"{name:10} {contestant:20} mean {np.mean(values):.3f} "
            f"({min(values):.3f}-{max(values):.3f})"
        )


if __name__ == "__main__":
    main()
