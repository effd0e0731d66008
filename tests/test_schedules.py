"""What the learning rate does, by formula and through a fit."""

import math

import numpy as np
import pytest
from conftest import make_texts
from hypothesis import given, strategies as st

from sktransformers import (
    AdamW,
    BatchHistory,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSquareRoot,
    LinearDecay,
    Polynomial,
    ReduceOnPlateau,
    Steps,
    WarmupStableDecay,
)
from sktransformers.specs import SCHEDULES
from sktransformers.training.optimizers import default_lr
from sktransformers.training.schedules import schedule_factor, shared_steps, warmup_steps

STATELESS = [name for name in SCHEDULES if name != "reduce_on_plateau"]


def factors(spec, n, warmup=0, n_batches=1):
    factor = schedule_factor(spec, n, warmup, n_batches)
    return [factor(t) for t in range(n)]


def steps_of(clf):
    return [step for row in clf.history_ for step in row["batch_history"]]


# ---------------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    ("spec", "n", "warmup", "n_batches", "expected"),
    [
        (LinearDecay(), 4, 0, 2, [1, 0.75, 0.5, 0.25]),
        (LinearDecay(), 6, 2, 2, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        (LinearDecay(), 3, 10, 1, [1 / 11, 2 / 11, 3 / 11]),  # never done
        (Constant(), 4, 1, 2, [0.5, 1, 1, 1]),
        (Cosine(), 4, 0, 2, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        (Polynomial(), 5, 1, 5, [0.5, 1, 9 / 16, 4 / 16, 1 / 16]),
        (Polynomial(power=0.5), 4, 0, 2, [1, 0.75**0.5, 0.5**0.5, 0.5]),
        (Exponential(), 6, 0, 2, [1, 1, 0.95, 0.95, 0.95**2, 0.95**2]),
        (Exponential(gamma=0.5), 6, 3, 2, [0.25, 0.5, 0.75, 0.5, 0.25, 0.25]),  # from the start on
        (Steps(), 6, 0, 2, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Steps(every=2, gamma=0.5), 6, 0, 1, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (Cyclical(n_cycles=1), 4, 0, 2, [0.1, 0.55, 1, 0.55]),
        (Cyclical(n_cycles=2, floor=0.5), 10, 2, 5, [1 / 3, 2 / 3] + 2 * [0.5, 0.75, 1, 0.75]),
        (InverseSquareRoot(), 4, 0, 2, [1, 0.5**0.5, (1 / 3) ** 0.5, 0.5]),
        (InverseSquareRoot(), 8, 1, 2, [0.5, *((2 / (t + 1)) ** 0.5 for t in range(1, 8))]),
        (WarmupStableDecay(), 10, 0, 2, [1] * 9 + [0.5]),
        (WarmupStableDecay(decay=0.5), 9, 1, 3, [0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (WarmupStableDecay(decay=1.0), 4, 0, 2, [1, 0.75, 0.5, 0.25]),
        (ReduceOnPlateau(), 4, 2, 2, [1 / 3, 2 / 3, 1, 1]),  # as nobody tells it anything
    ],
)
def test_by_hand(spec, n, warmup, n_batches, expected):
    assert factors(spec, n, warmup, n_batches) == pytest.approx(expected)


@given(
    name=st.sampled_from(STATELESS),
    n_steps=st.integers(1, 100),
    warmup=st.one_of(st.floats(0, 0.99), st.integers(1, 150)),
    n_batches=st.integers(1, 50),
    n_more=st.integers(0, 300),
)
def test_a_longer_training_begins_with_the_shared_steps(name, n_steps, warmup, n_batches, n_more):
    shared = shared_steps(SCHEDULES[name](), warmup, n_steps)
    short, long = (
        factors(SCHEDULES[name](), n, warmup_steps(warmup, n), n_batches)[:shared]
        for n in (n_steps, n_steps + n_more)
    )
    assert short == long


@pytest.mark.parametrize(
    ("spec", "warmup", "n_shared"),
    [
        (Constant(), 3, 10),
        (Constant(), 0, 10),
        (Constant(), 0.1, 0),
        (Exponential(), 0, 10),
        (Steps(), 20, 10),
        (InverseSquareRoot(), 2, 10),
        (WarmupStableDecay(0.2), 0, 8),  # the next one is at (1 - 0.8) / 0.2 < 1
        (WarmupStableDecay(0.5), 2, 7),
        (WarmupStableDecay(0.5), 0.2, 0),
        (WarmupStableDecay(0.5), 30, 10),
        (LinearDecay(), 0, 0),
        (Cosine(), 3, 0),
        (Polynomial(), 0, 0),
        (Cyclical(), 0, 0),
        (ReduceOnPlateau(), 0, 0),
    ],
)
def test_how_many_steps_a_longer_training_shares(spec, warmup, n_shared):
    assert shared_steps(spec, warmup, 10) == n_shared


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    n_steps=st.integers(1, 200),
    warmup=st.one_of(st.floats(0, 0.99), st.integers(1, 300)),
    n_batches=st.integers(1, 50),
)
def test_no_step_is_wasted(name, n_steps, warmup, n_batches):
    n_warmup = warmup_steps(warmup, n_steps)
    values = factors(SCHEDULES[name](), n_steps, n_warmup, n_batches)
    assert all(0 < value <= 1 for value in values)
    rise = [(t + 1) / (n_warmup + 1) for t in range(n_warmup)]
    assert values[:n_warmup] == rise[:n_steps]
    if name != "cyclical":
        assert values[n_warmup:] == sorted(values[n_warmup:], reverse=True)
    if n_warmup < n_steps and n_warmup < n_batches:
        assert values[n_warmup] == (0.1 if name == "cyclical" else 1.0)


@given(
    spec=st.one_of(
        st.floats(1e-3, 1e6).map(Polynomial),
        st.floats(1e-300, 1).map(Exponential),
        st.builds(Steps, st.integers(1, 9), st.floats(1e-300, 1)),
        st.builds(Cyclical, st.integers(1, 99), st.floats(1e-9, 1)),
        st.floats(1e-9, 1).map(WarmupStableDecay),
    ),
    n_steps=st.integers(1, 60),
    n_warmup=st.integers(0, 70),
    n_batches=st.integers(1, 9),
)
def test_no_step_is_wasted_with_odd_options(spec, n_steps, n_warmup, n_batches):
    assert all(0 < value <= 1 for value in factors(spec, n_steps, n_warmup, n_batches))


@given(n=st.integers(2, 300), t=st.integers(0, 299), n_cycles=st.integers(1, 5))
def test_cycles_are_alike(n, t, n_cycles):
    """Each is a triangle, and the same as the one before."""
    spec = Cyclical(n_cycles, floor=0.2)
    factor = schedule_factor(spec, n * n_cycles, 0, 1)
    t %= n
    expected = 0.2 + 0.8 * (1 - abs(2 * t / n - 1))
    for cycle in range(n_cycles):
        assert factor(t + cycle * n) == pytest.approx(expected, abs=1e-9)


def test_warmup_is_a_share_or_a_number():
    assert [warmup_steps(w, 50) for w in (0.0, 0, 0.1, 0.5, 1, 7, 90)] == [0, 0, 5, 25, 1, 7, 90]


@pytest.mark.parametrize(
    "spec",
    [
        Polynomial(power=0),
        Exponential(gamma=0),
        Steps(every=0),
        Cyclical(floor=0),
        Cyclical(n_cycles=0),
        WarmupStableDecay(decay=0),
        ReduceOnPlateau(factor=1.0),
        ReduceOnPlateau(patience=-1),
    ],
)
def test_bad_options(make_clf, texts, labels, spec):
    with pytest.raises(ValueError, match=f"parameter of {type(spec).__name__} must be"):
        make_clf(schedule=spec).fit(texts, labels)


# --------------------------------------------------------------------- in a fit


@pytest.mark.parametrize("schedule", STATELESS)
@pytest.mark.parametrize("warmup", [0.25, 3])
def test_learning_rate_of_each_step(make_clf, texts, labels, schedule, warmup):
    clf = make_clf(
        schedule=schedule,
        warmup=warmup,
        lr=2e-3,
        head_init="random",
        optimizer=AdamW(layer_decay=0.5),  # the lowest group's rate is another
        callbacks=[BatchHistory()],
    ).fit(texts, labels)
    expected = factors(SCHEDULES[schedule](), 12, 3, 6)  # 48 texts in batches of 8, twice
    rates = [step["lr"] for step in steps_of(clf)]
    assert rates == pytest.approx([2e-3 * factor for factor in expected])
    assert [row["lr"] for row in clf.history_] == [rates[5], rates[11]]
    assert clf.lr_ == 2e-3


def test_a_factor_an_epoch(make_clf, texts, labels):
    clf = make_clf(schedule=Exponential(), lr=5e-5, max_epochs=4, batch_size=32).fit(texts, labels)
    rates = [row["lr"] for row in clf.history_]
    assert rates == pytest.approx([5e-5 * 0.95**epoch for epoch in range(4)])


def test_rate_of_the_head_goes_along(make_clf, texts, labels):
    clf = make_clf(schedule="cosine", lr=2e-3, max_epochs=1, finetune="head").fit(texts, labels)
    factor = factors(Cosine(), 6, 1, 6)[-1]
    assert clf.history_[-1]["lr"] == pytest.approx(2e-3 * factor)  # that of the backbone, still
    assert clf.lr_ == 2e-3


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        ([1, 2, 3, 4], {}, [1, 1, 1, 1]),
        ([1, 1, 1, 2], {}, [1, 1, 0.5, 0.25]),
        ([1, 1, 1, 1], {"patience": 1}, [1, 1, 1, 0.5]),
        ([3, 1, 2, 2.5], {"factor": 0.1}, [1, 1, 0.1, 0.01]),
        ([1, 1.5, 1.9, 2.6], {"tol": 1.0}, [1, 1, 0.5, 0.25]),
        ([math.nan] * 4, {}, [1, 0.5, 0.25, 0.125]),
    ],
)
def test_plateau(make_clf, texts, labels, scores, options, expected):
    scripted = iter(scores)
    clf = make_clf(
        scoring=lambda *args: next(scripted),
        n_iter_no_change=99,
        schedule=ReduceOnPlateau(**options),
        warmup=0,
        max_epochs=4,
        batch_size=16,
        lr=2e-3,
        callbacks=[BatchHistory()],
    ).fit(texts, labels, X_val=texts[:6], y_val=labels[:6])
    # All steps of an epoch have its rate, the first included.
    found = np.reshape([step["lr"] for step in steps_of(clf)], (4, 3))
    np.testing.assert_allclose(found, 2e-3 * np.array(expected)[:, None] * np.ones(3))
    assert [row["lr"] for row in clf.history_] == found[:, 2].tolist()


@pytest.mark.parametrize("validation", [True, False])
def test_plateau_watches_the_loss(make_clf, texts, labels, validation):
    X_val, y_val = make_texts(9, seed=1)
    rows = {"X_val": X_val, "y_val": y_val} if validation else {}
    clf = make_clf(
        schedule=ReduceOnPlateau(tol=0.08), warmup=0, max_epochs=6, n_iter_no_change=9
    ).fit(texts, labels, **rows)
    losses = [row["valid_loss" if validation else "train_loss"] for row in clf.history_]
    factor, best, expected = 1.0, math.inf, []
    for loss in losses:
        expected.append(1e-3 * factor)
        if loss < best - 0.08:
            best = loss
        else:
            factor *= 0.5
    assert [row["lr"] for row in clf.history_] == pytest.approx(expected)
    assert expected[-1] < expected[0]  # else nothing was tested


def test_learning_rate_of_a_width(make_clf, texts, labels):
    rates = [default_lr(width) for width in (32, 384, 768, 1024, 4096)]
    assert rates == pytest.approx([1e-3, 2e-4, 5e-5, 2.8125e-5, 1e-5])
    assert make_clf(lr=None, max_epochs=1).fit(texts, labels).lr_ == 1e-3
    assert make_clf(lr=3e-5, max_epochs=1).fit(texts, labels).lr_ == 3e-5
