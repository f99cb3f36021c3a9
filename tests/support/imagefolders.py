"""Folders of small images that a network can tell apart."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["draw_folder"]


def draw_folder(folder: Path, count: int = 12, classes: tuple[str, ...] = ("above", "below"), seed: int = 0) -> Path:
    """So many images of each class, 40 x 36 pixels of noise: bright above, below, left, right."""
    halves: tuple[Any, ...] = (np.s_[:18], np.s_[18:], np.s_[:, :20], np.s_[:, 20:])
    rng = np.random.default_rng(seed)
    for name, half in zip(classes, halves, strict=False):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (36, 40, 3), dtype=np.uint8)
            pixels[half] += 100
            Image.fromarray(pixels).save(place / f"{number:02}.png")
    return folder
