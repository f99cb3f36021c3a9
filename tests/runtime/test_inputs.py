"""Bytes of images and planes of floats are the same to the network."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.model import Network
from bitvit.preprocess import Preprocessing
from bitvit.runtime import Runner
from bitvit.runtime.inputs import Inputs
from tests.support.engine import folded, random_state
from tests.support.paths import ROOT
from tests.support.runtime import load_with_team, tireless_team
from tests.support.shapes import ODD_SHAPES

Bytes = NDArray[np.uint8]
WEIGHTS = sorted((ROOT / "weights").glob("*.safetensors"))


def crops(side: int, count: int) -> list[Bytes]:
    """Images of noise, with a black and a white corner."""
    images = np.random.default_rng(side).integers(0, 256, (count, side, side, 3), np.uint8)
    images[:, :5, :5], images[:, -5:, -5:] = 0, 255
    return list(images)


def with_a_gap(image: Bytes) -> Bytes:
    """Four bytes a pixel, of which the network takes three."""
    wide = np.full((*image.shape[:2], 4), 77, np.uint8)
    wide[..., :3] = image
    return wide[..., :3]


def upside_down(image: Bytes) -> Bytes:
    return np.ascontiguousarray(image[::-1])[::-1]


def part(image: Bytes) -> Bytes:
    """Of a larger image."""
    large = np.full((len(image) + 9, len(image) + 4, 3), 99, np.uint8)
    large[2 : 2 + len(image), 1 : 1 + len(image)] = image
    return large[2 : 2 + len(image), 1 : 1 + len(image)]


@pytest.mark.parametrize("layout", [np.copy, with_a_gap, upside_down, part], ids=lambda it: it.__name__)
@pytest.mark.parametrize("name", [name for name, config in ODD_SHAPES.items() if not config.image_norm])
def test_networks_answer_bytes_with_the_same_bits(name: str, layout: Callable[[Bytes], Bytes]) -> None:
    """Of odd sizes too, and with black around the image."""
    config = ODD_SHAPES[name]
    runner = Runner(Network.read(config, folded(config, random_state(config, 1))).program(), 1)
    for pad in (0, 1, 6):
        preprocessing = Preprocessing.for_image_size(config.image_size, pad=pad)
        images = crops(preprocessing.crop, 2)
        planes = np.stack([preprocessing.planes(image) for image in images])
        found = runner.run(Inputs.of_bytes([layout(image) for image in images], pad, preprocessing.table()))
        assert np.array_equal(found, runner(planes)), pad


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_trained_models_do(path: Path) -> None:
    model = bitvit.load(path)
    same(model, crops(model.preprocessing.crop, 5))


@pytest.mark.parametrize("name", ["micro96_pth", "micro96_ln", "micro96_gsb", "micro96_binary", "micro160_odd"])
def test_models_of_the_golden_cases_do(name: str, packed: Callable[[str], Path]) -> None:
    """By a team of three: three images apart and two together."""
    model = load_with_team(packed(name), tireless_team(3))
    same(model, crops(model.preprocessing.crop, 5))


def same(model: Any, images: list[Bytes]) -> None:
    planes = np.stack([model.preprocessing.planes(image) for image in images])
    expected = model(planes)
    layouts: Iterator[Callable[[Bytes], Bytes]] = itertools.cycle([part, np.copy, upside_down, with_a_gap])
    for _ in range(2):
        assert np.array_equal(model.of_bytes(images), expected)
        assert np.array_equal(
            model.of_bytes([layout(image) for layout, image in zip(layouts, images, strict=False)]), expected
        )
        assert np.array_equal(model.of_bytes(images, alone=True), expected)
        assert np.array_equal(model.of_bytes(images[:1]), expected[:1])
        assert np.array_equal(model(planes), expected)


def test_a_network_that_normalises_images_itself_does(tiny: Path) -> None:
    model = bitvit.load(tiny, threads=1)
    config = replace(model.config, image_norm=True)
    state = random_state(config, 1)
    model.config, model.runner = config, Runner(Network.read(config, folded(config, state)).program(), 1)
    same(model, crops(model.preprocessing.crop, 3))
