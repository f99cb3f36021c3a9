"""Fixtures of the tests of the command line: a model with its checkpoint and config.json, and images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitvit
from tests.support import golden_data
from tests.support.bench_reports import quick, report
from tests.support.hub import hub

__all__ = ["hub", "quick", "report"]

CASE = "micro96_somefp"


@pytest.fixture(scope="session")
def warm(packed: Callable[[str], Path]) -> Path:
    """The model, whose kernels are in the cache: commands in processes of their own do not say that they compile."""
    bitvit.load(packed(CASE))
    return packed(CASE)


@pytest.fixture
def model(warm: Path) -> Path:
    return warm


@pytest.fixture
def checkpoint(model: Path) -> Path:
    return model.with_suffix(".checkpoint.safetensors")


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(dict(golden_data.load_case(CASE).config)))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images, and one in a folder below."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.webp", "below/d.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 130, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").touch()
    return folder
