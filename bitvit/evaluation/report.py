"""What an evaluation found: of one model, or of several side by side."""

import itertools
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.evaluation.drawings import MOST_DRAWN, draw_calibration, draw_confusion
from bitvit.evaluation.metrics import FIGURES, ClassScores, Metrics
from bitvit.evaluation.overview import comparison_html, comparison_lines, report_html, report_lines
from bitvit.evaluation.tables import Answer, answers, write_answers, write_csv, write_json
from bitvit.files import make_folder
from bitvit.predictions import softmax
from bitvit.version import __version__

__all__ = ["Comparison", "EvalReport", "Failure"]


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalReport(Metrics):
    """What one model achieves on one data set; the figures are described in bitvit.evaluation.metrics.Metrics."""

    model: str
    model_sha256: str | None
    """Of the model file; None for a model that was loaded already."""
    data: str
    failures: tuple[Failure, ...]
    """Images that could not be read; no figure counts them."""
    notes: tuple[str, ...]
    """What a reader of the figures should know."""
    turned: tuple[str, ...]
    """Images that were taken as they are stored, though their EXIF data calls for a turn (exif=True turns them)."""
    seconds: float
    """Of decoding and computing, which overlap; models that share decoded images share the wait for them."""
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    """[images] position of each image's class in `classes`."""
    logits: NDArray[np.float32]
    """[images, classes]; of 256 MB or more in a temporary file, but in full where the report is pickled."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """[images, classes], softmax of the logits."""
        return softmax(self.logits)

    @property
    def answers(self) -> Iterator[Answer]:
        """What was answered to each image, in the order of the data."""
        classes = [(scores.name, scores.number) for scores in self.classes]
        return answers(self.model, self.paths, self.targets, self.logits, classes)

    def __repr__(self) -> str:
        return report_lines(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return report_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything except what belongs to single images, as JSON can hold it.

        `confusion` has the cells that are not 0: [true class, answer, images], classes by their place in `classes`.
        """
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "data": self.data,
            "images": self.images,
            "failures": [asdict(failure) for failure in self.failures],
            **{name: getattr(self, name) for name in FIGURES},
            "top1_interval_95": list(self.top1_interval),
            "classes": [asdict(scores) for scores in self.classes],
            "confusion": self.confusion.cells(),
            "calibration": [asdict(part) for part in self.calibration],
            "notes": list(self.notes),
            "turned": len(self.turned),
            "seconds": self.seconds,
            "versions": {
                "bitvit": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
        }

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write report.json, classes.csv, confusions.csv, confusion.csv, confusion.png, calibration.png, failures.csv.

        confusions.csv has a row for each pair of true class and answer that occurred, confusion.csv the matrix, unless
        there are more than MOST_DRAWN classes; failures.csv is written if there are any. Returns their paths. Raises
        BitvitError if one cannot be written, or without matplotlib.
        """
        folder = Path(folder)
        make_folder(folder)
        names = [scores.name for scores in self.classes]
        write_json(folder / "report.json", self.to_dict())
        columns = [field.name for field in fields(ClassScores)]
        write_csv(folder / "classes.csv", columns, map(astuple, self.classes))
        cells = ([names[true], names[answer], images] for true, answer, images in self.confusion.cells())
        write_csv(folder / "confusions.csv", ["true", "answer", "images"], cells)
        title = f"top-1 {100 * self.top1:.2f} % of {self.images:,} images"
        draw_confusion(folder / "confusion.png", self.confusion, self.classes, title)
        title = f"calibration error (ECE) {self.calibration_error:.4f}"
        draw_calibration(folder / "calibration.png", self.calibration, title)
        written = ["report.json", "classes.csv", "confusions.csv", "confusion.png", "calibration.png"]
        if self.confusion.size <= MOST_DRAWN:
            rows = ([name, *row] for name, row in zip(names, np.asarray(self.confusion).tolist(), strict=True))
            write_csv(folder / "confusion.csv", ["true \\ answer", *names], rows)
            written.append("confusion.csv")
        if self.failures:
            write_csv(folder / "failures.csv", ["path", "reason"], map(astuple, self.failures))
            written.append("failures.csv")
        for name in {"confusion.csv", "failures.csv"}.difference(written):
            (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
        return [folder / name for name in written]

    def save_predictions(self, path: str | os.PathLike[str]) -> None:
        """Write what was answered to each image: .csv, .jsonl or .parquet, as the name ends."""
        write_answers(path, self.answers)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several models side by side, or the folds of a cross-validation."""

    reports: tuple[EvalReport, ...]

    def __repr__(self) -> str:
        return comparison_lines(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return comparison_html(self)

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean of each of the figures over the models, each model counting the same; None where one has none."""
        return {name: None if values is None else float(np.mean(values)) for name, values in self._columns()}

    @property
    def spread(self) -> dict[str, float | None]:
        """Standard deviation over the models, with n - 1; None for fewer than two."""
        return {
            name: None if values is None or len(values) < 2 else float(np.std(values, ddof=1))
            for name, values in self._columns()
        }

    def _columns(self) -> Iterator[tuple[str, list[float] | None]]:
        for name in FIGURES:
            values = [getattr(report, name) for report in self.reports]
            yield name, None if None in values else values

    def to_dict(self) -> dict[str, Any]:
        """Everything except what belongs to single images, as JSON can hold it."""
        return {
            "reports": [report.to_dict() for report in self.reports],
            "mean": self.mean,
            "standard_deviation": self.spread,
        }

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write summary.csv, summary.json, and a folder for each report; see EvalReport.save."""
        folder = Path(folder)
        make_folder(folder)
        written = [folder / "summary.csv", folder / "summary.json"]
        rows: list[list[Any]] = [
            [report.model, report.data, report.images, *(getattr(report, name) for name in FIGURES)]
            for report in self.reports
        ]
        for title, figures in (("mean", self.mean), ("standard deviation", self.spread)):
            rows.append([title, "", "", *figures.values()])
        write_csv(written[0], ["model", "data", "images", *FIGURES], rows)
        write_json(written[1], self.to_dict())
        for number, report in enumerate(self.reports):
            written += report.save(folder / f"{number}-{Path(report.model).stem}")
        return written

    def save_predictions(self, path: str | os.PathLike[str]) -> None:
        """Write all models' answers to one file: .csv, .jsonl or .parquet, as the name ends."""
        write_answers(path, itertools.chain.from_iterable(report.answers for report in self.reports))
