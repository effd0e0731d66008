"""Which strategy when: accuracy, seconds and trained parameters of every ``finetune``.

    python examples/benchmarks/strategies.py DATA --sets trec6 ag_news --rows 100 600 3000

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line
with ``text`` and ``label`` (or what `tasks.py` reads). The training rows are the first of a
shuffle by the seed, the test rows are the same for all seeds. The strategies take turns within a
seed, and begin with another one from seed to seed. Prints a line a run and, for each set, one
Markdown table of medians and ranges over the seeds. Needs the extras ``offline``, ``bench`` and
``peft``.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import tasks
import torch

from sktransformers import Backbone, BitFit, GradualUnfreezing, LoRA

STRATEGIES = {
    "full": {},
    "top 2": {"finetune": 2},
    "head": {"finetune": "head"},
    "LoRA": {"finetune": LoRA()},
    "gradual": {"finetune": GradualUnfreezing()},
    "BitFit": {"finetune": BitFit()},
}


def fit_score(rows, seed, params):
    """Accuracy on the test rows, seconds of fit, and trained parameters."""
    model = tasks.estimator(rows)(random_state=seed, **params)
    begin = time.perf_counter()
    model.fit(rows.X, rows.y)
    seconds = time.perf_counter() - begin
    score = rows.score(model.predict(rows.X_test).tolist())
    return score, seconds, model.n_trained_parameters_


def cell(values, digits):
    """Median, and the range in brackets."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def print_table(name, metric, sizes, results):
    """Rows are strategies; a column of scores and one of seconds for each size."""
    print(f"\n### {name}, {metric}\n")
    head = [f"{metric}, {n:,} rows" for n in sizes] + [f"seconds, {n:,}" for n in sizes]
    print("| " + " | ".join(["finetune", *head, "trained parameters"]) + " |")
    print("| " + " | ".join(["---"] * (2 + len(head))) + " |")
    for strategy in STRATEGIES:
        runs = [results[strategy, n] for n in sizes]
        scores = [cell([run[0] for run in each], 3) for each in runs]
        seconds = [cell([run[1] for run in each], 1) for each in runs]
        row = [strategy, *scores, *seconds, f"{runs[-1][-1][2]:,}"]
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def main():
    """Run every strategy on every set, size and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--sets", nargs="+", default=["trec6", "ag_news"])
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 600, 3000])
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.test_rows} test rows, {args.epochs} epochs "
        f"(gradual: a block an epoch), seeds {args.seeds}"
    )
    common = {"backbone": args.backbone, "max_epochs": args.epochs}
    for name in args.sets:
        X_test, y_test = tasks.sample(args.data / name / "test.jsonl", args.test_rows, 0)
        results = defaultdict(list)
        for n in args.rows:
            for turn, seed in enumerate(args.seeds):
                X, y = tasks.sample(args.data / name / "train.jsonl", n, seed)
                rows = tasks.peers.Rows(X, y, X_test, y_test)
                names = list(STRATEGIES)
                for strategy in names[turn % len(names) :] + names[: turn % len(names)]:
                    run = fit_score(rows, seed, {**common, **STRATEGIES[strategy]})
                    results[strategy, n].append(run)
                    print(
                        f"{name:14} {n:6} rows seed {seed} {strategy:8} {run[0]:.3f} "
                        f"({run[1]:.1f} s, {run[2]:,} trained)",
                        flush=True,
                    )
        print_table(name, rows.metric, args.rows, results)


if __name__ == "__main__":
    main()
