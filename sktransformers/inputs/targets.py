"""y and sample weights <-> arrays that a loss can read."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sktransformers.inputs.batching import Ragged, take
from sktransformers.inputs.validation import describe, is_missing, shown, some

# How far a sum of probabilities may be from one; that of a float32 softmax is nearer.
_MAX_EXCESS = 1e-6


@dataclass(frozen=True)
class Targets:
    """What a loss reads.

    Parameters
    ----------
    values : ndarray of shape (n_rows, ...) or Ragged
        The targets proper: one a row, or one a word.
    weights : ndarray of shape (n_rows,) or (n_rows, n_tasks), or Ragged
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
        return self.weights.reshape(len(self.weights), -1).sum(axis=1)

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
class _Labels:
    """What codings of labels have in common: an output for each."""

    classes: np.ndarray

    @property
    def names(self) -> list[str]:
        """Name of each output."""
        return [str(label) for label in self.classes.tolist()]

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {"classes_": self.classes}


@dataclass(frozen=True)
class ClassCoding(_Labels):
    """Labels <-> positions among sorted classes, and what each class weighs.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    factors : ndarray of shape (n_classes,)
        Class weights.
    counts : ndarray of shape (n_classes,), default=None
        Summed sample weights of the classes, if the loss asks for them.
    softmax : dict, default=None
        What stands in the place of a linear output layer, if anything does.
    """

    factors: np.ndarray
    counts: np.ndarray | None = field(default=None, kw_only=True)
    softmax: dict[str, Any] | None = field(default=None, kw_only=True)
    problem_type: ClassVar[str] = "single_label_classification"

    def encode(self, labels: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Targets of labels; a label that is no class is an error."""
        if labels.ndim == 2:
            raise ValueError(
                f"{name} is a matrix of {labels.shape[1]} columns, but training was with one "
                f"label a row."
            )
        codes = _positions(labels, self.classes, name)
        return Targets(codes, weights * self.factors[codes], strata=codes)


@dataclass(frozen=True)
class SoftCoding(ClassCoding):
    """Probabilities of classes, which are sorted.

    Parameters
    ----------
    classes, factors
        As in `ClassCoding`.
    order : ndarray of shape (n_classes,)
        The column of y that holds each class.
    """

    order: np.ndarray

    @property
    def columns(self) -> list[Any]:
        """The class of each column of y."""
        return self.classes[np.argsort(self.order)].tolist()

    def encode(self, labels: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Targets of a matrix of probabilities; its most probable class is a row's stratum."""
        proba = labels[:, self.order]
        weights = weights * (proba @ self.factors)
        return Targets(proba.astype(np.float32), weights, strata=proba.argmax(axis=1))

    def weighted(self, proba: np.ndarray) -> np.ndarray:
        """Probabilities in proportion to themselves times the class weights."""
        product = proba * self.factors
        return product / product.sum(axis=1, keepdims=True)


class Matrix(np.ndarray):
    """A matrix that knows the names of its columns.

    Parameters
    ----------
    names : ndarray of shape (n_columns,) or None
        None where y was no table.
    """

    names: Any

    def __array_finalize__(self, other: Any) -> None:
        self.names = getattr(other, "names", None)

    def __reduce__(self) -> Any:  # NumPy's leaves out what is not in an array
        rebuild, arguments, state = tuple(super().__reduce__())
        return rebuild, arguments, (state, vars(self))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        vars(self).update(state[1])


class Indicator(Matrix):
    """A matrix of 0 and 1 (int8), a column a label.

    Parameters
    ----------
    csr : type or None
        Of a sparse y, the class that holds such a matrix by rows.
    """

    csr: type | None

    def __array_finalize__(self, other: Any) -> None:
        super().__array_finalize__(other)
        self.csr = getattr(other, "csr", None)


@dataclass(frozen=True)
class IndicatorCoding(_Labels):
    """Labels of which a row has any number.

    Parameters
    ----------
    classes : ndarray of shape (n_labels,)
        Name of each column, in their order; numbers from 0 where y was no table.
    pos_weight : ndarray of shape (n_labels,) or None
        Weight of each label where it is present; None means one.
    threshold : float or ndarray of shape (n_labels,)
        Probability above which a row has a label, as far as it is known before training.
    csr : type or None
        As in `Indicator`.
    shares : list of float
        Put here by the probe: share of all entries that held-out rows are best given.
    """

    pos_weight: np.ndarray | None
    threshold: Any = 0.5
    csr: type | None = None
    shares: list[float] = field(default_factory=list)
    problem_type: ClassVar[str] = "multi_label_classification"

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {**super().attributes, "threshold_": self.threshold, "_csr": self.csr}

    @property
    def columns(self) -> list[Any]:
        """The label of each column of y."""
        return self.classes.tolist()

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Targets of an indicator matrix; other labels than those of training are an error."""
        expected = f"training was with an indicator matrix of {len(self.classes)} labels"
        if not isinstance(y, Indicator):
            raise ValueError(f"{name} holds one label a row, but {expected}.")
        if y.shape[1] != len(self.classes):
            raise ValueError(f"{name} has {y.shape[1]} columns, but {expected}.")
        trained, names = self.classes.tolist(), y.names
        numbered = trained == list(range(len(trained)))
        if names is not None and not numbered and names.tolist() != trained:
            raise ValueError(
                f"{name} has the columns {some(names)}, but {expected}: {some(self.classes)}."
            )
        return Targets(np.asarray(y), weights, np.zeros(len(y), np.int64))


@dataclass(frozen=True)
class NumberCoding:
    """Numbers <-> their standardised form, (y - mean) / scale.

    Parameters
    ----------
    mean, scale : float or ndarray of shape (n_outputs,)
        Weighted mean and standard deviation of the training targets; numbers for one output.
    names : list of str
        Name of each output.
    """

    mean: Any
    scale: Any
    names: list[str]
    problem_type: ClassVar[str] = "regression"

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {"target_mean_": self.mean, "target_scale_": self.scale}

    @classmethod
    def of(cls, y: np.ndarray, weights: np.ndarray) -> "NumberCoding":
        """Coding for targets y; targets that are all equal keep their unit."""
        y, found = np.asarray(y), getattr(y, "names", None)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.average(y, axis=0, weights=weights)
            scale = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=weights))
        if not np.isfinite(scale).all():
            raise ValueError("y holds numbers that are too large: their variance is infinite.")
        scale = np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)
        if y.ndim == 1:
            return cls(float(mean), float(scale), ["y"])
        names = range(y.shape[1]) if found is None else found.tolist()
        return cls(mean, scale, [str(name) for name in names])

    def encode(self, y: np.ndarray, weights: np.ndarray, name: str) -> Targets:
        """Standardised targets; other outputs than those of training are an error."""
        n_outputs = y.shape[1] if y.ndim == 2 else 1
        if n_outputs != len(self.names):
            raise ValueError(
                f"{name} has {n_outputs} column(s), but training was with {len(self.names)} "
                f"output(s)."
            )
        found = getattr(y, "names", None)
        numbered = self.names == [str(i) for i in range(n_outputs)]
        if found is not None and not numbered and list(map(str, found)) != self.names:
            raise ValueError(
                f"{name} has the columns {some(found)}, but training was with the outputs "
                f"{self.names}."
            )
        y = np.asarray(y)
        return Targets((y - self.mean) / self.scale, weights, np.zeros(len(y), np.int64))


def check_numbers(y: Any, n_samples: int, estimator_name: str, name: str = "y") -> np.ndarray:
    """Finite numbers as an array of float64, one-dimensional unless y has several columns.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
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
        If y is None, of another length than X, or holds something that is no finite number.
    """
    _require(y, estimator_name)
    if hasattr(y, "toarray"):  # scipy
        y = y.toarray()
    if n_columns(y) in (None, 1):
        return _numbers(_one_a_row(y, n_samples, estimator_name, name), name)
    matrix, names = _as_matrix(y, n_samples, name)
    labels = range(matrix.shape[1]) if names is None else names.tolist()
    places = [f"{name}[:, {x}]" if names is None else f"{name}[{shown(x)}]" for x in labels]
    advice = "Drop those rows; MultiTaskSequenceEstimator trains on what they do have."
    numbers = [_numbers(column, x, advice) for column, x in zip(matrix.T, places)]
    found = np.stack(numbers, axis=1).view(Matrix)
    found.names = names
    return found


def _numbers(given: np.ndarray, name: str, advice: str = "Drop those rows.") -> np.ndarray:
    """One-dimensional y as finite numbers in float64."""
    if given.dtype.kind not in "biuf":
        # tolist makes int of nanoseconds.
        for i, value in enumerate(given if given.dtype.kind in "mM" else given.tolist()):
            if not isinstance(value, (Real, Decimal)) and not is_missing(value):
                raise ValueError(
                    f"{name}[{i}] is {describe(value)}; a regressor expects numbers in {name}."
                )
    _check_entries(given, name, advice)
    try:
        numbers = given.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name} holds whole numbers that are too large for a float.") from None
    _check_entries(numbers, name, advice)
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
    if labels.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers; expected labels.")
    check_classification_targets(labels)
    return labels


def n_columns(y: Any) -> int | None:
    """Number of columns of a matrix, a table or a list of rows; None for anything else."""
    shape = getattr(y, "shape", None)
    if isinstance(shape, tuple):
        return shape[1] if len(shape) == 2 else None
    if not isinstance(y, (list, tuple)) or len(y) == 0:
        return None
    return max(map(len, y)) if all(map(_is_flat, y)) else None


def _is_flat(row: Any) -> bool:
    """Whether a row holds single entries."""
    if isinstance(row, np.ndarray):
        return row.ndim == 1
    return isinstance(row, (list, tuple)) and not any(
        isinstance(entry, (list, tuple)) or getattr(entry, "ndim", 0) for entry in row
    )


def check_indicator(y: Any, n_samples: int, name: str = "y") -> Indicator:
    """Which labels each row has, as a matrix of 0 and 1.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_samples, n_labels)
        0 and 1 of any type.
    n_samples : int
        Number of rows of X.
    name : str, default="y"
        What messages call y.

    Raises
    ------
    ValueError
        If y is of another length than X, holds something else, or has two columns of one
        name.
    """
    csr = None
    if hasattr(y, "toarray"):
        y = y.tocsr(copy=True)
        y.sum_duplicates()
        csr = type(y)
        if np.isin(y.data, (0, 1)).all():  # before it is dense: it may be large
            y = y.astype(np.int8)
    matrix, names = _as_matrix(y, n_samples, name)
    if matrix.dtype.kind in "biuf":
        good = (matrix == 0) | (matrix == 1)
    else:
        good = np.array([[not is_missing(v) and v in (0, 1) for v in row] for row in matrix])
    if not good.all():
        i, j = (int(k) for k in np.argwhere(~good)[0])
        raise ValueError(
            f"{name}[{i}, {j}] is {shown(matrix[i].tolist()[j])}; a multi-label {name} is an "
            f"indicator matrix of 0 and 1. If its rows are probabilities of classes, pass "
            f"loss=CrossEntropy(classes=[...])."
        )
    found = matrix.astype(np.int8, copy=csr is None).view(Indicator)
    found.names, found.csr = names, csr
    return found


def check_varied(y: Indicator, classes: np.ndarray) -> None:
    """Check that there is something to tell apart: labels that some rows have, and some not.

    Warns
    -----
    UserWarning
        Names labels that all rows have, or none. Rare labels are missing from many a sample, and
        the others can still be learnt.

    Raises
    ------
    ValueError
        If there is no other label.
    """
    everywhere, somewhere = y.all(axis=0), y.any(axis=0)
    constant = np.asarray(everywhere | ~somewhere)
    if constant.all():
        raise ValueError(
            f"Each of the {len(classes)} label columns of y has one value only: there is nothing "
            f"to learn. Every label needs rows that have it, and rows that do not."
        )
    parts = [
        f"{what} of the rows of y has the labels {some(classes[mask])}"
        for what, mask in (("none", ~somewhere), ("each", everywhere))
        if mask.any()
    ]
    if parts:
        text = "; ".join(parts)
        warnings.warn(
            f"{text[0].upper()}{text[1:]}: there is nothing to learn about them, and predictions "
            f"follow that frequency. Leave out these columns, or add rows that differ.",
            UserWarning,
            stacklevel=2,
        )


def check_soft(
    y: Any, n_samples: int, classes: np.ndarray, estimator_name: str, name: str = "y"
) -> np.ndarray:
    """Probabilities of classes as a matrix of float64, whose rows sum to one.

    Parameters
    ----------
    y : array-like of shape (n_samples, n_classes)
        Probabilities. The columns of a table that is named by the classes may have any order.
    n_samples : int
        Number of rows of X.
    classes : ndarray of shape (n_classes,)
        Classes that the columns stand for.
    estimator_name : str
        For the message when y is missing altogether.
    name : str, default="y"
        What messages call y.

    Raises
    ------
    ValueError
        If y is None, of another shape, or a row holds no probabilities.
    """
    _require(y, estimator_name)
    expected = (
        f"loss=CrossEntropy(classes=...) expects a matrix of probabilities with {len(classes)} "
        f"columns, one a class"
    )
    if n_columns(y) is None:
        raise ValueError(f"{name} is one-dimensional; {expected}.")
    matrix, names = _as_matrix(y, n_samples, name)
    if matrix.shape[1] != len(classes):
        raise ValueError(f"{name} has {matrix.shape[1]} columns; {expected}.")
    if names is not None and set(names.tolist()) == set(classes.tolist()):
        matrix = matrix[:, [names.tolist().index(label) for label in classes.tolist()]]
    if matrix.dtype.kind not in "biuf":
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                if not isinstance(value, (Real, Decimal)) and not is_missing(value):
                    raise ValueError(f"{name}[{i}, {j}] is {describe(value)}; {expected}.")
        matrix = np.where(np.vectorize(is_missing, otypes=[bool])(matrix), np.nan, matrix)
    proba = matrix.astype(np.float64)
    bad = ~np.isfinite(proba) | (proba < 0)
    if bad.any():
        i, j = (int(k) for k in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}[{i}, {j}] is {float(proba[i, j])!r}, which is no probability; {expected}."
        )
    sums = proba.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _MAX_EXCESS)
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(f"{name}[{i}] sums to {sums[i]:.7g}, not to one; {expected}.")
    return proba / sums[:, None]


def check_classes(
    classes: Any, name: str = "classes of CrossEntropy", at_least: int = 2
) -> np.ndarray:
    """Classes that the user names as an array.

    Raises
    ------
    ValueError
        If there are too few of them, or two are equal.
    """
    found = _to_array(classes, name)
    if found.ndim != 1 or len(found) < at_least:
        raise ValueError(
            f"{name} must be a list of at least {at_least} class{'es' if at_least > 1 else ''}; "
            f"got {shown(classes)}."
        )
    _check_entries(found, name)
    values, counts = np.unique(found, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} names {shown(values[counts > 1].tolist()[0])} more than once.")
    return found


def check_more_classes(classes: Any, known: np.ndarray | None, columns: bool) -> np.ndarray:
    """All classes after those of ``partial_fit(classes=...)`` came to those that are known.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        What the user gave.
    known : ndarray or None
        Classes of the model so far.
    columns : bool
        Whether they name the columns of y, in their order, and so all of them; else they are
        sorted.

    Raises
    ------
    ValueError
        If they are no classes, leave out a column that was there, or mix strings with others.
    """
    found = check_classes(classes, "classes", 2 if known is None else 1)
    if known is not None and (found.dtype.kind in "OU") != (known.dtype.kind in "OU"):
        raise ValueError(
            f"classes holds {shown(found.tolist()[0])}, but the classes so far are {some(known)}: "
            f"strings and other labels do not go together."
        )
    if not columns:
        return np.unique(found) if known is None else np.union1d(known, found)
    lost = [] if known is None else [c for c in known.tolist() if c not in found.tolist()]
    if lost:
        raise ValueError(f"classes leaves out {shown(lost[0])}, which the model has.")
    return found


def _as_matrix(y: Any, n_samples: int, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """y as a two-dimensional array, and the names of its columns where it has some."""
    names = None
    if hasattr(y, "column_names"):  # pyarrow
        names, y = y.column_names, np.column_stack([c.to_numpy() for c in y.columns])
    elif hasattr(y, "columns"):  # pandas, polars
        names = list(y.columns)
    elif hasattr(y, "toarray"):  # scipy
        y = y.toarray()
    elif isinstance(y, (list, tuple)):
        for i, row in enumerate(y):
            if len(row) != len(y[0]):
                raise ValueError(
                    f"{name}[{i}] has {len(row)} entries and {name}[0] {len(y[0])}; expected a "
                    f"matrix. Of lists of labels, MultiLabelBinarizer of scikit-learn makes one."
                )
    matrix = np.asarray(y)
    if len(matrix) != n_samples:
        raise _inconsistent(n_samples, len(matrix), name)
    if matrix.shape[1] == 0:
        raise ValueError(f"{name} has no columns.")
    if names is None:
        return matrix, None
    if len(set(names)) < len(names):
        twice = next(label for i, label in enumerate(names) if label in names[:i])
        raise ValueError(f"{name} has two columns with the name {shown(twice)}.")
    array = _to_array(names, name)
    if array.ndim > 1:
        array = _to_array([str(label) for label in names], name)
    return matrix, array


def _require(y: Any, estimator_name: str) -> None:
    if y is None:
        raise ValueError(
            f"This {estimator_name} estimator requires y to be passed, but the target y is None."
        )


def _inconsistent(n_samples: int, n_targets: int, name: str) -> ValueError:
    return ValueError(
        f"Found input variables with inconsistent numbers of samples: "
        f"X{name[1:]} has {n_samples} rows, {name} has {n_targets}."
    )


def _one_a_row(y: Any, n_samples: int, estimator_name: str, name: str) -> np.ndarray:
    """y as a one-dimensional array of n_samples entries, which are not looked at."""
    _require(y, estimator_name)
    if hasattr(y, "column_names") and y.num_columns == 1:  # pyarrow
        y = y.column(0)
    if hasattr(y, "to_pylist"):
        y = y.to_pylist()
    given = _to_array(y, name)
    if given.ndim > 2 or given.shape[1:] == (0,):
        raise ValueError(f"{name} has shape {given.shape}; expected one label or number a row.")
    if given.ndim > 1:
        given = column_or_1d(given, warn=True)
    if given.ndim == 0:
        raise ValueError(f"{name} is a single value; expected one a row.")
    if len(given) != n_samples:
        raise _inconsistent(n_samples, len(given), name)
    return given


def _to_array(y: Any, name: str) -> np.ndarray:
    if isinstance(y, (list, tuple)) and not all(isinstance(v, (list, tuple)) for v in y):
        # np.asarray would turn ["a", 1] into two strings without a word.
        labels = np.empty(len(y), dtype=object)
        labels[:] = y
        # Nor would NumPy's strings keep a NUL at the end.
        cut = any(isinstance(v, str) and v.endswith("\0") for v in y)
        if not any(is_missing(v) for v in y) and not _mixed(labels) and not cut:
            labels = _regular(y, name)
        return labels
    labels = _regular(y, name)
    # NumPy's variable-width strings and pandas' masked types are unknown to type_of_target.
    if labels.dtype.kind == "T":
        return labels.astype(object)
    return labels


def _regular(y: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(y)
    except ValueError as error:  # of lists beside other entries, or of several lengths
        raise ValueError(f"{name} is no array: {error}") from error


def _mixed(labels: np.ndarray) -> bool:
    return len({isinstance(v, str) for v in labels}) > 1


def _check_entries(labels: np.ndarray, name: str, advice: str = "Drop those rows.") -> None:
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
            f"{int(missing.sum())} of {len(labels)} are. {advice}"
        )
    if labels.dtype.kind == "O" and _mixed(labels):
        strings = [isinstance(v, str) for v in labels]
        other = strings.index(not strings[0])
        raise ValueError(
            f"{name} mixes strings with other labels: {name}[0] is {shown(labels[0])}, "
            f"{name}[{other}] is {shown(labels[other])}. Use one type."
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
            f"A classifier needs at least two classes; y has 1 class: {shown(classes.tolist()[0])}."
        )
    return classes


def _positions(labels: np.ndarray, classes: np.ndarray, name: str) -> np.ndarray:
    known = np.isin(labels, classes)
    if not known.all():
        first = int(np.flatnonzero(~known)[0])
        raise ValueError(
            f"{name}[{first}] is {shown(labels.tolist()[first])}, which is none of the "
            f"{len(classes)} classes seen in training."
        )
    return np.searchsorted(classes, labels).astype(np.int64)


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
    per_class: Any = None
    if isinstance(class_weight, str):
        per_class = class_counts(classes, labels, weights)
    return ClassCoding(classes, _class_factors(classes, class_weight, per_class))


def class_counts(classes: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Summed sample weights of each class; parameters as in `class_coding`."""
    return np.bincount(_positions(labels, classes, "y"), weights, minlength=len(classes))


def soft_coding(
    given: np.ndarray, class_weight: Any, proba: np.ndarray, weights: np.ndarray
) -> SoftCoding:
    """Coding of probabilities under a ``class_weight`` parameter.

    Parameters
    ----------
    given : ndarray of shape (n_classes,)
        Classes that the columns stand for.
    class_weight : dict, "balanced" or None
        As in `class_coding`; W_c sums the probability of the class, times the sample weights.
    proba : ndarray of shape (n_rows, n_classes)
        What `check_soft` gave.
    weights : ndarray of shape (n_rows,)
        Sample weights.
    """
    order = np.argsort(given)
    classes = given[order]
    factors = _class_factors(classes, class_weight, weights @ proba[:, order])
    return SoftCoding(classes, factors, order)


def _class_factors(classes: np.ndarray, class_weight: Any, per_class: np.ndarray) -> np.ndarray:
    factors = np.ones(len(classes))
    if isinstance(class_weight, str):
        present = per_class > 0
        factors[present] = per_class.sum() / (present.sum() * per_class[present])
    places = _places(classes)
    for label, weight in (class_weight if isinstance(class_weight, dict) else {}).items():
        factors[_known(label, places, "class_weight")] = weight_of(weight, label, "class_weight")
    return factors


def indicator_coding(
    classes: np.ndarray, pos_weight: Any, threshold: Any, y: Indicator, weights: np.ndarray
) -> IndicatorCoding:
    """Coding of labels under the ``pos_weight`` of a loss and a ``threshold``.

    Parameters
    ----------
    classes : ndarray of shape (n_labels,)
        Names of the labels.
    pos_weight : float, array-like of shape (n_labels,), dict, "balanced" or None
        "balanced" gives a label the summed weight of the rows without it over that of the rows
        with it; one where either are missing, and labels that a dict leaves out.
    threshold : float, array-like of shape (n_labels,), dict or "tuned"
        Labels that a dict leaves out have 0.5, as all have before they are tuned.
    y : Indicator of shape (n_rows, n_labels)
        The training rows.
    weights : ndarray of shape (n_rows,)
        Sample weights.

    Raises
    ------
    ValueError
        If a dict names no label of y, or there is not one positive number a label, and one
        between 0 and 1.
    """
    thresholds = check_threshold(threshold, classes)
    if pos_weight is None:
        return IndicatorCoding(classes, None, thresholds, y.csr)
    if isinstance(pos_weight, str):
        factors = np.ones(len(classes))
        for j, column in enumerate(np.asarray(y).T):
            present, absent = weights[column == 1].sum(), weights[column == 0].sum()
            if present > 0 and absent > 0:
                factors[j] = absent / present
    else:
        factors = _per_label(pos_weight, classes, "pos_weight", 1.0, weight_of)
    if (factors == 0).any():
        raise ValueError("pos_weight holds a zero: a label would have nothing to learn from.")
    return IndicatorCoding(classes, factors, thresholds, y.csr)


def check_threshold(threshold: Any, classes: np.ndarray) -> float | np.ndarray:
    """The parameter ``threshold`` as a number for all labels or one each.

    Parameters are as in `indicator_coding`.
    """
    if isinstance(threshold, str):
        return 0.5
    each = _per_label(threshold, classes, "threshold", 0.5, _probability)
    return each if isinstance(threshold, dict) or np.ndim(threshold) else float(threshold)


def _per_label(
    given: Any,
    classes: np.ndarray,
    parameter: str,
    default: float,
    number: Callable[[Any, Any, str], float],
) -> np.ndarray:
    """A number for each label from one for all, an array or a dict, each checked by number."""
    each = np.full(len(classes), default)
    if isinstance(given, dict):
        places = _places(classes)
        for label, value in given.items():
            each[_known(label, places, parameter)] = number(value, label, parameter)
        return each
    values = np.asarray(given)
    if values.ndim > 0 and values.shape != each.shape:
        raise ValueError(
            f"{parameter} has {values.size if values.ndim == 1 else values.shape} entries, but y "
            f"has {len(classes)} labels."
        )
    for j, value in enumerate(np.broadcast_to(values, each.shape).tolist()):
        each[j] = number(value, j, parameter)
    return each


def _probability(value: Any, label: Any, parameter: str) -> float:
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(
            f"{parameter}[{shown(label)}] is {shown(value)}; expected a number between 0 and 1."
        )
    return float(value)


def _places(classes: np.ndarray) -> dict[Any, int]:
    return {label: i for i, label in enumerate(classes.tolist())}


def _known(label: Any, places: dict[Any, int], parameter: str) -> int:
    if label not in places:
        raise ValueError(
            f"{parameter} names the class {shown(label)}, which y does not have; its classes are "
            f"{some(places)}."
        )
    return places[label]


def weight_of(weight: Any, label: Any, parameter: str) -> float:
    """A weight that a parameter gives to a label, or a clear error."""
    if not isinstance(weight, Real) or not 0 <= float(weight) < float("inf"):
        raise ValueError(
            f"{parameter}[{shown(label)}] is {shown(weight)}; expected a number of at least 0."
        )
    return float(weight)


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
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    rank[by_stratum] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Rows of a stratum get evenly spaced places in [0, 1): the highest of all are taken.
    place = (rank + rng.random(n)) / sizes[strata]
    place[rank == 0] = -1.0
    if wanted > (rank > 0).sum():
        raise ValueError(
            f"validation_fraction={fraction!r} holds out {wanted} of {n} rows, but every "
            f"class must keep one row for training ({len(np.unique(strata))} classes)."
        )
    return np.sort(np.argsort(-place, kind="stable")[:wanted])
