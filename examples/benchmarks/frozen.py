"""Training the head or the top blocks alone: ours and transformers.Trainer.

    python examples/benchmarks/frozen.py DATA --sets trec6 ag_news

Both train the head for ten epochs, and the head with the top two blocks for three; the Trainer's
frozen parameters need no gradient. Arguments and rows are as in `finetune.py`; every fit of ours
computes what is frozen anew, none finds it in a cache of an earlier one.
"""

import contest
import finetune

from sktransformers import Backbone

STRATEGIES = {"head": ("head", 0, 10), "top 2 blocks": (2, 2, 3)}


def main():
    """Run all contests."""
    parser = contest.parser(__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?")
    parser.add_argument("--sets", nargs="+", default=["docstrings"])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    found, folder, size = [], contest.directory(Backbone().name), args.batch_size
    for name in args.sets:
        for strategy, (finetuned, trained, epochs) in STRATEGIES.items():
            args.epochs = epochs

            def read(seed, name=name):
                return contest.read(args.data, name, args.rows, args.test_rows, seed)

            def ours(seed, finetuned=finetuned, **params):
                return finetune.ours(
                    read(seed), Backbone().name, args, size, seed, finetune=finetuned, **params
                )

            def theirs(seed, trained=trained, **arguments):
                return finetune.theirs(
                    read(seed), folder, args, size, seed, trained_blocks=trained, **arguments
                )

            runners = {
                "ours": ours,
                "ours, fp32": lambda s: ours(s, precision="fp32"),
                "Trainer": theirs,
                "Trainer, grouped, bf16": lambda s: theirs(
                    s, train_sampling_strategy="group_by_length", bf16=True
                ),
            }
            title = f"{name}, {strategy}, {args.rows} rows, {epochs} epochs"
            found.append(contest.compete(title, runners, args.repeats))
    contest.save(args.out, "frozen", found, vars(args))


if __name__ == "__main__":
    main()
