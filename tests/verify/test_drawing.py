"""The drawing of where engine and reference differ."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvit.errors import BitvitError
from bitvit.verify import drawing
from bitvit.verify.verifying import VerifyReport, VerifyRow

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")


def row(name: str, *, side: int | None, wrong: int = 0, undecided: int = 0) -> VerifyRow:
    errors = None if side is None else np.full((side, side), 1e-6, np.float32)
    return VerifyRow(name, 1e-6, 1e-7, 3, 1000, undecided, wrong, 9, errors)


ROWS = [
    row("stem", side=24),
    *(row(f"stages.0.blocks.{i}", side=12) for i in range(drawing.MAPS_A_ROW)),
    row("stages.1.blocks.0", side=6, wrong=1),
    row("stages.1.blocks.1", side=6, undecided=2),
    row("head", side=None),
]


def test_every_map_is_drawn_under_its_name() -> None:
    drawn = drawing.draw(ROWS, "title", 2e-5)
    _, lower = drawn.subfigs
    titles = {axis.get_title(): axis.title.get_color() for axis in lower.axes if axis.get_title()}
    assert list(titles) == [f"{r.name}\n3 of 1,000 signs differ" for r in ROWS if r.errors is not None]
    assert [name.split("\n")[0] for name, colour in titles.items() if colour == "red"] == ["stages.1.blocks.0"]


def test_wrong_and_undecided_parts_are_marked() -> None:
    upper, _ = drawing.draw(ROWS, "title", 2e-5).subfigs
    names = [text.get_text() for text in upper.axes[0].get_legend().get_texts()]
    assert {"a sign decided by float32 rounding", "wrong", "limit of the largest error"} < set(names)
    calm, _ = drawing.draw([row("stem", side=24)], "title", 2e-5).subfigs
    assert "wrong" not in [text.get_text() for text in calm.axes[0].get_legend().get_texts()]


def test_colours_tell_what_is_within_the_limit() -> None:
    """A map where all is well is blue throughout, and what is beyond the limit stands out in orange."""
    limit = 2e-5
    errors = np.array([[0, 1e-9, 1e-7], [1e-6, 1.9e-5, 2.1e-5], [1e-3, 0.5, 30]], np.float32)
    maps = [VerifyRow("stem", 30.0, 1e-7, 0, 9, 0, 3, 9, errors)]
    _, lower = drawing.draw(maps, "title", limit).subfigs
    (image,) = lower.axes[0].get_images()
    red, green, blue, _ = np.moveaxis(image.cmap(image.norm(image.get_array())), -1, 0)
    assert np.array_equal(blue > red, errors <= limit)
    assert np.array_equal(red > blue, errors > limit)
    assert (red + green + blue)[errors <= limit].min() > 1.5  # none of them dark
    words = [text.get_text() for axis in lower.axes for text in axis.texts]
    assert words == ["as it should be", "beyond the limit"]


def test_a_report_is_drawn_as_a_png(tmp_path: Path) -> None:
    report = VerifyReport(ROWS, inputs=2, apart=0, top1_agreement=1.0, max_relative_logit_error=1e-6)
    report.draw(tmp_path / "verify.png")
    with Image.open(tmp_path / "verify.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 1000
    with pytest.raises(BitvitError, match="cannot be written"):
        report.draw(tmp_path / "no" / "verify.png")
