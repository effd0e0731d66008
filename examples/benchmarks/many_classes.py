"""Cost of very many classes: a training step of the head, and the best k classes of a row.

    OMP_NUM_THREADS=1 python examples/benchmarks/many_classes.py

Heads on random vectors, classes drawn after Zipf's law. A step is forward, loss and backward
(first columns), and a step of fused AdamW over all weights of the head, which is the same for all
but the adaptive head, which has fewer weights. Contestants take turns; figures are medians of wall
time, ratios those of medians. Memory is measured in a process of its own, on Linux: what its
resident memory grows by at its peak, over the head's weights and the optimizer's state. Prints
Markdown tables. Needs no data.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sktransformers.inputs.hierarchy import adaptive_clusters, class_tree, proposal
from sktransformers.modules import losses, softmax

KINDS = ("plain", "adaptive", "tree", "sampled")


class Head:
    """A last layer, its loss, and an optimizer, on random vectors."""

    def __init__(self, kind, n_classes, width, batch_size, n_negatives):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        zipf = 1 / np.arange(1, n_classes + 1)
        counts = rng.permutation(1e6 * zipf / zipf.sum())
        if kind == "adaptive":
            clusters = adaptive_clusters(counts, "auto")
            self.out = softmax.AdaptiveSoftmax(width, **clusters, div_value=4.0)
        elif kind == "tree":
            self.out = softmax.TreeSoftmax(
                width, class_tree("huffman", np.arange(n_classes), counts)
            )
        else:
            self.out = nn.Linear(width, n_classes)
        self.defers = kind != "plain"
        if kind == "sampled":
            q = torch.from_numpy(proposal("log_uniform", counts)).float()
            self.loss = losses.SampledCrossEntropy(n_negatives, q)
        else:
            self.loss = losses.LayerLikelihood() if self.defers else losses.CrossEntropy()
        self.vectors = torch.randn(batch_size, width, requires_grad=True)
        targets = rng.choice(n_classes, batch_size, p=counts / counts.sum())
        self.targets, self.weights = torch.from_numpy(targets), torch.ones(batch_size)
        self.optimizer = torch.optim.AdamW(self.out.parameters(), lr=1e-3, fused=True)

    def step(self):
        """Seconds until the gradients are there, and of the optimizer."""
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        if hasattr(self.loss, "begin_batch"):
            self.loss.begin_batch()
        if self.defers:
            output = softmax.Deferred(self.vectors, self.out)
        else:
            output = self.out(self.vectors)
        self.loss(output, self.targets, self.weights).backward()
        middle = time.perf_counter()
        self.optimizer.step()
        return middle - begin, time.perf_counter() - middle


def added_memory(function):
    """By how many MB the resident memory of this process has grown at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak()
    function()
    return peak() - before


def peak():
    """Peak of the resident memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def step_memory(sent, *config):
    """Send what a step adds to the memory in use after the optimizer has its state."""
    head = Head(*config)
    head.step()  # the state of the optimizer is there from now on
    head.optimizer.zero_grad(set_to_none=True)
    sent.send(added_memory(head.step))


def prediction_memory(sent, dense, k, *config):
    """Send what the k best classes of all rows add to the memory."""
    head = Head(*config)
    with torch.inference_mode():
        head.out(head.vectors[:1])
        sent.send(added_memory(lambda: predict(head, dense, k)))


def measured(function, *args):
    """What a function sends from a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, sent = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(sent, *args))
    process.start()
    found = receive.recv()
    process.join()
    return found


def predict(head, dense, k):
    """Log-probabilities of all classes, a batch of 256 rows at a time, or of the k best."""
    n_classes = head.out(head.vectors[:1]).shape[1]
    if not dense:
        return torch.cat(
            [
                softmax.most_probable(head.out, part, n_classes, k)
                for part in head.vectors.split(256)
            ]
        )
    found = np.empty((len(head.vectors), n_classes))  # as predict_proba gives them
    for begin in range(0, len(found), 256):
        found[begin : begin + 256] = head.out(head.vectors[begin : begin + 256]).numpy()
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found


def alternate(contestants, repeats):
    """What each contestant gives, one after the other in turns."""
    found = [[] for _ in contestants]
    for repeat in range(repeats + 2):
        for contestant, values in zip(contestants, found):
            value = contestant()
            if repeat >= 2:  # the first runs warm up
                values.append(value)
    return found


def print_steps(args):
    """Table of training steps."""
    print(
        "\n| head | batch | loss and gradient (ms) | optimizer (ms) | step (ms) "
        "| plain / this, loss and gradient | step | memory of a step (MB) |\n|" + " --- |" * 8
    )
    for batch_size in args.batches:
        config = args.classes, args.width, batch_size, args.negatives
        heads = [Head(kind, *config) for kind in KINDS]
        runs = alternate([head.step for head in heads], args.repeats)
        medians = [
            [1e3 * statistics.median(column) for column in (*zip(*run), [*map(sum, run)])]
            for run in runs
        ]
        for kind, (gradient, optimizer, step) in zip(KINDS, medians):
            memory = measured(step_memory, kind, *config)
            print(
                f"| {kind} | {batch_size} | {gradient:.2f} | {optimizer:.2f} | {step:.2f} "
                f"| {medians[0][0] / gradient:.1f} | {medians[0][2] / step:.1f} | {memory:.0f} |",
                flush=True,
            )


def print_predictions(args):
    """Table of predictions."""
    print(
        f"\n| head | predict_proba (s) | predict_top_k, k = {args.k} (s) | ratio "
        "| memory of predict_proba (MB) | of predict_top_k (MB) |\n|" + " --- |" * 6
    )
    for kind in KINDS[:3]:
        config = kind, args.classes, args.width, args.rows, args.negatives
        head = Head(*config)

        def seconds(dense, head=head):
            begin = time.perf_counter()
            with torch.inference_mode():
                predict(head, dense, args.k)
            return time.perf_counter() - begin

        runs = alternate(
            [lambda: seconds(True), lambda: seconds(False)], max(3, args.repeats // 10)
        )
        all_of_them, best = (statistics.median(run) for run in runs)
        memory = [measured(prediction_memory, dense, args.k, *config) for dense in (True, False)]
        print(
            f"| {kind} | {all_of_them:.2f} | {best:.2f} | {all_of_them / best:.1f} "
            f"| {memory[0]:.0f} | {memory[1]:.0f} |",
            flush=True,
        )


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--negatives", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}: {args.classes:,} classes, vectors of width {args.width}, "
        f"{args.negatives:,} negatives, {args.rows:,} rows to predict, {args.repeats} runs"
    )
    print_steps(args)
    print_predictions(args)


if __name__ == "__main__":
    main()
