"""Where synonyms come from: a dictionary, WordNet, or neighbours among word vectors."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from sktransformers.inputs.encoding import tokenize
from sktransformers.inputs.validation import describe
from sktransformers.inputs.word_encoding import needs_spaces
from sktransformers.inputs.words import marks

# Candidates for each of some words.
Source = Callable[[Sequence[str]], Iterable[Sequence[str]]]

_CHUNK = 256  # words whose similarities to all others are held at once


class Synonyms(dict[str, tuple[str, ...]]):
    """Synonyms of the words that were asked for so far, without the words themselves.

    Parameters
    ----------
    source : callable
        Gives candidates for each of a list of words.
    stop_words : collection of str
        Words that have none, in lower case.
    single : bool
        Whether a synonym must be one word.
    """

    def __init__(self, source: Source, stop_words: Collection[str], single: bool):
        super().__init__()
        self.source, self.stop_words, self.single = source, stop_words, single

    def learn(self, words: Iterable[str]) -> None:
        """Look up the words that are new."""
        new = [word for word in dict.fromkeys(words) if word not in self]
        for word, found in zip(new, self.source(new)):
            self[word] = tuple(s for s in dict.fromkeys(found) if self._suits(word, s))

    def _suits(self, word: str, synonym: str) -> bool:
        if self.single and len(synonym.split()) != 1:
            return False
        return word.lower() not in self.stop_words and word.lower() != synonym.lower()


def check_stop_words(stop_words: Any) -> Collection[str]:
    """The words that a parameter ``stop_words`` stands for, in lower case."""
    if stop_words is None:
        return frozenset()
    if isinstance(stop_words, str):
        if stop_words != "english":
            raise ValueError(
                f"stop_words={stop_words!r} is no list of words; the only one with a name is "
                f'"english".'
            )
        return ENGLISH_STOP_WORDS
    if not all(isinstance(word, str) for word in stop_words):
        bad = next(word for word in stop_words if not isinstance(word, str))
        raise TypeError(f"stop_words holds {describe(bad)}; expected str.")
    return frozenset(word.lower() for word in stop_words)


# ---------------------------------------------------------------------------- dictionary


def check_dictionary(synonyms: Mapping[Any, Any]) -> dict[str, list[str]]:
    """Synonyms a user wrote down, each word with a list of them.

    Raises
    ------
    TypeError
        If a word is no str, or has neither a str nor a list, tuple or set of str.
    ValueError
        If a synonym is empty.
    """
    table = {}
    for word, found in synonyms.items():
        if not isinstance(word, str):
            raise TypeError(f"synonyms: {describe(word)} is no word; expected str.")
        options = [found] if isinstance(found, str) else found
        if isinstance(options, (set, frozenset)):
            options = sorted(options, key=str)  # a set has another order in each process
        if not isinstance(options, (list, tuple)) or not all(isinstance(s, str) for s in options):
            raise TypeError(
                f"synonyms[{word!r}] is {describe(found)}; expected a str, or a list of str."
            )
        if not all(s.strip() for s in options):
            raise ValueError(f"synonyms[{word!r}] holds an empty str.")
        table[_composed(word)] = list(options)
    return table


def dictionary_source(table: Mapping[str, Sequence[str]]) -> Source:
    """Look words up as they are, else in lower case."""

    def find(word: str) -> Sequence[str]:
        word = _composed(word)
        return table.get(word) or table.get(word.lower(), ())

    return lambda words: map(find, words)


def _composed(word: str) -> str:
    # An accent is part of its letter, or a code point of its own.
    return unicodedata.normalize("NFC", word)


# ------------------------------------------------------------------------------- WordNet


def wordnet_source(language: str) -> Source:
    """Other words of all synsets of a word.

    Raises
    ------
    ImportError
        If NLTK is not installed.
    ValueError
        If its data are not on this machine or do not know the language.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.corpus.reader.wordnet import WordNetError
    except ImportError as error:
        raise ImportError(
            'synonyms="wordnet" needs the library NLTK: pip install sktransformers[augment]'
        ) from error
    try:
        wordnet.synsets("word", lang=language)
    except LookupError as error:
        data = "wordnet" if language == "eng" else "wordnet omw-1.4"
        raise ValueError(
            f'synonyms="wordnet": the data of WordNet are not on this machine. Download them '
            f"with: python -m nltk.downloader {data}"
        ) from error
    except WordNetError as error:
        raise ValueError(
            f"language={language!r} is none that WordNet knows; expected a code of three "
            f'letters, such as "eng" or "por".'
        ) from error

    def find(word: str) -> list[str]:
        synsets = wordnet.synsets(_composed(word).replace(" ", "_"), lang=language)
        names = [name for synset in synsets for name in synset.lemma_names(language)]
        return [name.replace("_", " ") for name in names]

    return lambda words: map(find, words)


# ---------------------------------------------------------------------------- neighbours


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(rf"[^\W\d_](?:[^\W\d_]|[{marks()}])*")


def whole_words(tokenizer: Any) -> tuple[np.ndarray, list[str]]:
    """Tokens that are words by themselves, and those words.

    Returns
    -------
    ids : ndarray of int
        Ids of the tokens.
    words : list of str
        The words, all letters; inside a text each becomes its token again.
    """
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    words = [word.strip() for word in tokenizer.batch_decode([[i] for i in ids])]
    found = [(i, word) for i, word in zip(ids, words) if _letters().fullmatch(word)]
    again = _token(tokenizer, [word for _, word in found])
    found = [pair for pair, token in zip(found, again) if token == pair[0]]
    return np.array([i for i, _ in found], np.int64), [word for _, word in found]


def _token(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The token that each word is inside a text; -1 for one that is several."""
    space = " " if needs_spaces(tokenizer) else ""
    ids = tokenize(tokenizer, [space + word for word in words])
    return [word[0] if len(word) == 1 else -1 for word in ids]


def neighbour_source(weight: np.ndarray, tokenizer: Any, n_neighbors: int) -> Source:
    """The words whose vectors have the largest cosines with that of a word.

    Parameters
    ----------
    weight : ndarray of float32 and shape (n_tokens, width)
        A vector a token.
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it.
    n_neighbors : int
        Number of neighbours.
    """
    ids, names = whole_words(tokenizer)
    vectors = weight[ids]
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    place = {int(token): i for i, token in enumerate(ids)}

    def find(words: Sequence[str]) -> Iterable[Sequence[str]]:
        places = [place.get(token, -1) for token in _token(tokenizer, words)]
        known = [i for i in places if i >= 0]
        nearest: dict[int, list[str]] = {-1: []}
        for begin in range(0, len(known), _CHUNK):
            some = known[begin : begin + _CHUNK]
            cosines = vectors[some] @ vectors.T
            for i, row in zip(some, cosines):
                # The word itself, and it in another case, are not meant.
                row[i] = -np.inf
                most = min(2 * n_neighbors, len(row))
                best = np.argpartition(-row, most - 1)[:most]
                best = best[np.lexsort((best, -row[best]))]
                own = names[i].lower()
                others = [names[j] for j in best if names[j].lower() != own]
                nearest[i] = others[:n_neighbors]
        return [nearest[i] for i in places]

    return find
