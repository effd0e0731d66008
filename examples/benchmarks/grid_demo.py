"""The grid search that bert-sklearn shows: 6 candidates, 3 folds and the refit on 1,000 short rows.

    python examples/benchmarks/grid_demo.py DATA --set trec6

Learning rates 2e-5, 3e-5 and 5e-5 with three and four epochs, as in its README; the whole model is
trained. Prints seconds, the peak of this process's memory, and what is left after the search.
"""

import gc
import threading
import time

import contest
import psutil
from sklearn.model_selection import GridSearchCV

from sktransformers import TransformerSequenceClassifier


def main():
    """Run the search and watch the memory."""
    parser = contest.parser(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--set", default="docstrings")
    parser.add_argument("--rows", type=int, default=1000)
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    process, watched, done = psutil.Process(), [], threading.Event()

    def watch():
        while not done.wait(0.02):
            watched.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    before = process.memory_info().rss
    watcher.start()
    runs, final = {"seconds": [], "score": []}, []
    for seed in range(args.repeats):
        rows = contest.read(args.data, args.set, args.rows, 500, seed)
        search = GridSearchCV(
            TransformerSequenceClassifier(device=args.device, random_state=seed),
            {"max_epochs": [3, 4], "lr": [2e-5, 3e-5, 5e-5]},
            cv=3,
        )
        begin = time.perf_counter()
        search.fit(rows.X, rows.y)
        runs["seconds"].append(round(time.perf_counter() - begin, 1))
        runs["score"].append(round(search.score(rows.X_test, rows.y_test), 4))
        print(search.best_params_, round(search.best_score_, 4))
        del search
        gc.collect()
        final.append(process.memory_info().rss)
    done.set()
    watcher.join()
    megabytes = {
        "before": before // 2**20,
        "peak": max(watched) // 2**20,
        "after": [value // 2**20 for value in final],
    }
    print(f"memory of the process in MB: {megabytes}")
    found = [contest.show(f"{args.set}, 6 candidates x 3 folds + refit", {"GridSearchCV": runs})]
    contest.save(args.out, "grid_demo", found, vars(args), memory_mb=megabytes)


if __name__ == "__main__":
    main()
