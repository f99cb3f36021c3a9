"""Figures of hand-made answers, worked out on paper."""

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.evaluation import metrics
from bitvit.evaluation.metrics import Metrics, interval, measure
from bitvit.predictions import softmax

PROBABILITIES = [(0.7, 0.2, 0.1), (0.4, 0.5, 0.1), (0.09, 0.82, 0.09), (0.45, 0.48, 0.07)]
TARGETS = np.array([0, 0, 1, 1])
NAMES = ("cat", "dog", "owl")


def measured(probabilities: object = PROBABILITIES, targets: NDArray[np.int64] = TARGETS) -> Metrics:
    logits = np.log(np.array(probabilities)).astype(np.float32)
    names = NAMES if logits.shape[1] == 3 else tuple(map(str, range(logits.shape[1])))
    return measure(logits, targets, names, tuple(range(logits.shape[1])))


def test_figures() -> None:
    found = measured()
    assert found.images == 4
    assert found.top1 == 0.75
    assert found.top5 is None
    assert found.loss == pytest.approx(-math.log(0.7 * 0.4 * 0.82 * 0.48) / 4)
    assert found.balanced_accuracy == 0.75
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.roc_auc == pytest.approx(0.75)
    assert found.calibration_error == pytest.approx((0.3 + 2 * 0.01 + 0.18) / 4, rel=1e-5)
    assert [part.images for part in found.calibration] == [2, 1, 1]
    assert [part.accuracy for part in found.calibration] == [0.5, 1, 1]
    assert np.asarray(found.confusion).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found.top1_interval == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's, 3 of 4


def test_figures_of_a_class() -> None:
    cat, dog, owl = measured().classes
    assert (cat.name, cat.number, cat.images, cat.mistaken_for) == ("cat", 0, 2, "dog")
    assert (cat.recall, cat.precision, cat.f1, cat.roc_auc) == pytest.approx((0.5, 1, 2 / 3, 0.75))
    assert (dog.recall, dog.precision, dog.f1, dog.roc_auc) == pytest.approx((1, 2 / 3, 0.8, 0.75))
    assert dog.mistaken_for is None
    assert (owl.images, owl.recall, owl.precision, owl.f1, owl.roc_auc) == (0, None, None, None, None)


def test_top5() -> None:
    probabilities = np.array([0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
    found = measured([probabilities] * 3, np.array([0, 4, 5]))
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)


def test_one_class_among_the_images_has_no_roc() -> None:
    found = measured(PROBABILITIES[:2], TARGETS[:2])
    assert found.roc_auc is None
    assert found.classes[0].roc_auc is None
    assert found.top1 == 0.5


@pytest.mark.parametrize("target", [0, 1])
def test_two_classes_all_right_or_all_wrong(target: int) -> None:
    found = measured([(0.9, 0.1)] * 5, np.full(5, target))
    assert found.top1 == 1 - target
    assert found.calibration_error == pytest.approx(0.1 if target == 0 else 0.9)


def test_extreme_logits() -> None:
    logits = np.array([[1e30, 0, 0], [0, 1e4, -1e4], [0, 0, 80]], np.float32)
    found = measure(logits, np.array([0, 1, 2]), NAMES, (0, 1, 2))
    assert (found.top1, found.calibration_error) == (1, 0)
    assert found.loss == pytest.approx(0, abs=1e-12)


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    names, numbers = tuple("abcdefg"), tuple(range(7))
    whole = measure(logits, targets, names, numbers)
    monkeypatch.setattr(metrics, "CHUNK", 8)
    parts = measure(logits, targets, names, numbers)
    assert parts.top5 == whole.top5
    assert parts.loss == pytest.approx(whole.loss)
    assert parts.loss == pytest.approx(-np.log(softmax(logits)[np.arange(50), targets]).mean())
    assert [c.roc_auc for c in parts.classes] == [c.roc_auc for c in whole.classes]


def noisy(seed: int, coarse: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """400 answers of which about half are right; 8 classes, one without images and one that is never answered.

    coarse: with whole numbers, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 7, 400)
    logits = 2 * rng.standard_normal((400, 8)).astype(np.float32)
    logits[np.arange(400), targets] += 3
    logits[:, 2] = -50
    return np.rint(logits) if coarse else logits, targets


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_scikit_learns(seed: int, coarse: bool) -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'bitvit[dev]'")
    logits, targets = noisy(seed, coarse)
    found = measure(logits, targets, tuple("abcdefgh"), tuple(range(8)))
    answers, every, present = logits.argmax(axis=1), range(8), np.unique(targets)
    precision, recall, f1, images = sk.precision_recall_fscore_support(
        targets, answers, labels=every, zero_division=np.nan
    )
    assert found.top1 == pytest.approx(sk.accuracy_score(targets, answers), rel=1e-12)
    assert found.top5 == pytest.approx(sk.top_k_accuracy_score(targets, logits, k=5, labels=every), rel=1e-12)
    assert found.loss == pytest.approx(sk.log_loss(targets, softmax(logits), labels=every), rel=1e-12)
    assert found.balanced_accuracy == pytest.approx(recall[present].mean(), rel=1e-12)
    assert found.macro_f1 == pytest.approx(f1[present].mean(), rel=1e-12)
    assert [scores.images for scores in found.classes] == images.tolist()
    columns = {
        "recall": np.where(images, recall, np.nan),
        "precision": precision,
        "f1": np.where(images, f1, np.nan),
    }
    for name, column in columns.items():
        own = [np.nan if (share := getattr(scores, name)) is None else share for scores in found.classes]
        assert own == pytest.approx(column, rel=1e-12, nan_ok=True), name
    assert found.classes[2].precision is None
    assert found.classes[7].recall is None


def test_calibration_is_scikit_learns() -> None:
    calibration = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn: pip install 'bitvit[dev]'")
    logits, targets = noisy(2, coarse=False)
    found = measure(logits, targets, tuple("abcdefgh"), tuple(range(8)))
    right, confidence = logits.argmax(axis=1) == targets, softmax(logits).max(axis=1)
    accuracy, mean = calibration.calibration_curve(right, confidence, n_bins=15)
    assert [part.accuracy for part in found.calibration] == pytest.approx(accuracy, rel=1e-12)
    assert [part.confidence for part in found.calibration] == pytest.approx(mean, rel=1e-12)
    assert sum(part.images for part in found.calibration) == 400


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 30), (30, 30), (17, 599), (49_999, 50_000)])
def test_interval_is_scipys(right: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy, which comes with scikit-learn")
    expected = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert interval(right, total) == pytest.approx(tuple(expected), rel=1e-12, abs=0)


def test_areas_are_scikit_learns() -> None:
    """With equal scores too."""
    sk = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'bitvit[dev]'")
    rng = np.random.default_rng(0)
    logits, targets = rng.integers(-2, 3, (400, 6)).astype(np.float32), rng.integers(0, 5, 400)
    found = measure(logits, targets, tuple("abcdef"), tuple(range(6)))
    wide = logits.astype(np.float64)
    most = wide.max(axis=1, keepdims=True)  # rounded as measure rounds, so that the same probabilities are equal
    probabilities = np.exp(wide - (most + np.log(np.exp(wide - most).sum(axis=1, keepdims=True))))
    assert len(np.unique(probabilities[:, 0])) < 390
    for number in range(5):
        expected = sk.roc_auc_score(targets == number, probabilities[:, number])
        assert found.classes[number].roc_auc == pytest.approx(expected, rel=1e-12)
    assert found.classes[5].roc_auc is None


def test_thousands_of_classes_take_little_memory() -> None:
    """A matrix of all pairs would be 1.2 GB."""
    count = 12_000
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((60, count)).astype(np.float32), rng.integers(0, count, 60)
    names = tuple(map(str, range(count)))
    measured()  # loads what is loaded once
    tracemalloc.start()
    found = measure(logits, targets, names, tuple(range(count)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert found.confusion.images.sum() == 60
    wrong = {int(true): int(answer) for true, answer in zip(targets, logits.argmax(axis=1), strict=True)}
    for true, answer in wrong.items():
        if (targets == true).sum() == 1:
            assert found.classes[true].mistaken_for == (None if true == answer else str(answer))
