"""Scores of texts against texts, between 0 and 1."""

import functools
import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from sktransformers.inputs.validation import as_texts, check_weights

_LIBRARIES = {"rougeL": "rouge_score", "chrf": "sacrebleu", "bleu": "sacrebleu"}


def check_library(metric: str) -> None:
    """Check that what a metric needs is installed.

    Raises
    ------
    ImportError
        If it is not.
    """
    library = _LIBRARIES.get(metric)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ImportError(
            f"metric={metric!r} needs the library {library.replace('_', '-')}: pip install "
            f"sktransformers[text2text]"
        )


def normalised(text: str) -> str:
    """A text as `exact_match_score` compares it, see there."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split()) or " ".join(folded.split())


def exact_match_score(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Share of predictions that are the true text, but for case, punctuation and spaces.

    As for SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1), for any language: both
    texts are folded (Unicode NFKC and ``str.casefold``: no matter whether an accent is a character
    of its own), punctuation (Unicode's classes P*) is deleted, and runs of spaces are one. Letters
    keep their accents, and articles stay, which SQuAD's English script deletes. A text of
    punctuation alone keeps it.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted texts.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    score : float

    Examples
    --------
    >>> from sktransformers.metrics import exact_match_score
    >>> exact_match_score(["São Paulo", "in 1822"], ["são paulo.", "1822"])
    0.5
    """
    true, pred = _same_length(y_true, y_pred)
    return _mean([normalised(a) == normalised(b) for a, b in zip(true, pred)], sample_weight)


def token_f1_score(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Mean F1 score of the words that a prediction and the true text have in common.

    As for SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1), with texts as in
    `exact_match_score`. Words are what stands between spaces: for languages that write none there
    is `chrf_score`.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `exact_match_score`.

    Returns
    -------
    score : float

    Examples
    --------
    >>> from sktransformers.metrics import token_f1_score
    >>> token_f1_score(["in the old town"], ["the old harbour"])
    0.5714285714285714
    """
    true, pred = _same_length(y_true, y_pred)
    return _mean([_f1(normalised(a), normalised(b)) for a, b in zip(true, pred)], sample_weight)


def _f1(true: str, pred: str) -> float:
    a, b = Counter(true.split()), Counter(pred.split())
    return 2 * (a & b).total() / (a.total() + b.total()) if a or b else 1.0


def rouge_l_score(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Mean ROUGE-L: F1 score of the longest common subsequence of words.

    Lin 2004 (ROUGE: a package for automatic evaluation of summaries), computed by rouge-score.
    Words are runs of letters and digits of any alphabet, with their accents, whatever the case;
    those of rouge-score itself are of ASCII alone. Nothing is stemmed.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `exact_match_score`.

    Returns
    -------
    score : float

    Raises
    ------
    ImportError
        If rouge-score is missing, which the extra ``text2text`` brings.

    Examples
    --------
    >>> from sktransformers.metrics import rouge_l_score
    >>> rouge_l_score(["the tram was late"], ["the tram is late"])  # doctest: +SKIP
    0.75
    """
    true, pred = _same_length(y_true, y_pred)
    scorer = _rouge()
    return _mean([scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(true, pred)], sample_weight)


class _Words:
    """Splits texts for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        folded = unicodedata.normalize("NFKC", text).casefold()
        # Marks and letters: a vowel sign of Devanagari is no letter to Python.
        return "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in folded).split()


@functools.cache
def _rouge() -> Any:
    check_library("rougeL")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def bleu_score(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """BLEU of all predictions together: precision of n-grams of up to four words.

    Papineni et al. 2002 (BLEU: a method for automatic evaluation of machine translation), computed
    by sacrebleu (Post 2018, arXiv:1804.08771) with its defaults, and divided by 100.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted texts.
    sample_weight : None
        Not for a score of all rows together.

    Returns
    -------
    score : float

    Raises
    ------
    ImportError
        If sacrebleu is missing, which the extra ``text2text`` brings.
    ValueError
        If there are weights.

    Examples
    --------
    >>> from sktransformers.metrics import bleu_score
    >>> bleu_score(["the tram was late again"], ["the tram was late again"])  # doctest: +SKIP
    1.0
    """
    return _of_corpus("bleu", "BLEU", y_true, y_pred, sample_weight)


def chrf_score(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """ChrF of all predictions together: F2 score of n-grams of up to six characters.

    Popovic 2015 (chrF: character n-gram F-score for automatic MT evaluation), computed by
    sacrebleu with its defaults, and divided by 100.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `bleu_score`.

    Returns
    -------
    score : float

    Raises
    ------
    ImportError, ValueError
        As `bleu_score`.

    Examples
    --------
    >>> from sktransformers.metrics import chrf_score
    >>> chrf_score(["the tram was late"], ["the tram was late"])  # doctest: +SKIP
    1.0
    """
    return _of_corpus("chrf", "CHRF", y_true, y_pred, sample_weight)


def _of_corpus(metric: str, name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> float:
    if sample_weight is not None:
        raise ValueError(
            f"sample_weight and the metric {metric!r} contradict each other: it is of all rows "
            f"together. Mean scores of rows are rougeL, token_f1 and exact_match."
        )
    true, pred = _same_length(y_true, y_pred)
    check_library(metric)
    import sacrebleu.metrics

    score = getattr(sacrebleu.metrics, name)().corpus_score(pred, [true])
    return min(1.0, score.score / 100)  # rounding may leave a little more


def _same_length(y_true: Any, y_pred: Any) -> tuple[list[str], list[str]]:
    true, pred = list(as_texts(y_true, "y_true")), list(as_texts(y_pred, "y_pred"))
    if len(true) != len(pred):
        raise ValueError(f"y_true has {len(true)} texts, but y_pred has {len(pred)}.")
    return true, pred


def _mean(scores: list[Any], sample_weight: Any) -> float:
    return float(np.average(scores, weights=check_weights(sample_weight, len(scores))))


# By the names of the parameter ``metric``.
METRICS: dict[str, Callable[..., float]] = {
    "token_f1": token_f1_score,
    "exact_match": exact_match_score,
    "rougeL": rouge_l_score,
    "chrf": chrf_score,
    "bleu": bleu_score,
}
