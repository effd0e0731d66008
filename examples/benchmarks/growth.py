"""How training time grows with the rows, and what share of the machine's arithmetic it uses.

    python examples/benchmarks/growth.py --rows 1000 2000 4000 8000 16000

Docstring sentences, each repeated with a number behind it where there are too few; one epoch of
full fine-tuning, the sizes in turn. The exponent is the slope of log(seconds) over log(rows). The
share is of the fastest of several matrix products on this machine, in the same precision and with
the same number of threads: six floating-point operations for each token that is not padding and
each weight of a linear layer (forward, and two products backward), and those of attention.
"""

import time

import contest
import numpy as np
import torch
from predict import short_texts

from sktransformers import Backbone, TransformerSequenceClassifier
from sktransformers.inputs.encoding import TextEncoder


def peak(dtype, device):
    """Floating-point operations a second of the fastest matrix product, the best of many."""
    best = 0.0
    for m, k, n in ((512, 384, 1536), (2048, 768, 768), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = (torch.randn(shape, dtype=dtype, device=device) for shape in ((m, k), (k, n)))
        for _ in range(20):
            seconds, _ = contest.seconds_of(lambda a=a, b=b: a @ b)
            best = max(best, 2 * m * k * n / seconds)
    return best


def operations(clf, encoded):
    """Floating-point operations of a step on each of the rows, summed."""
    backbone = clf.model_.backbone
    linear = sum(
        m.weight.numel() for m in backbone.encoder.modules() if isinstance(m, torch.nn.Linear)
    )
    lengths = encoded.sequences.lengths.astype(float)
    width, blocks = backbone.config.hidden_size, backbone.config.num_hidden_layers
    return 6 * linear * lengths.sum() + 12 * blocks * width * (lengths**2).sum()


def main():
    """Time all sizes in turn."""
    parser = contest.parser(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 4000, 8000, 16000])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precisions", nargs="+", default=["auto", "fp32"])
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    device = torch.device(args.device)
    contests, shares = [], {}
    for precision in args.precisions:
        runs, share = {f"{n} rows": {"seconds": [], "score": []} for n in args.rows}, []
        dtype, fastest = torch.float32, 0.0
        for repeat in range(args.repeats + 1):
            for n in args.rows if repeat else args.rows[:1]:  # the first is thrown away
                X = short_texts(n)
                clf = TransformerSequenceClassifier(
                    Backbone(),
                    head_init="random",
                    max_epochs=1,
                    batch_size=args.batch_size,
                    precision=precision,
                    device=args.device,
                    random_state=repeat,
                )
                begin = time.perf_counter()
                clf.fit(X, ["a", "b"] * (n // 2))
                seconds = time.perf_counter() - begin
                dtype = clf.net_.autocast_dtype or torch.float32
                if not repeat:
                    continue
                runs[f"{n} rows"]["seconds"].append(round(seconds, 2))
                encoded = TextEncoder(clf.tokenizer_, clf.max_length_).encode(X).encoded
                fastest = max(fastest, peak(dtype, device))
                share.append(operations(clf, encoded) / clf.history_[0]["seconds"])
        contests.append(contest.show(f"one epoch, precision={precision!r}", runs))
        medians = [np.median(run["seconds"]) for run in runs.values()]
        exponent = np.polyfit(np.log(args.rows), np.log(medians), 1)[0]
        shares[precision] = {
            "exponent": round(float(exponent), 3),
            "peak_gflops": round(fastest / 1e9, 1),
            "share": round(float(np.median(share)) / fastest, 3),
        }
        print(
            f"exponent {exponent:.3f}; {fastest / 1e9:.0f} GFLOP/s at most in {dtype}, of which "
            f"training reaches {np.median(share) / fastest:.0%}",
            flush=True,
        )
    contest.save(args.out, "growth", contests, vars(args), growth=shares)


if __name__ == "__main__":
    main()
