"""The head of the backbone's family, and fine-tuned checkpoints that have one."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_texts, make_tokenizer, save_tiny_bert
from families import FAMILIES
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import get_scorer, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    T5Config,
    XLNetConfig,
    pipeline,
)

from sktransformers import (
    AdamW,
    Backbone,
    GradualUnfreezing,
    Linear,
    NativeHead,
    PairClassifier,
    PairRegressor,
    TokenTagger,
    TransformerSequenceClassifier,
    Windows,
    load,
)
from sktransformers.modules.backbone import set_dropout
from sktransformers.modules.native import NativeSequenceModel, NativeTaggingModel, last_layer
from sktransformers.training import loading

TEXTS, LABELS = make_texts(12)
MIXED = ["fish", *TEXTS, " ".join(["bread", "wave"] * 3)]  # of very different lengths
SENTENCES = [text.split() for text in MIXED]
PAIRS = [(a, b) for a, b in zip(MIXED, [*MIXED[3:], *MIXED[:3]])]
NAMES = ["sea", "food", "city"]  # not sorted
TAGS = ["O", "B-X", "I-X", "B-A"]
SCORERS = ("roc_auc", "neg_log_loss", "accuracy")
LITTLE = {"max_epochs": 2, "batch_size": 4, "device": "cpu", "random_state": 0}
STILL = {**LITTLE, "max_epochs": 1, "lr": 1e-12}  # a head as it started


def save_checkpoint(directory, config, tokenizer, auto, names, seed=1, **changes):
    """A checkpoint with a random head that matters; return its path as str."""
    config = copy.deepcopy(config)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for name, weight in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}."):
                torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def logits_of(model, tokenize, rows):
    """Logits that a model of the transformers library gives for rows one by one, not padded."""
    found = []
    with torch.no_grad():
        for row in rows:
            given = tokenize(row)
            inputs = {"input_ids": given["input_ids"]}
            if isinstance(row, tuple):
                inputs["token_type_ids"] = given["token_type_ids"]
            inputs = {name: torch.tensor([ids]) for name, ids in inputs.items()}
            found.append(model(**inputs).logits)
    return torch.cat(found).numpy()


def pair_tokenizer(tokenizer):
    return lambda pair: tokenizer(*pair, return_token_type_ids=True)


# ------------------------------------------------- logits are Hugging Face's own


class Case(NamedTuple):
    config: object
    tokenizer: object
    directory: str  # of the backbone alone


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    family = FAMILIES[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Case(config, tokenizer, str(directory))


def test_logits_of_texts(case, tmp_path):
    auto = AutoModelForSequenceClassification
    name = save_checkpoint(tmp_path, case.config, case.tokenizer, auto, NAMES)
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    theirs = logits_of(auto.from_pretrained(name).eval(), case.tokenizer, MIXED)
    assert np.ptp(theirs, axis=0).max() > 1e-2  # else this test could not fail
    assert_allclose(clf.decision_function(MIXED), theirs[:, [2, 1, 0]], rtol=0, atol=1e-5)
    assert_array_equal(clf.predict(MIXED), np.array(NAMES)[theirs.argmax(axis=1)])
    alone = np.concatenate([clf.decision_function([text]) for text in MIXED])
    assert_allclose(alone, clf.decision_function(MIXED), rtol=0, atol=1e-5)


def test_logits_of_words(case, tmp_path):
    auto = AutoModelForTokenClassification
    name = save_checkpoint(tmp_path, case.config, case.tokenizer, auto, TAGS)
    tagger = TokenTagger.from_pretrained(name, device="cpu")
    last = TokenTagger.from_pretrained(name, subword="last", device="cpu")
    model = auto.from_pretrained(name).eval()
    encoder = tagger._make_encoder(tagger.model_, tagger.tokenizer_, tagger.max_length_)
    encoded = encoder.encode(SENTENCES).encoded
    expected = {"first": [], "last": []}
    for i in range(len(SENTENCES)):  # one by one: no padding
        ids = torch.from_numpy(encoded.sequences.row(i).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy()
        logits = logits[:, [TAGS.index(tag) for tag in tagger.classes_]]
        expected["first"].append(logits[encoded.words.begin.row(i)])
        expected["last"].append(logits[encoded.words.end.row(i) - 1])
    for estimator, subword in ((tagger, "first"), (last, "last")):
        found = estimator._word_logits(estimator._sentences(SENTENCES))
        assert_allclose(found, np.concatenate(expected[subword]), rtol=0, atol=1e-5)
        assert np.ptp(found, axis=0).max() > 1e-2
        for row, logits in zip(estimator.predict(SENTENCES), expected[subword]):
            assert row == tagger.classes_[logits.argmax(axis=1)].tolist()


def test_fit(case, tmp_path):
    clf = TransformerSequenceClassifier(case.directory, head="native", lr=5e-3, **LITTLE)
    clf.set_params(max_epochs=6).fit(TEXTS, LABELS)
    assert clf.history_[-1]["train_loss"] < clf.history_[0]["train_loss"] - 0.05
    native = clf.model_.native
    assert type(native) is AutoModelForSequenceClassification._model_mapping[type(case.config)]
    assert native.config.id2label == {0: "city", 1: "food", 2: "sea"}
    logits = clf.decision_function(MIXED)
    assert_allclose(logits, logits_of(native, clf.tokenizer_, MIXED), rtol=0, atol=1e-5)
    copied = pickle.loads(pickle.dumps(clf))
    assert_array_equal(copied.decision_function(MIXED), logits)
    # The model of the family alone, and ours around it, can be stored and read by transformers.
    native.save_pretrained(tmp_path / "native")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "native").eval()
    assert_allclose(logits_of(theirs, clf.tokenizer_, MIXED), logits, rtol=0, atol=1e-5)
    clf.model_.save_pretrained(tmp_path / "ours")
    copied.model_ = NativeSequenceModel.from_pretrained(tmp_path / "ours").eval()
    assert copied.model_.config.id2label == native.config.id2label
    assert_allclose(copied.decision_function(MIXED), logits, rtol=0, atol=1e-6)


def test_probe_reads_what_the_last_layer_reads(case):
    clf = TransformerSequenceClassifier(case.directory, head="native", head_init="random", **STILL)
    model = clf.fit(TEXTS, LABELS).model_
    encoder = clf._make_encoder(model, clf.tokenizer_, clf.max_length_)
    predictor = clf._predictor(model, encoder.pad_id)
    vectors = predictor.rows(*model.probe_stages(), encoder.encode(MIXED).encoded, model.unit)
    with torch.no_grad():
        logits = model.head.out(torch.from_numpy(vectors)).numpy()
    assert_allclose(clf.decision_function(MIXED), logits, rtol=0, atol=1e-5)
    assert model.head.out.weight.std() < 0.03  # N(0, 0.02), whatever the family


@pytest.mark.parametrize("native", [False, True])
def test_dropout_of_the_backbone(case, native):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    given = AutoModel.from_pretrained(case.directory)
    before = given.config.to_dict(), [vars(module).get("p") for module in given.modules()]
    for name in (case.directory, given):
        for p in (0.0, 0.3):
            spec = loading.as_backbone(Backbone(name, tokenizer=case.tokenizer, dropout=p))
            if native:
                auto = AutoModelForSequenceClassification
                loaded = loading.load_native(spec, auto, NAMES, verbose=False)
            else:
                loaded = loading.load(spec, verbose=False)
            backbone = loaded.backbone.train()
            torch.manual_seed(0)
            first, second = (backbone(input_ids=ids).last_hidden_state for _ in range(2))
            assert torch.equal(first, second) == (p == 0)
            if native:  # the head keeps its own
                fresh = auto.from_config(case.config)
                inside = set(loaded.backbone.modules()), set(fresh.base_model.modules())
                ours, theirs = (
                    [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m not in x]
                    for model, x in zip((loaded.native, fresh), inside)
                )
                assert ours == theirs
    assert before == (given.config.to_dict(), [vars(m).get("p") for m in given.modules()])


# ------------------------------------------------------------------------- fit


@pytest.fixture
def native(tiny_backbone):
    """A function that makes an estimator with its backbone's own head."""

    def make(cls=TransformerSequenceClassifier, **params):
        return cls(**{"backbone": tiny_backbone, "head": "native", "lr": 1e-3, **LITTLE, **params})

    return make


def test_probe_start(native):
    losses = {}
    for start in ("probe", "random"):
        clf = native(head_init=start, lr=1e-12, max_epochs=1).fit(*make_texts(48))
        losses[start] = clf.history_[0]["train_loss"]
    assert losses["probe"] < losses["random"] - 0.02


def test_probe_start_of_a_layer_without_bias(tmp_path):
    # Three of four texts are of one class: what a bias would say, the weights must.
    family = FAMILIES["llama"]
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    X = make_texts(48)[0]
    y = ["few" if i % 4 == 0 else "many" for i in range(48)]
    clf = TransformerSequenceClassifier(str(tmp_path), head="native", **STILL).fit(X, y)
    assert clf.model_.head.out.bias is None
    assert log_loss(y, clf.predict_proba(X)) < 0.66  # one half each: 0.69


def test_pooler_of_the_files_is_taken(tiny_backbone, native, tmp_path, capsys):
    reference = AutoModel.from_pretrained(tiny_backbone).pooler.dense.weight
    clf = native(verbose=1, **STILL).fit(TEXTS, LABELS)
    assert_allclose(clf.model_.backbone.pooler.dense.weight.detach(), reference.detach())
    out = capsys.readouterr().out
    assert "hence new: classifier.bias, classifier.weight.\n" in out
    assert "New native head on" in out
    # A masked language model has none.
    AutoModelForMaskedLM.from_pretrained(tiny_backbone).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    native(backbone=str(tmp_path), verbose=1, **STILL).fit(TEXTS, LABELS)
    new = "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight"
    assert f"hence new: {new}.\n" in capsys.readouterr().out


def test_loaded_model(native, tiny_backbone):
    model = AutoModel.from_pretrained(tiny_backbone)
    before = copy.deepcopy(model.state_dict())
    there = native(max_epochs=1).fit(TEXTS, LABELS).predict_proba(TEXTS)
    clf = native(backbone=model, max_epochs=1).fit(TEXTS, LABELS)
    assert_allclose(clf.predict_proba(TEXTS), there, rtol=0, atol=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.config.num_labels == 2
    assert model.pooler is not None
    # Without its pooler, and with another head, it gets a new one.
    other = AutoModelForMaskedLM.from_pretrained(tiny_backbone)
    clf = native(backbone=Backbone(other, tokenizer=tiny_backbone), max_epochs=1)
    clf.fit(TEXTS, LABELS)
    assert torch.isfinite(clf.model_.backbone.pooler.dense.weight).all()
    assert not any(p.is_meta for p in clf.model_.parameters())


def test_hidden_layers_of_a_given_head_come_along(tmp_path):
    family = FAMILIES["roberta"]
    tokenizer = family.tokenizer()
    auto = AutoModelForSequenceClassification
    name = save_checkpoint(tmp_path, family.config(len(tokenizer)), tokenizer, auto, TAGS)
    model = auto.from_pretrained(name)
    for backbone in (name, Backbone(model, tokenizer=tokenizer)):
        clf = TransformerSequenceClassifier(backbone, head="native", **STILL).fit(TEXTS, LABELS)
        theirs = clf.model_.native.classifier
        assert_allclose(theirs.dense.weight.detach(), model.classifier.dense.weight.detach())
        assert theirs.out_proj.out_features == 3
        assert clf.model_.native.config.problem_type == "single_label_classification"


def test_random_weights(native, tiny_backbone):
    for name in (tiny_backbone, AutoModel.from_pretrained(tiny_backbone)):
        backbone = Backbone(name, pretrained=False)
        clf = native(backbone=backbone, **{**STILL, "random_state": 1}).fit(TEXTS, LABELS)
        ours = clf.model_.backbone.embeddings.word_embeddings.weight
        reference = AutoModel.from_pretrained(tiny_backbone).embeddings.word_embeddings.weight
        assert (ours - reference).abs().mean() > 0.01


def test_head_has_its_rate(native):
    clf = native(optimizer=AdamW(head_lr=0.5), max_epochs=1, lr=1e-6).fit(TEXTS, LABELS)
    model = clf.model_
    for group in clf.net_.optimizer_.param_groups:
        inside = {id(p) for p in model.backbone.parameters()}
        for p in group["params"]:
            assert group["initial_lr"] == (1e-6 if id(p) in inside else 0.5)


@pytest.mark.parametrize("finetune", ["head", 1, GradualUnfreezing()])
def test_strategies(native, tiny_backbone, finetune):
    before = AutoModel.from_pretrained(tiny_backbone).state_dict()
    after = native(finetune=finetune).fit(TEXTS, LABELS).model_.backbone.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert {"pooler.dense.weight", "pooler.dense.bias"} <= changed  # part of the head
    assert "embeddings.word_embeddings.weight" not in changed
    assert (finetune == "head") == (len(changed) == 2)


def test_search_early_stopping_and_clone(native):
    X, y = make_texts(24)
    search = GridSearchCV(native(max_epochs=1), {"lr": [1e-3, 1e-2]}, cv=2).fit(X, y)
    assert search.best_estimator_.head == "native"
    clf = native(early_stopping=True, n_iter_no_change=1, max_epochs=3, head=NativeHead())
    twin = clone(clf).fit(X, y)
    assert_array_equal(twin.predict_proba(X), clf.fit(X, y).predict_proba(X))
    assert "valid_loss" in clf.history_[0]
    more = clone(clf).set_params(early_stopping=False, warm_start=True, max_epochs=1).fit(X, y)
    assert more.fit(X, y).n_iter_ == 2


def test_long_texts(native):
    clf = native(long_text="window", max_length=8).fit(TEXTS, LABELS)
    assert clf.decision_function([" ".join(["fish"] * 12)]).shape == (1, 3)
    one, two = "fish bread wave boat soup tram", "o is very a in the"  # a window each
    both = clf.decision_function([f"{one} {two}"])
    assert_allclose(both[0], clf.decision_function([one, two]).mean(axis=0), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="long_text with pooling='max' and head=\"native\" contr"):
        native(long_text=Windows(pooling="max")).fit(TEXTS, LABELS)


def test_pairs(native):
    y = [label for label in LABELS + LABELS[:2]]
    clf = native(PairClassifier).fit(PAIRS, y)
    expected = logits_of(clf.model_.native, pair_tokenizer(clf.tokenizer_), PAIRS)
    assert_allclose(clf.decision_function(PAIRS), expected, rtol=0, atol=1e-5)
    both = native(PairClassifier, symmetric=True).fit(PAIRS, y)
    turned = [(b, a) for a, b in PAIRS]
    tokenizer = pair_tokenizer(both.tokenizer_)
    expected = logits_of(both.model_.native, tokenizer, PAIRS)
    expected = (expected + logits_of(both.model_.native, tokenizer, turned)) / 2
    assert_allclose(both.decision_function(turned), expected, rtol=0, atol=1e-5)


def test_numbers_of_pairs(native):
    y = np.arange(len(PAIRS)) * 10.0
    reg = native(PairRegressor, interaction="cross").fit(PAIRS, y)
    logits = logits_of(reg.model_.native, pair_tokenizer(reg.tokenizer_), PAIRS)[:, 0]
    expected = logits * reg.target_scale_ + reg.target_mean_
    assert_allclose(reg.predict(PAIRS), expected, rtol=0, atol=1e-3)
    assert reg.model_.native.config.num_labels == 1


def test_tags(native):
    y = [["X" if word in ("fish", "wave") else "O" for word in words] for words in SENTENCES]
    tagger = native(TokenTagger, max_epochs=6, lr=5e-3).fit(SENTENCES, y)
    assert isinstance(tagger.model_, NativeTaggingModel)
    assert tagger.score(SENTENCES, y) > 0.85
    copied = pickle.loads(pickle.dumps(tagger))
    assert copied.predict(SENTENCES).tolist() == tagger.predict(SENTENCES).tolist()
    # Tags that mark spans would have a CRF with another head.
    spans = [[f"B-{tag}" if tag == "X" else tag for tag in row] for row in y]
    tagger.set_params(max_epochs=1).fit(SENTENCES, spans)
    assert not tagger.model_.config.crf and tagger.metric_ == "span_f1"
    long = [SENTENCES[1] * 20]
    assert len(tagger.predict(long)[0]) == len(long[0])
    still = native(TokenTagger, lr=1e-12, max_epochs=1).fit(SENTENCES, y)
    assert still.score(SENTENCES, y) > 0.85  # the probe alone


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "cls, params, message",
    [
        (TransformerSequenceClassifier, {"pooling": "mean"}, "pooling='mean'.*'auto' only"),
        (PairClassifier, {"pooling": "cls"}, "pooling='cls'"),
        (PairClassifier, {"interaction": "all"}, "interaction='all'.*'cross' only"),
        (PairRegressor, {}, "interaction='all'"),
        (TokenTagger, {"subword": "mean"}, "subword='mean'.*'first' or 'last' only"),
        (TokenTagger, {"subword": "max"}, "subword='max'"),
        (TokenTagger, {"self_attention": True}, "self_attention=True"),
    ],
)
def test_parameters_that_the_head_decides(native, cls, params, message):
    with pytest.raises(ValueError, match=message) as error:
        native(cls, **params).fit(TEXTS, LABELS)
    assert 'head="native"' in str(error.value)


@pytest.mark.parametrize("head", ["native", NativeHead()])
def test_no_crf(native, head):
    with pytest.raises(ValueError, match=r"crf=True and head=.*ative.* contradict each other"):
        native(TokenTagger, head=head, crf=True).fit(SENTENCES, SENTENCES)


def test_families_without_such_a_head(tmp_path, native):
    size = {"vocab_size": 300, "d_model": 16, "d_ff": 16, "num_heads": 2, "d_kv": 8}
    AutoModel.from_config(T5Config(num_layers=1, **size)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of the family 't5', which has no head for AutoModel"):
        native(backbone=str(tmp_path)).fit(TEXTS, LABELS)
    config = XLNetConfig(vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=16)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"XLNet.* reads the last place of a batch, padd"):
        native(backbone=str(tmp_path)).fit(TEXTS, LABELS)


def test_a_head_that_ends_otherwise(tiny_backbone):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_backbone, num_labels=3)
    assert last_layer(model) == "classifier"
    model.classifier = torch.nn.Bilinear(32, 32, 3)
    with pytest.raises(ValueError, match=r"BertForSeq.*'bert'\) has no linear layer with 3"):
        last_layer(model)


def test_probe_of_a_layer_that_is_not_the_last(native):
    clf = native(head_init="random", **STILL).fit(TEXTS, LABELS)
    forward = clf.model_.native.forward

    def doubled(*args, **kwargs):
        found = forward(*args, **kwargs)
        found.logits = found.logits * 2
        return found

    clf.model_.native.forward = doubled
    with pytest.raises(ValueError, match="are not what its layer 'classifier' gives"):
        clf.model_.probe_stages()[0](torch.tensor([[5, 6]]), torch.tensor([[1, 1]]))


@pytest.mark.parametrize("p", [1.0, -0.1, "0.1"])
def test_dropout_that_is_none(native, tiny_backbone, p):
    with pytest.raises(ValueError, match="'dropout' parameter of Backbone must be a float"):
        native(backbone=Backbone(tiny_backbone, dropout=p)).fit(TEXTS, LABELS)


def test_a_backbone_without_dropout():
    backbone = torch.nn.Linear(1, 1)
    backbone.config = PreTrainedConfig()
    set_dropout(backbone, 0.0)
    with pytest.raises(ValueError, match=r"dropout=0\.1\): the backbone Linear has no dropout"):
        set_dropout(backbone, 0.1)


# ------------------------------------------------------------ fine-tuned checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that writes a fine-tuned BERT and returns its path."""
    base = save_tiny_bert(tmp_path_factory.mktemp("base"))

    def save(auto=AutoModelForSequenceClassification, names=NAMES, **changes):
        directory = tmp_path_factory.mktemp("checkpoint")
        config = BertConfig.from_pretrained(base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        return save_checkpoint(directory, config, tokenizer, auto, names, **changes)

    return save


def test_probabilities_equal_those_of_the_pipeline(checkpoints):
    name = checkpoints()
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    assert clf.classes_.tolist() == sorted(NAMES)
    found = pipeline("text-classification", model=name, top_k=None, device="cpu")(MIXED)
    expected = [{row["label"]: row["score"] for row in rows} for rows in found]
    expected = [[row[name] for name in clf.classes_] for row in expected]
    assert_allclose(clf.predict_proba(MIXED), expected, rtol=0, atol=1e-6)
    native = clf.model_.native
    assert list(native.config.id2label.values()) == sorted(NAMES)
    assert native.config.label2id == clf.model_.config.label2id == {"city": 0, "food": 1, "sea": 2}


def test_several_labels_equal_those_of_the_pipeline(checkpoints):
    name = checkpoints(problem_type="multi_label_classification")
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    assert clf.classes_.tolist() == list(NAMES)  # columns of a matrix keep their order
    found = pipeline("text-classification", model=name, top_k=None, device="cpu")(MIXED)
    expected = [{row["label"]: row["score"] for row in rows} for rows in found]
    expected = np.array([[row[name] for name in clf.classes_] for row in expected])
    assert_allclose(clf.predict_proba(MIXED), expected, rtol=0, atol=1e-6)
    assert_array_equal(clf.predict(MIXED), expected > 0.5)
    again = clf.set_params(warm_start=True).fit(
        TEXTS, np.eye(3, dtype=int)[np.arange(len(TEXTS)) % 3]
    )
    assert again.predict(TEXTS).shape == (len(TEXTS), 3)


def test_tags_equal_those_of_the_pipeline(checkpoints):
    name = checkpoints(AutoModelForTokenClassification, TAGS)
    tagger = TokenTagger.from_pretrained(name, device="cpu")
    assert tagger.classes_.tolist() == sorted(TAGS)
    assert tagger.metric_ == "span_f1"
    tag = pipeline("token-classification", model=name, ignore_labels=[], device="cpu")
    proba = tagger.predict_proba(SENTENCES)
    for words, tags, rows in zip(SENTENCES, tagger.predict(SENTENCES), proba):
        found = [x for x in tag(" ".join(words)) if not x["word"].startswith("##")]
        assert tags == [x["entity"] for x in found]
        assert_allclose(rows.max(axis=1), [x["score"] for x in found], rtol=0, atol=1e-6)


def test_scorers(checkpoints):
    """Labels that do not stand in their order in the checkpoint get the right scores."""
    name = checkpoints(names=["yes", "no"])
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    found = pipeline("text-classification", model=name, top_k=None, device="cpu")(TEXTS)
    yes = np.array([{r["label"]: r["score"] for r in rows}["yes"] for rows in found])
    y = np.where(np.arange(len(TEXTS)) % 3 == 0, "yes", "no")
    assert roc_auc_score(y == "yes", yes) != 0.5
    scores = {name: get_scorer(name)(clf, TEXTS, y) for name in SCORERS}
    assert scores["roc_auc"] == roc_auc_score(y == "yes", yes)
    assert scores["neg_log_loss"] == pytest.approx(-log_loss(y == "yes", yes))
    assert scores["accuracy"] == clf.score(TEXTS, y) == np.mean((yes > 0.5) == (y == "yes"))
    clf = TransformerSequenceClassifier.from_pretrained(checkpoints(), device="cpu")
    proba = clf.predict_proba(TEXTS)
    expected = -np.log([p[sorted(NAMES).index(y)] for p, y in zip(proba, LABELS)]).mean()
    assert get_scorer("neg_log_loss")(clf, TEXTS, LABELS) == pytest.approx(-expected)
    assert get_scorer("roc_auc_ovr")(clf, TEXTS, LABELS) == np.mean(
        [
            roc_auc_score(np.array(LABELS) == label, proba[:, i])
            for i, label in enumerate(sorted(NAMES))
        ]
    )


def test_labels_without_names(checkpoints):
    name = checkpoints(names=[f"LABEL_{i}" for i in range(12)])
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    assert clf.classes_.tolist()[:3] == ["LABEL_0", "LABEL_1", "LABEL_10"]
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    best = logits_of(model, clf.tokenizer_, TEXTS).argmax(axis=1)
    assert clf.predict(TEXTS).tolist() == [f"LABEL_{i}" for i in best]


def test_attributes(checkpoints):
    name = checkpoints()
    clf = TransformerSequenceClassifier.from_pretrained(
        Backbone(name, attn_implementation="eager"), max_length=16, device="cpu"
    )
    assert (clf.n_iter_, clf.history_, clf.max_length_) == (0, [], 16)
    assert not hasattr(clf, "lr_") and not hasattr(clf, "net_")
    assert clf.head == "native" and clf.model_.native.config._attn_implementation == "eager"
    assert not clf.model_.training
    copied = pickle.loads(pickle.dumps(clf))
    assert_array_equal(copied.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert not clone(clf).__sklearn_is_fitted__()


def test_fit_starts_over_and_warm_start_goes_on(checkpoints):
    clf = TransformerSequenceClassifier.from_pretrained(checkpoints(), lr=1e-12, **LITTLE)
    before = clf.predict_proba(TEXTS)
    clf.set_params(warm_start=True, max_epochs=1).fit(TEXTS, LABELS)
    assert_allclose(clf.predict_proba(TEXTS), before, rtol=0, atol=1e-5)
    assert clf.n_iter_ == 1
    other = ["new" if label == "sea" else "old" for label in LABELS]
    clf.set_params(warm_start=False).fit(TEXTS, other)
    assert clf.classes_.tolist() == ["new", "old"]
    assert clf.predict_proba(TEXTS).shape == (12, 2)


ODD = {
    "not in order": {"2": "não", "0": "política", "1": "sim"},
    "a gap": {"0": "não", "2": "sim"},
    "the last is missing": {"0": "não"},
    "from one": {"1": "não", "2": "sim", "3": "talvez"},
}


@pytest.mark.parametrize("key", ODD)
def test_odd_names_of_labels(checkpoints, key):
    name = checkpoints()
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    path = Path(name) / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["label2id"]
    config["id2label"] = ODD[key]
    if key == "the last is missing":
        config["num_labels"] = 3
    path.write_text(json.dumps(config), "utf-8")
    clf = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    names = [ODD[key].get(str(i), f"LABEL_{i}") for i in range(3)]
    assert clf.classes_.tolist() == sorted(names)
    logits = logits_of(model, clf.tokenizer_, MIXED)
    expected = logits[:, [names.index(label) for label in clf.classes_]]
    assert_allclose(clf.decision_function(MIXED), expected, rtol=0, atol=1e-5)
    assert clf.predict(MIXED).tolist() == [names[i] for i in logits.argmax(axis=1)]


OTHERS = {
    TransformerSequenceClassifier: (TEXTS, LABELS, [f"é {label}" for label in LABELS]),
    PairClassifier: (PAIRS, (LABELS * 2)[: len(PAIRS)], list(range(len(PAIRS) - 1)) + [0]),
    TokenTagger: (
        SENTENCES,
        [[TAGS[len(word) % 4] for word in words] for words in SENTENCES],
        [["ção" if "a" in word else "O" for word in words] for words in SENTENCES],
    ),
}


@pytest.mark.parametrize("cls", OTHERS)
def test_a_checkpoint_learns_on_and_anew(checkpoints, cls, tmp_path):
    X, y, new = OTHERS[cls]
    is_tagger = cls is TokenTagger
    auto = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
    name = checkpoints(auto, TAGS if is_tagger else NAMES)
    tuned = auto.from_pretrained(name).base_model.state_dict()
    model = cls.from_pretrained(name, **LITTLE)
    classes = model.classes_.tolist()
    # With the labels that it has, it goes on.
    before = {key: weight.clone() for key, weight in model.model_.state_dict().items()}
    model.partial_fit(X, y)
    assert model.classes_.tolist() == classes and model.n_iter_ == 1
    assert any(not torch.equal(w, before[key]) for key, w in model.model_.state_dict().items())
    # With others it has a new last layer on the backbone that was fine-tuned.
    model = cls.from_pretrained(name, **{**STILL, "head_init": "random"}).fit(X, new)
    flat = [tag for row in new for tag in row] if is_tagger else new
    assert model.classes_.tolist() == sorted(set(flat))
    for key, weight in model.model_.backbone.state_dict().items():
        assert_allclose(weight, tuned[key], rtol=0, atol=1e-6)
    assert model.model_.head.out.weight.std() < 0.03
    # And it is a checkpoint again.
    model.save_pretrained(tmp_path / "again")
    native = auto.from_pretrained(tmp_path / "again")
    assert list(native.config.id2label.values()) == [str(label) for label in model.classes_]
    again = load(tmp_path / "again")
    assert [list(x) if is_tagger else x for x in again.predict(X)] == [
        list(x) if is_tagger else x for x in model.predict(X)
    ]
    assert again.classes_.dtype == model.classes_.dtype
    other = cls.from_pretrained(copied_checkpoint(tmp_path), device="cpu")
    assert other.classes_.tolist() == sorted(str(label) for label in model.classes_)


def copied_checkpoint(folder):
    """What others see of a saved directory: the files of the transformers library alone."""
    shutil.copytree(folder / "again", folder / "theirs")
    (folder / "theirs" / "sktransformers.json").unlink()
    return str(folder / "theirs")


def test_pairs_of_a_checkpoint(checkpoints):
    name = checkpoints()
    clf = PairClassifier.from_pretrained(name, device="cpu")
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    logits = logits_of(model, pair_tokenizer(clf.tokenizer_), PAIRS)
    assert_allclose(clf.decision_function(PAIRS), logits[:, [2, 1, 0]], rtol=0, atol=1e-5)


def test_regression_checkpoint(checkpoints):
    name = checkpoints(names=["LABEL_0"], problem_type="regression")
    reg = PairRegressor.from_pretrained(name, device="cpu")
    assert (reg.interaction, reg.target_mean_, reg.target_scale_) == ("cross", 0.0, 1.0)
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    logits = logits_of(model, pair_tokenizer(reg.tokenizer_), PAIRS)[:, 0]
    assert_allclose(reg.predict(PAIRS), logits, rtol=0, atol=1e-5)
    for cls in (TransformerSequenceClassifier, PairClassifier):
        with pytest.raises(ValueError, match=rf"is a checkpoint for regression .*{cls.__name__} c"):
            cls.from_pretrained(name)
    with pytest.raises(ValueError, match=r"has 3 outputs \(sea, food, city\) .* a classifier c"):
        PairRegressor.from_pretrained(checkpoints())


def test_loaded_checkpoint(checkpoints):
    name = checkpoints()
    model = AutoModelForSequenceClassification.from_pretrained(name)
    clf = TransformerSequenceClassifier.from_pretrained(model, device="cpu")
    there = TransformerSequenceClassifier.from_pretrained(name, device="cpu")
    assert_array_equal(clf.predict_proba(TEXTS), there.predict_proba(TEXTS))
    assert list(model.config.id2label.values()) == NAMES  # not ours to reorder
    with pytest.raises(ValueError, match="the loaded BertModel is no checkpoint of AutoMod"):
        TransformerSequenceClassifier.from_pretrained(model.bert)


@pytest.mark.parametrize("cls", [TransformerSequenceClassifier, PairRegressor, TokenTagger])
def test_no_head_in_the_files(tiny_backbone, cls):
    with pytest.raises(ValueError, match=r"is no checkpoint of AutoModel.* it has no trained he"):
        cls.from_pretrained(tiny_backbone)


def test_other_checkpoints(checkpoints):
    clf = TransformerSequenceClassifier
    with pytest.raises(ValueError, match="gives several of its outputs the same name"):
        clf.from_pretrained(checkpoints(names=["a", "a"]))
    with pytest.raises(ValueError, match="from_pretrained keeps the head of the checkpoint"):
        clf.from_pretrained(checkpoints(), head=Linear())
    with pytest.raises(ValueError, match="pooling='mean' and head=\"native\" contradict"):
        clf.from_pretrained(checkpoints(), pooling="mean")
    with pytest.raises(ValueError, match="directory '/no/such/one' does not exist"):
        clf.from_pretrained("/no/such/one")
