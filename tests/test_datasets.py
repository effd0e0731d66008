import subprocess
import sys

import numpy as np
import pytest

from sktransformers.datasets import (
    _first_sentence,
    _tagged_lines,
    load_docstring_pairs,
    load_docstrings,
    load_python_tokens,
)


@pytest.fixture(scope="module")
def docs():
    return load_docstrings()


@pytest.fixture(scope="module")
def topics():
    return load_docstrings(("scipy", "sklearn"), labels="module")


@pytest.fixture(scope="module")
def pairs():
    return load_docstring_pairs()


@pytest.fixture(scope="module")
def code():
    return load_python_tokens()


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


# ---------------------------------------------------------------------------------- pairs


def test_pairs_are_a_bunch(pairs):
    assert set(pairs) == {"data", "target", "target_names", "DESCR"}
    assert len(pairs.data) == len(pairs.target) > 1000
    assert all(type(pair) is tuple and len(pair) == 2 for pair in pairs.data)
    assert pairs.target_names == np.unique(pairs.target).tolist() == ["other", "same"]
    for label, count in zip(*np.unique(pairs.target, return_counts=True), strict=True):
        assert f"{label}: {count}\n" in pairs.DESCR
        assert 0.45 < count / len(pairs.target) < 0.55


def test_a_sentence_is_in_one_pair_only(pairs):
    sentences = [sentence for pair in pairs.data for sentence in pair]
    assert len(set(sentences)) == len(sentences)


def test_pairs_and_labels_agree(pairs):
    docs = load_docstrings(labels="module")
    topic = dict(zip(docs.data, docs.target, strict=True))
    for (a, b), label in zip(pairs.data, pairs.target, strict=True):
        assert (topic[a] == topic[b]) == (label == "same")
        assert topic[a].split(".")[0] == topic[b].split(".")[0]


def test_pairs_follow_random_state():
    def draw(random_state):
        return load_docstring_pairs("scipy", random_state=random_state, return_X_y=True)

    X, y = draw(0)
    again_X, again_y = draw(0)
    assert X == again_X
    assert np.array_equal(y, again_y)
    assert X != draw(1)[0]


def test_one_topic_gives_no_pair_of_two():
    bunch = load_docstring_pairs("numpy", min_per_topic=150)
    assert set(bunch.target) == {"same"}  # numpy.ma alone is as large


# ---------------------------------------------------------------------------------- code


def test_code_is_a_bunch(code):
    assert set(code) == {"data", "target", "target_names", "groups", "DESCR"}
    assert len(code.data) == len(code.target) == len(code.groups) == 2000
    assert (code.target.dtype, code.target.ndim) == (object, 1)
    for words, tags in zip(code.data, code.target, strict=True):
        assert 4 <= len(words) == len(tags) <= 40
        assert all(type(word) is str and word for word in words)
    flat = [tag for tags in code.target for tag in tags]
    assert code.target_names == sorted(set(flat))
    for tag in code.target_names:
        if tag.startswith("B-"):
            assert f"{tag[2:]}: {flat.count(tag)} " in code.DESCR
    assert len(set(code.groups)) > 30


def test_code_is_tagged_in_proper_bio(code):
    for tags in code.target:
        for before, tag in zip(["O", *tags], tags):
            assert not tag.startswith("I-") or before[2:] == tag[2:], tags


def test_a_word_alone_does_not_tell_its_tag(code):
    tags_of = {}
    for words, tags in zip(code.data, code.target, strict=True):
        for word, tag in zip(words, tags, strict=True):
            tags_of.setdefault(word, set()).add(tag)
    assert {"B-parameter", "B-variable", "O"} <= tags_of["name"]


def test_code_follows_random_state(code):
    again = load_python_tokens()
    assert again.data == code.data
    assert again.target.tolist() == code.target.tolist()
    assert load_python_tokens(random_state=1).data != code.data


def test_code_of_one_module():
    bunch = load_python_tokens("shlex", max_samples=None)
    assert set(bunch.groups) == {"shlex"}
    assert 50 < len(bunch.data) < 500
    X, y = load_python_tokens(["shlex"], max_samples=None, return_X_y=True)
    assert X == bunch.data
    assert y.tolist() == bunch.target.tolist()
    with pytest.raises(ValueError, match="no module 'nonesuch'"):
        load_python_tokens(["nonesuch"])
    with pytest.raises(ValueError, match=r"no module 'nonesuch.part'"):
        load_python_tokens(["nonesuch.part"])
    assert load_python_tokens(["math"]).data == []  # compiled: no source


@pytest.mark.parametrize(
    ("source", "spans"),
    [
        ("a.b = c.d(e, f=1)", "a.b:attribute c.d:function f:argument"),
        ("for i, k in x[0].pop().y: pass", "i:variable k:variable pop:function y:attribute"),
        ("import os.path as p, re", "os.path:module p:variable re:module"),
        ("from ..a.b import c as d", "a.b:module d:variable"),
        ("from . import c, d", ""),
        ("async def f(a, *b, c=d): return a", "f:definition a:parameter b:parameter c:parameter"),
        ("class A(B, metaclass=C): x: int = 0", "A:definition metaclass:argument x:variable"),
        ("raise a.Error('no', b) from c.d", "a.Error:exception c.d:attribute"),
        ("raise f(x)(y) from None", "f:function"),
        ("key = lambda x, y: x(y) == key", "key:variable x:parameter y:parameter x:function"),
        ("[x for x in (y := z)]", "x:variable y:variable"),
        ("with open(a) as f, g: pass", "open:function f:variable"),
        ("a = 'b' 'c' + f(\n    d  # e\n)", "a:variable f:function"),
        ("a.b.c[0].d(e.f)", "a.b.c:attribute d:function e.f:attribute"),
    ],
)
def test_tags_of_a_line(source, spans):
    (words, tags), *_ = _tagged_lines(source)
    found = []
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("B-"):
            found.append([word, tag[2:]])
        elif tag.startswith("I-"):
            found[-1][0] += word
    assert " ".join(map(":".join, found)) == spans


def test_exceptions_that_are_caught():
    source = "try:\n    pass\nexcept (A, b.C) as e:\n    pass\nexcept D as f:\n    pass"
    (_, two), (_, one) = _tagged_lines(source)
    assert [tag for tag in two if tag != "O"] == [
        *("B-exception", "B-exception", "I-exception", "I-exception", "B-variable")
    ]
    assert one == ["O", "B-exception", "O", "B-variable", "O"]


def test_strings_and_comments_are_hidden():
    (words, _), *others = _tagged_lines("f('a', 'b' \"c\", rb'd')  # e\nf(f'{a}', b)\nf('é', b)")
    assert words == ["f", "(", '"..."', ",", '"..."', ",", '"..."', ")"]
    assert others == []
