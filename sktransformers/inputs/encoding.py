"""Texts -> ragged token ids.

Tokenizers are called without truncation and padding and the ids are cut here: settings
live inside a fast tokenizer, so two threads that want different ones would disturb each
other without a word.
"""

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sktransformers.concurrency import Alone
from sktransformers.inputs.batching import Encoded, Ragged, starts
from sktransformers.inputs.windows import CUT, WindowPlan, side_by_side, slices

# A tokenizer returns Python objects; so many texts, or so many
# characters, at a time bound their number.
CHUNK = 1024
CHUNK_CHARACTERS = 2**22
_PROBES = ("a", "A", "0", ".", "\u4e2d")
MULTILINGUAL = (
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "FacebookAI/xlm-roberta-base",
)
PORTUGUESE = "neuralmind/bert-base-portuguese-cased"
# A tokenizer that is to read a target may switch to its language, for all threads.
SWITCHING = Alone()
_NOT_THE_USERS = ("sktransformers.", "sklearn.", "skorch.", "joblib.", "contextlib")


class Counts(NamedTuple):
    """What the user may have to be warned about, counted while encoding.

    ``unit`` is what ``texts`` counts; ``max_windows`` is the limit that cut them, where it
    was not that of a single window.
    """

    texts: int
    truncated: int
    tokens: int
    unknown: int
    unit: str = "texts"
    max_windows: int | None = None

    @classmethod
    def of(cls, tokenizer: Any, ids: np.ndarray, cut: np.ndarray, **about: Any) -> "Counts":
        """Counts of texts that have these token ids together and were cut or not."""
        unknown = tokenizer.unk_token_id
        return cls(
            texts=len(cut),
            truncated=int(np.count_nonzero(cut)),
            tokens=len(ids),
            unknown=0 if unknown is None else int(np.count_nonzero(ids == unknown)),
            **about,
        )

    @classmethod
    def total(cls, counts: Iterable["Counts"]) -> "Counts":
        """Sum of several counts of the same unit."""
        counts = list(counts)
        texts, truncated, tokens, unknown = (
            sum(column) for column in zip(*(c[:4] for c in counts))
        )
        return cls(texts, truncated, tokens, unknown, *counts[0][4:])

    def warn(self, max_length: int) -> None:
        """Warn about cut texts and about a vocabulary that does not fit the language."""
        level = users_level()
        if self.truncated:
            limit, outcome = f"max_length={max_length} tokens", "were cut there"
            if self.max_windows is not None:
                limit = f"max_windows={self.max_windows} windows of {limit}"
                outcome = "were read only so far"
            warnings.warn(
                f"{self.truncated} of {self.texts} {self.unit} are longer than {limit} and "
                f"{outcome}.",
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


def users_level() -> int:
    """The stacklevel of a warning that points at the user's line, however deep the call."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_NOT_THE_USERS):
        frame, level = frame.f_back, level + 1
    return level


class Encoding(NamedTuple):
    """Encoded rows and what was counted on the way."""

    encoded: Encoded
    counts: Counts

    @classmethod
    def concatenate(cls, parts: Sequence["Encoding"]) -> "Encoding":
        """Rows of several parts, one part after the other."""
        encoded, counts = zip(*parts)
        return cls(Encoded.concatenate(encoded), Counts.total(counts))


def private_tokenizer(tokenizer: Any) -> Any:
    """A copy of a tokenizer that neither truncates nor pads by itself."""
    tokenizer = copy.deepcopy(tokenizer)
    keep_all_tokens(tokenizer)
    return tokenizer


def keep_all_tokens(tokenizer: Any) -> None:
    """Turn off what an earlier call with truncation or padding left inside a fast tokenizer."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        # Only where needed: other threads may be reading it.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()


class TextEncoder:
    """Token ids of single texts, special tokens included, cut or in windows.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it. It is only read, unless somebody has called it
        with truncation or padding since: such settings are turned off again.
    max_length : int
        Most tokens a text or a window of it may have, special tokens included.
    windows : WindowPlan, default=None
        How longer texts are read; by default they are cut.

    Attributes
    ----------
    pad_id : int
        Id to fill the places behind a text with.
    room : int
        Most tokens of the text itself in a window.

    Raises
    ------
    ValueError
        If max_length leaves no room for a token of the text, or the windows would leave
        gaps.
    """

    def __init__(self, tokenizer: Any, max_length: int, windows: WindowPlan | None = None):
        keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.pad_id = pad_id(tokenizer)
        self.prefix, self.suffix = special_tokens(tokenizer)
        # A decoder's tokenizer may leave nothing of an empty text: attention over no token
        # has no value, or one that depends on the padding.
        self.nothing = [first_id(tokenizer.eos_token_id, tokenizer.pad_token_id)]
        self.room = room(max_length, len(self.prefix) + len(self.suffix), "text")
        self.plan = windows or CUT
        self.plan.check(self.room)
        self.max_windows = None if windows is None else windows.max_windows

    def encode(self, rows: Sequence[str]) -> Encoding:
        """Encode many texts, tokenized a chunk at a time; one text a row."""
        return self.read(rows)[0]

    def read(self, texts: Sequence[str]) -> tuple[Encoding, np.ndarray]:
        """Encode many texts, and say which of them were not read to the end."""
        encodings, cut = zip(*(self._read_chunk(chunk) for chunk in chunks(texts)))
        return Encoding.concatenate(encodings), np.concatenate(cut)

    def _read_chunk(self, texts: list[str]) -> tuple[Encoding, np.ndarray]:
        ids = tokenize(self.tokenizer, texts)
        if not self.prefix and not self.suffix:
            ids = [body or self.nothing for body in ids]
        bodies = Ragged.of(ids)
        lengths = bodies.lengths
        needed = self.plan.needed(lengths, self.room)
        text, number, counts = self.plan.choose(needed)
        begin, end = self.plan.spans(lengths[text], self.room, number, needed[text])
        start = bodies.start[text]
        read = slices(bodies.flat, start + begin, start + end)
        encoded = Encoded(
            side_by_side(self.prefix, read, self.suffix),
            starts(counts),
            np.arange(len(texts))[:, None],
        )
        cut = needed > counts
        about = Counts.of(self.tokenizer, bodies.flat, cut, max_windows=self.max_windows)
        return Encoding(encoded, about), cut


def chunks(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """Rows in parts of bounded size; no rows are one part, so that there is a result to speak of.

    A row is a text, or several texts.
    """
    begin = characters = 0
    for i, row in enumerate(rows):
        characters += len(row) if isinstance(row, str) else sum(map(len, row))
        if i + 1 == begin + CHUNK or characters >= CHUNK_CHARACTERS:
            yield list(rows[begin : i + 1])
            begin, characters = i + 1, 0
    if begin < len(rows) or begin == 0:
        yield list(rows[begin:])


def room(max_length: int, special: int, what: str, least: int = 1) -> int:
    """How many tokens of the texts fit between so many special tokens."""
    if max_length - special < least:
        raise ValueError(
            f"max_length={max_length} leaves no room for {what}: the tokenizer adds "
            f"{special} special tokens to each one."
        )
    return max_length - special


def pad_id(tokenizer: Any) -> int:
    """Id for padding, which is masked: where a backbone has no token for it, any will do."""
    return first_id(tokenizer.pad_token_id, tokenizer.eos_token_id)


def first_id(*candidates: int | None) -> int:
    """The first that the tokenizer has."""
    return next((token for token in candidates if token is not None), 0)


def tokenize(tokenizer: Any, texts: list[str], as_targets: bool = False) -> list[list[int]]:
    """Token ids of a chunk of texts, without special tokens."""
    try:
        return _tokenize_valid(tokenizer, texts, as_targets)
    except (UnicodeEncodeError, TypeError):
        return _tokenize_valid(tokenizer, [as_valid(text) for text in texts], as_targets)


def as_valid(text: str) -> str:
    """A text without halves of surrogate pairs, which are str in Python: U+FFFD stands for them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _tokenize_valid(tokenizer: Any, texts: list[str], as_targets: bool) -> list[list[int]]:
    if not texts:
        return []
    if tokenizer.is_fast:
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    with SWITCHING:
        # Marian cuts targets into pieces of another language than sources.
        found = (
            tokenizer(text_target=texts, **options) if as_targets else tokenizer(texts, **options)
        )
        return found["input_ids"]


def token_ids(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """Token ids of a single text, for a look at the tokenizer."""
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=special).ids
    with SWITCHING:
        return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text.

    Raises
    ------
    ValueError
        If the text does not stand in one piece between them.
    """
    text, bare = probe(tokenizer)
    full = token_ids(tokenizer, text, special=True)
    found = places(bare, full)
    if not found:
        raise not_in_one_piece(tokenizer, bare, full)
    return list(full[: found[0]]), list(full[found[0] + len(bare) :])


def probe(tokenizer: Any) -> tuple[str, list[int]]:
    """A short text that the vocabulary does not drop, and its token ids."""
    for text in _PROBES:
        if bare := token_ids(tokenizer, text):
            return text, bare
    return "", []


def places(part: list[int], whole: list[int]) -> list[int]:
    """Where the part begins in the whole; nowhere, if it is empty."""
    ends = range(len(part), len(whole) + 1) if part else ()
    return [end - len(part) for end in ends if whole[end - len(part) : end] == part]


def not_in_one_piece(tokenizer: Any, bare: list[int], full: list[int]) -> ValueError:
    """The error about special tokens that do not stand around a text."""
    return ValueError(
        f"The tokenizer {type(tokenizer).__name__} does not keep a text in one piece "
        f"between its special tokens ({bare} became {full})."
    )
