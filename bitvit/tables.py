"""Batches of rows as people hold them, and as the same kind again with other columns.

    Columns   a dict, or another mapping, of lists or NumPy arrays
    Frame     a pandas DataFrame
    Arrow     a pyarrow Table or RecordBatch
    Polars    a polars DataFrame

Nobody's package is imported before a batch of its own comes in. What a batch holds in its new columns decides nothing
about their types: engines take the types of the first batch for those of all, and one of nulls alone, left to itself,
has a type that no other batch has.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitvit.extras import require
from bitvit.predictions import Prediction

__all__ = ["FIELDS", "Results", "Table", "array_of_lists", "arrow_fields", "as_table", "cells_of", "struct_array"]

FIELDS = ("label", "index", "score", "error")
ROWS_AT_ONCE = 64  # of an Arrow column, that Python holds as objects


@dataclass
class Results:
    """What came of a batch's images: None where there is nothing."""

    prefix: str
    """Of the columns' names."""
    top_k: int | None
    """Length of the lists that label, index and score hold; None: they hold no lists."""
    label: list[Any] = field(default_factory=list)
    index: list[Any] = field(default_factory=list)
    score: list[Any] = field(default_factory=list)
    error: list[str | None] = field(default_factory=list)

    def add(self, outcome: Sequence[Prediction] | str) -> None:
        """The next row: its predictions, or why there are none."""
        if isinstance(outcome, str):
            values: tuple[Any, ...] = (None, None, None, outcome)
        elif self.top_k is None:
            best = outcome[0]
            values = (best["label"], best["index"], best["score"], None)
        else:
            labels, indices, scores = zip(*((one["label"], one["index"], one["score"]) for one in outcome), strict=True)
            values = (list(labels), list(indices), list(scores), None)
        for name, value in zip(FIELDS, values, strict=True):
            getattr(self, name).append(value)

    def columns(self) -> Iterator[tuple[str, str, list[Any]]]:
        """Each new column's field, name and values."""
        return ((name, self.prefix + name, getattr(self, name)) for name in FIELDS)


class Table(Protocol):
    """A batch of rows, whatever holds it."""

    @property
    def names(self) -> Sequence[Any]:
        """Of its columns."""
        ...

    def __len__(self) -> int: ...

    def cells(self, name: str) -> Iterable[Any]:
        """The values of a column, as Python's or NumPy's objects."""
        ...

    def row(self, number: int, names: Sequence[Any]) -> dict[str, Any]:
        """Some values of a row, for messages."""
        ...

    def joined(self, results: Results, dropped: str | None) -> Any:
        """The batch without a column, if one is to be dropped, and with the results."""
        ...


def as_table(batch: Any) -> Table:
    """Raises TypeError for what is not a batch, ValueError for columns of different lengths."""
    if isinstance(batch, Mapping):
        return Columns(batch)
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(batch).__mro__}
    if ("pandas", "DataFrame") in kinds:
        return Frame(batch)
    if kinds & {("pyarrow", "Table"), ("pyarrow", "RecordBatch")}:
        return Arrow(batch)
    if ("polars", "DataFrame") in kinds:
        return Polars(batch)
    raise TypeError(
        f"the batch is of type {type(batch).__name__}, expected a dict of columns, a DataFrame of pandas or polars, a "
        "Table or RecordBatch of pyarrow, or an iterator of them"
    )


# -------------------------------------------------------------------------------------------------------------- dicts
class Columns:
    """A dict of lists or NumPy arrays. The results are what the column of images is: lists, or arrays."""

    def __init__(self, batch: Mapping[Any, Any]) -> None:
        self.batch = dict(batch)
        self.names = list(self.batch)
        lengths = {name: len(column) for name, column in self.batch.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of the batch are not of one length: {lengths}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def cells(self, name: str) -> Iterable[Any]:
        return cells_of(self.batch[name])

    def row(self, number: int, names: Sequence[Any]) -> dict[str, Any]:
        return {str(name): self.batch[name][number] for name in names}

    def joined(self, results: Results, dropped: str | None) -> dict[Any, Any]:
        is_numpy = any(isinstance(column, np.ndarray) for column in self.batch.values())
        kept = {name: column for name, column in self.batch.items() if name != dropped}
        added = {
            name: numpy_column(field, values, results.top_k) if is_numpy else values
            for field, name, values in results.columns()
        }
        return kept | added


_NUMPY: dict[str, tuple[type, Any]] = {
    "label": (np.str_, ""), "index": (np.int64, -1), "score": (np.float64, np.nan), "error": (np.str_, ""),
}  # fmt: skip
"""Field -> its type, and what stands where there is nothing."""


def numpy_column(name: str, values: list[Any], top_k: int | None) -> NDArray[Any]:
    """[rows], or [rows, top_k] for lists."""
    dtype, nothing = _NUMPY[name]
    if top_k is None or name == "error":
        return np.array([nothing if value is None else value for value in values], dtype)
    filled = [[nothing] * top_k if value is None else value for value in values]
    return np.array(filled, dtype).reshape(-1, top_k)


def cells_of(column: Iterable[Any]) -> Iterable[Any]:
    """The values of a column of any package."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "S":
        # Taken one by one they lose the NULs that a BMP or a TIFF may end in. Those that NumPy added do no harm.
        return (bytes(column[k : k + 1].data) if column[k] else b"" for k in range(len(column)))
    if type(column).__module__.partition(".")[0] == "pyarrow":
        return arrow_cells(column)
    if hasattr(column, "to_pylist"):  # Daft's Series
        return column.to_pylist()
    return column


# ------------------------------------------------------------------------------------------------------------- pandas
class Frame:
    """A pandas DataFrame. The results have its index, and types that know nulls."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.names = list(batch.columns)

    def __len__(self) -> int:
        return len(self.batch)

    def cells(self, name: str) -> Iterable[Any]:
        return self.batch[name]

    def row(self, number: int, names: Sequence[Any]) -> dict[str, Any]:
        return {"index": self.batch.index[number]} | {str(name): self.batch[name].iloc[number] for name in names}

    def joined(self, results: Results, dropped: str | None) -> Any:
        pd = importlib.import_module("pandas")

        kept = self.batch if dropped is None else self.batch.drop(columns=dropped)
        types = dict(zip(FIELDS, ("string", "Int64", "Float64", "string"), strict=True))
        if results.top_k is not None:  # pandas' own types know no lists
            types |= {name: pd.ArrowDtype(kind) for name, kind in arrow_fields(results.top_k)[:3]}
        added = {name: pd.Series(values, self.batch.index, types[field]) for field, name, values in results.columns()}
        return kept.assign(**added)


# -------------------------------------------------------------------------------------------------------------- Arrow
class Arrow:
    """A pyarrow Table or RecordBatch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.names = batch.schema.names

    def __len__(self) -> int:
        return self.batch.num_rows

    def cells(self, name: str) -> Iterable[Any]:
        return arrow_cells(self.batch.column(name))

    def row(self, number: int, names: Sequence[Any]) -> dict[str, Any]:
        return {name: self.batch.column(name)[number].as_py() for name in names}

    def joined(self, results: Results, dropped: str | None) -> Any:
        pa = require("pyarrow", "a column of results")

        kept = [(field, self.batch.column(field.name)) for field in self.batch.schema if field.name != dropped]
        types = dict(arrow_fields(results.top_k))
        added = [
            (pa.field(name, types[field]), pa.array(values, types[field])) for field, name, values in results.columns()
        ]
        fields, arrays = zip(*kept, *added, strict=True)
        return type(self.batch).from_arrays(list(arrays), schema=pa.schema(fields, self.batch.schema.metadata))


def arrow_cells(column: Any) -> Iterator[Any]:
    """The values of a pyarrow Array or ChunkedArray, of which only a few are Python's objects at a time."""
    for chunk in column.chunks if hasattr(column, "chunks") else [column]:
        if hasattr(chunk, "to_numpy_ndarray"):  # tensors of one shape
            yield from chunk.to_numpy_ndarray()
        elif hasattr(chunk.type, "storage_type"):  # another package's tensors
            yield from chunk.to_numpy(zero_copy_only=False)
        elif _is_list(chunk.type):
            yield from (array_of_arrow_lists(cell.values) if cell.is_valid else None for cell in chunk)
        else:
            for begin in range(0, len(chunk), ROWS_AT_ONCE):
                yield from chunk.slice(begin, ROWS_AT_ONCE).to_pylist()


def _is_list(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def array_of_arrow_lists(values: Any) -> Any:
    """A pyarrow array, maybe of lists of lists, as the NumPy array that they stand for; lists if it is ragged."""
    shape, inner = [len(values)], values
    while _is_list(inner.type):
        lengths = require("pyarrow.compute", "images in lists").list_value_length(inner).unique().to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            return values.to_pylist()
        shape.append(lengths[0])
        inner = inner.flatten()
    return as_uint8(inner.to_numpy(zero_copy_only=False).reshape(shape))


def array_of_lists(lists: Any) -> Any:
    """Lists of lists of numbers as the array that they stand for; as they are if there is none."""
    try:
        array = np.array(lists)
    except ValueError:  # lists of different lengths
        return lists
    return as_uint8(array) if array.dtype.kind in "biuf" else lists


def as_uint8(array: NDArray[Any]) -> NDArray[Any]:
    """Integers that all fit, of whatever type: lists have none. Other arrays as they are."""
    fits = array.ndim > 1 and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255
    return array.astype(np.uint8, copy=False) if fits else array


def arrow_fields(top_k: int | None) -> list[tuple[str, Any]]:
    """The name and type of each field of the results."""
    pa = require("pyarrow", "a column of results")

    types = pa.string(), pa.int64(), pa.float64()
    if top_k is not None:
        types = tuple(pa.list_(kind) for kind in types)
    return list(zip(FIELDS, (*types, pa.string()), strict=True))


def struct_array(results: Results) -> Any:
    """All results of a row as one value."""
    pa = require("pyarrow", "a column of results")

    types = dict(arrow_fields(results.top_k))
    named = [
        (pa.field(name, types[field]), pa.array(values, types[field])) for field, name, values in results.columns()
    ]
    fields, arrays = zip(*named, strict=True)
    return pa.StructArray.from_arrays(list(arrays), fields=list(fields))


# ------------------------------------------------------------------------------------------------------------- polars
class Polars:
    """A polars DataFrame."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.names = batch.columns

    def __len__(self) -> int:
        return self.batch.height

    def cells(self, name: str) -> Iterable[Any]:
        return self.batch[name]

    def row(self, number: int, names: Sequence[Any]) -> dict[str, Any]:
        return {name: self.batch[name][number] for name in names}

    def joined(self, results: Results, dropped: str | None) -> Any:
        pl = importlib.import_module("polars")

        kept = self.batch if dropped is None else self.batch.drop(dropped)
        types: list[Any] = [pl.String, pl.Int64, pl.Float64]
        if results.top_k is not None:
            types = [pl.List(kind) for kind in types]
        return kept.with_columns(
            pl.Series(name, values, dtype=kind)
            for kind, (_, name, values) in zip([*types, pl.String], results.columns(), strict=True)
        )
