"""bitvit classify: images -> predictions, as a table or for machines."""

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from bitvit.cli.console import (
    SOME_FAILED,
    compiling_status,
    is_animated,
    output,
    print_error,
    print_note,
    print_turned,
    printable,
    stderr_console,
)
from bitvit.cli.declare import Argument, Option
from bitvit.errors import BitvitError, ImageError

if TYPE_CHECKING:
    from rich.console import Console

    from bitvit.classify import Classifier
    from bitvit.predictions import Prediction

STDIN = "-"
QUICKLY_DONE = 8  # images, for which a progress bar would only flicker


class Format(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def classify(
    model: Annotated[
        Path,
        Argument(
            metavar="MODEL", help="Packed model, written by bitvit convert, a bundle's folder, or hf://owner/name."
        ),
    ],
    paths: Annotated[
        list[str],
        Argument(
            metavar="PATH",
            help="Images and folders of images; - is an image on stdin. Or Parquet files, folders of them, patterns or "
            "addresses such as s3://bucket/images.",
        ),
    ],
    top_k: Annotated[int, Option("--top-k", "-k", min=1, metavar="N", help="Classes per image.")] = 5,
    form: Annotated[Format, Option("--format", "-f", help="How to write the predictions.")] = Format.table,
    out: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to a file instead of stdout. For Parquet: a folder, or the address of one, which gets a file "
            "of predictions for each file of images.",
        ),
    ] = None,
    recursive: Annotated[bool, Option("--recursive", "-r", help="Search folders within folders too.")] = False,
    batch_size: Annotated[
        int, Option("--batch-size", "-b", min=1, metavar="N", help="Images that a thread computes together.")
    ] = 8,
    threads: Annotated[
        int | None,
        Option("--threads", "-t", min=1, metavar="N", help="Threads to use; default: all CPUs of the process."),
    ] = None,
    exif: Annotated[
        bool, Option("--exif", help="Turn images upright as their EXIF data says, which is ignored otherwise.")
    ] = False,
    explain: Annotated[
        Path | None,
        Option(
            "--explain",
            metavar="FOLDER",
            help="Draw over each image where the network looked; PNG files in this folder.",
        ),
    ] = None,
    path_column: Annotated[
        str | None, Option("--path-column", metavar="NAME", help="Parquet's column with the images.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        Option(
            "--keep", metavar="NAME", help="Keep this column of Parquet; NAME=NEW renames it. Give it again for more."
        ),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on where the same command on Parquet files was stopped.")
    ] = False,
) -> None:
    """Classify images.

    An image that cannot be read is reported on stderr; the others go on, and the exit code is 3.

    Formats for machines:

    json: a list of {"path", "predictions": [{"label", "index", "score"}]}

    jsonl: the same records, one a line; in both a failure is {"path", "error"}

    csv: columns path,rank,label,index,score; failures are left out

    Parquet: columns file,row,label,index,score,error, the middle ones lists unless --top-k is 1; kept ones come first
    """
    from bitvit.parquet import is_parquet  # imports nothing of pyarrow's

    if any(map(is_parquet, paths)):
        from bitvit.cli.parquet import classify_parquet

        if form is not Format.table or explain is not None or recursive:
            raise BitvitError(
                "Parquet files of images give Parquet files; leave out --format, --explain and --recursive"
            )
        classify_parquet(
            model, paths, out, top_k=top_k, column=path_column, keep=keep or [], resume=resume,
            options={"threads": threads, "batch_size": batch_size, "exif": exif},
        )  # fmt: skip
        return
    if path_column is not None or keep or resume:
        raise BitvitError("--path-column, --keep and --resume are for Parquet files of images, and these are none")
    images = _find(paths, recursive)  # before the model is loaded, so that a mistyped name is told at once
    from bitvit.classify import Classifier

    with compiling_status():
        classifier = Classifier(model, threads=threads, batch_size=batch_size, exif=exif)
    if explain is None:
        outcomes = classifier.attempt(map(_source, images), top_k)
    else:
        outcomes = _explained(classifier, images, top_k, explain)
    records = (_record(path, outcome) for path, outcome in zip(images, outcomes, strict=True))
    report = _Report()
    with output(None if out is None else Path(out)) as stream, _progress(report, len(images), stream) as advance:
        _WRITERS[form](stream, report.watch(records, advance))
    print_turned(classifier.turned, len(images))
    if report.failed:
        print_error(f"{report.failed} of {len(images)} images could not be read", report.console)
        raise SystemExit(SOME_FAILED)


def _find(paths: Iterable[str], recursive: bool) -> list[str]:
    """The images that the arguments name, folders replaced by what is in them."""
    images: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            images.append(path)
            continue
        from bitvit.folders import find_images

        found = find_images(path, recursive=recursive)
        images += map(str, found.images)
        if left_out := found.left_out():
            print_note(f"{path}: left out: {left_out}")
    if images.count(STDIN) > 1:
        raise ImageError("-: named twice, but stdin can be read only once")
    return images


class _Stdin:
    """An image on stdin, which is read when its turn comes."""

    name = "stdin"

    def read(self) -> bytes:
        if sys.stdin is None:  # so Python says that its descriptor was closed
            raise ImageError("stdin is closed; redirect an image to it")
        try:
            return sys.stdin.buffer.read()
        except OSError as problem:
            raise ImageError(f"stdin cannot be read: {problem.strerror}; redirect an image to it") from None


def _source(path: str) -> str | _Stdin:
    return _Stdin() if path == STDIN else path


def _explained(
    classifier: "Classifier", images: Sequence[str], top_k: int, folder: Path
) -> "Iterator[list[Prediction] | ImageError]":
    """What Classifier.attempt gives; each image's heat map is saved under its name, numbered if that is taken.

    Taken by another image's heat map, or by one of the images themselves.
    """
    from bitvit.files import make_folder

    make_folder(folder)
    place = folder.resolve()
    taken = {str(path).casefold() for image in images if (path := Path(image).resolve()).parent == place}
    for image in images:
        wanted = "stdin" if image == STDIN else Path(image).stem
        name = _free(wanted, place, taken)
        try:
            explanation = classifier.explain(_source(image), top_k)
        except ImageError as error:
            yield error
            continue
        taken.add(_taken(place, name))
        if name != wanted:
            print_note(f"{image}: its heat map is {folder / name}.png, as {wanted}.png is taken")
        explanation.save(folder / f"{name}.png")
        yield explanation.predictions


def _free(name: str, folder: Path, taken: Container[str]) -> str:
    """The name, or the first of name-2, name-3, ... that is not taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if _taken(folder, n) not in taken)


def _taken(folder: Path, name: str) -> str:
    """How a heat map is remembered: without case, which some file systems ignore."""
    return str(folder / f"{name}.png").casefold()


# -------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class Record:
    """What came of one image: predictions, or an error's text."""

    path: str
    predictions: "list[Prediction]"
    error: str | None = None

    def to_dict(self) -> dict[str, object]:
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "predictions": self.predictions}


def _record(path: str, outcome: "list[Prediction] | ImageError") -> Record:
    return Record(path, [], str(outcome)) if isinstance(outcome, ImageError) else Record(path, outcome)


class _Report:
    """Reports the images that failed, and counts them."""

    failed = 0

    @functools.cached_property
    def console(self) -> "Console":
        return stderr_console()

    def watch(self, records: Iterable[Record], advance: Callable[[], None]) -> Iterator[Record]:
        for record in records:
            if record.error is not None:
                self.failed += 1
                print_error(record.error, self.console)
            yield record
            advance()


def _progress(report: _Report, total: int, stream: TextIO) -> AbstractContextManager[Callable[[], None]]:
    """A progress bar where one may be wanted: the console is imported for it."""
    if total <= QUICKLY_DONE or stream.isatty():
        return contextlib.nullcontext(lambda: None)
    return progress_bar(report.console, total, stream)


@contextlib.contextmanager
def progress_bar(console: "Console", total: int, stream: TextIO) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, if a person looks at it and the results do not scroll it away; call to advance it."""
    if total <= QUICKLY_DONE or not is_animated(console) or stream.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


# -------------------------------------------------------------------------------------------------------- formats


def _write_table(stream: TextIO, records: Iterable[Record]) -> None:
    for record in records:
        if record.error is None:
            lines = [f"  {100 * best['score']:6.2f} %  {printable(best['label'])}\n" for best in record.predictions]
            stream.write(f"{printable(record.path)}\n{''.join(lines)}")
            stream.flush()


def _write_json(stream: TextIO, records: Iterable[Record]) -> None:
    separator = "[\n"
    for record in records:
        stream.write(separator + json.dumps(record.to_dict()))
        separator = ",\n"
    stream.write("\n]\n")


def _write_jsonl(stream: TextIO, records: Iterable[Record]) -> None:
    for record in records:
        print(json.dumps(record.to_dict()), file=stream, flush=True)


def _write_csv(stream: TextIO, records: Iterable[Record]) -> None:
    import csv

    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "rank", "label", "index", "score"))
    for record in records:
        writer.writerows(
            (record.path, rank, best["label"], best["index"], best["score"])
            for rank, best in enumerate(record.predictions, 1)
        )


_WRITERS: dict[Format, Callable[[TextIO, Iterable[Record]], None]] = {
    Format.table: _write_table,
    Format.json: _write_json,
    Format.jsonl: _write_jsonl,
    Format.csv: _write_csv,
}
