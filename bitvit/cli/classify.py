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
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeAlias

from bitvit.cli.console import (
    SOME_FAILED,
    compiling_status,
    counting_bar,
    format_of,
    output,
    print_error,
    print_note,
    print_turned,
    printable,
    stderr_console,
)
from bitvit.cli.declare import Argument, Option
from bitvit.errors import BitvitError, ImageError
from bitvit.files import is_folder
from bitvit.nopaths import is_web_address

if TYPE_CHECKING:
    from rich.console import Console

    from bitvit.classify import Classifier
    from bitvit.predictions import Prediction
    from bitvit.sources import ImageSource

    Outcome: TypeAlias = list[Prediction] | ImageError
    Sources: TypeAlias = Callable[[Iterable[str]], Iterator[ImageSource]]

__all__ = ["QUICKLY_DONE", "Format", "Record", "classify", "progress_bar"]

STDIN, LIST = "-", "@"
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
            help="Images, folders of images and patterns such as 'photos/**/*.jpg'; - is an image on stdin, @FILE a "
            "list of names, one a line, and @- one on stdin. Or Parquet files, folders of them, patterns or addresses "
            "such as s3://bucket/images.",
        ),
    ],
    top_k: Annotated[int, Option("--top-k", "-k", min=1, metavar="N", help="Classes per image.")] = 5,
    form: Annotated[
        Format | None,
        Option("--format", "-f", help="How to write the predictions; default: as the output's name ends, or a table."),
    ] = None,
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
    null: Annotated[
        bool, Option("--null", "-0", help="Names in lists end with NUL, not with the line, as find -print0 has them.")
    ] = False,
    watch: Annotated[
        bool,
        Option(
            "--watch",
            help="Classify each new image in the folders, until Ctrl-C or SIGTERM; with --output going on where it was "
            "stopped. For --format jsonl and csv.",
        ),
    ] = False,
    urls: Annotated[bool, Option("--urls", help="Download images at addresses, http:// and https://.")] = False,
    max_download: Annotated[
        int, Option("--max-download", min=1, metavar="MB", help="Largest image that --urls downloads.")
    ] = 64,
) -> None:
    """Classify images.

    An image that cannot be read is reported on stderr; the others go on, and the exit code is 3.

    Formats for machines:

    json: a list of {"path", "predictions": [{"label", "index", "score"}]}

    jsonl: the same records, one a line; in both a failure is {"path", "error"}

    csv: columns path,rank,label,index,score; failures are left out

    With --watch, jsonl and csv have the file's size and mtime_ns too.

    Parquet: columns file,row,label,index,score,error, the middle ones lists unless --top-k is 1; kept ones come first
    """
    from bitvit.parquet import is_parquet  # imports nothing of pyarrow's

    if not watch and any(map(is_parquet, paths)):
        from bitvit.cli.parquet import classify_parquet

        if form not in (None, Format.table) or explain is not None or recursive:
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
    if null and not any(path.startswith(LIST) for path in paths):
        raise BitvitError("--null is for lists of names: @FILE, or @- for one on stdin")
    options: dict[str, Any] = {"threads": threads, "batch_size": batch_size, "exif": exif}
    written = format_of(form, out, Format.table)
    if watch:
        from bitvit.cli.watch import classify_new

        if explain is not None:
            raise BitvitError("--watch draws no heat maps; leave out --explain")
        classify_new(model, paths, written.value, out, top_k=top_k, recursive=recursive, options=options)
        return
    # Before the model is loaded, so that a mistyped name is told at once.
    portions, count = _find(paths, recursive, null=null, urls=urls)
    from bitvit.classify import Classifier

    with compiling_status():
        classifier = Classifier(model, **options)
    sources = _sources
    if urls:
        sources, portions = functools.partial(_downloaded, most=max_download), _small(portions)
    report = _Report()
    with output(None if out is None else Path(out)) as stream, _progress(report, count or 0, stream) as advance:
        if explain is None:
            records = _records(portions, lambda names: classifier.attempt(sources(names), top_k))
        else:  # with all names known, so that no heat map takes the name of an image to come
            names = list(itertools.chain.from_iterable(portions))
            records = _records([names], lambda names: _explained(classifier, names, sources, top_k, explain))
        _WRITERS[written](stream, report.watch(records, advance))
    print_turned(classifier.turned, report.count)
    if report.failed:
        print_error(f"{report.failed} of {report.count} images could not be read", report.console)
        raise SystemExit(SOME_FAILED)


# ---------------------------------------------------------------------------------------------------------- inputs
def _find(
    paths: Iterable[str], recursive: bool, *, null: bool, urls: bool
) -> tuple[Iterable[Sequence[str]], int | None]:
    """The images that the arguments name, in portions, folders replaced by what is in them; and how many.

    A list of names is a portion for each part of it that is there; nobody knows how many it has: None.
    """
    found: list[Iterable[Sequence[str]]] = []
    together: list[str] | None = None  # the names since the last list
    for path in paths:
        if path.startswith(LIST):
            from bitvit.cli.inputs import NameList

            found.append(NameList(path.removeprefix(LIST), null=null))
            together = None
        else:
            if together is None:
                together = []
                found.append([together])
            together += _named(path, recursive, urls)
    if sum(path in (STDIN, LIST + STDIN) for path in paths) > 1:
        raise ImageError("-: named twice, but stdin can be read only once")
    if together is not None and len(found) == 1:
        return found[0], len(together)
    return _some(itertools.chain.from_iterable(found), paths), None


def _named(path: str, recursive: bool, urls: bool) -> Iterable[str]:
    """The images that an argument which is no list names."""
    if is_web_address(path):
        if not urls:
            raise ImageError(_UNASKED.format(path))
        return [path]
    if any(letter in path for letter in "*?["):
        from bitvit.cli.inputs import is_pattern, matches

        if is_pattern(path):
            return [name for match in matches(path) for name in _in_folder(match, recursive)]
    return _in_folder(path, recursive)


def _in_folder(path: str, recursive: bool) -> Iterable[str]:
    """The images in a folder; a path that is none stands for itself."""
    if not is_folder(path):
        return [path]
    from bitvit.folders import find_images

    found = find_images(path, recursive=recursive)
    if left_out := found.left_out():
        print_note(f"{path}: left out: {left_out}")
    return map(str, found.images)


def _some(portions: Iterable[Sequence[str]], paths: Iterable[str]) -> Iterator[Sequence[str]]:
    """The portions. Raises ImageError at their end if there was none."""
    portion = None
    for portion in portions:
        yield portion
    if portion is None:
        raise ImageError(f"{' '.join(path for path in paths if path.startswith(LIST))}: names no images")


def _small(portions: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Portions of as many images as are downloaded together."""
    from bitvit.cli.urls import AT_ONCE

    return (names[k : k + AT_ONCE] for names in portions for k in range(0, len(names), AT_ONCE))


_UNASKED = "{}: is a URL; --urls lets bitvit download images, or download it first"


def _sources(names: "Iterable[str]") -> "Iterator[ImageSource]":
    """The images of names, read when their turn comes."""
    return map(_source, names)


def _source(name: str) -> "ImageSource":
    if is_web_address(name):  # out of a list
        from bitvit.sources import NamedBytes

        return NamedBytes(b"", name, _UNASKED.format(name))
    return _Stdin() if name == STDIN else name


def _downloaded(names: "Iterable[str]", most: int) -> "Iterator[ImageSource]":
    """What _sources gives, with what is at addresses. most: MB of one."""
    from bitvit.cli.urls import download

    wanted = list(names)
    found = iter(download([name for name in wanted if is_web_address(name)], most))
    return (next(found) if is_web_address(name) else _source(name) for name in wanted)


class _Stdin:
    """An image on stdin, which is read when its turn comes."""

    name = "stdin"

    def read(self) -> bytes:
        if sys.stdin is None:  # so Python says that its descriptor was closed
            raise ImageError("stdin is closed; redirect an image to it")
        try:
            data = sys.stdin.buffer.read()
        except OSError as problem:
            raise ImageError(f"stdin cannot be read: {problem.strerror}; redirect an image to it") from None
        if not data:
            raise ImageError("stdin is empty; redirect an image to it")
        return data


def _explained(
    classifier: "Classifier", images: Sequence[str], sources: "Sources", top_k: int, folder: Path
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
            explanation = classifier.explain(next(sources([image])), top_k)
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


def _records(
    portions: Iterable[Sequence[str]], attempt: "Callable[[Sequence[str]], Iterator[Outcome]]"
) -> Iterator[Record]:
    """A portion is answered before the next one is asked for, which may be long in coming."""
    for names in portions:
        yield from (_record(name, outcome) for name, outcome in zip(names, attempt(names), strict=True))


def _record(path: str, outcome: "Outcome") -> Record:
    return Record(path, [], str(outcome)) if isinstance(outcome, ImageError) else Record(path, outcome)


class _Report:
    """Reports the images that failed, and counts them."""

    count, failed = 0, 0

    @functools.cached_property
    def console(self) -> "Console":
        return stderr_console()

    def watch(self, records: Iterable[Record], advance: Callable[[], None]) -> Iterator[Record]:
        for record in records:
            self.count += 1
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
    if total <= QUICKLY_DONE or stream.isatty():
        yield lambda: None
        return
    with counting_bar(console, total) as advance:
        yield advance


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
        stream.flush()  # names may come slowly


_WRITERS: dict[Format, Callable[[TextIO, Iterable[Record]], None]] = {
    Format.table: _write_table,
    Format.json: _write_json,
    Format.jsonl: _write_jsonl,
    Format.csv: _write_csv,
}
