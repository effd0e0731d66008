"""Memory and time of a training step with all rows of a large vocabulary, and with those in use.

    OMP_NUM_THREADS=1 python examples/benchmarks/vocabulary.py --layers 2

Needs no download: the backbone has the shape of XLM-R base, 250,002 rows of 768 numbers, and
random weights; token ids are drawn with frequencies that fall as those of words do. Two nets
train copies of it on the same rows, one with ``compact_vocabulary``, one without; their steps
alternate in one process. Printed are the bytes of all gradients and of the optimizer's state,
counted tensor by tensor, and the median time of a step with the middle half of all steps.
"""

import argparse
import platform
import time
from contextlib import ExitStack
from datetime import date
from functools import partial

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from sktransformers.inputs.batching import Encoded, Ragged
from sktransformers.modules.losses import CrossEntropy
from sktransformers.modules.model import SequenceConfig, SequenceModel
from sktransformers.specs import AdamW
from sktransformers.training.net import EncodedDataset, FineTuningNet
from sktransformers.training.optimizers import build_optimizer
from sktransformers.training.vocabulary import compacted

PAD = 1


def make_model(layers):
    """A classifier on a backbone of XLM-R base's shape."""
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=250_002,
        num_hidden_layers=layers,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    backbone = XLMRobertaModel(config)
    return SequenceModel(SequenceConfig(backbone_config=config, num_labels=2), backbone)


def make_rows(n, rng):
    """Short rows: the token of rank r is drawn with a probability of about 1 / r."""
    rows = []
    for length in rng.integers(8, 33, n):
        ids = np.exp(rng.uniform(np.log(4), np.log(250_002), length - 2)).astype(int)
        rows.append([0, *ids, 2])
    encoded = Encoded.of_texts(Ragged.of(rows))
    return EncodedDataset(encoded, rng.integers(0, 2, n), np.ones(n))


def make_net(model, device):
    """The net that estimators train with."""
    return FineTuningNet(
        model.to(device),
        CrossEntropy(),
        optimizer=partial(build_optimizer, spec=AdamW(), lr=2e-5, head_lr=2e-4, weight_decay=0.01),
        schedule=lambda step: 1.0,
        metrics={},
        pad_id=PAD,
        max_batch_tokens=4096,
        max_grad_norm=1.0,
        autocast_dtype=None,
        rng=np.random.default_rng(0),
        set_modes=model.train,
        default_callbacks=[],
        device=device,
        verbose=0,
    )


def megabytes(tensors):
    """What tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def memory(net):
    """Megabytes of gradients and of the optimizer's state."""
    gradients = [p.grad for p in net.module_.parameters() if p.grad is not None]
    state = [x for values in net.optimizer_.state.values() for x in values.values()]
    return megabytes(gradients), megabytes(filter(torch.is_tensor, state))


def main():
    """Train both in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    data = make_rows(args.rows, rng)
    occurring = np.unique(np.append(data.encoded.sequences.flat, [0, PAD, 2, 3]))
    device = torch.device(args.device)
    print(
        f"{date.today()}, {platform.machine()}, {args.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {args.layers} layers, {args.rows} rows of "
        f"{data.encoded.lengths.mean():.0f} tokens, {len(occurring)} of 250002 tokens occur, "
        f"batch size {args.batch_size}, {args.steps} steps"
    )
    nets = {name: make_net(make_model(args.layers), device) for name in ("all", "occurring")}
    seconds = {name: [] for name in nets}
    with ExitStack() as stack:
        stack.enter_context(compacted(nets["occurring"], occurring))
        for net in nets.values():
            net.initialize()
        for step in range(args.steps + 2):
            batch = data.take(rng.choice(args.rows, args.batch_size, replace=False))
            for name, net in nets.items():
                begin = time.perf_counter()
                net.train_step(batch)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if step >= 2:  # the first ones make the optimizer's state
                    seconds[name].append(time.perf_counter() - begin)
        print("rows trained | gradients MB | optimizer MB | step, median ms (middle half)")
        for name, net in nets.items():
            gradients, state = memory(net)
            low, median, high = 1e3 * np.quantile(seconds[name], [0.25, 0.5, 0.75])
            print(
                f"{name:12} | {gradients:12.0f} | {state:12.0f} | "
                f"{median:.1f} ({low:.1f}-{high:.1f})"
            )
        ratio = np.median(seconds["all"]) / np.median(seconds["occurring"])
        print(f"ratio of the medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
