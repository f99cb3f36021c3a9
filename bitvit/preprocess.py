"""RGB image -> float32 pixels, bit for bit as the training code's evaluation transform does it (SPEC section 6).

bitvit.images.open_image    path, bytes, PIL image or array -> RGB, 8 bits a channel
Preprocessing               RGB -> resize -> centre crop -> zero padding -> (v/255 - mean)/std
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from bitvit.errors import ConfigError, ImageError
from bitvit.images import MAX_PIXELS
from bitvit.rgbx import rgbx

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "batch_of_planes"]

Triple: TypeAlias = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

MAX_SIDE = 1 << 16  # of the network input, and of what an image is resized to
MIN_STD = 1e-6
MOST_AROUND = 4  # times as many pixels as the crop: of a larger image the crop is cut out, which takes less memory


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
        if min(self.std) < MIN_STD:
            raise ConfigError(
                f"preprocessing: std is {self.std}, expected numbers of at least {MIN_STD:g}: pixels are divided by it"
            )

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
        the right size already. With padding, which the training code lacks, it becomes image_size - 2·pad, so that any
        image fits. Raises ConfigError for values that cannot work.
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
        return self.planes(self.cropped(image))

    def cropped(self, image: Image.Image) -> NDArray[np.uint8]:
        """What the network sees of an RGB image, before padding and normalising: uint8 [crop, crop, 3], any strides.

        Raises ImageError as a call does.
        """
        resized, side = self.resized(image), self.crop
        if resized.width * resized.height > MOST_AROUND * side * side:
            resized = self.centre_crop(resized)
        left, top = self.crop_corner(resized)
        return rgbx(resized, own=resized is not image)[top : top + side, left : left + side, :3]

    def resized(self, image: Image.Image) -> Image.Image:
        """The image with its shorter edge resized (bicubic, antialiased, 8 bits), the longer one truncated."""
        if image.mode != "RGB":
            raise ImageError(f"image of mode {image.mode}, expected RGB; use bitvit.images.open_image")
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
        return self.planes(np.asarray(image))

    def planes(self, cropped: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same of uint8 [crop, crop, 3]."""
        border = (self.pad, self.pad)
        # Transposed while a pixel is one byte and its channel's mean one number: 5 times faster than at the end.
        planes = np.pad(cropped.transpose(2, 0, 1), ((0, 0), border, border))
        return _normalize(np.ascontiguousarray(planes).astype(np.float32), self.mean, self.std)

    def table(self) -> NDArray[np.float32]:
        """float32 [3, 256]: what becomes of each byte of R, G, B."""
        return _table(self.mean, self.std)

    def crop_corner(self, image: Image.Image) -> tuple[int, int]:
        """Left and top of the centre crop; half a pixel is rounded to even."""
        width, height = image.size
        return round((width - self.crop) / 2), round((height - self.crop) / 2)


def batch_of_planes(pixels: ArrayLike, size: int) -> NDArray[np.float32]:
    """What a model's call was given: float32 [B, 3, size, size], C-contiguous. Raises ValueError for another shape."""
    images = np.ascontiguousarray(pixels, dtype=np.float32)
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(
            f"pixels have shape {images.shape}, expected (batch, 3, {size}, {size}): normalised R, G, B planes,"
            " as Classifier or model.preprocessing make them"
        )
    return images


@functools.lru_cache(maxsize=64)
def _table(mean: Triple, std: Triple) -> NDArray[np.float32]:
    table = _normalize(np.tile(np.arange(256, dtype=np.float32), (3, 1)), mean, std)
    table.flags.writeable = False
    return table


def _normalize(pixels: NDArray[np.float32], mean: Triple, std: Triple) -> NDArray[np.float32]:
    """float32 [3, ...] of 0..255, in place: in 0..1, less mean, over standard deviation.

    All in float32 and in this order, as torchvision does it: another order changes the last bit.
    """
    shape = (3,) + (1,) * (pixels.ndim - 1)
    pixels /= np.float32(255)
    pixels -= np.array(mean, np.float32).reshape(shape)
    pixels /= np.array(std, np.float32).reshape(shape)
    return pixels


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
