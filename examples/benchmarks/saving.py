"""What a saved model takes: bytes, seconds to write it and seconds to read it.

    python examples/benchmarks/saving.py DATA --set trec6 --repeats 5

DATA is as for `strategies.py`. Classifiers are fine-tuned for an epoch in four ways: everything,
the head, the top two blocks, adapters. Each is written and read in the ways that suit it: as a
directory with all weights, with what differs from the pretrained backbone, or with adapters; as a
pickle; by joblib. Prints a Markdown table: megabytes (1e6 bytes), their ratio to the weights, and
seconds, medians and ranges over the repetitions. What was written lies in the cache of the disk
when it is read. Needs the extras ``offline`` and ``peft``.
"""

import argparse
import copy
import pickle
import platform
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path

import joblib
import numpy as np
import tasks
import torch
from strategies import cell

import sktransformers
from sktransformers import Backbone, LoRA, TransformerSequenceClassifier

STRATEGIES = {"everything": "full", "the head": "head", "two blocks": 2, "adapters": LoRA()}


def to_pickle(clf, path):
    """Write a pickle."""
    with path.open("wb") as file:
        pickle.dump(clf, file)


def from_pickle(path):
    """Read a pickle."""
    with path.open("rb") as file:
        return pickle.load(file)


def directory(weights):
    """A function that writes a directory."""
    return lambda clf, path: clf.save_pretrained(path, weights=weights)


# Name, what was trained, what writes and what reads.
WAYS = [
    ("directory, all weights", "everything", directory("full"), sktransformers.load),
    ("pickle", "everything", to_pickle, from_pickle),
    ("joblib", "everything", joblib.dump, joblib.load),
    ('directory, `weights="delta"`', "everything", directory("delta"), sktransformers.load),
    ('directory, `weights="delta"`', "two blocks", directory("delta"), sktransformers.load),
    ('directory, `weights="delta"`', "the head", directory("delta"), sktransformers.load),
    ("directory, adapters", "adapters", directory("auto"), sktransformers.load),
    ('directory, `weights="full"`', "adapters", directory("full"), sktransformers.load),
    ("pickle", "adapters", to_pickle, from_pickle),
]


def n_bytes(path):
    """Bytes of a file, or of all files in a directory."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def timed(function, *args):
    """Result of a function, and the seconds it took."""
    begin = time.perf_counter()
    return function(*args), time.perf_counter() - begin


def main():
    """Write and read in every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--set", default="trec6")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    X, y = tasks.sample(args.data / args.set / "train.jsonl", args.rows, 0)
    trained = {}
    for name, finetune in STRATEGIES.items():
        clf = TransformerSequenceClassifier(
            args.backbone, finetune=copy.copy(finetune), max_epochs=1, random_state=0, device="cpu"
        )
        trained[name] = clf.fit(X, y)
    clf = trained["everything"]
    weights = sum(p.numel() * p.element_size() for p in clf.model_.parameters())
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {weights / 1e6:.1f} MB of weights, {args.repeats} repetitions\n"
    )
    print("| | trained | MB | of the weights | seconds to write | seconds to read |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, what, write, read in WAYS:
        clf, written, seconds = trained[what], [], {"write": [], "read": []}
        with tempfile.TemporaryDirectory() as folder:
            for i in range(args.repeats):
                path = Path(folder) / str(i)
                seconds["write"].append(timed(write, clf, path)[1])
                again, taken = timed(read, path)
                seconds["read"].append(taken)
                written.append(n_bytes(path))
            if not np.array_equal(again.predict_proba(X[:50]), clf.predict_proba(X[:50])):
                raise RuntimeError(f"{name} ({what}) predicts something else")
        shown = [cell(seconds[each], 2) for each in ("write", "read")]
        size = f"{written[0] / 1e6:.1f} | {written[0] / weights:.3f}"
        print(f"| {name} | {what} | {size} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
