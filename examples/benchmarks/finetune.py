"""Full fine-tuning: ours and transformers.Trainer with the same recipe.

    python examples/benchmarks/finetune.py DATA --sets trec6 ag_news sms_spam --batch-sizes 16 32
    python examples/benchmarks/finetune.py --shape xlmr-base --rows 96 --epochs 1 --batch-sizes 16

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line with
``text`` and ``label``; the set ``docstrings`` (`sktransformers.datasets.load_docstrings`) needs no
DATA. Contestants take turns on the same rows with the same epochs, batch size, learning rate,
schedule and precision, each with a random head; the seed of a repetition draws the rows. With
``--shape`` the backbone has random weights and the texts are made up. Ours includes loading the
backbone, the Trainer's seconds do not. Needs the extras ``offline`` and ``bench``.
"""

import tempfile
import time

import contest
import peers
import shapes

from sktransformers import AdamW, Backbone, TransformerSequenceClassifier


def ours(rows, backbone, args, batch_size, seed, **params):
    """The estimator, with the Trainer's one learning rate for backbone and head."""
    clf = TransformerSequenceClassifier(
        backbone=backbone,
        lr=args.lr,
        optimizer=AdamW(head_lr=args.lr),
        max_epochs=args.epochs,
        batch_size=batch_size,
        max_length=256,
        device=args.device,
        random_state=seed,
        **{"head_init": "random", **params},
    )
    begin = time.perf_counter()
    clf.fit(rows.X, rows.y)
    return time.perf_counter() - begin, clf.score(rows.X_test, rows.y_test)


def theirs(rows, folder, args, batch_size, seed, **arguments):
    """The Trainer."""
    run = peers.trainer(
        rows, folder, lr=args.lr, epochs=args.epochs, batch_size=batch_size, seed=seed, **arguments
    )
    return run.fit_seconds, run.score


def contestants(read, backbone, folder, args, batch_size):
    """Functions of a seed, by name."""
    grouped = {"train_sampling_strategy": "group_by_length"}
    found = {
        "ours": lambda s: ours(read(s), backbone, args, batch_size, s),
        "ours, fp32": lambda s: ours(read(s), backbone, args, batch_size, s, precision="fp32"),
        "Trainer": lambda s: theirs(read(s), folder, args, batch_size, s),
        "Trainer, grouped": lambda s: theirs(read(s), folder, args, batch_size, s, **grouped),
        "Trainer, grouped, bf16": lambda s: theirs(
            read(s), folder, args, batch_size, s, **grouped, bf16=True
        ),
    }
    if not args.shape:
        found["ours, probe start"] = lambda s: ours(
            read(s), backbone, args, batch_size, s, head_init="probe"
        )
    return {name: run for name, run in found.items() if name not in args.without}


def main():
    """Run all contests."""
    parser = contest.parser(__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?")
    parser.add_argument("--sets", nargs="+", default=["docstrings"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32])
    parser.add_argument("--shape", choices=list(shapes.CONFIGS))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out")
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    found = []
    for name in [args.shape] if args.shape else args.sets:
        with tempfile.TemporaryDirectory() as temporary:
            backbone = shapes.make(args.shape, temporary) if args.shape else Backbone().name

            def read(seed, n=args.rows, n_test=args.test_rows, name=name):
                if args.shape:
                    size = shapes.CONFIGS[args.shape]().vocab_size
                    return shapes.rows(n, n_test, size, (8, 32), seed)
                return contest.read(args.data, name, n, n_test, seed)

            for batch_size in args.batch_sizes:
                title = f"{name}, batch {batch_size}, {args.rows} rows, {args.epochs} epochs"
                runners = contestants(read, backbone, contest.directory(backbone), args, batch_size)
                for run in contestants(
                    lambda s, read=read: read(s, 64, 8),
                    backbone,
                    contest.directory(backbone),
                    args,
                    batch_size,
                ).values():
                    run(0)  # a short run of each is thrown away
                found.append(contest.compete(title, runners, args.repeats, warm_up=False))
    contest.save(args.out, f"finetune_{args.shape or 'sets'}", found, vars(args))


if __name__ == "__main__":
    main()
