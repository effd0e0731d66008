"""Forked processes, those that begin anew, and workers of joblib; each test starts a Python."""

import os
import pickle
import subprocess
import sys

import pytest
from conftest import make_texts, save_tiny_bert

from sktransformers import TransformerSequenceClassifier

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# Those who run in the same minute may need the cores: who waits for a thread shall not spin.
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
BEGIN = """
import os, pickle, sys, threading, time
import numpy as np
import torch

def open_estimator():
    with open(sys.argv[1], "rb") as file:
        return pickle.load(file)
"""


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    """File of a fitted classifier of 2 MB, and of texts, labels and probabilities."""
    folder = tmp_path_factory.mktemp("processes")
    backbone = save_tiny_bert(folder / "bert", hidden_size=128, intermediate_size=512)
    texts, labels = make_texts(24)
    clf = TransformerSequenceClassifier(
        backbone, max_epochs=1, batch_size=8, random_state=0, device="cpu"
    )
    clf.fit(texts, labels)
    path = folder / "estimator.pickle"
    path.write_bytes(pickle.dumps((clf, texts, labels, clf.predict_proba(texts))))
    return path


def run(tmp_path, script, *args, timeout=300, **environment):
    """What a script prints; it must end in time and say nothing on stderr."""
    path = tmp_path / "script.py"
    path.write_text(BEGIN + script, "utf-8")
    ours = os.pathsep.join([os.getcwd(), os.path.dirname(__file__)])
    unset = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, path, *map(str, args)],
        env={**inherited, "PYTHONPATH": ours, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    # What transformers hears of torchao when it is imported is no concern of ours.
    said = [x for x in done.stderr.splitlines() if "torchao" not in x and "_pytree" not in x]
    assert said == []
    assert done.returncode == 0
    return done.stdout


FORKS = """
clf, texts, labels, expected = open_estimator()
many = texts * 50

def work():
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # by several threads, as for large models
    np.testing.assert_allclose(clf.predict_proba(many)[:24], expected, atol=1e-5)

def forked(call):
    pid = os.fork()
    if pid == 0:
        try:
            assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
            call()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    return os.waitpid(pid, 0)[1]

before = os.environ.get("TOKENIZERS_PARALLELISM")
assert torch.get_num_threads() == 2
work()
assert forked(work) == 0
work()

# Others are busy: one predicts, and one is in the middle of a fit.
stop = threading.Event()
fitting = threading.Event()

def predict():
    while not stop.is_set():
        clf.predict(many)

def hold():
    from sktransformers.training import runtime
    with runtime.seeded(0, torch.device("cpu")):  # as fit does
        fitting.set()
        stop.wait()

threads = [threading.Thread(target=predict), threading.Thread(target=hold)]
for thread in threads:
    thread.start()
fitting.wait()
again = type(clf)(**clf.get_params())
assert forked(lambda: (work(), again.fit(texts, labels))) == 0
stop.set()
for thread in threads:
    thread.join()

import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:  # as gunicorn does with preload
    for proba in pool.map(clf.predict_proba, [many, many]):
        np.testing.assert_allclose(proba[:24], expected, atol=1e-5)

os.environ["TOKENIZERS_PARALLELISM"] = before = "true"  # what a user may say
work()
assert forked(work) == 0
print("done")
"""


@needs_fork
def test_forked_processes_predict_and_fit(estimator, tmp_path):
    assert run(tmp_path, FORKS, estimator, **THREADS) == "done\n"


WORKERS = """
import copy
import multiprocessing
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.backend import queues
from sklearn.experimental import enable_halving_search_cv
from sklearn.model_selection import (
    GridSearchCV, HalvingGridSearchCV, cross_val_score, learning_curve
)
from sklearn.pipeline import Pipeline

sizes, dumps = [], queues.dumps

def counted(*args, **options):
    found = dumps(*args, **options)
    sizes.append(len(found))
    return found

def in_worker(clf, texts):
    before = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    proba = clf.predict_proba(texts)
    after = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    return proba, torch.get_num_threads(), after - before

def main():
    clf, texts, labels, expected = open_estimator()
    many = texts * 50
    part = max(1, cpu_count() // 2)
    for proba, threads, more in Parallel(n_jobs=2)(delayed(in_worker)(clf, many) for _ in range(2)):
        np.testing.assert_allclose(proba[:24], expected, atol=1e-5)
        assert threads <= part, threads
        assert more < 2 * part, more  # of torch, which has one already, and of the tokenizer

    queues.dumps = counted
    whole = len(pickle.dumps(clf))
    pipeline = Pipeline([("clf", clf)])
    grid = {"lr": [1e-3]}
    pipeline_search = GridSearchCV(pipeline, {"clf__lr": [1e-3]}, cv=2, n_jobs=2, refit=False)
    for name, search in {
        "cross_val_score": lambda: cross_val_score(clf, texts, labels, cv=2, n_jobs=2),
        "GridSearchCV": lambda: GridSearchCV(
            clf, grid, cv=2, n_jobs=2, refit=False
        ).fit(texts, labels),
        "HalvingGridSearchCV": lambda: HalvingGridSearchCV(
            clf, grid, cv=2, n_jobs=2, refit=False
        ).fit(texts, labels),
        "a pipeline": lambda: pipeline_search.fit(texts, labels),
        "learning_curve": lambda: learning_curve(
            pipeline, texts, labels, cv=2, n_jobs=2, train_sizes=[1.0]
        ),
    }.items():
        sizes.clear()
        search()
        assert len(sizes) >= 2 and max(sizes) < 30_000 < whole / 10, (name, whole, sizes)
    for same in (pickle.loads(pickle.dumps(pipeline_search)), copy.deepcopy(pipeline_search)):
        assert hasattr(same.estimator["clf"], "model_")  # elsewhere a search is what it was

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_allclose(pool.apply(clf.predict_proba, [texts]), expected, atol=1e-5)
    print("done")

if __name__ == "__main__":
    main()
"""


def test_workers_that_begin_anew(estimator, tmp_path):
    assert run(tmp_path, WORKERS, estimator) == "done\n"
