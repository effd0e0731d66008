"""Contestants in turn, a table of medians, and the same as JSON and PNG."""

import argparse
import json
import platform
import statistics
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import peers
import torch
import transformers
from sklearn.model_selection import train_test_split

from sktransformers import Backbone
from sktransformers.datasets import load_docstrings
from sktransformers.training import loading


def parser(description, **defaults):
    """Arguments that the benchmarks share."""
    new = argparse.ArgumentParser(description=description)
    new.add_argument("--out", default="examples/output", help="folder for JSON and PNG")
    new.add_argument("--repeats", type=int, default=5)
    new.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    new.set_defaults(**defaults)
    return new


def quiet():
    """Only what the benchmarks print themselves."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def machine():
    """Where figures come from, as a dict and as a line."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    where = {
        "date": str(date.today()),
        "cpu": cpu,
        "amx": bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        where["gpu"] = torch.cuda.get_device_name()
    return where


def seconds_of(work):
    """Seconds that a function takes, and what it returns."""
    begin = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, found


def compete(title, contestants, repeats, warm_up=True):
    """Let contestants run in turn; each repetition begins with another one.

    ``contestants[name](seed)`` returns seconds and a score, or seconds and None.
    """
    names = list(contestants)
    runs = {name: {"seconds": [], "score": []} for name in names}
    if warm_up:  # thrown away: caches, allocators, imports
        for name in names:
            contestants[name](repeats)
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds, score = contestants[name](i)
            runs[name]["seconds"].append(round(seconds, 3))
            if score is not None:
                runs[name]["score"].append(round(float(score), 4))
    return show(title, runs)


def show(title, runs):
    """Print medians with ranges, and their ratios to the first contestant."""
    base = statistics.median(next(iter(runs.values()))["seconds"])
    print(f"\n{title}")
    print("| | seconds, median (range) | times the first | score, mean (range) |")
    print("| --- | --- | --- | --- |")
    for name, run in runs.items():
        values = run["seconds"]
        middle = statistics.median(values)
        run["ratio"] = round(middle / base, 2)
        scores = run["score"]
        spread = f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})" if scores else ""
        print(
            f"| {name} | {middle:.2f} ({min(values):.2f} to {max(values):.2f}) | "
            f"{run['ratio']:.2f} | {spread} |",
            flush=True,
        )
    return {"title": title, "runs": runs}


def save(out, name, contests, arguments, **more):
    """Write all contests of a benchmark as JSON, and their seconds as a picture."""
    import matplotlib.pyplot as plt

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = {"machine": machine(), "arguments": arguments, "contests": contests, **more}
    (folder / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n", "utf-8")
    fig, axes = plt.subplots(
        len(contests), 1, figsize=(7, 0.6 + 1.9 * len(contests)), squeeze=False
    )
    for ax, contest in zip(axes[:, 0], contests):
        runs = contest["runs"]
        for i, run in enumerate(runs.values()):
            values = run["seconds"]
            ax.barh(i, statistics.median(values), color="C7" if i else "C0", alpha=0.6)
            ax.plot(values, [i] * len(values), "k.", markersize=4)
            ax.annotate(f" {run['ratio']:.2f} x", (max(values), i), va="center", fontsize=8)
        ax.set_yticks(range(len(runs)), runs, fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_title(contest["title"], fontsize=9, loc="left")
        ax.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel(f"seconds, {text['machine']['cpu']}, {text['machine']['date']}")
    fig.tight_layout()
    fig.savefig(folder / f"{name}.png", dpi=120)
    plt.close(fig)
    print(f"\nwritten: {folder / name}.json and .png")


def header(args):
    """Print machine and arguments."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(vars(args))


def read(data, name, n, n_test, seed):
    """n training rows drawn by a seed, and n_test test rows that are the same for all seeds.

    Of a directory with ``train.jsonl`` and ``test.jsonl``, or of the docstrings of installed
    packages.
    """
    if name == "docstrings":
        bunch = load_docstrings()
        X, X_test, y, y_test = train_test_split(
            bunch.data, list(bunch.target), test_size=0.3, stratify=bunch.target, random_state=0
        )
    else:
        import tasks

        (X, y), (X_test, y_test) = (
            tasks.read(Path(data) / name / f"{split}.jsonl") for split in ("train", "test")
        )
    order = np.random.default_rng(seed).permutation(len(X))[:n]
    some = np.random.default_rng(0).permutation(len(X_test))[:n_test]
    return peers.Rows(
        [X[i] for i in order], [y[i] for i in order], [X_test[i] for i in some],
        [y_test[i] for i in some],
    )  # fmt: skip


def directory(backbone):
    """Where the files of a backbone lie, or its id."""
    return loading.locate(backbone, Backbone()).name
