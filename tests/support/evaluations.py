"""What tests of evaluations share."""

import csv
import io
from pathlib import Path

import numpy as np

from bitvit.evaluation import Comparison, EvalReport


def same(one: EvalReport, other: EvalReport) -> bool:
    """Whether two reports hold the same, but for the time they took."""
    ours, theirs = one.to_dict(), other.to_dict()
    del ours["seconds"], theirs["seconds"]
    return ours == theirs and one.paths == other.paths and np.array_equal(one.logits, other.logits)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def in_a_notebook(report: EvalReport | Comparison) -> str:
    """The HTML that IPython asks for."""
    return report._repr_html_()
