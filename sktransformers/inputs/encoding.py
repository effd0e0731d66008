"""Texts -> ragged token ids.

Tokenizers are called without truncation and padding and the ids are cut here: settings
live inside a fast tokenizer, so two threads that want different ones would disturb each
other without a word.
"""

import copy
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sktransformers.inputs.batching import Ragged

# A tokenizer returns Python objects; so many texts at a time bound their number.
CHUNK = 1024
_PROBES = ("a", "A", "0", ".", "\u4e2d")
MULTILINGUAL = (
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "FacebookAI/xlm-roberta-base",
)
PORTUGUESE = "neuralmind/bert-base-portuguese-cased"
_NOT_THE_USERS = ("sktransformers.", "sklearn.", "joblib.")


class Counts(NamedTuple):
    """What the user may have to be warned about, counted while encoding."""

    texts: int
    truncated: int
    tokens: int
    unknown: int

    @classmethod
    def total(cls, counts: Iterable["Counts"]) -> "Counts":
        """Sum of several counts."""
        return cls(*(sum(column) for column in zip(*counts, strict=True)))

    def warn(self, max_length: int) -> None:
        """Warn about cut texts and about a vocabulary that does not fit the language."""
        level = _users_level()
        if self.truncated:
            warnings.warn(
                f"{self.truncated} of {self.texts} texts are longer than "
                f"max_length={max_length} tokens and were cut there.",
                UserWarning,
                stacklevel=level,
            )
        if self.unknown > 0.05 * self.tokens:
            warnings.warn(
                f"{self.unknown / self.tokens:.0%} of the tokens are unknown to the "
                f"tokenizer: its vocabulary does not fit these texts. For other languages "
                f"than English choose a multilingual backbone ({', '.join(MULTILINGUAL)}), "
                f"for Portuguese for example {PORTUGUESE}.",
                UserWarning,
                stacklevel=level,
            )


def _users_level() -> int:
    """The stacklevel of a warning that points at the user's line, however deep the call."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_NOT_THE_USERS):
        frame, level = frame.f_back, level + 1
    return level


class Encoded(NamedTuple):
    """Token ids and what was counted on the way."""

    ids: Ragged
    counts: Counts


def private_tokenizer(tokenizer: Any) -> Any:
    """A copy of a tokenizer that neither truncates nor pads by itself."""
    tokenizer = copy.deepcopy(tokenizer)
    _keep_all_tokens(tokenizer)
    return tokenizer


def _keep_all_tokens(tokenizer: Any) -> None:
    """Turn off what an earlier call with truncation or padding left inside a fast tokenizer."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        # Only where needed: other threads may be reading it.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()


class TextEncoder:
    """Cut token ids of single texts, special tokens included.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it. It is only read, unless somebody has called it
        with truncation or padding since: such settings are turned off again.
    max_length : int
        Most tokens a text may have, special tokens included.

    Attributes
    ----------
    pad_id : int
        Id to fill the places behind a text with.

    Raises
    ------
    ValueError
        If max_length leaves no room for a token of the text.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        _keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.prefix, self.suffix = special_tokens(tokenizer)
        # Padding is masked: where a backbone has no token for it, any other will do.
        self.pad_id = _first_id(tokenizer.pad_token_id, tokenizer.eos_token_id)
        # A decoder's tokenizer may leave nothing of an empty text: attention over no token
        # has no value, or one that depends on the padding.
        self.nothing = [_first_id(tokenizer.eos_token_id, tokenizer.pad_token_id)]
        self.room = max_length - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            raise ValueError(
                f"max_length={max_length} leaves no room for text: the tokenizer adds "
                f"{len(self.prefix) + len(self.suffix)} special tokens to each one."
            )

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of many texts, tokenized a chunk at a time."""
        chunks = (texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK))
        parts = [self._encode_chunk(list(chunk)) for chunk in chunks]
        return Encoded(
            Ragged.concatenate([part.ids for part in parts]),
            Counts.total(part.counts for part in parts),
        )

    def _encode_chunk(self, texts: list[str]) -> Encoded:
        bodies = _tokenize(self.tokenizer, texts)
        unknown = self.tokenizer.unk_token_id
        counts = Counts(
            texts=len(texts),
            truncated=sum(len(body) > self.room for body in bodies),
            tokens=sum(map(len, bodies)),
            unknown=0 if unknown is None else sum(body.count(unknown) for body in bodies),
        )
        rows = [self.prefix + body[: self.room] + self.suffix or self.nothing for body in bodies]
        return Encoded(Ragged.of(rows), counts)


def _first_id(*candidates: int | None) -> int:
    return next((token for token in candidates if token is not None), 0)


def _tokenize(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    try:
        return _tokenize_valid(tokenizer, texts)
    except (UnicodeEncodeError, TypeError):
        # Half a surrogate pair is a str in Python but no text: U+FFFD stands in for it.
        return _tokenize_valid(
            tokenizer,
            [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts],
        )


def _tokenize_valid(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if tokenizer.is_fast:
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=special).ids
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text.

    Raises
    ------
    ValueError
        If the text does not stand in one piece between them.
    """
    bare: list[int] = []
    full: list[int] = []
    for text in _PROBES:  # the first that the vocabulary does not drop
        bare, full = (_ids(tokenizer, text, special) for special in (False, True))
        if bare:
            break
    for i in range(len(full) - len(bare) + 1 if bare else 0):
        if full[i : i + len(bare)] == bare:
            return list(full[:i]), list(full[i + len(bare) :])
    raise ValueError(
        f"The tokenizer {type(tokenizer).__name__} does not keep a text in one piece "
        f"between its special tokens ({bare} became {full})."
    )
