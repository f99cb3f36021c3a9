"""Preprocessing: bit for bit what the training code does (SPEC section 6), and an error by name for what it cannot."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from bitvit.errors import ConfigError, ImageError
from bitvit.images import open_image
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.support import golden_data

GOLDEN = golden_data.find("preprocess")
SAMPLES = {"landscape": 96, "portrait": 224, "odd": 224}  # name: input size


@pytest.fixture(scope="module")
def sample() -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = load_file(GOLDEN / "sample.safetensors")
    return arrays


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# ------------------------------------------------------------------------------------------------ the golden samples


@pytest.mark.parametrize("name", SAMPLES)
def test_decodes_as_the_training_code(name: str, sample: dict[str, NDArray[Any]]) -> None:
    assert np.array_equal(np.asarray(open_image(GOLDEN / f"{name}.png")), sample[f"{name}.source"])


@pytest.mark.parametrize(("name", "size"), SAMPLES.items())
def test_resizes_and_crops_as_the_training_code(name: str, size: int, sample: dict[str, NDArray[Any]]) -> None:
    prepare = Preprocessing.for_image_size(size)
    resized = prepare.resized(Image.fromarray(sample[f"{name}.source"]))
    if f"{name}.resized" in sample:
        assert np.array_equal(np.asarray(resized), sample[f"{name}.resized"])
    assert np.array_equal(np.asarray(prepare.centre_crop(resized)), sample[f"{name}.crop"])


def test_pixels_are_those_of_the_training_code(sample: dict[str, NDArray[Any]]) -> None:
    pixels = Preprocessing.for_image_size(96)(open_image(GOLDEN / "landscape.png"))
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, sample["landscape.input"])


# --------------------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (96, 109), (160, 182), (256, 292), (33, 37), (32, None)])
def test_resize_follows_from_the_image_size(size: int, resize: int | None) -> None:
    prepare = Preprocessing.for_image_size(size)
    assert (prepare.resize, prepare.crop, prepare.pad) == (resize, size, 0)
    assert (prepare.mean, prepare.std) == (IMAGENET_MEAN, IMAGENET_STD)


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_shorter_edge_is_exact_and_longer_edge_truncated(width: int, height: int) -> None:
    short, long = sorted(Preprocessing.for_image_size(96).resized(Image.new("RGB", (width, height))).size)
    assert short == 109
    assert long == int(109 * max(width, height) / min(width, height))


@pytest.mark.parametrize(("width", "left"), [(341, 58), (257, 16), (259, 18)])  # 58.5, 16.5 and 17.5, to even
def test_half_a_pixel_is_rounded_to_even(width: int, left: int) -> None:
    columns = np.broadcast_to((np.arange(width) % 256).astype(np.uint8)[None, :, None], (224, width, 3))
    cropped = Preprocessing.for_image_size(224).centre_crop(Image.fromarray(np.ascontiguousarray(columns)))
    assert np.asarray(cropped)[0, 0, 0] == left


def test_normalisation_is_float32_in_the_order_of_the_training_code() -> None:
    values = np.arange(256, dtype=np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(values.reshape(16, 16, 1), (16, 16, 3)))
    pixels = Preprocessing.for_image_size(16)(Image.fromarray(image))
    for channel in range(3):
        mean, std = np.float32(IMAGENET_MEAN[channel]), np.float32(IMAGENET_STD[channel])
        expected = [(np.float32(value) / np.float32(255) - mean) / std for value in values]
        assert np.array_equal(pixels[channel].ravel(), np.array(expected, np.float32))


def test_the_table_has_what_becomes_of_each_byte() -> None:
    prepare = Preprocessing.for_image_size(16)
    table = prepare.table()
    for byte in (0, 1, 100, 255):
        pixels = prepare(Image.new("RGB", (16, 16), (byte, byte, byte)))
        assert np.array_equal(table[:, byte], pixels[:, 3, 5])
    assert table.shape == (3, 256)
    assert table.dtype == np.float32
    assert table.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (73, 64), (31, 90), (90, 900), (2000, 70)])
def test_the_crop_has_the_bytes_of_the_image(size: tuple[int, int]) -> None:
    prepare = Preprocessing.for_image_size(56)
    image = Image.fromarray(noise(*size))
    cropped = prepare.cropped(image)
    assert cropped.shape == (56, 56, 3)
    assert cropped.dtype == np.uint8
    assert np.array_equal(cropped, np.asarray(prepare.centre_crop(prepare.resized(image))))
    assert np.array_equal(prepare(image), prepare.planes(cropped))


@pytest.mark.parametrize("size", [(56, 56), (64, 90), (200, 64), (64, 2000)])
def test_a_crop_stays_when_the_image_changes(size: tuple[int, int]) -> None:
    """As one does whose owner draws on it or goes to its next frame, before the network has seen the crop."""
    prepare = Preprocessing.for_image_size(56)
    image = Image.fromarray(noise(*size))
    cropped = prepare.cropped(image)
    expected = cropped.copy()
    image.paste((1, 2, 3), (0, 0, *image.size))
    assert np.array_equal(cropped, expected)


def test_padding_is_black_before_normalisation() -> None:
    prepare = Preprocessing.for_image_size(32, mean=(0.25, 0.5, 0.75), std=(0.5, 0.5, 0.25), pad=2)
    assert (prepare.resize, prepare.crop) == (28, 28)
    pixels = prepare(Image.new("RGB", (28, 28), (255, 255, 255)))
    assert pixels.shape == (3, 32, 32)
    assert np.array_equal(pixels[:, 0, 0], np.array([-0.5, -1, -3], np.float32))
    assert np.array_equal(pixels[:, 2, 29], np.array([1.5, 1, 1], np.float32))
    assert np.array_equal(pixels[:, 1, 16], pixels[:, 30, 2])


def test_with_padding_any_image_fits() -> None:
    assert Preprocessing.for_image_size(32, pad=2)(Image.new("RGB", (640, 480))).shape == (3, 32, 32)


def test_a_model_of_small_images_takes_them_as_they_are() -> None:
    image = noise(32, 32)
    prepare = Preprocessing.for_image_size(32, mean=(0, 0, 0), std=(1, 1, 1))
    assert np.array_equal(prepare(Image.fromarray(image)), (image / np.float32(255)).transpose(2, 0, 1))


def test_another_size_is_refused_where_nothing_is_resized() -> None:
    with pytest.raises(ImageError, match=r"28 x 30 pixels, expected exactly 32 x 32.*convert .* again with --resize"):
        Preprocessing.for_image_size(32)(Image.new("RGB", (28, 30)))


def test_a_very_long_image_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ImageError, match=r"1 x 60000 pixels is too long and thin.* crop it"):
        Preprocessing.for_image_size(224)(Image.new("RGB", (1, 60000)))


def test_only_rgb_is_prepared() -> None:
    with pytest.raises(ImageError, match=r"mode L, expected RGB; use bitvit.images.open_image"):
        Preprocessing.for_image_size(32)(Image.new("L", (32, 32)))


# ------------------------------------------------------------------------------------------------ storing, and values


@pytest.mark.parametrize("prepare", [Preprocessing.for_image_size(224), Preprocessing.for_image_size(32, pad=2)])
def test_survives_json(prepare: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(prepare.to_dict()))) == prepare


GOOD: dict[str, object] = Preprocessing.for_image_size(96).to_dict()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 96.0, "image_size is 96.0, expected an integer from 1 to 65536"),
        ("image_size", True, "image_size is True, expected an integer"),
        ("image_size", "96", "image_size is '96', expected an integer"),
        ("image_size", 0, "image_size is 0, expected an integer from 1"),
        ("pad", -1, "pad is -1, expected an integer from 0 to 47"),
        ("pad", 1, "crop is 96, expected 94"),
        ("crop", 95, "crop is 95, expected 96"),
        ("resize", 95, "resize is 95, expected an integer from 96 to 65536"),
        ("resize", "auto", "resize is 'auto', expected an integer"),
        ("mean", [0.5, 0.5], r"mean is \(0.5, 0.5\), expected three numbers for R, G, B"),
        ("mean", "0.5", "mean is '0.5', expected three numbers"),
        ("mean", [0.5, 0.5, None], "mean is .*, expected three numbers"),
        ("mean", [0.5, 0.5, float("nan")], "mean is .*, expected three numbers"),
        ("std", [0.5, 0.5, float("inf")], "std is .*, expected three numbers"),
        ("std", [0.5, 0.5, 10**400], "std is .*, expected three numbers"),
        ("std", [0.5, 0.5, 0.0], "std is .*, expected numbers of at least 1e-06: pixels are divided by it"),
        ("std", [0.5, 0.5, -0.5], "std is .*, expected numbers of at least 1e-06"),
        ("std", [0.5, 0.5, 1e-9], "std is .*, expected numbers of at least 1e-06"),
    ],
)
def test_wrong_values_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^preprocessing: {message}"):
        Preprocessing.from_dict({**GOOD, field: value})


@pytest.mark.parametrize("fields", [{}, {**GOOD, "crop_pct": 0.875}, {k: v for k, v in GOOD.items() if k != "pad"}])
def test_wrong_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"preprocessing has the fields \[.*\], expected exactly \['image_size', "):
        Preprocessing.from_dict(fields)


def test_wrong_word_for_resize() -> None:
    with pytest.raises(ConfigError, match="resize is 'big', expected an integer, None or 'auto'"):
        Preprocessing.for_image_size(96, resize="big")


def test_padding_that_leaves_no_image() -> None:
    with pytest.raises(ConfigError, match="pad is 16, expected an integer from 0 to 15"):
        Preprocessing.for_image_size(32, pad=16)
