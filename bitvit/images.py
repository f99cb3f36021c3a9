"""What reads images: any source of an image -> RGB, 8 bits a channel (SPEC section 6).

As in the training code the first frame of an animation is taken, an alpha channel is dropped rather than blended, and
the orientation that a camera notes in EXIF is ignored, unless `exif` asks for it.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from bitvit.errors import BitvitError, ImageError, has_room
from bitvit.files import EXHAUSTED, GIT_LFS, LFS_POINTER, open_file, read_small
from bitvit.nopaths import is_encoded
from bitvit.orientation import upright
from bitvit.sources import ImageSource, Plain, plain

__all__ = ["EXTENSIONS", "FORMATS", "MAX_PIXELS", "ImageSource", "open_image"]

# Only what cameras, browsers and data sets use: each further decoder is more code that reads untrusted bytes. Pillow
# tries them in this order; the last two are not among those it loads at once.
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
FORMATS = tuple(_EXTENSIONS)
EXTENSIONS = tuple(extension for group in _EXTENSIONS.values() for extension in group)
MAX_PIXELS = 89_478_485  # above it Pillow warns; decoded, 0.36 GB
SMALL = 1 << 20  # bytes of a file that is read as a whole: Pillow then reads from memory
BYTES_TO_DECODE = 12  # of memory for a pixel, at most: a progressive JPEG's coefficients and its colours


def open_image(source: ImageSource, *, exif: bool = False) -> Image.Image:
    """Decode an image to RGB, 8 bits a channel.

    source: a path; the bytes of a file in one of FORMATS, or an open file that has them; a PIL image; or a uint8 array,
    [H, W, 3] in the order R, G, B or [H, W] grey (bitvit.sources has all kinds). exif: turn the image upright as its
    EXIF data says.

    Raises ImageError if there is no such file, it is not such an image, is damaged, has no pixels or more than
    MAX_PIXELS (told from its header), or holds more than 8 bits a channel; plain BitvitError where memory is
    too short to decode it, which is no fault of the image.
    """
    image = _opened(*plain(source))
    return upright(image) if exif else image


def _opened(source: Plain, where: str) -> Image.Image:
    """where: its name in messages."""
    if isinstance(source, Image.Image):
        with _naming_faults(where) as decoding:
            decoding.pixels = source.width * source.height
            return _to_rgb(source, where)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), where)
    if (data := read_small(source, SMALL)) is not None:
        return _decode(io.BytesIO(data), where)
    with open_file(
        source,
        ImageError,
        folder="is a folder, expected an image; name the files in it",
        special="is not a regular file; save the image to a file first",
    ) as file:
        return _decode(file, where)


def _decode(file: BinaryIO, where: str) -> Image.Image:
    """Decode an open file; `where` is its name in messages."""
    try:
        with _naming_faults(where) as decoding:
            head = file.read(64)
            if not head:
                raise ImageError(f"{where}: is empty; copy or download the image again")
            decoding.pixels = _pixels_of_webp(head)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                decoding.pixels = image.width * image.height
                return _to_rgb(image, where)
    except UnidentifiedImageError:
        if is_encoded(head.decode("latin-1")):
            raise ImageError(
                f"{where}: base64, the text form of a file; decode it with base64.b64decode first"
            ) from None
        if head[4:8] == b"ftyp":  # phones and web sites give such files the name .jpg
            raise ImageError(f"{where}: is HEIC, AVIF or a film, whatever its name; save it as JPEG or PNG") from None
        if head.startswith(GIT_LFS):
            raise ImageError(f"{where}: {LFS_POINTER}") from None
        from bitvit.checkpoint.sniff import kind_of  # which only this message needs

        if (kind := kind_of(head)) in _MODELS:
            raise ImageError(f"{where}: {_MODELS[kind]}, expected an image; name one model, then the images") from None
        raise ImageError(
            f"{where}: not an image that can be read, it begins with {head[:16]!r}; expected one of "
            f"{', '.join(FORMATS)}"
        ) from None


_MODELS = {"safetensors": "is a model or checkpoint (.safetensors)", "pth-legacy": "is a training checkpoint (.pth)"}


@dataclass
class _Decoding:
    pixels: int = 0
    """Of the image, once that is known."""


@contextlib.contextmanager
def _naming_faults(where: str) -> Iterator[_Decoding]:
    """Pillow's exceptions as ImageError, all but that for an unknown format; as BitvitError where memory is too short.

    That is not always a MemoryError: libjpeg and libwebp then say the file is broken.
    """
    decoding = _Decoding()
    try:
        yield decoding
    except (ImageError, UnidentifiedImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(where) from None
    except Exception as problem:  # decoders of damaged files raise nearly anything, SyntaxError included
        if _is_short_of_memory(problem, decoding.pixels):
            amount = f" of {decoding.pixels:,} pixels" if decoding.pixels else ""
            raise BitvitError(
                f"{where}: too little memory to decode an image{amount}; the image is not at fault: give "
                "the process more memory, or scale the image down"
            ) from None
        if isinstance(problem, OSError) and problem.errno is not None:  # of the system, not of a decoder
            if problem.errno in EXHAUSTED:
                raise BitvitError(
                    f"{where}: cannot be read: {problem.strerror}; raise the limit of the process"
                ) from None
            raise ImageError(f"{where}: cannot be read: {problem.strerror}; check file and disk") from None
        raise ImageError(f"{where}: cannot be decoded ({problem}); copy or download the image again") from problem


def _is_short_of_memory(problem: Exception, pixels: int) -> bool:
    """Whether the exception says so, or there would be no room for decoding that many pixels."""
    if isinstance(problem, MemoryError) or "out of memory" in str(problem):
        return True
    return pixels <= MAX_PIXELS and not has_room(BYTES_TO_DECODE * pixels)


def _pixels_of_webp(head: bytes) -> int:
    """Width times height out of the first 30 bytes of a WebP file, which Pillow does not tell when it fails; else 0."""
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0
    if head[12:16] == b"VP8X":
        return (1 + int.from_bytes(head[24:27], "little")) * (1 + int.from_bytes(head[27:30], "little"))
    if head[12:16] == b"VP8L":
        sides = int.from_bytes(head[21:25], "little")
        return (1 + sides % 2**14) * (1 + (sides >> 14) % 2**14)
    return (int.from_bytes(head[26:28], "little") % 2**14) * (int.from_bytes(head[28:30], "little") % 2**14)


def _too_large(where: str) -> ImageError:
    return ImageError(f"{where}: more than {MAX_PIXELS} pixels; scale the image down")


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Check size and mode of an opened image, then decode it; a new image, unless it is that of a file already."""
    width, height = image.size
    if not width or not height:
        raise ImageError(f"{where}: {width} x {height} pixels, expected at least one")
    if width * height > MAX_PIXELS:
        raise _too_large(where)
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these to 255, which leaves a white image
        raise ImageError(f"{where}: mode {image.mode}, more than 8 bits a channel; save it with 8 bits first")
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns that convert("RGB") drops transparency, which is what the training code does
        image.load()
        image = image.copy()
        del image.info["transparency"]
    if image.mode == "RGB" and isinstance(image, ImageFile.ImageFile):
        image.load()
        return image
    return image.convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    """uint8 [H, W, 3] or [H, W] -> RGB image."""
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    where = f"image: array {array.dtype} {array.shape}"
    if array.dtype != np.uint8:
        raise ImageError(f"{where}, expected uint8 with values 0 to 255{_RECASTING.get(array.dtype.kind, '')}")
    if not grey and not colour:
        raise ImageError(
            f"{where}, expected [height, width, 3], channels last and no alpha, or [height, width]"
            f"{_reshaping(array.shape)}"
        )
    if not array.size:
        raise ImageError(f"{where}, expected at least one pixel")
    return _to_rgb(Image.fromarray(array), "image")


_RECASTING = {
    "b": "; give 255 * array.astype('uint8')",
    "f": "; if its values are 0 to 1, give (255 * array).round().astype('uint8')",
    "i": "; if its values are, give array.astype('uint8')",
    "u": "; if its values are, give array.astype('uint8')",
}
"""Kind of a dtype -> how the array becomes that of an image."""


def _reshaping(shape: tuple[int, ...]) -> str:
    """How an array of this shape becomes that of an image, where one can tell."""
    match shape:
        case (_,):
            return "; if it holds the bytes of a file, give array.tobytes()"
        case (3, _, _):
            return "; give array.transpose(1, 2, 0)"
        case (_, _, 1):
            return "; give array[:, :, 0]"
        case (_, _, 4):
            return "; give array[:, :, :3]"
        case (_, _, _, _):
            return "; give the images of a stack one by one, as list(array)"
        case _:
            return ""
