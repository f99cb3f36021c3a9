"""Drawings, as far as a test can look at them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitvit.evaluation.confusion import Confusion
from bitvit.evaluation.drawings import MOST_DRAWN, draw_calibration, draw_confusion, draw_matrix
from bitvit.evaluation.metrics import CalibrationBin, ClassScores
from bitvit.extras import figure

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")


def scores(names: list[str]) -> list[ClassScores]:
    return [ClassScores(name, number, 1, None, None, None, None, None) for number, name in enumerate(names)]


def drawn_confusion(matrix: NDArray[np.int64], names: list[str], path: Path) -> Image.Image:
    true, answer = np.nonzero(matrix)
    confusion = Confusion(len(matrix), true, answer, matrix[true, answer])
    draw_confusion(path, confusion, scores(names), "title")
    with Image.open(path) as drawn:
        return drawn.convert("RGB")


@pytest.mark.parametrize("count", [2, 30, 120, MOST_DRAWN + 1])
def test_a_confusion_matrix_of_any_size(count: int, tmp_path: Path) -> None:
    """With names that would be formulas, or that no font has, and rows without images."""
    names = [f"${number}_{{" for number in range(count - 1)] + ["\u732b\udcff"]
    matrix = np.diag(np.arange(count))
    matrix[1, 0] = 1
    drawn = drawn_confusion(matrix, names, tmp_path / "confusion.png")
    assert 200 < drawn.height < 1600
    assert 400 < drawn.width < 1700
    assert len(drawn.getcolors(1 << 24) or ()) > 10


def test_a_single_mistake_among_thousands_is_seen(tmp_path: Path) -> None:
    count = 10
    matrix = np.diag(np.full(count, 10_000))
    names = [str(number) for number in range(count)]
    without = np.asarray(drawn_confusion(matrix, names, tmp_path / "without.png")).astype(int)
    matrix[2, 5], matrix[7, 1] = 1, 3_000
    drawn = np.asarray(drawn_confusion(matrix, names, tmp_path / "with.png")).astype(int)

    def orange(image: NDArray[np.int_]) -> NDArray[np.bool_]:
        return (image[..., 0] - image[..., 2] > 60) & (image[..., 0] > image[..., 1])

    left = slice(0, round(0.7 * drawn.shape[1]))  # without the scales of colours
    cells = orange(drawn[:, left]).sum() - orange(without[:, left]).sum()
    assert cells > 2 * 800  # pixels of a cell


@pytest.mark.parametrize("names", [["cat", "dog"], ["some rather long class name", "another rather long one"]])
def test_what_a_scale_of_colours_means_is_no_longer_than_the_scale(names: list[str], tmp_path: Path) -> None:
    drawing = figure(6.5, 4.5)
    axes = drawing.subplots()
    draw_matrix(drawing, axes, Confusion.of(np.array([0, 0, 1]), np.array([0, 1, 1]), 2), scores(names))
    drawing.savefig(tmp_path / "drawn.png")
    scales = [other for other in drawing.axes if other is not axes]
    assert [scale.get_ylabel() for scale in scales] == ["share recognised", "share mistaken"]
    for scale in scales:
        assert scale.yaxis.label.get_window_extent().height < scale.get_window_extent().height


def test_without_mistakes_that_is_said(tmp_path: Path) -> None:
    count = MOST_DRAWN + 50
    drawn = drawn_confusion(np.eye(count, dtype=np.int64), ["x"] * count, tmp_path / "confusion.png")
    assert len(drawn.getcolors(1 << 24) or ()) > 10


def test_a_calibration_diagram_of_few_answers(tmp_path: Path) -> None:
    bins = [CalibrationBin(images=1, confidence=0.3, accuracy=1.0), CalibrationBin(10_000, 0.99, 0.5)]
    draw_calibration(tmp_path / "calibration.png", bins, "title")
    with Image.open(tmp_path / "calibration.png") as drawn:
        assert min(drawn.size) > 300
