"""Few labels and many texts: with the backbone as it is, and adapted to the texts before.

    python examples/benchmarks/adaptation.py DATA --sets trec6 --labels 30 100

DATA holds a directory a set with ``train.jsonl`` and ``test.jsonl``, one JSON object a line with
``text`` and ``label``. For each seed, so many training texts are drawn; the backbone goes on with
masked-LM training on all of them, and a classifier is fitted on the first few with their labels.
Without adaptation only the latter is done. The test rows are the same for all seeds. Contestants
take turns; seconds are those of both trainings. Prints perplexities and a Markdown table for each
set and number of labels, and writes JSON and PNG. ``--also whole_word=True max_epochs=10`` adapts
once more for each of these, with one parameter changed. Needs the extras ``offline``, ``bench`` and
``plot``.
"""

import functools

import contest
import tasks

from sktransformers import Backbone, MaskedLMAdapter, TransformerSequenceClassifier


def contestants(args, name):
    """Functions of a number of labels and a seed that give seconds and an accuracy."""
    params = {"device": args.device}

    @functools.cache  # the same for any number of labels
    def adapted(seed, changes):
        X = contest.read(args.data, name, args.texts, args.test_rows, seed).X
        adapter = MaskedLMAdapter(args.backbone, random_state=seed, **dict(changes), **params)
        seconds, _ = contest.seconds_of(lambda: adapter.fit(X))
        before, after = adapter.perplexity_
        print(
            f"{name} seed {seed} {dict(changes)}: perplexity {before:.0f} to {after:.0f} "
            f"({seconds:.1f} s)",
            flush=True,
        )
        return seconds, adapter.backbone_

    def run(n_labels, seed, changes):
        rows = contest.read(args.data, name, args.texts, args.test_rows, seed)
        before, backbone = 0.0, args.backbone
        if changes is not None:
            before, backbone = adapted(seed, changes)
        clf = TransformerSequenceClassifier(backbone, random_state=seed, **params)
        seconds, _ = contest.seconds_of(lambda: clf.fit(rows.X[:n_labels], rows.y[:n_labels]))
        return before + seconds, rows.score(clf.predict(rows.X_test).tolist())

    base = {"max_epochs": args.epochs}
    changed = {"as it is": None, "adapted": tuple(base.items())}
    for key, value in args.also:
        changed[f"adapted, {key}={value}"] = tuple({**base, key: value}.items())
    return {key: functools.partial(run, changes=changes) for key, changes in changed.items()}


def main():
    """Run every contestant on every set, number of labels and seed."""
    parser = contest.parser(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("data")
    parser.add_argument("--backbone", default=Backbone().name)
    parser.add_argument("--sets", nargs="+", default=["trec6"])
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--labels", type=int, nargs="+", default=[100])
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--also", nargs="*", default=[], type=tasks.parameter, metavar="PARAM=VALUE"
    )
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    contests = []
    for name in args.sets:
        runs = contestants(args, name)
        for n_labels in args.labels:
            title = f"{name}: accuracy with {n_labels} labels and {args.texts} texts"
            here = {key: functools.partial(run, n_labels) for key, run in runs.items()}
            contests.append(contest.compete(title, here, args.repeats, warm_up=False))
    contest.save(args.out, "adaptation", contests, vars(args))


if __name__ == "__main__":
    main()
