"""Training that goes on: partial_fit, warm_start, new classes, anchor and replay."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LEARNS, NO_DROPOUT, WORDS, make_texts, save_tiny_bert
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from skorch.callbacks import Callback

from sktransformers import (
    CRF,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Backbone,
    CrossEntropy,
    GradualUnfreezing,
    Linear,
    LoRA,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    PairRegressor,
    RAdam,
    Replay,
    TokenTagger,
    TorchOptimizer,
    TransformerSequenceClassifier,
)
from sktransformers.inputs.replay import Reservoir
from sktransformers.modules.growing import grow, regrown
from sktransformers.training import vocabulary
from sktransformers.training.moments import Moments

FIRST, FIRST_Y = make_texts(32, topics=("food", "sea"))
SECOND, SECOND_Y = make_texts(32, topics=("food", "city"), seed=1)
OPTIMIZERS = {
    "adamw": AdamW(),
    "adam with l2": Adam(l2=0.01),
    "radam": RAdam(),
    "sgd": SGD(momentum=0.9),
    "adagrad": Adagrad(),
    "adafactor": Adafactor(),
    "nadam": TorchOptimizer("NAdam"),
}


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Parameters that leave nothing to chance but the head's start, in float64."""
    directory = tmp_path_factory.mktemp("no-dropout")
    save_tiny_bert(directory, num_hidden_layers=1, intermediate_size=32, **NO_DROPOUT)
    return {
        "backbone": Backbone(str(directory), dtype="float64"),
        "head": Linear(dropout=0.0),
        "head_init": "random",
        "batch_size": 1000,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup": 0,
        "warm_start": True,
    }


@pytest.fixture
def compacts(monkeypatch):
    """Let tables of any size be compacted."""
    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 1)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)


def weights_of(est):
    return est.model_.state_dict()


def distance(first, second):
    """The largest difference between the weights of two estimators."""
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    return max(float((tensor - second[name]).abs().max()) for name, tensor in first.items())


def off(first, second):
    """The root mean square of the differences between the weights of two estimators."""
    first, second = weights_of(first), weights_of(second)
    gaps = torch.cat([(first[name] - tensor).flatten() for name, tensor in second.items()])
    return float(gaps.square().mean().sqrt())


def without(topic, n=32):
    """Texts of the two other topics."""
    return make_texts(n, topics=tuple(name for name in WORDS if name != topic))


# ------------------------------------------------------------- the state of the optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_fits_are_one_longer(name, exact, make_clf, monkeypatch):
    """As far as the state of the optimizer is the same; and little of it is nearly the same."""
    params = {**exact, "optimizer": OPTIMIZERS[name]}
    once = make_clf(**params, max_epochs=6).fit(FIRST, FIRST_Y)
    twice = make_clf(**params, max_epochs=3).fit(FIRST, FIRST_Y)
    forgetful = copy.copy(twice)
    del forgetful._moments
    nearly = off(twice.fit(FIRST, FIRST_Y), once)
    far = off(forgetful.fit(FIRST, FIRST_Y), once)
    if "l2" not in name:  # a decay of all entries is nothing that a few vectors tell
        assert nearly < far
    monkeypatch.setattr(Moments, "small", lambda moments: moments)
    twice = make_clf(**params, max_epochs=3).fit(FIRST, FIRST_Y).fit(FIRST, FIRST_Y)
    assert distance(twice, once) < 1e-7
    assert far > 1e-5  # the test can tell


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_state_of_a_compact_vocabulary(name, exact, make_clf, compacts):
    """Tokens of the first rows alone go on by momentum in the second training, and decay."""
    params = {**exact, "optimizer": OPTIMIZERS[name], "weight_decay": 0.3, "max_epochs": 3}
    compact = make_clf(**params).fit(FIRST, FIRST_Y)
    assert compact._moments.ids is not None
    assert len(compact._moments.ids) < len(compact.tokenizer_)
    y = ["food" if label == "food" else "sea" for label in SECOND_Y]
    compact.fit(SECOND, y)
    backbone = clone(exact["backbone"]).set_params(compact_vocabulary=False)
    full = make_clf(**{**params, "backbone": backbone}).fit(FIRST, FIRST_Y)
    assert full._moments.ids is None
    full.fit(SECOND, y)
    assert distance(compact, full) < 1e-9


@pytest.mark.parametrize("first", [True, False])
def test_state_of_a_table_that_was_full_or_becomes_so(first, exact, make_clf, compacts):
    params = {**exact, "weight_decay": 0.3, "max_epochs": 2}
    backbones = [clone(exact["backbone"]).set_params(compact_vocabulary=c) for c in (first, False)]
    fitted = []
    for backbone in backbones:
        clf = make_clf(**{**params, "backbone": backbone}).fit(FIRST, FIRST_Y)
        clf.set_params(backbone=clone(backbone).set_params(compact_vocabulary=not first))
        fitted.append(clf.fit(FIRST, FIRST_Y))
    assert distance(*fitted) < 1e-9


def test_another_optimizer_starts_anew(make_clf, texts, labels):
    clf = make_clf(warm_start=True).fit(texts, labels)
    other = copy.copy(clf)
    del other._moments
    for est in (clf, other):
        est.set_params(optimizer="sgd").fit(texts, labels)
    assert distance(clf, other) == 0


# ------------------------------------------------------------------------- partial_fit


@pytest.mark.parametrize("warm_start", [True, False])
@pytest.mark.parametrize("finetune", ["full", "head", 1, LoRA(r=2)], ids=str)
def test_a_pickle_between_changes_nothing(warm_start, finetune, make_clf, texts, labels):
    if isinstance(finetune, LoRA):
        pytest.importorskip("peft")
    clf = make_clf(warm_start=warm_start, finetune=finetune).fit(texts, labels)
    other = pickle.loads(pickle.dumps(clf))
    for _ in range(2):
        clf.partial_fit(texts[:20], labels[:20])
        other = pickle.loads(pickle.dumps(other.partial_fit(texts[:20], labels[:20])))
    assert distance(clf, other) == 0
    assert clf.n_iter_ == other.n_iter_ == 4


def test_partial_fit_is_one_epoch_at_a_quarter_of_the_rate(make_clf, texts, labels):
    clf = make_clf(max_epochs=3, lr=4e-3).fit(texts, labels)
    assert clf.partial_fit(texts, labels) is clf
    assert (clf.n_iter_, clf.lr_) == (4, 1e-3)
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3, 4]
    assert clf.history_[-1]["lr"] == 1e-3
    clf.partial_fit(texts, labels)
    assert clf.history_[-1]["lr"] == 1e-3  # constant, without a warm-up


def test_partial_fit_draws_anew_and_repeatably(make_clf, texts, labels):
    orders = []

    class Orders(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            orders[-1] += batch["rows"].tolist()

    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    fitted = []
    for _ in range(2):
        clf = make_clf(callbacks=[Orders()])
        for _ in range(2):
            orders.append([])
            clf.partial_fit(texts, labels)
        fitted.append(clf)
    assert orders[0] == orders[2] != orders[1] == orders[3]
    assert distance(*fitted) == 0
    assert torch.equal(torch.get_rng_state(), state[0])
    assert_array_equal(np.random.get_state()[1], state[1])


def test_learns_in_parts(make_clf):
    clf = make_clf(lr=2e-2)
    X, y = make_texts(240)
    for begin in [*range(0, 192, 48)] * 4:
        part = slice(begin, begin + 48)
        clf.partial_fit(X[part], y[part], classes=["food", "sea", "city"])
    assert clf.n_iter_ == 16
    assert clf.score(X[192:], y[192:]) > 0.9


def test_classes_that_come_later(make_clf):
    clf = make_clf().partial_fit(FIRST, FIRST_Y, classes=["sea", "food", "city"])
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    assert clf.predict_proba(FIRST).shape == (32, 3)
    clf.partial_fit(SECOND, SECOND_Y)


def test_sample_weights_count(exact, make_clf):
    weighted = make_clf(**exact).fit(FIRST, FIRST_Y)
    repeated = copy.copy(weighted)
    weighted.partial_fit(FIRST, FIRST_Y, sample_weight=np.repeat([2, 1], 16))
    repeated.partial_fit(FIRST[:16] * 2 + FIRST[16:], FIRST_Y[:16] * 2 + FIRST_Y[16:])
    assert distance(weighted, repeated) < 1e-9


def test_gradual_unfreezing_goes_on(make_clf, texts, labels):
    clf = make_clf(finetune=GradualUnfreezing())
    trained = [clf.partial_fit(texts, labels).n_trained_parameters_ for _ in range(4)]
    assert trained == sorted(set(trained))
    assert trained[-1] == clf.n_parameters_


def test_numbers_keep_their_unit(tiny_backbone):
    pairs = [(a, b) for a, b in zip(FIRST, SECOND, strict=True)]
    numbers = np.linspace(100.0, 110.0, 32)
    reg = PairRegressor(tiny_backbone, random_state=0, max_epochs=1).fit(pairs, numbers)
    unit = reg.target_mean_, reg.target_scale_
    assert reg.partial_fit(pairs[:8], numbers[:8]) is reg
    assert (reg.target_mean_, reg.target_scale_) == unit
    assert 95 < reg.predict(pairs).mean() < 115


def test_a_failure_leaves_everything(make_clf, texts, labels):
    class Fails(Callback):
        def on_batch_end(self, net, **kwargs):
            raise RuntimeError("no more")

    clf = make_clf(replay=10).partial_fit(texts, labels)
    before = dict(vars(clf))
    clf.set_params(callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="no more"):
        clf.partial_fit(texts, [*labels[:-1], "moon"], classes=["moon"])
    clf.set_params(callbacks=None)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is value for name, value in before.items())
    clf.partial_fit(texts, labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((FIRST, ["moon", *FIRST_Y[1:]]), r"^y\[0\] is 'moon', which is none of the 2 classes"),
        ((FIRST, FIRST_Y, ["sea", "sea"]), r"^classes names 'sea' more than once"),
        ((FIRST, FIRST_Y, [3]), r"^classes holds 3, but the classes so far are \['food'"),
        ((FIRST, FIRST_Y, "moon"), r"^classes must be a list of at least 1 class;"),
        ((FIRST[:3], FIRST_Y), r"inconsistent numbers of samples"),
    ],
    ids=["unknown", "twice", "mixed", "no list", "lengths"],
)
def test_bad_parts(data, message, make_clf):
    clf = make_clf(max_epochs=1).fit(FIRST, FIRST_Y)
    before = clf.predict_proba(FIRST)
    with pytest.raises(ValueError, match=message):
        clf.partial_fit(*data)
    assert_array_equal(clf.predict_proba(FIRST), before)


def test_bad_first_parts(make_clf):
    with pytest.raises(ValueError, match=r"^y\[2\] is 'sea', which is none of the 2 classes"):
        make_clf().partial_fit(["a", "b", "c"], ["food", "city", "sea"], classes=["food", "city"])
    with pytest.raises(ValueError, match=r"^classes must be a list of at least 2 classes"):
        make_clf().partial_fit(FIRST, FIRST_Y, classes=["food"])
    with pytest.raises(ValueError, match=r"partial_fit .* early_stopping=True"):
        make_clf(early_stopping=True).partial_fit(FIRST, FIRST_Y)
    with pytest.raises(ValueError, match=r"'anchor' parameter"):
        make_clf(anchor=-1).partial_fit(FIRST, FIRST_Y)
    soft = make_clf(loss=CrossEntropy(classes=["a", "b"]))
    with pytest.raises(ValueError, match=r"^classes and loss="):
        soft.partial_fit(FIRST, np.full((32, 2), 0.5), classes=["a", "b", "c"])


# ------------------------------------------------------------------------- new classes


@given(st.permutations(range(5)), st.integers(0, 3))
def test_regrown(places, n_new):
    order = [place for place in places if place < 4] + [-1] * n_new
    tensor = torch.arange(1.0, 17.0).reshape(4, 4)
    grown = regrown(tensor, order, (0, 1))
    for i, row in enumerate(order):
        for j, column in enumerate(order):
            expected = 0.0 if -1 in (row, column) else float(tensor[row, column])
            assert float(grown[i, j]) == expected


@pytest.mark.parametrize(
    "params",
    [{}, {"head": MLPHead((8,), layer_norm=True)}, {"head": "native"}, {"optimizer": "adafactor"}],
    ids=["linear", "mlp", "native", "adafactor"],
)
def test_old_outputs_stay_as_they_are(params, make_clf):
    clf = make_clf(**params, warm_start=True).fit(FIRST, FIRST_Y)
    before = clf.predict_log_proba(SECOND)
    model = copy.deepcopy(clf.model_)
    old = {name: tensor.clone() for name, tensor in model.named_parameters()}
    dims = grow(model, [-1, 0, 1])
    for name, tensor in model.named_parameters():
        kept = tensor[1:] if name in dims else tensor
        assert torch.equal(kept, old[name]), name
    moved = clf._moments.grown(dims, [-1, 0, 1])
    for name in dims:
        state, earlier = moved.tensors[name], clf._moments.tensors[name]
        for key, value in earlier.items():
            if torch.is_tensor(value) and value.shape == old[name].shape:
                assert torch.equal(state[key][1:], value)
                assert not state[key][0].any()
            elif torch.is_tensor(value) and value.ndim:  # factors: rows and columns
                assert torch.equal(state[key][len(state[key]) - len(value) :], value)
    # So a training that changes nothing leaves the odds of the old classes.
    clf.set_params(lr=1e-12).partial_fit(SECOND, SECOND_Y, classes=["city"])
    assert clf.classes_.tolist() == ["city", "food", "sea"]
    after = clf.predict_log_proba(SECOND)
    assert_allclose(after[:, 2] - after[:, 1], before[:, 1] - before[:, 0], atol=1e-4)
    assert clf.model_.config.id2label == {0: "city", 1: "food", 2: "sea"}
    assert clf.model_.config.num_labels == 3


def test_learns_a_new_class(make_clf):
    clf = make_clf(**LEARNS, replay=100).fit(FIRST, FIRST_Y)
    X, y = make_texts(40, topics=("city",), seed=3)
    for _ in range(10):
        clf.partial_fit(X, y, classes=["city"])
    assert clf.score(*make_texts(60, seed=9)) > 0.7


def test_new_classes_of_other_types(make_clf):
    codes = {"food": 10, "sea": 2, "city": 7}
    clf = make_clf().fit(FIRST, [codes[label] for label in FIRST_Y])
    clf.partial_fit(SECOND, [codes[label] for label in SECOND_Y], classes=[10, 7])
    assert clf.classes_.tolist() == [2, 7, 10]
    assert clf.classes_.dtype.kind == "i"


def test_new_labels_of_an_indicator_matrix(make_clf):
    y = pd.DataFrame({"food": [1, 0] * 16, "sea": [0, 1] * 16})
    clf = make_clf().fit(FIRST, y)
    with pytest.raises(ValueError, match=r"columns|labels"):
        clf.partial_fit(FIRST, y.assign(city=1))
    clf.partial_fit(FIRST, y.assign(city=[1, 1, 0, 0] * 8), classes=["food", "sea", "city"])
    assert clf.classes_.tolist() == ["food", "sea", "city"]
    assert clf.predict_proba(FIRST).shape == (32, 3)
    with pytest.raises(ValueError, match=r"^classes leaves out 'food'"):
        clf.partial_fit(FIRST, y, classes=["sea", "city"])


SENTENCES = [["Ana", "the", "bread"], ["boat", "is", "Ana", "wave"]] * 8
TAGS = [["B-PER", "O", "O"], ["O", "O", "B-PER", "I-PER"]] * 8
MORE = [["B-LOC", "I-LOC", "O"], ["O", "O", "B-PER", "I-PER"]] * 8


@pytest.mark.parametrize("crf", [True, False])
def test_new_tags(crf, tiny_backbone):
    tagger = TokenTagger(tiny_backbone, crf=crf, random_state=0, lr=1e-3, max_epochs=2)
    tagger.fit(SENTENCES, TAGS)
    old = weights_of(tagger)
    tagger.set_params(lr=1e-12).partial_fit(SENTENCES, MORE, classes=["B-LOC", "I-LOC"])
    assert tagger.classes_.tolist() == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    new, places = weights_of(tagger), [1, 3, 4]
    assert_allclose(new["head.out.weight"][places], old["head.out.weight"], atol=1e-7)
    if crf:
        assert_allclose(
            new["crf.transitions"][places][:, places], old["crf.transitions"], atol=1e-7
        )
        masks = tagger.model_.crf
        assert bool(masks.forbidden_start[2])  # I-LOC
        assert bool(masks.forbidden[0, 3])  # B-LOC before I-PER
        assert not bool(masks.forbidden[0, 2])
    assert [len(tags) for tags in tagger.predict(SENTENCES)] == [3, 4] * 8
    with pytest.raises(ValueError, match="B-ORG"):
        tagger.partial_fit(SENTENCES[:1], [["B-ORG", "O", "O"]])


def test_a_crf_without_constraints_stays_so(tiny_backbone):
    params = {"random_state": 0, "max_epochs": 1, "head": CRF(constraints=None)}
    tagger = TokenTagger(tiny_backbone, **params).fit(SENTENCES, TAGS)
    tagger.partial_fit(SENTENCES, MORE, classes=["B-LOC", "I-LOC"])
    assert not tagger.model_.crf.forbidden.any()


# ----------------------------------------------------------------------------- anchor


class Gradients(Callback):
    """Keep weights and gradients of each step."""

    def on_grad_computed(self, net, named_parameters=(), **kwargs):
        steps = self.__dict__.setdefault("steps_", [])
        steps.append({n: (p.detach().clone(), p.grad.clone()) for n, p in named_parameters})


def steps_of(clf):
    return next(c for _, c in clf.net_.callbacks_ if isinstance(c, Gradients)).steps_


@pytest.mark.parametrize("going_on", [True, False])
def test_anchor_pulls_back(going_on, exact, make_clf):
    params = {**exact, "optimizer": SGD(momentum=0.0), "max_epochs": 2, "lr": 0.1}
    params["callbacks"] = [Gradients()]
    clf = make_clf(**params).fit(FIRST, FIRST_Y)
    if going_on:
        plain, near = copy.copy(clf).fit(FIRST, FIRST_Y), copy.copy(clf)
        near.set_params(anchor=0.5).fit(FIRST, FIRST_Y)
    else:
        plain, near = clf, make_clf(**params, anchor=0.5).fit(FIRST, FIRST_Y)
    start = steps_of(near)[0]
    for name, (weight, gradient) in steps_of(near)[1].items():
        plain_weight, plain_gradient = steps_of(plain)[1][name]
        assert_allclose(weight, plain_weight, atol=1e-12)  # the first step has no distance yet
        pulled = going_on or name.startswith("backbone.")
        pull = 0.5 * (weight - start[name][0]) if pulled else torch.zeros_like(weight)
        assert_allclose(gradient - plain_gradient, pull, atol=1e-12)


def test_anchor_keeps_the_weights_near(make_clf, texts, labels, capsys):
    params = {"lr": 1e-2, "max_epochs": 4, "verbose": 1, "warm_start": True}
    start = make_clf(**params).fit(texts, labels)
    moves = []
    for anchor in (0.0, 1.0):
        clf = copy.copy(start).set_params(anchor=anchor).fit(texts[:24], labels[24:])
        moves.append(distance(clf, start))
    assert moves[1] < 0.8 * moves[0]
    assert "anchor=1.0" in capsys.readouterr().out


# ----------------------------------------------------------------------------- replay


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 30), st.integers(0, 9))
def test_reservoir_is_balanced(strata, size, seed):
    strata = np.array(strata)
    rng = np.random.default_rng(seed)
    everything = Reservoir.of([f"row {i}" for i in range(len(strata))], strata, strata * 2.0, rng)
    kept = everything.kept(strata, size)
    assert len(kept.rows) == min(size, len(strata))
    assert all(row == f"row {everything.rows.index(row)}" for row in kept.rows)
    assert_array_equal(kept.weights, 2.0 * kept.y)
    assert [strata[int(row.split()[1])] for row in kept.rows] == kept.y.tolist()
    counts, there = np.bincount(kept.y, minlength=5), np.bincount(strata, minlength=5)
    short = counts < there
    if short.any():  # who has fewer than came has as many as anybody, but for one row
        assert counts[short].min() >= counts.max() - 1


def test_reservoir_is_uniform_within_a_class():
    counts = np.zeros(40)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        kept = None
        for begin in range(0, 40, 10):  # in four parts
            rows = list(range(begin, begin + 10))
            part = Reservoir.of(rows, np.zeros(10, int), np.ones(10), rng)
            part = part if kept is None else kept.joined(part)
            kept = part.kept(part.y, 8)
        counts[kept.rows] += 1
    expected = 2000 * 8 / 40
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


class Rows(Callback):
    """Count the training rows of each epoch."""

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        counts = self.__dict__.setdefault("counts_", [])
        counts.append(len(batch["rows"]))


def n_trained(est):
    return sum(next(c for _, c in est.net_.callbacks_ if isinstance(c, Rows)).counts_)


def test_replayed_rows_are_trained(make_clf, texts, labels):
    clf = make_clf(max_epochs=1, replay=20, callbacks=[Rows()]).fit(texts, labels)
    assert n_trained(clf) == 48
    assert len(clf._reservoir.rows) == 20
    assert set(clf._reservoir.rows) <= set(texts)
    assert sorted(np.unique(clf._reservoir.y, return_counts=True)[1]) in ([6, 7, 7], [6, 6, 8])
    clf.partial_fit(texts[:10], labels[:10])
    assert n_trained(clf) == 20
    assert len(clf._reservoir.rows) == 20
    clf.set_params(replay=Replay(20, ratio=0.5)).partial_fit(texts[:10], labels[:10])
    assert n_trained(clf) == 15
    clf.set_params(replay=None).partial_fit(texts[:10], labels[:10])
    assert n_trained(clf) == 10
    assert not hasattr(clf, "_reservoir")
    clf.set_params(replay=5).fit(texts, labels)  # from the start: nothing came before
    assert n_trained(clf) == 48


def test_validation_rows_are_not_kept(make_clf, texts, labels):
    names = [f"{text} {i}" for i, text in enumerate(texts)]
    clf = make_clf(replay=100, early_stopping=True, validation_fraction=16)
    clf.fit(names, labels)
    assert len(clf._reservoir.rows) == 32
    fit_alone = make_clf(replay=100).fit(names, labels, X_val=names[:5], y_val=labels[:5])
    assert len(fit_alone._reservoir.rows) == 48


def test_pickles_hold_no_texts_unless_asked(make_clf):
    X = [f"{text} bread" for text in FIRST]
    for replay, kept in ((30, False), (Replay(30), False), (Replay(30, pickle=True), True)):
        clf = make_clf(max_epochs=1, replay=replay).fit(X, FIRST_Y)
        clf.__dict__.pop("net_")
        written = pickle.dumps(clf)
        assert (X[0].encode() in written) == kept
        other = pickle.loads(written)
        assert (getattr(other, "_reservoir", None) is not None) == kept
        other.partial_fit(X, FIRST_Y)
        assert not hasattr(clone(clf), "_reservoir")


def test_replay_of_pairs_tags_and_indicators(tiny_backbone):
    params = {"random_state": 0, "max_epochs": 1, "replay": 12, "callbacks": [Rows()]}
    pairs = list(zip(FIRST, SECOND, strict=True))
    indicator = pd.DataFrame({"food": [1, 0] * 16, "sea": [0, 1] * 16})
    cases = [
        (PairClassifier, pairs, FIRST_Y),
        (PairRegressor, pairs, np.arange(32.0)),
        (TokenTagger, SENTENCES, TAGS),
        (TransformerSequenceClassifier, FIRST, indicator),
        (TransformerSequenceClassifier, FIRST, indicator.to_numpy()),
    ]
    for cls, X, y in cases:
        est = cls(tiny_backbone, **params).fit(X, y).partial_fit(X[:6], y[:6])
        assert n_trained(est) == 12
        assert len(est._reservoir.rows) == 12


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("columns", [["sea", "food"], ["city", "sea", "food"]], ids=len)
def test_replayed_labels_stay_under_their_names(table, columns, make_clf):
    y = pd.DataFrame({"food": [1, 0] * 16, "sea": [0, 0, 0, 1] * 8})
    seen = {}

    class Targets(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            for row, target in zip(batch["rows"], batch["targets"], strict=True):
                seen[int(row)] = target.tolist()

    clf = make_clf(max_epochs=1, replay=32).fit([f"{text} old" for text in FIRST], y)
    again = pd.DataFrame(0, index=range(32), columns=columns)
    clf.set_params(callbacks=[Targets()])
    clf.partial_fit(FIRST, again if table else again.to_numpy(), classes=columns)
    assert clf.classes_.tolist() == columns
    known = dict(zip([f"{text} old" for text in FIRST], y.to_numpy().tolist(), strict=True))
    old = clf._reservoir.rows[: sum(row.endswith("old") for row in clf._reservoir.rows)]
    for row, target in zip(old, np.asarray(clf._reservoir.y), strict=False):
        assert target[columns.index("food")] == known[row][0]
        assert target[columns.index("sea")] == known[row][1]
        assert target.sum() == sum(known[row])
    # And so they came into training, behind the new ones.
    assert sorted(seen) == list(range(64))
    trained = np.array([seen[i] for i in range(32, 64)])
    assert_array_equal(trained.sum(axis=0), [y[c].sum() if c in y else 0 for c in columns])


def test_replayed_probabilities_stay_with_their_classes(make_clf):
    soft = np.column_stack([np.linspace(0, 1, 32), 1 - np.linspace(0, 1, 32)])
    clf = make_clf(max_epochs=1, replay=32, loss=CrossEntropy(classes=["a", "b"]))
    clf.fit([f"{text} {i}" for i, text in enumerate(FIRST)], soft)
    clf.set_params(loss=CrossEntropy(classes=["b", "a"]))
    clf.partial_fit(FIRST, np.full((32, 2), 0.5))
    old = [(r, p) for r, p in zip(clf._reservoir.rows, clf._reservoir.y) if p[0] != 0.5]
    assert old
    for row, proba in old:
        assert_allclose(proba, soft[int(row.split()[-1])][::-1])


def test_a_deep_copy_keeps_the_rows(make_clf):
    clf = make_clf(max_epochs=1, replay=16).fit(FIRST, FIRST_Y)
    other = copy.deepcopy(clf)
    assert other._reservoir.rows == clf._reservoir.rows
    assert not hasattr(other, "net_")
    clf.partial_fit(SECOND[:8], FIRST_Y[:8])
    other.partial_fit(SECOND[:8], FIRST_Y[:8])
    assert distance(clf, other) == 0


def test_replay_is_a_number_of_rows(make_clf):
    with pytest.raises(ValueError, match="'replay' parameter"):
        make_clf(replay=True).fit(FIRST, FIRST_Y)
    with pytest.raises(ValueError, match="'size' parameter"):
        make_clf(replay=Replay(0)).fit(FIRST, FIRST_Y)


def test_warm_starts_draw_anew_but_hold_out_the_same(make_clf, texts, labels):
    orders = []

    class Orders(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            if training:
                orders[-1] += batch["rows"].tolist()

    clf = make_clf(warm_start=True, early_stopping=True, max_epochs=1, replay=100)
    names = [f"{text} {i}" for i, text in enumerate(texts)]
    kept = []
    for _ in range(2):
        orders.append([])
        clf.set_params(callbacks=[Orders()], replay=100).fit(names, labels)
        kept.append(set(clf._reservoir.rows))
    assert orders[0] != orders[1][: len(orders[0])]
    assert kept[0] == kept[1]  # what was held out once was so again


def test_replay_after_new_classes(make_clf):
    clf = make_clf(replay=16, max_epochs=1).fit(FIRST, FIRST_Y)
    clf.partial_fit(SECOND, SECOND_Y, classes=["city"])
    counts = dict(zip(*np.unique(clf._reservoir.y, return_counts=True), strict=True))
    assert set(counts) == {"city", "food", "sea"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_replay_keeps_what_was_learnt(make_clf):
    """Two topics, then a third alone: without replay every text is soon of the third."""
    X, y = make_texts(40, topics=("city",), seed=3)
    old = make_texts(60, topics=("food", "sea"), seed=8)
    scores = {}
    for name, params in {"plain": {}, "replay": {"replay": 40}}.items():
        clf = make_clf(**LEARNS, **params).fit(FIRST, FIRST_Y)
        for _ in range(6):
            clf.partial_fit(X, y, classes=["city"])
        scores[name] = clf.score(*old)
    assert scores["plain"] < 0.2
    assert scores["replay"] > 0.5


def test_what_moments_are_of(make_clf, texts, labels):
    clf = make_clf(warm_start=True).fit(texts, labels)
    assert isinstance(clf._moments, Moments)
    names = dict(clf.model_.named_parameters())
    assert set(clf._moments.tensors) <= set(names)
    assert all(
        value.device.type == "cpu"
        for state in clf._moments.tensors.values()
        for value in state.values()
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [({"amsgrad": True}, "AdamW"), ({"centered": True}, "RMSprop"), ({"momentum": 0.5}, "RMSprop")],
    ids=["amsgrad", "centered", "momentum"],
)
def test_options_that_need_another_state_start_anew(options, name, make_clf, texts, labels):
    clf = make_clf(optimizer=TorchOptimizer(name)).fit(texts, labels)
    other = copy.copy(clf)
    del other._moments
    for est in (clf, other):
        est.set_params(optimizer=TorchOptimizer(name, options), warm_start=True).fit(texts, labels)
    assert distance(clf, other) == 0


def test_replayed_targets_know_their_columns_after_a_pickle(tiny_backbone):
    params = {"random_state": 0, "max_epochs": 1, "replay": Replay(12, pickle=True)}
    tasks = pd.DataFrame({"topic": FIRST_Y, "stars": np.linspace(0.0, 1.0, 32)})
    indicator = pd.DataFrame({"food": [1, 0] * 16, "sea": [0, 1] * 16})
    for cls, y in (
        (MultiTaskSequenceEstimator, tasks),
        (TransformerSequenceClassifier, indicator),
    ):
        est = cls(tiny_backbone, **params).fit(FIRST, y)
        other = pickle.loads(pickle.dumps(est))
        assert list(other._reservoir.y.names) == list(y.columns)
        assert type(other._reservoir.y) is type(est._reservoir.y)
        est.partial_fit(FIRST[:6], y[:6])
        other.partial_fit(FIRST[:6], y[:6])
        assert distance(est, other) == 0


def test_replay_of_another_kind_of_targets(make_clf):
    clf = make_clf(replay=12, max_epochs=1).fit(FIRST, FIRST_Y)
    clf.set_params(loss=CrossEntropy(classes=["food", "sea"]))
    with pytest.raises(ValueError, match=r"^replay: .* one entry and 2 entries .* replay=None"):
        clf.partial_fit(FIRST, np.full((32, 2), 0.5))
    clf.set_params(replay=None).partial_fit(FIRST, np.full((32, 2), 0.5))


def test_new_tags_keep_to_the_scheme_that_was_asked_for(tiny_backbone):
    tagger = TokenTagger(tiny_backbone, random_state=0, max_epochs=1, head=CRF(constraints="bio"))
    tagger.fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r'^constraints="bio" expects .* got the tag .S-LOC.'):
        tagger.partial_fit(SENTENCES, TAGS, classes=["S-LOC"])


def test_an_anchor_may_be_any_number(make_clf, texts, labels):
    fitted = [make_clf(anchor=a).fit(texts, labels) for a in (1.0, np.float32(1), True)]
    assert distance(fitted[0], fitted[1]) == distance(fitted[0], fitted[2]) == 0
