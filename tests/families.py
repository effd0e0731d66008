"""Tokenizers and configurations of every family of backbones, tiny."""

from collections.abc import Callable
from typing import Any, NamedTuple

from conftest import FILLERS, WORDS, make_texts, make_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

# ------------------------------------------------------------ tokenizers

_BERT_LIKE = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
_ROBERTA_LIKE = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def _fast(backend: Tokenizer, template: str | None, names: dict[str, str]):
    if template:
        special = [token for token in template.split() if token != "$A"]
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(t, backend.token_to_id(t)) for t in special]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_level(template: str | None, names: dict[str, str]):
    """Byte-level BPE, as in RoBERTa, ModernBERT and the decoders."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=list(dict.fromkeys(names.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(make_texts(200)[0], trainer)
    return _fast(backend, template, names)


def unigram(template: str, names: dict[str, str]):
    """A SentencePiece-like vocabulary, as in XLM-R, ALBERT and DeBERTa-v2."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=list(dict.fromkeys(names.values())),
        unk_token=names["unk_token"],
        show_progress=False,
    )
    backend.train_from_iterator(make_texts(200)[0], trainer)
    return _fast(backend, template, names)


def mpnet_words():
    """MPNet has BERT's word pieces between RoBERTa's special tokens."""
    words = [word for topic in WORDS.values() for word in topic] + FILLERS
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(special + words))}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _fast(backend, "<s> $A </s>", _ROBERTA_LIKE)


def with_pairs(tokenizer):
    """A tokenizer that joins pairs as the encoders' own do; those of decoders do not."""
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    if cls is not None:
        pair = f"{cls} $A {sep} {sep} $B {sep}" if cls == "<s>" else f"{cls} $A {sep} $B:1 {sep}:1"
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=pair,
            special_tokens=[
                (token, tokenizer.convert_tokens_to_ids(token)) for token in (cls, sep)
            ],
        )
    return tokenizer


# -------------------------------------------------------------- families

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "initializer_range": 0.1,
}
_BERT_IDS = {"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2}
# Positions of these families start behind the padding row: 40 rows number 38 tokens.
_ROBERTA_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_GPT2_NAMES = {"bos_token": "<|end|>", "eos_token": "<|end|>"}


class Family(NamedTuple):
    config: Callable[[int], Any]  # of the vocabulary's size
    tokenizer: Callable[[], Any]
    max_length: int = 40  # what the backbone can read, at most 512
    pooling: str = "cls"


FAMILIES = {
    "bert": Family(lambda n: BertConfig(vocab_size=n, **_SIZE), make_tokenizer),
    "roberta": Family(
        lambda n: RobertaConfig(vocab_size=n, type_vocab_size=1, **_ROBERTA_IDS, **_SIZE),
        lambda: byte_level("<s> $A </s>", _ROBERTA_LIKE),
        max_length=38,
    ),
    "distilbert": Family(
        lambda n: DistilBertConfig(
            vocab_size=n,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=64,
            max_position_embeddings=40,
            initializer_range=0.1,
        ),
        make_tokenizer,
    ),
    "electra": Family(
        lambda n: ElectraConfig(vocab_size=n, embedding_size=16, **_SIZE), make_tokenizer
    ),
    "deberta-v2": Family(
        lambda n: DebertaV2Config(vocab_size=n, relative_attention=False, **_SIZE),
        lambda: unigram("[CLS] $A [SEP]", _BERT_LIKE),
    ),
    "deberta-v3": Family(
        lambda n: DebertaV2Config(
            vocab_size=n,
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            type_vocab_size=0,
            **_SIZE,
        ),
        lambda: unigram("[CLS] $A [SEP]", _BERT_LIKE),
        max_length=512,  # relative positions reach any distance
    ),
    "modernbert": Family(
        lambda n: ModernBertConfig(
            vocab_size=n,
            local_attention=8,
            global_attn_every_n_layers=2,
            **{**_BERT_IDS, "eos_token_id": 2},
            **_SIZE,
        ),
        lambda: byte_level("[CLS] $A [SEP]", _BERT_LIKE),
    ),
    "xlm-roberta": Family(
        lambda n: XLMRobertaConfig(vocab_size=n, type_vocab_size=1, **_ROBERTA_IDS, **_SIZE),
        lambda: unigram("<s> $A </s>", _ROBERTA_LIKE),
        max_length=38,
    ),
    "mpnet": Family(
        lambda n: MPNetConfig(vocab_size=n, **_ROBERTA_IDS, **_SIZE), mpnet_words, max_length=38
    ),
    "albert": Family(
        lambda n: AlbertConfig(vocab_size=n, embedding_size=16, **_SIZE),
        lambda: unigram("[CLS] $A [SEP]", _BERT_LIKE),
    ),
    # Decoders: no padding token, no CLS token, and GPT-2's tokenizer adds nothing at all.
    "gpt2": Family(
        lambda n: GPT2Config(
            vocab_size=n,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=40,
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=0,
        ),
        lambda: byte_level(None, _GPT2_NAMES),
        pooling="last",
    ),
    "llama": Family(
        lambda n: LlamaConfig(
            vocab_size=n, num_key_value_heads=1, bos_token_id=0, eos_token_id=1, **_SIZE
        ),
        lambda: byte_level("<s> $A", {"bos_token": "<s>", "eos_token": "</s>"}),
        pooling="last",
    ),
    "qwen3": Family(
        lambda n: Qwen3Config(vocab_size=n, num_key_value_heads=1, head_dim=16, **_SIZE),
        lambda: byte_level(None, _GPT2_NAMES),
        pooling="last",
    ),
}
