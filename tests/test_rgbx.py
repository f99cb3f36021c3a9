"""The bytes of a Pillow image, lent or copied."""

import gc
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bitvit.rgbx import rgbx

LENDS = hasattr(Image.Image, "__arrow_c_array__")  # Pillow 11.2.1 or later


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8))


@given(st.integers(1, 90), st.integers(1, 90))
def test_they_are_the_bytes_of_the_image(height: int, width: int) -> None:
    image = noise(height, width)
    found = rgbx(image, own=True)
    assert found.shape == (height, width, 4)
    assert found.dtype == np.uint8
    assert np.array_equal(found[..., :3], np.asarray(image))
    assert not found.flags.writeable


@pytest.mark.skipif(not LENDS, reason="Pillow lends nothing before 11.2.1")
def test_they_are_lent() -> None:
    image = noise(40, 30)
    assert np.shares_memory(rgbx(image, own=True), rgbx(image, own=True))


def test_they_outlive_the_image() -> None:
    image = noise(300, 200)
    found, expected = rgbx(image, own=True)[7:, 5:, :3], np.asarray(image).copy()[7:, 5:]
    del image
    gc.collect()
    others = [Image.new("RGB", (200, 300), (number, 1, 2)) for number in range(20)]  # would take its place
    assert np.array_equal(found, expected)
    del others


def test_those_of_somebody_else_are_copied() -> None:
    image = noise(20, 30)
    found, expected = rgbx(image, own=False), np.asarray(image).copy()
    image.paste((1, 2, 3), (0, 0, 30, 20))
    assert np.array_equal(found[..., :3], expected)


def test_an_image_in_several_blocks_is_copied() -> None:
    image = noise(2100, 2048)  # 17.2 MB; a block has 16
    found = rgbx(image, own=True)
    assert np.array_equal(found[..., :3], np.asarray(image))
    assert not np.shares_memory(found, rgbx(image, own=True))


def test_an_image_with_padded_rows_is_copied() -> None:
    program = (
        "import numpy as np; from PIL import Image; from bitvit.rgbx import rgbx\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)\n"
        "print(np.array_equal(rgbx(Image.fromarray(pixels), own=True)[..., :3], pixels), Image.core.get_alignment())\n"
    )
    environment = {"PILLOW_ALIGNMENT": "64"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "True 64\n", done.stderr
