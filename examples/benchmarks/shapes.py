"""Backbones of a known shape with random weights, and texts for them: no download."""

import numpy as np
import peers
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    AutoModel,
    BertConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

_SPECIAL = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
CONFIGS = {
    # 278 million parameters, of which 192 are the embedding of 250,002 tokens
    "xlmr-base": lambda: XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1
    ),
    "bert-base": lambda: BertConfig(vocab_size=30_522, pad_token_id=1),
}


def make(shape, folder):
    """Write a backbone with random weights and a tokenizer of made-up words; return the folder."""
    config = CONFIGS[shape]()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokens = list(_SPECIAL.values())
    tokens += [f"w{i}" for i in range(config.vocab_size - len(tokens))]
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {f"{name}_token": token for name, token in _SPECIAL.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, **names
    ).save_pretrained(folder)
    return str(folder)


def rows(n, n_test, vocabulary, lengths, seed):
    """Texts in which the word of rank r is drawn with a probability of about 1 / r."""
    rng = np.random.default_rng(seed)
    low, high = lengths

    def texts(m):
        ranks = [
            np.exp(rng.uniform(0, np.log(vocabulary - 5), size))
            for size in rng.integers(low, high + 1, m)
        ]
        return [" ".join(f"w{int(r) - 1}" for r in row) for row in ranks]

    def labels(m):
        return [str(i % 2) for i in range(m)]

    return peers.Rows(texts(n), labels(n), texts(n_test), labels(n_test))
