"""Threads that share estimators, tokenizers and the process: each finds what it would alone."""

import copy
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from conftest import make_texts, make_tokenizer
from sklearn.model_selection import cross_val_score
from tiny_estimators import KINDS, TEXTS, fit, fitted, make, outputs
from transformers import PreTrainedTokenizerFast

import sktransformers
from sktransformers import Backbone, LoRA
from sktransformers.inputs.encoding import tokenize
from sktransformers.inputs.prompts import TargetEncoder
from sktransformers.training import loading

N_THREADS = 8
pytestmark = pytest.mark.filterwarnings("ignore:.* longer than .* tokens")


@pytest.fixture(autouse=True)
def quick_switches():
    """Threads take turns a thousand times as often as they do: what may go wrong, does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(calls):
    """What each call gives, all of them at once."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(120) for done in [pool.submit(run, call) for call in calls]]


def meanwhile(call, work):
    """What call gives, again and again, while something else is done; and what that gives."""
    found, done = [], threading.Event()

    def loop():
        while not done.is_set():
            found.append(call())

    with ThreadPoolExecutor(3) as pool:
        loops = [pool.submit(loop) for _ in range(3)]
        try:
            while not found:
                time.sleep(0.001)
            result = work()
        finally:
            done.set()
        for one in loops:
            one.result(120)
    return found, result


def assert_all_equal(found, expected):
    for one in found:
        np.testing.assert_array_equal(one, expected)


# ------------------------------------------------------------------ tokenizers


def lengths_in_threads(read):
    """For each of several limits, the lengths that texts of 30 words have in some thread."""
    texts = [" ".join(["bread"] * 30)] * 20
    limits = [4, 9, 14, 19]

    def of(limit):
        return limit, {length for _ in range(20) for length in read(limit, texts)}

    return in_threads([lambda limit=limit: of(limit) for limit in limits])


def test_a_shared_fast_tokenizer_cuts_where_another_thread_wants_it_cut():
    # The hazard itself: this is what estimators that share a tokenizer must not do.
    tokenizer = make_tokenizer()

    def read(limit, texts):
        return {len(ids) for ids in tokenizer(texts, truncation=True, max_length=limit).input_ids}

    for _ in range(100):
        try:
            found = lengths_in_threads(read)
        except RuntimeError as error:  # it was changed while it was read
            assert "borrowed" in str(error)
            return
        if any(lengths != {limit} for limit, lengths in found):
            return
    pytest.fail("Shared fast tokenizers are safe now: inputs/encoding.py could be simpler.")


def test_estimators_that_share_a_tokenizer_cut_where_each_is_to(make_clf, texts, labels):
    tokenizer = make_tokenizer()
    model = loading.load(Backbone(make_clf().backbone), verbose=False).backbone
    backbone = Backbone(model, tokenizer=tokenizer)
    long = [" ".join([text] * 5) for text in texts[:12]]
    estimators = [
        make_clf(backbone=backbone, max_length=n, long_text=how, max_epochs=1, finetune="head")
        for n in (4, 9, 20)
        for how in ("truncate", "window")
    ]
    for clf in estimators:
        clf.fit(texts, labels)
    alone = [clf.predict_proba(long) for clf in estimators]
    assert len({proba.tobytes() for proba in alone}) == len(estimators)
    rotated = [[*range(i, 6), *range(i)] for i in range(6)]
    found = in_threads(
        [
            lambda order=order: {i: estimators[i].predict_proba(long) for i in order}
            for order in rotated
        ]
    )
    assert_all_equal([np.array([one[i] for i in range(6)]) for one in found], np.array(alone))


class Switching:
    """A tokenizer in Python that reads targets in another language, as Marian's does."""

    is_fast = False

    def __init__(self):
        self.language = 1

    def __call__(self, texts=None, text_target=None, **options):
        self.language = 1 if text_target is None else 2
        time.sleep(0.001)
        return {"input_ids": [[self.language] for _ in texts or text_target]}


def test_sources_and_targets_of_a_tokenizer_that_switches():
    tokenizer = Switching()
    calls = [lambda t=t: tokenize(tokenizer, ["a", "b"], as_targets=t) for t in [True, False] * 4]
    assert in_threads(calls) == [[[2], [2]], [[1], [1]]] * 4


class Switches(PreTrainedTokenizerFast):
    """A fast tokenizer that switches inside, as those of NLLB and mBART do."""

    def _switch_to_target_mode(self):
        self.switched = True


def test_a_look_at_targets_leaves_a_fast_tokenizer_as_it_is():
    tokenizer = make_tokenizer()
    tokenizer.__class__ = Switches  # other threads may be reading
    assert TargetEncoder(tokenizer, 10, is_open=False).begin == [tokenizer.cls_token_id]
    assert not hasattr(tokenizer, "switched")


# ----------------------------------------------------------------- predictions


def variants(folder):
    """Fitted estimators of every class, and others of the same backbone; how each predicts."""
    some = {kind: (fitted(kind), kind) for kind in KINDS if kind != "adapter"}
    for name, params in {
        "short": {"max_length": 5},
        "windows": {"max_length": 6, "long_text": "window"},
        "head": {"finetune": "head", "memory": str(folder)},
        "adapters": {"finetune": LoRA()},
        "bf16": {"backbone": Backbone(make("classifier").backbone, dtype="bfloat16")},
    }.items():
        some[name] = (fit("classifier", **params), "classifier")
    pytest.importorskip("onnxruntime")
    some["onnx"] = (fitted("native").accelerate("onnx"), "native")
    return some


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        return variants(tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def alone(some):
    return {name: outputs(*one) for name, one in some.items()}


def test_eight_threads_predict_what_one_does(some, alone):
    names = list(some)
    orders = [names[i:] + names[:i] for i in range(0, len(names), 2)][:N_THREADS]
    assert len(orders) == N_THREADS
    found = in_threads(
        [lambda order=order: {n: outputs(*some[n]) for n in order} for order in orders]
    )
    for one in found:
        for name in names:
            np.testing.assert_array_equal(one[name], alone[name], err_msg=name)


def test_masks_are_filled_likewise():
    adapter = fitted("adapter")
    expected = adapter.perplexity(TEXTS)
    assert in_threads([lambda: adapter.perplexity(TEXTS)] * 4) == [expected] * 4


def test_predictions_do_not_depend_on_the_default_type(some, alone):
    # transformers sets it while it reads a model of another type, for all threads.
    for name, one in some.items():
        torch.set_default_dtype(torch.bfloat16)
        try:
            found = outputs(*one)
        finally:
            torch.set_default_dtype(torch.float32)
        np.testing.assert_array_equal(found, alone[name], err_msg=name)


def test_prediction_while_others_train(some, alone):
    # Cheap dropout, adapters, weights of other types, checkpointed layers, narrow vocabularies.
    tiny = make("classifier").backbone
    others = [
        {"finetune": LoRA()},
        {"backbone": Backbone(tiny, dtype="bfloat16")},
        {"backbone": Backbone(tiny, gradient_checkpointing=True, compact_vocabulary=True)},
        {"finetune": "head", "head": "native"},
    ]

    def train():
        return [outputs(fit("classifier", **params), "classifier") for params in others]

    names = ["classifier", "tagger", "answers"]
    expected = train()
    found, trained = meanwhile(lambda: [outputs(*some[name]) for name in names], train)
    for one in found:
        for name, proba in zip(names, one, strict=True):
            np.testing.assert_array_equal(proba, alone[name], err_msg=name)
    np.testing.assert_array_equal(np.array(trained), np.array(expected))


@pytest.mark.parametrize("name", ["classifier", "generator"])
def test_prediction_while_it_is_saved_and_pickled(some, alone, name, tmp_path):
    estimator, kind = some[name]

    def save():
        estimator.save_pretrained(tmp_path / "saved")
        again = pickle.loads(pickle.dumps(estimator))
        return [again, copy.deepcopy(estimator), sktransformers.load(tmp_path / "saved")]

    found, saved = meanwhile(lambda: outputs(estimator, kind), save)
    assert_all_equal(found, alone[name])
    assert_all_equal([outputs(one, kind) for one in saved], alone[name])


# ------------------------------------------------------------------------ fits


def weights(estimator):
    return np.concatenate([p.detach().numpy().ravel() for p in estimator.model_.parameters()])


def test_fits_in_threads_give_what_fits_in_turn_do():
    kinds = ["classifier", "tagger", "generator"]
    found = in_threads([lambda kind=kind: weights(fit(kind)) for kind in kinds])
    for kind, one in zip(kinds, found, strict=True):
        np.testing.assert_array_equal(one, weights(fit(kind)))


def test_two_fits_of_one_estimator(make_clf):
    data = [make_texts(12, topics) for topics in (("food", "sea"), ("food", "sea", "city"))]
    possible = {}
    for X, y in data:
        clf = make_clf(max_epochs=1).fit(X, y)
        possible[tuple(clf.classes_)] = weights(clf)
    clf = make_clf(max_epochs=1)
    in_threads([lambda d=d: clf.fit(*d) for d in data * 2])
    np.testing.assert_array_equal(weights(clf), possible[tuple(clf.classes_)])
    assert len(clf.history_) == clf.n_iter_ == 1
    assert clf.net_.module_ is clf.model_


def test_parts_from_several_threads_are_learnt_one_after_the_other(make_clf, texts, labels):
    clf = make_clf(max_epochs=1).fit(texts, labels)
    in_threads([lambda: clf.partial_fit(texts[:12], labels[:12])] * 3)
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3, 4]
    expected = make_clf(max_epochs=1).fit(texts, labels)
    for _ in range(3):
        expected.partial_fit(texts[:12], labels[:12])
    np.testing.assert_array_equal(weights(clf), weights(expected))


def test_parts_that_a_generator_learns_are_not_lost(monkeypatch):
    # It notes the columns of X last: meanwhile another thread must not learn.
    generator, known = fit("generator"), KINDS["generator"]
    check, learnt, threads = type(generator)._check_features, threading.Event(), []

    def slow(self, X, reset=False):
        if reset:
            threads.append(threading.get_ident())
            if threads.count(threads[0]) == 2 and threads[-1] == threads[0]:
                learnt.wait(0.5)  # for the other thread
        check(self, X, reset)

    def learn():
        generator.partial_fit(known.X[:4], known.y[:4])
        learnt.set()

    monkeypatch.setattr(type(generator), "_check_features", slow)
    in_threads([learn] * 2)
    assert len(generator.history_) == 3


def test_prediction_while_the_estimator_is_fitted_again(make_clf):
    X = make_texts(12)[0]
    data = [make_texts(12, topics) for topics in (("food", "sea"), ("food", "sea", "city"))]
    clf = make_clf(max_epochs=1, finetune="head")
    possible = []
    for one in data:
        clf.fit(*one)
        possible.append((clf.predict(X).tolist(), clf.predict_proba(X).tolist()))

    def look():
        return clf.predict(X).tolist(), clf.predict_proba(X).tolist()

    def again():
        for one in data * 3:
            clf.fit(*one)

    found, _ = meanwhile(look, again)
    for labels, proba in found:
        assert labels in [one[0] for one in possible]
        assert proba in [one[1] for one in possible]


def test_a_search_in_threads(make_clf, texts, labels):
    clf = make_clf(max_epochs=1)
    expected = cross_val_score(clf, texts, labels, cv=2)
    with joblib.parallel_backend("threading"):
        found = cross_val_score(clf, texts, labels, cv=2, n_jobs=2)
    np.testing.assert_array_equal(found, expected)
