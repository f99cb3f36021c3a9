"""What an evaluation writes: tables (CSV, JSON), drawings (PNG) and predictions (CSV, JSON lines, Parquet)."""

import csv
import io
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bitvit.errors import BitvitError
from bitvit.evaluation.metrics import BINS, interval, softmax
from bitvit.extras import figure, require
from bitvit.files import make_folder, write_file

if TYPE_CHECKING:
    from bitvit.evaluation.evaluating import Comparison, EvalReport

__all__ = ["check_predictions", "report_dict", "save_comparison", "save_predictions", "save_report"]

PREDICTION_COLUMNS = (
    "model",
    "path",
    "label",
    "label_index",
    "predicted",
    "predicted_index",
    "score",
    "correct",
    "label_score",
    "label_rank",
)
MOST_NAMED = 40  # classes whose names are written beside a confusion matrix
CHUNK = 1024  # rows of predictions at a time


# ------------------------------------------------------------------------------------------------------------ reports
def report_dict(report: "EvalReport") -> dict[str, Any]:
    """A report as JSON can hold it, without what belongs to single images."""
    from bitvit.evaluation.evaluating import FIGURES
    from bitvit.version import __version__

    low, high = report.top1_interval
    return {
        "model": report.model,
        "model_sha256": report.model_sha256,
        "data": report.data,
        "images": report.images,
        "failures": [asdict(failure) for failure in report.failures],
        **{name: getattr(report, name) for name in FIGURES},
        "top1_interval_95": [low, high],
        "classes": [asdict(scores) for scores in report.classes],
        "confusion": report.confusion.tolist(),
        "calibration": [asdict(part) for part in report.calibration],
        "notes": list(report.notes),
        "seconds": report.seconds,
        "versions": {
            "bitvit": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": require("sklearn", "evaluate").__version__,
        },
    }


def save_report(report: "EvalReport", folder: Path) -> list[Path]:
    """See EvalReport.save."""
    make_folder(folder)
    names = [scores.name for scores in report.classes]
    class_rows = [list(asdict(scores).values()) for scores in report.classes]
    confusion_rows = [[name, *row] for name, row in zip(names, report.confusion.tolist(), strict=True)]
    failure_rows = [[failure.path, failure.reason] for failure in report.failures]
    parts: dict[str, Callable[[BinaryIO], None]] = {
        "report.json": _text(json.dumps(report_dict(report), indent=2) + "\n"),
        "classes.csv": _csv(list(asdict(report.classes[0])), class_rows),
        "confusion.csv": _csv(["true \\ answer", *names], confusion_rows),
        "confusion.png": lambda file: _draw_confusion(report, file),
        "calibration.png": lambda file: _draw_calibration(report, file),
    }
    if failure_rows:
        parts["failures.csv"] = _csv(["path", "reason"], failure_rows)
    else:
        (folder / "failures.csv").unlink(missing_ok=True)  # of an earlier evaluation
    for name, write in parts.items():
        write_file(folder / name, write)
    return [folder / name for name in parts]


def save_comparison(comparison: "Comparison", folder: Path) -> list[Path]:
    """See Comparison.save."""
    from bitvit.evaluation.evaluating import FIGURES

    make_folder(folder)
    rows: list[list[Any]] = [
        [report.model, report.data, report.images, *(getattr(report, name) for name in FIGURES)]
        for report in comparison.reports
    ]
    for title, figures in (("mean", comparison.mean), ("standard deviation", comparison.spread)):
        rows.append([title, "", "", *figures.values()])
    written = [folder / "summary.csv", folder / "summary.json"]
    write_file(written[0], _csv(["model", "data", "images", *FIGURES], rows))
    write_file(written[1], _text(json.dumps(comparison.to_dict(), indent=2) + "\n"))
    for number, report in enumerate(comparison.reports):
        written += save_report(report, folder / f"{number}-{Path(report.model).stem}")
    return written


def _text(text: str) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(text.encode("utf-8", "backslashreplace"))

    return write


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.flush()
        text.detach()

    return write


# ----------------------------------------------------------------------------------------------------------- drawings
def _draw_confusion(report: "EvalReport", file: BinaryIO) -> None:
    """Rows are true classes; colour is the share of the row. A row without images is blank."""
    count, sums = len(report.classes), report.confusion.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, report.confusion / np.maximum(sums, 1), np.nan)
    named = count <= MOST_NAMED
    side = max(4.5, min(12.0, 2.5 + 0.42 * count))
    drawing = figure(side + 1, side)
    axes = drawing.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    drawing.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    axes.set_title(f"top-1 {100 * report.top1:.2f} % of {report.images:,} images")
    if named:
        labels = [_plain(scores.name) for scores in report.classes]
        axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), labels)
        for row, column in np.argwhere(report.confusion > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            size = 8 if count <= 20 else 5
            text = str(report.confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    drawing.savefig(file, format="png", dpi=120)


def _draw_calibration(report: "EvalReport", file: BinaryIO) -> None:
    """Accuracy against confidence, with its 95 % interval: wide where few answers have it. Below, how many have."""
    drawing = figure(5, 5.5)
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    parts = report.calibration
    confidence, accuracy = np.array([(part.confidence, part.accuracy) for part in parts]).T
    bounds = np.array([interval(round(part.accuracy * part.images), part.images) for part in parts]).T
    beyond = np.abs(bounds - accuracy)  # how far the interval goes below and above
    upper.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    upper.errorbar(confidence, accuracy, beyond, fmt="o", capsize=2, elinewidth=1, label="measured, 95 % interval")
    upper.set_ylim(-0.03, 1.03)
    upper.set_ylabel("share of right answers")
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    drawing.suptitle(f"calibration error (ECE) {report.calibration_error:.4f}")
    places = (np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence) + 0.5) / BINS
    lower.bar(places, [part.images for part in parts], width=1 / BINS, edgecolor="white", linewidth=0.5)
    lower.set_yscale("log")
    lower.set_ylim(0.5, None)  # so that a single image is seen
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence: probability of the answer")
    lower.set_ylabel("images")
    drawing.savefig(file, format="png", dpi=120)


def _plain(name: str) -> str:
    """A class name as matplotlib shows it: no formulas, no more than fits."""
    shown = name if len(name) <= 24 else f"{name[:23]}…"
    return shown.replace("$", r"\$")


# -------------------------------------------------------------------------------------------------------- predictions
def check_predictions(path: Path) -> None:
    """Raises BitvitError if predictions could not be written there."""
    if path.suffix.lower() not in _WRITERS:
        raise BitvitError(f"{path}: predictions are written as {', '.join(_WRITERS)}; end the name with one of them")
    if path.suffix.lower() == ".parquet":
        require("pyarrow.parquet", f"writing {path}")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise BitvitError(f"{path}: cannot be written; name a file in an existing folder")


def save_predictions(reports: Sequence["EvalReport"], path: str | os.PathLike[str]) -> None:
    """One row an image and model, in the order of the data; see PREDICTION_COLUMNS.

    score is the softmax probability of the answer, label_score that of the true class, label_rank its place, from 1.
    """
    path = Path(path)
    check_predictions(path)
    write_file(path, lambda file: _WRITERS[path.suffix.lower()](file, _rows(reports)))


def _rows(reports: Sequence["EvalReport"]) -> Iterator[tuple[Any, ...]]:
    for report in reports:
        for start in range(0, len(report.paths), CHUNK):
            logits, targets = report.logits[start : start + CHUNK], report.targets[start : start + CHUNK]
            scores, order = softmax(logits), np.argsort(-logits, axis=1, kind="stable")
            ranks = np.argmax(order == targets[:, None], axis=1) + 1
            for i, target in enumerate(targets.tolist()):
                best = int(order[i, 0])
                label, answer = report.classes[target], report.classes[best]
                yield (
                    report.model,
                    report.paths[start + i],
                    label.name,
                    label.number,
                    answer.name,
                    answer.number,
                    float(scores[i, best]),
                    best == target,
                    float(scores[i, target]),
                    int(ranks[i]),
                )


def _write_csv(file: BinaryIO, rows: Iterable[tuple[Any, ...]]) -> None:
    plain = ((str(cell).lower() if isinstance(cell, bool) else cell for cell in row) for row in rows)
    _csv(PREDICTION_COLUMNS, (list(row) for row in plain))(file)


def _write_jsonl(file: BinaryIO, rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(PREDICTION_COLUMNS, row, strict=True))).encode() + b"\n")


def _write_parquet(file: BinaryIO, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True))
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    clean = [[_utf8(cell) for cell in column] for column in columns]
    parquet.write_table(arrow.table(dict(zip(PREDICTION_COLUMNS, clean, strict=True))), file)


def _utf8(cell: Any) -> Any:
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


_WRITERS: dict[str, Callable[[BinaryIO, Iterable[tuple[Any, ...]]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
