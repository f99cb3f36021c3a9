"""bitvit evaluate: labelled images -> accuracy, and everything that belongs to it."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bitvit.cli.console import (
    SOME_FAILED,
    compiling_status,
    is_animated,
    print_error,
    print_note,
    print_turned,
    require_stdout,
    stderr_console,
)
from bitvit.cli.declare import Argument, Option
from bitvit.cli.tables import Table, print_lines, print_table
from bitvit.errors import BitvitError
from bitvit.files import is_folder
from bitvit.messages import listing, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from bitvit.evaluation import Comparison, EvalReport, Options, Progress

MANY = 40  # classes; of more, only the WORST are shown
WORST = 10
TITLES = ("top-1", "top-5", "loss", "balanced", "macro F1", "ROC-AUC", "ECE")


class Format(str, Enum):
    table = "table"
    json = "json"


class OnError(str, Enum):
    fail = "fail"
    skip = "skip"
    list = "list"


def evaluate(
    models: Annotated[
        list[Path],
        Argument(
            metavar="MODEL", help="Packed model, or hf://owner/name; several make one table with mean and spread."
        ),
    ],
    data: Annotated[
        str,
        Argument(
            metavar="DATA",
            help="Folder with a folder for each class, CSV with path and label, or Parquet: a file, a folder of them, "
            "a pattern or an address such as s3://bucket/images.",
        ),
    ],
    output: Annotated[
        Path | None,
        Option("--output", "-o", metavar="FOLDER", help="Write report, tables and drawings into this folder."),
    ] = None,
    predictions: Annotated[
        Path | None,
        Option("--predictions", metavar="FILE", help="Write each image's answer: .csv, .jsonl or .parquet."),
    ] = None,
    form: Annotated[Format, Option("--format", "-f", help="How to print the report.")] = Format.table,
    classes: Annotated[
        Path | None,
        Option(
            "--classes",
            metavar="FILE",
            help="What the data's class names mean: names in the model's order (.txt or .json), or pairs of name and "
            "class (.json or .csv).",
        ),
    ] = None,
    subset: Annotated[
        list[str] | None,
        Option(
            "--subset",
            metavar="CLASS",
            help="Only this class takes part, by name or number; give it again for each class; @FILE: those in a file, "
            "one a line; present: those that have images.",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        Option("--on-error", help="Images that cannot be read: stop at the first, skip them, or skip and list them."),
    ] = OnError.fail,
    folds: Annotated[
        bool, Option("--folds", help="DATA has a fold for each MODEL: its folders, or the CSV's column fold.")
    ] = False,
    path_column: Annotated[
        str | None, Option("--path-column", metavar="NAME", help="The table's column with the images.")
    ] = None,
    label_column: Annotated[
        str | None, Option("--label-column", metavar="NAME", help="The table's column with the classes.")
    ] = None,
    root: Annotated[
        Path | None,
        Option("--root", metavar="FOLDER", help="Where the table's paths start; default: the table's folder."),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Go on where the same command was stopped.")] = False,
    state: Annotated[
        Path | None,
        Option("--state", metavar="PATH", help="File or folder for what --resume needs; default: --output, else here."),
    ] = None,
    batch_size: Annotated[
        int, Option("--batch-size", "-b", min=1, metavar="N", help="Images to compute together.")
    ] = 16,
    threads: Annotated[
        int | None,
        Option("--threads", "-t", min=1, metavar="N", help="Threads to compute; default: all CPUs of the process."),
    ] = None,
    exif: Annotated[
        bool, Option("--exif", help="Turn images upright as their EXIF data says, which is ignored otherwise.")
    ] = False,
    decoders: Annotated[
        int | None,
        Option(
            "--decoders", min=1, metavar="N", help="Threads that work on images at once; default: as many as --threads."
        ),
    ] = None,
) -> None:
    """Measure accuracy on labelled images.

    A class folder or label is matched with the model's class names (case and what separates words do not matter), with
    class numbers, or by --classes. If images are left out because they cannot be read, the exit code is 3.

    Stopped with Ctrl-C or by an error, it keeps what is done: the same command with --resume goes on.
    """
    from bitvit import evaluation

    if output is None and predictions is None:
        require_stdout()
    if root is not None and not is_folder(root):
        raise BitvitError(f"{root}: --root: no such folder; name the one where the paths of the table start")
    place = state or output or (Path() if os.access(".", os.W_OK) else None)
    if place is None and resume:
        raise BitvitError("--resume: you may not write to this folder, so nothing is kept here; name a --state")
    with _keeping(resume) as watch, compiling_status(), _progress() as show:
        options: Options = {
            "classes": classes,
            "subset": _subset(subset),
            "on_error": "fail" if on_error is OnError.fail else "skip",
            "layout": evaluation.Layout(path_column=path_column, label_column=label_column, root=root),
            "batch_size": batch_size,
            "threads": threads,
            "exif": exif,
            "decoders": decoders,
            "outputs": evaluation.Outputs(
                report=output, predictions=predictions, state=place, resume=resume, progress=_both(watch, show)
            ),
        }
        result: EvalReport | Comparison
        if len(models) > 1 or folds:
            result = evaluation.compare(models, data, folds=folds, **options)
        else:
            result = evaluation.evaluate(models[0], data, **options)
    if form is Format.json:
        print(json.dumps(result.to_dict(), indent=2))
    elif isinstance(result, evaluation.Comparison):
        _print_comparison(result)
    else:
        _print_report(result, output is not None)
    reports = result.reports if isinstance(result, evaluation.Comparison) else (result,)
    turned = {path for report in reports for path in report.turned}
    print_turned(len(turned), len({path for report in reports for path in report.paths}))
    _report_failures(reports, on_error)


def _both(*calls: "Callable[[Progress], None]") -> "Callable[[Progress], None]":
    def call(progress: "Progress") -> None:
        for one in calls:
            one(progress)

    return call


def _subset(names: list[str] | None) -> list[str] | None:
    """The names, those in files included."""
    if not names:
        return None
    from bitvit.labels import read_labels

    return [part for name in names for part in (read_labels(name[1:]) if name.startswith("@") else [name])]


# ----------------------------------------------------------------------------------------------------------- progress
@contextlib.contextmanager
def _keeping(resume: bool) -> "Iterator[Callable[[Progress], None]]":
    """Say where a resumed evaluation begins, and how one that is stopped goes on. To be called with each Progress."""
    last: Progress | None = None

    def watch(progress: "Progress") -> None:
        nonlocal last
        if resume and last is None:
            found = progress.overall[0] > 0
            print_note(f"resumed after {_through(progress)}" if found else "nothing to resume, starting afresh")
        last = progress

    try:
        yield watch
    except (KeyboardInterrupt, BitvitError) as problem:
        if last is not None and last.overall[0] and last.state is not None and last.state.exists():
            if isinstance(problem, BitvitError):
                print_error(str(problem))
            print_note(f"stopped after {_through(last)}, kept in {last.state}: the same command with --resume goes on")
            raise SystemExit(1 if isinstance(problem, BitvitError) else 130) from None
        raise


def _through(progress: "Progress") -> str:
    done, total = progress.overall
    return f"{done:,} of {total:,} images" + (f" of {progress.units} models" if progress.units > 1 else "")


def _progress() -> "contextlib.AbstractContextManager[Callable[[Progress], None]]":
    """A bar where one may be wanted: the console is imported for it."""
    if sys.stderr is None or not sys.stderr.isatty():
        return contextlib.nullcontext(lambda _: None)
    return progress_bar(stderr_console())


@contextlib.contextmanager
def progress_bar(console: "Console") -> "Iterator[Callable[[Progress], None]]":
    """A bar with the time left and top-1 so far, on a terminal; to be called with each Progress."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    if not is_animated(console):
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("top-1 {task.fields[accuracy]}"),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield _Lines(bar)


class _Lines:
    """Shows each Progress it is called with; each model has a line."""

    def __init__(self, bar: "Bar") -> None:
        self._bar = bar
        self._tasks: dict[int, Any] = {}

    def __call__(self, progress: "Progress") -> None:
        if progress.unit not in self._tasks:
            name = f"{progress.unit + 1}/{progress.units}" if progress.units > 1 else ""
            self._tasks[progress.unit] = self._bar.add_task(name, total=progress.total, accuracy="")
        accuracy = progress.accuracy
        shown = "" if accuracy is None else f"{100 * accuracy:.2f} %"
        self._bar.update(self._tasks[progress.unit], completed=progress.done, accuracy=shown)


# ------------------------------------------------------------------------------------------------------------- tables
def _report_failures(reports: "tuple[EvalReport, ...]", on_error: OnError) -> None:
    failed = sum(len(report.failures) for report in reports)
    if not failed:
        return
    if on_error is OnError.list:
        for reason in dict.fromkeys(failure.reason for report in reports for failure in report.failures):
            print_error(reason)
    total = failed + sum(report.images for report in reports)
    hint = "" if on_error is OnError.list else "; --on-error list names them"
    print_error(f"{failed} of {total} images could not be read and are left out{hint}")
    raise SystemExit(SOME_FAILED)


def _print_report(report: "EvalReport", saved: bool) -> None:
    low, high = (100 * value for value in report.top1_interval)
    per_second = (report.images + len(report.failures)) / max(report.seconds, 1e-9)
    facts = {
        "images": f"{report.images:,} of {len(report.classes)} classes, {per_second:,.0f} a second with decoding",
        "top-1": f"{_percent(report.top1)} (95 % interval {low:.2f} to {high:.2f})",
        "top-5": "says nothing with five classes or fewer" if report.top5 is None else _percent(report.top5),
        "loss": f"{report.loss:.4f} (cross-entropy)",
        "balanced accuracy": f"{_percent(report.balanced_accuracy)} (mean recall of the classes)",
        "macro F1": f"{report.macro_f1:.4f}",
        "ROC-AUC": "needs images of two classes"
        if report.roc_auc is None
        else f"{report.roc_auc:.4f} (mean of one class against the others)",
        "calibration error": f"{report.calibration_error:.4f} (ECE, 15 bins)",
    }
    print_lines(
        [
            f"{report.model} on {report.data}",
            *(f"  {name:18} {text}" for name, text in facts.items()),
            *(f"  note: {note}" for note in report.notes),
        ]
    )
    _print_classes(report, saved)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _print_classes(report: "EvalReport", saved: bool) -> None:
    shown, title = list(report.classes), ""
    if len(shown) > MANY:
        shown = sorted((c for c in shown if c.recall is not None), key=lambda c: c.recall or 0)[:WORST]
        where = "classes.csv has all" if saved else "--output FOLDER writes all"
        title = f"The {len(shown)} classes with the lowest recall ({where}):"
    rows = []
    for scores in shown:
        shares = (None if share is None else 100 * share for share in (scores.recall, scores.precision))
        rows.append(
            (
                *(scores.name, f"{scores.images:,}"),
                *("–" if share is None else f"{share:.1f} %" for share in shares),
                *(_number(value) for value in (scores.f1, scores.roc_auc)),
                scores.mistaken_for or "",
            )
        )
    columns = ("class", "images", "recall", "precision", "F1", "ROC-AUC", "most often taken for")
    ends = frozenset({0, len(columns) - 1})
    print()
    print_table(Table(columns, rows, words=ends, names=ends, title=title))


def _print_comparison(result: "Comparison") -> None:
    from bitvit.evaluation.metrics import FIGURES

    same = len({report.data for report in result.reports}) == 1
    where = () if same else ("data",)
    rows: list[tuple[str, ...] | None] = []
    for report in result.reports:
        figures = _cells({name: getattr(report, name) for name in FIGURES})
        rows.append((report.model, *(() if same else (report.data,)), f"{report.images:,}", *figures))
    blank = ("", *("" for _ in where))
    rows += [None, ("mean", *blank, *_cells(result.mean)), ("standard deviation", *blank, *_cells(result.spread))]
    names = frozenset(range(1 + len(where)))
    number = plural(len(result.reports), "model")
    if same:
        print_lines([f"{number} on {result.reports[0].data}", ""])
    print_table(Table(("model", *where, "images", *TITLES), rows, words=names, keys=len(names), names=names))
    notes = _notes(result.reports)
    deviation = f"the standard deviation is over {number}, with n - 1; each model counts the same"
    print_lines(["", *(f"note: {note}" for note in (*notes, deviation))])


def _notes(reports: "tuple[EvalReport, ...]") -> list[str]:
    """What is to be said of all, and of some, which are then named."""
    whose: dict[str, list[EvalReport]] = {}
    for report in reports:
        for note in report.notes:
            whose.setdefault(note, []).append(report)
    by_model = len({report.model for report in reports}) > 1
    return [
        note
        if len(own) == len(reports)
        else f"{listing(list(dict.fromkeys(r.model if by_model else r.data for r in own)), show=str)}: {note}"
        for note, own in whose.items()
    ]


def _cells(figures: dict[str, float | None]) -> list[str]:
    in_percent = ("top1", "top5", "balanced_accuracy")
    return [
        _percent(value) if name in in_percent and value is not None else _number(value)
        for name, value in figures.items()
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
