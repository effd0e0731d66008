"""Cost of the CRF: beside pytorch-crf, and as a share of a training step.

    OMP_NUM_THREADS=1 python examples/benchmarks/crf.py

Both layers score the same sentences with the same numbers; runs alternate in one process.
The second table trains the default backbone on sentences of made-up words, with the CRF's
loss and with cross-entropy. Prints medians of the process's CPU time, which other work on the
machine disturbs least and which is all there is with one thread, and, in brackets, the middle
half of all runs.
Needs the extras ``offline`` and ``test``.
"""

import argparse
import platform
import time
from datetime import date

import numpy as np
import torch
from torch import nn
from torchcrf import CRF

from sktransformers.modules import crf
from sktransformers.modules.losses import CRFLoss, CrossEntropy
from sktransformers.specs import Backbone
from sktransformers.training.loading import load


class Sentences:
    """Random scores and tags, once flat for our layer and once padded for pytorch-crf."""

    def __init__(self, lengths, n_tags, seed=0):
        torch.manual_seed(seed)
        self.lengths = torch.tensor(lengths)
        self.tags = torch.randint(n_tags, (sum(lengths),))
        self.emissions = 3 * torch.randn(sum(lengths), n_tags)
        self.ours = crf.LinearChainCRF(n_tags)
        self.theirs = CRF(n_tags, batch_first=True)
        with torch.no_grad():
            for mine, other in zip(self.ours.parameters(), peer_parameters(self.theirs)):
                mine.copy_(other)
        self.mask = torch.arange(max(lengths)) < self.lengths.unsqueeze(1)
        self.padded_tags = torch.zeros(self.mask.shape, dtype=torch.long)
        self.padded_tags[self.mask] = self.tags
        self.padded = torch.zeros(*self.mask.shape, n_tags)
        self.padded[self.mask] = self.emissions
        self.emissions.requires_grad_()
        self.padded.requires_grad_()

    def train_ours(self):
        """Forward and backward of our layer."""
        output = self.ours(self.emissions, self.lengths)
        loss = -crf.log_likelihood(output, self.tags).sum()
        loss.backward()
        return float(loss.detach())

    def train_theirs(self):
        """Forward and backward of pytorch-crf."""
        loss = -self.theirs(self.padded, self.padded_tags, self.mask, reduction="sum")
        loss.backward()
        return float(loss.detach())

    def decode_ours(self):
        """Best paths of our layer."""
        return crf.viterbi(self.ours(self.emissions, self.lengths)).tolist()

    def decode_theirs(self):
        """Best paths of pytorch-crf."""
        return [tag for path in self.theirs.decode(self.padded, self.mask) for tag in path]


def peer_parameters(layer):
    """Scores of pytorch-crf in our order."""
    return layer.start_transitions, layer.transitions, layer.end_transitions


class Step:
    """A training step of the default backbone, with either loss."""

    def __init__(self, lengths, n_tags, uses_crf):
        loaded = load(Backbone(), verbose=False)
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        words = [w for w in sorted(loaded.tokenizer.get_vocab()) if w.isalpha() and len(w) > 2]
        # Every fourth word is two in one, so that words have some more than one piece.
        texts = [
            [a if place % 4 else a + b for place, (a, b) in enumerate(rng.choice(words, (n, 2)))]
            for n in lengths
        ]
        self.inputs = loaded.tokenizer(
            texts, is_split_into_words=True, padding=True, return_tensors="pt"
        )
        places = []  # of the first piece of each word
        for row in range(len(texts)):
            ids = self.inputs.word_ids(row)
            places += [(row, ids.index(word)) for word in range(lengths[row])]
        self.rows, self.columns = torch.tensor(places).T
        self.backbone = loaded.backbone.train()
        self.head = nn.Linear(self.backbone.config.hidden_size, n_tags)
        self.crf = crf.LinearChainCRF(n_tags) if uses_crf else None
        self.loss = CRFLoss() if uses_crf else CrossEntropy()
        self.lengths = torch.tensor(lengths)
        self.tags = torch.randint(n_tags, (sum(lengths),))
        self.weights = torch.ones(sum(lengths))
        parts = nn.ModuleList(part for part in (self.backbone, self.head, self.crf) if part)
        self.optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-5, fused=True)

    def __call__(self):
        hidden = self.backbone(**self.inputs).last_hidden_state
        output = self.head(hidden[self.rows, self.columns])
        if self.crf is not None:
            output = self.crf(output, self.lengths)
        (self.loss(output, self.tags, self.weights) / len(self.tags)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def alternate(contestants, repeats):
    """CPU seconds of each run of each contestant, one after the other in turns."""
    seconds = [[] for _ in contestants]
    for repeat in range(repeats + 2):
        for contestant, times in zip(contestants, seconds):
            begin = time.process_time()
            contestant()
            if repeat >= 2:  # the first runs warm up
                times.append(time.process_time() - begin)
    return seconds


def told(times):
    """Median and quartiles in milliseconds."""
    low, median, high = np.quantile(np.array(times) * 1e3, [0.25, 0.5, 0.75])
    return f"{median:7.2f} ms ({low:.2f}-{high:.2f})"


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--steps", type=int, default=15)
    args = parser.parse_args()
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {args.repeats} runs, {args.steps} steps"
    )
    rng = np.random.default_rng(0)
    usual = rng.integers(18, 33, 32).tolist()
    for task in ("train", "decode"):
        for n_tags in (13, 17):
            for name, lengths in [
                ("16 of 18-32 words", usual[:16]),
                ("32 of 18-32 words", usual),
                ("16, one of 200", [*usual[:15], 200]),
                ("32, one of 200", [*usual[:31], 200]),
                ("one of 25 words", [25]),
                ("16 of 1-6 words", rng.integers(1, 7, 16).tolist()),
                *((f"16 of {n} words", [n] * 16) for n in (1, 2, 3, 4)),
                *((f"one of {n} words", [n]) for n in (1, 3)),
            ]:
                both = Sentences(lengths, n_tags)
                runs = [getattr(both, f"{task}_{who}") for who in ("ours", "theirs")]
                if task == "train":
                    assert np.isclose(*(run() for run in runs), rtol=1e-4)
                ours, theirs = alternate(runs, args.repeats)
                print(
                    f"{task:6} {n_tags} tags {name:18} ours {told(ours)}   "
                    f"pytorch-crf {told(theirs)}   {np.median(theirs) / np.median(ours):.1f} times",
                    flush=True,
                )
    for n_tags in (13, 17):
        alone = Sentences(usual[:16], n_tags)
        steps = [Step(usual[:16], n_tags, uses_crf) for uses_crf in (True, False)]
        with_crf, without, layer = alternate([*steps, alone.train_ours], args.steps)
        print(
            f"step   {n_tags} tags 16 of 18-32 words with CRF {told(with_crf)}   "
            f"cross-entropy {told(without)}   CRF alone {told(layer)}   "
            f"share {np.median(layer) / np.median(with_crf):.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
