"""Trainings that are killed with SIGKILL at every kind of place, and go on.

A script: it forks, which pytest's process with its threads is not for. Prints a line of JSON for
each case.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from conftest import make_texts
from kills import die, die_in, fork

from sktransformers import EMA, AdamW, Checkpoint, LoRA, TransformerSequenceClassifier
from sktransformers.training import checkpoints, state
from sktransformers.training.callbacks import KeepBest, ValidationScore
from sktransformers.training.net import FineTuningNet

TIMES = {"seconds", "tokens_per_second"}


def half(real, tensors, path, **kwargs):
    """Write the first half of a file."""
    real(tensors, path, **kwargs)
    os.truncate(path, os.path.getsize(path) // 2)


def call(real, *args, **kwargs):
    """Die after the call, not before."""
    real(*args, **kwargs)


# What is called, the how manieth time, and what the process does before it dies. An epoch has four
# steps of two groups or more each, and there is a state after every second step.
PLACES = {
    "the seed is written": (checkpoints.Path, "write_text", 1, die),
    "in the first step": (torch.Tensor, "backward", 1, call),
    "half of a state is written": (safetensors.torch, "save_file", 2, half),
    "a state is written, and not renamed": (os, "replace", 4, die),
    "a state is renamed": (os, "replace", 4, call),
    "older ones are being deleted": (checkpoints.Path, "unlink", 8, call),
    "between two groups of a step": (torch.Tensor, "backward", 14, call),
    "in validation": (FineTuningNet, "validation_step", 3, call),
    "in scoring": (ValidationScore, "on_epoch_end", 2, die),
    "at the very end": (KeepBest, "on_train_end", 1, die),
    "while it goes on": (state.State, "load_into", 1, call),
}
CASES = {
    "full": {},
    "LoRA, EMA": {"finetune": LoRA(r=2), "optimizer": AdamW(averaging=EMA(0.9))},
}


def seen(clf):
    """Weights and history, but for times."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in clf.history_]
    return clf.model_.state_dict(), rows


def is_same(one, other):
    """Whether weights are bit-equal, and histories equal."""
    (weights, rows), (expected, expected_rows) = one, other
    equal = weights.keys() == expected.keys() and all(
        torch.equal(x, expected[name]) for name, x in weights.items()
    )
    return equal and rows == expected_rows


def main(backbone, home):
    """Kill and go on at each place, with each case in turn."""
    torch.set_num_threads(1)
    X, y = make_texts(24)
    wholes = {}
    for i, (place, (owner, name, n, do)) in enumerate(PLACES.items()):
        shutil.rmtree(home, ignore_errors=True)
        case = list(CASES)[i % len(CASES)]
        clf = TransformerSequenceClassifier(
            **{"backbone": backbone, "lr": 1e-3, "max_epochs": 2, "batch_size": 4},
            **{"max_batch_tokens": 24, "early_stopping": True, "validation_fraction": 8},
            **{"scoring": "accuracy", "device": "cpu", "precision": "fp32"},
            **{"random_state": 0, **CASES[case]},
        )
        if case not in wholes:
            wholes[case] = seen(clf.fit(X, y))
        keep = 1 + i // 2 % 2
        clf.set_params(checkpoint=Checkpoint(home, every=2, unit="step", keep=keep))
        if name == "write_text":
            clf.set_params(random_state=None)

        def killed(clf=clf, places=(owner, name, n, do)):
            die_in(*places)
            clf.fit(X, y)

        if name == "load_into":
            fork(lambda clf=clf: killed(clf, PLACES["between two groups of a step"]))
        is_killed = not fork(killed)
        left = names(home)
        found, expected = seen(clf.fit(X, y)), wholes[case]
        if name == "write_text":
            seed = int(next(home.glob("*.seed")).read_text())
            expected = seen(clf.set_params(random_state=seed, checkpoint=None).fit(X, y))
        told = {"case": case, "place": place, "killed": is_killed, "keep": keep, "left": left}
        same = is_same(found, expected)
        print("=" + json.dumps({**told, "same": same, "files": names(home)}), flush=True)


def names(home):
    """Names of all files below a directory."""
    return sorted(path.name for path in home.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
