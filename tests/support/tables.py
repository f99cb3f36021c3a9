"""Kinds of batches: how to make one of columns, and what is in it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

__all__ = ["KINDS", "Kind", "needs"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """make: of lists. rows: with None for nulls. types: each column's name and type, as text."""

    name: str
    package: str
    make: Callable[[dict[str, list[Any]]], Any]
    rows: Callable[[Any], list[Row]]
    types: Callable[[Any], list[tuple[str, str]]]


def needs(kind: Kind) -> None:
    pytest.importorskip(kind.package, reason=f"needs {kind.package}")


def _arrow(columns: dict[str, list[Any]]) -> Any:
    pa = importlib.import_module("pyarrow")

    types = {"path": pa.string(), "image": pa.binary(), "n": pa.int64()}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def _records(columns: dict[str, list[Any]]) -> Any:
    pa = importlib.import_module("pyarrow")

    table = _arrow(columns)
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


def _arrow_types(table: Any) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in table.schema]


def _frame(columns: dict[str, list[Any]]) -> Any:
    pd = importlib.import_module("pandas")

    frame = pd.DataFrame(columns, index=range(100, 100 + len(columns["path"])))
    return frame.astype({"path": "string", "image": object, "n": "int64"})


def _frame_rows(frame: Any) -> list[Row]:
    pd = importlib.import_module("pandas")

    assert list(frame.index) == list(range(100, 100 + len(frame)))

    def plain(value: Any) -> Any:
        return None if not isinstance(value, list | np.ndarray) and pd.isna(value) else value

    return [{name: plain(frame[name].iloc[k]) for name in frame.columns} for k in range(len(frame))]


def _polars(columns: dict[str, list[Any]]) -> Any:
    pl = importlib.import_module("polars")

    return pl.DataFrame(columns, schema={"path": pl.String, "image": pl.Binary, "n": pl.Int64})


def _array_rows(columns: dict[str, Any]) -> list[Row]:
    """The nulls that NumPy does not have are an empty text, -1 and NaN."""
    rows = _lists_rows({name: column.tolist() for name, column in columns.items()})
    for row in rows:
        if row["error"]:
            assert not np.any(row["label"])
            assert np.all(np.equal(row["index"], -1))
            assert np.all(np.isnan(row["score"]))
            row.update(label=None, index=None, score=None)
        row["error"] = row["error"] or None
    return rows


def _lists_rows(columns: dict[str, list[Any]]) -> list[Row]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


KINDS = (
    Kind("lists", "builtins", dict, _lists_rows, lambda columns: [(name, "list") for name in columns]),
    Kind("arrays", "numpy", lambda columns: {k: np.array(v, object) for k, v in columns.items()}, _array_rows,
         lambda columns: [(name, column.dtype.kind) for name, column in columns.items()]),
    Kind("table", "pyarrow", _arrow, lambda table: table.to_pylist(), _arrow_types),
    Kind("records", "pyarrow", _records, lambda table: table.to_pylist(), _arrow_types),
    Kind("pandas", "pandas", _frame, _frame_rows, lambda frame: [(c, str(frame[c].dtype)) for c in frame.columns]),
    Kind("polars", "polars", _polars, lambda frame: frame.to_dicts(),
         lambda frame: [(name, str(kind)) for name, kind in frame.schema.items()]),
)  # fmt: skip
