"""What a tagger's user calls X -> sentences of words, or a clear error."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from sktransformers.inputs.validation import as_rows, as_texts, describe, is_missing

_EXPECTED = "a list of sentences, each a list of words"
_HINT = (
    'Split a text into words first, or have it split with tokenize="whitespace"; one single '
    "sentence goes into a list: [words]."
)
# Soft hyphen and the two zero-width joiners: inside a word they do not end it.
_JOINERS = "\u00ad\u200c\u200d"


class Sentences(NamedTuple):
    """Sentences and where their words are in the texts they came from.

    Parameters
    ----------
    words : list of list of str
        The words of each sentence.
    offsets : list of list of (int, int), or None
        Where each word begins and ends in its text; None if X came as words.
    texts : list of str, or None
        The texts; None if X came as words.
    """

    words: list[list[str]]
    offsets: list[list[tuple[int, int]]] | None
    texts: list[str] | None


def as_sentences(
    X: Any, tokenize: str | Callable[[str], Iterable[Any]] | None = None, name: str = "X"
) -> Sentences:
    r"""Check that X holds sentences, and split them into words if need be.

    Parameters
    ----------
    X : list, tuple, array or Series
        Of sentences, each a list, tuple, one-dimensional array or Series of str. A
        two-dimensional array, what NumPy makes of sentences of equal length, is read row by
        row. A sentence may be empty, X may not. With ``tokenize``, X is one str a row, in
        any container that ``as_texts`` reads.
    tokenize : {"whitespace", "regex"}, callable or None, default=None
        How texts are split into words:

        - None: X is split already.
        - "whitespace": as ``str.split`` does, so that punctuation stays with its word.
        - "regex": ``\w+|[^\w\s]``, runs of letters, digits and underscores, and every other
          visible character by itself. Accents and vowel signs that are code points of their
          own stay with the letter they modify, as do joiners. Thai and other scripts that
          put no space between words are not cut into words.
        - A function of one text. It returns either the words, which are looked up in the
          text one after the other, or the ``(start, end)`` of each word.
    name : str, default="X"
        What messages call X.

    Returns
    -------
    sentences : Sentences
        Sentences that come as lists of str are not copied.

    Raises
    ------
    TypeError
        If X is no container of sentences.
    ValueError
        If X is one bare string, is empty, is a table, holds texts where words are expected or
        words where texts are, or a word that is no string; or if a word that ``tokenize``
        returns is not in the text. The message names the first such position.
    """
    if tokenize is None:
        return Sentences(_all_str(lists_in(X, name, _EXPECTED, _HINT), name), None, None)
    split = _splitter(tokenize)
    texts = list(_texts(X, tokenize, name))
    offsets = [split(text, f"{name}[{i}]") for i, text in enumerate(texts)]
    words = [[text[a:b] for a, b in found] for text, found in zip(texts, offsets)]
    return Sentences(words, offsets, texts)


def lists_in(X: Any, name: str, expected: str, hint: str) -> list[list[Any]]:
    """Rows of a container of lists, each as a list; what is inside them is not looked at.

    Parameters
    ----------
    X : list, tuple, array or Series
        Of lists, tuples, one-dimensional arrays or Series; or a two-dimensional array.
    name : str
        What messages call X.
    expected : str
        What messages say X should be.
    hint : str
        What messages say if there is a str in place of a list.
    """
    if isinstance(X, (str, bytes)):
        raise ValueError(f"{name} is one single {type(X).__name__}; expected {expected}. {hint}")
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix; expected {expected}.")
    shape = tuple(getattr(X, "shape", (0,)))
    if len(shape) == 2 and not isinstance(X, np.ndarray):
        raise ValueError(
            f"{name} is a table with {shape[1]} column(s); expected {expected}. Select the "
            f"column that holds the lists."
        )
    if len(shape) not in (1, 2):
        raise ValueError(f"{name} has shape {shape}; expected {expected}.")
    rows = X.tolist() if isinstance(X, np.ndarray) else as_list(X)
    if rows is None:
        raise TypeError(f"{name} is of type {type(X).__name__}; expected {expected}.")
    if not rows:
        raise ValueError(
            f"Found array with 0 sample(s): {name} is empty, at least one sentence is required."
        )
    lists = [as_list(row) for row in rows]
    bad = [i for i, row in enumerate(lists) if row is None]
    if bad:
        raise ValueError(_not_a_list(rows, bad, name, expected, hint))
    return [row for row in lists if row is not None]


def as_list(value: Any) -> list[Any] | None:
    """The items of a list, tuple, one-dimensional array or Series; None for all else."""
    if isinstance(value, list):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, np.generic) or len(getattr(value, "shape", (0,))) != 1:
        return None
    # Of pyarrow, polars, NumPy and pandas; list() would give scalars of pyarrow's own.
    to_list = next((m for m in ("to_pylist", "to_list", "tolist") if hasattr(value, m)), None)
    return None if to_list is None else getattr(value, to_list)()


def _not_a_list(rows: Sequence[Any], bad: list[int], name: str, expected: str, hint: str) -> str:
    first = rows[bad[0]]
    message = (
        f"{name}[{bad[0]}] is {describe(first)}; {name} must be {expected}"
        f" ({len(bad)} of {len(rows)} rows are no list)."
    )
    if is_missing(first):
        return message + " Drop such rows, or make them empty lists."
    return f"{message} {hint}" if isinstance(first, (str, bytes)) else message


def _all_str(sentences: list[list[Any]], name: str) -> list[list[str]]:
    words = []
    for sentence in sentences:
        kinds = set(map(type, sentence))
        if not all(issubclass(kind, str) for kind in kinds):
            raise ValueError(_not_a_word(sentences, name))
        # NumPy's str_ is a str, but no tokenizer written in Rust takes it.
        words.append(sentence if kinds <= {str} else [str(word) for word in sentence])
    return words


def _not_a_word(sentences: list[list[Any]], name: str) -> str:
    places = [(i, j) for i, sentence in enumerate(sentences) for j in range(len(sentence))]
    bad = [(i, j) for i, j in places if not isinstance(sentences[i][j], str)]
    i, j = bad[0]
    message = (
        f"{name}[{i}][{j}] is {describe(sentences[i][j])}; expected str for every word"
        f" ({len(bad)} of {len(places)} words are no str)."
    )
    if is_missing(sentences[i][j]):
        message += ' Drop such words, or fill them, for example with "".'
    return message


def _texts(X: Any, tokenize: Any, name: str) -> Sequence[str]:
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] != 1:
        raise ValueError(f"{name} has {X.shape[1]} columns; {_wants_texts(tokenize)}")
    rows = as_rows(X, name)
    for i, row in enumerate(rows):
        if not isinstance(row, str) and as_list(row) is not None:
            raise ValueError(f"{name}[{i}] is {describe(row)}; {_wants_texts(tokenize)}")
    return as_texts(rows, name)


def _wants_texts(tokenize: Any) -> str:
    return (
        f"with tokenize={tokenize!r}, every row is one str that has yet to be split. "
        f"Set tokenize=None for sentences that are split into words already."
    )


# --------------------------------------------------------------------------- text -> offsets

_Splitter = Callable[[str, str], list[tuple[int, int]]]


def _splitter(tokenize: Any) -> _Splitter:
    if tokenize == "whitespace":
        return _matches(re.compile(r"\S+"))
    if tokenize == "regex":
        return _matches(_word_pattern())
    if not callable(tokenize):
        raise ValueError(
            f"tokenize is {describe(tokenize)}; expected 'whitespace', 'regex', a function "
            f"of one text, or None for sentences that are split into words already."
        )
    return lambda text, where: _check_offsets(tokenize(text), text, where)


def _matches(pattern: re.Pattern[str]) -> _Splitter:
    return lambda text, where: [match.span() for match in pattern.finditer(text)]


@cache
def marks() -> str:
    r"""All combining marks of Unicode, for a class of characters in a pattern.

    To Python, no combining mark is a ``\w``: alone, that would cut Devanagari at every vowel
    sign, and decomposed accents off their letters.
    """
    # The last block holds variation selectors.
    points = chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0))
    return "".join(c for c in map(chr, points) if unicodedata.category(c).startswith("M"))


@cache
def _word_pattern() -> re.Pattern[str]:
    r"""``\w+|[^\w\s]``, each with the marks that follow it."""
    return re.compile(
        rf"\w+(?:[{marks()}{_JOINERS}]+\w*)*"
        rf"|[^\w\s](?:[{marks()}]|\u200d[^\w\s])*"  # emoji may be several, joined by U+200D
    )


def _check_offsets(found: Any, text: str, where: str) -> list[tuple[int, int]]:
    """What a user's function returned, as offsets in order."""
    parts = as_list(found)
    if isinstance(found, np.ndarray) and found.ndim == 2:
        parts = found.tolist()
    elif parts is None and isinstance(found, Iterable) and not isinstance(found, (str, bytes)):
        parts = list(found)
    if parts is None:
        raise ValueError(
            f"tokenize returned {describe(found)} for {where}; expected a list of words, or "
            f"of the (start, end) of each word."
        )
    offsets: list[tuple[int, int]] = []
    for k, part in enumerate(parts):
        after = offsets[-1][1] if offsets else 0
        offsets.append(_offset_of(part, k, text, after, where))
    return offsets


def _offset_of(part: Any, k: int, text: str, after: int, where: str) -> tuple[int, int]:
    if isinstance(part, str):
        start = text.find(part, after)
        if not part or start < 0:
            raise ValueError(
                f"tokenize returned a str of {len(part)} characters as word {k} of {where}, which "
                f"is not in the text from character {after} on. Words must be pieces of the text, "
                f"in its order; or return the (start, end) of each word."
            )
        return start, start + len(part)
    pair = as_list(part)
    if pair is None or len(pair) != 2 or not all(isinstance(p, Integral) for p in pair):
        raise ValueError(
            f"tokenize returned {describe(part)} as word {k} of {where}; expected a str, or "
            f"its (start, end) in the text."
        )
    start, end = int(pair[0]), int(pair[1])
    if not after <= start < end <= len(text):
        raise ValueError(
            f"tokenize returned ({start}, {end}) as word {k} of {where}; expected start < end "
            f"from {after} on, where the word before ends, to {len(text)}, the text's length."
        )
    return start, end
