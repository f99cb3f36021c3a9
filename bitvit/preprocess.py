"""Image -> float32 pixels, bit for bit as the training code's evaluation transform does it (SPEC section 6).

    open_image       path, bytes, PIL image or array -> RGB, 8 bits a channel
    Preprocessing    RGB -> resize -> centre crop -> zero padding -> (v/255 - mean)/std

As in the training code the first frame of an animation is taken, an alpha channel is dropped rather than blended, and
the orientation that a camera notes in EXIF is ignored.
"""

import contextlib
import dataclasses
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from bitvit.errors import ConfigError, ImageError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageSource", "Preprocessing", "list_images", "open_image"]

Triple: TypeAlias = tuple[float, float, float]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

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
MAX_SIDE = 1 << 16  # of the network input, and of what an image is resized to


# ------------------------------------------------------------------------------------------------ folder to paths


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """The files of a folder whose names end in one of EXTENSIONS, in either case; sorted, without hidden ones.

    recursive: those in the folders below too; links to folders are not followed. Raises ImageError if the folder or one
    below cannot be read, or if there is no such file.
    """
    found = find_images(folder, recursive=recursive)
    if not found:
        below = "" if recursive else "; with --recursive (recursive=True) folders below it are searched too"
        raise ImageError(f"{os.fspath(folder)}: no images in this folder ({' '.join(EXTENSIONS)}){below}")
    return found


def find_images(folder: str | os.PathLike[str], *, recursive: bool) -> list[Path]:
    """What list_images gives; an empty list if there is no such file."""
    found: list[Path] = []
    try:
        for place, folders, files in os.walk(folder, onerror=_reraise):
            folders[:] = [name for name in folders if recursive and not name.startswith(".")]
            found += [Path(place, name) for name in files if _is_image_name(name)]
    except OSError as problem:
        raise ImageError(f"{problem.filename}: cannot be read: {problem.strerror}; check the folder") from None
    return sorted(found)


def _reraise(problem: OSError) -> None:
    raise problem


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


# ------------------------------------------------------------------------------------------------ image to RGB


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image to RGB, 8 bits a channel.

    source: a path; the bytes of a file in one of FORMATS; a PIL image; or a uint8 array, [H, W, 3] in the order R, G,
    B or [H, W] grey. Raises ImageError if there is no such file, it is not such an image, is damaged, has no pixels
    or more than MAX_PIXELS (told from its header), or holds more than 8 bits a channel.
    """
    if isinstance(source, Image.Image):
        with _naming_faults("PIL image"):
            return _to_rgb(source, "PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), f"image of {len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _open_file(source)
    raise ImageError(
        f"image: a {type(source).__name__}, expected a path, the bytes of a file, a PIL image or a uint8 array"
    )


def _open_file(source: str | os.PathLike[str]) -> Image.Image:
    path = Path(source)
    where = os.fspath(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{where}: is a folder, expected an image; name the files in it")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer for ever
            raise ImageError(f"{where}: is not a regular file; save the image to a file first")
        with path.open("rb") as file:
            return _decode(file, where)
    except FileNotFoundError:
        remedy = "download the image first" if where.startswith(("http://", "https://")) else "check the path"
        raise ImageError(f"{where}: no such file; {remedy}") from None
    except OSError as problem:
        raise ImageError(f"{where}: cannot be read: {problem.strerror or problem}; check file and disk") from None
    except ValueError as problem:  # a NUL character
        raise ImageError(f"{where!r}: is no path ({problem}); check the path") from None


def _decode(file: BinaryIO, where: str) -> Image.Image:
    """Decode an open file; `where` is its name in messages."""
    head = file.read(16)
    if not head:
        raise ImageError(f"{where}: is empty; copy or download the image again")
    file.seek(0)
    try:
        with _naming_faults(where), Image.open(file, formats=FORMATS) as image:
            return _to_rgb(image, where)
    except UnidentifiedImageError:
        raise ImageError(
            f"{where}: not an image that can be read, it begins with {head!r}; expected one of {', '.join(FORMATS)}"
        ) from None


@contextlib.contextmanager
def _naming_faults(where: str) -> Iterator[None]:
    """Pillow's exceptions as ImageError, all but that for an unknown format."""
    try:
        yield
    except (ImageError, UnidentifiedImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(where) from None
    except Exception as problem:  # decoders of damaged files raise nearly anything, SyntaxError included
        raise ImageError(f"{where}: cannot be decoded ({problem}); copy or download the image again") from problem


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
        # Pillow would clip these to 255, a white image
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


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    """uint8 [H, W, 3] or [H, W] -> RGB image."""
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    where = f"image: array {array.dtype} {array.shape}"
    if array.dtype != np.uint8:
        raise ImageError(f"{where}, expected uint8 with values 0 to 255")
    if not grey and not colour:
        raise ImageError(f"{where}, expected [height, width, 3], channels last and no alpha, or [height, width]")
    if not array.size:
        raise ImageError(f"{where}, expected at least one pixel")
    return _to_rgb(Image.fromarray(array), "image")


# ------------------------------------------------------------------------------------------------ RGB to pixels


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of one model. ConfigError for values that cannot work."""

    image_size: int
    """Side S of the network's input."""
    resize: int | None
    """The shorter edge is resized to this many pixels; None: no resizing, an image must be crop x crop already."""
    crop: int
    """Side of the centre crop."""
    pad: int
    """Black pixels added on each side after cropping; crop + 2·pad = image_size."""
    mean: Triple
    std: Triple
    """Of R, G, B, for values in [0, 1]."""

    def __post_init__(self) -> None:
        _check_integer("image_size", self.image_size, 1, MAX_SIDE)
        _check_integer("pad", self.pad, 0, (self.image_size - 1) // 2)
        _check_integer("crop", self.crop, self.image_size - 2 * self.pad, self.image_size - 2 * self.pad)
        if self.resize is not None:
            _check_integer("resize", self.resize, self.crop, MAX_SIDE)
        _check_triple("mean", self.mean)
        _check_triple("std", self.std)
        if min(self.std) < 1e-6:
            raise ConfigError(f"preprocessing: std is {self.std}, expected numbers above 0: pixels are divided by them")

    @classmethod
    def for_image_size(
        cls,
        image_size: int,
        *,
        mean: Triple = IMAGENET_MEAN,
        std: Triple = IMAGENET_STD,
        resize: int | str | None = "auto",
        pad: int = 0,
    ) -> "Preprocessing":
        """The training code's transform for an input side (SPEC section 6).

        resize="auto": above 32 pixels the shorter edge becomes int(256/224·image_size); otherwise images must have
        the right size already. With padding, which the training code has not, it becomes image_size - 2·pad, so that
        any image fits. Raises ConfigError for values that cannot work.
        """
        _check_integer("image_size", image_size, 1, MAX_SIDE)
        _check_integer("pad", pad, 0, (image_size - 1) // 2)
        crop = image_size - 2 * pad
        if isinstance(resize, str):
            if resize != "auto":
                raise ConfigError(f"preprocessing: resize is {resize!r}, expected an integer, None or 'auto'")
            unpadded = int(256 / 224 * image_size) if image_size > 32 else None
            resize = crop if pad else unpadded
        return cls(image_size, resize, crop, pad, mean, std)

    def to_dict(self) -> dict[str, object]:
        """The fields, as JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> "Preprocessing":
        """The inverse of to_dict. Raises ConfigError for missing or unknown fields and for wrong types."""
        names = [item.name for item in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping):
            raise ConfigError(f"preprocessing is a {type(fields).__name__}, expected an object with {names}")
        if set(fields) != set(names):
            raise ConfigError(f"preprocessing has the fields {sorted(map(str, fields))}, expected exactly {names}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks the types

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixels of one RGB image: float32 [3, S, S], channels R, G, B.

        Raises ImageError for another mode, for an image that is not crop x crop where resize is None, and for one so
        long and thin that it would exceed MAX_PIXELS when resized.
        """
        return self.normalized(self.centre_crop(self.resized(image)))

    def resized(self, image: Image.Image) -> Image.Image:
        """The image with its shorter edge resized (bicubic, antialiased, 8 bits), the longer one truncated."""
        if image.mode != "RGB":
            raise ImageError(f"image of mode {image.mode}, expected RGB; use open_image")
        width, height = image.size
        if self.resize is None:
            if image.size != (self.crop, self.crop):
                raise ImageError(
                    f"image of {width} x {height} pixels, expected exactly {self.crop} x {self.crop}: this model takes "
                    "images as they are; resize it, or convert the checkpoint again with --resize"
                )
            return image
        short, long = min(image.size), max(image.size)
        new_long = int(self.resize * long / short)
        if self.resize * new_long > MAX_PIXELS:
            raise ImageError(
                f"image of {width} x {height} pixels is too long and thin: resized to {self.resize} pixels across it "
                f"would be {new_long} long; crop it"
            )
        new_size = (self.resize, new_long) if width <= height else (new_long, self.resize)
        return image if new_size == image.size else image.resize(new_size, Image.Resampling.BICUBIC)

    def centre_crop(self, image: Image.Image) -> Image.Image:
        """The central crop x crop pixels."""
        left, top = self.crop_corner(image)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def normalized(self, image: Image.Image) -> NDArray[np.float32]:
        """float32 [3, S, S] of an image of crop x crop pixels: padded, in 0..1, less mean, over standard deviation."""
        border = (self.pad, self.pad)
        planes = np.pad(np.asarray(image).transpose(2, 0, 1), ((0, 0), border, border))
        # Transposed while a pixel is one byte and its channel's mean one number: 5 times faster than at the end.
        pixels = np.ascontiguousarray(planes).astype(np.float32)
        # All in float32 and in this order, as torchvision does it: another order changes the last bit.
        pixels /= np.float32(255)
        pixels -= np.array(self.mean, np.float32)[:, None, None]
        pixels /= np.array(self.std, np.float32)[:, None, None]
        return pixels

    def crop_corner(self, image: Image.Image) -> tuple[int, int]:
        """Left and top of the centre crop; half a pixel is rounded to even."""
        width, height = image.size
        return round((width - self.crop) / 2), round((height - self.crop) / 2)


def _check_integer(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        expected = str(least) if least == most else f"an integer from {least} to {most}"
        raise ConfigError(f"preprocessing: {name} is {value!r}, expected {expected}")


def _check_triple(name: str, value: object) -> None:
    if (
        not isinstance(value, tuple)
        or len(value) != 3
        or not all(type(item) in (int, float) and abs(item) < 1e6 for item in value)  # false for NaN
    ):
        raise ConfigError(f"preprocessing: {name} is {value!r}, expected three numbers for R, G, B")
