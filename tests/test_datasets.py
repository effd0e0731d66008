import subprocess
import sys

import numpy as np
import pytest

from sktransformers.datasets import _first_sentence, load_docstrings


@pytest.fixture(scope="module")
def docs():
    return load_docstrings()


@pytest.fixture(scope="module")
def topics():
    return load_docstrings(("scipy", "sklearn"), labels="module")


def test_bunch_like_those_of_scikit_learn(docs):
    assert set(docs) == {"data", "target", "target_names", "DESCR"}
    assert docs.target_names == ["numpy", "scipy", "sklearn", "torch"]
    assert all(type(text) is str for text in docs.data)
    assert docs.target.dtype.kind == "U"
    assert docs.target.shape == (len(docs.data),)
    assert np.unique(docs.target).tolist() == docs.target_names
    for label, count in zip(*np.unique(docs.target, return_counts=True), strict=True):
        assert f"{label}: {count}\n" in docs.DESCR


def test_enough_rows_for_the_demo(docs, topics):
    # 600 to train on and 1000 to test on, stratified
    assert len(docs.data) > 1600
    assert min(np.unique(docs.target, return_counts=True)[1]) >= 100
    assert len(topics.data) > 1000


def test_same_rows_in_the_same_order(docs):
    again = load_docstrings()
    assert again.data == docs.data
    assert np.array_equal(again.target, docs.target)


def test_the_answer_is_not_in_the_text(docs, topics):
    names = ("numpy", "scipy", "sklearn", "scikit", "torch", "pandas")
    for text in docs.data + topics.data:
        assert not any(name in text.lower() for name in names), text


def test_no_text_twice(docs):
    assert len({text.lower() for text in docs.data}) == len(docs.data)


def test_a_sentence_under_two_labels_is_dropped():
    def sentences(*packages):
        return set(load_docstrings(packages, min_per_class=1).data)

    shared = sentences("numpy") & sentences("scipy")
    assert shared
    assert not shared & sentences("numpy", "scipy")


def test_no_short_sentences_and_no_markup(docs):
    for text in docs.data:
        assert len(text.split()) >= 4, text
        assert not any(mark in text for mark in ("`", ":func:", ">>>", "\\", "\n")), text
        assert text == text.strip()


def test_topics_are_submodules(topics):
    assert {"scipy.stats", "scipy.signal", "sklearn.metrics"} <= set(topics.target_names)
    assert all(name.count(".") == 1 for name in topics.target_names)
    assert np.unique(topics.target, return_counts=True)[1].min() >= 20


def test_return_X_y(docs):
    X, y = load_docstrings(return_X_y=True)
    assert X == docs.data
    assert np.array_equal(y, docs.target)


def test_max_per_class_draws_with_random_state(docs):
    def draw(random_state):
        return load_docstrings(max_per_class=30, random_state=random_state)

    few = draw(0)
    assert np.unique(few.target, return_counts=True)[1].tolist() == [30] * 4
    assert set(few.data) <= set(docs.data)
    assert few.data == draw(0).data
    assert few.data != draw(1).data


def test_one_package_as_a_string():
    assert load_docstrings("numpy").target_names == ["numpy"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"packages": ("numpy", "nonesuch")}, "packages: 'nonesuch'"),
        ({"packages": "nonesuch"}, "packages: 'nonesuch'"),
        ({"labels": "function"}, "labels must be .* got 'function'"),
    ],
)
def test_unknown_choices(parameters, message):
    with pytest.raises(ValueError, match=message):
        load_docstrings(**parameters)


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("add(x1, x2, /, out=None)\n\nAdd arguments element-wise.\n\nMore.", "Add arguments"),
        ("\nabs(input, *,\n    out=None) -> Tensor\n\nComputes ``x``. Then more.", "Computes x."),
        ("See :func:`torch.nn.functional.relu` for it.", "See relu for it."),
        ("Like `the guide <guide>`_, e.g. NumPy's.", "Like the guide, e.g. library's."),
        (".. math:: y = x\n\n>>> f(1)\n1\n\nPlain prose [1]_.", "Plain prose."),
        ("The :math:`p`-norm of\n:math:`\\alpha`.", "The p-norm of ."),
        ("Parameters\n----------\nx : int", ""),
        ("", ""),
    ],
)
def test_first_sentence(docstring, sentence):
    found = _first_sentence(docstring)
    assert found.startswith(sentence) if sentence else found == ""


def test_quiet():
    code = (
        "from sktransformers.datasets import load_docstrings; "
        "load_docstrings(('numpy', 'scipy', 'sklearn', 'torch', 'pandas'))"
    )
    command = [sys.executable, "-W", "error", "-c", code]  # a fresh process: imports count too
    done = subprocess.run(command, check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_torch_is_imported_only_for_its_docstrings():
    code = (
        "import sys; from sktransformers.datasets import load_docstrings; "
        "load_docstrings('numpy'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
