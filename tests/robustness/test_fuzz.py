"""Some cases of `fuzzing`, and that it finds what is wrong."""

import warnings

import fuzzing
import numpy as np
import pytest
from fuzzing import Outcome, make_case, play

AT_ONCE = 30


@pytest.mark.parametrize("first", range(0, 5 * AT_ONCE, AT_ONCE))
def test_works_or_names_the_parameter(first):
    failures = []
    for number in range(first, first + AT_ONCE):
        case = make_case(number)
        outcome = play(case)
        if outcome.failed:
            failures.append(f"{case}\n{outcome.kind}: {outcome.text}")
    assert not failures, "\n\n".join(failures)


def test_a_case_is_made_from_its_number():
    first, second = make_case(12), make_case(12)
    assert str(first) == str(second) and first.act == second.act
    assert len({str(make_case(i)) for i in range(50)}) > 45


def _raising(error):
    def act(estimator, case):
        raise error

    return act


def _warn(estimator, case):
    warnings.warn("invalid value encountered", RuntimeWarning, stacklevel=2)
    estimator.fit(*data())


def _draw(estimator, case):
    np.random.rand()
    estimator.fit(*data())


def _change(estimator, case):
    estimator.fit(*data())
    estimator.set_params(lr=0.5)


def _nothing(estimator, case):
    pass


def data():
    X, targets, _ = fuzzing.DATA["TransformerSequenceClassifier"]
    return X, targets[0]


FAULTS = {
    "unclear ValueError": _raising(ValueError("something is wrong")),
    "unclear TypeError": _raising(TypeError("not subscriptable")),
    "unclear divergence": _raising(FloatingPointError("overflow")),
    "unclear ImportError": _raising(ImportError("No module named 'x'")),
    "KeyError": _raising(KeyError("max_epochs")),
    "hang": _raising(fuzzing.Hang()),
    "warning": _warn,
    "global state": _draw,
    "parameters changed": _change,
    "prediction: NotFittedError": _nothing,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_finds_faults(kind, monkeypatch):
    case = fuzzing.Case(1, "TransformerSequenceClassifier", {"max_epochs": 2}, set(), 0, "fit")
    assert play(case) == Outcome("fitted")
    monkeypatch.setattr(fuzzing, "act", FAULTS[kind])
    state = np.random.get_state()
    outcome = play(case)
    np.random.set_state(state)
    assert outcome.kind == kind and outcome.failed


def test_a_message_that_names_the_parameter_is_an_outcome(monkeypatch):
    case = fuzzing.Case(1, "TransformerSequenceClassifier", {"max_epochs": 2}, set(), 0, "fit")
    monkeypatch.setattr(fuzzing, "act", _raising(ValueError("max_epochs=2 is too many")))
    assert play(case).kind == "refused"
