"""Classifying the rows of Parquet files: a Parquet file of predictions for each, which appears when it is complete.

A file records the job that made it, by which a job that was stopped knows what is done.
"""

import contextlib
import hashlib
import json
import posixpath
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bitvit.classify import Classifier
from bitvit.errors import BitvitError, ImageError
from bitvit.extras import require
from bitvit.messages import listing
from bitvit.parquet import TableFile, batches, image_column, naming, reason_of, resolve, row_images
from bitvit.sources import NamedBytes
from bitvit.tables import Results, arrow_fields
from bitvit.version import __version__

__all__ = ["Done", "Job", "renamed"]

GROUP_ROWS = 8192  # of the predictions that are written together, or
GROUP_BYTES = 64 << 20  # of kept columns, if those come first
JOB = b"bitvit"  # in a file's metadata
TEMPORARY = ".bitvit."  # which no reader of Parquet folders takes for a part of them


@dataclass
class Done:
    """What came of one file."""

    file: TableFile
    rows: int
    failed: int
    resumed: bool
    """Whether an earlier run has done it."""


@dataclass(kw_only=True)
class Job:
    """The rows of files, classified into a folder.

    files: each gives one file of the same name and place below `out`, a folder or an address of one.
    model: digest of the model file. column: that of the images; None: told from the types. keep: columns that go into
    the predictions too, by their new names. failed: called with the reason for each image that cannot be read.

    Raises ImageError and BitvitError for what cannot be read or written.
    """

    classifier: Classifier
    model: str
    files: Sequence[TableFile]
    out: str
    top_k: int
    column: str | None = None
    keep: dict[str, str] = field(default_factory=dict)
    resume: bool = False
    failed: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        with naming(self.out):
            self._filesystem, self._folder, self._scheme = resolve(self.out)
        double = [file.relative for file in self.files]
        again = sorted({name for name in double if double.count(name) > 1}) if len(set(double)) < len(double) else []
        if again:
            raise BitvitError(
                f"{self.out}: {listing(again)} would be written more than once; name one folder at a time"
            )
        inputs = {(type(file.filesystem), file.path) for file in self.files}
        if any((type(self._filesystem), self._target(file)) in inputs for file in self.files):
            raise BitvitError(f"{self.out}: predictions would replace the images' files; name another folder")
        taken = [new for new in self.keep.values() if new in self._schema.names]
        if taken or len(set(self.keep.values())) < len(self.keep):
            raise BitvitError(
                f"--keep: {listing(taken or sorted(self.keep.values()))} is a column of the predictions; keep it under "
                "another name, as in --keep label=true_label"
            )

    def run(self) -> Iterator[Done]:
        """Classify file after file; each is complete when it is yielded."""
        self._sweep()
        for file in self.files:
            rows = self._rows_done(file) if self.resume else None
            yield self._classify(file) if rows is None else Done(file, *rows, resumed=True)

    # ---------------------------------------------------------------------------------------------------- what is done
    def _target(self, file: TableFile) -> str:
        return posixpath.join(self._folder, file.relative)

    def _named(self, path: str) -> str:
        return self._scheme + path

    def _sweep(self) -> None:
        """Delete what a run that was killed has left of these files: nobody would find it in a bucket."""
        arrow, fs = require("pyarrow", "Parquet"), require("pyarrow.fs", "Parquet")
        begun = tuple(_beginning(self._target(file)) for file in self.files)
        with contextlib.suppress(OSError, arrow.ArrowException):  # what cannot be listed or deleted does no harm
            for found in self._filesystem.get_file_info(fs.FileSelector(self._folder, True, recursive=True)):
                if posixpath.basename(found.path).startswith(TEMPORARY) and found.path.startswith(begun):
                    self._filesystem.delete_file(found.path)

    def _identity(self, file: TableFile) -> bytes:
        """What must be the same for a file of predictions to be that of this job."""
        facts = {
            "version": __version__, "model": self.model, "classes": len(self.classifier.labels), "top_k": self.top_k,
            "exif": self.classifier.exif, "column": self.column, "keep": self.keep, "file": file.state,
        }  # fmt: skip
        return json.dumps(facts, sort_keys=True).encode()

    def _rows_done(self, file: TableFile) -> tuple[int, int] | None:
        """Rows that an earlier run has classified, and those of them that failed; None if it has not.

        Raises BitvitError for the file of another job.
        """
        fs, parquet = require("pyarrow.fs", "Parquet"), require("pyarrow.parquet", "Parquet")
        target = self._target(file)
        with naming(self._named(target)):
            if self._filesystem.get_file_info(target).type == fs.FileType.NotFound:
                return None
            with self._filesystem.open_input_file(target) as stream:
                table = parquet.ParquetFile(stream)
                if (table.schema_arrow.metadata or {}).get(JOB) == self._identity(file):
                    errors = table.read(columns=["error"]).column(0)
                    return len(errors), len(errors) - errors.null_count
        raise BitvitError(
            f"{self._named(target)}: is of another job: another model, other options, another version of bitvit, or "
            f"{file.name} has changed; repeat that job, or start afresh without --resume"
        )

    # ------------------------------------------------------------------------------------------------------- one file
    @cached_property
    def _schema(self) -> Any:
        """The new columns. Their types never depend on what is in them."""
        arrow = require("pyarrow", "Parquet")
        return arrow.schema([("file", arrow.string()), ("row", arrow.int64()), *arrow_fields(self._list_length)])

    @property
    def _list_length(self) -> int | None:
        """As of Results."""
        return self.top_k if self.top_k > 1 else None

    def _classify(self, file: TableFile) -> Done:
        arrow = require("pyarrow", "Parquet")
        with file.open() as table:
            given, total = table.schema_arrow, table.metadata.num_rows
        column = image_column(given, self.column, file.name)
        missing = [name for name in self.keep if name not in given.names]
        if missing:
            raise BitvitError(f"{file.name}: --keep: no column {listing(missing)}; its columns: {listing(given.names)}")
        kept = [given.field(name).with_name(new) for name, new in self.keep.items()]
        schema = arrow.schema([*kept, *self._schema], metadata={JOB: self._identity(file)})
        waiting: deque[list[Any]] = deque()  # columns to keep, of the batches whose images are on their way
        sizes: deque[int] = deque()
        images = self._images(file, column, waiting, sizes)
        outcomes = self.classifier.attempt(images, self.top_k)
        failed, first = 0, 0
        with contextlib.closing(outcomes), self._writing(self._target(file), schema) as write:  # type: ignore[type-var]
            results = Results("", self._list_length)
            for outcome in outcomes:
                if isinstance(outcome, ImageError):
                    failed += 1
                    self.failed(str(outcome))
                    results.add(str(outcome))
                else:
                    results.add(outcome)
                if len(results.error) == sizes[0]:
                    write(waiting.popleft() + self._columns(file, first, results))
                    first += sizes.popleft()
                    results = Results("", self._list_length)
        if first != total:
            raise ImageError(
                f"{file.name}: holds {first} rows, and its footer says {total}; it is damaged, copy it again"
            )
        return Done(file, total, failed, resumed=False)

    def _images(
        self, file: TableFile, column: str, waiting: deque[list[Any]], sizes: deque[int]
    ) -> Iterator[NamedBytes]:
        """The images of a file; what is kept of each batch, and its size, are appended before its first image."""
        first = 0
        with file.open() as table:
            for batch in batches(table, range(table.num_row_groups), list(dict.fromkeys([column, *self.keep]))):
                if batch.num_rows:
                    waiting.append([batch.column(name) for name in self.keep])
                    sizes.append(batch.num_rows)
                    yield from row_images(file, batch.column(column), first)
                    first += batch.num_rows

    def _columns(self, file: TableFile, first: int, results: Results) -> list[Any]:
        """The new columns of some rows."""
        arrow = require("pyarrow", "Parquet")
        count = len(results.error)
        columns = [[file.name] * count, range(first, first + count), *(values for _, _, values in results.columns())]
        return [arrow.array(values, kind.type) for values, kind in zip(columns, self._schema, strict=True)]

    @contextlib.contextmanager
    def _writing(self, target: str, schema: Any) -> Iterator[Callable[[list[Any]], None]]:
        """A function that takes the columns of some rows; their file appears when the context ends without error."""
        arrow, parquet = require("pyarrow", "Parquet"), require("pyarrow.parquet", "Parquet")
        name = self._named(target)
        temporary = f"{_beginning(target)}{secrets.token_hex(4)}"
        pending: list[Any] = []

        def flush() -> None:
            if pending:
                writer.write_table(arrow.Table.from_batches(pending, schema))
                pending.clear()

        def write(columns: list[Any]) -> None:
            pending.append(arrow.RecordBatch.from_arrays(columns, schema=schema))
            rows, size = sum(b.num_rows for b in pending), sum(b.nbytes for b in pending)
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                with _refusing(name):
                    flush()

        with _refusing(name):
            self._filesystem.create_dir(posixpath.dirname(target), recursive=True)
            writer = parquet.ParquetWriter(temporary, schema, filesystem=self._filesystem)
        try:
            yield write
            with _refusing(name):
                flush()
                writer.close()
                self._filesystem.move(temporary, target)
        except BaseException:
            with contextlib.suppress(Exception):  # the first is what matters
                writer.close()
            with contextlib.suppress(Exception):
                self._filesystem.delete_file(temporary)
            raise


def _beginning(target: str) -> str:
    """How the places begin at which a file is written before it is complete."""
    folder, name = posixpath.split(target)
    return posixpath.join(folder, f"{TEMPORARY}{hashlib.sha256(name.encode()).hexdigest()[:16]}.")


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What keeps a file from being written is a BitvitError."""
    arrow = require("pyarrow", "Parquet")
    try:
        yield
    except (OSError, ValueError, arrow.ArrowException) as problem:
        raise BitvitError(
            f"{name}: cannot be written: {reason_of(problem)}; name a folder that you may write to"
        ) from None


def renamed(options: Iterable[str]) -> dict[str, str]:
    """What --keep says: columns by their new names; NAME, or NAME=NEW."""
    pairs = (option.partition("=") for option in options)
    return {name: new or name for name, _, new in pairs}
