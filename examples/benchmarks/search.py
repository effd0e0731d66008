"""A grid search with cross-validation: GridSearchCV over ours, and a loop of Trainers.

    python examples/benchmarks/search.py DATA --set trec6 --finetune head --epochs 10
    python examples/benchmarks/search.py DATA --set trec6 --finetune full

Six candidates, three folds, no refit; every fold is scored by accuracy. Ours with
``finetune="head"`` keeps what is frozen in a folder that is empty at the start of each
repetition (``memory=``).
"""

import tempfile

import contest
import numpy as np
import peers
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sktransformers import Backbone, TransformerSequenceClassifier

RATES = {"head": (5e-4, 1e-3, 2e-3), "full": (5e-5, 1e-4, 2e-4)}
DECAYS = (0.0, 0.01)
FOLDS = StratifiedKFold(3)


def ours(rows, args, seed, **params):
    """GridSearchCV; the best candidate's mean accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        clf = TransformerSequenceClassifier(
            finetune=args.finetune,
            max_epochs=args.epochs,
            batch_size=args.batch_size,
            max_length=256,
            device=args.device,
            random_state=seed,
            memory=folder,
            **{"head_init": "random", **params},
        )
        grid = {"lr": RATES[args.finetune], "weight_decay": DECAYS}
        search = GridSearchCV(clf, grid, cv=FOLDS, refit=False)
        seconds, _ = contest.seconds_of(lambda: search.fit(rows.X, rows.y))
        return seconds, search.cv_results_["mean_test_score"].max()


def theirs(rows, args, folder, seed, **arguments):
    """The same with Trainers, one after the other."""

    def loop():
        best = 0.0
        X, y = np.array(rows.X, object), np.array(rows.y, object)
        for lr in RATES[args.finetune]:
            for decay in DECAYS:
                scores = []
                for train, test in FOLDS.split(rows.X, rows.y):
                    parts = (X[train], y[train], X[test], y[test])
                    run = peers.trainer(
                        peers.Rows(*map(list, parts)),
                        folder,
                        lr=lr,
                        epochs=args.epochs,
                        batch_size=args.batch_size,
                        seed=seed,
                        trained_blocks=0 if args.finetune == "head" else None,
                        weight_decay=decay,
                        **arguments,
                    )
                    scores.append(run.score)
                best = max(best, float(np.mean(scores)))
        return best

    return contest.seconds_of(loop)


def main():
    """Run the contest."""
    parser = contest.parser(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--set", default="docstrings")
    parser.add_argument("--finetune", choices=list(RATES), default="head")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out")
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    folder = contest.directory(Backbone().name)

    def read(seed):
        return contest.read(args.data, args.set, args.rows, 1, seed)

    runners = {
        "GridSearchCV": lambda s: ours(read(s), args, s),
        "GridSearchCV, fp32": lambda s: ours(read(s), args, s, precision="fp32"),
        "GridSearchCV, probe start": lambda s: ours(read(s), args, s, head_init="probe"),
        "loop of Trainers": lambda s: theirs(read(s), args, folder, s),
    }
    runners = {name: run for name, run in runners.items() if name not in args.without}
    TransformerSequenceClassifier(max_epochs=1).fit(read(0).X, read(0).y)  # thrown away
    title = f"{args.set}, finetune={args.finetune!r}, {args.rows} rows, {args.epochs} epochs"
    found = [contest.compete(title, runners, args.repeats, warm_up=False)]
    contest.save(args.out, f"search_{args.finetune}", found, vars(args))


if __name__ == "__main__":
    main()
