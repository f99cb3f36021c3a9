"""Figures of merit of a classifier, from its logits: those that scikit-learn's functions of these names give.

Tests compare them. scikit-learn itself, with the SciPy that it brings, takes longer to import than a thousand small
images to classify. Apart from the logits no array has images x classes elements, or classes x classes: probabilities
are computed a few rows, or some classes, at a time, in float64. Nor does the memory that logits in a file take
(bitvit.evaluation.spill).
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit.evaluation.confusion import Confusion
from bitvit.evaluation.spill import release
from bitvit.predictions import softmax

__all__ = ["BINS", "FIGURES", "CalibrationBin", "ClassScores", "Metrics", "interval", "measure", "parts"]

TOP = 5  # of top-5
BINS = 15  # of the calibration error
CHUNK = 1024  # rows, or as many as have
CHUNK_ELEMENTS = 1 << 22  # elements, if those are fewer
BLOCK_ELEMENTS = 1 << 24  # of columns that are copied at a time
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
    rows = _by_rows(logits, targets)
    answers, right = rows.answers, rows.answers == targets
    images, answered, hits = (np.bincount(chosen, minlength=count) for chosen in (targets, answers, targets[right]))
    with np.errstate(invalid="ignore"):  # 0 / 0 is a share of nothing, which stays NaN
        recall, precision, f1 = hits / images, hits / answered, 2 * hits / (images + answered)
    confusion = Confusion.of(targets, answers, count)
    mistaken = {true: answer for true, answer, _ in reversed(confusion.mistakes())}
    areas = _areas(logits, rows.normalizers, targets, present)
    calibration = _calibration(right, np.minimum(rows.confidence, 1.0))
    return Metrics(
        images=len(targets),
        top1=float(np.mean(right)),
        top1_interval=interval(int(right.sum()), len(right)),
        top5=int((rows.better < TOP).sum()) / len(targets) if count > TOP else None,
        loss=rows.loss / len(targets),
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


@dataclass(frozen=True)
class _Rows:
    """What is found out about each image by its own logits: [B]."""

    answers: NDArray[np.int64]
    normalizers: NDArray[np.float64]
    """log of the sum of exp(logits)."""
    confidence: NDArray[np.float64]
    """Softmax probability of the answer."""
    better: NDArray[np.int64]
    """How many answers are better than the true class; of equal ones the last are the best."""
    loss: float
    """Sum of the cross-entropy."""


def _by_rows(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> _Rows:
    count = len(logits)
    answers, better = np.empty(count, np.int64), np.empty(count, np.int64)
    normalizers, confidence, loss = np.empty(count), np.empty(count), 0.0
    classes = np.arange(logits.shape[1])
    for part in parts(logits.shape):
        rows, wanted = logits[part], targets[part, None]
        best, own = rows.argmax(axis=1), np.take_along_axis(rows, wanted, axis=1)
        wide = rows.astype(np.float64)
        most = wide.max(axis=1)
        answers[part] = best
        better[part] = ((rows > own) | ((rows == own) & (classes > wanted))).sum(axis=1)
        normalizers[part] = most + np.log(np.exp(wide - most[:, None]).sum(axis=1))
        confidence[part] = np.exp(wide[np.arange(len(rows)), best] - normalizers[part])
        likelihood = np.take_along_axis(softmax(rows), wanted, axis=1)
        loss -= float(np.log(np.clip(likelihood, EPSILON, 1 - EPSILON)).sum())
        release(logits)
    return _Rows(answers, normalizers, confidence, better, loss)


def _columns(logits: NDArray[np.float32], wanted: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each of the columns, with its number; some are copied at a time, since in place each lies all over memory."""
    width = max(1, BLOCK_ELEMENTS // len(logits))
    for start in range(0, len(wanted), width):
        chosen = wanted[start : start + width]
        block = np.empty((len(chosen), len(logits)), np.float32)
        for part in parts(logits.shape):
            block[:, part] = logits[part][:, chosen].T
            release(logits)
        yield from zip(chosen.tolist(), block, strict=True)


def _areas(
    logits: NDArray[np.float32],
    normalizers: NDArray[np.float64],
    targets: NDArray[np.int64],
    present: NDArray[np.int64],
) -> dict[int, float]:
    """Area under the ROC curve of each class that has images, against all others.

    It is the share of the pairs of an image of the class and another that the class's probability orders right (Mann
    and Whitney's U).
    """
    if len(present) < 2:
        return {}
    areas = {}
    for k, column in _columns(logits, present):
        scores, own = np.exp(column.astype(np.float64) - normalizers), targets == k
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
