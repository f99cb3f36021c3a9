"""Fixtures: an application with two models, an image, and what the models make of it."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import bitvit
from tests.support.paths import WEIGHTS

if TYPE_CHECKING:
    from bitvit.serve.application import Application

CIFAR = WEIGHTS / "bhvit-cifar10.safetensors"
NEEDED = (
    "starlette",
    "orjson",
    "prometheus_client",
    "python_multipart",
    "uvicorn",
    "httptools",
)  # pip install 'bitvit[dev]'
collect_ignore_glob = ["test_*.py"] if any(importlib.util.find_spec(name) is None for name in NEEDED) else []


@pytest.fixture(scope="session")
def classifier() -> bitvit.Classifier:
    return bitvit.Classifier(CIFAR, threads=1)


@pytest.fixture(scope="session")
def encoded() -> Callable[[int], bytes]:
    """encoded(number): one of many images of 32 x 32 pixels, as a file; BMP where it is odd."""

    def make(number: int) -> bytes:
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(file, "BMP" if number % 2 else "PNG")
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def app(classifier: bitvit.Classifier, tiny: Path) -> "Application":
    """With `cifar`, which answers where no model is named, and `tiny`, which may be loaded again."""
    from bitvit import serve

    return serve.app({"cifar": classifier, "tiny": tiny}, allow_load=True)


@pytest.fixture(scope="session")
def cifar_file() -> Path:
    return CIFAR
