"""From a vector to logits: a linear layer, with an activation or hidden layers before it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, ndtr
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sktransformers import (
    CRF,
    AdamW,
    Linear,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    SampledSoftmax,
    TokenTagger,
    TransformerSequenceClassifier,
    TreeSoftmax,
)
from sktransformers.modules.heads import ACTIVATIONS, BatchNorm, Head
from sktransformers.training import loading
from sktransformers.training.probe import logistic_probe

WIDTH = 32  # of the tiny backbone
FUNCTIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * ndtr(x),
    "tanh": np.tanh,
    "sigmoid": expit,
}
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def n_parameters(head):
    return sum(p.numel() for p in head.parameters())


# ------------------------------------------------------------------ the module


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (7, 3), (384, 20)])
def test_linear_has_so_many_parameters(d, k, activation):
    assert n_parameters(Head(d, k, (), activation, 0.1)) == d * k + k


@activations
@pytest.mark.parametrize(("d", "d1", "k"), [(1, 1, 1), (7, 5, 3), (384, 256, 20)])
def test_one_hidden_layer_has_so_many_parameters(d, d1, k, activation):
    assert n_parameters(Head(d, k, (d1,), activation, 0.1)) == d * d1 + d1 + d1 * k + k


def test_many_hidden_layers_have_so_many_parameters():
    expected = 9 * 8 + 8 + 8 * 7 + 7 + 7 * 6 + 6 + 6 * 2 + 2
    assert n_parameters(Head(9, 2, (8, 7, 6), "relu", 0.1)) == expected


@pytest.mark.parametrize("hidden_sizes", [(), (5,), (5, 6)])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_logits_by_hand(hidden_sizes, activation):
    head = Head(4, 3, hidden_sizes, activation, 0.5).double().eval()
    x = np.random.default_rng(0).normal(size=(6, 4))
    state = {name: weight.numpy() for name, weight in head.state_dict().items()}
    function = FUNCTIONS[activation]
    expected = x
    for name in sorted({name.rsplit(".", 1)[0] for name in state} - {"out"}):
        expected = function(expected @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    if not hidden_sizes:
        expected = function(expected)
    with torch.no_grad():
        assert_allclose(head.hidden(torch.from_numpy(x)), expected, rtol=1e-6)
        expected = expected @ state["out.weight"].T + state["out.bias"]
        assert_allclose(head(torch.from_numpy(x)), expected, rtol=1e-6)
        several = torch.from_numpy(x).reshape(2, 3, 4)
        assert_allclose(head(several).reshape(6, 3), expected, rtol=1e-6)


@pytest.mark.parametrize(("hidden_sizes", "n"), [((), 1), ((40,), 1), ((40, 50), 2)])
def test_dropout_in_training_only(hidden_sizes, n):
    head = Head(30, 3, hidden_sizes, "tanh", 0.4)
    dropouts = [m for m in head.modules() if isinstance(m, torch.nn.Dropout)]
    assert [m.p for m in dropouts] == [0.4] * n
    x = torch.randn(2000, 30, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        hidden = head.train().hidden(x)
        assert (hidden == 0).float().mean() == pytest.approx(0.4, abs=0.02)
        assert torch.equal(head.eval()(x), head(x))


# --------------------------------------------------------------- the estimator


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("linear", WIDTH * 3 + 3),
        (Linear(activation="relu"), WIDTH * 3 + 3),
        (MLPHead(), WIDTH * 256 + 256 + 256 * 3 + 3),
        (MLPHead((8,)), WIDTH * 8 + 8 + 8 * 3 + 3),
        (MLPHead([8, 5]), WIDTH * 8 + 8 + 8 * 5 + 5 + 5 * 3 + 3),
    ],
)
def test_an_estimator_makes_the_head(make_clf, texts, labels, head, expected, capsys):
    clf = make_clf(head=head, max_epochs=1, verbose=1).fit(texts, labels)
    assert n_parameters(clf.model_.head) == expected
    assert f": {expected} parameters, started from a probe" in capsys.readouterr().out


HEADS = [
    Linear(0.2, "relu"),
    Linear(0.2),
    *(MLPHead((16,), activation) for activation in ACTIVATIONS),
    MLPHead((16, 12)),
]


@pytest.mark.parametrize(
    ("head", "head_init"),
    [*((head, "probe") for head in HEADS), (HEADS[0], "random"), (MLPHead((16,)), "random")],
    ids=repr,
)
def test_learns(make_clf, texts, labels, head, head_init):
    # A rate of 1e-1, ten times that of the backbone elsewhere, would kill a ReLU.
    clf = make_clf(head=head, head_init=head_init, lr=3e-3, max_epochs=20, random_state=4)
    clf.set_params(optimizer=AdamW(head_lr=1e-2)).fit(texts, labels)
    # From random layers on top of each other it takes longer.
    assert clf.score(texts, labels) > (0.95 if head_init == "probe" else 0.6)
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(texts), clf.predict_proba(texts))
    assert clone(clf).head.get_params() == head.get_params()


@pytest.mark.parametrize("head", [Linear(activation="tanh"), MLPHead((9, 8), "gelu")], ids=repr)
def test_model_is_saved_and_loaded(make_clf, texts, labels, head, tmp_path):
    clf = make_clf(head=head, max_epochs=1).fit(texts, labels)
    clf.model_.save_pretrained(tmp_path)
    expected = clf.predict_proba(texts)
    loaded = copy.copy(clf)
    loaded.model_ = type(clf.model_).from_pretrained(tmp_path).eval()
    assert_allclose(loaded.predict_proba(texts), expected, atol=1e-6)


def test_parameters_reach_a_search(make_clf, texts, labels):
    clf = make_clf(head=MLPHead((8,)), max_epochs=1)
    grid = {"head__hidden_sizes": [(8,), (16, 4)], "head__activation": ["tanh"]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(texts, labels)
    widths = [
        m.out_features for m in search.best_estimator_.model_.head.hidden if hasattr(m, "bias")
    ]
    assert tuple(widths) == search.best_params_["head__hidden_sizes"]
    assert clf.head.hidden_sizes == (8,)
    heads = ["linear", Linear(activation="relu"), MLPHead((8,))]
    search = GridSearchCV(clf, {"head": heads}, cv=2, error_score="raise").fit(texts, labels)
    assert search.best_params_["head"] in heads


@pytest.mark.parametrize(
    "head", [Linear(activation="relu"), MLPHead((16,)), MLPHead((16, 9))], ids=repr
)
def test_last_layer_starts_from_a_probe_on_hidden_features(make_clf, texts, labels, head):
    weights = np.random.default_rng(0).uniform(0.5, 2, 48)
    clf = make_clf(head=head, lr=1e-12, max_epochs=1, random_state=5)
    clf.fit(texts, labels, sample_weight=weights)
    model = clf.model_
    encoded = clf._make_encoder(model, clf.tokenizer_, 64).encode(texts).encoded
    pooled = clf._predictor(model, 0).texts(model, encoded)
    with torch.no_grad():
        hidden = model.head.hidden(pooled).double().numpy()
    assert hidden.shape == (48, model.head.out.in_features)
    codes = np.searchsorted(clf.classes_, labels)
    coef, intercept = logistic_probe(hidden, codes, weights, 3, np.random.default_rng(5))
    assert np.abs(coef).max() > 0.01
    assert_allclose(model.head.out.weight.detach(), coef, rtol=2e-3, atol=1e-4)
    assert_allclose(clf.decision_function(texts), hidden @ coef.T + intercept, rtol=0, atol=1e-3)
    for layer in model.head.hidden:  # as BERT's own layers start
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert layer.bias.abs().max() < 1e-9


@pytest.mark.parametrize("loss", ["auto", SampledSoftmax(n_negatives=2)], ids=["auto", "sampled"])
def test_a_linear_head_without_bias(loss, make_clf, tmp_path):
    texts, _ = make_texts(48)
    labels = ["few" if i % 4 == 0 else "many" for i in range(48)]
    clf = make_clf(head=Linear(bias=False), loss=loss, lr=1e-12, max_epochs=1).fit(texts, labels)
    out = clf.model_.head.out
    assert out.bias is None and n_parameters(clf.model_.head) == WIDTH * 2
    assert log_loss(labels, clf.predict_proba(texts)) < 0.66  # one half each: 0.69
    logits = clf.predict_log_proba(texts)
    clf.model_.save_pretrained(tmp_path)
    clf.model_ = type(clf.model_).from_pretrained(tmp_path).eval()
    assert_allclose(clf.predict_log_proba(texts), logits, rtol=0, atol=1e-6)


def test_several_tasks_without_bias(tiny_backbone, texts, labels):
    y = [[label, float(len(text))] for text, label in zip(texts, labels)]
    est = MultiTaskSequenceEstimator(
        tiny_backbone, head=Linear(bias=False), max_epochs=1, device="cpu", random_state=0
    ).fit(texts, y)
    assert all(head.out.bias is None for head in est.model_.head)


@pytest.mark.parametrize("loss", ["adaptive_softmax", TreeSoftmax()], ids=["adaptive", "tree"])
def test_losses_with_a_layer_of_their_own_have_biases(loss, make_clf, texts, labels):
    clf = make_clf(head=Linear(bias=False), loss=loss)
    with pytest.raises(ValueError, match=r"loss=.* and head=Linear\(bias=False\) contradict each"):
        clf.fit(texts, labels)


def test_random_start(make_clf, texts, labels):
    clf = make_clf(head=MLPHead((64, 64)), head_init="random", lr=1e-12, max_epochs=1)
    clf.fit(texts, labels)
    for layer in (*clf.model_.head.hidden, clf.model_.head.out):
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert layer.bias.abs().max() < 1e-9


def test_all_of_a_head_learns_at_its_rate(make_clf, texts, labels):
    clf = make_clf(head=MLPHead((8,)), max_epochs=1, schedule="constant", warmup=0.0)
    clf.fit(texts, labels)
    rates = {
        id(p): group["lr"] for group in clf.net_.optimizer_.param_groups for p in group["params"]
    }
    for name, parameter in clf.model_.named_parameters():
        assert rates[id(parameter)] == (1e-3 if name.startswith("backbone.") else 1e-2), name


# -------------------------------------------------------------- normalisation

NORMS = [{"batch_norm": True}, {"layer_norm": True}, {"batch_norm": True, "layer_norm": True}]
norms = pytest.mark.parametrize("norm", NORMS, ids=["batch", "layer", "both"])


@pytest.mark.parametrize(
    ("d", "hidden_sizes", "k", "expected"),
    [
        (768, (), 3, 2_307),
        (2 * 768, (), 3, 1536 * 3 + 3),
        (768, (256,), 3, 768 * 256 + 256 + 256 * 3 + 3),
        (768, (256, 64), 3, 768 * 256 + 256 + 256 * 64 + 64 + 64 * 3 + 3),
    ],
)
def test_counts_of_the_usual_heads(d, hidden_sizes, k, expected):
    assert n_parameters(Head(d, k, hidden_sizes, "relu", 0.1)) == expected
    for norm in NORMS:  # a factor and a bias for each entry
        more = 2 * len(norm) * sum(hidden_sizes)
        assert n_parameters(Head(d, k, hidden_sizes, "relu", 0.1, **norm)) == expected + more


@norms
def test_order_of_layers(norm):
    head = Head(6, 3, (5, 4), "tanh", 0.1, **norm)
    names = [type(layer).__name__ for layer in head.hidden]
    both = [name for key, name in [("batch_norm", "BatchNorm"), ("layer_norm", "LayerNorm")]]
    both = [name for key, name in zip(("batch_norm", "layer_norm"), both) if key in norm]
    assert names == ["Linear", *both, "Tanh", "Dropout"] * 2


@norms
@pytest.mark.parametrize("training", [True, False])
def test_normalisation_is_that_of_torch(norm, training):
    head = Head(6, 3, (5,), "relu", 0.0, **norm).double().train(training)
    layers = [torch.nn.Linear(6, 5)]
    layers += [torch.nn.BatchNorm1d(5)] if "batch_norm" in norm else []
    layers += [torch.nn.LayerNorm(5)] if "layer_norm" in norm else []
    layers += [torch.nn.ReLU(), torch.nn.Dropout(0.0)]
    theirs = torch.nn.Sequential(*layers).double().train(training)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(1, 0.5)
    theirs.load_state_dict(head.hidden.state_dict())
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_allclose(head.hidden(x).detach(), theirs(x).detach(), rtol=1e-10)
    assert_allclose(head.hidden(x[:6].view(2, 3, 6)).detach().view(6, 5), theirs(x[:6]).detach())
    if training:
        assert torch.autograd.gradcheck(head, x.requires_grad_())


def test_running_averages_begin_as_plain_means():
    norm = BatchNorm(3)
    batches = torch.randn(25, 8, 3, generator=torch.Generator().manual_seed(0)) + 5
    for batch in batches[:10]:
        norm(batch)
    assert_allclose(norm.running_mean, batches[:10].mean((0, 1)), rtol=1e-5)
    assert_allclose(norm.running_var, batches[:10].var(1).mean(0), rtol=1e-5)
    for batch in batches[10:]:
        mean = norm.running_mean.clone()
        norm(batch)
    shift = batches[-1].mean(0) - mean
    assert_allclose(norm.running_mean, mean + 0.1 * shift, rtol=1e-5)  # as torch's own


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_row_in_training(n):
    norm = BatchNorm(3)
    norm(torch.randn(8, 3) + 2)
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(n, 3, requires_grad=True)
    norm(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert_allclose(norm(x).detach(), norm.eval()(x).detach())


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("no-dropout"), **NO_DROPOUT)


def normalised(**params):
    return MLPHead((16, 12), dropout=0.0, **params)


def problem(kind):
    texts, labels = make_texts(41)  # with batches of 8 the last one has a single row
    if kind == "tagger":
        return [text.split() for text in texts], [
            [y] * len(x.split()) for x, y in zip(texts, labels)
        ]
    return (texts if kind == "sequence" else [*zip(texts, texts[::-1])]), labels


KINDS = {
    "sequence": lambda: TransformerSequenceClassifier(long_text="window", max_length=8),
    "cross": lambda: PairClassifier(),
    "all": lambda: PairClassifier(interaction="all", symmetric=True),
    "attention": lambda: PairClassifier(interaction="attention"),
    "tagger": lambda: TokenTagger(crf=False),
    "tagger with windows": lambda: TokenTagger(crf=False, max_length=8, self_attention=True),
}


@norms
@pytest.mark.parametrize(
    ("kind", "head_init"), [*((kind, "probe") for kind in KINDS), ("sequence", "random")]
)
def test_the_batch_is_that_of_the_optimizer(without_dropout, kind, norm, head_init):
    X, y = problem(kind.split()[0])
    states = []
    for max_batch_tokens in (10_000, 24):
        model = KINDS[kind]().set_params(
            backbone=without_dropout,
            head=normalised(**norm),
            head_init=head_init,
            max_batch_tokens=max_batch_tokens,
            max_epochs=1,
            batch_size=8,
            lr=1e-3,
            optimizer="sgd",
            device="cpu",
            random_state=0,
        )
        states.append(model.fit(X, y).model_.state_dict())
    for name, value in states[0].items():
        assert_allclose(states[1][name], value, rtol=1e-3, atol=2e-5, err_msg=name)
    if "batch_norm" in norm:
        counted = [v for name, v in states[0].items() if name.endswith("num_batches_tracked")]
        alone = kind.startswith("tagger") or kind == "all"  # several words; in both orders
        steps = 6 if alone else 5
        assert [int(n) for n in counted] == [steps + (head_init == "probe")] * 2


@norms
def test_learns_with_normalisation(make_clf, texts, labels, norm):
    clf = make_clf(head=MLPHead((16,), **norm), lr=3e-3, max_epochs=20)
    clf.set_params(optimizer=AdamW(head_lr=1e-2)).fit(texts, labels)
    assert clf.score(texts, labels) > 0.95
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(texts), clf.predict_proba(texts))
    one_by_one = np.concatenate([clf.predict_proba([text]) for text in texts])
    assert_allclose(one_by_one, clf.predict_proba(texts), atol=1e-5)


@norms
def test_normalised_model_is_saved_and_loaded(make_clf, texts, labels, norm, tmp_path):
    clf = make_clf(head=MLPHead((9, 8), **norm), max_epochs=1).fit(texts, labels)
    clf.model_.save_pretrained(tmp_path)
    expected = clf.predict_proba(texts)
    clf.model_ = type(clf.model_).from_pretrained(tmp_path).eval()
    assert_allclose(clf.predict_proba(texts), expected, atol=1e-6)


def test_the_probe_reads_normalised_features(make_clf, without_dropout, texts, labels):
    clf = make_clf(backbone=without_dropout, head=normalised(batch_norm=True), batch_size=48)
    clf.set_params(lr=1e-12, max_epochs=1).fit(texts, labels)
    model = clf.model_
    encoded = clf._make_encoder(model, clf.tokenizer_, 64).encode(texts).encoded
    pooled = clf._predictor(model, 0).texts(model, encoded)
    with torch.no_grad():
        seen = copy.deepcopy(model.head).train().hidden(pooled)  # what training normalises
        hidden = model.head.hidden(pooled)
        assert_allclose(hidden, seen, rtol=0.05, atol=0.05)
    coef, intercept = logistic_probe(
        hidden.double().numpy(),
        np.searchsorted(clf.classes_, labels),
        np.ones(48),
        3,
        np.random.default_rng(0),
    )
    found = model.head.out
    assert_allclose(found.weight.detach(), coef, atol=0.02 * np.abs(coef).max())
    assert_allclose(found.bias.detach(), intercept, atol=0.02)


# --------------------------------------------------------------------- bad values

BAD = {
    "dropout": (Linear(dropout=1.0), "'dropout' parameter of Linear"),
    "dropout of layers": (MLPHead(dropout=-0.1), "'dropout' parameter of MLPHead"),
    "activation": (Linear(activation="softplus"), "'activation' parameter of Linear"),
    "no activation": (MLPHead(activation=None), "'activation' parameter of MLPHead"),
    "a number": (MLPHead(hidden_sizes=16), "'hidden_sizes' parameter of MLPHead"),
    "no size": (MLPHead(hidden_sizes=()), "'hidden_sizes' parameter of MLPHead"),
    "zero": (MLPHead(hidden_sizes=(16, 0)), "'hidden_sizes' parameter of MLPHead"),
    "a share": (MLPHead(hidden_sizes=(0.5,)), "'hidden_sizes' parameter of MLPHead"),
    "text": (MLPHead(hidden_sizes=("16",)), "'hidden_sizes' parameter of MLPHead"),
    "name": ("mlp", "'head' parameter of TransformerSequenceClassifier"),
    "nothing": (None, "'head' parameter of TransformerSequenceClassifier"),
    "class": (MLPHead, "'head' parameter of TransformerSequenceClassifier"),
    "of taggers": (CRF(), "'head' parameter of TransformerSequenceClassifier"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_before_anything_is_loaded(name, make_clf, texts, labels, monkeypatch):
    head, message = BAD[name]
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a backbone was loaded"))
    with pytest.raises(ValueError, match=message):
        make_clf(head=head).fit(texts, labels)


def test_nothing_is_checked_before_fit():
    clf = TransformerSequenceClassifier(head=MLPHead("wide", 3, None))
    assert clf.get_params()["head__hidden_sizes"] == "wide"
