"""Fixtures: images in a folder for each class, and packed models to answer them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvit.modelfile import load_model_file, save_model_file
from tests.support.colours import IMAGES, LABELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """IMAGES as a folder for each class."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """40 images of class 0 to 3, for a packed model of 96 x 96 pixels."""
    rng = np.random.default_rng(0)
    for number in range(40):
        place = tmp_path / "noise" / str(number % 4)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (100, 110, 3), np.uint8)).save(place / f"{number:02}.png")
    return tmp_path / "noise"


@pytest.fixture
def model(packed: Callable[[str], Path]) -> Path:
    return packed("micro96_somefp")


@pytest.fixture
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another normalisation."""
    file, path = load_model_file(model), tmp_path_factory.mktemp("other") / "other.safetensors"
    preprocessing = dataclasses.replace(file.preprocessing, mean=(0.5, 0.5, 0.5))
    sha256 = file.source_sha256
    save_model_file(
        path, file.tensors, config=file.config, preprocessing=preprocessing, labels=None, source_sha256=sha256
    )
    return path
