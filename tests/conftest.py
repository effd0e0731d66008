"""Tiny backbones with random weights, built here: no network, no files beside the tests."""

import gc
import logging
import os

# What transformers hears of torchao would stand behind pytest's last line.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from sktransformers import TransformerSequenceClassifier
from sktransformers.training import runtime

# The same examples in every run, however busy the machine.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# What is compared to float tolerance is trained in fp32, whatever the CPU has.
CPU_HAS_BF16_TILES = runtime.cpu_has_bf16_tiles
runtime.cpu_has_bf16_tiles = lambda: False


def pytest_collection_finish(session):
    # What stays till the end need not be looked through again and again: a tenth of the time.
    gc.collect()
    gc.freeze()


WORDS = {
    "food": ["bread", "cheese", "soup", "pão", "feijão", "queijo", "arroz", "tasty"],
    "sea": ["wave", "boat", "fish", "praia", "barco", "onda", "maré", "salty"],
    "city": ["street", "tram", "tower", "rua", "praça", "prédio", "metrô", "noisy"],
}
LEARNS = {"lr": 1e-2, "max_epochs": 8}  # enough to tell the topics below apart
FILLERS = ["the", "a", "is", "and", "very", "o", "é", "muito", "in", "with"]


def vocabulary():
    """Special tokens, whole words, and single characters with their continuations."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [word for topic in WORDS.values() for word in topic] + FILLERS
    characters = [chr(c) for c in range(33, 127)] + list("áâãçéêíóôõú")
    return special + words + characters + [f"##{c}" for c in characters]


def make_tokenizer():
    """A fast WordPiece tokenizer in BERT's form."""
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocabulary()))}
    backend = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def save_backbone(directory, config, tokenizer, seed=0):
    """Write a backbone with random weights and its tokenizer; return the path as str."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def save_tiny_bert(directory, **options):
    """Write a BERT of two layers, 32 wide, that reads 64 tokens; return the path as str."""
    tokenizer = make_tokenizer()
    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,  # wide enough that random features tell words apart
    }
    return save_backbone(directory, BertConfig(**{**defaults, **options}), tokenizer)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    """Directory of the tiny BERT."""
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def make_clf(tiny_backbone):
    """A function that makes a classifier on the tiny backbone, with some defaults."""

    def make(**params):
        defaults = {
            "backbone": tiny_backbone,
            "lr": 1e-3,
            "max_epochs": 2,
            "batch_size": 8,
            "device": "cpu",
            "random_state": 0,
        }
        return TransformerSequenceClassifier(**{**defaults, **params})

    return make


def make_texts(n, topics=("food", "sea", "city"), seed=0):
    """n short texts of uneven length and the topic of each, in two languages."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(n):
        topic = topics[i % len(topics)]
        words = list(rng.choice(WORDS[topic], rng.integers(1, 4)))
        words += list(rng.choice(FILLERS, rng.integers(0, 8)))
        texts.append(" ".join(rng.permutation(words)))
        labels.append(topic)
    return texts, labels


@pytest.fixture(scope="session")
def texts():
    """48 texts of three topics."""
    return make_texts(48)[0]


@pytest.fixture(scope="session")
def labels():
    """The topic of each text, as str."""
    return make_texts(48)[1]


@pytest.fixture(scope="session")
def binary():
    """40 texts of two topics and their labels."""
    return make_texts(40, topics=("food", "sea"))


@pytest.fixture(scope="session")
def fitted(make_clf, texts, labels):
    """A classifier that has learnt three topics; copy it before changing it."""
    return make_clf(**LEARNS).fit(texts, labels)


@pytest.fixture(scope="session")
def fitted_binary(make_clf, binary):
    """A classifier that has learnt two topics; copy it before changing it."""
    return make_clf(**LEARNS).fit(*binary)
