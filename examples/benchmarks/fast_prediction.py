"""What `accelerate` costs in accuracy and brings in speed, for each backend.

    python examples/benchmarks/fast_prediction.py DATA --sets trec6 ag_news sms_spam --repeats 5

DATA is as for `strategies.py`. One classifier a set is fine-tuned with the defaults, and predicts
the test rows with every backend, the float one as it is included. Prints a Markdown table a set:
accuracy, the largest and the mean difference of probabilities, the seconds that accelerate took,
and with ``--repeats`` the median seconds of a prediction, where backends take turns. Needs the
extras ``offline``, ``onnx`` and ``int8``, and a C++ compiler.
"""

import argparse
import copy
import platform
import statistics
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import tasks
import torch

from sktransformers import Backbone, TransformerSequenceClassifier

BACKENDS = ("bf16", "compile", "onnx", "onnx-int8", "int8")


def accelerated(clf, backend):
    """The classifier with a backend, and the seconds that took; bf16 is only a parameter."""
    begin = time.perf_counter()
    if backend == "bf16":
        return copy.copy(clf).set_params(precision="bf16"), 0.0
    return clf.accelerate(backend), time.perf_counter() - begin


def seconds_of(models, X, repeats):
    """Median seconds of a prediction of each model; they take turns."""
    seconds = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            begin = time.perf_counter()
            model.predict(X)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    """Compare the backends on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--sets", nargs="+", default=["trec6", "ag_news", "sms_spam"])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--repeats", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.rows} training rows, {args.test_rows} test rows"
    )
    for name in args.sets:
        X, y = tasks.sample(args.data / name / "train.jsonl", args.rows, 0)
        X_test, y_test = tasks.sample(args.data / name / "test.jsonl", args.test_rows, 0)
        clf = TransformerSequenceClassifier(args.backbone, random_state=0, device="cpu").fit(X, y)
        models, made, rows = {"float": clf}, {"float": 0.0}, {}
        for backend in args.backends:
            models[backend], made[backend] = accelerated(clf, backend)
        expected = clf.predict_proba(X_test)
        for backend, model in models.items():
            proba = model.predict_proba(X_test)
            labels = model.classes_[proba.argmax(axis=1)]
            change = np.abs(proba - expected)
            accuracy = np.mean(labels == np.asarray(y_test))
            rows[backend] = [f"{accuracy:.3f}", f"{change.max():.4f}", f"{change.mean():.5f}"]
            rows[backend].append(f"{made[backend]:.0f}")
        head = ["backend", "accuracy", "largest difference", "mean difference", "seconds to make"]
        if args.repeats:
            head.append(f"seconds, {len(X_test):,} rows")
            for backend, seconds in seconds_of(models, X_test, args.repeats).items():
                rows[backend].append(f"{seconds:.2f}")
        print(f"\n### {name}\n\n| " + " | ".join(head) + " |")
        print("| " + " | ".join(["---"] * len(head)) + " |")
        for backend, row in rows.items():
            print(f"| {backend} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
