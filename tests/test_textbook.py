"""Worked numbers that textbooks give, by our own code."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from skorch.history import History

from sktransformers.modules import losses
from sktransformers.modules.heads import Head
from sktransformers.outputs import _OneLabel
from sktransformers.training.callbacks import KeepBest
from sktransformers.training.net import StopTraining


def test_softmax():
    """exp(0), exp(1.2) and exp(0.3) are 1, 3.320 and 1.350 and sum to 5.670."""
    found = _OneLabel.proba(np.array([[0.0, 1.2, 0.3]]))
    assert_allclose(found, [[0.176, 0.586, 0.238]], atol=5e-4)
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    assert_allclose(np.exp(_OneLabel.log_proba(np.array([[0.0, 1.2, 0.3]]))), found, rtol=1e-12)


@pytest.mark.parametrize(
    ("proba", "loss"),
    [([0.2, 0.7, 0.1], 0.357), ([0.1, 0.8, 0.1], 0.223), ([0.05, 0.9, 0.05], 0.105)],
)
def test_cross_entropy_falls_as_the_class_gets_more_probable(proba, loss):
    logits = torch.tensor([proba], dtype=torch.float64).log()
    found = losses.CrossEntropy()(logits, torch.tensor([1]), torch.ones(1))
    assert float(found) == pytest.approx(loss, abs=5e-4)
    assert float(found) == pytest.approx(-np.log(proba[1]), rel=1e-12)
    soft = losses.CrossEntropy()(logits, torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1))
    assert float(soft) == pytest.approx(float(found), rel=1e-12)


def test_the_best_epoch_comes_back():
    valid_losses = [0.85, 0.72, 0.65, 0.58, 0.55, 0.53, 0.52, 0.53, 0.55, 0.50]
    net = SimpleNamespace(module_=torch.nn.Linear(2, 1), history=History())
    keep = KeepBest("valid_loss", -1, n_iter_no_change=2, tol=1e-4)
    keep.on_train_begin(net)
    for epoch, loss in enumerate(valid_losses, start=1):
        with torch.no_grad():
            net.module_.weight.fill_(epoch)
        net.history.new_epoch()
        net.history.record("valid_loss", loss)
        try:
            keep.on_epoch_end(net)
        except StopTraining:
            break
    keep.on_train_end(net)
    assert epoch == 9
    assert keep.best_row_ + 1 == 7
    assert (net.module_.weight == 7).all()


def test_parameters_of_heads():
    """A linear head on 768 entries for three classes, one on pairs of them, and deeper ones."""

    def count(*args):
        return sum(p.numel() for p in Head(*args, "relu", 0.1).parameters())

    assert count(768, 3, ()) == 768 * 3 + 3 == 2_307
    assert count(2 * 768, 3, ()) == 1536 * 3 + 3 == 4_611
    assert count(768, 3, (256, 64)) == 768 * 256 + 256 + 256 * 64 + 64 + 64 * 3 + 3
