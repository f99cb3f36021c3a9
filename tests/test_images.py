"""Reading images: every kind of source, and an error that says what cannot be opened, and why."""

import base64
import contextlib
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from bitvit import images
from bitvit.errors import BitvitError, ImageError
from bitvit.images import FORMATS, open_image
from tests.support.paths import ROOT


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------ what can be opened


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = noise(5, 7)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), image):
        with open_image(source) as opened:
            assert opened.mode == "RGB"
            assert np.array_equal(np.asarray(opened), image)


def test_a_grey_array_gets_three_equal_channels() -> None:
    grey = noise(4, 6, 1)
    assert np.array_equal(np.asarray(open_image(grey)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("form", FORMATS)
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


def test_the_first_frame_of_an_animation_counts() -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    data = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


# --------------------------------------------------------------------------------------------- what cannot be opened


def test_missing_file() -> None:
    with pytest.raises(ImageError, match=r"nothing\.png: no such file; check the path"):
        open_image("nothing.png")


def test_url() -> None:
    with pytest.raises(
        ImageError, match=r"^https://example.org/cat.jpg: is a URL, expected a path; download the file first"
    ):
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

    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"image.png: cannot be read: Permission denied; check file and disk"):
        open_image(path)


@pytest.mark.parametrize("text", [encoded(Image.new("RGB", (40, 40)), "PNG"), bytes(1_000_000)], ids=["PNG", "any"])
def test_base64(text: bytes) -> None:
    """In place of a path, of bytes, and in a file; the message is short."""
    encoded_text = base64.b64encode(text).decode()
    with pytest.raises(ImageError, match=r"characters\): is base64, the text form of a file; give the bytes") as caught:
        open_image(encoded_text)
    assert len(str(caught.value)) < 300
    if text.startswith(b"\x89PNG"):
        with pytest.raises(ImageError, match=r"base64, the text form of a file; decode it with base64.b64decode first"):
            open_image(encoded_text.encode())


@pytest.mark.parametrize("name", ["", "x" * 300, "x./" * 5000])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ImageError, match="no such file; check the path") as caught:
        open_image(name)
    assert len(str(caught.value)) < 400


def test_names_as_bytes(tmp_path: Path) -> None:
    """As os.scandir gives them for a folder named in bytes."""
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with os.scandir(os.fsencode(tmp_path)) as entries:
        assert [open_image(entry).size for entry in entries] == [(3, 2)]  # type: ignore[arg-type]


def test_path_with_nul() -> None:
    with pytest.raises(ImageError, match=r"'a\\x00b': is not a path"):
        open_image("a\0b")


def test_empty() -> None:
    with pytest.raises(ImageError, match=r"^0 bytes of data: is empty; copy or download the image again"):
        open_image(b"")


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>", b"%PDF-1.7\n%"])
def test_not_an_image(data: bytes) -> None:
    found = re.escape(repr(data[:16]))
    with pytest.raises(ImageError, match=rf"not an image that can be read, it begins with {found}; expected .*JPEG"):
        open_image(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x18\x39\0\0\0\0\0\0" + b'{"__metadata__":{}}', "is a model or checkpoint (.safetensors)"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80", "is a training checkpoint (.pth)"),
    ],
)
def test_a_model(data: bytes, what: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert str(caught.value).endswith(f"of data: {what}, expected an image; name one model, then the images")


def test_a_pointer_of_git_lfs() -> None:
    """What a clone of a data set without Git LFS has."""
    with pytest.raises(ImageError, match="of data: is a Git LFS pointer, not the file itself; fetch it with git lfs"):
        open_image(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("brand", [b"heic", b"avif", b"mp42"])
def test_what_phones_call_jpg(brand: bytes) -> None:
    with pytest.raises(ImageError, match="is HEIC, AVIF or a film, whatever its name; save it as JPEG or PNG"):
        open_image(b"\0\0\0\x20ftyp" + brand + bytes(20))


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
    monkeypatch.setattr(images, "MAX_PIXELS", 15)
    assert open_image(noise(3, 5)).size == (5, 3)
    with pytest.raises(ImageError, match="more than 15 pixels; scale the image down"):
        open_image(encoded(Image.new("RGB", (4, 4)), "PNG"))


def test_decompression_bomb_is_refused_by_its_header() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (60000).to_bytes(4, "little") * 2  # width and height
    with pytest.raises(ImageError, match=f"more than {images.MAX_PIXELS} pixels; scale the image down"):
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
    with pytest.raises(ImageError, match="image: is of type int, expected a path, the bytes of a file"):
        open_image(3)  # type: ignore[arg-type]


@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error(form: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(noise(16, 16)), form))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(ImageError):
        assert open_image(bytes(data)).mode == "RGB"


# ------------------------------------------------------------------------------------ what is not the image's fault


def refuse_memory(*_args: object, **_options: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
def test_too_little_memory_is_not_called_damage(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(noise(50, 60)), form)
    monkeypatch.setattr("PIL.Image.core.new", refuse_memory)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(
            BitvitError, match=r"too little memory to decode an image of 3,000 pixels; the image is not at fault: "
        ) as e:
            open_image(source)
        assert not isinstance(e.value, ImageError)


def test_a_decoder_that_reports_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow words the code that its decoders give."""
    problem = OSError(f"{ImageFile.ERRORS[-9]} when reading image file")

    def fail(*_args: object) -> None:
        raise problem

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(BitvitError, match="too little memory to decode"):
        open_image(encoded(Image.new("RGB", (4, 4)), "PNG"))


SCARCE = """
import re, resource, sys
from pathlib import Path
from bitvit.errors import BitvitError
from bitvit.images import open_image
names = sys.argv[2:]
open_image(Path(names[0]).with_name("small.webp"))  # loads what is loaded once
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), resource.RLIM_INFINITY))
for name in names:
    try:
        print("opened", open_image(name).size)
    except BitvitError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_decoders_that_call_too_little_memory_damage(tmp_path: Path) -> None:
    """libjpeg says "broken data stream" of a progressive image, and libwebp "could not create decoder object"."""
    big = Image.fromarray(noise(30, 30)).resize((3000, 3000))
    big.save(tmp_path / "progressive.jpg", progressive=True)
    big.save(tmp_path / "big.webp", method=0)
    Image.new("RGB", (4, 4)).save(tmp_path / "small.webp")
    (tmp_path / "broken.jpg").write_bytes(encoded(Image.fromarray(noise(64, 64)), "JPEG")[:900])
    files = [tmp_path / name for name in ("progressive.jpg", "big.webp", "broken.jpg", "small.webp")]
    room = 40 << 20  # enough for the colours, 36 MB, but not for what the decoders keep besides
    command = [sys.executable, "-c", SCARCE, str(room), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    progressive, webp, broken, small = done.stdout.splitlines()
    assert progressive.startswith(
        f"BitvitError {files[0]}: too little memory to decode an image of 9,000,000 pixels; the image is"
    )
    assert webp.startswith(
        f"BitvitError {files[1]}: too little memory to decode an image of 9,000,000 pixels; the image is"
    )
    assert broken.startswith(f"ImageError {files[2]}: cannot be decoded")
    assert small == "opened (4, 4)"


@pytest.mark.parametrize("form", ["VP8", "VP8L", "VP8X"])
def test_what_room_a_webp_needs_is_told_by_its_header(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, lossless = ("RGBA" if form == "VP8X" else "RGB"), form == "VP8L"
    data = encoded(Image.new(mode, (300, 77), (1, 2, 3, 4)[: len(mode)]), "WEBP", lossless=lossless)
    assert data[12:16].strip() == form.encode()
    monkeypatch.setattr(Image, "open", refuse_memory)
    with pytest.raises(BitvitError, match="too little memory to decode an image of 23,100 pixels"):
        open_image(data)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_limits_of_the_system_are_not_called_damage(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    for places in (("os.open", "builtins.open"), ("PIL.Image.open",)):
        with monkeypatch.context() as patched:
            for place in places:
                patched.setattr(place, refuse)
            with pytest.raises(BitvitError, match=r"image.png: cannot be (opened|read): ") as caught:
                open_image(path)
        assert not isinstance(caught.value, ImageError)
        assert str(caught.value).endswith(f"{os.strerror(number)}; raise the limit of the process")
