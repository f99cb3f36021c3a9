"""Images of every kind that the formats allow: prepared as the training code does it, or refused by name.

The training code's loader is `Image.open(path).convert("RGB")`; its transform is written out below once more.
"""

import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

import bitvit
from bitvit.errors import ImageError
from bitvit.images import FORMATS, MAX_PIXELS, open_image
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.support.paths import ROOT

SIZE = 96
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 60, 3), np.uint8)
IMAGE = Image.fromarray(NOISE)


def trained_on(data: bytes) -> NDArray[np.float32]:
    """A file as the training code's evaluation transform prepares it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transparency of palettes
        image = Image.open(io.BytesIO(data)).convert("RGB")
    short = int(256 / 224 * SIZE)
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
    values = np.asarray(image.crop((left, top, left + SIZE, top + SIZE))).astype(np.float32) / np.float32(255)
    pixels = (values - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def is_readable(data: bytes) -> bool:
    """By Pillow alone: 12.3 cannot read the YCbCr TIFF that it writes."""
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"", *more: bytes) -> bytes:
    """A PNG by hand; `rows` are not compressed yet."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_png(channels: int) -> bytes:
    """16 bits a channel."""
    values = RNG.integers(0, 65536, (40, 60 * channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return png(60, 40, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


def rotated(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    return encoded(IMAGE, form, exif=exif)


def animated(form: str, **options: Any) -> bytes:
    return encoded(IMAGE, form, save_all=True, append_images=[IMAGE.rotate(180)], **options)


def _alpha() -> Image.Image:
    with_alpha = IMAGE.convert("RGBA")
    with_alpha.putalpha(Image.fromarray(RNG.integers(0, 256, (40, 60), np.uint8)))
    return with_alpha


PALETTE = IMAGE.quantize(16)
USUAL: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(IMAGE, "JPEG"),
    "progressive JPEG": lambda: encoded(IMAGE, "JPEG", progressive=True, subsampling=0),
    "grey JPEG": lambda: encoded(IMAGE.convert("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(IMAGE.convert("CMYK"), "JPEG"),
    "CMYK TIFF": lambda: encoded(IMAGE.convert("CMYK"), "TIFF"),
    "YCbCr TIFF": lambda: encoded(IMAGE.convert("YCbCr"), "TIFF"),
    "TIFF by JPEG": lambda: encoded(IMAGE, "TIFF", compression="jpeg"),
    "TIFF by LZW": lambda: encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "fax TIFF": lambda: encoded(IMAGE.convert("1"), "TIFF", compression="group4"),
    "palette PNG": lambda: encoded(PALETTE, "PNG"),
    "palette PNG of 2 bits": lambda: encoded(IMAGE.quantize(4), "PNG", bits=2),
    "palette PNG with alpha": lambda: encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
    "palette PNG with a clear colour": lambda: encoded(PALETTE, "PNG", transparency=3),
    "palette GIF": lambda: encoded(PALETTE, "GIF"),
    "palette BMP": lambda: encoded(PALETTE, "BMP"),
    "1-bit PNG": lambda: encoded(IMAGE.convert("1"), "PNG"),
    "1-bit PPM": lambda: encoded(IMAGE.convert("1"), "PPM"),
    "grey PNG": lambda: encoded(IMAGE.convert("L"), "PNG"),
    "grey and alpha PNG": lambda: encoded(_alpha().convert("LA"), "PNG"),
    "grey PNG with a clear shade": lambda: encoded(IMAGE.convert("L"), "PNG", transparency=7),
    "RGB PNG with a clear colour": lambda: encoded(IMAGE, "PNG", transparency=(1, 2, 3)),
    "alpha PNG": lambda: encoded(_alpha(), "PNG"),
    "alpha WEBP": lambda: encoded(_alpha(), "WEBP", lossless=True),
    "alpha TIFF": lambda: encoded(_alpha(), "TIFF"),
    "16-bit RGB PNG": lambda: deep_png(3),
    "16-bit RGB and alpha PNG": lambda: deep_png(4),
    "16-bit grey and alpha PNG": lambda: deep_png(2),
    "rotated JPEG": lambda: rotated("JPEG"),
    "rotated PNG": lambda: rotated("PNG"),
    "rotated WEBP": lambda: rotated("WEBP"),
    "animated GIF": lambda: animated("GIF"),
    "animated PNG": lambda: animated("PNG"),
    "animated WEBP": lambda: animated("WEBP", lossless=True),
    "TIFF of two pages": lambda: animated("TIFF"),
    "JPEG of two": lambda: encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(180)]),
    "one pixel": lambda: encoded(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG"),
    "one column": lambda: encoded(IMAGE.resize((1, 700)), "PNG"),
    "one row": lambda: encoded(IMAGE.resize((700, 1)), "BMP"),
}


@pytest.mark.parametrize("name", USUAL)
def test_prepared_as_in_training(name: str) -> None:
    data = USUAL[name]()
    if not is_readable(data):
        with pytest.raises(ImageError):
            open_image(data)
        return
    prepared = Preprocessing.for_image_size(SIZE)(open_image(data))
    assert prepared.tobytes() == trained_on(data).tobytes()


def test_an_image_of_each_kind_is_classified(tiny: Path) -> None:
    """And the answer does not depend on whether the image comes as a file, as bytes or opened."""
    model = bitvit.load(tiny)
    classify = bitvit.Classifier(model)
    images = {name: data for name, make in USUAL.items() if is_readable(data := make())}
    resized = {name: encoded(open_image(data).resize((32, 32)), "PNG") for name, data in images.items()}
    assert len(resized) >= len(USUAL) - 1
    together = classify.logits(list(resized.values()))
    assert np.isfinite(together).all()
    for row, data in zip(together, resized.values(), strict=True):
        assert classify.logits(Image.open(io.BytesIO(data))).tobytes() == row.tobytes()


# ------------------------------------------------------------------------------------------------------ refused by name

TOO_DEEP = {
    "grey PNG": lambda: deep_png(1),
    "grey TIFF": lambda: encoded(Image.fromarray(NOISE[:, :, 0].astype(np.uint16)), "TIFF"),
    "32-bit TIFF": lambda: encoded(Image.fromarray(NOISE[:, :, 0].astype(np.int32)), "TIFF"),
    "float TIFF": lambda: encoded(Image.fromarray(NOISE[:, :, 0].astype(np.float32)), "TIFF"),
    "PGM": lambda: b"P5 2 2 65535\n" + bytes(8),
}


@pytest.mark.parametrize("name", TOO_DEEP)
def test_more_than_eight_bits_of_one_channel(name: str) -> None:
    """Converted to RGB they are all white: nothing that a network was trained on."""
    with pytest.raises(ImageError, match="more than 8 bits a channel; save it with 8 bits first"):
        open_image(TOO_DEEP[name]())


def bmp(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    size = struct.pack("<HH", width, height)
    frame = data.index(b"\x2c\0\0\0\0\x08\0\x08\0") + 5
    data[6:10] = data[frame : frame + 4] = size
    return bytes(data)


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "TIFF")
    for tag, value in ((256, width), (257, height)):
        small = struct.pack("<HHII", tag, 4, 1, 8)
        assert small in data
        data = data.replace(small, struct.pack("<HHII", tag, 4, 1, value))
    return data


def webp(width: int, height: int) -> bytes:
    """Width and height less 1 have 14 bits each."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


HEADERS: dict[str, Callable[[int, int], bytes]] = {
    "JPEG": jpeg,
    "PNG": lambda width, height: png(width, height, 8, 2),
    "BMP": bmp,
    "GIF": gif,
    "PPM": lambda width, height: f"P6 {width} {height} 255\n".encode() + bytes(10),
    "WEBP": webp,
    "TIFF": tiff,
}


@pytest.mark.parametrize("unlimited", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_bombs_are_refused_before_decoding(form: str, unlimited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that the header gives; also where Pillow has been told to let everything pass."""
    if unlimited:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    sizes = ((16000, 16000), (9460, 9460))
    bombs = [HEADERS[form](*size) for size in sizes]
    for kind in (ImageFile.ImageFile, Image.Image):
        monkeypatch.setattr(kind, "load", lambda _: pytest.fail("decoded"))
    for (width, height), data in zip(sizes, bombs, strict=True):
        assert width * height > MAX_PIXELS
        with pytest.raises(ImageError, match=f"more than {MAX_PIXELS} pixels; scale the image down"):
            open_image(data)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "PPM", "TIFF", "JPEG"])
def test_no_pixels(form: str) -> None:
    for width, height in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(ImageError, match=r"expected at least one|cannot be decoded|not an image that can be read"):
            open_image(HEADERS[form](width, height))


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_very_long_images(size: tuple[int, int], tiny: Path) -> None:
    data = encoded(Image.new("RGB", size), "PNG")
    with pytest.raises(ImageError, match=r"is too long and thin: resized to 109 pixels across .*; crop it"):
        Preprocessing.for_image_size(SIZE)(open_image(data))
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels, expected exactly 32 x 32"):
        bitvit.Classifier(tiny)(data)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated(form: str) -> None:
    """Wherever it ends, but for a byte or two that nobody reads."""
    data = encoded(IMAGE, form, **({"lossless": True} if form == "WEBP" else {}))
    for size in (1, 3, 10, 30, 100, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError) as caught:
            open_image(data[:size])
        assert str(caught.value).startswith(f"{size} byte{'s' * (size > 1)} of data: ")


@pytest.mark.parametrize("form", ["TGA", "ICO", "EPS", "PDF", "PCX", "SGI", "JPEG2000", "DDS", "ICNS"])
def test_formats_beside_the_list(form: str) -> None:
    """Pillow would read most of them, and start Ghostscript for one."""
    file = io.BytesIO()
    try:
        Image.new("RGB", (32, 32)).save(file, form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {form}")
    with pytest.raises(ImageError, match=r"not an image that can be read, .*expected one of JPEG, PNG"):
        open_image(file.getvalue())


def test_the_list_is_short() -> None:
    assert FORMATS == ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF")


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_bombs_beside_the_pixels(kind: bytes) -> None:
    """A colour profile or a text of 200 MB in a PNG of 200 KB: skipped or refused, and never unpacked."""
    packed = zlib.compress(bytes(200 << 20))
    between = {b"iCCP": b"\0\0", b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[kind]
    data = png(2, 2, 8, 2, b"\0" + bytes(6) + b"\0" + bytes(6), chunk(kind, b"a" + between + packed))
    script = (
        "import sys\n"
        "from tools.fuzz.guard import limit_memory; from bitvit.errors import ImageError\n"
        "from bitvit.images import open_image\n"
        "import PIL.PngImagePlugin\n"
        "limit_memory(150)\n"
        "try: print(open_image(sys.stdin.buffer.read()).size)\n"
        "except ImageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True, check=False,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(rb"\(2, 2\)|\d+ bytes of data: ", done.stdout), done.stdout


def test_decoding_takes_the_memory_of_one_image() -> None:
    """20 million pixels, 80 MB in Pillow: no second copy of them."""
    script = (
        "import io, sys\n"
        "from tools.fuzz.guard import limit_memory\n"
        "from bitvit.images import open_image\n"
        "import PIL.PngImagePlugin\n"
        "data = sys.stdin.buffer.read()\n"
        "limit_memory(130)\n"
        "print(open_image(data).size)\n"
    )
    data = encoded(Image.new("RGB", (5000, 4000), "red"), "PNG", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True, check=False,
        cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == b"(5000, 4000)\n", done.stderr
