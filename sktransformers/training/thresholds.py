"""Thresholds on the probabilities of labels of which a row has any number."""

from typing import Any

import numpy as np

# Present labels of all kinds that vote on the threshold of each label beside its own. GoEmotions
# tuned on 300 rows: micro and macro F1 0.534 and 0.402 with 10, 0.541 and 0.399 with 50, 0.544 and
# 0.386 with one threshold for all; tuned on 60 rows, a vote for each label costs 0.2 of micro F1.
_PRIOR = 50.0
_MOST_CUTS = 1_000


def best_thresholds(proba: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Threshold of each label at its largest F1; labels that are rare follow the others.

    With :math:`N_c(t)` entries of label c above t, :math:`T_c(t)` of them present, :math:`P_c`
    present in all, and N, T, P the same of all labels together, it is the t with the largest

    .. math:: F_c(t) = \frac{2\,(T_c(t) + m\,T(t)/P)}{N_c(t) + P_c + m\,(N(t)/P + 1)},

    the F1 that the label would have with m = 50 present entries more which are like those of all
    labels. The best threshold of a handful of entries alone is hardly better than chance.

    Parameters
    ----------
    proba, targets : ndarray of shape (n_rows, n_labels)
        Probabilities, and 1 where a row has a label, else 0.
    weights : ndarray of shape (n_rows,)
        Weights of the rows.

    Returns
    -------
    thresholds : ndarray of shape (n_labels,)
        To be exceeded; one half if no row has any label.
    """
    n_labels, present = proba.shape[1], targets > 0
    cuts = _cuts(proba, present)
    if len(cuts) == 0:
        return np.full(n_labels, 0.5)
    weights = weights / weights.mean()
    entry_weights = np.broadcast_to(weights[:, None], proba.shape)
    # An entry with k in its bin is above the first k cuts.
    size = len(cuts) + 1
    bins = np.searchsorted(cuts, proba) + np.arange(n_labels) * size

    def above(entries: Any) -> np.ndarray:
        sums = np.bincount(bins[entries].ravel(), entry_weights[entries].ravel(), n_labels * size)
        return np.cumsum(sums.reshape(n_labels, size)[:, :0:-1], axis=1)[:, ::-1]

    found, right = above(...), above(np.nonzero(present))
    presence = weights @ present
    total = presence.sum()
    right += _PRIOR * right.sum(axis=0) / total
    found += _PRIOR * found.sum(axis=0) / total
    return cuts[np.argmax(right / (found + presence[:, None] + _PRIOR), axis=1)]


def best_share(proba: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Share of all entries above the threshold at the largest F1 of all labels together.

    Parameters are as in `best_thresholds`.
    """
    entries = proba.reshape(-1, 1)
    weights = np.repeat(weights, proba.shape[1])
    return float((entries > best_thresholds(entries, targets.reshape(-1, 1), weights)).mean())


def threshold_of(proba: np.ndarray, share: float) -> float:
    """The threshold that a share of all entries of proba is above."""
    return float(np.clip(np.quantile(proba, 1.0 - share), np.finfo(float).tiny, 1 - 1e-16))


def _cuts(proba: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Thresholds at which an F1 may be largest: each just below a present entry, ascending."""
    values = np.unique(proba[present])
    if len(values) > _MOST_CUTS:
        values = values[np.linspace(0, len(values) - 1, _MOST_CUTS).round().astype(int)]
    each = np.unique(proba)
    before = np.searchsorted(each, values) - 1
    below = np.where(before >= 0, each[before], 0.0)
    return np.minimum((below + values) / 2, np.nextafter(values, 0.0))
