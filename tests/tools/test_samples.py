"""The sample images: drawn by tools/draw_samples.py, and recognised by the demonstration model."""

from pathlib import Path

import numpy as np
from PIL import Image, __version__

import bitvit
from tests.support.paths import ROOT
from tools import draw_samples

PILLOW = tuple(int(number) for number in __version__.split(".")[:2])
SAMPLES = ROOT / "weights" / "samples"
MODEL = ROOT / "weights" / "bhvit-fashion.safetensors"
CLASSES = {
    "t-shirt": 0,
    "trouser": 1,
    "pullover": 2,
    "dress": 3,
    "sandal": 5,
    "sneaker": 7,
    "bag": 8,
    "ankle-boot": 9,
}


def test_drawings_are_those_of_the_tool(tmp_path: Path) -> None:
    draw_samples.write_samples(tmp_path)
    assert sorted(path.name for path in SAMPLES.iterdir()) == sorted(f"{name}.png" for name in CLASSES)
    for path in tmp_path.iterdir():
        with Image.open(path) as drawn, Image.open(SAMPLES / path.name) as stored:
            assert (drawn.mode, drawn.size) == ("L", (28, 28))
            difference = np.abs(np.asarray(drawn, int) - np.asarray(stored, int)).max()
            assert difference == 0 or (difference == 1 and PILLOW < (11, 3)), "an older Pillow rounds otherwise"


def test_the_fashion_model_recognises_the_samples() -> None:
    classify = bitvit.Classifier(MODEL)
    best = {name: classify(SAMPLES / f"{name}.png", top_k=1)[0]["index"] for name in CLASSES}
    assert best == CLASSES
