"""Seconds, tokens a second and accuracy of fine-tuning: ours and transformers.Trainer.

    python examples/benchmarks/finetune.py --rows 2000 --seeds 0 1 2

Contestants run in turn, once a seed, on the same rows with the same epochs, batch size,
learning rate and schedule; the ratios are of medians. The data are docstring sentences
(`sktransformers.datasets.load_docstrings`), or ``--train`` and ``--test`` files of JSON
lines with the fields ``text`` and ``label``. Needs the extras ``offline`` and ``bench``.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from datetime import date

import numpy as np
import peers
import torch
from sklearn.model_selection import train_test_split
from skorch.callbacks import Callback

from sktransformers import AdamW, Backbone, TransformerSequenceClassifier
from sktransformers.datasets import load_docstrings
from sktransformers.inputs.batching import bucketed_batches, pad
from sktransformers.inputs.encoding import TextEncoder, private_tokenizer
from sktransformers.modules.model import SequenceConfig, SequenceModel
from sktransformers.training import loading, optimizers, runtime


def read_rows(args, seed):
    """Rows of one seed; the test rows are the same for all."""
    if args.train:
        (X, y), (X_test, y_test) = (read_lines(path) for path in (args.train, args.test))
        order = np.random.default_rng(seed).permutation(len(X))[: args.rows]
        X, y = [X[i] for i in order], [y[i] for i in order]
        return peers.Rows(X, y, X_test[: args.test_rows], y_test[: args.test_rows])
    bunch = load_docstrings()
    X, X_test, y, y_test = train_test_split(
        bunch.data, list(bunch.target), test_size=args.test_rows, stratify=bunch.target,
        random_state=0,
    )  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(X))[: args.rows]
    return peers.Rows([X[i] for i in order], [y[i] for i in order], X_test, y_test)


def read_lines(path):
    """Texts and labels of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [row["label"] for row in rows]


class CpuSeconds(Callback):
    """Record the CPU time of each epoch: the wall clock is too noisy for a few percent."""

    def on_epoch_begin(self, net, **kwargs):
        self.begin_ = time.process_time()

    def on_epoch_end(self, net, **kwargs):
        net.history.record("cpu_seconds", time.process_time() - self.begin_)


def ours(rows, args, seed, head_init):
    """The estimator, with the Trainer's one learning rate for backbone and head."""
    clf = TransformerSequenceClassifier(
        backbone=args.backbone,
        head_init=head_init,
        lr=args.lr,
        optimizer=AdamW(head_lr=args.lr),
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        max_length=256,
        random_state=seed,
        callbacks=[CpuSeconds()],
    )
    begin = time.perf_counter()
    clf.fit(rows.X, rows.y)
    seconds = time.perf_counter() - begin
    encoder = TextEncoder(clf.tokenizer_, clf.max_length_)
    tokens = args.epochs * len(encoder.encode(rows.X).ids.flat)
    run = peers.Run(seconds, clf.score(rows.X_test, rows.y_test), tokens / seconds)
    return run, sum(row["cpu_seconds"] for row in clf.history_)


def bare_loop(rows, args, seed):
    """CPU seconds of what `ours` does in its epochs without skorch: same batches and model."""
    loaded = loading.load(loading.as_backbone(args.backbone), verbose=False)
    classes = sorted(set(rows.y))
    config = SequenceConfig(
        backbone_config=loaded.backbone.config,
        pooling=loaded.pooling,
        id2label=dict(enumerate(classes)),
        attn_implementation=loaded.backbone.config._attn_implementation,
    )
    device = runtime.resolve_device("auto")
    model = SequenceModel(config, loaded.backbone).to(device).train()
    tokenizer = private_tokenizer(loaded.tokenizer)
    texts = TextEncoder(tokenizer, 256).encode(rows.X).encoded
    targets = torch.tensor([classes.index(label) for label in rows.y])
    optimizer = optimizers.build_optimizer(
        model, AdamW(), lr=args.lr, head_lr=args.lr, weight_decay=0.01
    )
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_steps = args.epochs * -(-len(texts) // args.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, optimizers.schedule_factor("linear", n_steps, n_steps // 10)
    )
    begin = time.process_time()
    for _ in range(args.epochs):
        for batch in bucketed_batches(texts.lengths, args.batch_size, rng):
            optimizer.zero_grad(set_to_none=True)
            logits = model(**pad(texts, batch, tokenizer.pad_token_id, device)).logits
            loss = torch.nn.functional.cross_entropy(logits, targets[batch].to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss.item()
    return time.process_time() - begin


def main():
    """Run all contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    directory = loading.locate(args.backbone, Backbone()).name
    recipe = {"lr": args.lr, "epochs": args.epochs, "batch_size": args.batch_size}
    grouped = {"train_sampling_strategy": "group_by_length"}
    contestants = {
        "ours, random head": lambda r, s: ours(r, args, s, "random"),
        "ours, probe start": lambda r, s: ours(r, args, s, "probe"),
        "Trainer": lambda r, s: (peers.trainer(r, directory, seed=s, **recipe), None),
        "Trainer, grouped": lambda r, s: (
            peers.trainer(r, directory, seed=s, **recipe, **grouped),
            None,
        ),
        "bare loop": lambda r, s: (None, bare_loop(r, args, s)),
    }
    runs = {name: [] for name in contestants}
    # A first short run of each warms caches and allocators and is thrown away.
    warm = read_rows(args, 0)
    warm = peers.Rows(warm.X[:64], warm.y[:64], warm.X_test[:8], warm.y_test[:8])
    for contestant in contestants.values():
        contestant(warm, 0)
    for seed in args.seeds:
        rows = read_rows(args, seed)
        for name, contestant in contestants.items():
            runs[name].append(contestant(rows, seed))
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.rows} rows, {args.epochs} epochs, batch "
        f"{args.batch_size}, lr {args.lr}, seeds {args.seeds}"
    )
    print(f"{'':20} {'seconds (min-max)':>22} {'tokens/s':>9} {'accuracy (min-max)':>24}")
    medians = {}
    for name, results in runs.items():
        if name == "bare loop":
            continue
        seconds = [run.fit_seconds for run, _ in results]
        accuracy = [run.accuracy for run, _ in results]
        medians[name] = statistics.median(seconds)
        speed = statistics.median(run.tokens_per_second for run, _ in results)
        print(
            f"{name:20} {medians[name]:8.1f} ({min(seconds):5.1f}-{max(seconds):5.1f}) "
            f"{speed:9.0f} {np.mean(accuracy):10.3f} "
            f"({min(accuracy):.3f}-{max(accuracy):.3f})"
        )
    base = medians["ours, random head"]
    print(f"Trainer / ours: {medians['Trainer'] / base:.2f}")
    print(f"Trainer, grouped / ours: {medians['Trainer, grouped'] / base:.2f}")
    print(f"probe start: {medians['ours, probe start'] - base:+.1f} s")
    loops = statistics.median(seconds for _, seconds in runs["bare loop"])
    epochs = statistics.median(seconds for _, seconds in runs["ours, random head"])
    print(f"through skorch / bare loop, CPU time of the epochs: {epochs / loops:.3f}")


if __name__ == "__main__":
    main()
