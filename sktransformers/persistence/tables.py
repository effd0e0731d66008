"""Tables of pandas and polars without rows: what predictions are to look like."""

import importlib
from typing import Any

# Types of polars' columns that their names alone say.
_POLARS = {
    *("String", "Categorical", "Boolean", "Null", "Float32", "Float64"),
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
}


def is_empty(value: Any) -> bool:
    """Whether a value is a table of pandas or polars that has no rows."""
    return type(value).__name__ == "DataFrame" and _library(value) is not None and len(value) == 0


def describe(table: Any) -> dict[str, Any]:
    """Names and types of the columns.

    Raises
    ------
    ValueError
        If a column has a type that cannot be described.
    """
    if _library(table) == "polars":
        columns = [[name, _polars_type(dtype)] for name, dtype in table.schema.items()]
        return {"library": "polars", "columns": columns}
    pandas = importlib.import_module("pandas")
    columns = [[name, _pandas_type(pandas, dtype)] for name, dtype in table.dtypes.items()]
    index = table.columns
    return {
        "library": "pandas",
        "columns": columns,
        "names": list(index.names),
        "dtype": None if index.nlevels > 1 else _pandas_type(pandas, index.dtype),
    }


def made(about: dict[str, Any]) -> Any:
    """The table of a description.

    Raises
    ------
    ValueError, TypeError, KeyError, AttributeError
        If it is none that `describe` gives, or the library is missing.
    """
    try:
        library = importlib.import_module(
            {"pandas": "pandas", "polars": "polars"}[about["library"]]
        )
    except ImportError as error:
        raise ValueError(f"y was a table of {about['library']}, which is not installed") from error
    names, types = zip(*about["columns"])
    if library.__name__ == "polars":
        return library.DataFrame(
            schema={name: _polars_dtype(library, kind) for name, kind in zip(names, types)}
        )
    table = library.DataFrame(
        {i: library.Series([], dtype=_pandas_dtype(library, kind)) for i, kind in enumerate(types)}
    )
    if about["dtype"] is None:
        table.columns = library.MultiIndex.from_tuples(names, names=about["names"])
    else:
        (name,) = about["names"]
        dtype = _pandas_dtype(library, about["dtype"])
        table.columns = library.Index(names, dtype=dtype, name=name)
    return table


def _library(value: Any) -> str | None:
    library = type(value).__module__.partition(".")[0]
    return library if library in ("pandas", "polars") else None


def _pandas_type(pandas: Any, dtype: Any) -> Any:
    if isinstance(dtype, pandas.CategoricalDtype):
        return {
            "categories": dtype.categories.tolist(),
            "of": _pandas_type(pandas, dtype.categories.dtype),
            "ordered": bool(dtype.ordered),
        }
    if isinstance(dtype, pandas.StringDtype):
        return {"storage": dtype.storage, "na": dtype.na_value is pandas.NA}
    if pandas.api.types.pandas_dtype(str(dtype)) != dtype:
        raise ValueError
    return str(dtype)


def _pandas_dtype(pandas: Any, kind: Any) -> Any:
    if isinstance(kind, str):
        return pandas.api.types.pandas_dtype(kind)
    if "storage" in kind:
        na = pandas.NA if kind["na"] else float("nan")
        return pandas.StringDtype(kind["storage"], na_value=na)
    categories = pandas.Index(kind["categories"], dtype=_pandas_dtype(pandas, kind["of"]))
    return pandas.CategoricalDtype(categories, ordered=kind["ordered"])


def _polars_type(dtype: Any) -> Any:
    if hasattr(dtype, "categories") and type(dtype).__name__ == "Enum":
        return {"categories": dtype.categories.to_list()}
    if type(dtype).__name__ == "Decimal":
        return {"precision": dtype.precision, "scale": dtype.scale}
    if type(dtype).__name__ not in _POLARS:
        raise ValueError
    return type(dtype).__name__


def _polars_dtype(polars: Any, kind: Any) -> Any:
    if isinstance(kind, str):
        return getattr(polars, {name: name for name in _POLARS}[kind])()
    if "categories" in kind:
        return polars.Enum(kind["categories"])
    return polars.Decimal(kind["precision"], kind["scale"])
