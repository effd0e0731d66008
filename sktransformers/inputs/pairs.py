"""Whatever scikit-learn users call X, where a row is two texts -> pairs of str."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sktransformers.inputs.validation import describe, is_missing, shown, some
from sktransformers.inputs.words import as_list

_EXPECTED = (
    "expected a list, tuple, array or Series of pairs (text, other text), or a table with two "
    "columns of str"
)
_ZIP = "Two columns make rows with list(zip(texts, others))."
_SIDES = ("first", "second")


def as_pairs(X: Any, name: str = "X") -> list[tuple[str, str]]:
    """Check that X holds two texts a row and return them as tuples.

    Parameters
    ----------
    X : list, tuple, array, Series or two-column table
        Of pairs, each a tuple, list or array of two str; or two columns of str: a NumPy array
        of shape (n_rows, 2), or a table of pandas, polars or pyarrow. Rows are taken by
        position, whatever the index.
    name : str, default="X"
        What messages call X.

    Returns
    -------
    pairs : list of (str, str)

    Raises
    ------
    TypeError
        If X is no container of pairs.
    ValueError
        If X is one bare string, is empty, has other than two columns, is a tuple of two columns
        instead of a sequence of rows, or holds a row that is not two strings; the message
        names the first such position.
    """
    rows = _rows(X, name)
    pairs = [_pair(row) for row in rows]
    bad = [i for i, pair in enumerate(pairs) if pair is None]
    if bad:
        raise ValueError(_not_a_pair(rows, bad, name))
    return [pair for pair in pairs if pair is not None]


def _rows(X: Any, name: str) -> Sequence[Any]:
    if isinstance(X, (str, bytes)):
        raise ValueError(
            f"{name} is one single {type(X).__name__}; {_EXPECTED}. "
            f"For one pair pass a list that holds it: [(text, other)]."
        )
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix, which holds no text; {_EXPECTED}.")
    shape = tuple(getattr(X, "shape", (0,)))
    if len(shape) not in (1, 2):
        raise ValueError(f"{name} has shape {shape}; {_EXPECTED}.")
    if len(shape) == 2:
        rows: Sequence[Any] | None = _rows_of_table(X, shape, name)
    else:
        _refuse_columns(X, name)
        rows = as_list(X)
    if rows is None:
        raise TypeError(f"{name} is of type {type(X).__name__}; {_EXPECTED}.")
    if len(rows) == 0:
        raise ValueError(
            f"Found array with 0 sample(s): {name} is empty, at least one pair is required."
        )
    return rows


def _rows_of_table(X: Any, shape: tuple[int, ...], name: str) -> Sequence[Any]:
    if shape[1] != 2:
        columns = getattr(X, "column_names", getattr(X, "columns", None))  # pyarrow, others
        names = "" if columns is None else f" ({', '.join(map(shown, columns))})"
        raise ValueError(
            f"{name} has {shape[1]} column(s){names}; {_EXPECTED}. Select the two columns of "
            f"texts first, for example with ColumnTransformer inside a Pipeline."
        )
    if hasattr(X, "iloc"):  # pandas
        columns = [X.iloc[:, 0], X.iloc[:, 1]]
    elif hasattr(X, "get_columns"):  # polars
        columns = X.get_columns()
    elif hasattr(X, "column"):  # pyarrow
        columns = [X.column(0), X.column(1)]
    else:
        return X.tolist()
    # Column by column: a row of a data frame is slow to take.
    return list(zip(*(as_list(column) or [] for column in columns)))


def _refuse_columns(X: Any, name: str) -> None:
    """Refuse (texts, others), which two pairs could be mistaken for."""
    if not isinstance(X, tuple) or len(X) != 2:
        return
    columns = [None if isinstance(part, tuple) else as_list(part) for part in X]
    if any(column is None or len(column) == 0 for column in columns):
        return
    raise ValueError(
        f"{name} is a tuple of two columns (of {len(columns[0] or [])} and "
        f"{len(columns[1] or [])} entries); {_EXPECTED}. {_ZIP} Two pairs go into a list: "
        f"[(text, other), (text, other)]."
    )


def _pair(row: Any) -> tuple[str, str] | None:
    sides = row if isinstance(row, (tuple, list)) else as_list(row)
    if sides is None or len(sides) != 2:
        return None
    first, second = sides
    if type(first) is str and type(second) is str:
        return first, second
    if isinstance(first, str) and isinstance(second, str):
        return str(first), str(second)  # NumPy's str_
    return None


def _not_a_pair(rows: Sequence[Any], bad: list[int], name: str) -> str:
    row = rows[bad[0]]
    where = f"{name}[{bad[0]}]"
    count = f"({len(bad)} of {len(rows)} rows are no pair)"
    if is_missing(row):
        return (
            f"{where} is {describe(row)}; expected a pair of str in every row {count}. Drop "
            f"such rows."
        )
    if isinstance(row, str):
        return (
            f"{where} is {describe(row)}; expected a pair of str in every row {count}. "
            f"One pair goes into a list: [(text, other)]. {_ZIP}"
        )
    if isinstance(row, Mapping):
        return (
            f"{where} is of type {type(row).__name__} with the keys {some(row)}; expected "
            f"a pair of str in every row {count}. Take the two texts out of each row, or make a "
            f"table of two columns of them."
        )
    sides = as_list(row)
    if sides is None:
        return f"{where} is {describe(row)}; expected a pair of str in every row {count}."
    if len(sides) != 2:
        message = f"{where} has {len(sides)} elements; expected two str in every row {count}."
        return f"{message} {_ZIP}" if len(rows) == 2 else message
    at = next(i for i, side in enumerate(sides) if not isinstance(side, str))
    message = (
        f"{where}[{at}], the {_SIDES[at]} text of row {bad[0]}, is {describe(sides[at])}; "
        f"expected two str in every row {count}."
    )
    if is_missing(sides[at]):
        message += ' Drop rows without a text, or fill them, for example with "".'
    elif isinstance(sides[at], (list, tuple, np.ndarray)):
        message += " A text is one string, not a list of words: join the words first."
    return message
