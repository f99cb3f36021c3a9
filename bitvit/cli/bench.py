"""bitvit bench: how fast a packed model is on this machine, and where the time goes."""

import contextlib
import math
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bitvit.cli.console import (
    SOME_FAILED,
    check_drawing,
    compiling_status,
    format_of,
    is_animated,
    output,
    print_error,
    print_warning,
    stderr_console,
)
from bitvit.cli.tables import Table, print_lines, print_table
from bitvit.errors import BenchError
from bitvit.files import is_folder

if TYPE_CHECKING:
    from bitvit.bench import BenchReport, ReportComparison
    from bitvit.bench.formats import Grid


PROGRESS_WIDTH = 60  # columns


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


class Mode(str, Enum):
    latency = "latency"
    throughput = "throughput"
    both = "both"


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", help="Packed model, written by bitvit convert, or hf://owner/name.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        list[str],
        typer.Option("--batch-size", "-b", metavar="N,...", help="Images per call; of several sizes each is measured."),
    ] = ["1"],  # noqa: B006
    threads: Annotated[
        list[str] | None,
        typer.Option(
            "--threads",
            "-t",
            metavar="N,...",
            help="Threads; of several numbers each is measured. Default: one thread for each CPU of the process.",
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="latency: one call at a time, on all threads. throughput: as many concurrent calls as there are"
            " threads, each on one thread."
        ),
    ] = Mode.latency,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Calls before the measurement starts; default: as many as take 0.3 s."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", "-n", min=1, metavar="N", help="Calls to measure; at least 5 are made."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            "-s",
            min=0.01,
            max=86400,
            metavar="S",
            help="Seconds to measure for, instead of a number of calls; default: 3.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Image whose preprocessing is timed; default: a synthetic JPEG."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Image or folder of images whose way to predictions is measured; give it again for more.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Search folders within the folders of --images too.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time each step of the network, on one thread.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG",
            help="Draw the profile into a PNG file: time by kind of layer, and a roofline. Implies --profile.",
        ),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold", help="Also time how long the kernels take to compile, in a process with an empty cache."
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json", help="Compare two reports written by --format json; nothing is measured."
        ),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Format of the report; default: as the output's name ends, or a table."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
    ] = None,
) -> None:
    """Measure how fast a packed model runs on this machine, or compare two such reports.

    Times are in milliseconds per call on float32 pixels. Decoding and resizing an image are timed separately. The
    columns of the table:

    binary GMAC/s: binary multiply-accumulates that bitvit computes per second. It computes a merged token once per
    image, not once per window.

    of limit: share of the rate that the same threads reach in this run with xor, popcount and add alone.

    spread: how far apart the medians of five parts of the run lie. Differences smaller than this mean nothing.

    others: share of the machine's processors that other processes used during the measurement.

    With --images there is a second table, from files to predictions: images a second, CPU time for each, how much of
    it is neither decoding nor resizing nor network, and how much of the threads' time these three fill. If images
    cannot be read, they are named and left out, and the exit code is 3.

    The format json holds everything, csv one row per result. Fields that timm's benchmark.py has too bear the same
    names.
    """
    written = format_of(form, out, Format.table)
    if compare is not None:
        if model is not None or profile or plot is not None or cold or image is not None or images:
            raise typer.BadParameter(
                "measures nothing: leave out MODEL, --image, --images, --profile, --plot and --cold",
                param_hint="--compare",
            )
        _compare(*compare, written, out)
        return
    if model is None:
        raise typer.BadParameter("name a packed model, or compare two reports with --compare", param_hint="MODEL")
    if iterations is not None and seconds is not None:
        raise typer.BadParameter("give --iterations or --seconds, not both", param_hint="--iterations")
    if seconds is not None and math.isnan(seconds):  # it passes the bounds of the option, as it compares with nothing
        raise typer.BadParameter("is nan, expected a number", param_hint="'--seconds'")
    batches = _numbers(batch_size, "--batch-size")
    counts = None if not threads else _numbers(threads, "--threads")
    if plot is not None:
        from bitvit.extras import require

        require("matplotlib", "drawing")  # now, not after minutes of measuring
        check_drawing(plot)
    found, left_out = _found(images, recursive)
    from bitvit.bench import measure
    from bitvit.bench.report import MODES

    with output(out) as stream:
        with compiling_status(live=False), _progress() as say:
            report = measure(
                model,
                batch_sizes=batches,
                threads=counts,
                modes=MODES if mode is Mode.both else (mode.value,),
                warmup=warmup,
                iterations=iterations,
                seconds=seconds,
                image=image,
                images=found,
                left_out=left_out,
                profile=profile or plot is not None,
                cold=cold,
                progress=say,
            )
            if plot is not None:
                from bitvit.bench.plot import plot as draw

                draw(report, plot)
        _write(_report_writers(report), written, report.warnings, out, stream)
    for warning in report.warnings:
        print_warning(warning)
    if report.images is not None and report.images.failures:
        for failure in report.images.failures:
            print_error(failure)
        raise SystemExit(SOME_FAILED)


def _found(images: list[str] | None, recursive: bool) -> tuple[list[str] | None, list[str]]:
    """The image files that --images names, and what was left out, a line for each folder. Raises ImageError."""
    if not images:
        return None, []
    from bitvit.folders import find_images

    files: list[str] = []
    left_out: list[str] = []
    for path in images:
        if not is_folder(path):
            files.append(path)
            continue
        found = find_images(path, recursive=recursive)
        files += map(str, found.images)
        if text := found.left_out():
            left_out.append(f"{path}: {text}")
    return files, left_out


def _numbers(texts: list[str], option: str) -> list[int]:
    """'1,8' and repeated options -> numbers."""
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{','.join(texts)!r}, expected whole numbers of at least 1, such as 1,8", param_hint=option
        )
    return [int(part) for part in parts]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """Say on a terminal what is being measured; the line is not animated, which would take processor time."""
    console = stderr_console()
    if not is_animated(console):
        yield None
        return

    def show(text: str) -> None:
        console.file.write(f"\r{text:{PROGRESS_WIDTH}}\r")
        console.file.flush()

    try:
        yield show
    finally:
        show("")


# ----------------------------------------------------------------------------------------------------------- writing
Writer = Callable[[TextIO], object]


def _compare(first: Path, second: Path, form: Format, out: Path | None) -> None:
    from bitvit.bench import BenchReport, compare

    comparison = compare(BenchReport.read(first), BenchReport.read(second))
    if not comparison.pairs:
        raise BenchError(
            f"{first} and {second} have no result with the same mode, threads and batch size; measure both with the"
            " same ones"
        )
    with output(out) as stream:
        _write(_comparison_writers(comparison), form, comparison.warnings, out, stream)
    for warning in comparison.warnings:
        print_warning(warning)


def _write(writers: dict[Format, Writer], form: Format, warnings: list[str], out: Path | None, stream: TextIO) -> None:
    """Write in one of the formats. A table in a file ends with the warnings, which a reader of the file would miss."""
    writers[form](stream)
    if out is not None and form is Format.table:
        print_lines([f"warning: {warning}" for warning in warnings], stream)


def _report_writers(report: "BenchReport") -> dict[Format, Writer]:
    from bitvit.bench import formats

    return {
        Format.json: lambda stream: stream.write(report.to_json()),
        Format.csv: lambda stream: formats.write_csv(report, stream),
        Format.markdown: lambda stream: stream.write(formats.markdown(report)),
        Format.table: lambda stream: _print_report(report, stream),
    }


def _comparison_writers(comparison: "ReportComparison") -> dict[Format, Writer]:
    from bitvit.bench import formats

    return {
        Format.json: lambda stream: stream.write(comparison.to_json()),
        Format.csv: lambda stream: formats.write_comparison_csv(comparison, stream),
        Format.markdown: lambda stream: stream.write(formats.comparison_markdown(comparison)),
        Format.table: lambda stream: _print_comparison(comparison, stream),
    }


def _print_report(report: "BenchReport", stream: TextIO) -> None:
    from bitvit.bench import formats

    _print_grid(formats.results_grid(report), stream)
    if report.images is not None:
        _print_grid(formats.images_grid(report.images), stream)
        print_lines([*formats.images_facts(report.images), ""], stream)
    print_lines(formats.facts(report), stream)
    if report.profile is not None:
        print(file=stream)
        _print_grid(formats.kinds_grid(report.profile), stream)
        print_lines(formats.profile_facts(report.profile), stream)
        print(file=stream)
        _print_grid(formats.layers_grid(report.profile), stream)


def _print_comparison(comparison: "ReportComparison", stream: TextIO) -> None:
    from bitvit.bench import formats

    _print_grid(formats.comparison_grid(comparison), stream)
    print_lines([*comparison.differences, *comparison.alone], stream)


def _print_grid(grid: "Grid", stream: TextIO) -> None:
    print_table(
        Table(grid.columns, grid.rows, words=grid.words, keys=grid.keys, title=f"{grid.title}:", paths=grid.paths),
        stream,
    )
    print(file=stream)
