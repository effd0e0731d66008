"""Several labels a text: F1 at a threshold of one half and at tuned ones, beside TF-IDF.

    python examples/benchmarks/multilabel.py DATA --rows 600 3000

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line
with ``text`` and a list of ``labels``. The training rows are the first of a shuffle by the seed,
the test rows are the same for all seeds. Without validation rows a tuned threshold comes from
rows that the probe held out, with ``early_stopping=True`` from a tenth of the training rows. TF-IDF
is followed by a logistic regression a label, with balanced classes too. A tuned threshold changes
no probability: each model is trained once and read twice. Prints a line a run and a Markdown table
of medians and ranges over the seeds. Needs the extra ``offline``.
"""

import argparse
import platform
import time
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import tasks
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from sktransformers import Backbone, TransformerSequenceClassifier


def scores(y, found):
    """Micro and macro F1."""
    return [f1_score(y, found, average=kind, zero_division=0) for kind in ("micro", "macro")]


def ours(X, y, X_test, y_test, **params):
    """(name, scores) at one half and tuned, and seconds of fit."""
    clf = TransformerSequenceClassifier(threshold="tuned", **params)
    begin = time.perf_counter()
    clf.fit(X, y)
    seconds = time.perf_counter() - begin
    proba = clf.predict_proba(X_test)
    name = "ours, early stopping" if clf.early_stopping else "ours"
    yield f"{name}, 0.5", scores(y_test, proba > 0.5), seconds
    yield f'{name}, "tuned"', scores(y_test, proba > clf.threshold_), seconds


def tfidf(X, y, X_test, y_test, class_weight):
    """(name, scores) of one logistic regression a label, and seconds of fit."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000, class_weight=class_weight)),
    )
    begin = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - begin
    name = "TF-IDF" if class_weight is None else f"TF-IDF, {class_weight}"
    yield name, scores(y_test, model.predict(X_test)), seconds


def main():
    """Run every contestant on every size and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--set", default="goemotions")
    parser.add_argument("--rows", type=int, nargs="+", default=[600])
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.set}, {args.test_rows} test rows, seeds {args.seeds}"
    )
    folder = args.data / args.set
    labels = MultiLabelBinarizer().fit(
        [*tasks.read(folder / "train.jsonl")[1], *tasks.read(folder / "test.jsonl")[1]]
    )
    X_test, y_test = tasks.sample(folder / "test.jsonl", args.test_rows, 0)
    y_test = labels.transform(y_test)
    for n in args.rows:
        results = defaultdict(list)
        for seed in args.seeds:
            X, y = tasks.sample(folder / "train.jsonl", n, seed)
            rows = X, labels.transform(y), X_test, y_test
            common = {"backbone": args.backbone, "random_state": seed}
            for name, found, seconds in (
                *ours(*rows, **common),
                *ours(*rows, **common, early_stopping=True),
                *tfidf(*rows, None),
                *tfidf(*rows, "balanced"),
            ):
                results[name].append((*found, seconds))
                print(
                    f"{n:6} rows seed {seed} {name:30} micro {found[0]:.3f} macro {found[1]:.3f} "
                    f"({seconds:.1f} s)",
                    flush=True,
                )
        print(f"\n| {n:,} rows | micro F1 | macro F1 | seconds |\n| --- | --- | --- | --- |")
        for name, runs in results.items():
            micro, macro, seconds = zip(*runs, strict=True)
            cells = tasks.spread(micro, 3), tasks.spread(macro, 3), tasks.spread(seconds, 1)
            print(f"| {name} | {' | '.join(cells)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
