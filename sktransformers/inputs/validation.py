"""Whatever scikit-learn users call X -> a sequence of str, or a clear error."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight

_MOST_SHOWN = 40  # characters of a label
_EXPECTED = "expected a list, tuple, array or Series of str, or a table with one column of str"


def as_texts(X: Any, name: str = "X") -> Sequence[str]:
    """Check that X holds one text a row and return the texts as a list or tuple.

    Parameters
    ----------
    X : list, tuple, array, Series or one-column table of str
        NumPy, pandas, polars and pyarrow containers of any string type are read. Rows are
        taken by position, whatever the index. A list or tuple is returned as it is.
    name : str, default="X"
        What messages call X.

    Returns
    -------
    texts : list or tuple of str

    Raises
    ------
    TypeError
        If X is no container of texts.
    ValueError
        If X is one bare string, is empty, has several columns, or holds something that is
        no string; the message names the first such position.
    """
    texts = as_rows(X, name)
    bad = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    if bad:
        raise ValueError(_not_a_text(texts, bad, name))
    return texts


def as_rows(X: Any, name: str) -> Sequence[Any]:
    """The rows of a one-dimensional container (or of its only column) as list or tuple."""
    if isinstance(X, (str, bytes)):
        raise ValueError(
            f"{name} is one single {type(X).__name__}; {_EXPECTED}. "
            f"For one text pass a list that holds it: [text]."
        )
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix, which holds no text; {_EXPECTED}.")
    shape = getattr(X, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 2:
        X = _only_column(X, shape, name)
    elif isinstance(shape, tuple) and len(shape) != 1:
        raise ValueError(f"{name} has shape {tuple(shape)}; {_EXPECTED}.")
    if isinstance(X, (list, tuple)):
        rows: Sequence[Any] = X
    else:
        # pyarrow first: its to_numpy refuses strings. polars, then NumPy and pandas.
        to_list = next((m for m in ("to_pylist", "to_list", "tolist") if hasattr(X, m)), None)
        if to_list is None:
            raise TypeError(f"{name} is of type {type(X).__name__}; {_EXPECTED}.")
        rows = getattr(X, to_list)()
    if len(rows) == 0:
        raise ValueError(
            f"Found array with 0 sample(s): {name} is empty, at least one text is required."
        )
    return rows


def _only_column(X: Any, shape: tuple[int, ...], name: str) -> Any:
    if shape[1] != 1:
        raise ValueError(
            f"{name} has {shape[1]} columns; {_EXPECTED}. Select the column of texts first, "
            f"for example {name}['text'], or with ColumnTransformer inside a Pipeline."
        )
    if hasattr(X, "iloc"):  # pandas
        return X.iloc[:, 0]
    if hasattr(X, "get_columns"):  # polars
        return X.get_columns()[0]
    if hasattr(X, "column"):  # pyarrow
        return X.column(0)
    return X[:, 0]


def _not_a_text(rows: Sequence[Any], bad: list[int], name: str) -> str:
    first = rows[bad[0]]
    message = (
        f"{name}[{bad[0]}] is {describe(first)}; expected str in every row"
        f" ({len(bad)} of {len(rows)} rows are no text)."
    )
    if is_missing(first):
        message += ' Drop rows without a text, or fill them, for example with "".'
    elif isinstance(first, (list, tuple, np.ndarray)):
        message += " A row is one string, not a list of words: join the words first."
    return message


def is_missing(value: Any) -> bool:
    """Whether a scalar stands for a missing entry: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def describe(value: Any) -> str:
    """What messages say of a value that may hold texts, which they never show."""
    if is_missing(value):
        return f"missing ({value!r})"
    what = shown(value) if isinstance(value, (Real, np.bool_)) else "a value"
    return f"{what} of type {type(value).__name__}"


def shown(label: Any) -> str:
    """A label as messages show it: not all of it, if it is as long as a text."""
    text = repr(label)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def some(labels: Iterable[Any]) -> str:
    """The first of some labels, likewise."""
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    return f"[{', '.join(map(shown, labels[:10]))}]{' ...' if len(labels) > 10 else ''}"


def check_weights(sample_weight: Any, n_samples: int) -> np.ndarray:
    """Sample weights as non-negative floats; all ones for None.

    Raises
    ------
    ValueError
        If there are not n_samples of them, one is negative or not finite, or all are zero.
    """
    check_no_texts(sample_weight, "sample_weight")
    try:
        weights = _check_sample_weight(
            sample_weight, np.empty((n_samples, 0)), dtype=np.float64, ensure_non_negative=True
        )
    except (TypeError, ValueError) as error:
        if "sample_weight" in str(error):
            raise
        raise ValueError(f"sample_weight is no list of {n_samples} numbers: {error}") from error
    with np.errstate(over="ignore"):
        if np.isinf(weights.sum()):
            raise ValueError("sample_weight is too large: its sum is infinite.")
    if not weights.any():  # scikit-learn checks this itself only from 1.9 on
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def check_no_texts(values: Any, name: str) -> None:
    """Refuse texts in the place of numbers, before an error of NumPy shows one.

    Raises
    ------
    ValueError
        Naming the first.
    """
    if getattr(getattr(values, "dtype", None), "kind", "O") in "biuf":
        return
    for i, value in enumerate(np.asarray(values, dtype=object).ravel()):
        if isinstance(value, (str, bytes)):
            raise ValueError(f"{name}[{i}] is {describe(value)}; expected a number.")


def check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check that a fitted attribute is an array of the shape that goes with the model.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise ValueError(f"{name} is no array of the shape {shape}")
