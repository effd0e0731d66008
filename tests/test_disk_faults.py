"""A disk that fails while a model is trained: training goes on, and says so once."""

import errno
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
import safetensors.torch
from conftest import make_texts
from numpy.testing import assert_array_equal
from skorch.callbacks import Callback

from sktransformers import Cache, GradualUnfreezing

X, Y = make_texts(40)
# What keeps a state of training; and what keeps features, in files.
STATE = {"schedule": "constant", "warmup": 0}
FEATURES = {"finetune": 1}
BLOCKS = {"finetune": GradualUnfreezing(), "max_epochs": 3}


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_right(*args, **kwargs):
    raise PermissionError(errno.EACCES, "Permission denied")


def left(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def fit(clf):
    """The warnings of a fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(X, Y)
    return [str(w.message) for w in caught]


def assert_unharmed(clf, make_clf, **params):
    expected = make_clf(**params).fit(X, Y)
    assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("params", [STATE, FEATURES, BLOCKS], ids=["state", "features", "blocks"])
@pytest.mark.parametrize("owner", ["save_file", "replace", "mkdir"])
def test_nothing_can_be_written(make_clf, monkeypatch, tmp_path, params, owner):
    owners = {"save_file": safetensors.torch, "replace": os, "mkdir": Path}
    clf = make_clf(**params, memory=Cache(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(owners[owner], owner, no_space if owner != "mkdir" else no_right)
        (message,) = fit(clf)
    assert "memory does not keep" in message
    assert ("No space left" if owner != "mkdir" else "Permission denied") in message
    assert left(tmp_path) == []
    assert_unharmed(clf, make_clf, **params)


def test_what_was_kept_before_stays(make_clf, monkeypatch, tmp_path):
    make_clf(**STATE, max_epochs=1, memory=tmp_path).fit(X, Y)
    (kept,) = left(tmp_path)
    content = kept.read_bytes()
    clf = make_clf(**STATE, max_epochs=2, memory=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        assert len(fit(clf)) == 1
    assert left(tmp_path) == [kept] and kept.read_bytes() == content
    assert_unharmed(clf, make_clf, **STATE, max_epochs=2)


def test_what_cannot_be_deleted_stays(make_clf, monkeypatch, tmp_path):
    make_clf(**STATE, max_epochs=1, memory=tmp_path).fit(X, Y)
    unlink = Path.unlink

    def refused(path, **options):
        if path.name.endswith("-1.safetensors"):
            no_right()
        unlink(path, **options)

    clf = make_clf(**STATE, max_epochs=2, memory=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        assert fit(clf) == []
    assert len(left(tmp_path)) == 2
    assert_unharmed(clf, make_clf, **STATE, max_epochs=2)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("fault", ["fallocate", "scratch", "size"])
def test_there_is_no_space_for_features_that_memory_does_not_hold(
    make_clf, monkeypatch, tmp_path, fault, memory
):
    cache = Cache(tmp_path if memory else None, max_ram_mb=1e-4)
    clf = make_clf(**FEATURES, memory=cache)
    with monkeypatch.context() as patch:
        if fault == "fallocate":
            patch.setattr(os, "posix_fallocate", no_space, raising=False)
        elif fault == "scratch":
            patch.setattr(tempfile, "mkdtemp", no_right)
        else:
            patch.setattr(shutil, "disk_usage", no_right)
        (message,) = fit(clf)
    assert "computed in every epoch" in message and "could not be kept" in message
    assert left(tmp_path) == []
    assert_unharmed(clf, make_clf, **FEATURES)


class Vanishes(Callback):
    """Deletes a folder in the middle of training."""

    def __init__(self, folder):
        self.folder = folder

    def on_batch_end(self, net, **kwargs):
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.parametrize("max_ram_mb", [1e-4, 100])
def test_the_folder_vanishes(make_clf, tmp_path, max_ram_mb):
    folder = tmp_path / "memory"
    params = {**BLOCKS, "callbacks": [Vanishes(folder)]}
    clf = make_clf(**params, memory=Cache(folder, max_ram_mb=max_ram_mb))
    assert fit(clf) == []
    assert_unharmed(clf, make_clf, **BLOCKS)


def test_a_state_is_kept_in_a_folder_that_had_vanished(make_clf, tmp_path, monkeypatch):
    from sktransformers.training.continuing import Continue

    on_epoch_end = Continue.on_epoch_end

    def later(self, net, **kwargs):
        shutil.rmtree(tmp_path / "memory", ignore_errors=True)
        on_epoch_end(self, net, **kwargs)

    monkeypatch.setattr(Continue, "on_epoch_end", later)
    clf = make_clf(**STATE, memory=tmp_path / "memory")
    assert fit(clf) == []
    assert len(left(tmp_path)) == 1
