"""BatchClassifier: a column of images in, columns of predictions out, for engines that work on batches of rows.

Ray Data, Daft, Spark, Dask, `datasets` and process pools send a function to many processes and call it on batch after
batch; some of them unpickle it for each. So what travels holds no running model, and each process keeps those that it
has loaded (bitvit.modelsource). docs/scaling.md has the lines for each engine.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, overload

import numpy as np

from bitvit.classify import Classifier, at_least_one
from bitvit.errors import ImageError
from bitvit.extras import require
from bitvit.messages import shown
from bitvit.modelsource import ModelSource
from bitvit.nopaths import path_text
from bitvit.tables import FIELDS, Results, Table, array_of_lists, arrow_fields, as_table, cells_of, struct_array

__all__ = ["BatchClassifier"]

MOST_NAMED = 3  # columns whose values tell a row in a message

Naming = Callable[[int], object]
"""What the number of a row is called, None if it has no name."""


class BatchClassifier:
    """A function that classifies a column of images, batch after batch, in any process that it is sent to.

        classify = BatchClassifier("model.safetensors")
        classify({"path": ["a", "b"], "image": [data, None]})
        # {"path": ["a", "b"], "label": ["tabby cat", None], "index": [281, None], "score": [0.61, None],
        #  "error": [None, "b: no image: the cell is empty"]}

    A batch is a dict of columns (lists or NumPy arrays), a DataFrame of pandas or polars, or a Table or RecordBatch of
    pyarrow. The answer is of the same kind and has the same rows in the same order. An iterator of batches gives an
    iterator of answers, as Spark's mapInArrow and mapInPandas want it; `structs` takes a single column, as Daft does.

    A cell holds the bytes of an image file, a path, {"bytes": ..., "path": ...} as Hugging Face's data sets have it, a
    uint8 array [H, W, 3] or [H, W], lists of lists of its numbers, a PIL image, or nothing. Other columns are kept. New
    ones are `label` (text), `index` (64-bit integer), `score` (64-bit float) and `error` (text). Their types never
    depend on what a batch holds. With top_k > 1 the first three hold lists. A dict of NumPy arrays has no nulls: there
    an absent text is "", an index -1, a score NaN.

    model: the path of a packed model or of a bundle's folder, or hf://owner/name. It is read and checked here,
        and loaded where images come in: once in each process, however often this is unpickled there.
    image: the column of images. name: the column that names a row in error messages; default: `path`, if there is one.
    top_k: how many classes, the most probable first.
    threads: how many a call may use. Engines run as many calls at once as there are CPUs, hence 1.
    on_error: "record": a row whose image cannot be read has nulls, and the reason in `error`. "raise": ImageError
        that names the row.
    drop_image: leave out the column of images.
    prefix: put in front of the names of new columns, where a batch has a `label`, say, of its own.
    by_path: a pickle holds the model file's path and sha256, and is small; then the same file must be at that path on
        every machine. The default is that it holds the file's bytes (10 MB for BHViT-small), which need no shared disk.
        A bundle is code, which always stays where it is.
    batch_size, exif: as Classifier has them.

    Raises ModelFileError and ConfigError for a model that cannot be used, ValueError and TypeError for impossible
    arguments; a call raises ValueError for a column that is missing, or that is there already.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        image: str = "image",
        name: str | None = None,
        top_k: int = 1,
        threads: int = 1,
        on_error: Literal["record", "raise"] = "record",
        drop_image: bool = True,
        prefix: str = "",
        by_path: bool = False,
        batch_size: int = 8,
        exif: bool = False,
    ) -> None:
        top_k, threads = at_least_one("top_k", top_k), at_least_one("threads", threads)
        batch_size = at_least_one("batch_size", batch_size)
        if on_error not in ("record", "raise"):
            raise ValueError(f"on_error is {on_error!r}, expected 'record' or 'raise'")
        self.source = ModelSource.read(model, by_path=by_path)
        self.image, self.name, self.drop_image, self.prefix = image, name, drop_image, prefix
        self.top_k = min(top_k, self.source.classes)
        self.threads, self.batch_size, self.exif, self.on_error = threads, batch_size, exif, on_error
        self._list_length = None if top_k == 1 else self.top_k

    def __repr__(self) -> str:
        upright = ", turned upright by EXIF" if self.exif else ""
        return f"<bitvit.BatchClassifier {self.source.path!r}, column {self.image!r}, top {self.top_k}{upright}>"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """What its answers depend on; Dask would otherwise hash its pickle."""
        options = {name: value for name, value in vars(self).items() if name != "source"}
        return type(self).__qualname__, self.source.digest, sorted(options.items())

    # ------------------------------------------------------------------------------------------------------ batches
    @overload
    def __call__(self, batch: Iterator[Any]) -> Iterator[Any]: ...
    @overload
    def __call__(self, batch: Any) -> Any: ...
    def __call__(self, batch: Any) -> Any:
        """The batch with its predictions; for an iterator of batches, an iterator."""
        if isinstance(batch, Iterator):
            return map(self, batch)
        table = as_table(batch)
        self._check_columns(table)
        column = self.name or ("path" if "path" in table.names and self.image != "path" else None)

        def name(row: int) -> object:
            return None if column is None else table.row(row, [column])[column]

        results = self._results(table.cells(self.image), name, lambda row: self._described(table, row))
        return table.joined(results, self.image if self.drop_image else None)

    def structs(self, images: Iterable[Any], names: Iterable[Any] | None = None) -> Any:
        """The predictions for a column of images, each row's as one value; for engines whose functions take columns.

        images: a pyarrow array, a Series of Daft, pandas or polars, or any other iterable of cells. names: what error
        messages call them. Returns a pyarrow array of type `struct`.
        """
        listed = None if names is None else list(cells_of(names))

        def name(row: int) -> object:
            return None if listed is None else listed[row]

        return struct_array(self._results(cells_of(images), name, lambda row: f"row {row}"))

    @property
    def schema(self) -> Any:
        """The new columns, as pyarrow has it."""
        return require("pyarrow", "a schema").schema(
            [(self.prefix + name, kind) for name, kind in arrow_fields(self._list_length)]
        )

    @property
    def struct(self) -> Any:
        """The type of what `structs` returns, as pyarrow has it."""
        return require("pyarrow", "a schema").struct(list(self.schema))

    def ddl(self, schema: Any = None) -> str:
        """The new columns as Spark writes a schema; behind those that are kept, if a DataFrame's `schema` is given."""
        kept = [f for f in schema or () if not (self.drop_image and f.name == self.image)]
        types = ("string", "bigint", "double")
        if self._list_length is not None:
            types = ("array<string>", "array<bigint>", "array<double>")
        columns = [(field.name, field.dataType.simpleString()) for field in kept]
        columns += [(self.prefix + name, kind) for name, kind in zip(FIELDS, (*types, "string"), strict=True)]
        return ", ".join(f"`{name.replace('`', '``')}` {kind}" for name, kind in columns)

    def _check_columns(self, table: Table) -> None:
        for argument, column in (("image", self.image), ("name", self.name)):
            if column is not None and column not in table.names:
                there = ", ".join(repr(name) for name in table.names) or "no columns"
                raise ValueError(f"the batch has no column {column!r}, it has {there}; give {argument}= its name")
        kept = [name for name in table.names if not (self.drop_image and name == self.image)]
        taken = next((self.prefix + name for name in FIELDS if self.prefix + name in kept), None)
        if taken is not None:
            raise ValueError(f"the batch has a column {taken!r} already; give prefix= for the names of the new columns")

    def _described(self, table: Table, row: int) -> str:
        """A row that has no name: its number, and what short values it has."""
        values = table.row(row, [name for name in table.names if name != self.image])
        told = [f"{name} {shown(value)}" for name, value in values.items() if isinstance(value, str | int)]
        return f"row {row} of {len(table)}" + (f" ({', '.join(told[:MOST_NAMED])})" if told else "")

    # ------------------------------------------------------------------------------------------------------- images
    def _classifier(self) -> Classifier:
        return Classifier(self.source.model(self.threads), batch_size=self.batch_size, exif=self.exif)

    def _results(self, cells: Iterable[Any], name: Naming, described: Callable[[int], str]) -> Results:
        """What comes of each cell, in order. described: what to call a row without a name where an error is raised."""
        problems: dict[int, str] = {}
        present: list[tuple[int, object]] = []  # the number of each row that has an image, and the image's path
        count = 0

        def failed(row: int, path: object, reason: str) -> None:
            told = path if _is_nothing(name(row)) else name(row)
            known = None if _is_nothing(told) else path_text(told if isinstance(told, os.PathLike) else str(told))
            if known is None and self.on_error == "raise":
                known = described(row)
            problems[row] = reason if known is None or reason.startswith(known) else f"{known}: {reason}"
            if self.on_error == "raise":
                raise ImageError(problems[row])

        def images() -> Iterator[Any]:
            nonlocal count
            for row, cell in enumerate(cells):
                count = row + 1
                image, path = image_of(cell)
                if image is None:
                    failed(row, path, "no image: the cell is empty")
                else:
                    present.append((row, path))
                    yield image

        ahead = images()
        first = next(ahead, None)
        answers: dict[int, Any] = {}
        if first is not None:  # a batch without images, as engines make them to learn its columns, needs no model
            outcomes = self._classifier().attempt(itertools.chain([first], ahead), self.top_k)
            for number, outcome in enumerate(outcomes):
                row, path = present[number]
                if isinstance(outcome, ImageError):
                    failed(row, path, str(outcome).removeprefix(f"image {number}: "))
                else:
                    answers[row] = outcome
        results = Results(self.prefix, self._list_length)
        for row in range(count):
            results.add(answers[row] if row in answers else problems[row])
        return results


def image_of(cell: Any) -> tuple[Any, Any]:
    """A cell's image as Classifier takes it, or None if it has none; and its path, if it tells one."""
    path = None
    if isinstance(cell, Mapping) and cell.keys() <= {"bytes", "path"}:
        path, data = cell.get("path"), cell.get("bytes")
        cell = path if data is None else data
    elif isinstance(cell, str | os.PathLike):
        path = cell
    elif isinstance(cell, list) or (isinstance(cell, np.ndarray) and cell.dtype == object):
        cell = array_of_lists(cell.tolist() if isinstance(cell, np.ndarray) else cell)
    return (None if _is_nothing(cell) else cell), path


def _is_nothing(value: object) -> bool:
    """None, or what pandas has in its place: NaN, NA, NaT."""
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )
