"""Faster copies of fitted estimators, and what predicts without torch."""

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LEARNS, make_texts, save_backbone, save_tiny_bert
from families import FAMILIES
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sktransformers import (
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    PairRegressor,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)
from sktransformers.inference import accelerate, rowwise

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXTS, LABELS = make_texts(24)
NEW = ["fish", *make_texts(10, seed=1)[0], " ".join(["bread", "wave"] * 12), ""]
PAIRS = list(zip(TEXTS, TEXTS[5:] + TEXTS[:5]))
NEW_PAIRS = list(zip(NEW, NEW[4:] + NEW[:4]))
SENTENCES = [text.split() for text in TEXTS]
TAGS = [["B-X" if word in ("fish", "bread", "tram") else "O" for word in s] for s in SENTENCES]
NEW_SENTENCES = [text.split() for text in NEW if text]
LITTLE = {"max_epochs": 1, "batch_size": 8, "device": "cpu", "random_state": 0}


def has_compiler():
    try:
        accelerate._check_compiler("int8")
    except ValueError:
        return False
    return True


compiles = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """Directory of a BERT that is quickly exported and compiled."""
    return save_tiny_bert(tmp_path_factory.mktemp("one-layer"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def fitted(one_layer):
    """A classifier that has learnt three topics."""
    clf = TransformerSequenceClassifier(one_layer, batch_size=8, device="cpu", random_state=0)
    return clf.set_params(**LEARNS).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def onnx_clf(fitted):
    return fitted.accelerate("onnx")


@pytest.fixture(scope="module")
def int8_clf(fitted):
    return fitted.accelerate("onnx-int8")


def assert_same_weights(a, b):
    for (name, x), y in zip(a.model_.state_dict().items(), b.model_.state_dict().values()):
        assert torch.equal(x, y), name


# ------------------------------------------------------------- accelerate


def test_onnx_predicts_the_same(fitted, onnx_clf):
    assert type(onnx_clf) is type(fitted)
    assert onnx_clf.backend_ == "onnx"
    assert_array_equal(onnx_clf.classes_, fitted.classes_)
    assert_allclose(onnx_clf.predict_proba(NEW), fitted.predict_proba(NEW), atol=1e-5)
    assert_array_equal(onnx_clf.predict(NEW), fitted.predict(NEW))
    assert_allclose(onnx_clf.decision_function(NEW), fitted.decision_function(NEW), atol=1e-4)
    for found, expected in zip(onnx_clf.predict_top_k(NEW, 2), fitted.predict_top_k(NEW, 2)):
        if expected.dtype.kind == "f":
            assert_allclose(found, expected, atol=1e-5)
        else:
            assert_array_equal(found, expected)


def test_int8_is_near_but_not_the_same(fitted, int8_clf):
    found, expected = int8_clf.predict_proba(NEW), fitted.predict_proba(NEW)
    assert_allclose(found, expected, atol=0.05)
    assert np.abs(found - expected).max() > 1e-6  # it was quantised


def test_a_prediction_in_int8_does_not_depend_on_its_batch(int8_clf):
    alone = np.concatenate([int8_clf.predict_proba([text]) for text in NEW])
    assert_allclose(int8_clf.predict_proba(NEW), alone, atol=1e-5)


def test_the_engine_predicts_and_the_original_is_left_alone(fitted, onnx_clf):
    assert not hasattr(fitted, "backend_")
    assert onnx_clf.model_ is fitted.model_
    spoilt = copy.copy(onnx_clf)
    spoilt._engine.part.run, before = lambda inputs: 1 / 0, spoilt._engine.part.run
    try:
        with pytest.raises(ZeroDivisionError):
            spoilt.predict(NEW)
        assert_array_equal(fitted.predict(TEXTS[:3]), fitted.predict(TEXTS)[:3])
    finally:
        spoilt._engine.part.run = before


def test_predicting_changes_no_attribute(onnx_clf):
    before = dict(vars(onnx_clf))
    onnx_clf.predict(NEW)
    assert vars(onnx_clf) == before


def test_accelerating_again_starts_from_the_float_weights(fitted, int8_clf):
    again = int8_clf.accelerate("onnx")
    assert (again.backend_, int8_clf.backend_) == ("onnx", "onnx-int8")
    assert_allclose(again.predict_proba(NEW), fitted.predict_proba(NEW), atol=1e-5)


def test_pickles_hold_floats_and_are_accelerated_on_load(fitted, int8_clf):
    data = pickle.dumps(int8_clf)
    assert len(data) < 1.1 * len(pickle.dumps(fitted))
    loaded = pickle.loads(data)
    assert loaded.backend_ == "onnx-int8"
    assert_same_weights(loaded, fitted)
    assert_allclose(loaded.predict_proba(NEW), int8_clf.predict_proba(NEW), atol=1e-6)


def test_a_pickle_predicts_in_float_where_the_library_is_missing(fitted, int8_clf, monkeypatch):
    data = pickle.dumps(int8_clf)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.warns(UserWarning, match=r"sktransformers\[onnx\].*not accelerated"):
        loaded = pickle.loads(data)
    assert_allclose(loaded.predict_proba(NEW), fitted.predict_proba(NEW), atol=1e-6)
    assert loaded.backend_ == "onnx-int8"  # pickled again, it is accelerated elsewhere


def test_copies(fitted, int8_clf):
    expected = int8_clf.predict_proba(NEW)
    shallow, deep = copy.copy(int8_clf), copy.deepcopy(int8_clf)
    assert deep.model_ is not int8_clf.model_
    for copied in (shallow, deep):
        assert copied.backend_ == "onnx-int8"
        assert_allclose(copied.predict_proba(NEW), expected, atol=1e-6)


def test_a_clone_is_plain(int8_clf):
    cloned = clone(int8_clf)
    assert not hasattr(cloned, "backend_")
    with pytest.raises(NotFittedError):
        cloned.predict(NEW)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "warm_start"])
def test_training_forgets_it(fitted, int8_clf, method):
    fast, plain = copy.copy(int8_clf), copy.copy(fitted)
    for clf in (fast, plain):
        clf.set_params(max_epochs=1, warm_start=method == "warm_start")
        getattr(clf, "partial_fit" if method == "partial_fit" else "fit")(TEXTS, LABELS)
    assert not hasattr(fast, "backend_")
    assert_same_weights(fast, plain)
    assert_array_equal(fast.predict_proba(NEW), plain.predict_proba(NEW))
    assert int8_clf.backend_ == "onnx-int8"


def test_training_scores_the_weights_of_the_moment(fitted, int8_clf):
    histories = []
    for clf in (copy.copy(int8_clf), copy.copy(fitted)):
        clf.set_params(max_epochs=2, scoring="accuracy", warm_start=True)
        clf.fit(TEXTS, LABELS, X_val=NEW[1:9], y_val=make_texts(10, seed=1)[1][:8])
        histories.append([row["valid_score"] for row in clf.history_[-2:]])
    assert histories[0] == histories[1]


_DIFFERENCES = []


def score_with_copies(view, X, y):
    """Accuracy of a view in training; notes how far copies are from it."""
    proba = view.predict_proba(X)
    for other in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        _DIFFERENCES.append(np.abs(other.predict_proba(X) - proba).max())
    return view.score(X, y)


def test_copies_in_training_have_the_weights_of_the_moment(int8_clf):
    clf = copy.copy(int8_clf)
    clf.set_params(max_epochs=2, scoring=score_with_copies, warm_start=True)
    _DIFFERENCES.clear()
    clf.fit(TEXTS, LABELS, X_val=NEW, y_val=int8_clf.predict(NEW))
    assert _DIFFERENCES == [0] * 4


@compiles
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_compiled_int8(fitted):
    pytest.importorskip("torchao")
    fast = fitted.accelerate("int8")
    found, expected = fast.predict_proba(NEW), fitted.predict_proba(NEW)
    assert_allclose(found, expected, atol=0.05)
    assert np.abs(found - expected).max() > 1e-6
    counters = torch._dynamo.utils.counters["stats"]
    compiled = counters["unique_graphs"]
    alone = np.concatenate([fast.predict_proba([text]) for text in NEW[:4]])
    assert counters["unique_graphs"] == compiled  # other shapes, one row too, are nothing new
    assert_allclose(alone, found[:4], atol=1e-5)
    for name, weight in fitted.model_.named_parameters():
        assert type(weight) is torch.nn.Parameter and weight.dtype == torch.float32, name


ESTIMATORS = {
    "windows": (
        TransformerSequenceClassifier,
        {"long_text": "window", "max_length": 10},
        TEXTS,
        LABELS,
        NEW,
    ),
    "joined pairs": (PairClassifier, {"symmetric": True}, PAIRS, LABELS, NEW_PAIRS),
    "bi-encoder": (PairRegressor, {}, PAIRS, np.arange(24.0), NEW_PAIRS),
    "tags": (TokenTagger, {"crf": True}, SENTENCES, TAGS, NEW_SENTENCES),
    "tasks": (
        MultiTaskSequenceEstimator,
        {},
        TEXTS,
        [[a, i + 0.5] for i, a in enumerate(LABELS)],
        NEW,
    ),
    "native": (TransformerSequenceClassifier, {"head": "native"}, TEXTS, LABELS, NEW),
}


def flat(values):
    """Numbers of whatever predict_proba or predict gave, in one array."""
    if isinstance(values, (list, tuple)) or getattr(values, "dtype", None) is np.dtype(object):
        return np.concatenate([flat(v) for v in values if v is not None])
    return np.ravel(values)


# The others run the same code.
@pytest.mark.parametrize("kind", ["joined pairs", "bi-encoder", "tags", "tasks", "native"])
def test_every_estimator(one_layer, kind):
    make, params, X, y, X_new = ESTIMATORS[kind]
    estimator = make(one_layer, **{**LITTLE, **params}).fit(X, y)
    method = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    expected = flat(getattr(estimator, method)(X_new))
    fast = estimator.accelerate("onnx")
    assert_allclose(flat(getattr(fast, method)(X_new)), expected, rtol=1e-4, atol=1e-5)


# Those that differ in how they are traced; the others were tried by hand.
@pytest.mark.filterwarnings("ignore:.*longer than max_length")
@pytest.mark.parametrize("name", ["modernbert", "deberta-v3"])
def test_families(tmp_path, name):
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    backbone = save_backbone(tmp_path, family.config(len(tokenizer)), tokenizer)
    clf = TransformerSequenceClassifier(backbone, max_length=30, **LITTLE).fit(TEXTS, LABELS)
    expected = clf.predict_proba(NEW)
    assert_allclose(clf.accelerate("onnx").predict_proba(NEW), expected, atol=1e-4)


# ---------------------------------------------------------------- errors


def test_an_unfitted_estimator(make_clf, tmp_path):
    with pytest.raises(NotFittedError):
        make_clf().accelerate("onnx")
    with pytest.raises(NotFittedError):
        make_clf().export_onnx(tmp_path / "model")


@pytest.mark.parametrize("backend", ["tensorrt", None, 8])
def test_an_unknown_backend(fitted, backend):
    with pytest.raises(ValueError, match=r"backend=.*'int8', 'onnx', 'onnx-int8', 'compile'"):
        fitted.accelerate(backend)


@pytest.mark.parametrize(
    "backend, library, extra", [("int8", "torchao", "int8"), ("onnx", "onnxruntime", "onnx")]
)
@compiles
def test_a_missing_library(fitted, monkeypatch, backend, library, extra):
    for name in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"'{backend}' .*sktransformers\[{extra}\]"):
        fitted.accelerate(backend)


@pytest.mark.parametrize("backend", ["int8", "compile"])
def test_a_missing_compiler(fitted, monkeypatch, backend):
    def fail():
        raise RuntimeError("none")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", fail)
    with pytest.raises(ValueError, match=rf"backend='{backend}'.*C\+\+ compiler"):
        fitted.accelerate(backend)


def test_lower_precision_is_for_compile(fitted):
    clf = copy.copy(fitted).set_params(precision="bf16")
    with pytest.raises(ValueError, match="backend='onnx' and precision='bf16'"):
        clf.accelerate("onnx")


def test_another_device(fitted, monkeypatch):
    monkeypatch.setattr(
        type(fitted.model_), "device", property(lambda self: torch.device("cuda")), raising=False
    )
    with pytest.raises(ValueError, match=r"backend='onnx' is for the CPU.*cuda"):
        fitted.accelerate("onnx")


def test_what_comes_out_wrong_is_refused(fitted, monkeypatch):
    def wrong(part, field, backend, example):
        return lambda inputs: getattr(part(**inputs), field) * 1.001

    monkeypatch.setattr(accelerate, "_onnx", wrong)
    with pytest.raises(ValueError, match="backend='onnx' does not support the backbone BertModel"):
        fitted.accelerate("onnx")


# ----------------------------------------------------- products in integers


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16)])
def test_rows_are_rounded_one_by_one(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    x.reshape(-1, 16)[0] *= 1000  # a token that would spoil a range that all share
    x.reshape(-1, 16)[1] = np.abs(x.reshape(-1, 16)[1]) + 5
    x.reshape(-1, 16)[2] = 0
    weight = rng.normal(size=(16, 7)).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", 1, [None] * len(shape))],
        [helper.make_tensor_value_info("y", 1, [None] * len(shape))],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    rowwise.quantise(model)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]

    flat_x = x.reshape(-1, 16).astype(float)
    low, high = np.minimum(flat_x.min(1), 0), np.maximum(flat_x.max(1), 1e-30)
    scale = (high - low) / 255
    place = np.round(-low / scale)
    q = np.clip(np.round(flat_x / scale[:, None]) + place[:, None], 0, 255)
    c = np.abs(weight).max(axis=0) / 127
    p = np.round(weight / c)
    expected = ((q - place[:, None]) * scale[:, None]) @ (p * c)
    assert found.shape == (*shape[:-1], 7)
    size = np.linalg.norm(flat_x, axis=1, keepdims=True)
    assert_allclose(found.reshape(-1, 7), expected, atol=1e-3 * size.max())
    errors = np.abs(found.reshape(-1, 7) - flat_x @ weight) / np.maximum(size, 1e-9)
    assert errors.max() < 0.05


def test_a_graph_without_products():
    graph = onnx.helper.make_graph([], "nothing", [], [])
    with pytest.raises(ValueError, match="no linear layer"):
        rowwise.quantise(onnx.helper.make_model(graph))


# ---------------------------------------------------------------- export


def run_example(folder, rows, functions):
    """What the functions of an exported example give for rows, in a process without torch."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); rows = json.load(sys.stdin); "
        "import predict; import numpy as np; "
        "found = [np.asarray(getattr(predict, f)(rows)).tolist() for f in sys.argv[2:]]; "
        "bad = {'torch', 'sklearn', 'transformers', 'sktransformers'} & set(sys.modules); "
        "assert not bad, bad; print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder), *functions],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_exported_classifier(fitted, tmp_path):
    folder = tmp_path / "deep" / "model"
    fitted.export_onnx(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "labels.json",
        "model.onnx",
        "predict.py",
        "tokenizer.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing unfinished
    proba, labels = run_example(folder, NEW, ["predict_proba", "predict"])
    assert_allclose(proba, fitted.predict_proba(NEW), atol=1e-4)
    assert labels == fitted.predict(NEW).tolist()
    meaning = json.loads((folder / "labels.json").read_text("utf-8"))
    assert meaning["classes"] == fitted.classes_.tolist()
    assert (meaning["apply"], meaning["max_length"]) == ("softmax", fitted.max_length_)


def test_the_lines_in_the_docs(fitted, tmp_path):
    page = Path(__file__).parents[1] / "docs" / "user_guide" / "saving.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    (lines,) = (block for block in blocks if "import onnxruntime" in block)
    assert len(lines.replace("\n\n", "\n").splitlines()) <= 15
    fitted.export_onnx(tmp_path / "exported")
    check = "\nimport sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", lines + check], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = fitted.predict(["a lovely film", "I fell asleep"]).tolist()
    assert done.stdout.strip() == str(expected)


EXPORTED = {
    "several labels": (
        TransformerSequenceClassifier,
        {"head": MLPHead((16,), batch_norm=True), "pooling": "max", "threshold": 0.4},
        TEXTS,
        np.eye(3, dtype=int)[[i % 3 for i in range(24)]],
        NEW,
        ["predict_proba", "predict"],
    ),
    "columns": (
        TransformerSequenceRegressor,
        {"pooling": "attention", "max_length": 8},
        TEXTS,
        np.arange(48.0).reshape(24, 2) ** 2,
        NEW,
        ["predict"],
    ),
    "pairs": (
        PairClassifier,
        {"pooling": "cls", "max_length": 12},
        PAIRS,
        [label == "sea" for label in LABELS],
        NEW_PAIRS,
        ["predict_proba", "predict"],
    ),
    "scored pairs": (
        PairRegressor,
        {"interaction": "cross", "head": "native"},
        PAIRS,
        np.arange(24.0),
        NEW_PAIRS,
        ["predict"],
    ),
}


@pytest.mark.filterwarnings("ignore:.*longer than max_length")
@pytest.mark.parametrize("kind", EXPORTED)
def test_exported(one_layer, tmp_path, kind):
    make, params, X, y, X_new, functions = EXPORTED[kind]
    estimator = make(one_layer, **{**LITTLE, **params}).fit(X, y)
    estimator.export_onnx(tmp_path)  # an empty directory
    for name, found in zip(functions, run_example(tmp_path, X_new, functions)):
        expected = getattr(estimator, name)(X_new)
        assert np.shape(found) == expected.shape
        if expected.dtype.kind == "f":
            assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        else:
            assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")
@pytest.mark.parametrize("subword, self_attention", [("first", True), ("last", False)])
def test_an_exported_tagger(one_layer, tmp_path, subword, self_attention):
    params = {"subword": subword, "self_attention": self_attention, "crf": False}
    tagger = TokenTagger(one_layer, **LITTLE, **params).fit(SENTENCES, TAGS)
    tagger.export_onnx(tmp_path / "tagger")
    sentence = ["xyz", "bread", "", "ab", "c" * 5]
    proba, tags = run_example(tmp_path / "tagger", sentence, ["predict_proba", "predict"])
    assert_allclose(proba, tagger.predict_proba([sentence])[0], atol=1e-4)
    assert tags == tagger.predict([sentence])[0]


@pytest.mark.parametrize(
    "kind, params, message",
    [
        ("bi-encoder", {}, "interaction='all'"),
        ("joined pairs", {}, "symmetric=True"),
        ("windows", {}, "long_text='window'"),
        ("tags", {}, "CRF"),
        ("tags", {"crf": False, "subword": "mean"}, "subword='mean'"),
        ("tasks", {}, "MultiTaskSequenceEstimator"),
    ],
)
def test_what_cannot_be_exported(one_layer, tmp_path, kind, params, message):
    make, more, X, y, _ = ESTIMATORS[kind]
    estimator = make(one_layer, **{**LITTLE, **more, **params}).fit(X, y)
    with pytest.raises(ValueError, match=f"export_onnx.*{message}"):
        estimator.export_onnx(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(fitted, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(FileExistsError, match="path="):
            fitted.export_onnx(path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_failed_export_leaves_nothing(fitted, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no operator for this")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ValueError, match=r"export_onnx.*BertModel.*no operator for this"):
        fitted.export_onnx(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
