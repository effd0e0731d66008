"""Searches over max_epochs go on with what they have, and find what they would find without."""

import copy
import importlib.metadata
import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import make_texts, save_tiny_bert
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

from sktransformers import (
    EMA,
    SGD,
    Adafactor,
    Adagrad,
    AdamW,
    AdaptiveSoftmax,
    Backbone,
    BitFit,
    Cache,
    Cosine,
    Exponential,
    GradualUnfreezing,
    LoRA,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    RandomSwap,
    ReduceOnPlateau,
    SampledSoftmax,
    TokenTagger,
    TorchOptimizer,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
    TreeSoftmax,
    WarmupStableDecay,
)
from sktransformers.training import vocabulary
from sktransformers.training.fingerprint import fingerprint
from sktransformers.training.net import EncodedDataset

X, Y = make_texts(24)
NUMBERS = [float(len(text)) for text in X]
PAIRS = list(zip(X, reversed(X), strict=True))
WORDS = [text.split() for text in X]
TAGS = [["B-T" if len(word) > 4 else "O" for word in words] for words in WORDS]
INDICATOR = np.array([[y != "food", "the" in x.split()] for x, y in zip(X, Y, strict=True)]) * 1
SEVERAL = np.array([[y, n + 0.5] for y, n in zip(Y, NUMBERS, strict=True)], dtype=object)
MEASURED = {"seconds", "tokens_per_second"}
CLF = TransformerSequenceClassifier


@pytest.fixture
def make(tiny_backbone, tmp_path):
    """A function that makes an estimator whose training can be continued."""

    def make(kind=CLF, **params):
        defaults = {
            "backbone": tiny_backbone,
            "lr": 1e-3,
            "max_epochs": 3,
            "batch_size": 8,
            "schedule": "constant",
            "warmup": 2,
            "device": "cpu",
            "random_state": 0,
            "memory": tmp_path / "memory",
        }
        return kind(**{**defaults, **params})

    return make


@pytest.fixture
def epochs(monkeypatch):
    """A list that grows by one with every epoch that is trained."""
    made = []
    begin_epoch = EncodedDataset.begin_epoch
    monkeypatch.setattr(
        EncodedDataset, "begin_epoch", lambda self: made.append(1) or begin_epoch(self)
    )
    return made


@pytest.fixture
def files(tmp_path):
    """A function that lists the states that are kept."""
    return lambda: sorted((tmp_path / "memory" / "sktransformers_cache" / "states").rglob("*.*"))


def assert_same(one, other):
    """Everything fitted is the same, bit by bit, but for times."""
    weights, expected = one.model_.state_dict(), other.model_.state_dict()
    assert list(weights) == list(expected)
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
    for row, wanted in zip(one.history_, other.history_, strict=True):
        assert {k: v for k, v in row.items() if k not in MEASURED} == {
            k: v for k, v in wanted.items() if k not in MEASURED
        }
    for name in ("n_iter_", "lr_", "n_trained_parameters_", "n_parameters_"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.net_.max_epochs == other.net_.max_epochs
    assert_same_moments(one._moments, other._moments)


def assert_same_moments(one, other):
    assert (one.kind, one.shapes, one.table) == (other.kind, other.shapes, other.table)
    assert one.tensors.keys() == other.tensors.keys()
    for name, state in one.tensors.items():
        assert state.keys() == other.tensors[name].keys()
        for key, value in state.items():
            wanted = other.tensors[name][key]
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, wanted), (name, key)
                assert value.dtype == wanted.dtype
            else:
                assert value == wanted


# ------------------------------------------------------------- bit-equality

CASES = {
    "full": {},
    "head": {"finetune": "head"},
    "bitfit": {"finetune": BitFit()},
    "gradual": {"finetune": GradualUnfreezing()},
    "lora": {"finetune": LoRA(r=2, dropout=0.1)},
    "anchor": {"anchor": 0.1},
    "random head": {"head_init": "random"},
    "accumulation": {"max_batch_tokens": 48},
    "windows": {"long_text": "window", "max_length": 6},
    "exponential": {"schedule": Exponential(0.5)},
    "sgd": {"optimizer": SGD(momentum=0.9), "lr": 0.1},
    "adagrad": {"optimizer": Adagrad(), "weight_decay": 0.1},
    "adafactor": {"optimizer": Adafactor()},
    "layer decay": {"optimizer": AdamW(layer_decay=0.8, l2=0.01, head_lr=1e-2)},
    "batch norm": {"head": MLPHead((8,), batch_norm=True)},
    "attention pooling": {"pooling": "attention"},
    "native": {"head": "native", "head_init": "random"},
    "adaptive": {"loss": AdaptiveSoftmax(cutoffs=[1])},
    "sampled": {"loss": SampledSoftmax(2)},
    "tree": {"loss": TreeSoftmax()},
    "bf16": {"precision": "bf16"},
    "regressor": {"kind": TransformerSequenceRegressor, "y": NUMBERS},
    "pairs": {"kind": PairClassifier, "X": PAIRS},
    "crf": {"kind": TokenTagger, "X": WORDS, "y": TAGS, "crf": True},
    "several": {"kind": MultiTaskSequenceEstimator, "y": SEVERAL},
}
COMPACT = {"full", "sgd", "crf", "pairs"}


@pytest.mark.parametrize(
    ("name", "compact"),
    [(name, False) for name in CASES] + [(name, True) for name in sorted(COMPACT)],
)
def test_a_longer_training_is_a_continued_one(make, epochs, files, monkeypatch, name, compact):
    if compact:
        monkeypatch.setattr(vocabulary, "_MIN_ROWS", 0)
        monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    params = {"X": X, "y": Y, **CASES[name]}
    X_, y_ = params.pop("X"), params.pop("y")
    fresh = make(memory=None, **params).fit(X_, y_)
    assert len(epochs) == 3
    make(max_epochs=1, **params).fit(X_, y_)
    (before,) = files()
    del epochs[:]
    continued = make(**params).fit(X_, y_)
    assert len(epochs) == 2
    (after,) = files()
    assert (before.stem[-2:], after.stem[-2:]) == ("-1", "-3")
    assert_same(continued, fresh)
    if compact:
        assert continued._moments.ids is not None
    del epochs[:]
    again = make(**params).fit(X_, y_)
    assert len(epochs) == 0
    assert_same(again, fresh)


def test_predictions_and_later_training_are_the_same(make, epochs):
    fresh = make(memory=None).fit(X, Y)
    for n in (1, 2):
        make(max_epochs=n).fit(X, Y)
    continued = make().fit(X, Y)
    assert len(epochs) == 3 + 3
    np.testing.assert_array_equal(continued.predict_proba(X), fresh.predict_proba(X))
    for clf in (continued, fresh):
        clf.partial_fit(X, Y)
    assert_same(continued, fresh)
    for clf in (continued, fresh):
        clf.set_params(warm_start=True).fit(X, Y)
    assert_same(continued, fresh)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(continued)).predict_proba(X), fresh.predict_proba(X)
    )


@pytest.mark.parametrize("option", ["gradient_checkpointing", "skip_unread"])
def test_options_of_the_backbone(make, epochs, tiny_backbone, option):
    backbone = Backbone(tiny_backbone, **{option: option != "skip_unread"})
    fresh = make(backbone=backbone, memory=None).fit(X, Y)
    make(max_epochs=1).fit(X, Y)  # without the option
    for n in (1, 3):
        continued = make(backbone=backbone, max_epochs=n).fit(X, Y)
    assert len(epochs) == 3 + 1 + 3
    assert_same(continued, fresh)


def test_a_shorter_training_starts_afresh(make, epochs, files):
    make().fit(X, Y)
    del epochs[:]
    assert_same(make(max_epochs=2).fit(X, Y), make(max_epochs=2, memory=None).fit(X, Y))
    assert len(epochs) == 4
    assert [path.stem[-2:] for path in files()] == ["-2", "-3"]


def test_the_global_random_states_are_left_alone(make):
    make(max_epochs=1).fit(X, Y)
    states = torch.get_rng_state(), np.random.get_state()[1]
    make().fit(X, Y)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("decay", "n_kept", "n_made"),
    [(0.2, 4, 6), (0.5, 2, 8)],
)
def test_warmup_stable_decay_goes_on_from_before_the_decay(
    make, epochs, files, decay, n_kept, n_made
):
    schedule = WarmupStableDecay(decay)
    short = make(max_epochs=5, schedule=schedule, warmup=0).fit(X, Y)
    assert_same(short, make(max_epochs=5, schedule=schedule, warmup=0, memory=None).fit(X, Y))
    assert [path.stem[-2:] for path in files()] == [f"-{n_kept}"]
    del epochs[:]
    long = make(max_epochs=10, schedule=schedule, warmup=0).fit(X, Y)
    assert len(epochs) == n_made
    assert_same(long, make(max_epochs=10, schedule=schedule, warmup=0, memory=None).fit(X, Y))


# ------------------------------------------------------ what a state belongs to


def shuffled(values):
    return [values[i] for i in np.random.default_rng(1).permutation(len(values))]


@pytest.mark.parametrize(
    ("params", "X_", "y_"),
    [
        ({"lr": 2e-3}, X, Y),
        ({"random_state": 1}, X, Y),
        ({"batch_size": 4}, X, Y),
        ({"weight_decay": 0.5}, X, Y),
        ({"warmup": 3}, X, Y),
        ({"schedule": Exponential(0.5)}, X, Y),
        ({"optimizer": AdamW(eps=1e-6)}, X, Y),
        ({"class_weight": {"food": 2.0}}, X, Y),
        ({"max_batch_tokens": 48}, X, Y),
        ({"pooling": "mean"}, X, Y),
        ({"head_init": "random"}, X, Y),
        ({"precision": "bf16"}, X, Y),
        ({}, [*X[:-1], "another text"], Y),
        ({}, shuffled(X), shuffled(Y)),
        ({}, X, shuffled(Y)),
        ({}, X, [f"a {y}" for y in Y]),
    ],
)
def test_another_training_starts_afresh(make, epochs, params, X_, y_):
    make(max_epochs=1).fit(X, Y)
    del epochs[:]
    make(max_epochs=2, **params).fit(X_, y_)
    assert len(epochs) == 2


def test_other_weights_of_the_rows_start_afresh(make, epochs):
    make(max_epochs=1).fit(X, Y)
    make(max_epochs=2).fit(X, Y, sample_weight=np.linspace(1, 2, len(X)))
    assert len(epochs) == 3


def test_a_backbone_is_known_by_its_content(make, epochs, tmp_path):
    one = save_tiny_bert(tmp_path / "one")
    make(backbone=one, max_epochs=1).fit(X, Y)
    make(backbone=one, max_epochs=2).fit(X, Y)
    assert len(epochs) == 2
    del epochs[:]
    save_tiny_bert(tmp_path / "one", initializer_range=0.1)  # in the place of the other
    make(backbone=one).fit(X, Y)
    assert len(epochs) == 3
    del epochs[:]
    make(backbone=Backbone(one, dropout=0.3)).fit(X, Y)
    assert len(epochs) == 3


def test_what_does_not_matter_does_not_matter(make, epochs, capsys):
    make(max_epochs=1).fit(X, Y)
    make(verbose=1, device=torch.device("cpu"), random_state=np.int64(0)).fit(np.array(X), Y)
    assert len(epochs) == 3
    assert "goes on from the end of epoch 1" in capsys.readouterr().out


def test_other_versions_start_afresh(make, epochs, monkeypatch):
    make(max_epochs=1).fit(X, Y)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version(name) + "1" * (name == "torch")
    )
    make(max_epochs=2).fit(X, Y)
    assert len(epochs) == 3


def test_fingerprints():
    different = [
        *(
            "",
            "a",
            b"a",
            "1",
            1,
            1.0,
            True,
            None,
            [],
            (),
            {},
            [1],
            (1,),
            {1: 1},
            ["a", "b"],
            ["ab"],
        ),
        *([["a"], "b"], ["a", ["b"]], np.array(1), np.array([1]), np.array([[1]]), np.array([1.0])),
        *(np.array([1, 1]), np.array(["a"]), np.array(["a"], dtype=object)),
        *(torch.tensor([1]), torch.tensor([1.0]), torch.tensor(1.0), torch.tensor([[1.0]])),
        *(torch.tensor([-0.0]), torch.tensor([0.0]), AdamW(), AdamW(eps=1e-7), SGD()),
    ]
    assert len(set(map(fingerprint, different))) == len(different)
    assert [fingerprint(x) for x in copy.deepcopy(different)] == list(map(fingerprint, different))
    assert fingerprint("a", "b") != fingerprint("ab")
    assert fingerprint(np.int64(1), np.str_("a")) == fingerprint(1, "a")
    turned = np.arange(6).reshape(2, 3).T
    assert fingerprint(turned) == fingerprint(turned.copy())
    for unknown in (len, object(), AdamW, {"x": {1}}):
        with pytest.raises(TypeError, match="cannot be told"):
            fingerprint([unknown])


# --------------------------------------------------------------- starts afresh


class Nothing(Callback):
    """Does nothing."""


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"random_state": None}, "random_state"),
        ({"random_state": np.random.RandomState(0)}, "random_state"),
        ({"warmup": 0.1}, "warmup"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": Cosine()}, "schedule"),
        ({"schedule": ReduceOnPlateau()}, "schedule"),
        ({"schedule": WarmupStableDecay(1.0), "warmup": 0}, "schedule"),
        ({"optimizer": AdamW(averaging=EMA())}, "averages"),
        ({"optimizer": TorchOptimizer(torch.optim.NAdam)}, "NAdam"),
        ({"early_stopping": True, "validation_fraction": 6}, "held out"),
        ({"callbacks": [Nothing()]}, "callbacks"),
        ({"augment": RandomSwap()}, "augment"),
        ({"warm_start": True}, "warm_start"),
        ({"replay": 4}, "replay"),
    ],
)
def test_what_cannot_be_continued_starts_afresh(make, epochs, files, capsys, params, reason):
    for n in (1, 2):
        make(max_epochs=n, verbose=1, **params).fit(X, Y)
        shown = capsys.readouterr().out
        assert "is not kept" in shown
        assert reason in shown.split("is not kept: ")[1].splitlines()[0]
    assert len(epochs) == 3
    assert files() == []


def test_callbacks_of_sklearn_start_afresh(make, epochs, files):
    callback = pytest.importorskip("sklearn.callback").ScoringMonitor(scoring="accuracy")
    for n in (1, 2):
        make(max_epochs=n).set_callbacks(callback).fit(X, Y)
    assert len(epochs) == 3
    assert files() == []


class Own(TransformerSequenceClassifier):
    """A class whose code is not ours."""


def test_code_of_others_starts_afresh(make, epochs, files):
    make(Own, max_epochs=1).fit(X, Y)
    make(Own, max_epochs=2).fit(X, Y)
    assert len(epochs) == 3
    assert files() == []


def test_without_memory_nothing_is_written(make, tmp_path):
    make(memory=None).fit(X, Y)
    assert list(tmp_path.iterdir()) == []


def test_other_ways_to_train_write_nothing(make, files):
    clf = make(max_epochs=1).partial_fit(X, Y)
    clf.find_lr(X, Y, n_steps=2)
    assert files() == []
    clf.fit(X, Y)
    (path,) = files()
    found = path.read_bytes()
    clf.partial_fit(X, Y)
    assert files() == [path]
    assert path.read_bytes() == found


def test_rows_given_for_validation_start_afresh(make, epochs, files):
    for n in (1, 2):
        make(max_epochs=n).fit(X, Y, X_val=X[:3], y_val=Y[:3])
    assert len(epochs) == 3
    assert files() == []


# ---------------------------------------------------------------------- files


def cut(found):
    return found[:-10]


def flip(found):
    return found[:-1] + bytes([found[-1] ^ 1])


def flip_header(found):
    i = found.index(b"last_epoch" if b"last_epoch" in found else b"step")
    return found[:i] + b"S" + found[i + 1 :]


def nothing(found):
    return b""


def text(found):
    return b"this is no state" * 10


@pytest.mark.parametrize("damage", [cut, flip, flip_header, nothing, text])
def test_a_damaged_state_is_deleted_and_not_used(make, epochs, files, damage):
    make(max_epochs=1).fit(X, Y)
    make(max_epochs=1, random_state=1).fit(X, Y)
    for path in files():
        path.write_bytes(damage(path.read_bytes()))
    del epochs[:]
    assert_same(make(max_epochs=2).fit(X, Y), make(max_epochs=2, memory=None).fit(X, Y))
    assert len(epochs) == 4
    assert sorted(path.stem[-2:] for path in files()) == ["-1", "-2"]  # 1: of the other seed


def test_an_older_state_serves_where_the_later_one_is_damaged(make, epochs, files):
    make(max_epochs=2).fit(X, Y)
    make(max_epochs=1).fit(X, Y)
    later = next(path for path in files() if path.stem.endswith("-2"))
    later.write_bytes(cut(later.read_bytes()))
    del epochs[:]
    make().fit(X, Y)
    assert len(epochs) == 2


def test_a_write_that_is_interrupted_leaves_nothing(make, files, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(max_epochs=1).fit(X, Y)
    assert [path for path in (tmp_path / "memory").rglob("*") if path.is_file()] == []
    make(max_epochs=1).fit(X, Y)
    (state,) = files()
    (state.parent / "tmpabc.part").write_bytes(b"of a process that was killed")
    assert_same(make().fit(X, Y), make(memory=None).fit(X, Y))


def test_a_folder_that_cannot_be_written_is_no_error(make, tmp_path):
    (tmp_path / "memory").write_text("a file")
    with pytest.warns(UserWarning, match="does not keep the state"):
        clf = make().fit(X, Y)
    assert_same(clf, make(memory=None).fit(X, Y))


def test_the_size_is_limited(make, epochs, files, tmp_path):
    make(max_epochs=1).fit(X, Y)
    size = files()[0].stat().st_size / 2**20
    memory = Cache(tmp_path / "memory", max_disk_mb=2.5 * size)
    memory.clear()
    for seed in range(4):
        make(max_epochs=1, random_state=seed, memory=memory).fit(X, Y)
        assert len(files()) == min(seed + 1, 2)
    del epochs[:]
    make(max_epochs=1, random_state=2, memory=memory).fit(X, Y)  # used now
    make(max_epochs=1, random_state=4, memory=memory).fit(X, Y)
    make(max_epochs=1, random_state=2, memory=memory).fit(X, Y)
    assert len(epochs) == 1
    memory.clear()
    assert files() == []
    memory.set_params(max_disk_mb=0.5 * size)
    for n in (1, 2):
        make(max_epochs=n, memory=memory).fit(X, Y)
    assert len(epochs) == 1 + 3
    assert files() == []


def test_files_hold_no_texts_and_no_pickles(make, files):
    secret = "bread praia"  # two words that stand side by side in no file
    make(max_epochs=1).fit([*X, secret], [*Y, "food"])
    (path,) = files()
    found = path.read_bytes()
    assert secret.encode() not in found
    assert b"bread" not in found
    length = int.from_bytes(found[:8], "little")
    assert set(json.loads(found[8 : 8 + length])["__metadata__"]) == {"header"}


# ------------------------------------------------------------------- searches

RATES = {"lr": [1e-5, 3e-4, 1e-3, 3e-3]}
CV = StratifiedKFold(2)


def halving(estimator, grid=RATES, resource="max_epochs", **params):
    options = {"factor": 2, "min_resources": 1, "max_resources": 4, "cv": CV, "n_jobs": 1}
    return HalvingGridSearchCV(estimator, grid, resource=resource, **{**options, **params})


def scores_of(search):
    return {
        name: values.tolist()
        for name, values in search.cv_results_.items()
        if "score" in name and "time" not in name
    }


def test_halving_continues(make, epochs, files):
    plain = halving(make(memory=None)).fit(X, Y)
    # Four candidates, then two, then one, in two folds; and the best one on all rows.
    assert len(epochs) == 2 * (4 * 1 + 2 * 2 + 1 * 4) + 4
    del epochs[:]
    search = halving(make()).fit(X, Y)
    assert len(epochs) == 2 * (4 * 1 + 2 * 1 + 1 * 2) + 4
    assert scores_of(search) == scores_of(plain)
    assert search.best_params_ == plain.best_params_
    assert_same(search.best_estimator_, plain.best_estimator_)
    # In each fold the winner and who lost against it; those that lost before are gone.
    kept = {}
    for path in files():
        kept.setdefault(path.parent.name, []).append(path.stem[-2:])
    assert sorted(map(sorted, kept.values())) == [["-2", "-4"], ["-2", "-4"], ["-4"]]


def test_halving_with_a_schedule_that_cannot_be_extended(make, epochs, files):
    search = halving(make(schedule="linear")).fit(X, Y)
    assert len(epochs) == 2 * (4 * 1 + 2 * 2 + 1 * 4) + 4
    assert search.best_estimator_.n_iter_ == 4
    assert files() == []


def test_random_halving_in_a_pipeline(make, epochs):
    def search(memory):
        steps = [("keep", FunctionTransformer()), ("clf", make(memory=memory))]
        return HalvingRandomSearchCV(
            Pipeline(steps),
            {"clf__lr": [1e-5, 1e-3, 3e-3], "clf__weight_decay": [0.0, 0.1]},
            resource="clf__max_epochs",
            n_candidates=4,
            factor=2,
            max_resources=4,
            min_resources=1,
            cv=KFold(2),
            random_state=0,
        ).fit(X, Y)

    plain = search(None)
    n_fresh = len(epochs)
    continued = search(make().memory)
    assert len(epochs) - n_fresh == n_fresh - 2 * (2 * 1 + 1 * 2)
    assert scores_of(continued) == scores_of(plain)
    assert_same(continued.best_estimator_[-1], plain.best_estimator_[-1])


def test_processes_share_states(make):
    def scores(n, **params):
        return cross_validate(
            clone(make(max_epochs=n, **params)), X, Y, cv=CV, n_jobs=2, return_estimator=True
        )

    first, later, fresh = scores(1), scores(3), scores(3, memory=None)
    np.testing.assert_array_equal(later["test_score"], fresh["test_score"])
    for short, long, other in zip(
        first["estimator"], later["estimator"], fresh["estimator"], strict=True
    ):
        # A time that was measured tells one epoch from the other.
        assert long.history_[0]["seconds"] == short.history_[0]["seconds"]
        assert len(long.history_) == 3
        for name, weight in long.model_.state_dict().items():
            assert torch.equal(weight, other.model_.state_dict()[name]), name


def test_optuna_searches(make):
    optuna = pytest.importorskip("optuna")
    integration = pytest.importorskip("optuna_integration")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental
        search = integration.OptunaSearchCV(
            make(max_epochs=1),
            {
                "lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
                "batch_size": optuna.distributions.CategoricalDistribution([4, 8]),
            },
            n_trials=2,
            cv=CV,
            random_state=0,
        )
        search.fit(X, Y)
    assert len(search.trials_) == 2
    assert 1e-4 <= search.best_params_["lr"] <= 1e-2
    assert search.best_score_ == max(trial.value for trial in search.trials_)
    assert search.best_estimator_.lr_ == search.best_params_["lr"]
    assert set(search.predict(X)) <= set(Y)
