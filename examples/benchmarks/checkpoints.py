"""What states of training cost: seconds of `fit`, and megabytes.

    python examples/benchmarks/checkpoints.py DATA --set trec6 --repeats 5

DATA is as for `strategies.py`. A classifier is fine-tuned without states, with one after every
epoch, and with one after every 50 steps (`--every`), for each of several ways to train. They take
turns, and begin with another one from repetition to repetition; every training has a new
directory. Prints a Markdown table: medians of the seconds and their ratio to those without states,
and the size of a state (1e6 bytes), alone and against the trained weights. `--folder` is
where to write. Needs the extras ``offline`` and ``peft``.
"""

import argparse
import platform
import statistics
import tempfile
import warnings
from collections import defaultdict
from datetime import date
from pathlib import Path

import tasks
import torch
from saving import timed
from strategies import cell

from sktransformers import Backbone, Checkpoint, LoRA, TransformerSequenceClassifier

STRATEGIES = {"everything": "full", "two blocks": 2, "adapters": LoRA(), "the head": "head"}


def main():
    """Train in all ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--set", default="trec6")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    X, y = tasks.sample(args.data / args.set / "train.jsonl", args.rows, 0)
    ways = {
        "no states": None,
        "every epoch": {"unit": "epoch"},
        f"every {args.every} steps": {"every": args.every, "unit": "step"},
    }
    print(
        f"{args.backbone}, {len(X)} rows of {args.set}, {args.repeats} repetitions, "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, {date.today()}\n"
    )
    columns = ["trained", *(f"seconds, {way}" for way in ways), *list(ways)[1:]]
    columns += ["MB a state", "of the trained weights"]
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join(["---"] * len(columns)) + " |")
    for name, finetune in STRATEGIES.items():
        seconds, sizes = defaultdict(list), []
        for i in range(args.repeats):
            order = list(ways)[i % len(ways) :] + list(ways)[: i % len(ways)]
            for way in order:
                with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                    spec = None if ways[way] is None else Checkpoint(folder, **ways[way])
                    clf = TransformerSequenceClassifier(
                        args.backbone, finetune=finetune, checkpoint=spec, random_state=i
                    )
                    seconds[way].append(timed(clf.fit, X, y)[1])
                    sizes += [path.stat().st_size for path in Path(folder).rglob("step-*")]
        median = {way: statistics.median(values) for way, values in seconds.items()}
        row = [name, *(cell(seconds[way], 1) for way in ways)]
        row += [f"{median[way] / median['no states']:.3f}" for way in list(ways)[1:]]
        row += [f"{max(sizes) / 1e6:.1f}", f"{max(sizes) / clf.n_trained_parameters_ / 4:.2f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
