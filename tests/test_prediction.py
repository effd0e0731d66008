"""Predictions depend on the text alone, not on its neighbours, the order or the caller."""

import copy
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import make_texts
from hypothesis import given, settings, strategies as st

from sktransformers import fitted as fitted_module
from sktransformers.inference import predictor as predictors
from sktransformers.inference.predictor import Predictor
from sktransformers.inputs.batching import Encoded, Ragged, Words, starts

LONG = " ".join(make_texts(12, seed=7)[0])
TEXTS = ["", "fish", LONG[:250], *make_texts(40, seed=5)[0]]
METHODS = ["predict_proba", "predict_log_proba", "decision_function"]


@pytest.fixture(scope="module")
def proba(fitted):
    return fitted.predict_proba(TEXTS)


@pytest.fixture
def clf(fitted):
    """A fitted classifier of the test's own."""
    return copy.copy(fitted)


# ------------------------------------------------------- neighbours, order, padding


@settings(max_examples=40)
@given(rows=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=60))
def test_any_rows_in_any_order(fitted, proba, rows):
    found = fitted.predict_proba([TEXTS[i] for i in rows])
    np.testing.assert_allclose(found, proba[rows], rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [1, 30, 200, 100_000])
def test_token_budget(fitted, clf, method, budget):
    assert np.ptp(getattr(fitted, method)(TEXTS)) > 0.5  # else this test could not fail
    expected = getattr(fitted, method)(TEXTS)
    found = getattr(clf.set_params(max_batch_tokens=budget), method)(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("chunk", [1, 7, 43, 1000])
def test_chunks_make_no_difference(fitted, proba, chunk, monkeypatch):
    monkeypatch.setattr(fitted_module, "_PREDICT_CHUNK", chunk)
    np.testing.assert_allclose(fitted.predict_proba(TEXTS), proba, rtol=0, atol=2e-6)
    expected = fitted.classes_[proba.argmax(axis=1)]
    np.testing.assert_array_equal(fitted.predict(TEXTS), expected)


def test_one_warning_for_all_chunks(fitted, monkeypatch):
    monkeypatch.setattr(fitted_module, "_PREDICT_CHUNK", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.predict([LONG * 3, "fish"] * 5)
    (warning,) = caught
    assert str(warning.message).startswith("5 of 10 texts")


def test_methods_agree(fitted, proba):
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(TEXTS)), proba, rtol=1e-9)
    logits = fitted.decision_function(TEXTS)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exponents / exponents.sum(axis=1, keepdims=True), proba, rtol=1e-9)


# -------------------------------------------------------------------- the estimator


def test_eight_threads(fitted, proba):
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(TEXTS))[: rng.integers(1, 40)] for _ in range(48)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda o: fitted.predict_proba([TEXTS[i] for i in o]), orders))
    for order, part in zip(orders, found, strict=True):
        np.testing.assert_allclose(part, proba[order], rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", ["predict", *METHODS, "score"])
def test_predicting_changes_nothing(fitted, method):
    def state():
        weights = {name: weight.clone() for name, weight in fitted.model_.state_dict().items()}
        return dict(vars(fitted)), weights, fitted.model_.training

    before, weights, training = state()
    generator = torch.get_rng_state()
    getattr(fitted, method)(TEXTS[:40], *[["sea"] * 40][: method == "score"])
    after, weights_after, training_after = state()
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())
    assert all(torch.equal(weight, weights_after[name]) for name, weight in weights.items())
    assert (training, training_after) == (False, False)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in fitted.model_.parameters())


def test_result_belongs_to_the_caller(fitted, proba):
    first = fitted.predict_proba(TEXTS)
    first[:] = 0.0
    np.testing.assert_array_equal(fitted.predict_proba(TEXTS), proba)


def test_memory_does_not_grow_with_the_number_of_texts(fitted, monkeypatch):
    monkeypatch.setattr(fitted_module, "_PREDICT_CHUNK", 100)

    def peak(n):
        texts = [TEXTS[i % len(TEXTS)] for i in range(n)]  # the list holds no new texts
        tracemalloc.start()
        try:
            fitted.predict_proba(texts)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # warm up
    # Bytes a text: the result has 24; 59 were measured, and 275 with all texts in one chunk.
    assert peak(2000) - peak(100) < 2000 * 120


# -------------------------------------------------------------------- the runner


@settings(max_examples=40)
@given(
    rows=st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=30),
    max_batch_tokens=st.integers(1, 40),
)
def test_runner_gives_each_row_its_own_result(rows, max_batch_tokens):
    shapes = []

    def forward(input_ids, attention_mask):
        shapes.append(input_ids.shape)
        assert torch.is_inference_mode_enabled()
        real = input_ids * attention_mask
        return torch.stack([real.sum(dim=1), attention_mask.sum(dim=1)], dim=1).double()

    predictor = Predictor(torch.device("cpu"), 5, max_batch_tokens, None)
    found = predictor.rows(forward, None, Encoded.of_texts(Ragged.of(rows)), "window")
    assert found.tolist() == [[sum(row), len(row)] for row in rows]
    assert sum(shape[0] for shape in shapes) == len(rows)
    assert all(shape[0] == 1 or shape.numel() <= max_batch_tokens for shape in shapes)


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16, torch.float16])
def test_runner_in_lower_precision_gives_float32(autocast_dtype):
    layer = torch.nn.Linear(4, 2)
    seen = []

    def forward(input_ids, attention_mask):
        out = layer(input_ids[:, :1].float().expand(-1, 4))
        seen.append(out.dtype)
        return out

    predictor = Predictor(torch.device("cpu"), 0, 100, autocast_dtype)
    found = predictor.rows(forward, None, Encoded.of_texts(Ragged.of([[3], [1, 2]])), "window")
    assert set(seen) == {autocast_dtype or torch.float32}
    assert found.dtype == np.float32


sequences_ = st.lists(st.integers(1, 9), min_size=1, max_size=8)
texts_ = st.lists(st.lists(sequences_, min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=60)
@given(
    texts=texts_,
    unit=st.sampled_from(["window", "token"]),
    max_batch_tokens=st.integers(1, 40),
    most_vectors=st.sampled_from([1, 5, 1000]),
    data=st.data(),
)
def test_vectors_of_a_row_meet(texts, unit, max_batch_tokens, most_vectors, data):
    place = st.integers(0, len(texts) - 1)
    pairs = data.draw(st.lists(st.tuples(place, place), min_size=1, max_size=12))
    encoded = Encoded(
        Ragged.of([ids for windows in texts for ids in windows]),
        starts(np.array([len(windows) for windows in texts])),
        np.array(pairs),
    )

    def encode(input_ids, attention_mask):
        if unit == "token":
            return input_ids[attention_mask.bool()].unsqueeze(1).double()
        return (input_ids * attention_mask).sum(dim=1, keepdim=True).double()

    def decide(vectors, sizes, rows):
        # What depends on the order: 3 * (3 * (3 * a + b) + c) + ...
        found = []
        for part in vectors[:, 0].split(sizes.tolist()):
            value = torch.zeros((), dtype=torch.float64)
            for number in part:
                value = 3 * value + number
            found.append(value)
        return torch.stack(found)[rows]

    def value(windows):
        numbers = [n for ids in windows for n in (ids if unit == "token" else [sum(ids)])]
        return float(sum(n * 3.0**i for i, n in enumerate(reversed(numbers))))

    runner = Predictor(torch.device("cpu"), 7, max_batch_tokens, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictors, "_MOST_VECTORS", most_vectors)
        found = runner.rows(encode, decide, encoded, unit)
    assert found.tolist() == [[value(texts[i]) for i in pair] for pair in pairs]


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any),
    most_vectors=st.sampled_from([1, 3, 1000]),
)
def test_rows_without_a_vector(lengths, most_vectors):
    # Sentences without words have no window.
    full = [n for n in lengths if n]
    begins = Ragged.of([range(n) for n in full])
    encoded = Encoded(
        Ragged.of([range(10 * n, 11 * n) for n in full]),
        starts(np.minimum(lengths, 1)),
        np.arange(len(lengths))[:, None],
        words=Words(begins, Ragged.of([range(1, n + 1) for n in full])),
    )

    def encode(input_ids, word_rows, word_begins, **others):
        return input_ids[word_rows, word_begins].unsqueeze(1).float()

    runner = Predictor(torch.device("cpu"), 0, 20, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictors, "_MOST_VECTORS", most_vectors)
        found = runner.rows(encode, None, encoded, "word")
    assert found[:, 0].tolist() == [id_ for n in full for id_ in range(10 * n, 11 * n)]


def test_rectangles_fit_the_caches_of_a_cpu(fitted, texts, monkeypatch):
    sizes = []
    read = type(fitted.model_).encode

    def encode(model, **inputs):
        sizes.append(inputs["input_ids"].numel())
        return read(model, **inputs)

    monkeypatch.setattr(type(fitted.model_), "encode", encode)
    expected = fitted.predict_proba(texts)
    assert max(sizes) > 64
    monkeypatch.setattr(fitted_module, "_CACHED", 64 * 32)  # of 64 slots, 32 wide
    sizes.clear()
    found = fitted.predict_proba(texts)
    assert max(sizes) <= 64
    np.testing.assert_allclose(found, expected, atol=2e-6)
    low = copy.copy(fitted).set_params(precision="bf16")  # half as large, and weights are cast
    sizes.clear()
    low.predict_proba(texts)
    assert max(sizes) > 64
