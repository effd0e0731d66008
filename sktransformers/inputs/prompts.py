"""Sources and targets of models that answer in text: prompts, their token ids, their end."""

import copy
import warnings
from collections.abc import Sequence
from itertools import chain, zip_longest
from string import Formatter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from sktransformers.inputs.batching import Answered, Encoded, Ragged
from sktransformers.inputs.encoding import (
    SWITCHING,
    Counts,
    Encoding,
    as_valid,
    chunks,
    first_id,
    keep_all_tokens,
    pad_id,
    places,
    probe,
    room,
    special_tokens,
    tokenize,
    users_level,
)
from sktransformers.inputs.replay import level
from sktransformers.inputs.windows import side_by_side

_begins: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()  # what `_target_begin` found


class Row(NamedTuple):
    """What a prompt is made of.

    Parameters
    ----------
    prefix : str
        What stands in front of the template.
    texts : tuple of str
        What stands in the fields of the template, one text a field.
    """

    prefix: str
    texts: tuple[str, ...]


class Template(NamedTuple):
    """A text with fields.

    Parameters
    ----------
    words : tuple of str
        What stands before, between and behind the fields.
    places : tuple of str
        The field at each place between them; a field may stand at several.
    """

    words: tuple[str, ...]
    places: tuple[str, ...]

    @classmethod
    def of(cls, template: str) -> "Template":
        """Take a template apart.

        Raises
        ------
        ValueError
            If it has no field, or one that is more than a name in braces.
        """
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(
                f"template={template!r} has braces that do not match ({error}). A brace that is "
                f"meant as such is doubled: {{{{ or }}}}."
            ) from error
        words, names = [""], []
        for literal, name, spec, conversion in parts:
            words[-1] += literal
            if name is None:
                continue
            if not name or spec or conversion or not all(map(_is_plain, name)):
                raise ValueError(
                    f"template={template!r} has a field that is no name or number in braces; "
                    f'expected fields such as "{{text}}" or "{{0}}".'
                )
            names.append(name)
            words.append("")
        if not names:
            raise ValueError(
                f"template={template!r} has no field for the texts of X; expected one such as "
                f'"{{text}}".'
            )
        return cls(tuple(words), tuple(names))

    @property
    def fields(self) -> list[str]:
        """Names of the fields, each once, in their order."""
        return list(dict.fromkeys(self.places))

    def pieces(self, row: Row) -> list[str]:
        """The prompt of a row in pieces: every second one is a text, and the others are words."""
        texts = dict(zip(self.fields, row.texts))
        between = [texts[name] for name in self.places]
        pieces = [piece for both in zip_longest(self.words, between) for piece in both][:-1]
        pieces[0] = row.prefix + pieces[0]
        return pieces


def _is_plain(character: str) -> bool:
    return character not in ".[]"


def as_row(row: Any) -> Row:
    """A row that is a text, a tuple of texts, or a `Row` already."""
    if isinstance(row, Row):
        return row
    return Row("", (row,) if isinstance(row, str) else tuple(row))


class SourceEncoder:
    """Token ids of the prompts that rows become.

    A prompt that is too long loses the ends of its texts, the longest text first; words of the
    template and the prefix stay.

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

    Attributes
    ----------
    pad_id : int
        Id to fill the places beside a sequence with.
    """

    def __init__(self, tokenizer: Any, max_length: int, template: str, is_open: bool):
        keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.template = Template.of(template)
        self.prefix, self.suffix = special_tokens(tokenizer)
        if is_open:
            self.suffix = []
        self.pad_id = pad_id(tokenizer)
        # A prompt without a token would have nothing to attend to.
        self.nothing = [first_id(tokenizer.eos_token_id, tokenizer.pad_token_id)]
        self.max_length = max_length
        self.room = room(max_length, len(self.prefix) + len(self.suffix), "text")

    def prompts(self, rows: Sequence[Any]) -> list[str]:
        """The texts that the model reads, as long as they are."""
        return ["".join(self.template.pieces(as_row(row))) for row in rows]

    def encode(self, rows: Sequence[Any]) -> Encoding:
        """Encode rows, each of them a `Row`, a text or a tuple of texts.

        Raises
        ------
        ValueError
            If a prompt has no room for its texts.
        """
        prompts = [self.template.pieces(as_row(row)) for row in rows]
        return Encoding.concatenate([self._encode_chunk(chunk) for chunk in chunks(prompts)])

    def _encode_chunk(self, prompts: list[list[str]]) -> Encoding:
        ids = tokenize(self.tokenizer, ["".join(prompt) for prompt in prompts])
        about = np.fromiter(chain.from_iterable(ids), np.int64)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        long = np.flatnonzero(lengths > self.room)
        for i, shorter in zip(long, self._shortened([prompts[i] for i in long])):
            ids[i] = shorter
        if not self.prefix and not self.suffix:
            ids = [body or self.nothing for body in ids]
        sequences = side_by_side(self.prefix, Ragged.of(ids), self.suffix)
        counts = Counts.of(self.tokenizer, about, lengths > self.room, unit="sources")
        return Encoding(Encoded.of_texts(sequences), counts)

    def _shortened(self, prompts: list[list[str]]) -> list[list[int]]:
        """Ids of prompts whose texts are cut until they fit."""
        if not prompts:
            return []
        if not self.tokenizer.is_fast:
            # It does not say which token comes from which piece: each is tokenized by itself.
            flat = iter(tokenize(self.tokenizer, list(chain.from_iterable(prompts))))
            parts = [[next(flat) for _ in prompt] for prompt in prompts]
            ids = [list(chain.from_iterable(part)) for part in parts]
            piece = [np.repeat(np.arange(len(p)), [len(i) for i in p]) for p in parts]
        else:
            prompts = [[as_valid(piece) for piece in prompt] for prompt in prompts]
            found = self.tokenizer.backend_tokenizer.encode_batch(
                ["".join(prompt) for prompt in prompts], add_special_tokens=False
            )
            ids = [encoding.ids for encoding in found]
            piece = [_pieces(encoding.offsets, p) for encoding, p in zip(found, prompts)]
        return [self._cut(*one) for one in zip(ids, piece, prompts)]

    def _cut(self, ids: list[int], piece: np.ndarray, prompt: list[str]) -> list[int]:
        """Ids without the last ones of the texts; piece says where each comes from."""
        counts = np.bincount(piece, minlength=len(prompt))
        n_words = int(counts[::2].sum())
        most = level(counts[1::2], max(0, self.room - n_words))
        if most < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for the texts of a row: the words "
                f"of the template and the prefix around them are {n_words} tokens."
            )
        rank = np.empty(len(ids), np.int64)  # of a token in its piece
        order = np.argsort(piece, kind="stable")
        rank[order] = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = (piece % 2 == 0) | (rank < most)
        return np.array(ids)[kept].tolist()


def _pieces(offsets: Sequence[tuple[int, int]], prompt: list[str]) -> np.ndarray:
    """The piece of a prompt that each token comes from; of words, if it is in part."""
    ends = np.cumsum([len(piece) for piece in prompt])
    begin, end = np.array(offsets).T
    first = np.searchsorted(ends, begin, side="right")
    last = np.searchsorted(ends, np.maximum(end - 1, begin), side="right")
    piece = np.minimum(first, len(prompt) - 1)
    return np.where(first == last, piece, np.minimum(piece + piece % 2, len(prompt) - 1))


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

    Attributes
    ----------
    end : int
        Id of the token that ends a target.

    Raises
    ------
    ValueError
        If max_length leaves no room for a token of the target.
    """

    def __init__(self, tokenizer: Any, max_length: int, is_open: bool):
        keep_all_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.end = end_id(tokenizer)
        self.begin = [] if is_open else _target_begin(tokenizer)
        if max_length < len(self.begin) + 2:
            raise ValueError(
                f"max_target_length={max_length} leaves no room for a target: the tokenizer adds "
                f"{len(self.begin) + 1} special tokens to each one."
            )

    def read(self, texts: Sequence[str]) -> tuple[Ragged, int]:
        """Ids of each target, and how many were longer and were cut."""
        ids = [self.begin + row for row in tokenize(self.tokenizer, list(texts), as_targets=True)]
        n_cut = sum(len(row) >= self.max_length for row in ids)
        return Ragged.of([[*row[: self.max_length - 1], self.end] for row in ids]), n_cut

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Ids of each target; longer ones are cut, with a warning that counts them."""
        ids, n_cut = self.read(texts)
        self.warn(n_cut, len(ids))
        return ids

    def warn(self, n_cut: int, n_texts: int) -> None:
        """Warn about cut targets."""
        if n_cut:
            warnings.warn(
                f"{n_cut} of {n_texts} targets are longer than max_target_length="
                f"{self.max_length} tokens and were cut there.",
                UserWarning,
                stacklevel=users_level(),
            )


def end_id(tokenizer: Any) -> int:
    """Id of the token that ends a target."""
    return first_id(tokenizer.eos_token_id, tokenizer.sep_token_id)


def _target_begin(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer puts in front of a target, such as the code of its language."""
    if tokenizer in _begins:
        return _begins[tokenizer]
    text, bare = probe(tokenizer)
    reader = copy.deepcopy(tokenizer) if tokenizer.is_fast else tokenizer  # others may be reading
    try:
        with SWITCHING:
            full = list(reader(text_target=text, verbose=False)["input_ids"])
    except KeyError as error:  # of M2M100
        raise ValueError(
            f"The tokenizer {type(tokenizer).__name__} wants to know the language of targets: pass "
            f"one with tgt_lang, Backbone(name, tokenizer=...)."
        ) from error
    found = places(bare, full)
    _begins[tokenizer] = full[: found[0]] if found else []
    return _begins[tokenizer]


def with_targets(sources: Encoded, targets: Ragged) -> Answered:
    """Rows of a source and a target each."""
    n = len(sources)
    both = Ragged.concatenate([sources.sequences, targets])
    pairs = np.stack([sources.rows[:, 0], np.arange(n) + len(sources.sequences)], axis=1)
    return Answered(both, np.arange(len(both) + 1), pairs)
