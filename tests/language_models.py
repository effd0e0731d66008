"""Tiny language models with random weights and their tokenizers: T5, mT5, BART, GPT-2, Llama."""

import functools
import tempfile
from pathlib import Path

import torch
from families import _ROBERTA_LIKE, FAMILIES, unigram
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

ENCODER_DECODERS = ("t5", "mt5", "bart")
DECODERS = ("gpt2", "llama")
LANGUAGE_MODELS = (*ENCODER_DECODERS, *DECODERS)

# Ids of the tokens of `unigram` and `word_tokenizer`: <s> 0, <pad> 1, </s> 2, <unk> 3.
_T5_IDS = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_T5_SIZE = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_BART_SIZE = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.1,
}


def make_t5(n, **options):
    """T5 of two layers a side, 32 wide, for a vocabulary of n tokens; its outputs are tied."""
    return T5ForConditionalGeneration(
        T5Config(**{"vocab_size": n, **_T5_SIZE, **_T5_IDS, **options})
    )


def make_mt5(n, **options):
    """Likewise mT5: gated, with a layer of the vocabulary of its own, as in its checkpoints."""
    model = MT5ForConditionalGeneration(
        MT5Config(**{"vocab_size": n, **_T5_SIZE, **_T5_IDS, **options})
    )
    table = model.shared.weight
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(table) / table.shape[1] ** 0.5)
    return model


def make_bart(n, **options):
    """Likewise BART, which numbers 64 positions."""
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(
        BartConfig(**{"vocab_size": n, **_BART_SIZE, **ids, **options})
    )


def make_gpt2(n, **options):
    """GPT-2 of two layers, 32 wide, which numbers 64 positions and has no padding token."""
    config = FAMILIES["gpt2"].config(n)
    return GPT2LMHeadModel(_changed(config, n_positions=64, **options))


def make_llama(n, **options):
    """Likewise Llama."""
    config = FAMILIES["llama"].config(n)
    return LlamaForCausalLM(_changed(config, **{"max_position_embeddings": 64, **options}))


def _changed(config, **options):
    for name, value in options.items():
        setattr(config, name, value)
    return config


_MAKERS = {
    "t5": make_t5,
    "mt5": make_mt5,
    "bart": make_bart,
    "gpt2": make_gpt2,
    "llama": make_llama,
}


def language_tokenizer(kind):
    """A tokenizer in the form that a family has, learnt from the texts of `conftest.make_texts`."""
    if kind in ENCODER_DECODERS:
        tokenizer = unigram("<s> $A </s>" if kind == "bart" else "$A </s>", _ROBERTA_LIKE)
        tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer = FAMILIES[kind].tokenizer()
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save_language_model(directory, kind, tokenizer=None, seed=0, **options):
    """Write a language model with random weights and its tokenizer; return the path as str.

    Parameters
    ----------
    directory : path
    kind : {"t5", "mt5", "bart", "gpt2", "llama"}
    tokenizer : transformers tokenizer, default=None
        None means `language_tokenizer`.
    seed : int
        Of the weights.
    **options
        Entries of the family's configuration.
    """
    tokenizer = language_tokenizer(kind) if tokenizer is None else tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _MAKERS[kind](len(tokenizer), **options).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@functools.cache
def language_model(kind, **options):
    """Directory of a tiny language model, written once a process; parameters as above."""
    folder = Path(_folder().name) / "-".join([kind, *(f"{k}={v}" for k, v in options.items())])
    return save_language_model(folder, kind, **options)


@functools.lru_cache(maxsize=1)
def _folder():
    return tempfile.TemporaryDirectory()  # deleted when the process ends


def word_tokenizer(words, end="</s>"):
    """A tokenizer whose tokens are these words: what stands between spaces is one.

    T5's form: an end token behind a text, and nothing in front of it.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*special, *words]))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, vocab[end])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
