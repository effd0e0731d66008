"""Whatever users call X, where a row is a text or several -> rows of prompts, or a clear error."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sktransformers.inputs.prompts import Row, Template
from sktransformers.inputs.validation import as_rows, as_texts, describe, is_missing, shown, some
from sktransformers.inputs.words import as_list

_COLUMNS = "Rows of several texts are tuples, dicts, or the rows of a table."


def as_sources(X: Any, template: str, prefix: str, name: str = "X") -> list[Row]:
    """The texts of each row that a template asks for.

    Parameters
    ----------
    X : array-like or table
        A text a row, as in `as_texts`; or several: tuples, lists, dicts, the columns of a NumPy
        array of shape (n_rows, n_columns) or of a table of pandas, polars or pyarrow. A list of
        `Row` is returned as it is.
    template : str
        As in `Template`. Its fields name the columns of a table or the keys of dicts, or are
        numbers of columns, from 0; for a single text a row, any name.
    prefix : str
        Of each row.
    name : str, default="X"
        What messages call X.

    Raises
    ------
    TypeError, ValueError
        If X is no container of texts, is empty, lacks a column that the template names, or has
        something that is no string; the message names the first such position.
    """
    if isinstance(X, list) and X and all(isinstance(row, Row) for row in X):
        return X
    fields = Template.of(template).fields
    if len(getattr(X, "shape", ())) == 2 and X.shape[1] != 1:
        columns = [_column(X, field, template, name) for field in fields]
        rows: Sequence[Any] = list(zip(*columns))
        if not rows:
            raise ValueError(
                f"Found array with 0 sample(s): {name} is empty, at least one row is required."
            )
    else:
        is_table = len(getattr(X, "shape", ())) == 2
        rows = as_texts(X, name) if is_table else as_rows(X, name)
        if all(isinstance(row, str) for row in rows):
            if len(fields) != 1:
                raise ValueError(
                    f"{name} has one text a row, but template={template!r} has {len(fields)} "
                    f"fields. {_COLUMNS}"
                )
            rows = [(row,) for row in rows]
        elif any(isinstance(row, (str, bytes)) or is_missing(row) for row in rows):
            as_texts(rows, name)  # raises: it names the first that is no text
        else:
            _check_no_columns(X, rows, name)
            rows = [_of_row(row, i, fields, template, name) for i, row in enumerate(rows)]
    for i, row in enumerate(rows):
        for field, text in zip(fields, row):
            if not isinstance(text, str):
                raise ValueError(
                    f"{name}[{i}] has {describe(text)} in {field!r}; expected a str."
                    + (' Fill missing texts, for example with "".' if is_missing(text) else "")
                )
    # NumPy's str_ is a str, but no tokenizer written in Rust takes it.
    return [Row(prefix, tuple(map(str, row))) for row in rows]


def _column(X: Any, field: str, template: str, name: str) -> list[Any]:
    """The column of a table or array that a field asks for."""
    names = getattr(X, "column_names", getattr(X, "columns", None))  # pyarrow, others
    known = [] if names is None else list(names)
    if field in known:
        return as_list(X[field]) or []
    if not field.isdigit() or int(field) >= X.shape[1]:
        there = ", ".join(map(shown, known)) or f"its {X.shape[1]} columns have no names"
        raise ValueError(
            f"template={template!r} asks for {field!r}, which is no column of {name} ({there}). "
            f'Fields are names of columns, or their numbers, such as "{{0}}".'
        )
    if hasattr(X, "iloc"):  # pandas
        return X.iloc[:, int(field)].tolist()
    return as_list(X[:, int(field)] if names is None else X[known[int(field)]]) or []


def _check_no_columns(X: Any, rows: Sequence[Any], name: str) -> None:
    """Refuse (texts, others), which rows could be mistaken for."""
    if isinstance(X, tuple) and not any(isinstance(row, (tuple, Mapping)) for row in rows):
        raise ValueError(
            f"{name} is a tuple of {len(rows)} columns; expected a row for each prompt. Columns "
            f"make rows with list(zip(texts, others))."
        )


def _of_row(row: Any, i: int, fields: list[str], template: str, name: str) -> tuple[Any, ...]:
    """The texts of one row in the order of the fields."""
    if isinstance(row, Mapping):
        lacking = [field for field in fields if field not in row]
        if lacking:
            raise ValueError(
                f"template={template!r} asks for {lacking[0]!r}, which is no key of {name}[{i}] "
                f"(which has {some(row)})."
            )
        return tuple(row[field] for field in fields)
    texts = None if isinstance(row, np.generic) else as_list(row)
    if texts is None:
        raise ValueError(f"{name}[{i}] is {describe(row)}; expected texts. {_COLUMNS}")
    wrong = [field for field in fields if not field.isdigit() or int(field) >= len(texts)]
    if wrong:
        raise ValueError(
            f"{name}[{i}] has {len(texts)} texts without names, but template={template!r} asks "
            f'for {wrong[0]!r}. Number them, such as "{{0}}" for the first of a row, or pass dicts '
            f"or a table with names."
        )
    return tuple(texts[int(field)] for field in fields)


def with_prefix(rows: Sequence[Row], prefix: Any, name: str = "prefix") -> list[Row]:
    """Rows with another prefix: one for all, or one each.

    Raises
    ------
    ValueError
        If there are more or fewer than rows, or one is no text.
    """
    if isinstance(prefix, str):
        return [row._replace(prefix=prefix) for row in rows]
    prefixes = as_texts(prefix, name)
    if len(prefixes) != len(rows):
        raise ValueError(
            f"{name} has {len(prefixes)} entries for {len(rows)} rows; expected one str, or one "
            f"for each row."
        )
    return [row._replace(prefix=str(one)) for row, one in zip(rows, prefixes)]
