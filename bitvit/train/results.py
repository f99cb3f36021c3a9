"""One page of what a training has come to: curves, confusion matrix, the worst mistakes, figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.evaluation.drawings import MOST_DRAWN, draw_matrix
from bitvit.evaluation.fonts import drawable
from bitvit.evaluation.metrics import Metrics, measure
from bitvit.extras import figure
from bitvit.predictions import softmax
from bitvit.train.checkpoint import write_whole
from bitvit.train.report import Row, draw_curves

__all__ = ["Page", "draw_page", "mistakes"]

SHOWN = 12  # of the most mistaken images
COLUMNS = 6
MOST_CONFUSED = 20  # pairs of classes, named where there are too many for a matrix
DOTS_PER_INCH = 100


@dataclass(frozen=True)
class Page:
    """What is drawn."""

    title: str
    facts: Sequence[tuple[str, str]]
    log: Sequence[Row]
    labels: Sequence[str]
    pixels: NDArray[np.uint8]
    """[N, S, S, 3], of the held-out images."""
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    """[N, L], the engine's."""

    @property
    def metrics(self) -> Metrics:
        return measure(self.logits, self.targets, tuple(self.labels), tuple(range(len(self.labels))))


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    index: int
    true: int
    answer: int
    score: float
    """Probability of the wrong answer."""


def mistakes(logits: NDArray[np.float32], targets: NDArray[np.int64], most: int = SHOWN) -> list[Mistake]:
    """Wrong answers, those that are surest of themselves first."""
    scores, answers = softmax(logits), logits.argmax(1)
    sure = scores[np.arange(len(scores)), answers]
    wrong = np.flatnonzero(answers != targets)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return [Mistake(int(k), int(targets[k]), int(answers[k]), float(sure[k])) for k in order]


def draw_page(path: Path, page: Page) -> None:
    """Write the page as a PNG. Raises BitvitError without matplotlib, or if it cannot be written."""
    worst = mistakes(page.logits, page.targets)
    rows = -(-len(worst) // COLUMNS)
    heights = (1.0 + 0.22 * len(page.facts), 6.0, 6.2, 0.5 + 1.9 * rows)
    drawing = figure(11, sum(heights))
    top, curves, matrix, bottom = drawing.subfigures(4, 1, height_ratios=heights)
    _draw_facts(top, page)
    draw_curves(curves.subplots(2, 2).flat, page.log)
    _draw_confusion(matrix, page)
    _draw_mistakes(bottom, page, worst, rows)
    write_whole(path, lambda file: drawing.savefig(file, dpi=DOTS_PER_INCH, format="png"))


def _draw_facts(part: Any, page: Page) -> None:
    part.suptitle(page.title, fontsize=14)
    axes = part.subplots()
    axes.set_axis_off()
    count = len(page.facts)
    for number, (name, value) in enumerate(page.facts):
        height = 1 - (number + 0.5) / count
        axes.text(0.0, height, name, weight="bold", va="center", transform=axes.transAxes)
        text = value.replace("$", r"\$")
        axes.text(0.13, height, text, va="center", transform=axes.transAxes, wrap=True)


def _draw_confusion(part: Any, page: Page) -> None:
    axes, found = part.subplots(), page.metrics
    title = f"held-out images by bitvit: top-1 {100 * found.top1:.2f} %"
    if found.confusion.size <= MOST_DRAWN:
        draw_matrix(part, axes, found.confusion, found.classes)
        axes.set_title(title)
        return
    axes.set_axis_off()
    axes.set_title(f"{title}; the most frequent mistakes")
    drawn = drawable(page.labels, range(len(page.labels)))
    pairs = found.confusion.mistakes(MOST_CONFUSED)
    lines = [f"{images} x {drawn.names[true]} taken for {drawn.names[answer]}" for true, answer, images in pairs]
    axes.text(0, 1, "\n".join(lines), va="top", family=drawn.families, transform=axes.transAxes)


def _draw_mistakes(part: Any, page: Page, worst: Sequence[Mistake], rows: int) -> None:
    part.suptitle("the most mistaken images: true class, answer (its probability)" if worst else "no mistakes")
    if not worst:
        return
    drawn = drawable(page.labels, range(len(page.labels)))
    for number, axes in enumerate(part.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.set_axis_off()
        if number < len(worst):
            mistake = worst[number]
            axes.imshow(page.pixels[mistake.index])
            text = f"{drawn.names[mistake.true]}\n{drawn.names[mistake.answer]} ({100 * mistake.score:.0f} %)"
            axes.set_title(text, fontsize=8, family=drawn.families)
