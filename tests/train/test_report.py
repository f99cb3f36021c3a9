"""The log of a training run, and its curves."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs PyTorch, as tools/train does")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")

from bitvit.extras import figure
from bitvit.train import report

LOG = [
    {"epoch": 1, "task": 2.3, "learning_rate": 1e-3, "flips": 0.1},
    {"epoch": 2, "task": 1.3, "learning_rate": 1e-4, "flips": 0.05, "top1": 50.0},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn from now on."""
    figures: list[Any] = []

    def kept(width: float, height: float) -> Any:
        figures.append(figure(width, height))
        return figures[-1]

    monkeypatch.setattr("bitvit.train.report.figure", kept)
    return figures


def test_curves_say_what_they_are(drawn: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "my-run"
    folder.mkdir()
    assert report.write_curves(folder / "curves.png", [*LOG, {"epoch": 3, "task": 1.0, "distillation": 0.5}])
    assert drawn[0].get_suptitle() == "my-run"
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        "losses",
        "accuracy on the test images",
        "binary weights that change sign",
        "learning rate",
    ]
    assert [axes.get_ylabel() for axes in panels] == ["loss", "top-1, %", "share of the weights", "step size"]
    assert {axes.get_xlabel() for axes in panels} == {"epoch"}
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in panels]
    assert legends == [["cross-entropy", "distillation"], ["top-1"], ["flips"], ["learning rate"]]
    assert panels[1].get_lines()[0].get_xydata().tolist() == [[2, 50]]
    with Image.open(folder / "curves.png") as image:
        assert image.width >= 1000


def test_what_was_not_measured_is_said(drawn: list[Any], tmp_path: Path) -> None:
    report.write_curves(tmp_path / "curves.png", LOG[:1])
    empty = [axes for axes in drawn[0].axes if not axes.get_lines()]
    assert [[text.get_text() for text in axes.texts] for axes in empty] == [["not measured"]]
