"""Two tasks one after the other: what is left of the first, with and without remedies.

    python examples/benchmarks/learning_on.py DATA --first trec6 --second ag_news

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line
with ``text`` and ``label``. A classifier is fitted to rows of the first set; then `partial_fit`
goes over rows of the second a few times, whose labels are new classes. With one set given twice,
the first task is every second of its labels, and the second task the others. Prints a line a run
and, for each pair, a Markdown table of the accuracy on the test rows of both, all labels to choose
from: medians and ranges over the seeds. Needs the extras ``offline`` and ``bench``.
"""

import argparse
import copy
import platform
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import tasks
import torch
from strategies import cell

from sktransformers import Backbone, Replay, TransformerSequenceClassifier

REMEDIES = {
    "none": {},
    "anchor=0.1": {"anchor": 0.1},
    "anchor=1": {"anchor": 1.0},
    "anchor=10": {"anchor": 10.0},
    "replay=100": {"replay": Replay(100)},
    "replay=600": {"replay": Replay(600)},
    "replay=600, anchor=1": {"replay": Replay(600), "anchor": 1.0},
}


def read(path, part):
    """Texts and labels of a file; of one half of its labels if there are two parts."""
    X, y = tasks.read(path)
    labels = sorted(set(y))
    chosen = set(labels if part is None else labels[part::2])
    return [(text, label) for text, label in zip(X, y, strict=True) if label in chosen]


def rows(data, name, part, n, n_test, seed):
    """Training and test rows of a task, each as X and y."""
    found = []
    for split, size, draw in (("train", n, seed), ("test", n_test, 0)):
        pairs = read(data / name / f"{split}.jsonl", part)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(draw))
        some = [pairs[i] for i in order[:size].tolist()]
        found.append(([text for text, _ in some], [label for _, label in some]))
    return found


def main():
    """Run every remedy on every pair and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--first", default="trec6")
    parser.add_argument("--second", default="ag_news")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--remedies", nargs="+", choices=list(REMEDIES), default=list(REMEDIES))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {args.rows} rows a task, {args.passes} passes over the second, "
        f"{args.test_rows} test rows a task, seeds {args.seeds}"
    )
    parts = (0, 1) if args.first == args.second else (None, None)
    results = defaultdict(list)
    for seed in args.seeds:
        (X, y), first_test = rows(args.data, args.first, parts[0], args.rows, args.test_rows, seed)
        (X_new, y_new), second_test = rows(
            args.data, args.second, parts[1], args.rows, args.test_rows, seed
        )
        everything = TransformerSequenceClassifier(args.backbone, random_state=seed)
        everything.fit(X + X_new, y + y_new)
        for name in ("first task alone", "both at once", *args.remedies):
            if name == "both at once":
                clf = everything
            else:
                params = copy.deepcopy(REMEDIES.get(name, {}))
                # The anchor is for what comes after the first task.
                clf = TransformerSequenceClassifier(
                    args.backbone, random_state=seed, replay=params.get("replay")
                ).fit(X, y)
                clf.set_params(**params)
                for _ in range(args.passes if name in REMEDIES else 0):
                    clf.partial_fit(X_new, y_new, classes=sorted(set(y_new)))
            knows = [set(clf.classes_) >= set(test[1]) for test in (first_test, second_test)]
            scores = [
                clf.score(*test) if known else float("nan")
                for test, known in zip((first_test, second_test), knows, strict=True)
            ]
            results[name].append(scores)
            print(f"seed {seed} {name:24} {scores[0]:.3f} {scores[1]:.3f}", flush=True)
    print(f"\n### {args.first}, then {args.second}\n")
    print("| | first task | second task |\n| --- | --- | --- |")
    for name, runs in results.items():
        cells = [cell([run[i] for run in runs], 3).replace("nan (nan-nan)", "") for i in (0, 1)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
