"""What each augmenter does to the accuracy on few rows.

    python examples/benchmarks/augmentation.py DATA --sets trec6 sib200_pt --rows 100 600

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line with
``text`` and ``label`` (or what `tasks.py` reads). The training rows are the first of a shuffle by
the seed, the test rows are the same for all seeds. The augmenters take turns within a seed, and
begin with another one from seed to seed. ``--rates 0.05 0.1 0.2`` runs each with several rates.
With ``--masked-lm`` and ``--translators`` the checkpoints of `MaskedReplacement` and
`BackTranslation` are named, and ``--wordnet`` is the language for WordNet; without them these
are left out. Prints a line a run, and a Markdown table of medians and ranges over the seeds.
Needs the extras ``offline`` and ``bench``.
"""

import argparse
import platform
import time
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import strategies
import tasks
import torch

from sktransformers import (
    Backbone,
    BackTranslation,
    MaskedReplacement,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
)


def augmenters(args):
    """Name -> what to pass as ``augment``."""
    found = {"none": None}
    edits = {
        "SynonymReplacement (embedding)": SynonymReplacement(stop_words="english"),
        "RandomInsertion": RandomInsertion(),
        "RandomSwap": RandomSwap(),
        "RandomDeletion": RandomDeletion(),
    }
    if args.wordnet:
        synonyms = SynonymReplacement("wordnet", language=args.wordnet, stop_words="english")
        edits["SynonymReplacement (WordNet)"] = synonyms
    if args.masked_lm:
        edits["MaskedReplacement"] = MaskedReplacement(args.masked_lm)
    for name, augmenter in edits.items():
        if not args.rates:
            found[name] = augmenter.set_params(rows=args.share)
        for rate in args.rates:
            found[f"{name}, rate {rate}"] = type(augmenter)(
                **{**augmenter.get_params(), "rate": rate, "rows": args.share}
            )
    if args.translators:
        found["BackTranslation"] = BackTranslation(*args.translators, rows=args.share)
    four = SynonymReplacement(stop_words="english"), RandomInsertion(), RandomSwap()
    found["the first four"] = [
        augmenter.set_params(rows=args.share / 2) for augmenter in (*four, RandomDeletion())
    ]
    return found


def main():
    """Run every augmenter on every set, size and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--sets", nargs="+", default=["trec6", "sib200_pt"])
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 600])
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.5, help="of rows that change (rows=)")
    parser.add_argument("--rates", type=float, nargs="*", default=[])
    parser.add_argument("--wordnet")
    parser.add_argument("--masked-lm")
    parser.add_argument("--translators", nargs=2, metavar=("FORWARD", "BACKWARD"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; at most {args.test_rows} test rows, {args.epochs} epochs, "
        f"rows={args.share}, seeds {args.seeds}"
    )
    found = augmenters(args)
    names, columns, results = list(found), [], defaultdict(list)
    for name in args.sets:
        X_test, y_test = tasks.sample(args.data / name / "test.jsonl", args.test_rows, 0)
        for n in args.rows:
            columns.append((name, n))
            for turn, seed in enumerate(args.seeds):
                X, y = tasks.sample(args.data / name / "train.jsonl", n, seed)
                rows = tasks.peers.Rows(X, y, X_test, y_test)
                first = turn % len(names)
                for which in names[first:] + names[:first]:
                    model = tasks.estimator(rows)(
                        args.backbone,
                        augment=found[which],
                        max_epochs=args.epochs,
                        random_state=seed,
                    )
                    begin = time.perf_counter()
                    model.fit(rows.X, rows.y)
                    seconds = time.perf_counter() - begin
                    score = rows.score(model.predict(rows.X_test).tolist())
                    results[which, name, n].append(score)
                    print(
                        f"{name:10} {n:5} rows seed {seed} {which:40} {score:.3f} "
                        f"({seconds:.1f} s)",
                        flush=True,
                    )
    print("\n| augment | " + " | ".join(f"{name}, {n:,} rows" for name, n in columns) + " |")
    print("| " + " | ".join(["---"] * (1 + len(columns))) + " |")
    for which in names:
        cells = [strategies.cell(results[which, *column], 3) for column in columns]
        print("| " + " | ".join([which, *cells]) + " |")


if __name__ == "__main__":
    main()
