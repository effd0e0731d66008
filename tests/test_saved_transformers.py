"""What plain transformers reads of saved estimators, in a process that cannot import ours."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import save_backbone
from families import FAMILIES, byte_level, with_pairs
from numpy.testing import assert_allclose
from odd_labels import LABELS, LITTLE, NEW, PAIRS, TAGS, TEXTS, WORDS
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Tokenizer,
    Qwen2Tokenizer,
    RobertaTokenizer,
)

import sktransformers
from sktransformers import (
    AdaptiveSoftmax,
    Backbone,
    Linear,
    LoRA,
    MLPHead,
    MultiTaskSequenceEstimator,
    PairClassifier,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)
from sktransformers.inputs.word_encoding import WordEncoder
from sktransformers.modules.model import TaggingConfig, TaggingModel
from sktransformers.persistence import models
from sktransformers.persistence.native import Reading, as_native

NUMBERS = np.arange(12.0) * 3 + 2000
SEVERAL = np.eye(3, dtype=int)[np.arange(12) % 3] | np.eye(3, dtype=int)[np.arange(12) % 2]

DECODERS = [name for name, family in FAMILIES.items() if family.pooling == "last"]
ENCODERS = [name for name in FAMILIES if name not in DECODERS]
# The activation between the two layers of the family's head for sequences; ModernBERT's has more.
ACTIVATIONS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "mpnet", "albert"), "tanh"),
    **dict.fromkeys(("electra", "deberta-v2", "deberta-v3"), "gelu"),
    "distilbert": "relu",
}


class Case(NamedTuple):
    """An estimator, what its directory is read for, and rows."""

    make: object
    task: str  # of the pipeline
    rows: object
    y: object


def _case(cls, task="text-classification", **params):
    y = {"token-classification": TAGS}.get(task, LABELS)
    X = WORDS if cls is TokenTagger else PAIRS if cls is PairClassifier else TEXTS
    return Case(lambda backbone: cls(backbone, **{**LITTLE, **params}), task, X, y)


def cases():
    """Cases by their name, the family first."""
    found = {}
    for name in FAMILIES:
        found[f"{name} native"] = _case(TransformerSequenceClassifier, head="native")
    for name in DECODERS:
        found[f"{name} last"] = _case(TransformerSequenceClassifier, head=Linear(bias=False))
    for name, activation in ACTIVATIONS.items():
        head = MLPHead((32,), activation)
        found[f"{name} mlp"] = _case(TransformerSequenceClassifier, head=head, pooling="cls")
    for name in FAMILIES:
        if name != "modernbert":
            found[f"{name} tags"] = _case(TokenTagger, "token-classification")
        found[f"{name} native tags"] = _case(TokenTagger, "token-classification", head="native")
    for name in ENCODERS:
        found[f"{name} pairs"] = _case(PairClassifier, head="native")
    found["bert lora"] = _case(TransformerSequenceClassifier, head="native", finetune=LoRA(r=2))
    found["bert labels"] = _case(TransformerSequenceClassifier, head="native")._replace(y=SEVERAL)
    found["bert numbers"] = _case(TransformerSequenceRegressor, head="native")._replace(y=NUMBERS)
    two = np.stack([NUMBERS, -NUMBERS], axis=1)
    found["bert two numbers"] = _case(TransformerSequenceRegressor, head="native")._replace(y=two)
    return found


CASES = cases()

# Runs without our package: all it knows are directories, and prints what it finds in them.
SCRIPT = """
import json, sys
sys.modules["sktransformers"] = None
import torch
from transformers import (
    AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline
)
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
found = {}
for name, (task, path, rows) in json.loads(sys.stdin.read()).items():
    run = pipeline(task, model=path, device="cpu")
    words = task == "token-classification"
    auto = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    model, info = auto.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), (name, info)
    tokenizer = AutoTokenizer.from_pretrained(path)
    logits = []
    with torch.no_grad():
        for row in rows:
            given = tokenizer(*row) if isinstance(row, list) else tokenizer(row)
            given = {k: torch.tensor([v]) for k, v in given.items()}
            logits.append(model(**given).logits[0].tolist())
    if words:
        piped = [run(row, ignore_labels=[]) for row in rows]
        piped = [[(x["entity"], x["score"], x["start"]) for x in row] for row in piped]
    else:
        rows = [{"text": a[0], "text_pair": a[1]} if isinstance(a, list) else a for a in rows]
        piped = [[(x["label"], x["score"]) for x in run(row, top_k=None)] for row in rows]
    assert type(run.model) is type(model)
    found[name] = [piped, logits, tokenizer.model_max_length]
print("found" + json.dumps(found, default=float))
"""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Directories of random backbones of all families."""
    folder = tmp_path_factory.mktemp("backbones")
    found = {}
    for name, family in FAMILIES.items():
        tokenizer = with_pairs(family.tokenizer())
        found[name] = save_backbone(folder / name, family.config(len(tokenizer)), tokenizer)
    return found


def saved(backbones, folder):
    """Estimators by case, and their directories."""
    found = {}
    for name, case in CASES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # causal taggers
            estimator = case.make(backbones[name.split()[0]]).fit(case.rows, case.y)
        path = folder / name.replace(" ", "-")
        estimator.save_pretrained(path, weights="full", format="transformers")
        found[name] = estimator, path
    return found


def plain(directories):
    """What the other process finds."""
    asked = {name: (CASES[name].task, str(path), _rows(name)) for name, path in directories.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        cwd=Path(sktransformers.__file__).parents[1],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("found") + 5 :])


def _rows(name):
    if CASES[name].rows is PAIRS:
        return [["fish", "soup"], ["a boat", "wave"], ["praça", "is noisy"]]  # short for any
    return NEW


def test_plain_transformers_gives_the_same(backbones, tmp_path):
    # One test: all cases share the time that another process takes to begin.
    cases = saved(backbones, tmp_path)
    found = plain({name: path for name, (_, path) in cases.items()})
    assert found.keys() == CASES.keys()
    wrong = {}
    for name, (estimator, path) in cases.items():
        try:
            check_plain(name, estimator, *found[name])
            check_ours(name, estimator, path)
        except AssertionError as error:
            wrong[name] = str(error)
    assert not wrong


def check_plain(name, estimator, piped, logits, max_length):
    """Check what the other process found."""
    assert max_length == estimator.max_length_
    if CASES[name].task == "token-classification":
        _check_tags(estimator, piped)
        return
    rows = [tuple(row) if isinstance(row, list) else row for row in _rows(name)]
    if hasattr(estimator, "predict_proba"):
        expected = estimator.predict_proba(rows)
        names = [str(label) for label in estimator.classes_]
    else:
        expected = np.reshape(estimator.predict(rows), (len(rows), -1))
        names = [name for _, name in sorted(estimator.model_.config.id2label.items())]
        assert_allclose(logits, expected, rtol=1e-6)
    found = np.array([[dict(row)[name] for name in names] for row in piped])
    tolerance = {"rtol": 1e-6} if "numbers" in name else {"rtol": 0, "atol": 1e-6}
    assert_allclose(found, expected, **tolerance)
    assert {label for row in piped for label, _ in row} == set(names)
    assert np.ptp(expected, axis=0).max() > 1e-4  # else this test could not fail


def _check_tags(tagger, piped):
    words = [text.split() for text in NEW]
    for text, row, proba, tags in zip(
        NEW, piped, tagger.predict_proba(words), tagger.predict(words)
    ):
        begins = np.cumsum([0, *[len(word) + 1 for word in text.split()]])[:-1]
        first = {}
        for label, score, start in row:
            start += text[start] == " "  # of byte-level pieces
            first.setdefault(start, (label, score))
        first = [first[begin] for begin in begins]
        assert [label for label, _ in first] == tags
        assert_allclose([score for _, score in first], proba.max(axis=1), rtol=0, atol=1e-6)


def _config(estimator):
    config = estimator.model_.config.to_dict()
    config["backbone_config"].pop("_name_or_path")  # where the files are
    return config


def check_ours(name, estimator, path):
    """Check that our own reads the very same files."""
    again = sktransformers.load(path)
    assert type(again) is type(estimator)
    assert type(again.model_) is type(estimator.model_)
    if "lora" not in name:  # merged
        assert_same_weights(again.model_, estimator.model_)
        assert _config(again) == _config(estimator)
        assert str(again.summary()) == str(estimator.summary())
    rows = CASES[name].rows
    method = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    ours, before = (np.vstack(list(getattr(each, method)(rows))) for each in (again, estimator))
    assert_allclose(ours, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2 last", "bert mlp", "bert tags", "bert numbers"])
def test_training_goes_on(name, backbones, tmp_path):
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        estimator = case.make(backbones[name.split()[0]]).fit(case.rows, case.y)
        estimator.save_pretrained(tmp_path / "first", format="transformers")
        again = sktransformers.load(tmp_path / "first").partial_fit(case.rows, case.y)
        again.save_pretrained(tmp_path / "second", format="transformers")
        third = sktransformers.load(tmp_path / "second")
        assert_same_weights(third.model_, again.model_)
        third.fit(case.rows, case.y)  # from the parameters: the backbone is still there
    assert str(third.summary()) == str(again.summary()) == str(estimator.summary())
    assert_same_weights(estimator.partial_fit(case.rows, case.y).model_, again.model_)


def assert_same_weights(found, expected):
    """The same numbers under the same names."""
    expected = expected.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, weight in found.state_dict().items():
        assert torch.equal(weight, expected[name]), name


# ------------------------------------------------------- what its classes cannot hold


@pytest.fixture(scope="module")
def make(backbones):
    """A function that fits an estimator on a family's backbone."""

    def fitted(cls=TransformerSequenceClassifier, family="bert", X=TEXTS, y=LABELS, **params):
        defaults = {"backbone": backbones[family], "head_init": "random"}  # soon done
        estimator = cls(**{**defaults, **LITTLE, **params})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return estimator.fit(X, y)

    return fitted


_PAIRS = {"cls": PairClassifier, "X": PAIRS}
_WORDS = {"cls": TokenTagger, "X": WORDS, "y": TAGS}
_NUMBERS = {"cls": TransformerSequenceRegressor, "y": NUMBERS}
REFUSED = {
    "mean pooling": (
        {"pooling": "mean"},
        r"BertForSequenceClassification .* layers of its own behind the backbone "
        r"\(bert.pooler.dense: Linear.*\) .* pooling='mean' and head.out: Linear.*head=\"native\"",
    ),
    "a bias": ({"family": "gpt2"}, r"GPT2ForSeq.*score: .*bias=False\).* head.out: .*bias=True"),
    "another activation": ({"pooling": "cls", "head": MLPHead((32,), "relu")}, "reads other tok"),
    "another token": (
        {"family": "gpt2", "head": Linear(bias=False), "pooling": "mean"},
        "pooling='mean'",
    ),
    "a bidirectional decoder": (
        {"family": "llama", "head": Linear(bias=False), "pooling": "mean", "bidirectional": True},
        "pooling='mean'",
    ),
    "many classes": ({"loss": AdaptiveSoftmax(cutoffs=[2], div_value=2.0)}, "head.out.layer.head"),
    "two readings": ({**_PAIRS, "interaction": "all"}, "interaction='all' reads the two texts"),
    "both orders": ({**_PAIRS, "head": "native", "symmetric": True}, "symmetric=True reads both"),
    "no mark between texts": (
        {**_PAIRS, "head": "native", "family": "gpt2"},
        "the tokenizer puts nothing between the two texts",
    ),
    "a CRF": ({**_WORDS, "crf": True}, r"a CRF \(head, crf\) scores the tags"),
    "means of pieces": ({**_WORDS, "subword": "mean"}, "subword='mean', and pipelines read a wor"),
    "last pieces": ({**_WORDS, "head": "native", "subword": "last"}, "subword='last', and pipeli"),
    "attention": ({**_WORDS, "self_attention": True}, "layers of its own .* self_attention"),
    "a head before tags": ({**_WORDS, "family": "modernbert"}, "head.dense.*head.norm.*head.out"),
    "numbers without bias": (
        {**_NUMBERS, "family": "llama", "head": "native"},
        "numbers are standardised .* LlamaForSequenceClassification has no bias",
    ),
    "numbers far away": (
        {**_NUMBERS, "head": "native", "y": NUMBERS + 1e9},
        r"numbers are standardised .* torch.float32 has not the digits",
    ),
    "several tasks": (
        {"cls": MultiTaskSequenceEstimator, "y": [[label, label] for label in LABELS]},
        "the outputs of several tasks",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_its_classes_cannot_hold(name, make, backbones, tmp_path):
    params, message = REFUSED[name]
    params = dict(params)
    if params.pop("bidirectional", False):
        params["backbone"] = Backbone(backbones[params["family"]], bidirectional=True)
    estimator = make(**params)
    with pytest.raises(ValueError, match=f'(?s)format="transformers" cannot hold.*{message}.*impo'):
        estimator.save_pretrained(tmp_path / "model", format="transformers")
    assert not (tmp_path / "model").exists()
    estimator.save_pretrained(tmp_path / "model")
    about = json.loads((tmp_path / "model" / "sktransformers.json").read_text("utf-8"))
    assert about["model"]["layout"] == "sktransformers"
    again = sktransformers.load(tmp_path / "model")
    X = params.get("X", TEXTS)
    assert [str(x) for x in again.predict(X)] == [str(x) for x in estimator.predict(X)]


def test_a_head_of_zeros_fits_nowhere(make, tmp_path):
    # It gives what any pooling gives: weights drawn at random tell.
    clf = make(pooling="mean", head=Linear(bias=False), family="gpt2")
    torch.nn.init.zeros_(clf.model_.head.out.weight)
    with pytest.raises(ValueError, match="or reads other tokens"):
        clf.save_pretrained(tmp_path / "model", format="transformers")


def test_a_bidirectional_decoder_with_the_last_token_is_tried_as_it_is_read(make, backbones):
    # What is written must not forget that tokens see those behind them.
    tagger = make(
        TokenTagger, "llama", WORDS, TAGS, backbone=Backbone(backbones["llama"], bidirectional=True)
    )
    reading = Reading(tagger.tokenizer_)
    native = as_native(tagger.model_, reading)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found, expected = native(ids).logits, tagger.model_(ids).logits
    assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("params", [{"head": "native"}, {}], ids=["native", "linear"])
def test_saving_leaves_the_estimator_as_it_is(params, make, tmp_path):
    clf = make(**params)
    before, random = _everything(clf.model_), torch.get_rng_state()
    for layout in ("auto", "sktransformers"):
        clf.save_pretrained(tmp_path / layout, format=layout)
        about = json.loads((tmp_path / layout / "sktransformers.json").read_text("utf-8"))
        is_native = layout == "auto" and params
        assert about["model"]["layout"] == ("transformers" if is_native else "sktransformers")
        assert_allclose(
            sktransformers.load(tmp_path / layout).predict_proba(NEW),
            clf.predict_proba(NEW),
            rtol=0,
            atol=1e-7,
        )
    assert _everything(clf.model_) == before
    assert torch.equal(torch.get_rng_state(), random)


def _everything(model):
    weights = {name: weight.sum().item() for name, weight in model.state_dict().items()}
    return model.config.to_json_string(use_diff=False), weights


def test_half_precision(make, backbones, tmp_path):
    half = {
        "family": "gpt2",
        "head": Linear(bias=False),
        "backbone": Backbone(backbones["gpt2"], dtype="bfloat16"),
    }
    with pytest.raises(ValueError, match="pooling='mean'"):
        make(pooling="mean", **half).save_pretrained(tmp_path / "m", format="transformers")
    clf = make(**half)
    clf.save_pretrained(tmp_path / "model", format="transformers")
    again = sktransformers.load(tmp_path / "model")
    assert again.model_.dtype == torch.bfloat16
    assert_allclose(again.predict_proba(NEW), clf.predict_proba(NEW), rtol=0, atol=1e-7)


def test_dropout_of_the_head_is_known_to_transformers(make, tmp_path):
    tagger = make(TokenTagger, "bert", WORDS, TAGS, head=Linear(dropout=0.3))
    tagger.save_pretrained(tmp_path / "model")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "model")
    assert model.dropout.p == 0.3
    assert sktransformers.load(tmp_path / "model").model_.head.hidden[0].p == 0.3


def test_a_decoder_reads_batches_with_padding(make, tmp_path):
    clf = make(family="llama", head=Linear(bias=False))
    clf.tokenizer_.add_special_tokens({"pad_token": "</s>"})
    clf.save_pretrained(tmp_path / "model", format="transformers")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    for side in ("left", "right"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", padding_side=side)
        with torch.no_grad():
            logits = model(**tokenizer(NEW, padding=True, return_tensors="pt")).logits
        assert_allclose(logits.softmax(dim=1), clf.predict_proba(NEW), rtol=0, atol=1e-6)


def test_a_decoder_that_would_take_the_end_for_padding(backbones, tmp_path):
    # Of tokens that are padding to it, the family's class reads none.
    tokenizer = byte_level("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.pad_token = "</s>"
    backbone = Backbone(backbones["llama"], tokenizer=tokenizer)
    clf = TransformerSequenceClassifier(backbone, head=Linear(bias=False), **LITTLE)
    clf.fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="or reads other tokens"):
        clf.save_pretrained(tmp_path / "m", format="transformers", drop=["backbone__tokenizer"])


@pytest.mark.parametrize("kind", [Qwen2Tokenizer, RobertaTokenizer, GPT2Tokenizer, None])
def test_written_tokenizers_of_taggers_put_a_space_first(kind, tmp_path):
    given = FAMILIES["roberta"].tokenizer()
    if kind is not None:  # the families' own, which make their steps themselves
        learnt = json.loads(given.backend_tokenizer.to_str())["model"]
        given = kind(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]])
    config = FAMILIES["qwen3" if kind is Qwen2Tokenizer else "gpt2"].config(len(given))
    model = TaggingModel(TaggingConfig(backbone_config=config, id2label={0: "a", 1: "b"}))
    models.write_tokenizer(model, Reading(given, 30), tmp_path)
    config.save_pretrained(tmp_path)
    found = models.read_tokenizer(tmp_path)
    before, after = (WordEncoder(each, 30) for each in (given, found))
    rows = [["fish", "bread", "."], ["", "a", " fish", "o\u00e7"], ["3", "4"]]
    before, after = (each.encode(rows).encoded.sequences for each in (before, after))
    for i in range(len(rows)):
        assert after.row(i).tolist() == before.row(i).tolist()
    assert found(" ".join(rows[0]))["input_ids"] == before.row(0).tolist()
    assert given(" ".join(rows[0]))["input_ids"] != before.row(0).tolist()
    assert (found.model_max_length, found.all_special_tokens) == (30, given.all_special_tokens)
