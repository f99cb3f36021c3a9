"""Figures of merit of a classifier, from its logits: those that scikit-learn's functions of these names give.

Tests compare them. scikit-learn itself, with the SciPy that it brings, takes longer to import than a thousand small
images to classify. Apart from the logits no array has images x classes elements, or classes x classes: probabilities
are computed a few rows, or one class, at a time, in float64.
"""

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.evaluation.confusion import Confusion
from bitvit.predictions import softmax

__all__ = ["BINS", "FIGURES", "CalibrationBin", "ClassScores", "Metrics", "interval", "measure", "parts"]

TOP = 5  # of top-5
BINS = 15  # of the calibration error
CHUNK = 1024  # rows, or as many as have
CHUNK_ELEMENTS = 1 << 22  # elements, if those are fewer
CONFIDENCE = 0.95  # level of the interval of top-1
EPSILON = np.finfo(np.float64).eps  # probabilities of the loss are at least that far from 0 and 1
FIGURES = ("top1", "top5", "loss", "balanced_accuracy", "macro_f1", "roc_auc", "calibration_error")


@dataclass(frozen=True)
class ClassScores:
    """One class. Shares are None where there is nothing to divide by."""

    name: str
    number: int
    images: int
    recall: float | None
    """Share of the class's images that are recognised: its accuracy."""
    precision: float | None
    """Share of the answers with this class that are right."""
    f1: float | None
    roc_auc: float | None
    """Area under the curve of this class against all others."""
    mistaken_for: str | None
    """The most frequent wrong answer to its images."""


@dataclass(frozen=True)
class CalibrationBin:
    """Answers whose probability lies in one of the equally wide bins between 0 and 1."""

    images: int
    confidence: float
    """Mean probability of the answers."""
    accuracy: float
    """Share of them that are right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """All figures. Shares are between 0 and 1."""

    images: int
    top1: float
    top1_interval: tuple[float, float]
    """Wilson's interval at 95 %: what other images of the same kind leave possible."""
    top5: float | None
    """None with five classes or fewer, where it says nothing."""
    loss: float
    """Mean cross-entropy, natural logarithm."""
    balanced_accuracy: float
    """Mean recall of the classes that have images: what top-1 would be if all had the same number."""
    macro_f1: float
    """Mean F1 of the classes that have images."""
    roc_auc: float | None
    """Mean over the classes with images of one against all others; None if there is just one."""
    calibration_error: float
    """Mean |confidence - accuracy| over 15 equally wide bins of the top-1 probability, weighted by images (ECE)."""
    classes: tuple[ClassScores, ...]
    confusion: Confusion
    """How often which class was answered for which; np.asarray gives the matrix."""
    calibration: tuple[CalibrationBin, ...]
    """Bins that hold images, in order."""


def measure(
    logits: NDArray[np.float32], targets: NDArray[np.int64], names: tuple[str, ...], numbers: tuple[int, ...]
) -> Metrics:
    """All figures of logits, float32 [B, L], for true classes, int64 [B] from 0 to L - 1.

    names, numbers: of the L classes. B is at least 1 and L at least 2.
    """
    count = logits.shape[1]
    present = np.unique(targets)
    answers = logits.argmax(axis=1)
    right = answers == targets
    likelihood = functools.partial(_likelihood, logits, _normalizers(logits))
    images, answered, hits = (np.bincount(chosen, minlength=count) for chosen in (targets, answers, targets[right]))
    with np.errstate(invalid="ignore"):  # 0 / 0 is a share of nothing, which stays NaN
        recall, precision, f1 = hits / images, hits / answered, 2 * hits / (images + answered)
    confusion = Confusion.of(targets, answers, count)
    mistaken = {true: answer for true, answer, _ in reversed(confusion.mistakes())}
    areas = _areas(targets, present, likelihood)
    calibration = _calibration(right, np.minimum(likelihood(answers), 1.0))
    return Metrics(
        images=len(targets),
        top1=float(np.mean(right)),
        top1_interval=interval(int(right.sum()), len(right)),
        top5=_top_share(logits, targets, TOP) if count > TOP else None,
        loss=_loss(logits, targets),
        balanced_accuracy=float(np.mean(recall[present])),
        macro_f1=float(np.mean(f1[present])),
        roc_auc=float(np.mean(list(areas.values()))) if areas else None,
        calibration_error=sum(b.images * abs(b.confidence - b.accuracy) for b in calibration) / len(right),
        classes=tuple(
            ClassScores(
                names[k],
                numbers[k],
                int(images[k]),
                _share(recall[k]) if images[k] else None,
                _share(precision[k]),
                _share(f1[k]) if images[k] else None,
                areas.get(k),
                names[mistaken[k]] if k in mistaken else None,
            )
            for k in range(count)
        ),
        confusion=confusion,
        calibration=calibration,
    )


def parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of an array with this shape, a few at a time, so that what is computed of them is small."""
    rows = max(1, min(CHUNK, CHUNK_ELEMENTS // shape[1]))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def _normalizers(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log of the sum of exp(logits) of each row, float64 [B]."""
    found = np.empty(len(logits))
    for part in parts(logits.shape):
        rows = logits[part].astype(np.float64)
        most = rows.max(axis=1)
        found[part] = most + np.log(np.exp(rows - most[:, None]).sum(axis=1))
    return found


def _likelihood(
    logits: NDArray[np.float32], normalizers: NDArray[np.float64], columns: int | NDArray[Any]
) -> NDArray[np.float64]:
    """Softmax probability of one class, or of a class a row: float64 [B]."""
    chosen: NDArray[np.float64] = np.exp(logits[np.arange(len(logits)), columns].astype(np.float64) - normalizers)
    return chosen


def _loss(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Mean cross-entropy."""
    total = 0.0
    for part in parts(logits.shape):
        own = np.take_along_axis(softmax(logits[part]), targets[part, None], axis=1)
        total -= float(np.log(np.clip(own, EPSILON, 1 - EPSILON)).sum())
    return total / len(targets)


def _top_share(logits: NDArray[np.float32], targets: NDArray[np.int64], most: int) -> float:
    """Share of the images whose class is among the `most` best answers; of equal ones the last are the best."""
    found, classes = 0, np.arange(logits.shape[1])
    for part in parts(logits.shape):
        rows, wanted = logits[part], targets[part, None]
        own = np.take_along_axis(rows, wanted, axis=1)
        better = (rows > own) | ((rows == own) & (classes > wanted))
        found += int((better.sum(axis=1) < most).sum())
    return found / len(targets)


def _areas(
    targets: NDArray[np.int64], present: NDArray[np.int64], likelihood: Callable[[int], NDArray[np.float64]]
) -> dict[int, float]:
    """Area under the ROC curve of each class that has images, against all others.

    It is the share of the pairs of an image of the class and another that the class's probability orders right (Mann
    and Whitney's U).
    """
    if len(present) < 2:
        return {}
    areas = {}
    for k in present.tolist():
        scores, own = likelihood(k), targets == k
        others, mine = np.sort(scores[~own]), scores[own]
        below, not_above = np.searchsorted(others, mine, "left"), np.searchsorted(others, mine, "right")
        areas[k] = int((below + not_above).sum()) / (2 * len(mine) * len(others))  # a pair of equal ones is half right
    return areas


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's interval for the share right / total, at CONFIDENCE."""
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle, scale = right + z * z / 2, total + z * z
    reach = z * math.sqrt(right * (total - right) / total + z * z / 4)
    low, high = (middle - reach) / scale, (middle + reach) / scale
    return 0.0 if right == 0 else low, 1.0 if right == total else high  # without a last bit of rounding


def _calibration(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> tuple[CalibrationBin, ...]:
    """Bins of equal width; an edge belongs to the bin below it."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence)
    images, means, hits = (np.bincount(bins, weights, BINS) for weights in (None, confidence, right))
    return tuple(
        CalibrationBin(int(n), float(mean / n), float(hit / n))
        for n, mean, hit in zip(images, means, hits, strict=True)
        if n
    )


def _share(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
