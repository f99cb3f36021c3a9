"""EXIF's orientation: all eight in every format that has it, as Pillow's own exif_transpose turns them."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from bitvit.images import open_image
from bitvit.orientation import orientation, upright

ORIENTATION = 0x0112  # the tag
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(form: str, value: object = None, **options: Any) -> bytes:
    """IMAGE in a file of this format; value: of the tag."""
    file = io.BytesIO()
    if value is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = value
        options["exif"] = exif
    IMAGE.save(file, form, **options)
    return file.getvalue()


def turned_by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_it_is_ignored_and_known_or_obeyed(form: str, value: int) -> None:
    data = encoded(form, value, **({"lossless": True} if form == "WEBP" else {}))
    ignored, obeyed = open_image(data), open_image(data, exif=True)
    assert ignored.size == IMAGE.size
    assert orientation(ignored) == value
    assert same(obeyed, turned_by_pillow(data))
    assert orientation(obeyed) == 1
    assert same(ignored, obeyed) is (value == 1)


@pytest.mark.parametrize("value", range(1, 9))
def test_pillow_turns_a_tiff_itself(value: int) -> None:
    """And so the training code sees it upright too."""
    data = encoded("TIFF", value)
    for exif in (False, True):
        opened = open_image(data, exif=exif)
        assert same(opened, turned_by_pillow(data))
        assert orientation(opened) == 1
    assert (opened.size == IMAGE.size) is (value < 5)


@pytest.mark.parametrize("value", range(1, 9))
def test_images_that_the_caller_has_opened(value: int) -> None:
    data = encoded("PNG", value)
    with Image.open(io.BytesIO(data)) as image:
        assert same(open_image(image, exif=True), turned_by_pillow(data))
        assert orientation(open_image(image)) == value
        assert image.getexif()[ORIENTATION] == value  # the caller's is left as it is
    assert orientation(open_image(turned_by_pillow(data))) == 1


def test_modes_that_are_converted_keep_it() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for mode in ("L", "P", "RGBA"):
        file = io.BytesIO()
        IMAGE.convert(mode).save(file, "PNG", exif=exif)
        assert open_image(file.getvalue(), exif=True).size == (16, 24)


def test_it_may_stand_in_xmp() -> None:
    data = encoded("JPEG", xmp=XMP)
    assert orientation(open_image(data)) == 6
    assert same(open_image(data, exif=True), turned_by_pillow(data))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\0\0\0\0\0\0\0",
        b"nonsense",
        b"\xff" * 500,
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own, of tags that it skips
def test_broken_exif_fails_no_image(exif: bytes, form: str) -> None:
    data = encoded(form, exif=exif)
    for obeyed in (False, True):
        opened = open_image(data, exif=obeyed)
        assert opened.size == IMAGE.size
        assert orientation(opened) == 1


@pytest.mark.parametrize("value", [0, 9, 600])
def test_values_that_mean_nothing_turn_nothing(value: int) -> None:
    opened = open_image(encoded("PNG", value), exif=True)
    assert orientation(opened) == 1
    assert same(opened, IMAGE)


def test_an_image_without_it_is_left_as_it_is() -> None:
    assert upright(IMAGE) is IMAGE
