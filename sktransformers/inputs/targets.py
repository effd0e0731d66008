"""y and sample weights <-> arrays that a loss can read."""

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from sktransformers.inputs.batching import Ragged, take
from sktransformers.inputs.validation import describe, is_missing


@dataclass(frozen=True)
class Targets:
    """What a loss reads.

    Parameters
    ----------
    values : ndarray of shape (n_rows, ...) or Ragged
        The targets proper: one a row, or one a word.
    weights : ndarray of shape (n_rows,) or Ragged
        Weight of each target in the loss.
    strata : ndarray of int and shape (n_rows,)
        Groups of rows of which a validation split takes equal shares.
    """

    values: Any
    weights: Any
    strata: np.ndarray

    @property
    def row_weights(self) -> np.ndarray:
        """Weight of each row."""
        if isinstance(self.weights, Ragged):
            total = np.concatenate([[0.0], np.cumsum(self.weights.flat)])
            return np.diff(total[self.weights.start])
        return self.weights

    @property
    def sizes(self) -> np.ndarray:
        """Number of targets of each row."""
        if isinstance(self.values, Ragged):
            return self.values.lengths
        return np.ones(len(self.values), np.int64)

    def take(self, rows: np.ndarray) -> "Targets":
        """Some of the rows."""
        return Targets(take(self.values, rows), take(self.weights, rows), self.strata[rows])


@dataclass(frozen=True)
class ClassCoding:
    """Labels <-> positions among sorted classes, and what each class weighs.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    factors : ndarray of shape (n_classes,)
        Class weights.
    """

    classes: np.ndarray
    factors: np.ndarray

    @property
    def names(self) -> list[str]:
        """Name of each output."""
        return [str(label) for label in self.classes.tolist()]

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {"classes_": self.classes}

    def encode(self, labels: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Targets of labels; a label that is no class is an error."""
        codes = _positions(labels, self.classes, name)
        return Targets(codes, weights * self.factors[codes], strata=codes)


@dataclass(frozen=True)
class NumberCoding:
    """Numbers <-> their standardised form, (y - mean) / scale.

    Parameters
    ----------
    mean, scale : float
        Weighted mean and standard deviation of the training targets.
    """

    mean: float
    scale: float
    names: ClassVar[list[str]] = ["y"]

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {"target_mean_": self.mean, "target_scale_": self.scale}

    @classmethod
    def of(cls, y: np.ndarray, weights: np.ndarray) -> "NumberCoding":
        """Coding for targets y; targets that are all equal keep their unit."""
        mean = float(np.average(y, weights=weights))
        scale = float(np.sqrt(np.average((y - mean) ** 2, weights=weights)))
        return cls(mean, scale if scale > 1e-12 * max(1.0, abs(mean)) else 1.0)

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Standardised targets."""
        return Targets((y - self.mean) / self.scale, weights, np.zeros(len(y), np.int64))


def check_numbers(y: Any, n_samples: int, estimator_name: str, name: str = "y") -> np.ndarray:
    """One finite number a row as a one-dimensional array of float64.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Numbers in any container that X may have.
    n_samples : int
        Number of rows of X.
    estimator_name : str
        For the message when y is missing altogether.
    name : str, default="y"
        What messages call y.

    Raises
    ------
    ValueError
        If y is None, of another length than X, has several columns, or holds something
        that is no finite number.
    """
    given = _one_a_row(y, n_samples, estimator_name, name)
    if given.dtype.kind not in "biuf":
        for i, value in enumerate(given.tolist()):
            if not isinstance(value, (Real, Decimal)) and not is_missing(value):
                raise ValueError(
                    f"{name}[{i}] is {describe(value)}; a regressor expects numbers in {name}."
                )
    _check_entries(given, name)
    numbers = given.astype(np.float64)
    _check_entries(numbers, name)
    return numbers


def check_labels(y: Any, n_samples: int, estimator_name: str, name: str = "y") -> np.ndarray:
    """One label a row as a one-dimensional array, in the type the labels came in.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        str, int, bool or categorical labels in any container that X may have.
    n_samples : int
        Number of texts.
    estimator_name : str
        For the message when y is missing altogether.
    name : str, default="y"
        What messages call y.

    Returns
    -------
    labels : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If y is None, of another length than X, has several columns, misses a label, mixes
        strings with numbers, or is continuous.
    """
    labels = _one_a_row(y, n_samples, estimator_name, name)
    _check_entries(labels, name)
    check_classification_targets(labels)
    return labels


def _one_a_row(y: Any, n_samples: int, estimator_name: str, name: str) -> np.ndarray:
    """y as a one-dimensional array of n_samples entries, which are not looked at."""
    if y is None:
        raise ValueError(
            f"This {estimator_name} estimator requires y to be passed, but the target y is None."
        )
    if hasattr(y, "to_pylist"):
        y = y.to_pylist()
    given = _to_array(y, name)
    if given.ndim > 1:
        given = column_or_1d(given, warn=True)
    if given.ndim == 0:
        raise ValueError(f"{name} is a single value; expected one a row.")
    if len(given) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: "
            f"X{name[1:]} has {n_samples} rows, {name} has {len(given)}."
        )
    return given


def _to_array(y: Any, name: str) -> np.ndarray:
    if isinstance(y, (list, tuple)) and not all(isinstance(v, (list, tuple)) for v in y):
        # np.asarray would turn ["a", 1] into two strings without a word.
        labels = np.empty(len(y), dtype=object)
        labels[:] = y
        if not any(is_missing(v) for v in y) and not _mixed(labels):
            labels = np.asarray(y)
        return labels
    labels = np.asarray(y)
    # NumPy's variable-width strings and pandas' masked types are unknown to type_of_target.
    if labels.dtype.kind == "T":
        return labels.astype(object)
    return labels


def _mixed(labels: np.ndarray) -> bool:
    return len({isinstance(v, str) for v in labels}) > 1


def _check_entries(labels: np.ndarray, name: str) -> None:
    if labels.dtype.kind == "O":
        missing = np.array([is_missing(v) for v in labels], dtype=bool)
    elif labels.dtype.kind == "f":
        missing = np.isnan(labels)
        if np.isinf(labels).any():
            raise ValueError(
                f"Input {name} contains infinity or a value too large for "
                f"{labels.dtype!r} (position {int(np.flatnonzero(np.isinf(labels))[0])})."
            )
    else:
        return
    if missing.any():
        first = int(np.flatnonzero(missing)[0])
        raise ValueError(
            f"Input {name} contains NaN: {name}[{first}] is missing ({labels.tolist()[first]!r}), "
            f"{int(missing.sum())} of {len(labels)} labels are. Drop those rows."
        )
    if labels.dtype.kind == "O" and _mixed(labels):
        strings = [isinstance(v, str) for v in labels]
        other = strings.index(not strings[0])
        raise ValueError(
            f"{name} mixes strings with other labels: {name}[0] is {labels[0]!r}, "
            f"{name}[{other}] is {labels[other]!r}. Use one type."
        )


def find_classes(labels: np.ndarray) -> np.ndarray:
    """Sorted classes.

    Raises
    ------
    ValueError
        If there is only one.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(
            f"A classifier needs at least two classes; y has 1 class: {classes.tolist()[0]!r}."
        )
    return classes


def _positions(labels: np.ndarray, classes: np.ndarray, name: str) -> np.ndarray:
    known = np.isin(labels, classes)
    if not known.all():
        first = int(np.flatnonzero(~known)[0])
        raise ValueError(
            f"{name}[{first}] is {labels.tolist()[first]!r}, which is none of the {len(classes)} "
            f"classes seen in training."
        )
    return np.searchsorted(classes, labels).astype(np.int64)


def check_weights(sample_weight: Any, n_samples: int) -> np.ndarray:
    """Sample weights as non-negative floats; all ones for None.

    Raises
    ------
    ValueError
        If there are not n_samples of them, one is negative or not finite, or all are zero.
    """
    weights = _check_sample_weight(
        sample_weight, np.empty((n_samples, 0)), dtype=np.float64, ensure_non_negative=True
    )
    if not weights.any():  # scikit-learn checks this itself only from 1.9 on
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def class_coding(
    classes: np.ndarray, class_weight: Any, labels: np.ndarray, weights: np.ndarray
) -> ClassCoding:
    """Coding of classes under a ``class_weight`` parameter.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    class_weight : dict, "balanced" or None
        "balanced" gives class c the weight W / (K * W_c), with W_c the summed sample
        weight of its rows, W their sum over all classes and K the number of classes.
        Classes that a dict leaves out weigh one.
    labels, weights : ndarray of shape (n_rows,)
        Labels and sample weights of the training rows.

    Raises
    ------
    ValueError
        If a dict names no class of y, or a weight is negative or not a number.
    """
    factors = np.ones(len(classes))
    if isinstance(class_weight, str):
        codes = _positions(labels, classes, "y")
        per_class = np.bincount(codes, weights, minlength=len(classes))
        present = per_class > 0
        factors[present] = weights.sum() / (present.sum() * per_class[present])
    for label, weight in (class_weight if isinstance(class_weight, dict) else {}).items():
        position = np.flatnonzero(classes == label)
        if len(position) == 0:
            raise ValueError(
                f"class_weight names the class {label!r}, which y does not have; its "
                f"classes are {classes.tolist()[:10]}{' ...' if len(classes) > 10 else ''}."
            )
        if not isinstance(weight, Real) or not 0 <= float(weight) < float("inf"):
            raise ValueError(
                f"class_weight[{label!r}] is {weight!r}; expected a number of at least 0."
            )
        factors[position] = weight
    return ClassCoding(classes, factors)


def validation_rows(
    strata: np.ndarray, fraction: float | int, rng: np.random.Generator
) -> np.ndarray:
    """Rows to hold out: about the same share of every stratum, never the last row of one.

    Raises
    ------
    ValueError
        If so many rows cannot be held out.
    """
    n = len(strata)
    wanted = int(fraction) if fraction >= 1 else max(1, round(fraction * n))
    order = rng.permutation(n)
    rank = np.empty(n)
    sizes = np.bincount(strata)
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        rank[rows] = np.arange(len(rows))
    # Rows of a stratum get evenly spaced places in [0, 1): the highest of all are taken.
    place = (rank + rng.random(n)) / sizes[strata]
    place[rank == 0] = -1.0
    if wanted > (rank > 0).sum():
        raise ValueError(
            f"validation_fraction={fraction!r} holds out {wanted} of {n} rows, but every "
            f"class must keep one row for training ({len(np.unique(strata))} classes)."
        )
    return np.sort(np.argsort(-place, kind="stable")[:wanted])
