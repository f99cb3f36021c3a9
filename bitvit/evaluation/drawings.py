"""What an evaluation draws, as PNG files."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitvit.evaluation.confusion import Confusion
from bitvit.evaluation.fonts import drawable
from bitvit.evaluation.metrics import BINS, CalibrationBin, ClassScores, interval
from bitvit.extras import figure, require
from bitvit.files import write_file

__all__ = ["MOST_DRAWN", "draw_calibration", "draw_confusion", "draw_matrix"]

MOST_DRAWN = 200  # classes of a confusion matrix; of more, the most frequent mistakes are drawn
MOST_NAMED = 40  # classes whose names are written beside it
SHORT = 2  # letters of a name that fits below its column
LARGE_PRINT = 20  # classes up to which the numbers in it are large
MISTAKES = 30  # that are drawn as bars
PALEST = 0.25  # of a scale of colours: where that of the least share begins, so that it stands out against white
DARKEST = 0.1  # share of mistakes that has the darkest colour, if none is greater
DOTS_PER_INCH = 120


def draw_confusion(
    path: str | os.PathLike[str], confusion: Confusion, classes: Sequence[ClassScores], title: str
) -> None:
    """Draw a confusion matrix: in blue what was recognised, in orange the mistakes, which have a scale of their own.

    Each cell's colour is its share of its row; cells without images are blank. Of more than MOST_DRAWN classes the most
    frequent mistakes are drawn instead. Raises BitvitError without matplotlib, or if the file cannot be written.
    """
    drawing = _matrix(confusion, classes, title) if confusion.size <= MOST_DRAWN else _bars(confusion, classes, title)
    write_file(path, lambda file: drawing.savefig(file, format="png", dpi=DOTS_PER_INCH))


def _matrix(confusion: Confusion, classes: Sequence[ClassScores], title: str) -> Any:
    side = max(4.5, min(12.0, 2.5 + 0.42 * confusion.size))
    drawing = figure(side + 2, side)
    axes = drawing.subplots()
    draw_matrix(drawing, axes, confusion, classes)
    axes.set_title(title)
    return drawing


def draw_matrix(drawing: Any, axes: Any, confusion: Confusion, classes: Sequence[ClassScores]) -> None:
    """Draw a confusion matrix on axes of a figure of matplotlib's, or of a part of one, as draw_confusion does."""
    count, matrix = confusion.size, np.asarray(confusion)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    own = np.eye(count, dtype=bool)
    colours = require("matplotlib.colors", "drawing")
    wrong = np.where(own | (matrix == 0), np.nan, shares)
    worst = float(np.nanmax(wrong, initial=DARKEST))
    drawn = [  # the scale of mistakes rises steeply first, as most are rare
        (
            np.where(own & (matrix > 0), shares, np.nan),
            _tinted("Blues"),
            colours.Normalize(0, 1),
            "share recognised",
        ),
        (wrong, _tinted("Oranges"), colours.PowerNorm(0.5, 0, worst), "share mistaken"),
    ]
    for values, colormap, norm, label in drawn:
        image = axes.imshow(values, cmap=colormap, norm=norm, interpolation="nearest")
        drawing.colorbar(image, ax=axes, shrink=0.7, aspect=30, label=label)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    if count > MOST_NAMED:
        return
    names = drawable([scores.name for scores in classes], [scores.number for scores in classes])
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names.names)) > SHORT else {}
    axes.set_xticks(range(count), names.names, family=names.families, **slanted)
    axes.set_yticks(range(count), names.names, family=names.families)
    drawing.supxlabel(names.note, fontsize=8)
    for row, column, images in confusion.cells():
        _, colormap, norm, _ = drawn[row != column]
        dark = np.dot(colormap(norm(shares[row, column]))[:3], (0.3, 0.59, 0.11)) < 0.5
        axes.text(
            column,
            row,
            str(images),
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=8 if count <= LARGE_PRINT else 5,
        )


def _tinted(name: str) -> Any:
    """matplotlib's colours from white to dark, without the white."""
    colormap = require("matplotlib", "drawing").colormaps[name]
    make = require("matplotlib.colors", "drawing").LinearSegmentedColormap.from_list
    return make(f"tinted {name}", colormap(np.linspace(PALEST, 1, 256)))


def _bars(confusion: Confusion, classes: Sequence[ClassScores], title: str) -> Any:
    mistakes = confusion.mistakes(MISTAKES)
    drawing = figure(8, 1.6 + 0.22 * max(1, len(mistakes)))
    axes = drawing.subplots()
    drawing.suptitle(title)
    axes.set_title(f"the most frequent mistakes among {confusion.size:,} classes", fontsize=10)
    axes.set_xlabel("images")
    involved = sorted({number for true, answer, _ in mistakes for number in (true, answer)})
    names = drawable([classes[k].name for k in involved], [classes[k].number for k in involved])
    drawing.supxlabel(names.note, fontsize=8)
    shown = dict(zip(involved, names.names, strict=True))
    places = range(len(mistakes))
    axes.set_yticks(
        places, [f"{shown[true]} taken for {shown[answer]}" for true, answer, _ in mistakes], family=names.families
    )
    axes.barh(places, [images for *_, images in mistakes], color="tab:orange")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    if not mistakes:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no mistakes", ha="center", transform=axes.transAxes)
    return drawing


def draw_calibration(path: str | os.PathLike[str], bins: Sequence[CalibrationBin], title: str) -> None:
    """Draw accuracy against confidence with its 95 % interval, which is wide where few answers lie; below, how many do.

    bins: those that hold images. Raises BitvitError without matplotlib, or if the file cannot be written.
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
