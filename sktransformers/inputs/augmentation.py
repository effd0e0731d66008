"""Edits of the words of texts: what stands between the words stays as it is."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain

import numpy as np

from sktransformers.inputs.words import marks


@cache
def _pattern() -> re.Pattern[str]:
    # Between spaces, from the first letter or digit to the last one with its marks: a word keeps
    # the hyphens, apostrophes and dots inside it, quotes and commas around it are not its own.
    return re.compile(rf"(\w(?:\S*\w)?[{marks()}]*)")


def split(text: str) -> tuple[list[str], list[str]]:
    """Words of a text, and what stands before, between and behind them.

    Between two words there is a space. Where a script has none, what stands between two
    spaces is a word.
    """
    pieces = _pattern().split(text)
    return pieces[1::2], pieces[::2]


def join(words: Sequence[str], gaps: Sequence[str]) -> str:
    """The text of these words, and of one gap more than there are words."""
    return "".join(chain.from_iterable(zip(gaps, words))) + gaps[-1]


def is_word(text: str) -> bool:
    """Whether a word of a sentence that came split is more than punctuation."""
    return _pattern().search(text) is not None


def like(word: str, other: str) -> str:
    """Another word in the upper and lower case of a word."""
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def some(n_words: int, rate: float) -> int:
    """How many of so many words a rate stands for: one at least, unless it is zero."""
    return max(1, round(rate * n_words)) if rate and n_words else 0


def replaced(
    words: Sequence[str],
    synonyms: Mapping[str, Sequence[str]],
    rate: float,
    rng: np.random.Generator,
) -> list[str]:
    """Words, some of which became synonyms of theirs."""
    words = list(words)
    known = [i for i, word in enumerate(words) if synonyms[word]]
    for i in rng.permutation(known)[: some(len(words), rate)]:
        words[i] = like(words[i], _one_of(synonyms[words[i]], rng))
    return words


def inserted(
    words: Sequence[str],
    gaps: Sequence[str],
    synonyms: Mapping[str, Sequence[str]] | None,
    rate: float,
    rng: np.random.Generator,
) -> str:
    """A text with words at random places, each a synonym of one of its words, or one of them.

    A text of one word is not doubled.
    """
    if synonyms is None:
        known = words if len(words) > 1 else []
    else:
        known = [word for word in words if synonyms[word]]
    if not known:
        return join(words, gaps)
    gaps = list(gaps)
    for _ in range(some(len(words), rate)):
        word = _one_of(known, rng)
        if synonyms is not None:
            word = _one_of(synonyms[word], rng)
        at = int(rng.integers(len(gaps)))
        # Beside the word that follows; at the end, beside the last one.
        gaps[at] = f"{gaps[at]}{word} " if at < len(words) else f" {word}{gaps[at]}"
    return join(words, gaps)


def deleted(
    words: Sequence[str], gaps: Sequence[str], rate: float, rng: np.random.Generator
) -> str:
    """A text without some of its words, each of which goes with a chance of rate; one stays."""
    kept = rng.random(len(words)) >= rate
    if len(words) and not kept.any():
        kept[rng.integers(len(words))] = True
    left, between = [], [gaps[0]]
    for word, gap, stays in zip(words, gaps[1:], kept):
        if stays:
            left.append(word)
            between.append(gap)
        else:  # a space goes with it, and another one stays
            before = between[-1].rstrip()
            if before == between[-1]:
                gap = gap.lstrip()
            between[-1] = before + gap
    return join(left, between)


def swapped(words: Sequence[str], rate: float, rng: np.random.Generator) -> list[str]:
    """Words, some pairs of which changed places."""
    words = list(words)
    if len(words) < 2:
        return words
    for _ in range(some(len(words), rate)):
        i, j = rng.integers(len(words)), rng.integers(len(words) - 1)
        j += j >= i
        words[i], words[j] = words[j], words[i]
    return words


def _one_of(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
