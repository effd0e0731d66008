"""Losses as weighted sums over rows: against NumPy, against torch, and their gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose
from scipy.special import expit, log_softmax, logsumexp, softmax

from sktransformers.modules import losses

N, K = 9, 4


def rows(seed=0, n=N, k=K, scale=3.0):
    """Logits, class positions, probabilities, an indicator matrix and weights of n rows."""
    rng = np.random.default_rng(seed)
    return (
        scale * rng.normal(size=(n, k)),
        rng.integers(0, k, n),
        rng.dirichlet(np.ones(k), n),
        rng.integers(0, 2, (n, k)),
        rng.uniform(0.2, 3, n),
    )


def value(loss, logits, targets, weights, dtype=torch.float64):
    found = loss(
        torch.as_tensor(logits, dtype=dtype),
        torch.as_tensor(targets),
        torch.as_tensor(weights, dtype=torch.promote_types(dtype, torch.float32)),
    )
    assert found.shape == ()
    return float(found)


def cross_entropy(logits, q, weights):
    return -(weights[:, None] * q * log_softmax(logits, axis=1)).sum()


# ----------------------------------------------------------------- cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_of_labels(smoothing):
    z, y, _, _, w = rows()
    q = (1 - smoothing) * np.eye(K)[y] + smoothing / K
    loss = losses.CrossEntropy(smoothing)
    assert value(loss, z, y, w) == pytest.approx(cross_entropy(z, q, w), rel=1e-12)
    theirs = F.cross_entropy(
        torch.from_numpy(z), torch.from_numpy(y), reduction="none", label_smoothing=smoothing
    )
    assert value(loss, z, y, w) == pytest.approx(float(theirs @ torch.from_numpy(w)), rel=1e-12)


def test_the_weight_of_a_row_multiplies_the_smoothed_part_too():
    z, y, _, _, _ = rows()
    class_weights = np.array([0.1, 1.0, 2.0, 7.0])
    ours = value(losses.CrossEntropy(0.2), z, y, class_weights[y])
    q = 0.8 * np.eye(K)[y] + 0.2 / K
    assert ours == pytest.approx(cross_entropy(z, q, class_weights[y]), rel=1e-12)
    theirs = F.cross_entropy(
        torch.from_numpy(z),
        torch.from_numpy(y),
        torch.from_numpy(class_weights),
        reduction="sum",
        label_smoothing=0.2,
    )
    assert abs(ours - float(theirs)) > 0.1  # torch weighs the smoothed classes one by one


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_soft_targets(smoothing, weighted):
    z, _, q, _, w = rows()
    factors = np.array([0.5, 1.0, 2.0, 4.0]) if weighted else np.ones(K)
    loss = losses.CrossEntropy(smoothing, torch.from_numpy(factors) if weighted else None)
    found = value(loss, z, q, w * (q @ factors))
    target = q * factors / (q @ factors)[:, None]
    target = (1 - smoothing) * target + smoothing / K
    assert found == pytest.approx(cross_entropy(z, target, w * (q @ factors)), rel=1e-12)
    if smoothing == 0:
        theirs = F.cross_entropy(
            torch.from_numpy(z), torch.from_numpy(q), torch.from_numpy(factors), reduction="none"
        )
        assert found == pytest.approx(float(theirs @ torch.from_numpy(w)), rel=1e-12)


def test_a_row_whose_classes_weigh_nothing():
    factors = torch.tensor([0.0, 1.0, 1.0, 1.0])
    q = np.eye(K)[[0, 1]]
    found = value(losses.CrossEntropy(0.0, factors), rows()[0][:2], q, np.array([0.0, 1.0]))
    assert found == pytest.approx(-log_softmax(rows()[0][1])[1], rel=1e-6)


def test_soft_targets_in_float32_serve_logits_in_float64():
    z, _, q, _, w = rows()
    found = value(losses.CrossEntropy(), z, q.astype(np.float32), w)
    assert found == pytest.approx(cross_entropy(z, q, w), rel=1e-6)


# ------------------------------------------------------------------------- focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss(gamma):
    z, y, _, _, w = rows()
    p = softmax(z, axis=1)[np.arange(N), y]
    expected = -(w * (1 - p) ** gamma * np.log(p)).sum()
    assert value(losses.Focal(gamma), z, y, w) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [50.0, 500.0, -50.0, -500.0])
def test_focal_loss_of_rows_that_are_sure(gamma, dtype, gap):
    z = torch.tensor([[gap, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = losses.Focal(gamma)(z, torch.tensor([0]), torch.ones(1, dtype=dtype))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()
    assert float(loss.detach()) == pytest.approx(max(0.0, -gap), abs=2)


def test_easy_rows_weigh_less_in_focal_loss():
    """At p = 0.9 and gamma = 2 a row counts a hundredth (Lin et al. 2017, section 3.2)."""
    z = np.log(np.array([[0.9, 0.1]]))
    plain = value(losses.Focal(0.0), z, [0], np.ones(1))
    assert value(losses.Focal(2.0), z, [0], np.ones(1)) == pytest.approx(plain / 100)


# --------------------------------------------------------------------- multi-label


@pytest.mark.parametrize("pos_weight", [None, np.array([0.1, 1.0, 3.0, 20.0])])
def test_binary_cross_entropy(pos_weight):
    z, _, _, y, w = rows()
    factor = np.ones(K) if pos_weight is None else pos_weight
    p = expit(z)
    each = -(factor * y * np.log(p) + (1 - y) * np.log(1 - p))
    tensor = None if pos_weight is None else torch.from_numpy(pos_weight)
    loss = losses.BinaryCrossEntropy(tensor)
    found = value(loss, z, y.astype(np.int8), w)
    assert found == pytest.approx((w * each.mean(axis=1)).sum(), rel=1e-10)
    theirs = F.binary_cross_entropy_with_logits(
        torch.from_numpy(z), torch.from_numpy(y).double(), reduction="none", pos_weight=tensor
    )
    assert found == pytest.approx(float(theirs.mean(1) @ torch.from_numpy(w)), rel=1e-12)


def test_binary_cross_entropy_of_sure_labels():
    z = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = losses.BinaryCrossEntropy()(z, torch.tensor([[0, 1]]), torch.ones(1))
    loss.backward()
    assert float(loss.detach()) == 1e4
    assert_allclose(z.grad, [[0.5, -0.5]])


# ------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.5])
def test_huber(delta):
    rng = np.random.default_rng(0)
    z, y, w = 2 * rng.normal(size=(30, 1)), rng.normal(size=30), rng.uniform(0.5, 2, 30)
    e = np.abs(z[:, 0] - y)
    expected = np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))
    assert (e > delta).any() and (e <= delta).any()
    assert value(losses.Huber(delta), z, y, w) == pytest.approx((w * expected).sum(), rel=1e-12)
    theirs = F.huber_loss(
        torch.from_numpy(z[:, 0]), torch.from_numpy(y), reduction="none", delta=delta
    )
    assert value(losses.Huber(delta), z, y, w) == pytest.approx(float(theirs.numpy() @ w))


def test_squared_error():
    z, y, w = np.array([[1.0], [2.0]]), np.array([3.0, 2.5]), np.array([1.0, 4.0])
    assert value(losses.SquaredError(), z, y, w) == pytest.approx(4 + 4 * 0.25)


# ------------------------------------------------------------------ all of them

LABELS, SOFT, INDICATOR = rows()[1], rows()[2], rows()[3]
EVERY = {
    "cross-entropy": (losses.CrossEntropy(), LABELS),
    "smoothed": (losses.CrossEntropy(0.1), LABELS),
    "soft": (losses.CrossEntropy(), SOFT),
    "soft, smoothed, weighted": (losses.CrossEntropy(0.1, torch.tensor([1.0, 2, 3, 4])), SOFT),
    "focal": (losses.Focal(2.0), LABELS),
    "focal, below one": (losses.Focal(0.5), LABELS),
    "binary": (losses.BinaryCrossEntropy(), INDICATOR),
    "binary, weighted": (losses.BinaryCrossEntropy(torch.tensor([1.0, 2, 3, 4])), INDICATOR),
}
every = pytest.mark.parametrize("name", EVERY)


@every
def test_gradient(name):
    loss, targets = EVERY[name]
    z, *_, w = (torch.from_numpy(x) for x in rows())
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.from_numpy(targets), w), z)


@pytest.mark.parametrize("loss", [losses.SquaredError(), losses.Huber(0.7)])
def test_gradient_of_losses_of_numbers(loss):
    z, *_, w = (torch.from_numpy(x) for x in rows(scale=1.0))
    z = z[:, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.zeros(N), w), z)


@every
def test_half_precision_is_computed_in_float32(name):
    loss, targets = EVERY[name]
    z, *_, w = rows()
    z = torch.from_numpy(z).bfloat16()
    exact = value(loss, z.double(), targets, w)
    found = loss(z, torch.from_numpy(targets), torch.from_numpy(w).float())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(exact, rel=1e-5)


@every
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_sums_over_rows(name, seed, scale):
    loss, targets = EVERY[name]
    z, *_, w = rows(seed, scale=scale)
    whole = value(loss, z, targets, w)
    parts = [value(loss, z[i : i + 3], targets[i : i + 3], w[i : i + 3]) for i in (0, 3, 6)]
    assert whole == pytest.approx(sum(parts), rel=1e-9)
    assert value(loss, z, targets, 3 * w) == pytest.approx(3 * whole, rel=1e-9)
    assert whole >= 0


some = given(seed=st.integers(0, 10_000), n=st.integers(1, 12), k=st.integers(2, 7))


@some
def test_no_smoothing_and_no_focus_are_the_plain_loss(seed, n, k):
    z, y, _, _, w = rows(seed, n, k)
    plain = value(losses.CrossEntropy(), z, y, w)
    assert plain == pytest.approx(
        -(w * (z[np.arange(n), y] - logsumexp(z, axis=1))).sum(), rel=1e-9
    )
    assert value(losses.CrossEntropy(0.0), z, y, w) == plain
    assert value(losses.Focal(0.0), z, y, w) == pytest.approx(plain, rel=1e-12)


@some
def test_soft_targets_that_are_sure_are_labels(seed, n, k):
    z, y, _, _, w = rows(seed, n, k)
    for smoothing in (0.0, 0.2):
        loss = losses.CrossEntropy(smoothing)
        hard = value(loss, z, y, w)
        assert value(loss, z, np.eye(k)[y], w) == pytest.approx(hard, rel=1e-9)
    factors = np.random.default_rng(seed).uniform(0.1, 5, k)
    weighted = losses.CrossEntropy(0.0, torch.from_numpy(factors))
    hard = value(losses.CrossEntropy(), z, y, w * factors[y])
    assert value(weighted, z, np.eye(k)[y], w * factors[y]) == pytest.approx(hard, rel=1e-9)


@some
def test_soft_targets_are_mixtures_of_labels(seed, n, k):
    z, _, q, _, w = rows(seed, n, k)
    mixed = sum(value(losses.CrossEntropy(), z, np.full(n, c), w * q[:, c]) for c in range(k))
    assert value(losses.CrossEntropy(), z, q, w) == pytest.approx(mixed, rel=1e-9)


@some
def test_focus_only_takes_away(seed, n, k):
    z, y, _, _, w = rows(seed, n, k)
    found = [value(losses.Focal(gamma), z, y, w) for gamma in (0.0, 0.5, 2.0)]
    assert found == sorted(found, reverse=True)


@some
def test_two_classes_are_one_label(seed, n, k):
    """A sigmoid of the difference of two logits is their softmax."""
    z, _, _, _, w = rows(seed, n, 2)
    y = np.random.default_rng(seed).integers(0, 2, n)
    one = value(losses.BinaryCrossEntropy(), z[:, 1:] - z[:, :1], y[:, None], w)
    assert one == pytest.approx(value(losses.CrossEntropy(), z, y, w), rel=1e-9)


# --------------------------------------------------------------------- accuracies


def test_counts():
    z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    assert losses.count_correct(z, torch.tensor([0, 1, 1])) == 2
    q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])
    assert losses.count_correct(z, q) == 2
    y = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert losses.share_of_right_labels(z - 0.5, y) == pytest.approx(1 + 1 + 1 / 3)
