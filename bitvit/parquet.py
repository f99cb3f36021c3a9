"""Images in Parquet files: found, told by their columns, and read row group by row group.

A place is a file, a folder, a pattern with `*`, or the address of one on a file system that pyarrow knows, such as
s3://bucket/images or gs://bucket/train-*.parquet. Memory holds a few rows, however many there are.
"""

import bisect
import contextlib
import itertools
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from bitvit.columns import IMAGE_COLUMNS
from bitvit.errors import ImageError
from bitvit.extras import require
from bitvit.files import is_folder
from bitvit.messages import listing
from bitvit.nopaths import is_web_address
from bitvit.sources import NamedBytes

__all__ = [
    "ENDING",
    "Images",
    "TableFile",
    "batches",
    "class_names",
    "find_files",
    "image_column",
    "is_parquet",
    "naming",
    "reason_of",
    "resolve",
    "row_images",
]

ENDING = ".parquet"
ROWS = 64  # of a batch: images that memory holds at once, and as many again as threads take ahead


# -------------------------------------------------------------------------------------------------------------- files
@dataclass(frozen=True)
class TableFile:
    """A Parquet file."""

    name: str
    """In messages: without the access keys that an address may hold."""
    filesystem: Any
    """pyarrow's."""
    path: str
    """On that file system."""
    relative: str
    """Below the folder that was searched."""
    state: tuple[int, int]
    """Bytes, and nanoseconds at which it was last changed."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        """pyarrow's ParquetFile. Raises ImageError, also for what is found wrong while it is read."""
        parquet = require("pyarrow.parquet", f"reading {self.name}")
        with naming(self.name), self.filesystem.open_input_file(self.path) as stream:
            yield parquet.ParquetFile(stream, pre_buffer=False)  # with it, all that has been read is held

    def row(self, number: int) -> str:
        """What messages call a row, from 0."""
        return f"{self.name} row {number}"


def is_parquet(place: str) -> bool:
    """Whether a command's argument stands for Parquet files: by its name, or because such lie in the folder itself.

    Raises ImageError for a folder that cannot be read.
    """
    if is_web_address(place):  # which pyarrow does not read
        return False
    if "://" in place or place.lower().endswith(ENDING):
        return True
    try:
        return any(name.lower().endswith(ENDING) for name in os.listdir(place))  # noqa: PTH208  # of any number
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and is_folder(place):
            raise ImageError(f"{place}: cannot be read: {problem.strerror}; check the folder") from None
        return False


def find_files(place: str) -> list[TableFile]:
    """The Parquet files at a place, sorted by name; those below a folder too, but none that begins with . or _.

    Raises ImageError if there are none, BitvitError without pyarrow.
    """
    fs = require("pyarrow.fs", f"reading {shown_place(place)}")
    with naming(shown_place(place)):
        filesystem, path, scheme = resolve(place)
        steps = path.split("/")
        fixed = "/".join(itertools.takewhile(lambda step: "*" not in step, steps))
        info = filesystem.get_file_info(fixed or "/")
        if info.type == fs.FileType.File:
            return [_table_file(scheme, filesystem, info, posixpath.basename(fixed))]
        found = []
        if info.type == fs.FileType.Directory:
            found = filesystem.get_file_info(fs.FileSelector(fixed or "/", recursive=True))
        files = []
        for info in sorted(found, key=lambda info: str(info.path)):
            relative = posixpath.relpath(info.path, fixed or "/")
            hidden = any(step.startswith((".", "_")) for step in relative.split("/"))
            wanted = "*" not in path or PurePosixPath(info.path).match(path)
            if info.type == fs.FileType.File and info.path.lower().endswith(ENDING) and wanted and not hidden:
                files.append(_table_file(scheme, filesystem, info, relative))
    if not files:
        raise ImageError(f"{shown_place(place)}: no Parquet files there; name a file, a folder or a pattern with *")
    return files


def _table_file(scheme: str, filesystem: Any, info: Any, relative: str) -> TableFile:
    return TableFile(scheme + info.path, filesystem, info.path, relative, (int(info.size), int(info.mtime_ns or 0)))


def resolve(place: str) -> tuple[Any, str, str]:
    """pyarrow's file system for a place, the path on it, and what to put in front of paths in messages."""
    fs = require("pyarrow.fs", "Parquet")
    if "://" not in place:
        return fs.LocalFileSystem(), Path(place).absolute().as_posix(), ""
    filesystem, path = fs.FileSystem.from_uri(place)
    scheme = place.partition("://")[0]
    return filesystem, path, "" if scheme == "file" else f"{scheme}://"


def shown_place(place: str) -> str:
    """An address without the user and the options, which may be secret."""
    scheme, separator, rest = place.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else place


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """pyarrow's errors are ImageErrors with a name in front."""
    arrow = require("pyarrow", f"reading {name}")
    try:
        yield
    # ValueError: ArrowInvalid, and text that is not UTF-8; OverflowError: dates that Python has not.
    except (OSError, ValueError, OverflowError, arrow.ArrowException) as problem:
        raise ImageError(f"{name}: cannot be read as Parquet: {reason_of(problem)}") from None


def reason_of(problem: Exception) -> str:
    """The first line of an error's text, or its kind where it has none: pyarrow's and its file systems' go on."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


# ------------------------------------------------------------------------------------------------------------ columns
def _features(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face's `datasets` has written of the columns; empty if it has not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)} if isinstance(features, dict) else {}


def class_names(schema: Any, column: str) -> list[str] | None:
    """The class names behind the numbers of a column of Hugging Face's type ClassLabel; else None."""
    feature = _features(schema).get(column, {})
    names = feature.get("names")
    is_label = feature.get("_type") == "ClassLabel" and isinstance(names, list)
    return [str(name) for name in names] if is_label and names else None


def image_column(schema: Any, wanted: str | None, where: str) -> str:
    """The column of images: bytes, {"bytes", "path"} as Hugging Face has them, or paths. Raises ImageError."""
    option = "say which with --path-column (Layout(path_column=))"
    columns = {name: kind for name in schema.names if (kind := _kind(schema.field(name).type))}
    if wanted is not None:
        if wanted in columns:
            return wanted
        found = f"is {schema.field(wanted).type}" if wanted in schema.names else "is not there"
        raise ImageError(
            f"{where}: column {wanted!r} {found}, expected one of bytes, of {{bytes, path}} or of paths; its columns: "
            f"{listing(schema.names)}"
        )
    features = _features(schema)
    likely = [
        [name for name in columns if features.get(name, {}).get("_type") == "Image"],
        [name for name, kind in columns.items() if kind == "struct"],
        [name for name, kind in columns.items() if kind == "binary"],
        [name for name in columns if name.lower() in IMAGE_COLUMNS],
    ]
    names = next(filter(None, likely), [])
    if len(names) == 1:
        return names[0]
    usual = [name for name in names if name.lower() == IMAGE_COLUMNS[0]]
    if len(usual) == 1:
        return usual[0]
    problem = f"{' and '.join(map(repr, names))} might hold the images" if names else "none holds images"
    raise ImageError(f"{where}: columns {listing(schema.names)}: {problem}; {option}")


def _kind(column: Any) -> str:
    """Of a column's type: binary, struct or text; empty if it can hold no images."""
    text = str(column)
    if text in ("binary", "large_binary", "binary_view"):
        return "binary"
    if text in ("string", "large_string", "string_view"):
        return "text"
    types = require("pyarrow", "Parquet").types
    fields = {field.name for field in column} if types.is_struct(column) else set()
    return "struct" if "bytes" in fields and fields <= {"bytes", "path"} else ""


# --------------------------------------------------------------------------------------------------------------- rows
def batches(table: Any, groups: Iterable[int], columns: list[str]) -> Iterator[Any]:
    """RecordBatches of some columns, a row group after the other: several at once would be held together."""
    for group in groups:
        yield from table.iter_batches(ROWS, row_groups=[group], columns=columns)


def row_images(file: TableFile, column: Any, first: int, root: str | None = None) -> Iterator[NamedBytes]:
    """The images in an array of pyarrow, named by their rows; one that is not there says so when it is opened.

    first: the number of the first row. root: where paths start; None: in the file's folder.
    """
    for number, cell in enumerate(column, first):
        name = file.row(number)
        try:
            value = cell.as_py()
        except UnicodeDecodeError:
            yield NamedBytes(b"", name, problem="the path in the cell is not UTF-8")
            continue
        path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            yield NamedBytes(data, name)
        elif path:
            yield _read(file, path, name, root)
        else:
            yield NamedBytes(b"", name, problem="no image: the cell is empty")


def _read(file: TableFile, path: str, name: str, root: str | None) -> NamedBytes:
    """What a path in a cell stands for: on the file system of the Parquet file, if it is no address."""
    try:
        if root is not None:
            filesystem, place, _ = resolve(path if "://" in path else str(Path(root) / path))
        elif "://" in path:
            filesystem, place, _ = resolve(path)
        else:
            filesystem, place = file.filesystem, posixpath.join(posixpath.dirname(file.path), path)
        with naming(path), filesystem.open_input_stream(place, compression=None) as stream:
            return NamedBytes(stream.read(), name)
    except Exception as problem:  # file systems have errors of their own
        return NamedBytes(b"", name, problem=f"{path}: cannot be read: {reason_of(problem)}")


class Images(Sequence[NamedBytes]):
    """The images of many files, by their place among all; quick in order, where a batch at a time is read."""

    def __init__(self, files: Sequence[TableFile], column: str, counts: Sequence[int], root: str | None = None) -> None:
        self._files, self._column, self._root = files, column, root
        self._ends = list(itertools.accumulate(counts))
        self._reading: Iterator[NamedBytes] = iter(())
        self._next = 0  # the place that is read next

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @cached_property
    def names(self) -> list[str]:
        """What messages call the rows."""
        starts = [0, *self._ends]
        return [
            file.row(n)
            for file, start, end in zip(self._files, starts, self._ends, strict=False)
            for n in range(end - start)
        ]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        index = bisect.bisect_right(self._ends, place)
        start = self._ends[index - 1] if index else 0
        behind = self._next <= start  # nothing of this file is open yet, or the last row before it was read
        if place < self._next or behind:
            self._reading, self._next = self._opened(self._files[index], start, place - start)
        image: NamedBytes | None = None
        while self._next <= place:
            image = next(self._reading)
            self._next += 1
        return image

    def _opened(self, file: TableFile, start: int, row: int) -> tuple[Iterator[NamedBytes], int]:
        """The images from the row group on that holds a row, and the place of the first of them."""
        with file.open() as table:
            sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        group = bisect.bisect_right(ends, row)
        first = ends[group] - sizes[group]
        return self._images(file, list(range(group, len(sizes))), first), start + first

    def _images(self, file: TableFile, groups: list[int], row: int) -> Iterator[NamedBytes]:
        with file.open() as table:
            for batch in batches(table, groups, [self._column]):
                yield from row_images(file, batch.column(0), row, self._root)
                row += batch.num_rows
