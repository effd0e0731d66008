"""What runs out of memory goes on in smaller groups: same step, same weights, one warning."""

import warnings
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from hypothesis import given, strategies as st
from skorch.callbacks import Callback

from sktransformers import CRF, Backbone, BatchHistory, Linear, MLPHead, SampledSoftmax, TokenTagger
from sktransformers.inputs.batching import Budget, token_budget
from sktransformers.modules.memory import is_out_of_memory
from sktransformers.modules.model import SequenceModel, TaggingModel
from sktransformers.training.net import FineTuningNet

TEXTS, LABELS = make_texts(32)
LONG = " ".join(["fish", "the", "bread"] * 19)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, other allocations: 2 GB)."),
    MemoryError("Unable to allocate 8 EiB for an array"),
]


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Directory of a tiny BERT without dropout."""
    return save_tiny_bert(tmp_path_factory.mktemp("still"), **NO_DROPOUT)


@pytest.fixture
def make(make_clf, still):
    """A function that makes a classifier whose only randomness is the order of rows."""

    def make(**params):
        backbone = Backbone(still, dtype="float64")
        return make_clf(
            **{"backbone": backbone, "head": Linear(dropout=0.0), "max_epochs": 1, **params}
        )

    return make


class Memory:
    """A device that holds rectangles of so many slots; where ``square``, of slots x length.

    Parameters
    ----------
    when : {"forward", "backward", "validation", None}
        Where it is that small.
    """

    def __init__(self, most, when="forward", error=ERRORS[0], square=False):
        self.most, self.when, self.error, self.square = most, when, error, square
        self.shapes, self.failed = [], []

    def fail(self, shape):
        self.failed.append(shape)
        raise type(self.error)(*self.error.args)  # another one: it holds on to what failed

    def call(self, encode, model, inputs):
        shape = tuple(inputs["input_ids"].shape)
        needed = shape[0] * shape[1] * (shape[1] if self.square else 1)
        is_too_much = needed > self.most
        self.shapes.append(shape)
        if is_too_much and self.when == ("forward" if model.training else "validation"):
            self.fail(shape)
        found = encode(model, **inputs)
        if is_too_much and self.when == "backward" and found.requires_grad:
            found.register_hook(lambda grad: self.fail(shape))
        return found


@pytest.fixture
def limit(monkeypatch):
    """A function that makes the memory of encode small."""

    def limit(*args, model=SequenceModel, **kwargs):
        memory, encode = Memory(*args, **kwargs), model.encode
        monkeypatch.setattr(
            model, "encode", lambda self, **inputs: memory.call(encode, self, inputs)
        )
        return memory

    return limit


def weights_of(clf):
    return {name: weight.numpy() for name, weight in clf.model_.state_dict().items()}


def assert_same_weights(found, expected, atol=1e-6):
    for name, weight in weights_of(expected).items():
        np.testing.assert_allclose(weights_of(found)[name], weight, rtol=0, atol=atol, err_msg=name)


# ------------------------------------------------------------------ recognition


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "mps", "python"])
def test_lack_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


def test_real_lack_of_memory_is_recognised():
    for allocate in (torch.empty, np.empty):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate(2**58)
        assert is_out_of_memory(caught.value)


def test_other_errors_come_through(make, limit):
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(KeyError("DefaultCPUAllocator"))
    memory = limit(60, error=RuntimeError("shapes cannot be multiplied"))
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="shapes cannot"):
        warnings.simplefilter("error")
        make(head_init="random").fit(TEXTS, LABELS)
    assert len(memory.failed) == 1


# ----------------------------------------------------------------------- budget


@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=30),
    given_=st.integers(1, 3000),
)
def test_a_budget_shrinks_until_each_is_alone(lengths, given_):
    lengths, budget = np.array(lengths), Budget(given_)
    assert budget.is_whole
    for _ in range(100):
        pieces = token_budget(lengths, np.arange(len(lengths)), budget)
        before = [budget.of(n) for n in range(100)]
        assert before == sorted(before, reverse=True)
        if not budget.shrink(lengths):
            break
        assert not budget.is_whole
        after = [budget.of(n) for n in range(100)]
        assert all(1 <= new <= old for new, old in zip(after, before, strict=True))
        assert after != before
    assert all(len(piece) == 1 for piece in pieces)
    assert budget.given == given_


def test_what_failed_is_halved():
    budget = Budget(1000)
    assert budget.shrink(np.full(10, 40))  # 400 slots: 1000 and 500 would hold them
    assert budget.of(40) == budget.of(512) == 250
    assert budget.of(31) == budget.of(1) == 1000
    assert budget.shrink(np.full(100, 5))
    assert budget.of(5) == budget.of(4) == budget.of(31) == 250  # 500 would hold them
    assert budget.of(40) == 250
    assert budget.of(3) == 1000
    assert not budget.shrink(np.array([512]))


# --------------------------------------------------------------------- training


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("most", [60, 25])
def test_training_goes_on_with_the_same_step(make, limit, when, most):
    params = {"max_epochs": 2, "head_init": "random", "callbacks": [BatchHistory()]}
    whole = make(**params).fit(TEXTS, LABELS)
    small = make(**params, max_batch_tokens=most).fit(TEXTS, LABELS)
    memory = limit(most, when)
    clf = make(**params)
    with pytest.warns(UserWarning, match="max_batch_tokens=4096.*max_batch_tokens=") as warned:
        clf.fit(TEXTS, LABELS)
    assert len(warned) == 1
    assert memory.failed
    assert_same_weights(clf, small)
    assert_same_weights(clf, whole)
    assert clf.max_batch_tokens == clf.net_.max_batch_tokens == 4096
    assert clf.net_.budget.of(64) <= 4096 // 16
    measured = {"seconds", "tokens_per_second", "batch_history"}
    for row, expected in zip(clf.history_, whole.history_, strict=True):
        for name in row.keys() - measured:
            assert row[name] == pytest.approx(expected[name], rel=1e-6), name
        for step, wanted in zip(row["batch_history"], expected["batch_history"], strict=True):
            assert step == pytest.approx(wanted, rel=1e-6)


def test_each_lack_is_met_once(make, limit):
    # Later batches of such lengths begin with what was left.
    memory = limit(30)
    with pytest.warns(UserWarning, match="Out of memory"):
        make(max_epochs=5, head_init="random").fit(TEXTS, LABELS)
    assert len(memory.failed) <= 4
    assert len(memory.shapes) > 50


class Steps(Callback):
    """What a user's callback sees."""

    def initialize(self):
        self.seen = []

    def on_batch_begin(self, net, training, **kwargs):
        self.seen.append("begin")

    def on_grad_computed(self, net, named_parameters, training, **kwargs):
        assert all(p.grad is not None for _, p in named_parameters)
        self.seen.append("grad")

    def on_batch_end(self, net, training, **kwargs):
        self.seen.append("end")


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_callbacks_see_each_step_once(make, limit, when):
    memory = limit(25, when)
    with pytest.warns(UserWarning, match="Out of memory"):
        clf = make(callbacks=[("steps", Steps())], head_init="random").fit(TEXTS, LABELS)
    assert memory.failed
    assert dict(clf.net_.callbacks_)["steps"].seen == ["begin", "grad", "end"] * 4


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_masks_are_drawn_again_from_the_same_state(make_clf, limit, monkeypatch, when):
    memory, states, steps = limit(25, when), [], []
    attempt, step = FineTuningNet._attempt, FineTuningNet.train_step

    def noted(self, batch, *args):
        states.append((len(steps), torch.get_rng_state().clone()))
        return attempt(self, batch, *args)

    def counted(self, batch, **kwargs):
        steps.append(batch)
        return step(self, batch, **kwargs)

    monkeypatch.setattr(FineTuningNet, "_attempt", noted)
    monkeypatch.setattr(FineTuningNet, "train_step", counted)
    with pytest.warns(UserWarning, match="Out of memory"):
        make_clf(max_epochs=1, head_init="random").fit(TEXTS, LABELS)
    assert len(states) == 4 + len(memory.failed) > 5
    for (n, state), (m, other) in pairwise(states):
        assert torch.equal(state, other) == (n == m)  # and else dropout has moved it on


def test_a_failed_attempt_leaves_nothing_in_memory(make, monkeypatch):
    encode, left = SequenceModel.encode, []

    def fail(self, **inputs):
        found = encode(self, **inputs)
        if inputs["input_ids"].numel() > 60:
            left.append(weakref.ref(found))
            raise torch.OutOfMemoryError
        assert all(tensor() is None for tensor in left)
        return found

    monkeypatch.setattr(SequenceModel, "encode", fail)
    with pytest.warns(UserWarning, match="Out of memory"):
        make(head_init="random").fit(TEXTS, LABELS)
    assert left


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_negatives_are_drawn_as_without_a_failure(make, limit, when):
    def fit():
        return make(loss=SampledSoftmax(2), head_init="random", max_epochs=2).fit(TEXTS, LABELS)

    expected = fit()
    memory = limit(25, when)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = fit()
    assert memory.failed
    assert_same_weights(found, expected)


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_head_that_needs_whole_batches(make, limit, when):
    # Its running averages see each batch once.
    params = {"head": MLPHead((8,), dropout=0.0, batch_norm=True), "head_init": "random"}
    expected = make(**params).fit(TEXTS, LABELS)
    memory = limit(60, when)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = make(**params).fit(TEXTS, LABELS)
    assert memory.failed
    assert_same_weights(found, expected)


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_row_of_many_windows(make, limit, when):
    params = {"long_text": "window", "max_length": 12, "batch_size": 4, "head_init": "random"}
    texts = [" ".join(TEXTS[i : i + 8]) for i in range(16)]
    expected = make(**params).fit(texts, LABELS[:16])
    memory = limit(24, when)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = make(**params).fit(texts, LABELS[:16])
    assert memory.failed
    assert_same_weights(found, expected)


def test_loss_scaling(make_clf, still, limit):
    def fit():
        params = {"precision": "fp16", "head": Linear(dropout=0.0), "head_init": "random"}
        return make_clf(backbone=still, **params).fit(TEXTS, LABELS)

    expected = fit()
    memory = limit(60, "backward")
    with pytest.warns(UserWarning, match="Out of memory"):
        found = fit()
    assert memory.failed
    assert found.net_.scaler_.get_scale() == expected.net_.scaler_.get_scale()
    assert found.net_.scheduler_.last_epoch == expected.net_.scheduler_.last_epoch
    assert_same_weights(found, expected, atol=1e-2)


def test_tagging(still, limit):
    X = [text.split() for text in TEXTS]
    y = [["w"] * len(words) for words in X]
    y[0][0] = "o"

    def fit():
        backbone, head = Backbone(still, dtype="float64"), CRF(dropout=0.0)
        params = {"head_init": "random", "max_epochs": 1, "batch_size": 8, "device": "cpu"}
        return TokenTagger(backbone, head=head, crf=True, random_state=0, **params).fit(X, y)

    expected = fit()
    memory = limit(60, "backward", model=TaggingModel)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = fit()
    assert memory.failed
    assert_same_weights(found, expected)


# ------------------------------------------------------ validation, prediction


@pytest.mark.parametrize("scoring", ["loss", None])
def test_validation(make, limit, scoring):
    params = {"max_epochs": 2, "scoring": scoring, "head_init": "random"}
    given = {"X_val": make_texts(20, seed=2)[0], "y_val": make_texts(20, seed=2)[1]}
    expected = make(**params).fit(TEXTS, LABELS, **given)
    memory = limit(25, "validation")
    with pytest.warns(UserWarning, match="Out of memory"):
        found = make(**params).fit(TEXTS, LABELS, **given)
    assert memory.failed
    assert_same_weights(found, expected)
    for row, wanted in zip(found.history_, expected.history_, strict=True):
        assert row["valid_loss"] == pytest.approx(wanted["valid_loss"], rel=1e-9)
        assert row["valid_accuracy"] == wanted["valid_accuracy"]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "mps", "python"])
@pytest.mark.parametrize("most", [200, 64])
def test_prediction(fitted, limit, error, most):
    texts = [*TEXTS, LONG, *TEXTS, ""]
    expected = fitted.predict_proba(texts)
    before, params = dict(vars(fitted)), fitted.get_params()
    memory = limit(most, "validation", error)
    for _ in range(2):  # a later call begins with the whole budget again
        memory.failed.clear()
        with pytest.warns(UserWarning, match="max_batch_tokens=4096") as warned:
            found = fitted.predict_proba(texts)
        assert len(warned) == 1
        assert memory.failed
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert vars(fitted) == before
    assert fitted.get_params() == params


def test_last_stage_of_a_prediction(fitted, monkeypatch):
    expected, decide, sizes = fitted.predict_proba(TEXTS), SequenceModel.decide, []

    def fail(self, vectors, sizes_, rows):
        sizes.append(len(rows))
        if len(rows) > 5:
            raise torch.OutOfMemoryError
        return decide(self, vectors, sizes_, rows)

    monkeypatch.setattr(SequenceModel, "decide", fail)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = fitted.predict_proba(TEXTS)
    assert max(sizes) > 5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------- one long document


def test_a_long_document_in_training(make, limit):
    short = ["fish bread"] * 20 + ["boat tram"] * 19
    labels = ["sea", "food"] * 20
    memory = limit(2 * 60**2, square=True)  # as attention: two of the long, not four
    with pytest.warns(UserWarning, match="Out of memory"):
        clf = make(batch_size=40, head_init="random", max_epochs=3, max_batch_tokens=256)
        clf.fit([*short, LONG], labels)
    assert memory.failed == [(4, 59)]
    n_groups = len([shape for shape in memory.shapes if shape[1] == 4])
    assert (40, 4) not in memory.shapes
    assert n_groups <= 3 + 1  # all the short ones at once, in each epoch, and in the failed step
    assert clf.net_.budget.of(4) == 256


def test_a_long_document_in_prediction(fitted, limit):
    memory = limit(2 * 59**2, "validation", square=True)
    with pytest.warns(UserWarning, match="Out of memory"):
        fitted.predict(["fish bread"] * 200 + [LONG] * 4 + ["boat tram"] * 200)
    assert memory.failed[0][1] == 59
    assert len(memory.failed) < 8
    assert sum(shape[1] == 4 for shape in memory.shapes) <= 2
    assert max(shape[0] for shape in memory.shapes if shape[1] == 4) > 300


# ------------------------------------------------------------------ no way out


def test_a_sequence_that_does_not_fit_alone(make, fitted, limit):
    limit(5)
    message = r"A sequence of \d+ tokens.*max_length.*smaller backbone.*gradient_checkpointing"
    with pytest.warns(UserWarning), pytest.raises(MemoryError, match=message) as caught:
        make(head_init="random").fit(TEXTS, LABELS)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    limit(5, "validation")
    with pytest.warns(UserWarning), pytest.raises(MemoryError, match=message):
        fitted.predict(TEXTS)
    with pytest.raises(MemoryError, match=message):
        fitted.predict([LONG])


def test_a_whole_batch_that_does_not_fit(make, limit):
    limit(5)
    head = MLPHead((8,), batch_norm=True)
    with pytest.warns(UserWarning), pytest.raises(MemoryError, match=r"batch_size.*batch_norm"):
        make(head=head, head_init="random").fit(TEXTS, LABELS)
