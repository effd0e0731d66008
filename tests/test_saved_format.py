"""Saved models of the first format, which tests/data/make_format_1.py has written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sktransformers

HERE = Path(__file__).parent / "data" / "format-1"
EXPECTED = json.loads((HERE / "expected.json").read_text("utf-8"))
TEXTS = EXPECTED["texts"]


def load(name):
    """A saved model, whose backbone is beside it."""
    return sktransformers.load(HERE / name, backbone=str(HERE / "backbone"))


@pytest.mark.parametrize("name", ["classifier", "adapter"])
def test_classifiers(name):
    found = load(name).predict_proba(TEXTS)
    assert np.allclose(found, EXPECTED["expected"][name], atol=1e-5)


def test_numbers():
    found = load("regressor").predict(TEXTS)
    assert np.allclose(found, EXPECTED["expected"]["regressor"], atol=1e-4)


def test_tags():
    tags = load("tagger").predict([text.split() for text in TEXTS])
    assert [list(row) for row in tags] == EXPECTED["expected"]["tagger"]


def test_training_goes_on():
    clf = load("adapter")
    before = clf.predict_proba(TEXTS)
    clf.partial_fit(TEXTS, clf.predict(TEXTS))
    assert not np.allclose(clf.predict_proba(TEXTS), before)


def test_it_is_the_first_format_and_says_nothing_of_the_machine(tmp_path):
    files = [path for path in HERE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    for path in files:
        assert not any(place in path.read_bytes() for place in (b"/tmp", b"/home", b"/root"))
    for name in EXPECTED["expected"]:
        assert json.loads((HERE / name / "sktransformers.json").read_text("utf-8"))["format"] == 1
    # What reads a format reads a copy of it that somebody has put elsewhere.
    copy = shutil.copytree(HERE / "regressor", tmp_path / "copy")
    assert sktransformers.load(copy).predict(TEXTS).shape == (len(TEXTS),)
