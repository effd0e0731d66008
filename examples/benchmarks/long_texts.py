"""Long documents: the first 128 tokens alone, or all of them in windows of 128.

    python examples/benchmarks/long_texts.py DATA --seeds 0 1 2
    python examples/benchmarks/long_texts.py --memory

DATA holds ``movie_reviews`` with ``train.jsonl`` and ``test.jsonl``, one JSON object with
``text`` and ``label`` a line. The training rows are the first of a shuffle by the seed, all
of them by default; which of the two runs first alternates from seed to seed.

``--memory`` fits a document of 10 and one of 300 windows, each in a process of its own, and prints
how far the resident set rises above what it was before ``fit``. Needs the extras ``offline``
and ``bench``.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import peers
import psutil
import torch
from small_data import sample
from tasks import spread

from sktransformers import Backbone, TransformerSequenceClassifier

MAX_LENGTH = 128
MAX_BATCH_TOKENS = 4096
MEMORY_LENGTH = 512  # so that ten windows, too, are more than the device sees at once


def fit_score(rows, seed, backbone, long_text):
    """The classifier with its defaults but for the length."""
    clf = TransformerSequenceClassifier(
        backbone, max_length=MAX_LENGTH, long_text=long_text, random_state=seed
    )
    begin = time.perf_counter()
    clf.fit(rows.X, rows.y)
    seconds = time.perf_counter() - begin
    return peers.Run(seconds, clf.score(rows.X_test, rows.y_test))


def compare(args):
    """Both ways on every seed."""
    directory = args.data / "movie_reviews"
    X_test, y_test = sample(directory / "test.jsonl", args.test_rows, 0)
    runs = {"truncate": [], "window": []}
    for turn, seed in enumerate(args.seeds):
        X, y = sample(directory / "train.jsonl", args.rows, seed)
        rows = peers.Rows(X, y, X_test, y_test)
        for long_text in list(runs)[:: -1 if turn % 2 else 1]:
            run = fit_score(rows, seed, args.backbone, long_text)
            runs[long_text].append(run)
            print(
                f"seed {seed} {long_text:10} {run.score:.3f} ({run.fit_seconds:.1f} s)", flush=True
            )
    print(f"\n{len(X)} rows, {len(X_test)} to test on, max_length={MAX_LENGTH}")
    print(f"{'long_text':12} {'accuracy':26} seconds of fit")
    for long_text, results in runs.items():
        scores = spread([run.score for run in results], 3)
        print(f"{long_text:12} {scores:26} {spread([run.fit_seconds for run in results], 1)}")
    seconds = {
        name: statistics.median(run.fit_seconds for run in results)
        for name, results in runs.items()
    }
    print(f"window / truncate: {seconds['window'] / seconds['truncate']:.2f}")


def measure_memory(backbone, n):
    """Print by how many MB a fit of a document of n windows raises the memory of this process."""
    text = "the " * (n * (MEMORY_LENGTH - 2))  # one token each; two are [CLS] and [SEP]
    clf = TransformerSequenceClassifier(
        backbone,
        max_length=MEMORY_LENGTH,
        long_text="window",
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_epochs=1,
        head_init="random",
        random_state=0,
    )
    before = psutil.Process().memory_info().rss
    clf.fit([text, "short"], ["a", "b"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    print((peak - before) / 2**20)


def main():
    """Compare accuracy and seconds, or measure memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--test-rows", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", type=int, help="internal: one size, this process")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.memory_of:
        measure_memory(args.backbone, args.memory_of)
        return
    if args.data is None and not args.memory:
        parser.error("give DATA, --memory or both")
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    if args.data is not None:
        compare(args)
    if args.memory:
        for n in (10, 300):
            command = [sys.executable, __file__, "--backbone", args.backbone]
            command += ["--memory-of", str(n)]
            grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(
                f"peak memory of fitting a document of {n} windows, "
                f"max_batch_tokens={MAX_BATCH_TOKENS}: +{float(grown):.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
