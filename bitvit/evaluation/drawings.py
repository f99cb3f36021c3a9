"""What an evaluation draws, as PNG files."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitvit.evaluation.metrics import BINS, CalibrationBin, interval
from bitvit.extras import figure
from bitvit.files import write_file

__all__ = ["draw_calibration", "draw_confusion"]

MOST_NAMED = 40  # classes whose names are written beside a confusion matrix
LARGE_PRINT = 20  # classes up to which the numbers in it are large
DOTS_PER_INCH = 120


def draw_confusion(
    path: str | os.PathLike[str], confusion: NDArray[np.int64], names: Sequence[str], title: str
) -> None:
    """Draw a confusion matrix, coloured by each cell's share of its row; a row without images is blank.

    confusion: [classes, classes], a row for each true class, a column for each answer. names: of the classes.
    Raises BitvitError without matplotlib, or if the file cannot be written.
    """
    count, sums = len(names), confusion.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, confusion / np.maximum(sums, 1), np.nan)
    side = max(4.5, min(12.0, 2.5 + 0.42 * count))
    drawing = figure(side + 1, side)
    axes = drawing.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    drawing.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    axes.set_title(title)
    if count <= MOST_NAMED:
        labels = [_plain(name) for name in names]
        axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), labels)
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            size = 8 if count <= LARGE_PRINT else 5
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    write_file(path, lambda file: drawing.savefig(file, format="png", dpi=DOTS_PER_INCH))


def draw_calibration(path: str | os.PathLike[str], bins: Sequence[CalibrationBin], title: str) -> None:
    """Draw accuracy against confidence with its 95 % interval, which is wide where few answers lie; below, how many do.

    bins: those that hold images. Raises BitvitError without matplotlib or SciPy, or if the file cannot be written.
    """
    drawing = figure(5, 5.5)
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, accuracy = np.array([(part.confidence, part.accuracy) for part in bins]).T
    bounds = np.array([interval(round(part.accuracy * part.images), part.images) for part in bins]).T
    beyond = np.abs(bounds - accuracy)  # how far the interval goes below and above
    upper.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    upper.errorbar(confidence, accuracy, beyond, fmt="o", capsize=2, elinewidth=1, label="measured, 95 % interval")
    upper.set_ylim(-0.03, 1.03)
    upper.set_ylabel("share of right answers")
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    drawing.suptitle(title)
    places = (np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence) + 0.5) / BINS
    lower.bar(places, [part.images for part in bins], width=1 / BINS, edgecolor="white", linewidth=0.5)
    lower.set_yscale("log")
    lower.set_ylim(0.5, None)  # so that a single image is seen
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence: probability of the answer")
    lower.set_ylabel("images")
    write_file(path, lambda file: drawing.savefig(file, format="png", dpi=DOTS_PER_INCH))


def _plain(name: str) -> str:
    """A class name as matplotlib shows it: no formulas, no longer than fits."""
    shown = name if len(name) <= 24 else f"{name[:23]}…"
    return shown.replace("$", r"\$")
