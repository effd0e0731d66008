"""What plain transformers loads of saved estimators, family by family and head by head.

    python examples/benchmarks/transformers_table.py

Fits a tiny estimator with random weights of every family in the tests with every head, saves it,
and reads the directory with the Auto classes of the transformers library, which know nothing of
this package until ``sktransformers.hf`` is imported. Prints a table in Markdown: "yes" where the
class of the family gives the same logits for a few texts, "hf" where the same holds after ``import
sktransformers.hf``, "load" where only ``sktransformers.load`` reads it, and "-" where there is no
such estimator.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    T5Config,
)

from sktransformers import (
    CRF,
    Linear,
    MLPHead,
    PairClassifier,
    TokenTagger,
    TransformerSequenceClassifier,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import families
from conftest import make_texts, save_backbone
from language_models import _T5_IDS, _T5_SIZE, language_tokenizer

TEXTS, LABELS = make_texts(12)
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
WORDS = [text.split() for text in TEXTS]
TAGS = [["long" if len(word) > 4 else "O" for word in words] for words in WORDS]
READ = ["fish", "bread soup", "wave a boat"]  # fits whatever the tokenizer
READ_PAIRS = list(zip(READ, READ[::-1], strict=True))
LITTLE = {"max_epochs": 1, "batch_size": 6, "device": "cpu", "random_state": 0}
TOLERANCE = 1e-5  # of logits


def sequences(**params):
    """A classifier of texts with some parameters."""
    return TransformerSequenceClassifier, TEXTS, LABELS, params


def tags(**params):
    """A tagger with some parameters."""
    return TokenTagger, WORDS, TAGS, params


HEADS = {
    'text: `head="native"`': [sequences(head="native")],
    "text: defaults": [sequences()],
    'text: `pooling="last"`, `Linear(bias=False)`': [
        sequences(pooling="last", head=Linear(bias=False))
    ],
    'text: `pooling="cls"`, `MLPHead((width,), ...)`': [
        sequences(pooling="cls", head=MLPHead((32,), activation))
        for activation in ("tanh", "gelu", "relu")
    ],
    'pair: `head="native"`': [(PairClassifier, PAIRS, LABELS, {"head": "native"})],
    "pair: two readings": [(PairClassifier, PAIRS, LABELS, {"interaction": "all"})],
    'words: `head="native"`': [tags(head="native")],
    "words: linear head": [tags()],
    'words: `subword="last"`': [tags(subword="last")],
    "words: CRF": [tags(head=CRF())],
}


def t5_config(n):
    """T5, of which our heads read the encoder."""
    return T5Config(vocab_size=n, **_T5_SIZE, **_T5_IDS)


def backbones(folder):
    """Directories of tiny backbones of all families."""
    for name, family in families.FAMILIES.items():
        tokenizer = families.with_pairs(family.tokenizer())
        yield name, save_backbone(folder / name, family.config(len(tokenizer)), tokenizer)
    tokenizer = language_tokenizer("t5")
    yield "t5", save_backbone(folder / "t5", t5_config(len(tokenizer)), tokenizer)


def logits(path, cls, rows):
    """What the Auto class for an estimator gives for rows, none of them padded."""
    auto = AutoModelForTokenClassification if cls is TokenTagger else None
    model = (auto or AutoModelForSequenceClassification).from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    found = []
    for row in rows:
        given = tokenizer(*row) if isinstance(row, tuple) else tokenizer(row)
        given = {name: torch.tensor([ids]) for name, ids in given.items()}
        with torch.no_grad():
            found.append(model(**given).logits[0].numpy())
    return found


def expected(estimator, rows):
    """What the estimator gives; of a tagger, the logits of tokens that its own model has."""
    if not isinstance(estimator, TokenTagger):
        return list(estimator._outputs(rows))
    tokenizer, length = estimator.tokenizer_, estimator.max_length_
    encoder = estimator._make_encoder(estimator.model_, tokenizer, length)
    sequences = encoder.encode([row.split() for row in rows]).encoded.sequences
    with torch.no_grad():
        ids = [torch.from_numpy(sequences.row(i)).long()[None] for i in range(len(rows))]
        return [estimator.model_(input_ids=x).logits[0].numpy() for x in ids]


def is_read(path, estimator, rows):
    """Whether the Auto class reads the directory and gives what the estimator does."""
    try:
        pairs = zip(logits(path, type(estimator), rows), expected(estimator, rows), strict=True)
        return all(np.abs(a - b).max() < TOLERANCE for a, b in pairs)
    except (KeyError, ValueError):
        return False


def main():
    """Print the table."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tried = {}
        for family, backbone in backbones(folder):
            for head, ways in HEADS.items():
                for i, (cls, X, y, params) in enumerate(ways):
                    path = folder / f"{family}-{len(tried)}"
                    try:
                        estimator = cls(backbone, **{**LITTLE, **params}).fit(X, y)
                    except ValueError:
                        continue
                    estimator.save_pretrained(path, weights="full")
                    tried[family, head, i] = path, estimator, READ_PAIRS if X is PAIRS else READ
        found = {key: "yes" for key, case in tried.items() if is_read(*case)}
        import sktransformers.hf  # noqa: F401

        for key, case in tried.items():
            found.setdefault(key, "hf" if is_read(*case) else "load")
    rows = list(dict.fromkeys(family for family, *_ in tried))
    print("| head |", " | ".join(rows), "|")
    print("| --- |", " | ".join("---" for _ in rows), "|")
    order = ["yes", "hf", "load", "-"]
    for head, ways in HEADS.items():
        cells = [
            min((found.get((row, head, i), "-") for i in range(len(ways))), key=order.index)
            for row in rows
        ]
        print(f"| {head} |", " | ".join(cells), "|")
    print(f"{len(tried)} estimators were fitted, saved and read.")


if __name__ == "__main__":
    main()
