"""The head's start: a linear probe on the frozen backbone's pooled vectors (LP-FT)."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

# Inverse regularisation strengths, on vectors scaled to a mean squared entry of one.
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_FOLDS = 3
_MAX_ROWS_CV = 2_000
MAX_ROWS = 10_000


def probe_rows(n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The rows a probe reads: all, or a random sample of 10,000."""
    if n_rows <= MAX_ROWS:
        return np.arange(n_rows)
    return np.sort(rng.choice(n_rows, MAX_ROWS, replace=False))


def logistic_probe(
    vectors: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a regularised logistic regression on pooled vectors.

    Fine-tuning that starts from such a head keeps the features of the backbone where a
    random head would first distort them (Kumar et al. 2022, arXiv:2202.10054). The
    strength of the L2 penalty is the one with the best held-out log-likelihood.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, width)
        Pooled vectors.
    codes : ndarray of shape (n_rows,)
        Class positions.
    weights : ndarray of shape (n_rows,)
        Sample weights times class weights.
    n_classes : int
        Number of classes; one that no row has keeps a zero row and the lowest bias.
    rng : numpy.random.Generator
        Source of the folds.

    Returns
    -------
    coef : ndarray of shape (n_classes, width)
    intercept : ndarray of shape (n_classes,)
    """
    center = np.average(vectors, axis=0, weights=weights)
    scale = np.sqrt(np.mean((vectors - center) ** 2)) or 1.0
    scaled = (vectors - center) / scale
    # A mean weight of one, or the penalty would depend on the unit of the weights.
    weights = weights / weights.mean()
    strength = _best_strength(scaled, codes, weights, rng)
    model = _fit(strength, scaled, codes, weights)
    coef = np.zeros((n_classes, vectors.shape[1]))
    intercept = np.full(n_classes, -np.inf)
    coef[model.classes_], intercept[model.classes_] = _softmax_form(model)
    intercept[np.isinf(intercept)] = intercept[model.classes_].min()
    coef /= scale
    return coef, intercept - coef @ center


def _best_strength(
    scaled: np.ndarray, codes: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> float:
    rows = rng.permutation(len(codes))[:_MAX_ROWS_CV]
    # Dealing out the rows class by class leaves about a third of each class in every fold.
    rows = rows[np.argsort(codes[rows], kind="stable")]
    fold = np.empty(len(codes), dtype=int)
    fold[rows] = np.arange(len(rows)) % _FOLDS
    scores = np.zeros(len(_STRENGTHS))
    for k in range(_FOLDS):
        train, test = rows[fold[rows] != k], rows[fold[rows] == k]
        test = test[np.isin(codes[test], codes[train])]
        if len(np.unique(codes[train])) < 2 or len(test) == 0:
            continue
        for i, strength in enumerate(_STRENGTHS):
            model = _fit(strength, scaled[train], codes[train], weights[train])
            column = np.searchsorted(model.classes_, codes[test])
            log_proba = model.predict_log_proba(scaled[test])
            scores[i] += weights[test] @ log_proba[np.arange(len(test)), column]
    return _STRENGTHS[int(np.argmax(scores))]


def _fit(
    strength: float, scaled: np.ndarray, codes: np.ndarray, weights: np.ndarray
) -> LogisticRegression:
    with warnings.catch_warnings():
        # A start need not be converged to the last digit.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, tol=1e-3, max_iter=200).fit(
            scaled, codes, sample_weight=weights
        )


def _softmax_form(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    # Two classes have one logit z there; the softmax of (-z / 2, z / 2) is the same.
    sign = np.array([[-0.5], [0.5]])
    return sign * model.coef_, (sign * model.intercept_)[:, 0]
