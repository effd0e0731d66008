"""Seconds of predict on pairs whose texts repeat, beside pairs of texts that do not.

    python examples/benchmarks/repeated_texts.py --pairs 2000 --texts 300

A bi-encoder reads each distinct text once. The pairs are drawn at random from a few docstring
sentences; for comparison every text of the same pairs gets a number behind it, so that no two
are equal. Both are predicted in turn; the ratio is of medians. Needs the extra ``offline``.
"""

import argparse
import platform
import statistics
import time
import warnings
from datetime import date

import numpy as np
import torch

from sktransformers import Backbone, PairClassifier
from sktransformers.datasets import load_docstrings


def main():
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--interaction", default="all")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(0)
    texts = rng.permutation(load_docstrings().data)[: args.texts].tolist()
    drawn = rng.integers(len(texts), size=(args.pairs, 2))
    repeated = [(texts[i], texts[j]) for i, j in drawn]
    contestants = {
        "repeated": repeated,
        "distinct": [(f"{a} {2 * n}", f"{b} {2 * n + 1}") for n, (a, b) in enumerate(repeated)],
    }
    # A model that has seen a few pairs; its speed does not depend on its weights.
    clf = PairClassifier(
        args.backbone,
        interaction=args.interaction,
        max_epochs=1,
        head_init="random",
        random_state=0,
    )
    clf.fit(repeated[:32], ["a", "b"] * 16)
    clf.predict(repeated[:64])
    seconds = {name: [] for name in contestants}
    for _ in range(args.repeats):
        for name, pairs in contestants.items():
            begin = time.perf_counter()
            clf.predict(pairs)
            seconds[name].append(time.perf_counter() - begin)
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.pairs} pairs, interaction={args.interaction!r}, "
        f"{args.repeats} times"
    )
    for name, values in seconds.items():
        n_texts = len({text for pair in contestants[name] for text in pair})
        print(
            f"{name}, {n_texts} distinct texts: {statistics.median(values):.2f} s "
            f"({min(values):.2f} to {max(values):.2f})"
        )
    ratio = statistics.median(seconds["distinct"]) / statistics.median(seconds["repeated"])
    print(f"distinct / repeated: {ratio:.2f}")


if __name__ == "__main__":
    main()
