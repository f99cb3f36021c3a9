"""Labelled image sets in memory: uint8 [N, S, S, 3], at the size that the network takes, and int64 labels [N].

Images go through the preprocessing that the packed model file will carry, up to the normalisation, so training,
PyTorch's evaluation and the engine see the same pixels.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitvit.errors import BitvitError
from bitvit.images import open_image
from bitvit.preprocess import Preprocessing

from .sets import Raw, read_source
from .settings import TrainingError

__all__ = ["DataSet", "Split", "load"]

PIECE = 1000  # images that a process prepares at once


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


def load(name: str, folder: Path | None, image_size: int, workers: int = 1) -> DataSet:
    """The set of that name at the network's image size, prepared by so many processes. Raises TrainingError.

    Images smaller than the network's input are enlarged, except from 28 to 32 pixels, where they get a black border.
    """
    source = read_source(name, folder)
    padded = source.side is not None and 0 < image_size - source.side <= 4
    preprocessing = Preprocessing.for_image_size(
        image_size,
        mean=source.mean,
        std=source.std,
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
    """Resized, cropped and padded images, not yet normalised."""
    size, pad = preprocessing.image_size, preprocessing.pad
    pixels = np.zeros((len(raw), size, size, 3), np.uint8)
    for place, (image, _) in zip(pixels, raw, strict=True):
        try:
            cut = preprocessing.centre_crop(preprocessing.resized(open_image(image)))
        except BitvitError as problem:
            raise TrainingError(str(problem)) from None
        place[pad : size - pad, pad : size - pad] = np.asarray(cut)
    return pixels
