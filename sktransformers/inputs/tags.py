"""The tags that a tagger's user calls y <-> positions among sorted tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sktransformers.inputs.batching import Ragged
from sktransformers.inputs.constraints import scheme_of
from sktransformers.inputs.targets import Targets
from sktransformers.inputs.validation import describe, is_missing, shown
from sktransformers.inputs.words import lists_in

_EXPECTED = "a list with a list of tags for each sentence"
_HINT = (
    "Split it into one tag a word, for example with str.split; the tags of one single "
    "sentence go into a list: [tags]."
)


@dataclass(frozen=True)
class TagCoding:
    """Tags <-> positions among sorted tags, and what each tag weighs.

    Parameters
    ----------
    tags : ndarray of shape (n_tags,)
        Sorted distinct tags.
    factors : ndarray of shape (n_tags,)
        Weight of each tag.
    joint : bool, default=False
        Whether a CRF scores the tags of a sentence together.
    forbidden : tuple of three bool arrays, default=None
        Tags that cannot come first, behind another, or last, as `constraints.forbidden`
        gives them.
    """

    tags: np.ndarray
    factors: np.ndarray
    joint: bool = False
    forbidden: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    problem_type: ClassVar[None] = None

    @property
    def names(self) -> list[str]:
        """Name of each output."""
        return [str(tag) for tag in self.tags.tolist()]

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        metric = "accuracy" if scheme_of(self.tags.tolist()) is None else "span_f1"
        return {"classes_": self.tags, "metric_": metric}

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Targets of tag lists, one a word; a tag that is not known or forbidden is an error.

        A sentence belongs to the stratum of its rarest tag.
        """
        codes = positions(y, self.tags, name)
        lengths = np.fromiter(map(len, y), np.int64, len(y))
        if self.forbidden is not None:
            bad = first_forbidden(codes, lengths, self.forbidden)
            if bad is not None:
                raise ValueError(f"{bad.where(y, name)}, which the constraints of the CRF forbid.")
        n_tags = len(self.tags)
        common = np.argsort(np.bincount(codes, minlength=n_tags), kind="stable")
        rank = np.empty(n_tags, np.int64)
        rank[common] = np.arange(n_tags)
        strata = np.full(len(y), n_tags)
        np.minimum.at(strata, np.repeat(np.arange(len(y)), lengths), rank[codes])
        return Targets(
            Ragged.split(codes, lengths),
            Ragged.split(np.repeat(weights, lengths) * self.factors[codes], lengths),
            strata,
        )


def check_tags(
    y: Any,
    words: Sequence[Sequence[str]],
    name: str = "y",
    estimator_name: str = "TokenTagger",
) -> np.ndarray:
    """One list of tags a sentence, one tag a word.

    Parameters
    ----------
    y : list, tuple, array or Series
        Of lists, tuples, one-dimensional arrays or Series of tags: all str, all int or all
        bool. A two-dimensional array, what NumPy makes of sentences of equal length, is read
        row by row.
    words : list of list of str
        The sentences, as ``as_sentences`` returns them.
    name : str, default="y"
        What messages call y.
    estimator_name : str, default="TokenTagger"
        For the message when y is missing altogether.

    Returns
    -------
    tags : ndarray of shape (n_sentences,) and dtype object
        Lists of Python's own str, int or bool; one-dimensional even where all sentences are
        equally long.

    Raises
    ------
    ValueError
        If y is None, has not as many lists as there are sentences or not as many tags as a
        sentence has words, misses a tag, or holds tags of several types or another type. The
        message names the first such position.
    """
    if y is None:
        raise ValueError(
            f"This {estimator_name} estimator requires y to be passed, but the target y is None."
        )
    rows = lists_in(y, name, _EXPECTED, _HINT)
    if len(rows) != len(words):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: "
            f"X has {len(words)} sentences, {name} has {len(rows)} lists of tags."
        )
    _check_lengths(rows, words, name)
    family = _check_types(rows, name)
    tags = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):  # a slice would collapse equal lengths into a second axis
        tags[i] = [family(tag) for tag in row]
    return tags


def _check_lengths(rows: list[list[Any]], words: Sequence[Sequence[str]], name: str) -> None:
    bad = [i for i, (row, sentence) in enumerate(zip(rows, words)) if len(row) != len(sentence)]
    if bad:
        first = bad[0]
        raise ValueError(
            f"{name}[{first}] has {len(rows[first])} tags, but its sentence has "
            f"{len(words[first])} words; expected one tag a word ({len(bad)} of {len(rows)} "
            f"sentences differ in length)."
        )


def _check_types(rows: list[list[Any]], name: str) -> type:
    """The one type of all tags."""
    kinds: dict[type, Any] = {}  # what Python calls each type there is
    for row in rows:
        for kind in set(map(type, row)) - kinds.keys():
            kinds[kind] = _family(kind)
    families = set(kinds.values())
    if len(families) == 1 and None not in families:
        return families.pop()
    if not families:
        return str  # nothing but empty sentences
    tags = [(i, j, tag) for i, row in enumerate(rows) for j, tag in enumerate(row)]
    missing = [entry for entry in tags if is_missing(entry[2])]
    if missing:
        i, j, tag = missing[0]
        raise ValueError(
            f"Input {name} contains NaN: {name}[{i}][{j}] is missing ({shown(tag)}), "
            f"{len(missing)} of {len(tags)} tags are. Every word needs a tag."
        )
    for i, j, tag in tags:
        if kinds[type(tag)] is None:
            raise ValueError(f"{name}[{i}][{j}] is {describe(tag)}; expected str, int or bool.")
    first = tags[0]
    other = next(entry for entry in tags if kinds[type(entry[2])] != kinds[type(first[2])])
    raise ValueError(
        f"{name} mixes types of tags: {name}[{first[0]}][{first[1]}] is {shown(first[2])}, "
        f"{name}[{other[0]}][{other[1]}] is {shown(other[2])}. Use one type."
    )


def _family(kind: type) -> type | None:
    if issubclass(kind, str):
        return str
    if issubclass(kind, (bool, np.bool_)):
        return bool
    return int if issubclass(kind, (int, np.integer)) else None


def find_tags(y: np.ndarray) -> np.ndarray:
    """Sorted distinct tags.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    distinct = sorted(set(chain.from_iterable(y)))
    if len(distinct) < 2:
        found = f"1 tag: {shown(distinct[0])}" if distinct else "none"
        raise ValueError(f"A tagger needs at least two tags; y has {found}.")
    return np.array(distinct)


def positions(y: np.ndarray | Sequence[Sequence[Any]], tags: np.ndarray, name: str) -> np.ndarray:
    """Position of every tag among the known ones, all sentences in one flat array.

    Parameters
    ----------
    y : sequence of list
        Tags of each sentence, as ``check_tags`` returns them.
    tags : ndarray of shape (n_tags,)
        The known tags.
    name : str
        What messages call y.

    Returns
    -------
    codes : ndarray of int64 and shape (n_words,)

    Raises
    ------
    ValueError
        If a tag is not known; the message names the first.
    """
    lengths = np.fromiter(map(len, y), np.int64, len(y))
    # A dict keeps str and int apart and needs no array as wide as the longest tag.
    code = {tag: i for i, tag in enumerate(tags.tolist())}
    flat = map(code.get, chain.from_iterable(y), repeat(-1))
    codes = np.fromiter(flat, np.int64, int(lengths.sum()))
    if (codes < 0).any():
        first = int(np.argmax(codes < 0))
        ends = np.cumsum(lengths)
        i = int(np.searchsorted(ends, first, side="right"))
        j = first - int(ends[i] - lengths[i])
        raise ValueError(
            f"{name}[{i}][{j}] is {shown(y[i][j])}, which is none of the {len(tags)} tags seen in "
            f"training."
        )
    return codes


class Forbidden(NamedTuple):
    """A tag that stands where it must not: word j of sentence i."""

    i: int
    j: int
    behind: bool

    def where(self, y: np.ndarray, name: str) -> str:
        """What messages say of it."""
        tags = y[self.i]
        where = f"{name}[{self.i}][{self.j}] is {shown(tags[self.j])}"
        if self.behind:
            return f"{where} behind {shown(tags[self.j - 1])}"
        return f"{where}, the {'first' if self.j == 0 else 'last'} tag of its sentence"


def first_forbidden(
    codes: np.ndarray,
    lengths: np.ndarray,
    forbidden: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Forbidden | None:
    """The first tag that constraints forbid, of sentences one after the other in codes."""
    first, pairs, last = forbidden
    ends = np.cumsum(lengths)
    begins = (ends - lengths)[lengths > 0]
    finals = (ends - 1)[lengths > 0]
    opening = np.zeros(len(codes), bool)
    opening[begins] = True
    bad = np.zeros(len(codes), bool)
    bad[1:] = pairs[codes[:-1], codes[1:]] & ~opening[1:]
    behind = bad.copy()
    bad[begins] |= first[codes[begins]]
    bad[finals] |= last[codes[finals]]
    if not bad.any():
        return None
    word = int(np.argmax(bad))
    i = int(np.searchsorted(ends, word, side="right"))
    return Forbidden(i, word - int(ends[i] - lengths[i]), bool(behind[word]))
