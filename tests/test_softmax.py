"""Heads for very many classes: against float64 references by hand, torch, and each other."""

import copy
import heapq
import json
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NO_DROPOUT, make_texts, save_tiny_bert
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sktransformers import (
    AdamW,
    AdaptiveSoftmax,
    CrossEntropy,
    Linear,
    LoRA,
    MLPHead,
    PairClassifier,
    SampledSoftmax,
    TransformerSequenceClassifier,
    TreeSoftmax,
)
from sktransformers.inputs.hierarchy import adaptive_clusters, class_tree, proposal
from sktransformers.inputs.targets import validation_rows
from sktransformers.modules import losses, softmax
from sktransformers.modules.model import SequenceModel
from sktransformers.training import layer_probe, loading, probe
from sktransformers.training.layer_probe import fit_layer

D = 12
LOSSES = {
    "adaptive": AdaptiveSoftmax(),
    "clusters": AdaptiveSoftmax([1, 2], div_value=2.0),
    "huffman": TreeSoftmax(),
    "taxonomy": TreeSoftmax([["food", "sea"], "city"]),
    "sampled": SampledSoftmax(n_negatives=2, proposal="frequency"),
}
LEARNS = {"lr": 3e-3, "max_epochs": 14}
STILL = {"head": Linear(dropout=0.0), "max_epochs": 1, "batch_size": 100, "lr": 1e-12}
STILL["head_init"] = "random"


def frequencies(n_classes, seed=0):
    """Frequencies after Zipf, in no order."""
    return np.random.default_rng(seed).permutation(1000.0 / np.arange(1, n_classes + 1))


def make_layer(kind, n_classes, seed=0, dtype=torch.float64):
    """A layer with weights that tell the classes apart, in float64."""
    counts = frequencies(n_classes, seed)
    torch.manual_seed(seed)
    if kind == "adaptive":
        cutoffs = sorted({max(1, n_classes // 4), max(1, n_classes // 2)})
        layer = softmax.AdaptiveSoftmax(D, **adaptive_clusters(counts, cutoffs), div_value=2.0)
    else:
        layer = softmax.TreeSoftmax(D, class_tree("huffman", np.arange(n_classes), counts))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.to(dtype)


def make_rows(n, n_classes, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, D, generator=generator, dtype=torch.float64).to(dtype)
    return vectors, torch.randint(n_classes, (n,), generator=generator)


def tree_paths(children):
    """Nodes and signs above each class, from the children alone."""
    above = {}
    for edge, child in enumerate(children):
        above[child] = (edge // 2, 1 - 2 * (edge % 2))
    paths = []
    for c in range(len(children) // 2 + 1):
        path, at = [], -1 - c
        while at != 0:
            at, sign = above[at]
            path.append((at, sign))
        paths.append(path)
    return paths


# ------------------------------------------------------------------ probabilities


@pytest.mark.parametrize("n_classes", [2, 3, 7, 40])
def test_a_tree_multiplies_the_decisions_on_a_path(n_classes):
    children = class_tree("huffman", np.arange(n_classes), frequencies(n_classes))
    layer = make_layer("huffman", n_classes)
    vectors, targets = make_rows(9, n_classes)
    weight, bias = (p.detach().numpy() for p in layer.decisions.parameters())
    logits = vectors.numpy() @ weight.T + bias
    expected = np.ones((9, n_classes))
    for c, path in enumerate(tree_paths(children)):
        for node, sign in path:
            expected[:, c] *= 1 / (1 + np.exp(-sign * logits[:, node]))
    found = layer(vectors).exp().detach().numpy()
    assert_allclose(found, expected, rtol=1e-12)
    assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    chosen = layer.log_likelihood(vectors, targets).detach().numpy()
    assert_allclose(chosen, np.log(expected[np.arange(9), targets]), rtol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3, 7, 40])
def test_clusters_agree_with_torch(n_classes):
    layer = make_layer("adaptive", n_classes)
    vectors, targets = make_rows(9, n_classes)
    order = adaptive_clusters(frequencies(n_classes), [1])["order"]
    expected = torch.empty(9, n_classes, dtype=torch.float64)
    expected[:, order] = layer.layer.log_prob(vectors)
    assert_allclose(layer(vectors).detach(), expected.detach(), rtol=1e-10)
    assert_allclose(expected.exp().sum(dim=1).detach(), 1.0, rtol=1e-12)
    ranks = torch.tensor([order.index(int(y)) for y in targets])
    theirs = layer.layer(vectors, ranks).output
    assert_allclose(layer.log_likelihood(vectors, targets).detach(), theirs.detach(), rtol=1e-10)


@pytest.mark.parametrize("kind", ["adaptive", "huffman"])
def test_one_class_a_row_has_the_gradient_of_all(kind):
    vectors, targets = make_rows(20, 15)
    weights = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    found = []
    for dense in (False, True):
        layer, x = make_layer(kind, 15), vectors.clone().requires_grad_()
        output = layer(x) if dense else softmax.Deferred(x, layer)
        loss = losses.LayerLikelihood()(output, targets, weights)
        loss.backward()
        found.append([loss.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for few, all_of_them in zip(*found):
        assert_allclose(few, all_of_them, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["adaptive", "huffman"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computed_in_float32_at_least(kind, dtype):
    layer, (vectors, targets) = make_layer(kind, 30, dtype=dtype), make_rows(8, 30, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(vectors)
        chosen = layer.log_likelihood(vectors, targets)
    assert found.dtype == chosen.dtype == torch.float32
    assert_allclose(found.exp().sum(dim=1).detach(), 1.0, rtol=1e-5)
    expected = layer.double()(vectors.double()).detach()
    assert_allclose(found.detach(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["adaptive", "huffman"])
def test_mean_vectors_have_mean_logits(kind):
    # What pairs in both orders rely on: of the decisions, not of the probabilities.
    layer = make_layer(kind, 9)
    a, b = make_rows(2, 9)[0].unsqueeze(1)
    decisions = layer.decisions if kind == "huffman" else layer.layer.head
    both = decisions((a + b) / 2).detach()
    assert_allclose(both, ((decisions(a) + decisions(b)) / 2).detach())


# ------------------------------------------------------------------------- shapes


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_huffman_codes_are_as_short_as_can_be(counts):
    paths = tree_paths(class_tree("huffman", np.arange(len(counts)), np.array(counts, float)))
    cost = sum(n * len(path) for n, path in zip(counts, paths))
    heap, best = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:  # the cost is the sum of all merged frequencies
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        best += merged
        heapq.heappush(heap, merged)
    assert cost == best
    assert sum(2.0 ** -len(path) for path in paths) == pytest.approx(1.0)


NESTED = st.recursive(st.just(None), lambda inner: st.lists(inner, min_size=1, max_size=4))


@settings(max_examples=60)
@given(NESTED.filter(lambda shape: shape is not None))
def test_a_taxonomy_of_any_shape_is_a_tree_over_the_classes(shape):
    n_classes = 0

    def label(node):
        nonlocal n_classes
        if node is not None:
            return [label(member) for member in node]
        n_classes += 1
        return n_classes - 1

    tree = label(shape)
    if n_classes < 2:
        return
    counts = frequencies(n_classes)
    children = class_tree(tree, np.arange(n_classes), counts)
    assert sorted(c for c in children if c < 0) == list(range(-n_classes, 0))
    assert [c for c in children if c >= 0] == list(range(1, n_classes - 1))
    layer = softmax.TreeSoftmax(D, children).double()
    assert_allclose(layer(make_rows(3, 2)[0]).exp().sum(dim=1).detach(), 1.0)

    def check(group):
        """The classes of a group are those below one node."""
        members = set(flatten(group))
        found = [below(children, node) for node in range(len(children) // 2)]
        assert members in found or len(members) == 1
        for member in group:
            if isinstance(member, list):
                check(member)

    check(tree)


def flatten(group):
    for member in group:
        yield from flatten(member) if isinstance(member, list) else [member]


def below(children, node):
    """Classes below a node."""
    found = set()
    for child in children[2 * node : 2 * node + 2]:
        found |= {-1 - child} if child < 0 else below(children, child)
    return found


def test_a_taxonomy_by_paths_is_that_of_lists():
    classes, counts = np.array(["cat", "dog", "oak", "rose", "tulip"]), frequencies(5)
    lists = [["cat", "dog"], ["oak", ["rose", "tulip"]]]
    paths = {
        "cat": ["animal"],
        "dog": ("animal",),
        "oak": ["plant"],
        "rose": ["plant", "flower"],
        "tulip": ["plant", "flower"],
    }
    assert class_tree(paths, classes, counts) == class_tree(lists, classes, counts)
    # Group names are told apart by where they are.
    apart = class_tree(
        {"cat": ["a", "x"], "dog": ["a", "x"], "oak": ["b", "x"], "rose": ["b", "x"], "tulip": []},
        classes,
        counts,
    )
    assert {frozenset(below(apart, node)) for node in range(4)} >= {
        frozenset({0, 1}),
        frozenset({2, 3}),
    }


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (["a", "b"], "misses the class 'c'"),
        ([["a", "b"], ["C", "d"]], "misses the class 'c'"),
        (["a", ["b", "c", "a"]], "the class 'a' more than once"),
        (["a", ["b", "c"], []], "empty group"),
        (["a", ["b", "c", {}]], "holds a value of type dict; expected labels"),
        ({"a": [], "b": ["x"]}, "misses the class 'c'"),
        ({"a": "x", "b": ["x"], "c": []}, "the path of 'a' is 'x'"),
        ({"a": [["x"]], "b": ["x"], "c": []}, "the path of 'a' is"),
    ],
)
def test_taxonomies_that_are_none(tree, message):
    with pytest.raises(ValueError, match=f"^tree of TreeSoftmax.*{message}"):
        class_tree(tree, np.array(["a", "b", "c"]), np.ones(3))


def test_a_taxonomy_inside_itself():
    tree = []
    tree.append(tree)
    with pytest.raises(ValueError, match="tree of TreeSoftmax has too many groups in groups"):
        class_tree(tree, np.array(["a", "b"]), np.ones(2))


def test_taxonomies_of_more_classes():
    """As in a fold that lacks a rare class: what is not there is left out."""
    classes, counts = np.array(["a", "b", "c"]), np.ones(3)
    whole = class_tree([["a", "b"], "c"], classes, counts)
    for tree in (
        [["a", "b", "x"], "c", ["y", ["z"]]],
        {"a": ["g"], "b": ["g"], "x": ["g"], "c": [], "y": ["h"], 7: ["h", "i"]},
    ):
        assert class_tree(tree, classes, counts) == whole


def test_clusters_by_frequency():
    counts = frequencies(20_000)
    found = adaptive_clusters(counts, "auto")
    assert_array_equal(counts[found["order"]], np.sort(counts)[::-1])
    shares = counts[found["order"]].cumsum()[np.array(found["cutoffs"]) - 1] / counts.sum()
    assert_allclose(shares, [0.8, 0.95], atol=1e-3)
    assert adaptive_clusters(counts, [5, 100])["cutoffs"] == [5, 100]
    # Where clusters save nothing there is one class in the only one.
    for few in (np.ones(2), frequencies(999), np.ones(5000)):
        assert adaptive_clusters(few, "auto")["cutoffs"] == [len(few) - 1]
    one = np.r_[1e6, np.ones(2000)]
    assert adaptive_clusters(one, "auto")["cutoffs"] == [1]


@pytest.mark.parametrize("n_classes", [2, 5])
def test_without_clusters_it_is_the_softmax(n_classes):
    layer = softmax.AdaptiveSoftmax(D, list(range(n_classes)), [n_classes - 1], 4.0)
    vectors, _ = make_rows(6, n_classes)
    layer = layer.double()
    assert_allclose(
        layer(vectors).detach(), layer.layer.head(vectors).log_softmax(dim=1).detach(), rtol=1e-9
    )


# ---------------------------------------------------------------- sampled softmax


def linear_output(n, n_classes, seed=0):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(D, n_classes).double()
    vectors, targets = make_rows(n, n_classes, seed)
    return vectors, layer, targets, torch.rand(n, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("n_negatives", [30, 31, 1000])
def test_all_classes_drawn_is_the_softmax(n_negatives):
    vectors, layer, targets, weights = linear_output(25, 30)
    q = torch.from_numpy(proposal("log_uniform", frequencies(30)))
    found = []
    for loss, dense in [
        (losses.SampledCrossEntropy(n_negatives, q), False),
        (losses.SampledCrossEntropy(n_negatives, q), True),
        (losses.CrossEntropy(), True),
    ]:
        layer.zero_grad()
        x = vectors.clone().requires_grad_()
        value = loss(layer(x) if dense else softmax.Deferred(x, layer), targets, weights)
        value.backward()
        found.append([value.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    for ours, validation, theirs in zip(*found):
        assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)
        assert_allclose(validation, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", ["log_uniform", "frequency"])
def test_the_estimated_sum_is_unbiased_and_the_loss_less_and_less(name):
    n_classes, n_draws = 200, 1500
    vectors, layer, targets, weights = linear_output(1, n_classes, seed=3)
    q = torch.from_numpy(proposal(name, frequencies(n_classes)))
    with torch.no_grad():
        logits = layer(3 * vectors)
        exact = F.cross_entropy(logits, targets)
        bias = []
        for n_negatives in (2, 10, 50):
            torch.manual_seed(0)
            loss = losses.SampledCrossEntropy(n_negatives, q)
            values = torch.empty(n_draws, dtype=torch.float64)
            for i in range(n_draws):
                loss.begin_batch()
                values[i] = loss(softmax.Deferred(3 * vectors, layer), targets, weights / weights)
            bias.append(float(values.mean() - exact))
            # exp(loss) is the estimated sum over exp(own logit).
            ratio = values.exp() / exact.exp()
            error = float(ratio.std()) / math.sqrt(n_draws)
            assert abs(float(ratio.mean()) - 1) < 4 * error + 1e-12
    assert bias[0] < bias[1] < bias[2] < 0  # by Jensen
    assert abs(bias[2]) < 0.1 * abs(bias[0])


def test_the_label_is_never_its_own_negative():
    vectors, layer, _, weights = linear_output(40, 6)
    targets = torch.arange(40) % 6
    q = torch.full((6,), 1 / 6, dtype=torch.float64)
    torch.manual_seed(0)
    loss = losses.SampledCrossEntropy(3, q)
    value = loss(softmax.Deferred(vectors, layer), targets, weights)
    classes, log_share = loss._drawn
    logits = layer(vectors).detach().numpy()
    expected = 0.0
    for z, y, w in zip(logits, targets.tolist(), weights.tolist()):
        others = [(c, s) for c, s in zip(classes.tolist(), log_share.tolist()) if c != y]
        total = np.exp(z[y]) + sum(np.exp(z[c] - s) for c, s in others)
        expected += w * (np.log(total) - z[y])
    assert float(value.detach()) == pytest.approx(expected, rel=1e-10)
    assert len(set(classes.tolist())) == 3


def test_one_draw_a_batch():
    vectors, layer, targets, weights = linear_output(8, 50)
    loss = losses.SampledCrossEntropy(5, torch.full((50,), 0.02, dtype=torch.float64))
    torch.manual_seed(0)
    draws = []
    for _ in range(2):
        loss.begin_batch()
        whole = loss(softmax.Deferred(vectors, layer), targets, weights)
        halves = [
            loss(softmax.Deferred(vectors[part], layer), targets[part], weights[part])
            for part in (slice(0, 4), slice(4, 8))
        ]
        assert_allclose(whole.detach(), sum(halves).detach(), rtol=1e-12)
        draws.append(set(loss._drawn[0].tolist()))
    assert draws[0] != draws[1]


def test_proposals():
    counts = np.array([5.0, 0.0, 20.0, 1.0])
    assert_allclose(proposal("frequency", counts), np.array([5, 1, 20, 1]) / 27)
    log_uniform = np.log([2, 3 / 2, 4 / 3, 5 / 4]) / np.log(5)
    assert_allclose(proposal("log_uniform", counts), log_uniform[[1, 3, 0, 2]])


# --------------------------------------------------------------------- most probable


@settings(max_examples=150)
@given(
    st.integers(1, 6).flatmap(
        lambda m: st.lists(
            st.lists(st.sampled_from([-math.inf, -2.0, 0.0, 0.5, 1.0]), min_size=m, max_size=m),
            min_size=1,
            max_size=4,
        )
    ),
    st.data(),
)
def test_best_is_a_stable_sort(rows, data):
    values = torch.tensor(rows)
    k = data.draw(st.integers(1, values.shape[1]))
    classes = torch.tensor(data.draw(st.permutations(range(values.shape[1]))))
    found, where = softmax.best(values, classes, k)
    for row, v, c in zip(rows, found.tolist(), where.tolist()):
        expected = sorted(zip(row, classes.tolist()), key=lambda pair: (-pair[0], pair[1]))[:k]
        assert list(zip(v, c)) == expected


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["linear", "adaptive", "huffman"]),
    n_classes=st.integers(2, 60),
    scale=st.sampled_from([0.0, 0.1, 3.0]),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_the_most_probable_are_the_first_of_all_sorted(kind, n_classes, scale, seed, data):
    k = data.draw(st.integers(1, n_classes))
    vectors, _ = make_rows(11, n_classes, seed)
    torch.manual_seed(seed)
    if kind == "linear":
        layer = torch.nn.Linear(D, n_classes).double()
    else:
        layer = make_layer(kind, n_classes, seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)  # of zero: everything is a tie
        log_p = layer(vectors).log_softmax(dim=1).numpy()
        found = softmax.most_probable(layer, vectors, n_classes, k).numpy()
    chosen = found[:, k:].astype(int)
    assert_allclose(found[:, :k], np.take_along_axis(log_p, chosen, 1), rtol=1e-10, atol=1e-12)
    assert_allclose(found[:, :k], -np.sort(-log_p, axis=1)[:, :k], rtol=1e-10, atol=1e-12)
    assert all(len(set(row)) == k for row in chosen.tolist())
    if scale > 0:
        assert_array_equal(chosen, np.argsort(-log_p, axis=1, kind="stable")[:, :k])
    elif kind == "linear":
        assert_array_equal(chosen, np.tile(np.arange(k), (11, 1)))


def test_clusters_that_cannot_hold_the_best_are_left_alone(monkeypatch):
    layer = make_layer("adaptive", 40)
    with torch.no_grad():
        layer.layer.head.bias[: layer.layer.shortlist_size] += 100.0
    vectors, _ = make_rows(5, 40)
    expected = layer(vectors).topk(3).indices
    monkeypatch.setattr(layer, "_tail", lambda *args: pytest.fail("looked into a cluster"))
    assert_array_equal(layer.best(vectors, 3)[1], expected)


def test_in_parts(monkeypatch):
    layer = make_layer("huffman", 30)
    vectors, _ = make_rows(17, 30)
    with torch.no_grad():
        expected = softmax.most_probable(layer, vectors, 30, 4)
        monkeypatch.setattr(softmax, "_MOST_LOGITS", 100)
        assert_allclose(softmax.most_probable(layer, vectors, 30, 4), expected, rtol=1e-9)


# ------------------------------------------------------------------------ the start


def clouds(n_classes, n_rows, seed=0, spread=1.0, offset=2.0):
    """Vectors around a centre a class."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(n_classes, D))
    codes = rng.integers(0, n_classes, n_rows)
    vectors = 5 * (centers[codes] + spread * rng.normal(size=(n_rows, D)) + offset)
    return vectors.astype(np.float32), codes


@pytest.mark.parametrize("kind", ["adaptive", "huffman"])
def test_a_layer_starts_from_a_fit(kind):
    (vectors, codes), (new, new_codes) = (
        clouds(10, 400, seed, spread=0.4, offset=0.5) for seed in (0, 1)
    )
    layer = make_layer(kind, 10, dtype=torch.float32)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    again = copy.deepcopy(layer)
    fit_layer(layer, vectors, codes, np.ones(400), np.random.default_rng(0))
    with torch.no_grad():
        log_p = layer(torch.from_numpy(new))
    assert (log_p.argmax(dim=1).numpy() == new_codes).mean() > 0.6
    # Held back: less sure than it could be.
    assert -log_p[np.arange(400), new_codes].mean() > 0.4
    fit_layer(again, vectors, codes, np.full(400, 7.0), np.random.default_rng(0))
    for a, b in zip(layer.parameters(), again.parameters()):
        assert_allclose(a.detach(), b.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_a_fit_to_few_rows(n_rows):
    vectors, codes = clouds(10, n_rows)
    layer = make_layer("huffman", 10, dtype=torch.bfloat16)
    fit_layer(layer, vectors, codes, np.ones(n_rows), np.random.default_rng(0))
    assert all(p.isfinite().all() for p in layer.parameters())


def test_a_large_fit_is_cut_short(monkeypatch):
    monkeypatch.setattr(layer_probe, "_MAX_UPDATES", 1)
    seen = []
    train = layer_probe._train

    def watched(*args, **kwargs):
        seen.append(train(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(layer_probe, "_train", watched)
    vectors, codes = clouds(10, 300)
    layer = make_layer("huffman", 10, dtype=torch.float32)
    fit_layer(layer, vectors, codes, np.ones(300), np.random.default_rng(0))
    assert [n_epochs for n_epochs, _ in seen] == [1, 1]


def test_very_many_classes_start_from_their_means(monkeypatch):
    (vectors, codes), (new, new_codes) = clouds(10, 400), clouds(10, 400, seed=1)
    coef, intercept = probe.centroids(
        vectors.astype(float), codes, np.ones(400), 12, np.random.default_rng(0)
    )
    logits = new @ coef.T + intercept
    assert (logits.argmax(axis=1) == new_codes).mean() > 0.7
    log_p = log_softmax(logits, axis=1)
    regression = probe.logistic_probe(
        vectors.astype(float), codes, np.ones(400), 12, np.random.default_rng(0)
    )
    theirs = log_softmax(new @ regression[0].T + regression[1], axis=1)
    loss, its_loss = (-p[np.arange(400), new_codes].mean() for p in (log_p, theirs))
    assert loss < 1.3 * its_loss
    assert (log_p[:, 10:] < log_p[:, :10].max(axis=1, keepdims=True)).all()
    monkeypatch.setattr(probe, "_MOST_LOGISTIC", 1000)
    found = probe.logistic_probe(
        vectors.astype(float), codes, np.ones(400), 12, np.random.default_rng(0)
    )
    assert_array_equal(found[0], coef)


def test_only_proportions_of_weights_count_in_class_means():
    vectors, codes = clouds(4, 60)
    weights = np.random.default_rng(0).integers(1, 4, 60)
    some, all_equal, same = (
        probe.centroids(vectors, codes, w, 4, np.random.default_rng(0))
        for w in (weights, np.ones(60), 5.0 * weights)
    )
    assert_allclose(same[0], some[0], rtol=1e-9)
    assert np.abs(some[0] - all_equal[0]).max() > 1e-3


def test_held_out_rows_of_very_many_classes():
    strata = np.random.default_rng(0).integers(0, 40_000, 100_000)
    rows = validation_rows(strata, 0.1, np.random.default_rng(0))
    assert len(rows) == 10_000
    assert set(np.delete(strata, rows)) == set(strata)


# ------------------------------------------------------------------- the estimators


@pytest.fixture(scope="module")
def fitted_by(make_clf, texts, labels):
    """A function that gives a classifier that has learnt with a loss; copy before changing it."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = make_clf(loss=LOSSES[name], **LEARNS).fit(texts, labels)
        return found[name]

    return get


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("still"), **NO_DROPOUT)


@pytest.fixture
def never_load(monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("a backbone was loaded before the input was checked")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(loading, "load_native", load)


@pytest.mark.parametrize("name", LOSSES)
def test_learns(fitted_by, texts, labels, name):
    clf, (new, expected) = fitted_by(name), make_texts(60, seed=3)
    assert clf.score(texts, labels) > 0.95
    assert clf.score(new, expected) > 0.6
    proba = clf.predict_proba(new)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-9)
    assert_allclose(np.exp(clf.predict_log_proba(new)), proba, rtol=1e-9)
    assert_array_equal(clf.predict(new), clf.classes_[proba.argmax(axis=1)])
    order = np.argsort(-clf.decision_function(new), axis=1, kind="stable")
    for k in (1, 2, 3):
        found, p = clf.predict_top_k(new, k)
        assert_array_equal(found, clf.classes_[order[:, :k]])
        assert_allclose(p, np.take_along_axis(proba, order, 1)[:, :k], rtol=1e-5)
        assert p.dtype == np.float64
        assert found.dtype == clf.classes_.dtype


@pytest.mark.parametrize("name", LOSSES)
def test_the_weighted_loss_is_the_one_asked_for(make_clf, still_backbone, texts, labels, name):
    loss = SampledSoftmax(3) if name == "sampled" else LOSSES[name]
    labels = np.array(labels)
    weights = np.random.default_rng(0).uniform(0.5, 2, 48)
    clf = make_clf(backbone=still_backbone, loss=loss, class_weight={"sea": 3.0}, **STILL)
    clf.fit(texts, labels, sample_weight=weights)
    weights = weights * np.where(labels == "sea", 3.0, 1.0)
    log_p = clf.predict_log_proba(texts)[np.arange(48), np.searchsorted(clf.classes_, labels)]
    row = clf.history_[0]
    assert row["train_loss"] == pytest.approx(-np.average(log_p, weights=weights), rel=1e-4)
    assert "train_accuracy" not in row


@pytest.mark.parametrize("name", LOSSES)
def test_groups_of_a_batch_add_up(make_clf, still_backbone, texts, labels, name):
    params = {**STILL, "lr": 1e-3, "batch_size": 16, "backbone": still_backbone}
    found = [
        make_clf(loss=LOSSES[name], max_batch_tokens=budget, **params).fit(texts, labels)
        for budget in (40, 4096)
    ]
    a, b = (clf.predict_proba(texts) for clf in found)
    assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_same_seed_same_model(make_clf, texts, labels, name):
    probas = [
        make_clf(loss=LOSSES[name], random_state=seed, max_epochs=1)
        .fit(texts, labels)
        .predict_proba(texts)
        for seed in (0, 0, 1)
    ]
    assert_array_equal(probas[0], probas[1])
    assert np.abs(probas[0] - probas[2]).max() > 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_pickle_clone_and_config(fitted_by, texts, name):
    clf = fitted_by(name)
    proba = clf.predict_proba(texts)
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(texts), proba)
    assert repr(clone(clf)) == repr(clf)
    # The configuration alone, through JSON, builds the same model.
    config = type(clf.model_.config).from_dict(json.loads(clf.model_.config.to_json_string()))
    model = SequenceModel(config)
    model.load_state_dict(clf.model_.state_dict())
    again.model_ = model.eval()
    assert_allclose(again.predict_proba(texts), proba, rtol=1e-6)


@pytest.mark.parametrize("name", ["clusters", "huffman"])
def test_saved_by_transformers(fitted_by, texts, tmp_path, name):
    clf = fitted_by(name)
    clf.model_.save_pretrained(tmp_path)
    view = copy.copy(clf)
    view.model_ = SequenceModel.from_pretrained(tmp_path).eval()
    assert_allclose(view.predict_proba(texts), clf.predict_proba(texts), rtol=1e-6)


OPTIONS = {
    "mlp": {"head": MLPHead((16,), batch_norm=True)},
    "top block": {"finetune": 1},
    "frozen": {"finetune": "head"},
    "lora": {"finetune": LoRA(r=2)},
    "probe": {"head_init": "probe"},
    "bf16": {"precision": "bf16"},
    "windows": {"long_text": "window", "max_length": 8},
    "early": {"early_stopping": True, "validation_fraction": 0.25},
    "scored": {"early_stopping": True, "scoring": "neg_log_loss", "validation_fraction": 0.25},
    "averaged": {"optimizer": AdamW(averaging="ema")},
}


@pytest.mark.parametrize("name", ["clusters", "huffman", "sampled"])
@pytest.mark.parametrize("options", OPTIONS)
def test_with_other_options(make_clf, texts, labels, name, options):
    params = {"lr": 1e-3, "head_init": "random", "loss": LOSSES[name]}
    clf = make_clf(**{**params, **OPTIONS[options]}).fit(texts, labels)
    proba = clf.predict_proba(texts)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-6)
    assert_array_equal(clf.predict_top_k(texts, 2)[0][:, 0], clf.predict(texts))
    assert np.isfinite([row["train_loss"] for row in clf.history_]).all()
    assert clf.summary().n_parameters == sum(p.numel() for p in clf.model_.parameters())
    if options == "early":
        held_out = [row["valid_loss"] for row in clf.history_]
        assert np.isfinite(held_out).all() and "valid_accuracy" not in clf.history_[0]


@pytest.mark.parametrize("interaction", ["cross", "all", "attention"])
@pytest.mark.parametrize("name", ["clusters", "huffman", "sampled"])
def test_pairs_in_both_orders(tiny_backbone, texts, labels, interaction, name):
    pairs, turned = [*zip(texts, texts[::-1])], [*zip(texts[::-1], texts)]
    clf = PairClassifier(
        tiny_backbone,
        interaction=interaction,
        symmetric=True,
        loss=LOSSES[name],
        lr=1e-3,
        max_epochs=1,
        batch_size=8,
        device="cpu",
        random_state=0,
        head_init="random",
    ).fit(pairs, labels)
    proba = clf.predict_proba(pairs)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-9)
    assert_allclose(clf.predict_proba(turned), proba, atol=1e-5)
    found, p = clf.predict_top_k(pairs, 3)
    assert_array_equal(found, clf.classes_[np.argsort(-proba, axis=1, kind="stable")])
    assert_allclose(p, -np.sort(-proba, axis=1), rtol=1e-4)


@pytest.mark.parametrize("name", ["clusters", "huffman", "sampled"])
def test_warm_start_goes_on(fitted_by, texts, labels, name):
    clf = copy.copy(fitted_by(name)).set_params(warm_start=True, lr=1e-4, max_epochs=1)
    before = clf.history_[-1]["train_loss"]
    clf.fit(texts, labels)
    assert clf.history_[-1]["train_loss"] < before + 0.1
    assert clf.score(texts, labels) > 0.95


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("huffman", "cross_entropy"),
        ("clusters", TreeSoftmax()),
        ("huffman", SampledSoftmax()),
        ("sampled", AdaptiveSoftmax()),
    ],
    ids=["tree-plain", "adaptive-tree", "tree-sampled", "sampled-adaptive"],
)
def test_warm_start_keeps_the_layer(fitted_by, request, texts, labels, before, after):
    clf = copy.copy(fitted_by(before)).set_params(warm_start=True, loss=after)
    request.getfixturevalue("never_load")  # not before: it is fitted here, or by another test
    with pytest.raises(ValueError, match=r"^loss=.*whose last layer is.*that of the fitted model"):
        clf.fit(texts, labels)


def test_plain_and_sampled_follow_each_other(fitted_by, texts, labels):
    clf = copy.copy(fitted_by("sampled")).set_params(warm_start=True, lr=1e-4, max_epochs=1)
    clf.set_params(loss="auto").fit(texts, labels)
    assert "train_accuracy" in clf.history_[-1]
    clf.set_params(loss="sampled_softmax").fit(texts, labels)
    assert "train_accuracy" not in clf.history_[-1]
    assert isinstance(clf.model_.head.out, torch.nn.Linear)


@pytest.mark.parametrize("name", ["clusters", "huffman", "sampled"])
def test_partial_fit_and_new_classes(make_clf, texts, labels, name):
    clf = make_clf(loss=LOSSES[name]).partial_fit(texts, labels, classes=[*set(labels), "ação"])
    assert clf.classes_.tolist() == sorted(["ação", "city", "food", "sea"])
    before = clf.model_.config.head_softmax
    clf = pickle.loads(pickle.dumps(clf)).partial_fit(texts[:6], labels[:6])
    assert clf.model_.config.head_softmax == before and clf.n_iter_ == 2
    if name == "sampled":
        clf.partial_fit(texts[:6], ["new"] * 6, classes=["new"])
        assert clf.predict_proba(texts).shape == (48, 5)
        assert clf.predict_top_k(texts, 5)[1].sum(axis=1) == pytest.approx(1.0)
        return
    with pytest.raises(
        ValueError, match=r"classes has 1 that are new, but a head with .* not grow"
    ):
        clf.partial_fit(texts[:6], ["new"] * 6, classes=["new"])


def test_options_reach_a_search(make_clf, texts, labels):
    grid = {"loss__n_negatives": [1, 2]}
    search = GridSearchCV(
        make_clf(loss=SampledSoftmax(), max_epochs=1), grid, cv=2, error_score="raise"
    )
    search.fit(texts, labels)
    strings = ["adaptive_softmax", "tree_softmax", "sampled_softmax"]
    clf = make_clf(max_epochs=1, head_init="random")
    search = GridSearchCV(clf, {"loss": strings}, cv=2, error_score="raise")
    search.fit(texts, labels)


@pytest.mark.parametrize(
    "labels_", [[3, 1, 2], [True, False], ["ã", "b"]], ids=["int", "bool", "str"]
)
def test_types_of_labels(make_clf, labels_):
    texts, _ = make_texts(24)
    y = np.array(labels_)[np.arange(24) % len(labels_)]
    clf = make_clf(loss=TreeSoftmax([list(labels_)]), max_epochs=1, head_init="random").fit(
        texts, y
    )
    found, p = clf.predict_top_k(texts, len(labels_))
    assert found.dtype == clf.classes_.dtype
    assert found.shape == p.shape == (24, len(labels_))


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_many_classes_at_once(make_clf):
    # As many classes as rows, far more than the tiny backbone is wide.
    texts = [f"{a} {b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnop"]
    y = np.arange(len(texts))
    for loss in ("auto", TreeSoftmax(), AdaptiveSoftmax([50, 200]), SampledSoftmax(20)):
        clf = make_clf(loss=loss, max_epochs=1, batch_size=64).fit(texts, y)
        found, p = clf.predict_top_k(texts[:20], 5)
        proba = clf.predict_proba(texts[:20])
        assert_allclose(p, -np.sort(-proba, axis=1)[:, :5], rtol=1e-4)
        assert found.max() < len(y)


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("k", [0, -1, 4, 1.5, "2", None, True])
def test_k_is_checked(fitted, texts, k):
    with pytest.raises(ValueError, match=r"^k=.*from 1 to the number of classes, 3"):
        fitted.predict_top_k(texts, k)


def test_top_k_wants_one_label_a_row(make_clf, texts):
    y = np.random.default_rng(0).integers(0, 2, (48, 3))
    with pytest.raises(Exception, match="not fitted"):
        make_clf().predict_top_k(texts, 1)
    with pytest.raises(ValueError, match="predict_top_k is for one label a row"):
        make_clf(max_epochs=1).fit(texts, y).predict_top_k(texts, 1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": AdaptiveSoftmax([])}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax([2, 1])}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax([1, 1])}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax([0, 1])}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax([1.5])}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax("many")}, "'cutoffs' parameter of AdaptiveSoftmax"),
        ({"loss": AdaptiveSoftmax([1, 3])}, r"AdaptiveSoftmax\(cutoffs=\[1, 3\]\): 3 is not below"),
        ({"loss": AdaptiveSoftmax(div_value=0.5)}, "'div_value' parameter of AdaptiveSoftmax"),
        ({"loss": TreeSoftmax("binary")}, "'tree' parameter of TreeSoftmax"),
        ({"loss": TreeSoftmax(["food", "sea"])}, "tree of TreeSoftmax misses the class 'city'"),
        ({"loss": SampledSoftmax(0)}, "'n_negatives' parameter of SampledSoftmax"),
        ({"loss": SampledSoftmax(2.5)}, "'n_negatives' parameter of SampledSoftmax"),
        ({"loss": SampledSoftmax(proposal="uniform")}, "'proposal' parameter of SampledSoftmax"),
        ({"loss": SampledSoftmax(), "head": "native"}, r'^loss=SampledSoftmax\(\) and head="nat'),
        ({"loss": "tree_softmax", "head": "native"}, "^loss='tree_softmax' and head=\"native\""),
    ],
)
def test_refused(make_clf, never_load, texts, labels, params, message):
    with pytest.raises(ValueError, match=message):
        make_clf(**params).fit(texts, labels)


@pytest.mark.parametrize("loss", ["tree_softmax", SampledSoftmax()], ids=["tree", "sampled"])
def test_for_one_label_a_row(make_clf, never_load, texts, loss):
    y = np.random.default_rng(0).integers(0, 2, (48, 3))
    with pytest.raises(ValueError, match=r"^loss=.* is for one label a row"):
        make_clf(loss=loss).fit(texts, y)


def test_clusters_without_a_dimension(make_clf, texts, labels):
    with pytest.raises(ValueError, match=r"^AdaptiveSoftmax\(div_value=6.0\).*width 32"):
        make_clf(loss=AdaptiveSoftmax([1, 2], 6.0)).fit(texts, labels)


def test_after_a_head_of_the_family(make_clf, never_load, fitted, texts, labels):
    clf = copy.copy(fitted).set_params(warm_start=True, loss=SampledSoftmax(), head="native")
    with pytest.raises(ValueError, match=r'^loss=SampledSoftmax.*head="native"'):
        clf.fit(texts, labels)


def test_other_losses_stay_as_they_are(make_clf, texts, labels):
    assert isinstance(make_clf(loss=CrossEntropy(0.1)), TransformerSequenceClassifier)
    clf = make_clf(loss=CrossEntropy(0.1), max_epochs=1).fit(texts, labels)
    assert clf.model_.config.head_softmax is None
    assert not clf.model_.defers
