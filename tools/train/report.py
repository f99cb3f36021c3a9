"""The log of a run as lines, as a table, and its curves as an image."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path

from bitvit.errors import BitvitError
from bitvit.extras import figure

from .checkpoint import write_bytes, write_whole

__all__ = ["say", "write_curves", "write_log"]

Row = dict[str, float]
PANELS = (("task", "distillation", "oscillation"), ("top1",), ("flips",), ("learning_rate",))


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
    for names, axes in zip(PANELS, drawn.subplots(2, 2).flat, strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in log if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name)
        axes.set_xlabel("epoch")
        axes.set_title(", ".join(names))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    write_whole(path, lambda file: drawn.savefig(file, dpi=100, format="png"))
    return True


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
