"""Write ``format-1/`` beside this file: tiny models as the first format of saved directories.

    python tests/data/make_format_1.py

They are kept, so that later versions go on reading them; ``expected.json`` says what they predict.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from sktransformers import (
    LoRA,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
)

HERE = Path(__file__).parent / "format-1"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "bread cheese soup tasty wave boat fish salty the a is and very".split()
TEXTS = [
    "the bread is tasty",
    "a boat and a wave",
    "cheese and soup",
    "the fish is very salty",
    "tasty soup",
    "the wave",
]
TOPICS = np.array(["food", "sea", "food", "sea", "food", "sea"])
NUMBERS = np.array([1.5, -2.0, 3.25, 0.0, 7.5, -1.0])
SENTENCES = [text.split() for text in TEXTS]
TAGS = [["B-THING" if len(word) == 4 else "O" for word in words] for words in SENTENCES]


def write_backbone(folder: Path) -> None:
    """A BERT of one block, eight wide, with random weights."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL)))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)


def main() -> None:
    """Fit, save, and write down what is predicted."""
    shutil.rmtree(HERE, ignore_errors=True)
    options = {
        "backbone": "backbone",  # no path of this machine
        "max_epochs": 5,
        "lr": 3e-2,
        "device": "cpu",
        "precision": "fp32",
        "random_state": 0,
    }
    expected = {}
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        write_backbone(Path("backbone"))
        clf = TransformerSequenceClassifier(finetune=LoRA(r=2), **options).fit(TEXTS, TOPICS)
        clf.save_pretrained("adapter")
        expected["adapter"] = clf.predict_proba(TEXTS).tolist()
        options["finetune"] = "head"  # so that little is kept of the optimizer
        clf = TransformerSequenceClassifier(**options).fit(TEXTS, TOPICS)
        clf.save_pretrained("classifier")
        expected["classifier"] = clf.predict_proba(TEXTS).tolist()
        reg = TransformerSequenceRegressor(head="native", **options).fit(TEXTS, NUMBERS)
        reg.save_pretrained("regressor")
        expected["regressor"] = reg.predict(TEXTS).tolist()
        tagger = TokenTagger(crf=True, **options).fit(SENTENCES, TAGS)
        tagger.save_pretrained("tagger")
        expected["tagger"] = [list(map(str, tags)) for tags in tagger.predict(SENTENCES)]
        for name in ("backbone", *expected):
            # Without model cards, which nothing reads.
            shutil.copytree(name, HERE / name, ignore=shutil.ignore_patterns("*.md"))
    text = json.dumps({"texts": TEXTS, "expected": expected}, indent=1)
    (HERE / "expected.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    main()
