"""Drawings, as far as a test can look at them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvit.evaluation.drawings import draw_calibration, draw_confusion
from bitvit.evaluation.metrics import CalibrationBin

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'bitvit[evaluate]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")


@pytest.mark.parametrize("count", [2, 30, 120])
def test_a_confusion_matrix_of_any_size(count: int, tmp_path: Path) -> None:
    """With names that would be formulas, and rows without images."""
    names = [f"${number}_{{" for number in range(count)]
    confusion = np.diag(np.arange(count))
    draw_confusion(tmp_path / "confusion.png", confusion, names, "title")
    with Image.open(tmp_path / "confusion.png") as drawn:
        assert 400 < drawn.width < 1600
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 10


def test_a_calibration_diagram_of_few_answers(tmp_path: Path) -> None:
    bins = [CalibrationBin(images=1, confidence=0.3, accuracy=1.0), CalibrationBin(10_000, 0.99, 0.5)]
    draw_calibration(tmp_path / "calibration.png", bins, "title")
    with Image.open(tmp_path / "calibration.png") as drawn:
        assert min(drawn.size) > 300
