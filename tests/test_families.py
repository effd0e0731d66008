"""Every family of backbones, tiny and random: nothing in the package may assume BERT."""

import pickle
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_texts, make_tokenizer
from families import FAMILIES, Family
from sklearn.metrics import log_loss
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from sktransformers import Backbone, TransformerSequenceClassifier
from sktransformers.inputs.batching import pad
from sktransformers.inputs.encoding import TextEncoder, private_tokenizer
from sktransformers.modules.model import SequenceConfig, SequenceModel
from sktransformers.training.loading import load


class Case(NamedTuple):
    family: Family
    directory: str
    clf: TransformerSequenceClassifier  # fitted


TEXTS, LABELS = make_texts(12)
# Of very different lengths, so that padding matters.
MIXED = ["", "fish", *TEXTS, " ".join(["bread", "wave"] * 3)]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    family = FAMILIES[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer = family.tokenizer()
    # As on the hub: checkpoints of a language model, with its head and without a pooler.
    auto = AutoModelForCausalLM if family.pooling == "last" else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto.from_config(family.config(len(tokenizer))).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    clf = TransformerSequenceClassifier(
        str(directory),
        head_init="random",
        lr=5e-3,
        max_epochs=20,
        batch_size=4,
        device="cpu",
        random_state=0,
    )
    return Case(family, str(directory), clf.fit(TEXTS, LABELS))


def pretrained(case, pooling="mean"):
    """Our model around the backbone as it was saved, and the ids of MIXED."""
    loaded = load(Backbone(case.directory), verbose=False)
    config = SequenceConfig(backbone_config=loaded.backbone.config, pooling=pooling, num_labels=3)
    model = SequenceModel(config, loaded.backbone).eval()
    encoder = TextEncoder(private_tokenizer(loaded.tokenizer), case.clf.max_length_)
    return model, encoder.encode(MIXED).encoded


def test_learns_a_dozen_texts_by_heart(case):
    proba = case.clf.predict_proba(TEXTS)
    assert proba.shape == (12, 3)
    assert log_loss(LABELS, proba) < 0.6  # from ln 3 = 1.1; measured: at most 0.28
    assert case.clf.model_.config.pooling == case.family.pooling


def test_every_weight_is_trained(case):
    before, _ = pretrained(case)
    after = case.clf.model_.backbone.state_dict()
    same = [
        name
        for name, weight in before.backbone.named_parameters()
        if torch.equal(weight, after[name])
    ]
    assert same == []


def test_loads_the_weights_that_transformers_loads(case):
    model, encoded = pretrained(case)
    reference = AutoModel.from_pretrained(case.directory).eval()
    inputs = pad(encoded, np.arange(len(encoded)), 0, torch.device("cpu"))
    with torch.no_grad():
        vectors = {}
        for pooling in ("cls", "mean", "last"):
            model.pooling.mode = pooling
            vectors[pooling] = model.encode(**inputs)
        for i in range(len(encoded)):
            row = torch.tensor(encoded.sequences.row(i).astype(np.int64))[
                None
            ]  # alone: no padding at all
            hidden = reference(row, attention_mask=torch.ones_like(row)).last_hidden_state[0]
            for pooling, expected in (
                ("cls", hidden[0]),
                ("mean", hidden.mean(dim=0)),
                ("last", hidden[-1]),
            ):
                torch.testing.assert_close(vectors[pooling][i], expected, rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_the_batch(case):
    together = case.clf.predict_proba(MIXED)
    assert np.ptp(together, axis=0).max() > 1e-2  # else this test could not fail
    alone = np.concatenate([case.clf.predict_proba([text]) for text in MIXED])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)


def test_max_length_is_what_the_backbone_can_read(case):
    limit = case.family.max_length
    assert case.clf.max_length_ == limit
    long = " ".join(TEXTS * (1 + limit // 10))
    with pytest.warns(UserWarning, match=f"1 of 2 texts .* max_length={limit}"):
        cut = case.clf.predict_proba([long, "fish"])
    assert np.isfinite(cut).all()
    with pytest.warns(UserWarning, match="2 of 2 texts"):  # what is cut does not count
        np.testing.assert_allclose(
            case.clf.predict_proba([long + " wave", long]), cut[[0, 0]], rtol=0, atol=1e-5
        )


def test_training_on_longer_texts_than_positions(case):
    texts = [" ".join([text] * 40) for text in TEXTS[:6]]
    clf = TransformerSequenceClassifier(
        case.directory, lr=1e-3, max_epochs=1, device="cpu", random_state=0
    )
    with pytest.warns(UserWarning, match="6 of 6 texts"):
        clf.fit(texts, LABELS[:6])
    assert np.isfinite(clf.history_[0]["train_loss"])
    limit = case.family.max_length
    refused = pytest.raises(ValueError, match=f"max_length={limit + 1} is more than the {limit}")
    with nullcontext() if limit == 512 else refused:  # 512: without a limit of its own
        clf.set_params(max_length=limit + 1).fit(TEXTS, LABELS)


def test_pickle(case):
    copy = pickle.loads(pickle.dumps(case.clf))
    np.testing.assert_array_equal(copy.predict_proba(MIXED), case.clf.predict_proba(MIXED))


def test_model_is_saved_and_loaded_as_any_of_transformers(case, tmp_path):
    case.clf.model_.save_pretrained(tmp_path)
    model = SequenceModel.from_pretrained(tmp_path).eval()
    assert model.config.id2label == {0: "city", 1: "food", 2: "sea"}
    _, encoded = pretrained(case)
    inputs = pad(encoded, np.arange(len(encoded)), 0, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, case.clf.model_(**inputs).logits)


# ------------------------------------------- logits of Hugging Face's own heads


@pytest.fixture(scope="module")
def gpt2_classifier(tmp_path_factory):
    """Directory of a GPT2ForSequenceClassification, whose head is linear on the last token."""
    family = FAMILIES["gpt2"]
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    config.num_labels, config.pad_token_id = 3, 0
    directory = tmp_path_factory.mktemp("gpt2-classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_logits_equal_those_of_gpt2_for_sequence_classification(gpt2_classifier):
    theirs = AutoModelForSequenceClassification.from_pretrained(gpt2_classifier).eval()
    clf = TransformerSequenceClassifier(
        gpt2_classifier, max_epochs=1, lr=1e-12, head_init="random", device="cpu", random_state=0
    ).fit(TEXTS, LABELS)
    with torch.no_grad():
        clf.model_.head.out.weight.copy_(theirs.score.weight)
        clf.model_.head.out.bias.zero_()
        expected = [theirs(torch.tensor([clf.tokenizer_(t)["input_ids"]])).logits for t in TEXTS]
    np.testing.assert_allclose(
        clf.decision_function(TEXTS), torch.cat(expected).numpy(), rtol=1e-4, atol=1e-5
    )


def test_cls_logits_equal_those_of_distilbert_for_sequence_classification(
    tmp_path, tiny_distilbert_classifier
):
    theirs = tiny_distilbert_classifier
    theirs.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded = load(Backbone(str(tmp_path)), verbose=False)
    config = SequenceConfig(backbone_config=loaded.backbone.config, pooling="cls", num_labels=3)
    ours = SequenceModel(config, loaded.backbone).eval()
    encoded = TextEncoder(private_tokenizer(loaded.tokenizer), 40).encode(TEXTS).encoded
    inputs = pad(encoded, np.arange(len(encoded)), 0, torch.device("cpu"))
    with torch.no_grad():
        hidden = torch.relu(theirs.pre_classifier(ours.encode(**inputs)))
        torch.testing.assert_close(
            theirs.classifier(hidden), theirs(**inputs).logits, rtol=1e-4, atol=1e-5
        )


@pytest.fixture
def tiny_distilbert_classifier():
    config = FAMILIES["distilbert"].config(len(make_tokenizer()))
    config.num_labels = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_config(config).eval()
