"""Speed and memory of predict_proba on many short texts, beside transformers.pipeline.

    python examples/benchmarks/predict.py --texts 10000

All predict with the same backbone, fine-tuned for one step: ours as it is, in bf16 and with the
backends of ``accelerate``, the pipeline with a model of the backbone's own classification class and
``batch_size=32``. They run in turn; ratios are of medians. Memory is how far the resident set rises
during ``predict_proba``, watched every 5 ms, each size in a process of its own. Needs the extras
``offline`` and ``bench``.
"""

import copy
import subprocess
import sys
import tempfile
import threading
import time

import contest
import psutil
import transformers

from sktransformers import Backbone, TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings


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


def accelerated(clf, backend):
    """The estimator with another backend, and the seconds that took, first prediction included."""
    begin = time.perf_counter()
    found = clf.accelerate(backend)
    found.predict_proba(short_texts(500))
    print(f"accelerate({backend!r}): {time.perf_counter() - begin:.1f} s", flush=True)
    return found


def main():
    """Time all in turn, then measure memory."""
    parser = contest.parser(__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--backends", nargs="*", default=["int8", "onnx", "onnx-int8", "compile"])
    parser.add_argument("--memory-of", type=int, help="internal: one size, this process")
    args = parser.parse_args()
    contest.quiet()
    if args.memory_of:
        measure_memory(args.backbone, args.memory_of)
        return

    contest.header(args)
    clf, texts = fitted(args.backbone), short_texts(args.texts)
    source = contest.directory(args.backbone)
    with tempfile.TemporaryDirectory() as directory:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
        model.save_pretrained(directory)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(directory)
        pipe = transformers.pipeline(
            "text-classification", model=directory, batch_size=32, device=args.device
        )
    estimators = {"ours": clf, "ours, bf16": copy.copy(clf).set_params(precision="bf16")}
    estimators |= {f"ours, {name}": accelerated(clf, name) for name in args.backends}

    def ours(estimator):
        return lambda seed: (contest.seconds_of(lambda: estimator.predict_proba(texts))[0], None)

    contestants = {name: ours(estimator) for name, estimator in estimators.items()}
    contestants["pipeline"] = lambda seed: (
        contest.seconds_of(lambda: pipe(texts, truncation=True, top_k=None))[0],
        None,
    )
    found = [contest.compete(f"{args.texts} short texts", contestants, args.repeats)]
    memory = {}
    for n in (args.texts // 10, args.texts, 2 * args.texts, 4 * args.texts):
        command = [sys.executable, __file__, "--backbone", args.backbone, "--memory-of", str(n)]
        grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[n] = round(float(grown), 1)
        print(f"peak memory during predict_proba of {n} texts: +{memory[n]} MB", flush=True)
    contest.save(args.out, "predict", found, vars(args), memory_mb=memory)


if __name__ == "__main__":
    main()
