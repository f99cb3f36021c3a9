"""Where engine and reference differ, as a matplotlib figure: the errors of each part, and their places on its map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bitvit.extras import figure, require

if TYPE_CHECKING:
    from bitvit.verify.verifying import VerifyRow

MAPS_A_ROW = 6  # maps beside each other
LEAST, MOST = 1e-8, 1.0  # ends of the errors' scale: below float32's resolution, and a whole standard deviation


def draw(rows: Sequence["VerifyRow"], title: str, limit: float) -> Any:
    """Above, each part's largest and typical error, and the limit of the largest; below, the maps of errors.

    On a map blue is within the limit, so a blue map has nothing to look for, and orange is beyond it.
    Raises BitvitError without matplotlib.
    """
    maps = [(row, row.errors) for row in rows if row.errors is not None]
    lines = -(-len(maps) // MAPS_A_ROW)
    drawn = figure(2 * MAPS_A_ROW, 3.4 + 2.1 * lines)
    upper, lower = drawn.subfigures(2, 1, height_ratios=(3.4, 2.1 * lines))
    drawn.suptitle(title)
    _draw_errors(rows, limit, upper.subplots())
    scale = require("matplotlib.colors", "drawing").LogNorm(LEAST, MOST)
    colours = _colours(float(scale(limit)))
    axes = lower.subplots(lines, MAPS_A_ROW, squeeze=False).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, (row, errors) in zip(axes, maps, strict=False):
        image = axis.imshow(np.clip(errors, LEAST, MOST), norm=scale, cmap=colours, interpolation="nearest")
        signs = f"{row.sign_disagreements:,} of {row.signs:,} signs differ" if row.signs else "no signs"
        axis.set_title(f"{row.name}\n{signs}", fontsize=7, color="black" if row.passed else "red")
    bar = lower.colorbar(image, ax=axes, label="largest error at a place,\nin standard deviations", shrink=0.9)
    bar.ax.axhline(limit, color="black", linewidth=1.5)
    for place, text in ((scale(limit) / 2, "as it should be"), ((1 + scale(limit)) / 2, "beyond the limit")):
        bar.ax.text(0.5, place, text, rotation=90, ha="center", va="center", fontsize=8, transform=bar.ax.transAxes)
    return drawn


def _colours(limit: float) -> Any:
    """Blues up to the limit, which is a place on the scale from 0 to 1, and oranges beyond it."""
    maps = require("matplotlib", "drawing").colormaps
    steps = 512
    within = round(steps * limit)
    table = [*maps["Blues"](np.linspace(0.1, 0.6, within)), *maps["Oranges"](np.linspace(0.4, 1, steps - within))]
    return require("matplotlib.colors", "drawing").ListedColormap(table, "errors")


def _draw_errors(rows: Sequence["VerifyRow"], limit: float, axis: Any) -> None:
    places = range(len(rows))
    for label, values in (
        ("largest error", [row.max_error for row in rows]),
        ("typical error", [row.relative_error for row in rows]),
    ):
        axis.plot(places, np.maximum(values, LEAST), marker="o", markersize=4, linewidth=1, label=label)
    for label, colour, chosen in (
        ("a sign decided by float32 rounding", "tab:green", [row.undecided and not row.wrong for row in rows]),
        ("wrong", "red", [not row.passed for row in rows]),
    ):
        marked = [place for place in places if chosen[place]]
        if marked:
            largest = [max(LEAST, rows[place].max_error) for place in marked]
            axis.scatter(marked, largest, s=90, facecolors="none", edgecolors=colour, label=label)
    axis.axhline(limit, color="grey", linewidth=1, linestyle="--", label="limit of the largest error")
    axis.set_yscale("log")
    axis.set_xticks(places, [row.name for row in rows], rotation=90, fontsize=7)
    axis.set_ylabel("standard deviations")
    axis.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
