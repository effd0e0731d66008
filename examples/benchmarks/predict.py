"""Speed and memory of predict_proba on many short texts, beside transformers.pipeline.

    python examples/benchmarks/predict.py --texts 20000

Both predict with the same backbone, fine-tuned for one step: ours as it is, the pipeline
with a model of the backbone's own classification class. They run in turn; ratios are of
medians. Memory is how far the resident set rises during ``predict_proba``, watched every
5 ms, each size in a process of its own. Needs the extras ``offline`` and ``bench``.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from datetime import date

import psutil
import torch
import transformers

from sktransformers import Backbone, TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings
from sktransformers.training import loading


def short_texts(n):
    """n docstring sentences, repeated as often as needed, each time a little different."""
    data = load_docstrings().data
    return [f"{data[i % len(data)]} {i // len(data)}" for i in range(n)]


def fitted(backbone):
    """A classifier that has seen a few texts; its speed does not depend on its weights."""
    clf = TransformerSequenceClassifier(backbone, max_epochs=1, head_init="random")
    return clf.fit(short_texts(32), ["a", "b"] * 16)


def measure_memory(backbone, n):
    """Print by how many MB predict_proba raises the memory of this process."""
    clf, texts = fitted(backbone), short_texts(n)
    clf.predict_proba(texts[:1000])  # what any prediction needs once
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    clf.predict_proba(texts)
    done.set()
    watcher.join()
    print((peak - before) / 2**20)


def main():
    """Time both in turn, then measure memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", type=int, help="internal: one size, this process")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.memory_of:
        measure_memory(args.backbone, args.memory_of)
        return

    clf, texts = fitted(args.backbone), short_texts(args.texts)
    source = loading.locate(args.backbone, Backbone()).name
    with tempfile.TemporaryDirectory() as directory:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
        model.save_pretrained(directory)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(directory)
        pipe = transformers.pipeline("text-classification", model=directory, batch_size=32)
    contestants = {
        "ours": lambda: clf.predict_proba(texts),
        "pipeline": lambda: pipe(texts, truncation=True, top_k=None),
    }
    seconds = {name: [] for name in contestants}
    for _ in range(args.repeats):
        for name, predict in contestants.items():
            begin = time.perf_counter()
            predict()
            seconds[name].append(time.perf_counter() - begin)
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.texts} texts, {args.repeats} times"
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:10} {medians[name]:7.1f} s ({min(values):.1f}-{max(values):.1f})")
    print(f"pipeline / ours: {medians['pipeline'] / medians['ours']:.2f}")
    for n in (args.texts // 10, args.texts, 2 * args.texts):
        command = [sys.executable, __file__, "--backbone", args.backbone, "--memory-of", str(n)]
        grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"peak memory during predict_proba of {n} texts: +{float(grown):.1f} MB")


if __name__ == "__main__":
    main()
