"""Sources and targets of models that answer in text: prompts, their token ids, their end."""

import warnings
from collections.abc import Sequence
from string import Formatter
from typing import Any

import numpy as np

from sktransformers.inputs.batching import Encoded, Ragged
from sktransformers.inputs.encoding import (
    Encoding,
    TextEncoder,
    first_id,
    tokenize,
    users_level,
)


def fields(template: str) -> list[str]:
    """Names of the fields of a template, in their order."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


class SourceEncoder:
    """Token ids of the prompts that rows become.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it.
    max_length : int
        Most tokens of a source, special tokens included.
    template : str
        What a row becomes; its fields stand for the texts of the row, one after the other.
    is_open : bool
        Whether the target follows in the same sequence, so that nothing may end it.
    """

    def __init__(self, tokenizer: Any, max_length: int, template: str, is_open: bool):
        self.texts = TextEncoder(tokenizer, max_length)
        if is_open:
            self.texts.suffix = []
        self.pad_id = self.texts.pad_id
        self.template = template

    def prompts(self, rows: Sequence[Any]) -> list[str]:
        """The texts that the model reads."""
        names = fields(self.template)
        texts = [(row,) if isinstance(row, str) else row for row in rows]
        return [self.template.format(**dict(zip(names, row))) for row in texts]

    def encode(self, rows: Sequence[Any]) -> Encoding:
        """Encode rows, each of them a text or a tuple of texts."""
        return self.texts.encode(self.prompts(rows))


class TargetEncoder:
    """Token ids of targets, with the token that ends them.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it.
    max_length : int
        Most tokens of a target, special tokens included.
    is_open : bool
        Whether targets follow their source in the same sequence.
    """

    def __init__(self, tokenizer: Any, max_length: int, is_open: bool):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.is_open = is_open
        self.end = first_id(tokenizer.eos_token_id, tokenizer.sep_token_id)

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Ids of each target; longer ones are cut, with a warning that counts them."""
        if self.is_open:
            ids = [[*row, self.end] for row in tokenize(self.tokenizer, list(texts))]
        else:
            ids = self.tokenizer(text_target=list(texts))["input_ids"]
            ids = [row if row[-1:] == [self.end] else [*row, self.end] for row in ids]
        n_long = sum(len(row) > self.max_length for row in ids)
        if n_long:
            warnings.warn(
                f"{n_long} of {len(ids)} targets are longer than max_target_length="
                f"{self.max_length} tokens and were cut there.",
                UserWarning,
                stacklevel=users_level(),
            )
        return Ragged.of(
            [[*row[: self.max_length - 1], self.end][: self.max_length] for row in ids]
        )


def with_targets(sources: Encoded, targets: Ragged) -> Encoded:
    """Rows of a source and a target each."""
    n = len(sources)
    both = Ragged.concatenate([sources.sequences, targets])
    pairs = np.stack([sources.rows[:, 0], np.arange(n) + len(sources.sequences)], axis=1)
    return Encoded(both, np.arange(len(both) + 1), pairs)
