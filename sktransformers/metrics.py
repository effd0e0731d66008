"""Scores of taggers by span and by word, of texts and of numbers, with scorers."""

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import make_scorer
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
)

from sktransformers.inputs.validation import check_no_texts, check_weights, describe, shown
from sktransformers.inputs.words import as_list, lists_in
from sktransformers.text_metrics import (
    bleu_score,
    chrf_score,
    exact_match_score,
    rouge_l_score,
    token_f1_score,
)

__all__ = [
    "spans",
    "span_f1_score",
    "span_precision_score",
    "span_recall_score",
    "span_classification_report",
    "word_accuracy_score",
    "pearson_score",
    "spearman_score",
    "token_f1_score",
    "exact_match_score",
    "rouge_l_score",
    "bleu_score",
    "chrf_score",
    "span_f1_scorer",
    "span_precision_scorer",
    "span_recall_scorer",
    "word_accuracy_scorer",
    "pearson_scorer",
    "spearman_scorer",
    "token_f1_scorer",
    "exact_match_scorer",
    "rouge_l_scorer",
    "bleu_scorer",
    "chrf_scorer",
]

_EXPECTED = "a list with a list of tags for each sentence"
_HINT = "The tags of one single sentence go into a list: [tags]."
_FORM = "'O', or a type behind B-, I-, E- or S-"


# ------------------------------------------------------------------------------------- spans


def spans(tags: Any) -> list[tuple[int, int, str]]:
    """Spans that the tags of one sentence mark.

    Parameters
    ----------
    tags : list, tuple, array or Series of str
        Tags of one sentence, as in ``["B-PER", "I-PER", "O"]``. The letter says whether the
        word begins (B), is inside (I) or ends (E) a span, or is one by itself (S). No
        sequence is ill-formed: they are grouped as conlleval does, and seqeval by default. A
        span also begins where an I- or E- follows no span or one of another type, and ends
        before the next O, B-, S- or other type. A letter without a type makes spans of the
        type ``"_"``.

    Returns
    -------
    spans : list of (int, int, str)
        Position of the first word, position behind the last word, and type.

    Examples
    --------
    >>> from sktransformers.metrics import spans
    >>> spans(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    row = as_list(tags)
    if row is None:
        raise ValueError(f"tags is {describe(tags)}; expected the list of tags of one sentence.")
    for j, tag in enumerate(row):
        _check_tag(tag, f"tags[{j}]")
    return _grouped(row)


def _grouped(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    found = []
    begin, before, type_before = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        letter, type_ = _letter_and_type(tag)
        other = type_ != type_before
        if before in "ES" or (before in "BI" and letter in "BSO") or (before not in "O." and other):
            found.append((begin, i, type_before))
        if letter in "BS" or (letter in "IE" and before in "ESO") or (letter not in "O." and other):
            begin = i
        before, type_before = letter, type_
    return found


@lru_cache(maxsize=4096)
def _letter_and_type(tag: str) -> tuple[str, str]:
    return tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_"


def _check_tag(tag: Any, where: str) -> None:
    if not isinstance(tag, str) or not tag:
        raise ValueError(f"{where} is {describe(tag)}; expected {_FORM}.")


# ------------------------------------------------------------------------- precision, recall, F1


def span_f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    labels: Sequence[str] | None = None,
    zero_division: str | float = "warn",
) -> Any:
    """F1 score of spans: harmonic mean of their precision and recall.

    A predicted span counts if one of y_true has the same first word, last word and type. The
    scores are those of ``seqeval.metrics.f1_score`` by default, ill-formed tags included.

    Parameters
    ----------
    y_true : list, tuple, array or Series
        Of lists of str: the true tags of each sentence, as ``spans`` reads them.
    y_pred : list, tuple, array or Series
        Predicted tags, as many in each sentence as in y_true.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        "micro" counts spans of all types together, "macro" averages the scores of the types,
        "weighted" does so by their number of true spans, and None returns one score a type.
    labels : list of str, default=None
        Types to look at, without B- or I-, in the order of the scores if ``average`` is None;
        None takes all that y_true or y_pred have, sorted.
    zero_division : {"warn", 0.0, 1.0, np.nan}, default="warn"
        Score where there is neither a true nor a predicted span. "warn" gives 0 and an
        ``UndefinedMetricWarning``; nan leaves the type out of averages.

    Returns
    -------
    score : float, or ndarray of shape (n_types,) if ``average`` is None

    Raises
    ------
    ValueError
        If the numbers of sentences or of tags in one differ, or a tag is no str.

    See Also
    --------
    span_classification_report : All scores in one table.
    word_accuracy_score : Fraction of tags that are right.

    Notes
    -----
    Without any span, seqeval averages nothing and returns nan for "macro"; here it is what
    ``zero_division`` says, as for the other averages.

    Examples
    --------
    >>> from sktransformers.metrics import span_f1_score
    >>> y_true = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]
    >>> y_pred = [["B-PER", "I-PER", "O"], ["B-LOC", "I-LOC"]]
    >>> span_f1_score(y_true, y_pred)
    0.5
    >>> span_f1_score(y_true, y_pred, average=None)
    array([0., 1.])
    """
    return _score("f1-score", y_true, y_pred, average, labels, zero_division)


def span_precision_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    labels: Sequence[str] | None = None,
    zero_division: str | float = "warn",
) -> Any:
    """Precision of spans: the fraction of predicted spans that are true.

    Parameters
    ----------
    y_true, y_pred : list, tuple, array or Series
        True and predicted tags of each sentence, as in ``span_f1_score``.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        As in ``span_f1_score``.
    labels : list of str, default=None
        As in ``span_f1_score``.
    zero_division : {"warn", 0.0, 1.0, np.nan}, default="warn"
        Score where no span is predicted. "warn" gives 0 and an ``UndefinedMetricWarning``;
        nan leaves the type out of averages.

    Returns
    -------
    score : float, or ndarray of shape (n_types,) if ``average`` is None

    Examples
    --------
    >>> from sktransformers.metrics import span_precision_score
    >>> span_precision_score([["B-PER", "O", "O"]], [["B-PER", "O", "B-PER"]])
    0.5
    """
    return _score("precision", y_true, y_pred, average, labels, zero_division)


def span_recall_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    labels: Sequence[str] | None = None,
    zero_division: str | float = "warn",
) -> Any:
    """Recall of spans: the fraction of true spans that are predicted.

    Parameters
    ----------
    y_true, y_pred : list, tuple, array or Series
        True and predicted tags of each sentence, as in ``span_f1_score``.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        As in ``span_f1_score``.
    labels : list of str, default=None
        As in ``span_f1_score``.
    zero_division : {"warn", 0.0, 1.0, np.nan}, default="warn"
        Score where there is no true span. "warn" gives 0 and an ``UndefinedMetricWarning``;
        nan leaves the type out of averages.

    Returns
    -------
    score : float, or ndarray of shape (n_types,) if ``average`` is None

    Examples
    --------
    >>> from sktransformers.metrics import span_recall_score
    >>> span_recall_score([["B-PER", "O", "B-PER"]], [["B-PER", "O", "O"]])
    0.5
    """
    return _score("recall", y_true, y_pred, average, labels, zero_division)


def span_classification_report(
    y_true: Any,
    y_pred: Any,
    *,
    digits: int = 2,
    output_dict: bool = False,
    zero_division: str | float = "warn",
) -> Any:
    """Precision, recall and F1 score of spans, by type and on average.

    Parameters
    ----------
    y_true, y_pred : list, tuple, array or Series
        True and predicted tags of each sentence, as in ``span_f1_score``.
    digits : int, default=2
        Digits behind the point.
    output_dict : bool, default=False
        Return a dict instead of a text.
    zero_division : {"warn", 0.0, 1.0, np.nan}, default="warn"
        Score where there is nothing to divide by, as in ``span_f1_score``.

    Returns
    -------
    report : str or dict
        The dict has an entry a type, then "micro avg", "macro avg" and "weighted avg", each a
        dict with "precision", "recall", "f1-score" and "support", the number of true spans.

    Examples
    --------
    >>> from sktransformers.metrics import span_classification_report
    >>> y_true = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]
    >>> y_pred = [["B-PER", "I-PER", "O"], ["B-LOC", "I-LOC"]]
    >>> print(span_classification_report(y_true, y_pred))
                  precision    recall  f1-score   support
    <BLANKLINE>
             LOC       0.00      0.00      0.00         1
             PER       1.00      1.00      1.00         1
    <BLANKLINE>
       micro avg       0.50      0.50      0.50         2
       macro avg       0.50      0.50      0.50         2
    weighted avg       0.50      0.50      0.50         2
    <BLANKLINE>
    """
    report, n_types = _report(y_true, y_pred, zero_division)
    return report if output_dict else _as_text(report, n_types, digits)


def _report(
    y_true: Any, y_pred: Any, zero_division: str | float
) -> tuple[dict[str, dict[str, Any]], int]:
    value = _check_zero_division(zero_division)
    types, counts = _count(y_true, y_pred, None)
    support = counts[2].tolist()
    columns = [_divide(metric, counts, value) for metric in _METRICS]
    report: dict[str, dict[str, Any]] = {}
    for i, type_ in enumerate(types):
        scores = {metric: float(column[i]) for metric, column in zip(_METRICS, columns)}
        report[type_] = {**scores, "support": support[i]}
    for average in ("micro", "macro", "weighted"):
        scores = {metric: _average(metric, counts, average, value) for metric in _METRICS}
        report[f"{average} avg"] = {**scores, "support": sum(support)}
    if zero_division == "warn":
        _warn_of_zeros(counts, _METRICS)
    return report, len(types)


def _as_text(report: dict[str, dict[str, Any]], n_types: int, digits: int) -> str:
    """The lines of seqeval's report."""
    width = max(digits, *map(len, report))
    header = "".join(f" {title:>9}" for title in (*_METRICS, "support"))
    lines = [f"{'':>{width}} {header}", ""]
    for i, (name, row) in enumerate(report.items()):
        if i == n_types and n_types:
            lines.append("")
        scores = "".join(f" {row[metric]:>9.{digits}f}" for metric in _METRICS)
        lines.append(f"{name:>{width}} {scores} {row['support']:>9}")
    return "\n".join([*lines, ""])


_METRICS = ("precision", "recall", "f1-score")
_LACKS = {"precision": "predicted", "recall": "true", "f1-score": "true nor predicted"}


def _score(
    metric: str,
    y_true: Any,
    y_pred: Any,
    average: str | None,
    labels: Sequence[str] | None,
    zero_division: str | float,
) -> Any:
    if average not in (None, "micro", "macro", "weighted"):
        raise ValueError(f"average is {average!r}; expected 'micro', 'macro', 'weighted' or None.")
    value = _check_zero_division(zero_division)
    _, counts = _count(y_true, y_pred, labels)
    if zero_division == "warn":
        _warn_of_zeros(
            counts.sum(axis=1, keepdims=True) if average == "micro" else counts, [metric]
        )
    if average is None:
        return _divide(metric, counts, value)
    return _average(metric, counts, average, value)


def _check_zero_division(zero_division: Any) -> float:
    if isinstance(zero_division, str) and zero_division == "warn":
        return 0.0
    if isinstance(zero_division, (int, float, np.number)) and not isinstance(zero_division, bool):
        value = float(zero_division)
        if value in (0.0, 1.0) or np.isnan(value):
            return value
    raise ValueError(f"zero_division is {zero_division!r}; expected 'warn', 0, 1 or nan.")


def _count(y_true: Any, y_pred: Any, labels: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """Types, and how many spans of each are right, predicted and true: shape (3, n_types)."""
    types = _check_types(labels)
    found = []
    for rows, name in zip(_same_lengths(y_true, y_pred), ("y_true", "y_pred")):
        _check_tags(rows, name)
        found.append({(i, *span) for i, row in enumerate(rows) for span in _grouped(row)})
    true, pred = found
    counters = [Counter(span[3] for span in some) for some in (true & pred, pred, true)]
    if types is None:
        types = sorted(counters[1].keys() | counters[2].keys())
    counts = [[counter[type_] for type_ in types] for counter in counters]
    return types, np.array(counts, dtype=np.int64)


def _check_types(labels: Any) -> list[str] | None:
    if labels is None:
        return None
    types = as_list(labels)
    if not types or len(set(types)) < len(types):
        raise ValueError(
            f"labels is {describe(labels)}; expected a list of distinct types, as ['LOC', 'PER']."
        )
    return types


def _same_lengths(y_true: Any, y_pred: Any) -> tuple[list[list[Any]], list[list[Any]]]:
    true = lists_in(y_true, "y_true", _EXPECTED, _HINT)
    pred = lists_in(y_pred, "y_pred", _EXPECTED, _HINT)
    if len(true) != len(pred):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: y_true has {len(true)} "
            f"sentences, y_pred has {len(pred)}."
        )
    bad = [i for i, (a, b) in enumerate(zip(true, pred)) if len(a) != len(b)]
    if bad:
        first = bad[0]
        raise ValueError(
            f"y_true[{first}] has {len(true[first])} tags, y_pred[{first}] has "
            f"{len(pred[first])}; expected as many ({len(bad)} of {len(true)} sentences differ "
            f"in length)."
        )
    return true, pred


def _check_tags(rows: list[list[Any]], name: str) -> None:
    odd = None
    for i, row in enumerate(rows):
        for j, tag in enumerate(row):
            _check_tag(tag, f"{name}[{i}][{j}]")
            if odd is None and not _is_span_tag(tag):
                odd = f"{name}[{i}][{j}] is {shown(tag)}"
    if odd:
        warnings.warn(
            f"{odd}, which is no tag of spans; expected {_FORM}. Scores by span mean little "
            f"for other tags, see word_accuracy_score.",
            UserWarning,
            stacklevel=5,
        )


def _is_span_tag(tag: str) -> bool:
    return tag == "O" or (tag[0] in "BIES" and tag[1:2] in ("", "-"))


def _divide(metric: str, counts: np.ndarray, value: float) -> np.ndarray:
    right, predicted, true = counts
    if metric == "f1-score":
        # Not 2 * right / (predicted + true): to the last bit as seqeval, which reports round.
        precision = right / np.maximum(predicted, 1)
        recall = right / np.maximum(true, 1)
        total = np.where(right > 0, precision + recall, 1.0)
        return np.where(predicted + true > 0, 2 * precision * recall / total, value)
    out_of = predicted if metric == "precision" else true
    return np.where(out_of > 0, right / np.maximum(out_of, 1), value)


def _average(metric: str, counts: np.ndarray, average: str, value: float) -> float:
    if average == "micro" or counts.shape[1] == 0:  # no span at all: one type without any
        return float(_divide(metric, counts.sum(axis=1, keepdims=True), value)[0])
    scores = _divide(metric, counts, value)
    known = ~np.isnan(scores)
    if not known.any():
        return float("nan")
    weights = counts[2][known]
    if average == "macro" or not weights.any():
        return float(scores[known].mean())
    return float(np.average(scores[known], weights=weights))


def _warn_of_zeros(counts: np.ndarray, metrics: Sequence[str]) -> None:
    """Warn, once for all metrics, if there is a type without spans to divide by."""
    counts = counts if counts.shape[1] else np.zeros((3, 1))
    for metric in metrics:
        undefined = np.isnan(_divide(metric, counts, float("nan")))
        if undefined.any():
            warnings.warn(
                f"{metric.capitalize()} is ill-defined and set to 0.0 where there are no "
                f"{_LACKS[metric]} spans ({int(undefined.sum())} of {len(undefined)}). Use the "
                f"`zero_division` parameter to control this.",
                UndefinedMetricWarning,
                stacklevel=4,
            )
            return


# ----------------------------------------------------------------------------------- words


def word_accuracy_score(y_true: Any, y_pred: Any) -> float:
    """Fraction of words with the right tag.

    Parameters
    ----------
    y_true : list, tuple, array or Series
        Of lists: the true tags of each sentence, of any type.
    y_pred : list, tuple, array or Series
        Predicted tags, as many in each sentence as in y_true.

    Returns
    -------
    score : float
        0.0, with an ``UndefinedMetricWarning``, if all sentences are empty.

    Raises
    ------
    ValueError
        If the numbers of sentences or of tags in one differ.

    Examples
    --------
    >>> from sktransformers.metrics import word_accuracy_score
    >>> word_accuracy_score([["DET", "NOUN"], ["VERB", "NOUN"]], [["DET", "NOUN"], ["NOUN"] * 2])
    0.75
    """
    true, pred = _same_lengths(y_true, y_pred)
    n_words = sum(map(len, true))
    if n_words == 0:
        warnings.warn(
            "Word accuracy is ill-defined and set to 0.0 where all sentences are empty.",
            UndefinedMetricWarning,
            stacklevel=2,
        )
        return 0.0
    return sum(a == b for rows in zip(true, pred) for a, b in zip(*rows)) / n_words


# ------------------------------------------------------------------------------ correlations


def pearson_score(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Pearson's linear correlation between truth and prediction.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted numbers.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; a weight of two is the row given twice.

    Returns
    -------
    score : float
        From -1 to 1. If y_true or y_pred is constant there is no correlation; the score is
        then 0.0, with an ``UndefinedMetricWarning``, where SciPy returns nan: a nan would spoil
        a grid search, and a constant prediction tells no two rows apart.

    See Also
    --------
    spearman_score : Correlation of the ranks.

    Examples
    --------
    >>> from sktransformers.metrics import pearson_score
    >>> round(pearson_score([1, 2, 3, 4], [1, 2, 3, 8]), 3)
    0.914
    """
    true, pred, weights = _check_numbers(y_true, y_pred, sample_weight)
    return _correlation(true, pred, weights)


def spearman_score(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Spearman's rank correlation between truth and prediction.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted numbers. Equal numbers share the mean of their ranks.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; a weight of two is the row given twice.

    Returns
    -------
    score : float
        From -1 to 1; 0.0, with an ``UndefinedMetricWarning``, if y_true or y_pred is constant,
        as in ``pearson_score``.

    Examples
    --------
    >>> from sktransformers.metrics import spearman_score
    >>> spearman_score([1, 2, 3, 4], [1, 2, 3, 8])
    1.0
    """
    true, pred, weights = _check_numbers(y_true, y_pred, sample_weight)
    return _correlation(_ranks(true, weights), _ranks(pred, weights), weights)


def _check_numbers(
    y_true: Any, y_pred: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for y, name in [(y_true, "y_true"), (y_pred, "y_pred")]:
        check_no_texts(y, name)
    true, pred = (
        column_or_1d(check_array(y, ensure_2d=False, dtype=np.float64, input_name=name))
        for y, name in [(y_true, "y_true"), (y_pred, "y_pred")]
    )
    check_consistent_length(true, pred)
    weights = check_weights(sample_weight, len(true))
    kept = weights > 0
    return true[kept], pred[kept], weights[kept]


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean rank of each value, less one half, if each row is there as often as it weighs."""
    _, group = np.unique(values, return_inverse=True)
    weight = np.bincount(group, weights)
    return (np.cumsum(weight) - weight / 2)[group]


def _correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    if len(a) == 0 or np.ptp(a) == 0 or np.ptp(b) == 0:
        warnings.warn(
            "Correlation is ill-defined and set to 0.0 where y_true or y_pred is constant.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
        return 0.0
    a, b = (_centred(values, weights) for values in (a, b))
    product = np.sqrt(np.average(a * a, weights=weights) * np.average(b * b, weights=weights))
    return float(np.clip(np.average(a * b, weights=weights) / product, -1.0, 1.0))


def _centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centred = values - np.average(values, weights=weights)
    return centred / np.abs(centred).max()  # squares of tiny differences would underflow


# ---------------------------------------------------------------------------------- scorers

# Functions of (estimator, X, y) for `scoring`. Of module level: a pickle names its function.
span_f1_scorer = make_scorer(span_f1_score)
span_precision_scorer = make_scorer(span_precision_score)
span_recall_scorer = make_scorer(span_recall_score)
word_accuracy_scorer = make_scorer(word_accuracy_score)
pearson_scorer = make_scorer(pearson_score)
spearman_scorer = make_scorer(spearman_score)
token_f1_scorer = make_scorer(token_f1_score)
exact_match_scorer = make_scorer(exact_match_score)
rouge_l_scorer = make_scorer(rouge_l_score)
bleu_scorer = make_scorer(bleu_score)
chrf_scorer = make_scorer(chrf_score)
