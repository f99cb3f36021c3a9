"""Labelled image sets in memory: uint8 [N, S, S, 3], at the size that the network takes, and int64 labels [N].

Images go through the preprocessing that the packed model file will carry, up to the normalisation, so training,
PyTorch's evaluation and the engine see the same pixels.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitvit.errors import BitvitError, ImageError
from bitvit.images import open_image
from bitvit.preprocess import Preprocessing, Triple
from bitvit.system import available_threads
from bitvit.train.settings import TrainingError
from bitvit.train.source import Raw, Source

__all__ = ["LEAST_STD", "DataSet", "Split", "load", "measured", "prepare"]

PIECE = 1000  # images that a process prepares at once
LEAST_STD = 0.02  # images of one colour have none to divide by


@dataclass(frozen=True)
class Split:
    """pixels uint8 [N, S, S, 3], labels int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first so many images; all for 0."""
        return Split(self.pixels[:count], self.labels[:count]) if count else self


@dataclass(frozen=True)
class DataSet:
    """Both splits, with what the packed model and its card need to know."""

    name: str
    train: Split
    test: Split
    labels: list[str]
    preprocessing: Preprocessing
    origin: str


def load(source: Source, name: str, image_size: int, workers: int = 1) -> DataSet:
    """A set whose mean and std are known, at the network's image size, prepared by so many processes.

    Images smaller than the network's input are enlarged, except from 28 to 32 pixels, where they get a black border.
    Raises TrainingError for an image that cannot be read.
    """
    padded = source.side is not None and 0 < image_size - source.side <= 4
    known = {} if source.mean is None or source.std is None else {"mean": source.mean, "std": source.std}
    preprocessing = Preprocessing.for_image_size(
        image_size,
        **known,
        resize=None if source.side == image_size else "auto" if padded or source.side is None else image_size,
        pad=(image_size - (source.side or 0)) // 2 if padded else 0,
    )
    return DataSet(
        name=name,
        train=_prepare(source.train, preprocessing, workers),
        test=_prepare(source.test, preprocessing, workers),
        labels=source.labels,
        preprocessing=preprocessing,
        origin=source.origin,
    )


def prepare(
    source: Source, name: str, preprocessing: Preprocessing, done: Callable[[], None] = lambda: None
) -> tuple[DataSet, list[str]]:
    """A set as a preprocessing makes it, and what is wrong with the images that cannot be read and are left out.

    done: called after each image. Raises BitvitError where the system is at its limits.
    """
    faults: list[str] = []

    def read(pair: tuple[object, int]) -> NDArray[np.uint8] | str:
        try:
            return _one(pair[0], preprocessing)
        except ImageError as problem:
            return str(problem)

    def split(raw: Raw) -> Split:
        pixels = np.empty((len(raw), *[preprocessing.image_size] * 2, 3), np.uint8)
        labels: list[int] = []
        with ThreadPoolExecutor(available_threads()) as pool:
            for (_, label), found in zip(raw, pool.map(read, raw), strict=True):
                if isinstance(found, str):
                    faults.append(found)
                else:
                    pixels[len(labels)] = found
                    labels.append(label)
                done()
        return Split(torch.from_numpy(pixels[: len(labels)]), torch.tensor(labels, dtype=torch.int64))

    train, test = split(source.train), split(source.test)
    return DataSet(name, train, test, source.labels, preprocessing, source.origin), faults


def measured(data: DataSet) -> DataSet:
    """The set, normalised with mean and standard deviation of its training images, to four digits."""
    pad, size = data.preprocessing.pad, data.preprocessing.image_size
    counts = np.zeros((3, 256))
    for piece in data.train.pixels[:, pad : size - pad, pad : size - pad].split(PIECE):
        for channel in range(3):
            counts[channel] += np.bincount(piece[..., channel].numpy().ravel(), minlength=256)
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    means = shares @ values
    stds = np.maximum(np.sqrt(shares @ values**2 - means**2), LEAST_STD)
    way = dataclasses.replace(data.preprocessing, mean=_triple(means), std=_triple(stds))
    return dataclasses.replace(data, preprocessing=way)


def _triple(values: NDArray[np.float64]) -> Triple:
    r, g, b = (round(float(value), 4) for value in values)
    return r, g, b


def _prepare(raw: Raw, preprocessing: Preprocessing, workers: int) -> Split:
    pieces = [raw[first : first + PIECE] for first in range(0, max(len(raw), 1), PIECE)]
    if workers == 1:
        pixels = [_pixels(piece, preprocessing) for piece in pieces]
    else:
        # Forked before a GPU is used, and without PyTorch's threads: the children run Pillow and NumPy alone.
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            pixels = list(pool.map(_pixels, pieces, repeat(preprocessing)))
    return Split(torch.from_numpy(np.concatenate(pixels)), torch.tensor([label for _, label in raw]))


def _pixels(raw: Raw, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Images that must all be readable."""
    try:
        return np.stack([_one(image, preprocessing) for image, _ in raw])
    except BitvitError as problem:
        raise TrainingError(str(problem)) from None


def _one(image: object, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An image resized, cropped and padded, not yet normalised: uint8 [S, S, 3]."""
    cut = preprocessing.cropped(open_image(image))  # type: ignore[arg-type]  # which says what it does not take
    pad = preprocessing.pad
    return np.pad(cut, ((pad, pad), (pad, pad), (0, 0))) if pad else cut
