"""bench.plot: a profile as an image."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from bitvit.bench import BenchReport, plot
from bitvit.errors import BenchError


def test_a_plot_is_a_png(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.plot(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
    with pytest.raises(BenchError, match="no profile to draw"):
        plot.plot(dataclasses.replace(report, profile=None), tmp_path / "none.png")
