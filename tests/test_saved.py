"""Estimators as directories: what comes back is what was saved, in every detail."""

import functools
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import make_texts, save_backbone
from families import FAMILIES
from language_models import language_model, save_language_model, word_tokenizer
from safetensors.torch import load_file
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, make_scorer
from skorch.callbacks import Callback
from test_plain import same
from test_tagging import X as SENTENCES, Y as TAGS
from tiny_estimators import backbone, make as make_tiny

import sktransformers
from sktransformers import (
    CRF,
    AdamW,
    AdaptiveSoftmax,
    Backbone,
    BatchHistory,
    BinaryCrossEntropy,
    BitFit,
    CrossEntropy,
    GradualUnfreezing,
    HuberLoss,
    Linear,
    LoRA,
    MaskedLMAdapter,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    PairRegressor,
    RandomDeletion,
    Replay,
    SampledSoftmax,
    SavedModelError,
    SynonymReplacement,
    Text2TextClassifier,
    Text2TextGenerator,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
    TreeSoftmax,
    Windows,
    metrics,
)
from sktransformers.modules import narrowing

N = 24
TEXTS, TOPICS = make_texts(N)
PAIRS = list(zip(TEXTS, TEXTS[::-1]))
NUMBERS = np.linspace(-3, 5, N)
CODES = np.unique(TOPICS, return_inverse=True)[1]
SENTENCES, TAGS = SENTENCES[:16], TAGS[:16]
INDICATOR = np.array([[i % 2, i % 3 == 0, i % 5 == 0] for i in range(N)], dtype=np.int64)
TARGETS = {"topic": TOPICS, "number": NUMBERS, "odd": [i % 2 == 1 for i in range(N)]}
DEFAULTS = {
    "lr": 1e-3,
    "max_epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "random_state": 0,
}


class Case(NamedTuple):
    """An estimator and what it is fitted to."""

    cls: type
    params: dict[str, Any]
    X: Any
    y: Any
    model: Callable[[], Any] = backbone


def family(name):
    """A function that writes a tiny backbone of a family."""
    return functools.partial(_family, name)


@functools.cache
def _family(name):
    tokenizer = FAMILIES[name].tokenizer()
    folder = Path(backbone()).parent / name
    return save_backbone(folder, FAMILIES[name].config(len(tokenizer)), tokenizer)


def language(kind):
    """Likewise a language model."""
    return functools.partial(language_model, kind)


def seq(X=TEXTS, y=TOPICS, model=backbone, **params):
    return Case(TransformerSequenceClassifier, params, X, y, model)


def reg(y=NUMBERS, **params):
    return Case(TransformerSequenceRegressor, params, TEXTS, y)


def pair(cls=PairClassifier, X=PAIRS, y=TOPICS, **params):
    return Case(cls, params, X, y)


def tag(y=TAGS, **params):
    return Case(TokenTagger, params, SENTENCES, y)


def tasks(X=TEXTS, y=None, **params):
    return Case(MultiTaskSequenceEstimator, params, X, pd.DataFrame(TARGETS) if y is None else y)


LONG = [f"{text} {text} {text}" for text in TEXTS]
CASES = {
    "str": seq(class_weight={"food": 2.0}, scoring=metrics.span_f1_scorer, callbacks=()),
    "int32, attention": seq(
        LONG,
        CODES.astype(np.int32) * 3,
        head=MLPHead((8,), batch_norm=True, layer_norm=True),
        pooling="attention",
        long_text=Windows(stride=2, pooling="attention"),
        max_length=8,
        class_weight={0: 1, 3: 2.5, 6: 1},
    ),
    "bool, native": seq(y=CODES > 0, head="native"),
    "soft": seq(y=np.eye(3)[CODES], loss=CrossEntropy(classes=["c", "b", "a"]), finetune=BitFit()),
    "str objects": seq(y=pd.Series(TOPICS, dtype=object), finetune="head", warm_start=True),
    "early stopping": seq(
        early_stopping=True,
        scoring="accuracy",
        optimizer=AdamW(betas=(np.float64(0.9), 0.99), averaging="ema"),
        lr=np.float64(1e-3),
        callbacks=[BatchHistory()],
        augment=[RandomDeletion(rows=0.5), SynonymReplacement({"bread": ["soup"]})],
        finetune=GradualUnfreezing(),
        validation_fraction=np.int64(6),
    ),
    "dense labels": seq(
        y=INDICATOR, threshold="tuned", loss=BinaryCrossEntropy(pos_weight=np.ones(3))
    ),
    "csr_array": seq(y=sparse.csr_array(INDICATOR), threshold=[0.3, 0.5, 0.7]),
    "csr_matrix": seq(y=sparse.csr_matrix(INDICATOR)),
    "table of labels": seq(
        y=pd.DataFrame(INDICATOR, columns=["a", "b", "c"]), threshold={"a": 0.25}
    ),
    "adaptive": seq(loss=AdaptiveSoftmax(cutoffs=[2])),
    "tree": seq(loss=TreeSoftmax()),
    "sampled": seq(loss=SampledSoftmax(n_negatives=2)),
    "cls": seq(pooling="cls", precision="fp32"),
    "gpt2, last": seq(model=family("gpt2")),
    "llama, both ways": seq(
        model=lambda: Backbone(family("llama")(), bidirectional=True), pooling="mean"
    ),
    "t5": seq(model=language("t5")),
    "bfloat16": seq(model=lambda: Backbone(backbone(), dtype="bfloat16"), head=MLPHead((8,))),
    "modernbert, eager": seq(
        model=lambda: Backbone(Path(family("modernbert")()), attn_implementation="eager"),
        head="native",
    ),
    "numbers": reg(loss=HuberLoss(delta=0.5)),
    "several numbers": reg(
        pd.DataFrame({"a": NUMBERS, "b": -NUMBERS}), head=Linear(activation="relu")
    ),
    "numbers, native": reg(head="native"),
    "cross": pair(X=pd.DataFrame(PAIRS, columns=["a", "b"]), symmetric=True),
    "cross-attention": pair(interaction="attention", pooling="max"),
    "pairs, native": pair(head="native"),
    "bi-encoder": pair(PairRegressor, y=NUMBERS, symmetric=True),
    "difference": pair(
        PairRegressor, y=NUMBERS, interaction="difference", head=Linear(activation="relu")
    ),
    "CRF": tag(),
    "CRF, constraints": tag(head=CRF("bio"), crf=True, subword="mean"),
    "self-attention": tag(
        [[len(t) for t in row] for row in TAGS], self_attention=True, subword="max"
    ),
    "linear tagger": tag(crf=False),
    "native tagger": tag(head="native", crf=False, subword="last"),
    "pandas tasks": tasks(tasks={"number": "regression"}, task_weights="balanced"),
    "polars tasks": tasks(y=pl.DataFrame(TARGETS)),
    "tasks of pairs": tasks(PAIRS, np.column_stack([CODES, NUMBERS]), head=MLPHead((8,))),
    "t5 generator": Case(
        Text2TextGenerator,
        {"max_target_length": 4, "generation": {"num_beams": 2}, "metric": "exact_match"},
        TEXTS,
        TOPICS,
        language("t5"),
    ),
    "gpt2 generator": Case(
        Text2TextGenerator,
        {"max_target_length": 4, "template": "{a} / {b}", "prefix": "x"},
        pd.DataFrame({"a": TEXTS, "b": TEXTS[::-1]}),
        TOPICS,
        language("gpt2"),
    ),
    "zero-shot": Case(
        Text2TextClassifier,
        {"label_words": {0: "food", 1: "sea", 2: "city"}, "template": "{text} is"},
        None,
        [0, 1, 2],
        language("bart"),
    ),
    "few-shot": Case(
        Text2TextClassifier, {"examples_in_prompt": 1}, TEXTS, TOPICS, language("llama")
    ),
    "fine-tuned": Case(
        Text2TextClassifier, {"class_weight": "balanced"}, TEXTS, TOPICS, language("gpt2")
    ),
    "adapter": Case(MaskedLMAdapter, {"mask_probability": 0.2}, TEXTS, None),
    "causal adapter": Case(MaskedLMAdapter, {}, TEXTS, None, family("gpt2")),
}
# Cases that differ in what training goes on from.
GOING_ON = ["str", "int32, attention", "csr_array", "CRF", "pandas tasks", "numbers", "few-shot"]


@functools.cache
def fitted(name):
    """The estimator of a case, fitted; nothing may change it."""
    cls, params, X, y, model = CASES[name]
    estimator = cls(**{"backbone": model(), **DEFAULTS, **params})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives the directory of a case, written once."""

    @functools.cache
    def write(name):
        path = tmp_path_factory.mktemp("saved") / "model"
        options = {"keep_examples": True} if name == "few-shot" else {}
        fitted(name).save_pretrained(path, **options)
        return path

    return write


@pytest.fixture(scope="module")
def loaded(saved):
    """A function that gives the estimator that comes out of it; nothing may change it."""
    return functools.cache(lambda name: sktransformers.load(saved(name)))


def outputs(estimator, name):
    """All that an estimator makes of rows."""
    X = TEXTS if CASES[name].X is None else CASES[name].X
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* answers have as many tokens")
        for method in ("predict", "predict_proba", "decision_function", "generate", "perplexity"):
            if hasattr(estimator, method):
                found[method] = getattr(estimator, method)(X)
    return found


def assert_same_outputs(found, expected):
    assert list(found) == list(expected)
    for method, value in expected.items():
        assert type(found[method]) is type(value)
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found[method], value)
        elif isinstance(value, pl.DataFrame):
            assert value.equals(found[method]) and value.schema == found[method].schema
        elif sparse.issparse(value):
            assert same(found[method].toarray(), value.toarray())
        else:
            assert same(listed(found[method]), listed(value))


def listed(value):
    """Arrays of arrays as lists."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [listed(each) for each in value]
    return value


def attributes(estimator):
    """Fitted attributes but for those that other things go by."""
    apart = {*estimator.get_params(), "net_", "model_", "tokenizer_", "_moments", "_skl_callbacks"}
    return {name: value for name, value in vars(estimator).items() if name not in apart}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_back_is_the_same(name, loaded):
    there, here = fitted(name), loaded(name)
    assert type(here) is type(there)
    assert_same_outputs(outputs(here, name), outputs(there, name))
    params, expected = (est.get_params(deep=False) for est in (here, there))
    for parameter, value in expected.items():
        assert plain(params[parameter]) == plain(value), parameter
    found, expected = attributes(here), attributes(there)
    assert sorted(found) == sorted(expected)
    for attribute, value in expected.items():
        if attribute == "_y_like" and value is not None:
            assert type(found[attribute]) is type(value) and found[attribute].equals(value)
        else:
            assert same(found[attribute], value), attribute


def plain(value):
    """Something that is equal where two parameters are, types included."""
    if hasattr(value, "get_params"):
        return type(value), {k: plain(v) for k, v in value.get_params(deep=False).items()}
    if isinstance(value, (list, tuple)):
        return type(value), [plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return type(value), value.dtype, value.tolist()
    return type(value), value


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_the_same(name, loaded):
    there, here = fitted(name).model_, loaded(name).model_
    assert type(here) is type(there) and not here.training
    assert not any(module.training for module in here.modules())
    expected, found = there.state_dict(), here.state_dict()
    assert sorted(found) == sorted(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
    assert here.config.id2label == there.config.id2label
    assert here.config.problem_type == there.config.problem_type
    kernels = [model.backbone.config._attn_implementation for model in (here, there)]
    assert kernels[0] == kernels[1]
    assert hooked(here) == hooked(there)


def hooked(model):
    """Names of the modules that are computed only where they are read."""
    return [
        name
        for name, module in model.named_modules()
        if narrowing._cut in module._forward_pre_hooks.values()
    ]


def test_narrowing_is_there_again(loaded, saved):
    for name in ("cls", "gpt2, last"):
        assert hooked(loaded(name).model_)
    wide = sktransformers.load(saved("cls"), backbone=Backbone(backbone(), skip_unread=False))
    assert not hooked(wide.model_)
    assert np.allclose(wide.predict_proba(TEXTS), loaded("cls").predict_proba(TEXTS), atol=1e-6)


@pytest.mark.parametrize("name", GOING_ON)
def test_it_goes_on_as_the_original_does(name, saved):
    X, y = CASES[name][2:4]
    there = pickle.loads(pickle.dumps(fitted(name)))
    here = sktransformers.load(saved(name))
    for estimator in (there, here):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.partial_fit(X, y)
    assert_same_outputs(outputs(here, name), outputs(there, name))
    assert len(here.history_) == len(there.history_)
    # And so does what it is saved as now.
    again = pickle.loads(pickle.dumps(here))
    assert_same_outputs(outputs(again, name), outputs(here, name))


@pytest.mark.parametrize("name", ["dense labels", "bi-encoder", "native tagger"])
def test_it_is_fitted_anew_as_the_original_is(name, loaded):
    _, _, X, y, _ = CASES[name]
    copied = clone(loaded(name))
    assert not hasattr(copied, "model_")
    assert_same_outputs(outputs(copied.fit(X, y), name), outputs(fitted(name), name))


@pytest.mark.parametrize("name", ["str", "csr_array", "CRF", "pandas tasks", "several numbers"])
def test_it_scores(name, loaded):
    _, _, X, y, _ = CASES[name]
    assert loaded(name).score(X, y) == fitted(name).score(X, y)


def test_save_is_the_same_call(tmp_path, saved):
    fitted("str").save(tmp_path / "other", weights="full", overwrite=True)
    assert content(tmp_path / "other") == content(saved("str"))


def content(folder):
    """What a directory holds; the metadata of tensors have no order."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            found[path.name] = {k: (v.dtype, v.tolist()) for k, v in load_file(path).items()}
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_saving_changes_nothing_and_what_was_loaded_is_saved_alike(tmp_path, saved, loaded):
    for name in ("early stopping", "int32, attention", "polars tasks", "adapter", "CRF"):
        before = vars(fitted(name)).copy()
        path = tmp_path / name
        loaded(name).save_pretrained(path)
        assert content(path) == content(saved(name)), name
        assert list(vars(fitted(name))) == list(before)
        assert all(vars(fitted(name))[key] is value for key, value in before.items())


def test_global_random_states_stay_as_they_are(tmp_path, saved):
    """Also where models are made anew before they get their weights."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name in ("str", "linear tagger", "cross-attention", "t5 generator", "causal adapter"):
        sktransformers.load(saved(name)).save_pretrained(tmp_path / name)
    fitted("str objects").save_pretrained(tmp_path / "delta", weights="delta")
    sktransformers.load(tmp_path / "delta")
    adapted = make_tiny("tagger", finetune=LoRA()).fit(SENTENCES, TAGS)
    adapted.save_pretrained(tmp_path / "LoRA")
    sktransformers.load(tmp_path / "LoRA")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_there_is_no_pickle_and_no_code_in_it(saved):
    known = {".json", ".safetensors", ".md", ".txt", ".jinja", ".model"}
    for name in CASES:
        for path in saved(name).rglob("*"):
            assert path.is_dir() or path.suffix in known, path


# --------------------------------------------------------- what is never written

SECRETS = ("zyxsentinel", "qqunheard", "hf_ghijklm", "mycachefolder")


def spy_texts():
    return [f"{SECRETS[0]} {text} {SECRETS[1]}" for text in TEXTS]


class Recorder(Callback):
    """Writes the user's texts into the history."""

    def on_epoch_end(self, net, **kwargs):
        net.history.record("seen", spy_texts()[0])
        net.history.record("first", [spy_texts()[0]])
        net.history.record("by_text", {spy_texts()[0]: 1.0})
        net.history.record("model", net)
        net.history.record("figure", np.float32(0.5))


def grep(folder):
    """Secrets in the files of a directory."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [word for word in SECRETS if any(word.encode() in text for text in files)]


def test_no_text_of_the_users_is_in_it(tmp_path):
    clf = TransformerSequenceClassifier(
        Backbone(backbone(), token=SECRETS[2], trust_remote_code=False),
        replay=Replay(8, pickle=True),
        early_stopping=True,
        augment=RandomDeletion(),
        callbacks=[Recorder()],
        memory=str(tmp_path / SECRETS[3]),
        finetune="head",
        verbose=0,
        **DEFAULTS,
    ).fit(spy_texts(), TOPICS)
    assert clf._reservoir.rows and "seen" in clf.history_[0]
    clf.save_pretrained(tmp_path / "model", drop=["callbacks"])
    assert grep(tmp_path / "model") == []
    with pytest.warns(UserWarning, match="callbacks"):
        here = sktransformers.load(tmp_path / "model")
    assert same(here.history_[0]["figure"], np.float32(0.5))
    assert not {"seen", "first", "by_text", "model"} & set(here.history_[0])
    assert here.memory is None and here.backbone.token is None and here.replay.pickle is True
    assert np.array_equal(here.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    here.set_params(early_stopping=False).partial_fit(spy_texts(), TOPICS)
    assert here._reservoir.rows


@pytest.mark.filterwarnings("ignore:.*no trained head that predicts tokens")
def test_no_text_of_other_tasks_is_in_it(tmp_path):
    words = [text.split() for text in spy_texts()]
    tags = [["B-X" if len(word) > 5 else "O" for word in row] for row in words]
    y = pd.DataFrame({"topic": TOPICS}, index=spy_texts())
    fits = {
        "tagger": make_tiny("tagger", replay=4).fit(words, tags),
        "pairs": make_tiny("pair", replay=4).fit([*zip(spy_texts(), spy_texts())], TOPICS),
        "tasks": make_tiny("tasks", replay=4).fit(pd.Series(spy_texts()), y),
        "adapter": make_tiny("adapter", early_stopping=True).fit(spy_texts()),
        "answers": make_tiny("answers", replay=4).fit(spy_texts(), TOPICS),
    }
    for name, estimator in fits.items():
        estimator.save_pretrained(tmp_path / name)
        assert grep(tmp_path / name) == [], name


def test_examples_in_a_prompt_need_consent(tmp_path):
    words = [word for text in [*spy_texts(), *TOPICS, "classify: label"] for word in text.split()]
    folder = tmp_path / "backbone"
    save_language_model(folder, "t5", word_tokenizer(sorted({*words, "classify:"})))
    clf = Text2TextClassifier(folder, examples_in_prompt=3, **DEFAULTS).fit(spy_texts(), TOPICS)
    with pytest.raises(ValueError, match=r"keep_examples=True.*examples_in_prompt=0"):
        clf.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    clf.save_pretrained(tmp_path / "model", keep_examples=True)
    here = sktransformers.load(tmp_path / "model")
    assert here.prompt_ == clf.prompt_ and SECRETS[0] in here.prompt_
    assert np.array_equal(here.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    # Without examples nothing has to be said.
    plain = Text2TextClassifier(folder, **DEFAULTS).fit(None, ["food", "sea"])
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(TypeError, match="keep_examples"):
        fitted("str").save_pretrained(tmp_path / "other", keep_examples=True)


# ------------------------------------------------------------------ what JSON has no word for


def test_parameters_that_json_cannot_hold_are_named_together(tmp_path):
    tokenizer = fitted("str").tokenizer_
    clf = TransformerSequenceClassifier(
        Backbone(backbone(), tokenizer=tokenizer), **{**DEFAULTS, "max_epochs": 1}
    ).fit(TEXTS, TOPICS)
    clf.set_params(
        callbacks=[Recorder()],
        scoring=make_scorer(accuracy_score),
        random_state=np.random.RandomState(0),
        augment=[RandomDeletion(random_state=np.random.RandomState(0))],
    )
    names = ["augment", "backbone__tokenizer", "callbacks", "random_state", "scoring"]
    with pytest.raises(TypeError, match="cannot be saved") as caught:
        clf.save_pretrained(tmp_path / "model")
    assert f"drop={names!r}" in str(caught.value) and "Recorder" in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    clf.save_pretrained(tmp_path / "model", drop=names)
    with pytest.warns(UserWarning, match="defaults: augment, backbone__tokenizer, ") as record:
        here = sktransformers.load(tmp_path / "model")
    assert [warning.filename for warning in record] == [__file__]
    assert here.backbone.tokenizer is None and here.backbone.name == backbone()
    assert here.callbacks is None and here.scoring == "loss" and here.random_state is None
    assert np.array_equal(here.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    # What is given has no default to warn of.
    given = {"callbacks": [Recorder()], "scoring": None, "random_state": 3, "augment": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        here = sktransformers.load(tmp_path / "model", backbone__tokenizer=tokenizer, **given)
    assert here.backbone.tokenizer is tokenizer and here.random_state == 3
    with pytest.warns(UserWarning, match="defaults: scoring") as record:
        TransformerSequenceClassifier.from_pretrained(
            tmp_path / "model",
            backbone=Backbone(backbone()),
            **{name: value for name, value in given.items() if name != "scoring"},
        )
    assert [warning.filename for warning in record] == [__file__]


def test_a_loaded_backbone_is_refused_by_name_or_dropped(tmp_path):
    model = fitted("str").model_.backbone
    for given, name in ((model, "backbone"), (Backbone(model), "backbone__name")):
        clf = fitted("str").__copy__().set_params(backbone=given)
        with pytest.raises(TypeError, match=rf"{name} \(BertModel\).*drop=\['{name}'\]"):
            clf.save_pretrained(tmp_path / name)
        clf.save_pretrained(tmp_path / name, drop=name)
        with pytest.warns(UserWarning, match=name):
            here = sktransformers.load(tmp_path / name)
        assert np.array_equal(here.predict_proba(TEXTS), clf.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("drop", "error", "words"),
    [
        (["no_such"], ValueError, "'no_such'.*no parameter"),
        (["head__dropout"], ValueError, "'head__dropout'.*no option 'dropout'"),
        (["backbone__no_such"], ValueError, "no option 'no_such'"),
        ([3], TypeError, "drop"),
        (3, TypeError, "drop"),
    ],
)
def test_bad_names_in_drop(drop, error, words, tmp_path):
    clf = fitted("str").__copy__().set_params(backbone=Backbone(backbone()))
    with pytest.raises(error, match=words):
        clf.save_pretrained(tmp_path / "model", drop=drop)
    assert not (tmp_path / "model").exists()


def test_drop_takes_options_and_what_is_never_written(tmp_path):
    clf = fitted("early stopping")
    names = ["optimizer__averaging", "memory", "callbacks"]
    clf.save_pretrained(tmp_path / "model", drop=names)
    with pytest.warns(UserWarning, match="optimizer__averaging, memory, callbacks"):
        here = sktransformers.load(tmp_path / "model")
    assert here.optimizer.averaging is None and here.optimizer.betas[1] == 0.99
    assert clf.optimizer.averaging == "ema"  # the user's own stays as it is


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weights": "half"}, ValueError, "weights='half'.*'delta'"),
        ({"format": "onnx"}, ValueError, "format='onnx'.*'transformers'"),
        ({"format": ["auto"]}, ValueError, "format="),
        ({"overwrite": "yes"}, TypeError, "overwrite='yes'"),
        ({"scores": 0.5}, TypeError, "scores"),
        ({"scores": {"accuracy": "high"}}, TypeError, "accuracy"),
        ({"no_such": 1}, TypeError, "no_such"),
    ],
)
def test_bad_options(options, error, words, tmp_path):
    for save in (fitted("str").save_pretrained, fitted("str").save):
        with pytest.raises(error, match=words):
            save(tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_have_become_bad(tmp_path):
    clf = fitted("str").__copy__().set_params(max_epochs=-1)
    with pytest.raises(ValueError, match="max_epochs"):
        clf.save_pretrained(tmp_path / "model")


def test_what_is_not_fitted(tmp_path):
    for name in CASES:
        with pytest.raises(NotFittedError):
            clone(fitted(name)).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_code_of_others_is_refused(tmp_path):
    class Noise(torch.nn.Module):
        def forward(self, x):
            return x

    clf = pickle.loads(pickle.dumps(fitted("str")))
    clf.model_.backbone.extra = Noise()
    with pytest.raises(ValueError, match=r"test_saved.Noise.*no code"):
        clf.save_pretrained(tmp_path / "model")


# ------------------------------------------------------------------------- load


def test_other_parameters(saved):
    here = sktransformers.load(
        saved("early stopping"), max_batch_tokens=64, optimizer__averaging="swa", lr=0.5
    )
    assert (here.max_batch_tokens, here.optimizer.averaging, here.lr) == (64, "swa", 0.5)
    assert here.optimizer.betas[1] == 0.99
    there = fitted("early stopping")
    assert np.allclose(here.predict_proba(TEXTS), there.predict_proba(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"no_such": 1}, TypeError, "TransformerSequenceClassifier has no parameter 'no_such'"),
        ({"no_such__x": 1}, TypeError, "no_such__x"),
        ({"optimizer__no_such": 1}, ValueError, "no_such"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"device": "nowhere"}, ValueError, "device='nowhere'"),
        ({"backbone": 3}, TypeError, "backbone"),
    ],
)
def test_bad_parameters(params, error, words, saved):
    for read in (sktransformers.load, TransformerSequenceClassifier.from_pretrained):
        with pytest.raises(error, match=words) as caught:
            read(saved("early stopping"), **params)
        assert not isinstance(caught.value, SavedModelError)


@pytest.mark.parametrize("path", [None, 3, b"x", ["a"]])
def test_paths_that_are_none(path):
    for call in (sktransformers.load, fitted("str").save_pretrained):
        with pytest.raises(TypeError, match=r"path=.*str or a path-like"):
            call(path)


def test_a_device_that_is_not_there(saved):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.warns(UserWarning, match="'cuda'.*CPU") as record:
        here = sktransformers.load(saved("str"), device="cuda")
    assert [warning.filename for warning in record] == [__file__]
    assert here.device == "cuda" and here.model_.device.type == "cpu"
    assert np.array_equal(here.predict_proba(TEXTS), fitted("str").predict_proba(TEXTS))


def test_a_device_as_an_object(tmp_path):
    clf = fitted("str").__copy__().set_params(device=torch.device("cpu"))
    clf.save_pretrained(tmp_path / "model")
    assert sktransformers.load(tmp_path / "model").device == torch.device("cpu")


def test_every_class_reads_its_own_directories(saved):
    for name in ("str", "bool, native", "numbers", "cross", "bi-encoder", "CRF", "native tagger"):
        here = CASES[name].cls.from_pretrained(saved(name), batch_size=3)
        assert here.batch_size == 3
        assert_same_outputs(outputs(here, name), outputs(fitted(name), name))
    for name in ("t5 generator", "zero-shot", "adapter", "pandas tasks"):
        CASES[name].cls.from_pretrained(str(saved(name)))
    with pytest.raises(SavedModelError, match="holds a TokenTagger, and no PairClassifier"):
        PairClassifier.from_pretrained(saved("native tagger"))
    with pytest.raises(
        SavedModelError, match=r"holds a Transform.*Classifier, and no Text2TextGen"
    ):
        Text2TextGenerator.from_pretrained(saved("str"))


def test_checkpoints_of_others_are_looked_at_whatever_they_are_called(tmp_path, monkeypatch):
    fitted("bool, native").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "sktransformers.json").unlink()
    monkeypatch.setattr("sktransformers.persistence.checks.MAX_BYTES", 10)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "model", "~/model", Backbone("~/model")):
        with pytest.raises(SavedModelError, match="at most 10 are read"):
            TransformerSequenceClassifier.from_pretrained(name, device="cpu")


class MyClassifier(TransformerSequenceClassifier):
    """A class of the user's own, with one parameter more."""

    def __init__(self, backbone, *, finetune="full", max_epochs=1, device="cpu", note="", extra):
        super().__init__(backbone, finetune=finetune, max_epochs=max_epochs, device=device)
        self.note = note
        self.extra = extra

    @classmethod
    def _get_param_names(cls):
        own = ["backbone", "finetune", "max_epochs", "device", "note", "extra"]
        return sorted({*super()._get_param_names(), *own})

    def fit(self, X, y):
        super().fit(X, y)
        self.seen_ = len(X)
        self.scratch = X
        return self


def test_classes_of_the_users_own(tmp_path):
    clf = MyClassifier(backbone(), note="mine", extra=len)
    clf.fit(TEXTS, TOPICS)
    with pytest.raises(TypeError, match=r"extra \(builtin_function_or_method\)"):
        clf.save_pretrained(tmp_path / "model")
    clf.save_pretrained(tmp_path / "model", drop=["extra"])
    with pytest.raises(SavedModelError, match=r"'MyClassifier'.*MyClassifier.from_pretrained"):
        sktransformers.load(tmp_path / "model")
    with pytest.raises(SavedModelError, match="holds a MyClassifier, and no Transformer"):
        TransformerSequenceClassifier.from_pretrained(tmp_path / "model")
    here = MyClassifier.from_pretrained(tmp_path / "model", extra=max)
    assert type(here) is MyClassifier and here.note == "mine" and here.extra is max
    assert here.seen_ == N and not hasattr(here, "scratch")
    assert np.array_equal(here.predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_what_is_accelerated_is_saved_plain(tmp_path, saved):
    fast = fitted("str").__copy__()
    fast.backend_, fast._engine = "int8", object()  # as after accelerate
    fast.save_pretrained(tmp_path / "model")
    assert content(tmp_path / "model") == content(saved("str"))
    here = sktransformers.load(tmp_path / "model")
    assert not hasattr(here, "backend_") and here._engine is None


def test_an_adapted_backbone_is_a_backbone_and_an_adapter(saved, loaded):
    path = saved("adapter")
    clf = TransformerSequenceClassifier(path, **DEFAULTS).fit(TEXTS, TOPICS)
    assert clf.n_blocks_ == 2
    assert loaded("adapter").perplexity(TEXTS) == fitted("adapter").perplexity(TEXTS)
    assert loaded("adapter")._files == fitted("adapter")._files


# ------------------------------------------------------------------------ damage


@pytest.fixture
def damaged(saved, tmp_path):
    """A function that gives a directory whose description was changed."""

    def change(name, **entries):
        folder = tmp_path / "model"
        folder.mkdir()
        for path in saved(name).iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        path = folder / "sktransformers.json"
        about = json.loads(path.read_text("utf-8"))
        for entry, values in entries.items():
            known = about[entry]
            both = isinstance(known, dict) and isinstance(values, dict)
            about[entry] = {**known, **values} if both else values
        path.write_text(json.dumps(about), "utf-8")
        return folder

    return change


@pytest.mark.parametrize(
    "entries",
    [
        {"class": "os.system"},
        {"class": "SavedTransformer"},
        {"class": "Backbone"},
        {"class": "__class__"},
        {"class": ""},
        {"parameters": {"no_such": 1}},
        {"parameters": {"memory": "/tmp/x"}},
        {"parameters": {"max_epochs": "many"}},
        {"parameters": {"max_epochs": {"$eval": "1"}}},
        {"parameters": {"backbone": 3}},
        {"parameters": {"self": 3}},
        {"parameters": {"device": "nowhere"}},
        {"parameters": []},
        {"fitted": {"__class__": 1}},
        {"fitted": {"predict": 1}},
        {"fitted": {"fit": 1}},
        {"fitted": {"model_": 1}},
        {"fitted": {"net_": 1}},
        {"fitted": {"backend_": "int8"}},
        {"fitted": {"_engine": 1}},
        {"fitted": {"_moments": 1}},
        {"fitted": {"lr": 1}},
        {"fitted": {"__init__": 1}},
        {"fitted": {"__dunder_": 1}},
        {"fitted": {"_summary": 1}},
        {"fitted": {"_summary": [[["a"]], 1, None]}},
        {"fitted": {"_summary": {"$array": {}}}},
        {"fitted": {"classes_": {"$array": {"dtype": "O", "shape": [1], "values": [1]}}}},
        {"fitted": 7},
        {"dropped": {}},
    ],
    ids=str,
)
def test_what_we_do_not_write_is_not_read(entries, damaged):
    with pytest.raises(SavedModelError):
        sktransformers.load(damaged("str", **entries))


_TWO = {"$array": {"dtype": "<U1", "shape": [2], "values": ["a", "b"]}}


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("str", {"history_": 5}),
        ("str", {"history_": [1]}),
        ("str", {"max_length_": "long"}),
        ("str", {"max_length_": -1}),
        ("str", {"classes_": None}),
        ("str", {"classes_": ["a", "b", "c"]}),
        ("str", {"classes_": _TWO}),
        ("dense labels", {"threshold_": _TWO}),
        ("numbers", {"target_mean_": "0"}),
        ("several numbers", {"target_scale_": 1.0}),
        ("CRF", {"classes_": _TWO}),
        ("CRF", {"metric_": "f2"}),
        ("pandas tasks", {"classes_": []}),
        ("pandas tasks", {"n_texts_": 3}),
        ("zero-shot", {"label_words_": {"a": "b"}}),
        ("zero-shot", {"classes_": _TWO}),
    ],
    ids=str,
)
def test_attributes_that_do_not_go_with_the_model(name, attributes, damaged):
    with pytest.raises(SavedModelError, match=r"sktransformers.json' is damaged"):
        sktransformers.load(damaged(name, fitted=attributes))


@pytest.mark.parametrize("name", ["str", "dense labels", "numbers", "CRF", "pandas tasks"])
def test_attributes_that_are_missing(name, damaged):
    folder = damaged(name)
    path = folder / "sktransformers.json"
    about = json.loads(path.read_text("utf-8"))
    for attribute in ("classes_", "target_mean_", "history_", "max_length_", "_summary"):
        if attribute in about["fitted"]:
            rest = {k: v for k, v in about["fitted"].items() if k != attribute}
            path.write_text(json.dumps({**about, "fitted": rest}), "utf-8")
            with pytest.raises(SavedModelError, match=attribute):
                sktransformers.load(folder)


def test_names_of_properties_are_no_attributes(damaged):
    with pytest.raises(SavedModelError, match="prompt_"):
        sktransformers.load(damaged("zero-shot", fitted={"prompt_": "x"}))


def test_a_saved_model_is_no_backbone(saved):
    with pytest.raises(ValueError, match="holds a fitted estimator of sktransformers"):
        TransformerSequenceClassifier(saved("str")).fit(TEXTS, TOPICS)
    clf = TransformerSequenceClassifier(
        Backbone(sktransformers.load(saved("str")).model_.backbone, tokenizer=saved("str")),
        **DEFAULTS,
    )
    assert clf.fit(TEXTS, TOPICS).predict(TEXTS).shape == (N,)


def test_no_directory_is_named_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(backbone(), "runs-of-mine")
    odd = ["a\udc80" if topic == "sea" else topic for topic in TOPICS]  # no UTF-8
    clf = TransformerSequenceClassifier(Backbone("runs-of-mine"), **DEFAULTS).fit(TEXTS, odd)
    shutil.rmtree("runs-of-mine")
    with pytest.raises(ValueError, match=r"parameter backbone is left out \(drop\)"):
        clf.save_pretrained("model", weights="delta", drop=["backbone__name"])
    clf.save_pretrained("model", drop=["backbone"])
    assert not any(b"runs-of-mine" in path.read_bytes() for path in Path("model").iterdir())
    with pytest.warns(UserWarning, match="left out"):
        assert sktransformers.load("model").classes_.tolist() == clf.classes_.tolist()


def test_a_string_has_no_options(saved):
    with pytest.raises(ValueError, match="head__dropout: a parameter that is a string"):
        sktransformers.load(saved("str"), head__dropout=0.3)
