"""The head's start: a linear probe on the frozen backbone's pooled vectors (LP-FT)."""

import warnings
from collections.abc import Callable
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV

from sktransformers.training.thresholds import best_share

# Inverse regularisation strengths, on vectors scaled to a mean squared entry of one.
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
# Penalties of ridge regression, a row, on the same scale.
_PENALTIES = np.logspace(-3, 4, 15)
_FOLDS = 3
_MAX_ROWS_CV = 2_000
# Share of the calibrated logits that the head starts with. At 600 rows, ag_news wants less of
# the probe (0.87 accuracy at 1.0, 0.89 at 0.5, one seed) and clinc150 more (0.79 at 0.3, 0.80).
SHARE = 0.5
_LOG_SMALLEST = np.log(1e-3)  # logits are scaled down no further
MAX_ROWS = 10_000
_MAX_ENTRIES = 3 * MAX_ROWS  # of soft targets, each a row of a logistic regression
_MAX_LOGITS = 3_000_000  # of a multi-label probe, and of class means
_MOST_LOGISTIC = 10_000_000  # rows times classes of a logistic probe
_MANY_LABELS = 100


@torch.no_grad()
def start_layer(
    layer: torch.nn.Linear, vectors: np.ndarray, coef: np.ndarray, intercept: np.ndarray
) -> None:
    """Give a linear layer the weights of a probe.

    Parameters
    ----------
    layer : Linear
    vectors : ndarray of shape (n_rows, width)
        What the probe read.
    coef, intercept : ndarray of shape (n_outputs, width) and (n_outputs,)
        Of a layer without bias the weights say both, as well as they can near the mean of vectors.
    """
    if layer.bias is None:
        mean = vectors.mean(axis=0, dtype=np.float64)
        coef = coef + np.outer(intercept, mean / max(mean @ mean, np.finfo(float).tiny))
    else:
        layer.bias.copy_(torch.from_numpy(intercept))
    layer.weight.copy_(torch.from_numpy(coef))


def probe_rows(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows a probe reads: all, or a random sample of about 10,000 targets.

    Parameters
    ----------
    sizes : ndarray of shape (n_rows,) or (n_rows, n_tasks)
        Targets of each row: one, or its number of words; of several tasks, each gets its sample.
    rng : numpy.random.Generator
        Source of the sample.
    """
    sizes = sizes.reshape(len(sizes), -1)
    if (sizes.sum(axis=0) <= MAX_ROWS).all():
        return np.arange(len(sizes))
    order = rng.permutation(len(sizes))
    before = np.cumsum(sizes[order], axis=0) - sizes[order]
    wanted = (before < MAX_ROWS) & (sizes[order] > 0)
    return np.sort(order[wanted.any(axis=1)])


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

    Where rows times classes are more than 10 million, the regression would take too long, and
    the logits are those of `centroids`.

    On few rows even the best probe fits them far better than new ones, and a head that is
    sure of its training rows gives the backbone no gradient to learn from. So its logits
    are scaled down until the loss on the training rows is that on held-out rows, and then
    by half: the head is to show the way, fine-tuning is to go it.

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
    if len(codes) * n_classes > _MOST_LOGISTIC:
        return centroids(vectors, codes, weights, n_classes, rng)
    return _logistic(vectors, np.arange(len(codes)), codes, weights, codes, n_classes, rng)


def centroids(
    vectors: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Weights and bias of a classifier by the nearest class mean, for very many classes.

    With :math:`m_c` the mean of the vectors of a class, drawn to that of all as by one more
    row, the logits are :math:`s (m_c \cdot x - |m_c|^2 / 2) + \log n_c`: Gaussian classes of
    equal width. s has the smallest loss on some rows, each left out of its own class mean.
    Then all logits are halved, as in `logistic_probe`, whose parameters these are.
    """
    center = np.average(vectors, axis=0, weights=weights)
    scale = np.sqrt(np.mean((vectors - center) ** 2)) or 1.0
    scaled = (vectors - center) / scale
    weights = weights / weights.mean()
    counts = np.bincount(codes, weights, minlength=n_classes)
    sums = np.zeros((n_classes, vectors.shape[1]))
    np.add.at(sums, codes, weights[:, None] * scaled)
    means = sums / (counts + 1.0)[:, None]
    prior = np.log(counts + 0.5)
    some = rng.permutation(len(codes))[: max(1, _MAX_LOGITS // n_classes)]
    x, own = scaled[some], codes[some]
    near = x @ means.T - 0.5 * (means**2).sum(axis=1)
    left = (sums[own] - weights[some, None] * x) / (counts[own] - weights[some] + 1.0)[:, None]
    near[np.arange(len(some)), own] = (x * left).sum(axis=1) - 0.5 * (left**2).sum(axis=1)

    def loss(log_s: float) -> float:
        log_proba = log_softmax(np.exp(log_s) * near + prior, axis=1)
        return -float(np.average(log_proba[np.arange(len(some)), own], weights=weights[some]))

    s = np.exp(minimize_scalar(loss, bounds=(_LOG_SMALLEST, 3.0), method="bounded").x)
    coef = SHARE * s * means / scale
    bias = SHARE * (prior - 0.5 * s * (means**2).sum(axis=1))
    return coef, bias - coef @ center


def soft_probe(
    vectors: np.ndarray, targets: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`logistic_probe` of rows whose targets are probabilities.

    A row stands in the regression once for each class, with its probability as a weight; where
    that would be too many rows, once, for its most probable class.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, width)
        Pooled vectors.
    targets : ndarray of shape (n_rows, n_classes)
        Probabilities.
    weights, rng
        As in `logistic_probe`.

    Returns
    -------
    coef : ndarray of shape (n_classes, width)
    intercept : ndarray of shape (n_classes,)
    """
    top = targets.argmax(axis=1)
    if np.count_nonzero(targets) > _MAX_ENTRIES:
        return logistic_probe(vectors, top, weights, targets.shape[1], rng)
    rows, codes = np.nonzero(targets)
    weights = weights[rows] * targets[rows, codes]
    return _logistic(vectors, rows, codes, weights, top, targets.shape[1], rng)


def binary_probe(
    vectors: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    pos_weight: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights and bias of a regularised logistic regression for each of several labels.

    All labels share the strength with the best held-out log-likelihood of all together. Logits
    are then drawn to those that each label has without any vector, as in `logistic_probe` to
    zero: until the loss on the training rows is that on held-out rows, and by half again.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, width)
        Pooled vectors.
    targets : ndarray of shape (n_rows, n_labels)
        1 where a row has a label, else 0. A label that all rows have, or none, keeps a zero row.
    weights : ndarray of shape (n_rows,)
        Sample weights.
    pos_weight : ndarray of shape (n_labels,) or None
        Weight of each label where it is present.
    rng : numpy.random.Generator
        Source of the folds.

    Returns
    -------
    coef : ndarray of shape (n_labels, width)
    intercept : ndarray of shape (n_labels,)
    share : float
        Share of all entries that are above the threshold with the largest F1 of all labels
        together, on held-out rows; without any, the share of labels that rows have.
    """
    n_labels = targets.shape[1]
    rows = np.sort(rng.permutation(len(targets))[: max(1, _MAX_LOGITS // n_labels)])
    vectors, targets, weights = vectors[rows], targets[rows].astype(np.float64), weights[rows]
    center = np.average(vectors, axis=0, weights=weights)
    scale = np.sqrt(np.mean((vectors - center) ** 2)) or 1.0
    scaled = (vectors - center) / scale
    entry_weights = np.repeat(weights[:, None] / weights.mean(), n_labels, axis=1)
    if pos_weight is not None:
        entry_weights *= np.where(targets > 0, pos_weight, 1.0)
    # Half a row more of both: also a label that all rows have gets odds.
    present = (entry_weights * targets).sum(axis=0) + 0.5
    base = np.log(present / (entry_weights.sum(axis=0) - present + 1.0))
    varied = np.flatnonzero((targets != targets[0]).any(axis=0))
    coef, intercept = np.zeros((n_labels, vectors.shape[1])), base.copy()
    if len(varied) == 0:
        return coef, intercept, float(targets.mean())
    problem = scaled, targets[:, varied], entry_weights[:, varied]
    found = _best_shared_strength(*problem, base[varied], rng)
    strength, held_out_loss, held_out, logits = found
    share = targets.copy()
    if len(held_out):
        some = targets[held_out][:, varied]
        share[:, varied] = best_share(expit(logits), some, weights[held_out])
    coef[varied], intercept[varied] = _fit_labels(strength, *problem)
    moved = scaled @ coef[varied].T + intercept[varied] - base[varied]

    def loss(factor: float) -> float:
        return _binary_loss(base[varied] + factor * moved, *problem[1:])

    factor = SHARE * calibrating_factor(loss, held_out_loss)
    coef *= factor / scale
    return coef, base + factor * (intercept - base) - coef @ center, float(share.mean())


def _logistic(
    vectors: np.ndarray,
    rows: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    top: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """`logistic_probe` of entries: which row, which class, what weight; top is a class a row."""
    coef = np.zeros((n_classes, vectors.shape[1]))
    intercept = np.full(n_classes, -np.inf)
    if (codes == codes[0]).all():  # a sample may miss a rare class; there is nothing to tell
        return coef, np.zeros(n_classes)
    row_weights = np.bincount(rows, weights, minlength=len(vectors))
    center = np.average(vectors, axis=0, weights=row_weights)
    scale = np.sqrt(np.mean((vectors - center) ** 2)) or 1.0
    scaled = (vectors - center) / scale
    # A mean weight of one, or the penalty would depend on the unit of the weights.
    weights = weights / row_weights.mean()
    strength, held_out_loss = _best_strength(scaled, rows, codes, weights, top, rng)
    model = _fit(strength, scaled[rows], codes, weights)
    coef[model.classes_], intercept[model.classes_] = _softmax_form(model)
    intercept[np.isinf(intercept)] = intercept[model.classes_].min()
    logits = scaled @ coef.T + intercept

    def loss(factor: float) -> float:
        log_proba = log_softmax(factor * logits, axis=1)
        return -np.average(log_proba[rows, codes], weights=weights)

    factor = SHARE * calibrating_factor(loss, held_out_loss)
    coef *= factor / scale
    return coef, factor * intercept - coef @ center


def ridge_probe(
    vectors: np.ndarray, values: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a ridge regression of standardised targets on vectors.

    The strength of the penalty has the smallest leave-one-out error, in closed form, for each of
    several outputs by itself. As in
    `logistic_probe`, predictions are then drawn to the mean until the error on the training
    rows is the leave-one-out error, and by half again.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, width)
        Pooled vectors.
    values : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Standardised targets.
    weights : ndarray of shape (n_rows,)
        Sample weights.
    rng : numpy.random.Generator
        Source of the rows that choose the strength.

    Returns
    -------
    coef : ndarray of shape (n_outputs, width)
    intercept : ndarray of shape (n_outputs,)
    """
    mean = np.atleast_1d(np.average(values, axis=0, weights=weights))
    if len(values) < 3 or (values == values[0]).all():
        return np.zeros((len(mean), vectors.shape[1])), mean
    center = np.average(vectors, axis=0, weights=weights)
    scale = np.sqrt(np.mean((vectors - center) ** 2)) or 1.0
    scaled = (vectors - center) / scale
    weights = weights / weights.mean()
    rows = rng.permutation(len(values))[:_MAX_ROWS_CV]
    chosen = RidgeCV(
        _PENALTIES * len(rows), store_cv_results=True, alpha_per_target=values.ndim == 2
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # without a row that has all the weight
        chosen.fit(scaled[rows], values[rows], sample_weight=weights[rows])
    # Ridge of the whole is as strong a row as that of the sample.
    model = Ridge(chosen.alpha_ * len(values) / len(rows))
    model.fit(scaled, values, sample_weight=weights)
    fitted = model.predict(scaled).reshape(len(values), -1) - mean
    about_mean = values.reshape(fitted.shape) - mean
    losses = -np.atleast_1d(chosen.best_score_)
    factors = map(_shrinking_factor, about_mean.T, fitted.T, repeat(weights), losses)
    share = SHARE * np.fromiter(factors, np.float64)
    coef = share[:, None] * np.atleast_2d(model.coef_) / scale
    return coef, mean + share * (model.intercept_ - mean) - coef @ center


def _shrinking_factor(
    values: np.ndarray, fitted: np.ndarray, weights: np.ndarray, loss: float
) -> float:
    """The largest factor in [0, 1] on the fitted values at which their squared error is a loss.

    The error is 1/W sum w (y - s f)^2 = a - 2 b s + c s^2 at factor s.
    """
    a, b, c = (
        float(np.average(product, weights=weights))
        for product in (values**2, values * fitted, fitted**2)
    )
    if c == 0:  # equal vectors throughout: nothing was fitted
        return 0.0
    if a - 2 * b + c >= loss:
        return 1.0
    root = b * b - c * (a - loss)  # positive: at s = 1 the error is below the loss
    return float(np.clip((b - np.sqrt(max(root, 0.0))) / c, 0.0, 1.0))


def _best_strength(
    scaled: np.ndarray,
    rows: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    top: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The strength with the smallest held-out loss, and that loss."""
    some = rng.permutation(len(scaled))[:_MAX_ROWS_CV]
    # Dealing out the rows class by class leaves about a third of each class in every fold.
    some = some[np.argsort(top[some], kind="stable")]
    place = np.full(len(scaled), -1)
    place[some] = np.arange(len(some))
    # All entries of a row are in one fold.
    entries = np.flatnonzero(place[rows] >= 0)
    entries = entries[np.argsort(place[rows[entries]], kind="stable")]
    fold = place[rows[entries]] % _FOLDS
    folds = []
    for k in range(_FOLDS):
        train, test = entries[fold != k], entries[fold == k]
        test = test[np.isin(codes[test], codes[train])]
        if len(np.unique(codes[train])) >= 2 and len(test) > 0:
            folds.append((train, test))
    total = sum(weights[test].sum() for _, test in folds)
    if total == 0:  # too few rows to hold any out: trust the probe least
        return _STRENGTHS[0], np.inf
    best, smallest = _STRENGTHS[0], np.inf
    for strength in _STRENGTHS:
        loss = 0.0
        for train, test in folds:
            model = _fit(strength, scaled[rows[train]], codes[train], weights[train])
            column = np.searchsorted(model.classes_, codes[test])
            coef, intercept = _softmax_form(model)
            log_proba = log_softmax(scaled[rows[test]] @ coef.T + intercept, axis=1)
            loss -= weights[test] @ log_proba[np.arange(len(test)), column]
        # From the best on, more of it only fits better what is there; and takes longest.
        if loss >= smallest:
            break
        best, smallest = strength, loss
    return best, smallest / total


def _best_shared_strength(
    scaled: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    base: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The strength with the smallest held-out loss of all labels, that loss, rows, logits."""
    rows = rng.permutation(len(targets))[:_MAX_ROWS_CV]
    if len(rows) < _FOLDS:  # too few rows to hold any out: trust the probe least
        return _STRENGTHS[0], np.inf, rows[:0], targets[:0]
    folds, strengths = range(_FOLDS), list(_STRENGTHS)
    if targets.shape[1] > _MANY_LABELS:  # so many regressions need not all be held out once
        folds, strengths = range(1), strengths[::2]
    fold = np.arange(len(rows)) % _FOLDS
    losses = np.zeros(len(strengths))
    total = 0.0
    held_out = []
    found: list[list[np.ndarray]] = [[] for _ in strengths]
    for k in folds:
        train, test = rows[fold != k], rows[fold == k]
        held_out.append(test)
        total += weights[test].sum()
        part = scaled[train], targets[train], weights[train]
        # What a label that does not vary there gets is what it has without any vector.
        varied = np.flatnonzero((part[1] != part[1][0]).any(axis=0))
        problem = part[0], part[1][:, varied], part[2][:, varied]
        for i, strength in enumerate(strengths):
            logits = np.repeat(base[None, :], len(test), axis=0)
            if len(varied):
                coef, intercept = _fit_labels(strength, *problem)
                logits[:, varied] = scaled[test] @ coef.T + intercept
            losses[i] += _binary_loss(logits, targets[test], weights[test], mean=False)
            found[i].append(logits)
    best = int(np.argmin(losses))
    rows, logits = np.concatenate(held_out), np.concatenate(found[best])
    return strengths[best], losses[best] / total, rows, logits


def _binary_loss(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, mean: bool = True
) -> float:
    """Binary cross-entropy, averaged over the weights of all entries or summed."""
    losses = np.logaddexp(0.0, logits) - targets * logits
    total = float(np.vdot(weights, losses))
    return total / float(weights.sum()) if mean else total


def _fit_labels(
    strength: float, scaled: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regressions of many labels at once, by L-BFGS.

    For each label the sum of the weighted losses plus :math:`|w|^2 / (2 strength)`, as in
    scikit-learn. Along the principal axes of the vectors the Hessian is about diagonal: scaled
    by the diagonal, a few iterations do for labels of any frequency.
    """
    n_labels = targets.shape[1]
    variances, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    inputs = np.hstack([scaled @ axes, np.ones((len(scaled), 1))])
    moments = np.append(np.maximum(variances, 0.0), 1.0)[:, None]
    total = weights.sum(axis=0)
    rate = (weights * targets).sum(axis=0) / total
    penalty = np.full((len(moments), 1), 1.0 / strength)
    penalty[-1] = 0.0  # the intercept
    root = np.sqrt(moments * total * rate * (1 - rate) + penalty)
    start = np.zeros_like(root)
    start[-1] = logit(rate) * root[-1]
    # 32 bits do for a start, in a third of the time where that is long.
    dtype = torch.float32 if n_labels > _MANY_LABELS else torch.float64
    x, y, w = (torch.from_numpy(part).to(dtype) for part in (inputs, targets, weights))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef = flat.reshape(root.shape) / root
        logits = x @ torch.from_numpy(coef).to(dtype)
        loss = ((F.softplus(logits) - y * logits) * w).sum(dtype=torch.float64).item()
        slopes = x.T @ ((logits.sigmoid() - y) * w)
        gradient = slopes.double().numpy() + penalty * coef
        return loss + 0.5 * float((penalty * coef**2).sum()), (gradient / root).ravel()

    # A start need not be converged to the last digit.
    options = {"maxiter": 30, "ftol": 1e-6, "gtol": 1e-4 * np.sqrt(len(scaled))}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    coef = found.x.reshape(len(moments), n_labels) / root
    return (axes @ coef[:-1]).T, coef[-1]


def calibrating_factor(mean_loss: Callable[[float], float], loss: float) -> float:
    """The factor in (0, 1] on logits at which their mean loss comes nearest to a loss."""

    def excess(log_factor: float) -> float:
        return loss - mean_loss(float(np.exp(log_factor)))

    if excess(0.0) <= 0:
        return 1.0
    if excess(_LOG_SMALLEST) >= 0:
        return float(np.exp(_LOG_SMALLEST))
    return float(np.exp(brentq(excess, _LOG_SMALLEST, 0.0, xtol=1e-3)))


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
