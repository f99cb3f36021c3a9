"""The log of a run as lines, as a table, and its curves as an image."""

import csv
import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bitvit.errors import BitvitError
from bitvit.extras import figure
from bitvit.train.checkpoint import write_bytes, write_whole

__all__ = ["Row", "draw_curves", "say", "write_curves", "write_log"]

Row = dict[str, float]
MANY = 40  # points, which would be too dense to mark each
# Each panel's title, what its axis measures, and the values of a row that are drawn in it, with their names for people.
PANELS = (
    ("losses", "loss", {"task": "cross-entropy", "distillation": "distillation", "oscillation": "oscillation"}),
    ("accuracy on the test images", "top-1, %", {"top1": "top-1"}),
    ("binary weights that change sign", "share of the weights", {"flips": "flips"}),
    ("learning rate", "step size", {"learning_rate": "learning rate"}),
)


def write_log(path: Path, log: Sequence[Row]) -> None:
    """CSV with a line per epoch; a value that an epoch does not have is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in log for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in log)
    write_bytes(path, text.getvalue().encode())


def write_curves(path: Path, log: Sequence[Row]) -> bool:
    """Losses, accuracy, flips and learning rate by epoch, PNG; False if matplotlib is not installed."""
    try:
        drawn = figure(10, 6)
    except BitvitError:
        return False
    draw_curves(drawn.subplots(2, 2).flat, log)
    drawn.suptitle(path.resolve().parent.name)
    write_whole(path, lambda file: drawn.savefig(file, dpi=100, format="png"))
    return True


def draw_curves(panels: Iterable[Any], log: Sequence[Row]) -> None:
    """Draw the log on four axes of matplotlib's."""
    for (title, measured, names), axes in zip(PANELS, panels, strict=True):
        for name, label in names.items():
            points = [(row["epoch"], row[name]) for row in log if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < MANY else "", label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(measured)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend()
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
