"""y of several tasks, some entries missing <-> arrays that a loss can read."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from sktransformers.inputs.encoding import users_level
from sktransformers.inputs.pairs import as_pairs
from sktransformers.inputs.targets import Matrix, NumberCoding, Targets, weight_of
from sktransformers.inputs.validation import as_rows, as_texts, describe, is_missing, shown, some
from sktransformers.inputs.words import as_list

CLASSES, NUMBERS = "classification", "regression"
_MISSING_AS_TEXT = {"nan", "NaN", "None", "<NA>"}
_EXPECTED = (
    "expected a column for each task: a table, a two-dimensional array or a list of rows, with "
    "None or NaN where an entry is missing"
)


def texts_or_pairs(X: Any, name: str = "X") -> Sequence[Any]:
    """Rows of X, each a text or each a pair of texts; the first row says which.

    Raises
    ------
    TypeError, ValueError
        As `as_texts` and `as_pairs` do.
    """
    shape: tuple[int, ...] = tuple(getattr(X, "shape", ()))
    if len(shape) == 2:
        return as_pairs(X, name) if shape[1] == 2 else as_texts(X, name)
    first = as_rows(X, name)[0]
    return as_pairs(X, name) if isinstance(first, (list, tuple, np.ndarray)) else as_texts(X, name)


def n_texts(rows: Sequence[Any]) -> int:
    """Texts of each row: one, or the two of a pair."""
    return 1 if isinstance(rows[0], str) else 2


class TaskTable(Matrix):
    """Entries of several tasks (object), None where one is missing.

    Parameters
    ----------
    names : list or None
        Names of the columns; None where y was no table.
    kinds : list of {"classification", "regression"}
        What each column is for.
    asked : list
        The same as far as the user said so, else None.
    n_texts : int
        Texts of each row of X.
    like : DataFrame or None
        The table of pandas or polars that y was, without its rows.
    """

    kinds: list[str]
    asked: list[str | None]
    n_texts: int
    like: Any

    def __array_finalize__(self, other: Any) -> None:
        super().__array_finalize__(other)
        for name in ("kinds", "asked", "n_texts", "like"):
            setattr(self, name, getattr(other, name, None))

    @property
    def present(self) -> np.ndarray:
        """Which entries are there."""
        return np.asarray(self) != np.array(None)


def check_tasks(
    y: Any,
    rows: Sequence[Any],
    kinds: Any,
    estimator_name: str,
    name: str = "y",
    trained: "Sequence[Task] | None" = None,
) -> TaskTable:
    """y as a table of labels and numbers, whose missing entries are None.

    Parameters
    ----------
    y : table, array or list of rows, of shape (n_samples, n_tasks)
        Labels and numbers. None, NaN and pandas' NA are missing entries.
    rows : sequence
        Rows of X.
    kinds : dict, list or None
        "classification" or "regression" for each column, or for some of them by name. Of others,
        strings, bools, categories and whole numbers are classes; fractions make it regression.
    estimator_name : str
        For the message when y is missing altogether.
    name : str, default="y"
        What messages call y.
    trained : sequence of Task, default=None
        The tasks of a model, if y is to have them; kinds is not read.

    Raises
    ------
    ValueError
        If y has another length than X or is no table, kinds names no column of it, or a column
        mixes types or holds what is neither a label nor a number.
    """
    if y is None:
        raise ValueError(
            f"This {estimator_name} estimator requires y to be passed, but the target y is None."
        )
    if isinstance(y, TaskTable):  # from a validation split
        return y
    columns, names, categorical = _columns(y, name)
    if len(columns) == 0:
        raise ValueError(f"{name} has no columns; {_EXPECTED}.")
    if len(columns[0]) != len(rows):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X{name[1:]} has "
            f"{len(rows)} rows, {name} has {len(columns[0])}."
        )
    table = np.empty((len(rows), len(columns)), dtype=object).view(TaskTable)
    table.names, table.n_texts = names, n_texts(rows)
    if trained is not None:
        check_columns(table, trained, name)
        asked: list[Any] = [task.kind for task in trained]
    else:
        asked = by_column(kinds, _labels(table), "tasks", name)
    table.kinds, table.asked = [], asked
    for j, column in enumerate(columns):
        where = _where(name, names, j)
        if asked[j] not in (None, CLASSES, NUMBERS):
            raise ValueError(
                f"tasks says {asked[j]!r} for {where}; expected {CLASSES!r} or {NUMBERS!r}."
            )
        entries, kind = _read(column, asked[j], categorical[j], where)
        table[:, j] = entries
        table.kinds.append(kind)
    table.like = _empty(y) if hasattr(y, "head") else None
    return table


def _empty(table: Any) -> Any:
    """The columns of a table without its rows; of pandas' a view would keep them."""
    head = table.head(0)
    return head.copy() if hasattr(head, "copy") else head


def by_column(given: Any, labels: list[Any], parameter: str, name: str = "y") -> list[Any]:
    """What a dict by name or number, or a list, says of each column; None where it does not.

    Raises
    ------
    ValueError
        If it names no column, or is a list of another length.
    """
    found: list[Any] = [None] * len(labels)
    if given is None:
        return found
    if isinstance(given, Mapping):
        for label, value in given.items():
            if label not in labels:
                raise ValueError(
                    f"{parameter} names the column {shown(label)}, which {name} does not have; its "
                    f"columns are {some(labels)}."
                )
            found[labels.index(label)] = value
        return found
    values = np.asarray(given, dtype=object).tolist()
    if not isinstance(values, list) or len(values) != len(labels):
        raise ValueError(
            f"{parameter}={given!r} is not one value for each of the columns {some(labels)}."
        )
    return values


def _where(name: str, names: list[Any] | None, j: int) -> str:
    """A column as messages show it."""
    return f"{name}[:, {j}]" if names is None else f"{name}[{shown(names[j])}]"


def _columns(y: Any, name: str) -> tuple[list[list[Any]], list[Any] | None, list[bool]]:
    """Columns of y as lists, their names, and which of them hold categories."""
    if hasattr(y, "iloc") and hasattr(y, "columns"):  # pandas
        parts = [y.iloc[:, j] for j in range(y.shape[1])]
        categorical = [str(part.dtype) == "category" for part in parts]
        names = list(y.columns)
    elif hasattr(y, "get_columns"):  # polars
        parts, names = y.get_columns(), list(y.columns)
        categorical = [False] * len(parts)  # of strings, always
    elif hasattr(y, "column_names"):  # pyarrow
        parts, names = y.columns, list(y.column_names)
        categorical = [False] * len(parts)
    else:
        if isinstance(y, (list, tuple)):
            rows = [row if isinstance(row, tuple) else as_list(row) for row in y]
            if not rows:
                raise ValueError(f"{name} is empty; {_EXPECTED}.")
            for i, row in enumerate(rows):
                if row is None:
                    raise ValueError(f"{name}[{i}] is {describe(y[i])}; {_EXPECTED}.")
                if len(row) != len(rows[0] or ()):
                    raise ValueError(
                        f"{name}[{i}] has {len(row)} entries and {name}[0] {len(rows[0] or ())}; "
                        f"{_EXPECTED}."
                    )
            return [list(part) for part in zip(*rows)], None, [False] * len(rows[0] or ())
        array = np.asarray(y)
        if array.ndim != 2:
            raise ValueError(f"{name} has {array.ndim} dimension(s); {_EXPECTED}.")
        if array.dtype.kind in "US":
            bad = np.argwhere(np.isin(array, list(_MISSING_AS_TEXT)))
            if len(bad):
                i, j = (int(k) for k in bad[0])
                raise ValueError(
                    f"{name}[{i}, {j}] is the text {str(array[i, j])!r}: NumPy makes text of a "
                    f"missing entry among strings. Pass a table, a list of rows, or an array "
                    f"made with dtype=object."
                )
        return list(map(list, array.T.tolist())), None, [False] * array.shape[1]
    if len({str(label) for label in names}) < len(names):
        twice = next(x for i, x in enumerate(names) if str(x) in map(str, names[:i]))
        raise ValueError(f"{name} has two columns with the name {shown(twice)}.")
    return [as_list(part) or [] for part in parts], names, categorical


def _read(
    column: list[Any], kind: str | None, categorical: bool, where: str
) -> tuple[list[Any], str]:
    """Entries of a column, None where one is missing, and what the column is for."""
    entries = [v.item() if isinstance(v, np.generic) else v for v in column]
    entries = [None if is_missing(v) else v for v in entries]
    first = next((i for i, v in enumerate(entries) if v is not None), 0)
    for i, value in enumerate(entries):
        if value is None:
            continue
        if not isinstance(value, (str, Real, Decimal)):
            raise ValueError(
                f"{where}[{i}] is {describe(value)}; expected a label (str, int or bool) or a "
                f"number."
            )
        if isinstance(value, str) != isinstance(entries[first], str):
            raise ValueError(
                f"{where} mixes strings with other entries: {where}[{first}] is "
                f"{shown(entries[first])}, {where}[{i}] is {shown(value)}. Use one type."
            )
        if isinstance(value, str) and kind == NUMBERS:
            raise ValueError(
                f"{where}[{i}] is {describe(value)}; a column for regression holds numbers. "
                f"Change y or tasks."
            )
        if not isinstance(value, str) and not np.isfinite(float(value)):
            raise ValueError(f"{where}[{i}] is {shown(value)}; expected a finite number.")
    fraction = next((i for i, v in enumerate(entries) if not _may_be_class(v)), None)
    if kind is None:
        kind = CLASSES if categorical or fraction is None else NUMBERS
    if kind == NUMBERS:
        entries = [None if v is None else float(v) for v in entries]
    elif fraction is not None and not categorical:
        raise ValueError(
            f"{where}[{fraction}] is {shown(entries[fraction])}; a column for classification holds "
            f"strings, bools or whole numbers. Change y or tasks."
        )
    return entries, kind


def _may_be_class(value: Any) -> bool:
    return value is None or isinstance(value, str) or value == int(value)


@dataclass(frozen=True)
class Task:
    """One column of y.

    Parameters
    ----------
    label : object
        Name of the column, or its number.
    classes : ndarray of shape (n_classes,) or None
        Sorted labels; None for numbers.
    mean, scale : float
        Of the training numbers, as in `NumberCoding`; not a number for classes.
    """

    label: Any
    classes: np.ndarray | None
    mean: float = float("nan")
    scale: float = float("nan")

    @property
    def kind(self) -> str:
        """What the column is for."""
        return NUMBERS if self.classes is None else CLASSES

    @property
    def n_outputs(self) -> int:
        """Outputs of the model that are this task's."""
        return 1 if self.classes is None else len(self.classes)

    @property
    def names(self) -> list[str]:
        """Name of each output."""
        if self.classes is None:
            return [str(self.label)]
        return [f"{self.label}={label}" for label in self.classes.tolist()]

    def encode(self, column: Sequence[Any], where: str) -> np.ndarray:
        """Positions of classes or standardised numbers, NaN where an entry is missing."""
        if self.classes is None:
            for i, value in enumerate(column):
                if isinstance(value, str):
                    raise ValueError(
                        f"{where}[{i}] is {describe(value)}; training was with numbers there."
                    )
            numbers = np.array([np.nan if v is None else float(v) for v in column])
            return (numbers - self.mean) / self.scale
        place = {label: float(i) for i, label in enumerate(self.classes.tolist())}
        for i, value in enumerate(column):
            if value is not None and value not in place:
                raise ValueError(
                    f"{where}[{i}] is {shown(value)}, which is none of the {len(place)} classes "
                    f"seen in training."
                )
        return np.array([np.nan if v is None else place[v] for v in column])

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions from outputs of shape (n_rows, n_outputs)."""
        if self.classes is None:
            return outputs[:, 0] * self.scale + self.mean
        return self.classes[outputs.argmax(axis=1)]


@dataclass(frozen=True)
class TaskCoding:
    """Tables of several tasks <-> what a model gives for them.

    Parameters
    ----------
    tasks : tuple of Task
        The columns.
    n_texts : int
        Texts of each row of X.
    factors : ndarray of shape (n_tasks,)
        Weight of each task in the loss; the mean over the training entries is one.
    like : DataFrame or None
        What predictions are to look like.
    """

    tasks: tuple[Task, ...]
    n_texts: int
    factors: np.ndarray
    like: Any
    problem_type: ClassVar[str | None] = None  # transformers has no name for it

    @property
    def names(self) -> list[str]:
        """Name of each output."""
        return [name for task in self.tasks for name in task.names]

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {
            "task_names_": [task.label for task in self.tasks],
            "tasks_": [task.kind for task in self.tasks],
            "classes_": [task.classes for task in self.tasks],
            "target_mean_": np.array([task.mean for task in self.tasks]),
            "target_scale_": np.array([task.scale for task in self.tasks]),
            "n_texts_": self.n_texts,
            "_y_like": self.like,
        }

    @classmethod
    def of(
        cls, y: TaskTable, weights: np.ndarray, task_weights: Any, earlier: Any = None
    ) -> "TaskCoding":
        """Coding for the training rows.

        Parameters
        ----------
        y : TaskTable
            The training rows.
        weights : ndarray of shape (n_rows,)
            Sample weights.
        task_weights : dict, list, "balanced" or None
            Weight of each task, of which only the proportions count. "balanced" gives task t
            the weight W / (T * W_t), with W_t the summed sample weight of its entries, W their
            sum and T the number of tasks. Tasks that a dict leaves out weigh one.
        earlier : estimator or None, default=None
            Fitted: its tasks stay, and y may miss all entries of one.

        Raises
        ------
        ValueError
            If a column has no entry or one class only, or task_weights are no weights of them.
        """
        if earlier is None:
            made = (_task(label, y, j, weights) for j, label in enumerate(_labels(y)))
            tasks, like = tuple(made), y.like
        else:
            tasks, like = tasks_of(earlier), earlier._y_like
            check_columns(y, tasks, "y")
            _check_kept(y, tasks)
        in_sum = weights @ y.present
        factors = _factors(task_weights, y, in_sum)
        total = factors @ in_sum
        if total == 0:
            raise ValueError(
                f"task_weights={task_weights!r} gives every entry of y a weight of zero: there is "
                f"nothing to learn from."
            )
        count = y.n_texts if earlier is None else earlier.n_texts_
        return cls(tasks, count, factors * in_sum.sum() / total, like)

    def encode(self, y: TaskTable, weights: np.ndarray, name: str) -> Targets:
        """Targets of shape (n_rows, n_tasks), NaN with a weight of zero where one is missing.

        A split takes equal shares of the rows that have entries in the same columns; of those
        that have one label and nothing else, of each label.
        """
        if y.n_texts != self.n_texts:
            raise ValueError(
                f"X{name[1:]} has {y.n_texts} text(s) a row, but training was with {self.n_texts}."
            )
        check_columns(y, self.tasks, name)
        entries = np.asarray(y)
        values = np.stack(
            [
                task.encode(entries[:, j].tolist(), _where(name, y.names, j))
                for j, task in enumerate(self.tasks)
            ],
            axis=1,
        )
        there = ~np.isnan(values)
        is_class = np.array([task.classes is not None for task in self.tasks])
        alone = (there.sum(axis=1) == 1) & (there & is_class).any(axis=1)
        code = np.where(alone, np.nansum(values, axis=1), 0)
        strata = np.unique(np.column_stack([there, code]), axis=0, return_inverse=True)[1]
        return Targets(values, weights[:, None] * there, strata.reshape(-1))


def tasks_of(fitted: Any) -> tuple[Task, ...]:
    """The tasks of a fitted estimator."""
    columns = (fitted.task_names_, fitted.classes_, fitted.target_mean_, fitted.target_scale_)
    return tuple(Task(*column) for column in zip(*columns))


def _task(label: Any, y: TaskTable, j: int, weights: np.ndarray) -> Task:
    """The task of a training column."""
    column, where = y[:, j], _where("y", y.names, j)
    rows = [i for i, value in enumerate(column.tolist()) if value is not None]
    if not rows:
        raise ValueError(f"{where} has no entry: there is nothing to learn from. Drop the column.")
    values = np.array([column[i] for i in rows])
    if y.kinds[j] == NUMBERS:
        coding = NumberCoding.of(values, weights[rows])
        return Task(label, None, coding.mean, coding.scale)
    classes = np.unique(values)
    if len(classes) < 2:
        raise ValueError(
            f"A task needs at least two classes; {where} has 1 class: {shown(classes.tolist()[0])}."
        )
    many = values.dtype.kind in "iuf" and len(classes) > max(20, 0.5 * len(values))
    if many and y.asked[j] is None:
        warnings.warn(
            f"{where} has {len(classes)} whole numbers among {len(values)} entries, which are "
            f"read as classes. If they are numbers, pass tasks={{{shown(label)}: {NUMBERS!r}}}.",
            stacklevel=users_level(),
        )
    return Task(label, classes)


def _labels(y: TaskTable) -> list[Any]:
    """Names of the columns, or their numbers."""
    return list(range(y.shape[1])) if y.names is None else y.names


def _check_kept(y: TaskTable, tasks: Sequence[Task]) -> None:
    """Refuse a parameter that says something else of a column than training did."""
    for j, (asked, task) in enumerate(zip(y.asked, tasks)):
        if asked not in (None, task.kind):
            raise ValueError(
                f"tasks says {asked!r} for {_where('y', y.names, j)}, but the fitted model, from "
                f"which warm_start or partial_fit goes on, has it for {task.kind}. Fit anew with "
                f"warm_start=False."
            )


def check_columns(y: TaskTable, tasks: Sequence[Task], name: str) -> None:
    """Refuse a table that has other columns than training had."""
    labels = [task.label for task in tasks]
    if y.shape[1] != len(labels):
        raise ValueError(
            f"{name} has {y.shape[1]} columns, but training was with {len(labels)}: {some(labels)}."
        )
    if y.names is not None and y.names != labels and labels != list(range(len(labels))):
        raise ValueError(
            f"{name} has the columns {some(y.names)}, but training was with {some(labels)}."
        )


def _factors(task_weights: Any, y: TaskTable, in_sum: np.ndarray) -> np.ndarray:
    """Weight of each task as the parameter says."""
    factors = np.ones(len(in_sum))
    if isinstance(task_weights, str):
        there = in_sum > 0
        factors[there] = in_sum.sum() / (there.sum() * in_sum[there])
        return factors
    labels = _labels(y)
    for j, value in enumerate(by_column(task_weights, labels, "task_weights")):
        if value is not None:
            factors[j] = weight_of(value, labels[j], "task_weights")
    return factors


def like_table(like: Any, columns: Sequence[np.ndarray], kinds: Sequence[str], X: Any) -> Any:
    """A table with the column names and types of another, for pandas with the index of X.

    Predicted numbers are floats, whatever the type of their column.
    """
    if hasattr(like, "get_columns"):  # polars
        parts = []
        for empty, values, kind in zip(like.get_columns(), columns, kinds):
            dtype = empty.dtype if kind == CLASSES or empty.dtype.is_float() else None
            parts.append(type(empty)(empty.name, values.tolist(), dtype=dtype))
        return type(like)(parts)
    index = X.index if hasattr(X, "iloc") else range(len(columns[0]))
    found = {}
    for j, (values, kind) in enumerate(zip(columns, kinds)):
        empty = like.iloc[:, j]
        dtype = empty.dtype if kind == CLASSES or empty.dtype.kind == "f" else None
        found[j] = type(empty)(values, index=index, dtype=dtype)
    table = type(like)(found, index=index)
    table.columns = like.columns
    return table
