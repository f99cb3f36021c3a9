"""Preprocessing: bit for bit what the training code does (SPEC section 6), and an error by name for what it cannot."""

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from bitvit import preprocess
from bitvit.errors import ConfigError, ImageError
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, list_images, open_image
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


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


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
    with pytest.raises(ImageError, match="mode L, expected RGB; use open_image"):
        Preprocessing.for_image_size(32)(Image.new("L", (32, 32)))


# ------------------------------------------------------------------------------------------------ what can be opened


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = noise(5, 7)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), image):
        with open_image(source) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), image)


def test_a_grey_array_gets_three_equal_channels() -> None:
    grey = noise(4, 6, 1)
    assert np.array_equal(np.asarray(open_image(grey)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("form", preprocess.FORMATS)
def test_every_format_is_read(form: str) -> None:
    image = np.full((16, 16, 3), 200, np.uint8)
    assert np.asarray(open_image(encoded(Image.fromarray(image), form))).mean() == pytest.approx(200, abs=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_common_mode_is_converted(mode: str) -> None:
    assert open_image(Image.new(mode, (3, 2))).mode == "RGB"


def test_alpha_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert np.asarray(open_image(encoded(image, "PNG")))[0, 0].tolist() == [10, 20, 30]


def test_transparency_of_a_palette_is_dropped_without_a_warning() -> None:
    image = Image.fromarray(noise(8, 8)).quantize(16)
    data = encoded(image, "PNG", transparency=bytes(range(16)))
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(image.convert("RGB")))


def test_a_palette_image_of_the_caller_is_left_as_it_is() -> None:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(noise(8, 8)).quantize(16), "PNG", transparency=b"\1\2")))
    open_image(image)
    assert "transparency" in image.info


def test_orientation_in_exif_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert open_image(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (30, 20)


def test_the_first_frame_of_an_animation_counts() -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    data = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


# --------------------------------------------------------------------------------------------- what cannot be opened


def test_missing_file() -> None:
    with pytest.raises(ImageError, match=r"nothing\.png: no such file; check the path"):
        open_image("nothing.png")


def test_url() -> None:
    with pytest.raises(ImageError, match=r"https://example.org/cat.jpg: no such file; download the image first"):
        open_image("https://example.org/cat.jpg")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, expected an image; name the files in it"):
        open_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="is not a regular file; save the image to a file first"):
        open_image(tmp_path / "pipe")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"x")

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"image.png: cannot be read: Permission denied; check file and disk"):
        open_image(path)


def test_path_with_nul() -> None:
    with pytest.raises(ImageError, match=r"'a\\x00b': is no path"):
        open_image("a\0b")


def test_empty() -> None:
    with pytest.raises(ImageError, match="image of 0 bytes: is empty; copy or download the image again"):
        open_image(b"")


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>", b"%PDF-1.7\n%", b"version https://git-lfs.github.com"])
def test_not_an_image(data: bytes) -> None:
    found = re.escape(repr(data[:16]))
    with pytest.raises(ImageError, match=rf"not an image that can be read, it begins with {found}; expected .*JPEG"):
        open_image(data)


def test_format_outside_the_list() -> None:
    with pytest.raises(ImageError, match="not an image that can be read"):
        open_image(encoded(Image.new("RGB", (4, 4)), "TGA"))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated(form: str) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), form)
    with pytest.raises(ImageError, match=r"cannot be decoded .*; copy or download the image again"):
        open_image(data[: len(data) // 2])


def test_truncated_image_that_the_caller_has_opened() -> None:
    data = encoded(Image.fromarray(noise(64, 64)), "PNG")
    with pytest.raises(ImageError, match="PIL image: cannot be decoded"):
        open_image(Image.open(io.BytesIO(data[:500])))


def test_no_pixels() -> None:
    with pytest.raises(ImageError, match="PIL image: 0 x 5 pixels, expected at least one"):
        open_image(Image.new("RGB", (0, 5)))


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 15)
    assert open_image(noise(3, 5)).size == (5, 3)
    with pytest.raises(ImageError, match="more than 15 pixels; scale the image down"):
        open_image(encoded(Image.new("RGB", (4, 4)), "PNG"))


def test_decompression_bomb_is_refused_by_its_header() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (60000).to_bytes(4, "little") * 2  # width and height
    with pytest.raises(ImageError, match=f"more than {preprocess.MAX_PIXELS} pixels; scale the image down"):
        open_image(bytes(data))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_eight_bits(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode}, more than 8 bits a channel; save it with 8 bits first"):
        open_image(Image.new(mode, (2, 2)))


def test_wrong_dtype() -> None:
    with pytest.raises(ImageError, match=r"array float32 \(2, 2, 3\), expected uint8 with values 0 to 255"):
        open_image(np.zeros((2, 2, 3), np.float32))


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 4), (1, 8, 8, 3), (8,)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=rf"{re.escape(str(shape))}, expected \[height, width, 3\], channels last"):
        open_image(np.zeros(shape, np.uint8))


def test_empty_array() -> None:
    with pytest.raises(ImageError, match=r"array uint8 \(0, 5, 3\), expected at least one pixel"):
        open_image(np.zeros((0, 5, 3), np.uint8))


def test_something_else() -> None:
    with pytest.raises(ImageError, match="image: a int, expected a path, the bytes of a file"):
        open_image(3)  # type: ignore[arg-type]


@given(st.sampled_from(preprocess.FORMATS), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error(form: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(noise(16, 16)), form))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(ImageError):
        assert open_image(bytes(data)).mode == "RGB"


# ----------------------------------------------------------------------------------------------------------- folders


def test_folder_lists_its_images_sorted(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", ".c.png", "deep/d.webp", "deep/er/e.tiff", ".hidden/f.png"):
        (tmp_path / name).touch()

    def names(recursive: bool) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, recursive=recursive)]

    assert names(False) == ["a.png", "b.JPG"]
    assert names(True) == ["a.png", "b.JPG", "deep/d.webp", "deep/er/e.tiff"]


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no images in this folder \(\.jpg .*\); with --recursive"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"no images in this folder \(\.jpg .*\)$"):
        list_images(tmp_path, recursive=True)


def test_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing: cannot be read: No such file or directory; check the folder"):
        list_images(tmp_path / "nothing")


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
        ("std", [0.5, 0.5, 0.0], "std is .*, expected numbers above 0: pixels are divided by them"),
        ("std", [0.5, 0.5, -0.5], "std is .*, expected numbers above 0"),
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
