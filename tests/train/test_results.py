"""The page of results."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("torch", "matplotlib"):
    pytest.importorskip(package, reason="needs PyTorch and matplotlib: pip install 'bitvit[train]'")

from bitvit.extras import figure  # noqa: E402
from bitvit.train import results  # noqa: E402
from bitvit.train.results import Page, draw_page, mistakes  # noqa: E402

LOG = [{"epoch": 1, "task": 2.0, "learning_rate": 1e-3}, {"epoch": 2, "task": 1.0, "learning_rate": 0, "top1": 50.0}]


def page(classes: int, count: int, right: bool) -> Page:
    rng = np.random.default_rng(0)
    targets = np.arange(count) % classes
    logits = rng.normal(0, 1, (count, classes)).astype(np.float32)
    if right:
        logits[np.arange(count), targets] += 20
    labels = [f"class ${number}" for number in range(classes - 1)] + ["猫"]
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Page("title", [("speed", "1 ms"), ("size", "2 MB")], LOG, labels, pixels, targets, logits)


def test_the_surest_mistakes_come_first() -> None:
    logits = np.array([[9, 0, 0], [0, 4, 0], [0, 0, 6], [3, 0, 0]], np.float32)
    found = mistakes(logits, np.array([0, 0, 1, 2]), 2)
    assert [(m.index, m.true, m.answer) for m in found] == [(2, 1, 2), (1, 0, 1)]
    assert found[0].score > found[1].score > 0.9
    assert mistakes(logits, logits.argmax(1)) == []


def test_a_probability_is_not_read_as_part_of_a_class_that_is_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def keep(width: float, height: float) -> Any:
        drawn.append(figure(width, height))
        return drawn[0]

    monkeypatch.setattr(results, "figure", keep)
    draw_page(tmp_path / "results.png", dataclasses.replace(page(3, 30, False), labels=["1", "7", "8"]))
    titles = [axes.get_title() for axes in drawn[0].axes if "\n" in axes.get_title()]
    assert titles
    assert [title for title in titles if not re.fullmatch(r"[178]\n[178] \(\d+ %\)", title)] == []


@pytest.mark.parametrize(("classes", "count", "right"), [(2, 30, True), (5, 80, False), (240, 300, False)])
def test_a_page_of_any_number_of_classes(classes: int, count: int, right: bool, tmp_path: Path) -> None:
    draw_page(tmp_path / "results.png", page(classes, count, right))
    with Image.open(tmp_path / "results.png") as drawn:
        assert drawn.width == 1100
        height = drawn.height
    assert (height > 1600) != right  # with the images of mistakes, or without
