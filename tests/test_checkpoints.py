"""A training that was killed goes on where its last state was written, bit by bit."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from skorch.callbacks import Callback
from test_halving import CASES as SHARED, CLF, X, Y, assert_same
from test_out_of_memory import Memory
from tiny_estimators import KINDS, make as make_kind

from sktransformers import (
    EMA,
    SWA,
    AdamW,
    BatchHistory,
    Cache,
    Checkpoint,
    RandomSwap,
    ReduceOnPlateau,
    resuming,
)
from sktransformers.files import held
from sktransformers.modules.model import SequenceModel
from sktransformers.training import store, vocabulary
from sktransformers.training.checkpoints import remembered_seed
from sktransformers.training.fingerprint import fingerprint
from sktransformers.training.net import FineTuningNet


def constant(estimator, X, y):
    """A score that no epoch improves, so that the first one is the best."""
    return 1.0


HELD_OUT = {"early_stopping": True, "validation_fraction": 8, "batch_size": 4}


class Stopped(Exception):
    """Where a test stops a training."""


@pytest.fixture
def make(tiny_backbone, tmp_path):
    """A function that makes an estimator that keeps states of every second step."""

    def make(kind=CLF, **params):
        defaults = {
            "backbone": tiny_backbone,
            "lr": 1e-3,
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
            "checkpoint": Checkpoint(tmp_path / "states", every=2, unit="step"),
        }
        return kind(**{**defaults, **params})

    return make


@pytest.fixture
def stop_before(monkeypatch):
    """A function that lets the next training fail before its n-th step."""

    def stop_before(n):
        step, left = FineTuningNet.train_step, [n]

        def train_step(self, *args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                monkeypatch.setattr(FineTuningNet, "train_step", step)
                raise Stopped
            return step(self, *args, **kwargs)

        monkeypatch.setattr(FineTuningNet, "train_step", train_step)

    return stop_before


@pytest.fixture
def name_of(monkeypatch):
    """A function that gives the name of the directory that a training would have."""

    def opened(spec, name):
        raise Stopped(name)

    def name_of(estimator, **rows):
        with monkeypatch.context() as patch:
            patch.setattr(resuming, "opened", opened)
            with pytest.raises(Stopped) as caught:
                estimator.fit(**rows)
        return str(caught.value)

    return name_of


@pytest.fixture
def files(tmp_path):
    """A function that lists the files in the directory of the states, without seeds."""
    return lambda: sorted(
        path for path in (tmp_path / "states").rglob("*") if path.suffix not in (".seed", "")
    )


# ------------------------------------------------------------- bit-equality

CASES = {
    name: SHARED[name]
    for name in (
        "full",
        "gradual",
        "lora",
        "anchor",
        "accumulation",
        "batch norm",
        "sampled",
        "crf",
    )
} | {
    "swa": {"optimizer": AdamW(averaging=SWA(start=0.3))},
    "ema": {"optimizer": AdamW(averaging=EMA(0.9)), **HELD_OUT},
    "plateau": {"schedule": ReduceOnPlateau(patience=0), **HELD_OUT, "scoring": constant},
    "augment": {"augment": RandomSwap()},
    "fp16": {"precision": "fp16"},
    "classes, replay": {"class_weight": "balanced", "replay": 8},
}
OF_KINDS = ("bi-encoder", "generator", "adapter")


def assert_resumes(make, stop_before, X, y, *stops):
    """Trainings that are stopped end as one without: make(**params) makes an estimator."""
    whole = make(checkpoint=None).fit(X, y)
    for n in stops:
        stop_before(n)
        with pytest.raises(Stopped):
            make().fit(X, y)
    resumed = make().fit(X, y)
    assert_same(resumed, whole)
    return resumed


@pytest.mark.parametrize(
    ("name", "compact"),
    [(name, False) for name in CASES] + [("full", True)],
)
def test_a_stopped_training_ends_as_one_that_was_not(make, stop_before, monkeypatch, name, compact):
    if compact:
        monkeypatch.setattr(vocabulary, "_MIN_ROWS", 0)
        monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    params = {"X": X, "y": Y, "schedule": "linear", **CASES[name]}
    X_, y_ = params.pop("X"), params.pop("y")
    n = 7 if "early_stopping" in params else 6  # in the second epoch
    assert_resumes(partial(make, **params), stop_before, X_, y_, n)


@pytest.mark.parametrize("kind", OF_KINDS)
@pytest.mark.filterwarnings("ignore:.*has no trained head")
def test_every_kind_of_estimator_goes_on(stop_before, tmp_path, kind):
    spec = Checkpoint(tmp_path, every=2, unit="step")
    known = KINDS[kind]
    size = 1 if kind == "adapter" else 6
    make = partial(make_kind, kind, **{"max_epochs": 2, "batch_size": size, "checkpoint": spec})
    assert_resumes(make, stop_before, known.X, known.y, 6)


def test_trainings_that_are_stopped_again_and_again(make, stop_before, files, capsys):
    resumed = assert_resumes(make, stop_before, X, Y, 3, 1, 4)
    shown = capsys.readouterr().out
    assert "Training goes on, 1 of 2 epochs and 4 steps were made: " in shown
    (last,) = files()
    again = make().fit(X, Y)
    assert f"has ended before, 2 of 2 epochs and 6 steps were made: {last}" in (
        capsys.readouterr().out
    )
    assert_same(again, resumed)
    for each in (again, resumed):
        assert [row["train_batch_count"] for row in each.net_.history] == [3, 3]
    np.testing.assert_array_equal(again.predict_proba(X), resumed.predict_proba(X))
    for clf in (again, resumed):
        clf.partial_fit(X, Y)
    assert_same(again, resumed)


def test_without_a_seed_the_first_one_is_remembered(make, stop_before, tmp_path):
    params = {"random_state": None, **HELD_OUT}
    stop_before(6)
    with pytest.raises(Stopped):
        make(**params).fit(X, Y)
    resumed = make(**params).fit(X, Y)
    (seed,) = (tmp_path / "states").glob("*.seed")
    known = make(**{**params, "random_state": int(seed.read_text())})
    assert_same(resumed, known.set_params(checkpoint=None).fit(X, Y))
    spec, name = Checkpoint(seed.parent), seed.stem
    for content in ("", "12", "many\n", "9" * 30):  # a process was killed, or worse
        seed.write_text(content)
        assert remembered_seed(spec, name, 5) == 5 == remembered_seed(spec, name, 6)


def test_a_generator_of_the_users(make, stop_before):
    stop_before(6)
    with pytest.raises(Stopped):
        make(random_state=np.random.RandomState(0)).fit(X, Y)
    resumed = make(random_state=np.random.RandomState(0)).fit(X, Y)
    whole = make(random_state=np.random.RandomState(0), checkpoint=None).fit(X, Y)
    assert_same(resumed, whole)


def test_what_is_fitted_once_more(make, stop_before):
    first = make(checkpoint=None, warm_start=True).fit(X, Y)
    kept = pickle.dumps(first)
    whole = first.fit(X, Y)
    with_states = pickle.loads(kept).set_params(checkpoint=make().checkpoint)
    stop_before(6)
    with pytest.raises(Stopped):
        with_states.fit(X, Y)
    assert len(with_states.history_) == 2  # as it was
    assert_same(with_states.fit(X, Y), whole)
    assert_same(pickle.loads(kept).set_params(checkpoint=make().checkpoint).fit(X, Y), whole)


def test_given_rows_for_validation(make, stop_before):
    def fit(clf):
        return clf.fit(X, Y, X_val=X[:5], y_val=Y[:5], sample_weight=np.linspace(1, 2, len(X)))

    stop_before(6)
    with pytest.raises(Stopped):
        fit(make())
    assert_same(fit(make()), fit(make(checkpoint=None)))


def test_groups_that_ran_out_of_memory_stay_small(make, stop_before, monkeypatch):
    memory, encode = Memory(40), SequenceModel.encode
    with monkeypatch.context() as patch:
        patch.setattr(
            SequenceModel, "encode", lambda self, **inputs: memory.call(encode, self, inputs)
        )
        stop_before(4)
        with pytest.raises(Stopped), pytest.warns(UserWarning, match="memory"):
            make(head_init="random").fit(X, Y)
    resumed = make(head_init="random").fit(X, Y)
    assert memory.failed and not resumed.net_.budget.is_whole


@pytest.mark.parametrize(("keep", "unit"), [(1, "step"), (3, "step"), (2, "epoch")])
def test_so_many_states_are_kept(make, files, tmp_path, keep, unit):
    spec = Checkpoint(tmp_path / "states", unit=unit, keep=keep)
    clf = make(checkpoint=spec, **HELD_OUT, n_iter_no_change=3).fit(X, Y)
    names = [path.name for path in files()]
    states = [name for name in names if name.startswith("step-")]
    assert len(states) == keep
    best = clf._held_out["epoch"]
    assert f"best-{best:06d}.safetensors" in names
    assert set(names) - set(states) <= {f"best-{i:06d}.safetensors" for i in range(3)}
    assert states[-1] == f"step-000000008-epoch-best-{best:06d}.safetensors"


# ------------------------------------------------------------------ kills


@pytest.fixture(scope="module")
def killed(tiny_backbone, tmp_path_factory):
    """What the script of the killed trainings told of each."""
    script = Path(__file__).with_name("killed_trainings.py")
    home = tmp_path_factory.mktemp("killed") / "states"
    done = subprocess.run(
        [sys.executable, str(script), tiny_backbone, str(home)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line[1:] for line in done.stdout.splitlines() if line.startswith("=")]
    assert len(lines) == 11
    return list(map(json.loads, lines))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_a_killed_training_ends_as_one_that_was_not(killed):
    for each in killed:
        assert each["killed"] and each["same"], each
    left = [name for each in killed for name in each["left"]]
    assert any(name.endswith(".part") for name in left)
    assert any(name.startswith("step-000000006") for name in left)
    for each in killed:
        files = [name for name in each["files"] if not name.endswith(".seed")]
        assert len([x for x in files if x.startswith("step-")]) == min(2, each["keep"]), each
        assert len([x for x in files if x.startswith("best-")]) == 1, each
        assert len(files) == each["keep"] + 1, each


# --------------------------------------------------- what a state belongs to


class Odd:
    """An augmenter that cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return self

    def transform(self, texts):
        """The same."""
        return texts


class Tells(Callback):
    """Has a ``state_dict`` for others, and takes none."""

    def state_dict(self):
        """Something."""
        return {"n": 1}


class Own(Callback):
    """Counts batches, and remembers how many there were."""

    def __init__(self, limit=None, lock=None):
        self.limit = limit
        self.lock = lock

    def on_train_begin(self, net, **kwargs):
        self.n_ = 0

    def on_batch_end(self, net, training, **kwargs):
        self.n_ += training

    def state_dict(self):
        """How many."""
        return {"n": torch.tensor(self.n_)}

    def load_state_dict(self, state):
        """As many."""
        self.n_ = int(state["n"])


def weigh(y, y_pred):
    """A score."""
    return f1_score(y, y_pred, average="macro")


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 2e-3},
        {"max_epochs": 3},
        {"random_state": 1},
        {"scoring": "accuracy"},
        {"callbacks": [BatchHistory()]},
        {"callbacks": [Own(limit=2)]},
        {"callbacks": [("mine", Own(limit=1))]},
        {"memory": Cache(dtype="float16")},
        {"y": Y[::-1]},
        {"X": [*X[:-1], "another text"]},
        {"sample_weight": np.linspace(1, 2, len(X))},
        {"X_val": X[:5], "y_val": Y[:5]},
    ],
)
def test_another_training_has_another_name(make, name_of, params):
    given = {"X": X, "y": Y, "callbacks": [Own(limit=1)], **params}
    rows = {name: given.pop(name) for name in list(given) if name not in CLF().get_params()}
    assert name_of(make(**given), **rows) != name_of(make(callbacks=[Own(limit=1)]), X=X, y=Y)


def test_the_same_training_has_the_same_name(make, name_of, tmp_path):
    copied = Path(shutil.copytree(make().backbone, tmp_path / "copy"))
    ways = [
        make(callbacks=[Own(lock=Odd())]),  # nothing can be told of it
        make(
            callbacks=[Own(lock=Odd())],
            backbone=str(copied),
            **{"verbose": 1, "random_state": np.int64(0), "device": torch.device("cpu")},
            **{"memory": tmp_path / "memory"},
        ),
    ]
    one, other = (name_of(way, X=X, y=Y) for way in ways)
    assert one == other
    assert name_of(clone(ways[0]), X=np.array(X), y=np.array(Y)) == one


def test_callbacks_of_the_users(make, stop_before):
    stop_before(6)
    with pytest.raises(Stopped):
        make(callbacks=[("mine", Own()), Tells()]).fit(X, Y)
    resumed = make(callbacks=[("mine", Own()), Tells()]).fit(X, Y)
    assert dict(resumed.net_.callbacks_)["mine"].n_ == 6


def add(n):
    """A score that holds a number."""
    return lambda y, y_pred: weigh(y, y_pred) + n


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (weigh, weigh, f1_score),
        (make_scorer(weigh), make_scorer(weigh), make_scorer(weigh, greater_is_better=False)),
        (make_scorer(add(1)), make_scorer(add(1)), make_scorer(add(2))),
        (partial(add(1)), partial(add(1)), partial(add(1), y_pred=0)),
    ],
    ids=["function", "scorer", "closure", "partial"],
)
def test_a_function_is_known_by_what_it_does(one, same, other):
    known = [fingerprint(each, guess=True) for each in (one, same, other)]
    assert known[0] == known[1] != known[2]


def test_a_function_of_the_same_name_in_a_scorer(monkeypatch):
    before = fingerprint(make_scorer(weigh), guess=True)

    def other(y, y_pred):
        return f1_score(y, y_pred, average="micro")

    other.__name__ = other.__qualname__ = "weigh"
    monkeypatch.setattr(sys.modules[__name__], "weigh", other)
    assert joblib.hash(make_scorer(other))  # it is what the name stands for now
    assert fingerprint(make_scorer(other), guess=True) != before


def test_what_cannot_be_told_is_an_error_before_anything_is_loaded(make, tmp_path):
    looped = Odd()
    looped.more = [looped]
    for odd in (Odd(), looped):
        clf = make(augment=odd, backbone=str(tmp_path / "none"))
        with pytest.raises(TypeError, match=r"checkpoint .* from the parameter augment: .*told"):
            clf.fit(X, Y)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------ damaged files


def rewritten(change):
    """Damage that has the digest right: ``change(tensors, about)`` gives another content."""

    def damage(path):
        tensors, about = store.load(path)
        store.write(path, *change(tensors, about))

    return damage


def with_about(**entries):
    return rewritten(lambda tensors, about: (tensors, {**about, **entries}))


def with_tensors(change):
    return rewritten(
        lambda tensors, about: (
            {k: change(v) if k.startswith("weights/") else v for k, v in tensors.items()},
            about,
        )
    )


def of_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def replaced(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


LEFT_OUT = {
    "cut": of_bytes(lambda found: found[:-10]),
    "a bit": of_bytes(lambda found: found[:-1] + bytes([found[-1] ^ 1])),
    "empty": of_bytes(lambda found: b""),
    "text": of_bytes(lambda found: b"this is no state" * 10),
    "huge header": of_bytes(lambda found: (2**40).to_bytes(8, "little") + found),
    "directory": replaced(Path.mkdir),
    "pipe": replaced(os.mkfifo) if hasattr(os, "mkfifo") else None,
    "link to nothing": replaced(lambda path: path.symlink_to("none")),
    "no dict": rewritten(lambda tensors, about: (tensors, [1])),
    "another training": with_about(training="TransformerSequenceClassifier-0"),
    "another step": with_about(n_steps=7),
    "nothing": rewritten(lambda tensors, about: ({}, {"training": about["training"]})),
    "negative": with_about(step=-1),
    "type": with_about(callbacks=[]),
}
REFUSED = {
    "not finite": with_tensors(lambda tensor: tensor * torch.nan),
    "shape": with_tensors(lambda tensor: tensor[..., None]),
    "dtype": with_tensors(lambda tensor: tensor.double()),
    "names": rewritten(lambda t, about: ({f"x{k}": v for k, v in t.items()}, about)),
    "generators": with_about(generators=[]),
    "generator": with_about(generators=[{"bit_generator": "os.system"}]),
    "budget": with_about(budget=[0] * 64),
    "moments": with_about(moments={}),
    "optimizer": rewritten(
        lambda tensors, about: (
            tensors,
            {**about, "moments": {**about["moments"], "kind": ["SGD"]}},
        )
    ),
    "step": with_about(step=10**400),
    "history": rewritten(
        lambda tensors, about: ({**tensors, "history": torch.tensor([91, 93]).byte()}, about)
    ),
    "deep": rewritten(
        lambda tensors, about: (
            {**tensors, "history": torch.tensor([91]).byte().expand(100_000)},
            about,
        )
    ),
}


@pytest.fixture(scope="module")
def two_states(tiny_backbone, tmp_path_factory):
    """Directory with the states of two steps of a training, and the training that went on."""
    location = tmp_path_factory.mktemp("two") / "states"
    clf = CLF(
        **{"backbone": tiny_backbone, "lr": 1e-3, "max_epochs": 2, "batch_size": 8},
        **{"device": "cpu", "random_state": 0, "checkpoint": None, "head_init": "random"},
    )
    whole = clone(clf).fit(X, Y)
    step, left = FineTuningNet.train_step, [6]

    def train_step(self, *args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Stopped
        return step(self, *args, **kwargs)

    FineTuningNet.train_step = train_step
    try:
        with pytest.raises(Stopped):
            spec = Checkpoint(location, every=2, unit="step", keep=2)
            clone(clf).set_params(checkpoint=spec).fit(X, Y)
    finally:
        FineTuningNet.train_step = step
    return location, whole


@pytest.fixture
def states(two_states, tmp_path):
    """A copy, an estimator that goes on from it, and the whole training."""
    location = shutil.copytree(two_states[0], tmp_path / "states")
    whole = two_states[1]
    spec = Checkpoint(location, every=2, unit="step", keep=2)
    return Path(location), clone(whole).set_params(checkpoint=spec), whole


@pytest.mark.parametrize("damage", sorted(LEFT_OUT))
def test_a_damaged_state_is_left_out_with_a_warning(states, capsys, damage):
    location, clf, whole = states
    earlier, last = sorted(location.rglob("step-*"))
    LEFT_OUT[damage](last)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(X, Y)
    assert f"{last} cannot be used" in str(caught[0].message)
    # A directory is in the way of a state of that name too.
    assert len(caught) == (2 if damage == "directory" else 1)
    assert f"2 steps were made: {earlier}" in capsys.readouterr().out
    assert_same(clf, whole)
    names = [path.name for path in location.rglob("*") if path.is_file()]
    assert "step-000000006-epoch.safetensors" in names and len(names) == 2


@pytest.mark.parametrize("damage", sorted(REFUSED))
def test_a_state_that_does_not_fit_is_refused(states, damage):
    location, clf, _ = states
    last = sorted(location.rglob("step-*"))[-1]
    REFUSED[damage](last)
    with pytest.raises(ValueError, match="is no state of this training") as caught:
        clf.fit(X, Y)
    assert str(last) in str(caught.value)
    assert not hasattr(clf, "model_")


def test_without_a_state_that_is_whole_training_begins_anew(states, stop_before):
    location, clf, whole = states
    for path in location.rglob("step-*"):
        path.write_bytes(path.read_bytes()[:-1])
    clf.set_params(checkpoint__every=1, checkpoint__keep=1)
    stop_before(2)
    with pytest.raises(Stopped), pytest.warns(UserWarning, match="cannot be used") as caught:
        clf.fit(X, Y)
    assert len(caught) == 2
    (path,) = location.rglob("step-*")  # and not a damaged one of a later step
    assert path.name == "step-000000001-batch.safetensors"
    assert_same(clf.fit(X, Y), whole)


def test_damaged_weights_of_the_best_epoch(make, stop_before, files):
    params = {**HELD_OUT, "max_epochs": 3, "n_iter_no_change": 3}
    whole = make(**params, checkpoint=None).fit(X, Y)
    stop_before(8)
    with pytest.raises(Stopped):
        make(**params).fit(X, Y)
    best = next(path for path in files() if path.name.startswith("best-"))
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{best.name} cannot be used.*step-000000006"):
        resumed = make(**params).fit(X, Y)
    assert_same(resumed, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(make(**params).fit(X, Y), whole)


def test_files_hold_no_texts_and_no_pickles(states):
    location, _, _ = states
    for path in location.rglob("step-*"):
        found = path.read_bytes()
        length = int.from_bytes(found[:8], "little")
        assert set(json.loads(found[8 : 8 + length])["__metadata__"]) == {"header"}
        assert not any(text.encode() in found for text in (*X, *Y))


# ------------------------------------------------------------ places and disks


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("\ud800", "is no path"),
        ("~nobody-of-this-name/states", "is no path"),
        ("file", "no directory"),
        ("file/below", "no directory"),
        ("link", "no directory"),
        ("closed", "not writable"),
        ("closed/below", "not writable"),
    ],
)
def test_a_bad_location_is_an_error_before_anything_is_loaded(
    make, tmp_path, monkeypatch, location, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("none")
    (tmp_path / "closed").mkdir(0o500)
    access = os.access
    monkeypatch.setattr(  # the one who tests may be root
        os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode)
    )
    before = sorted(tmp_path.rglob("*"))
    for checkpoint in (location, Checkpoint(location)):
        with pytest.raises(ValueError, match=words) as caught:
            make(checkpoint=checkpoint, backbone="none").fit(X, Y)
        assert repr(location) in str(caught.value) and "checkpoint" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("checkpoint", [1, True, b"states", ["states"], Checkpoint])
def test_what_is_no_location(make, checkpoint):
    with pytest.raises(TypeError, match="checkpoint must be"):
        make(checkpoint=checkpoint, backbone="none").fit(X, Y)


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"every": 1.5}, {"unit": "steps"}, {"keep": 0}, {"location": None}],
    ids=str,
)
def test_bad_options(make, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"'{name}' parameter of Checkpoint"):
        make(checkpoint=Checkpoint("states").set_params(**options), backbone="none").fit(X, Y)


def test_a_relative_location_stays_where_it_was(make, stop_before, tmp_path, monkeypatch):
    class Wander(Callback):
        def on_epoch_begin(self, net, **kwargs):
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            os.chdir(tmp_path / "elsewhere")

    monkeypatch.setenv("HOME", str(tmp_path))
    for location in ("zustände, 状態", "~/states"):
        monkeypatch.chdir(tmp_path)
        stop_before(6)
        with pytest.raises(Stopped):
            make(checkpoint=location, callbacks=[Wander()]).fit(X, Y)
        assert len(list((tmp_path / Path(location).name).rglob("step-*-epoch*"))) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_the_place_of_a_training_is_refused(make, name_of, tmp_path):
    folder = tmp_path / "states" / name_of(make(), X=X, y=Y)
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"):
        make().fit(X, Y)
    spec, seed = Checkpoint(folder.parent), folder.with_name("a.seed")
    seed.symlink_to(tmp_path / "seed")
    with pytest.raises(ValueError, match="is a link"):
        remembered_seed(spec, "a", 1)
    seed.unlink()
    seed.mkdir()
    with pytest.raises(ValueError, match="is no file"):
        remembered_seed(spec, "a", 1)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_full_disk_ends_no_training(make, stop_before, files):
    stop_before(4)
    with pytest.raises(Stopped):
        make(head_init="random").fit(X, Y)
    before = {path: path.read_bytes() for path in files()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # bytes of a file
    try:
        with pytest.warns(UserWarning, match="could not be written .*too large") as caught:
            clf = make(head_init="random").fit(X, Y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caught) == 1
    assert {path: path.read_bytes() for path in files()} == before
    assert_same(clf, make(head_init="random", checkpoint=None).fit(X, Y))


def test_a_directory_that_goes_away_is_made_again(make, stop_before, files, tmp_path, monkeypatch):
    step = FineTuningNet.train_step

    def train_step(self, *args, **kwargs):
        if self.n_made == 3:
            shutil.rmtree(tmp_path / "states")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(FineTuningNet, "train_step", train_step)
    make().fit(X, Y)
    (path,) = files()
    assert path.name == "step-000000006-epoch.safetensors"


def test_what_is_no_json_ends_no_training(make):
    class Records(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("mine", {1, 2})

    with pytest.warns(UserWarning, match="could not be written .*set") as caught:
        make(callbacks=[Records()]).fit(X, Y)
    assert len(caught) == 1


def test_one_process_at_a_time(make, name_of, files, tmp_path, capsys):
    folder = tmp_path / "states" / name_of(make(), X=X, y=Y)
    folder.mkdir(parents=True)
    with held(folder):
        make().fit(X, Y)
    assert [path.parent.name for path in files()] == [f"{folder.name}-2"]
    make().fit(X, Y)
    assert [path.parent.name for path in files()] == [folder.name, f"{folder.name}-2"]
    assert "Training" not in capsys.readouterr().out


# ------------------------------------------------------------------- searches


def test_a_search_that_was_stopped_goes_on(make, stop_before, files, monkeypatch, capsys):
    def search(**params):
        clf = make(max_epochs=1, **params)
        cv = StratifiedKFold(2)
        return GridSearchCV(clf, {"lr": [1e-3, 3e-3]}, cv=cv, refit=False, error_score="raise")

    steps = []
    stop_before(6)  # there are two a training
    with pytest.raises(Stopped):
        search().fit(X, Y)
    step = FineTuningNet.train_step
    monkeypatch.setattr(
        FineTuningNet, "train_step", lambda *args, **kwargs: steps.append(1) or step(*args)
    )
    found = search().fit(X, Y)
    assert len(steps) == 4  # of the third and of the fourth training
    assert capsys.readouterr().out.count("has ended before") == 2
    expected = search(checkpoint=None).fit(X, Y).cv_results_
    for name in ("split0_test_score", "split1_test_score", "rank_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], expected[name])
    assert len({path.parent for path in files()}) == 2 * 2


def test_other_ways_to_train_write_nothing(make, tmp_path):
    clf = make().partial_fit(X, Y)
    clf.find_lr(X, Y, n_steps=2)
    assert list(tmp_path.iterdir()) == []


def test_estimators_with_states_can_be_copied_and_saved(make, tmp_path):
    clf = make().fit(X, Y)
    assert pickle.loads(pickle.dumps(clf)).checkpoint.every == 2
    assert clone(clf).checkpoint.location == clf.checkpoint.location
    clf.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        assert b"checkpoint" not in path.read_bytes() or path.suffix == ".md"
        assert str(tmp_path).encode() not in path.read_bytes().replace(clf.backbone.encode(), b"")
