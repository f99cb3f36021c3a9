"""Labelled image sets in memory: uint8 [N, S, S, 3], at the size that the network takes, and int64 labels [N].

    digits    the 1,797 handwritten digits that come with scikit-learn (UCI, CC BY 4.0)
    cifar10   from a folder with cifar10.npz or the original binary files data_batch_1.bin ... test_batch.bin
    fashion   from a folder with fashion_mnist.npz or the original files *-ubyte.gz
    folder    PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or any picture that bitvit reads)

An .npz holds train_x, train_y, test_x, test_y. Pictures go through the preprocessing that the packed model file will
carry, up to the normalisation, so training, PyTorch's evaluation and the engine see the same pixels.
"""

import gzip
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitvit.errors import BitvitError
from bitvit.preprocess import Preprocessing, list_images, open_image

from .settings import TrainingError

__all__ = ["NAMES", "DataSet", "Split", "load"]

Raw = list[tuple[Any, int]]  # pictures as open_image takes them, and their classes

CIFAR10_LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION_LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_LABELS += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@dataclass(frozen=True)
class Split:
    """pixels uint8 [N, S, S, 3], labels int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first so many pictures; all for 0."""
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


@dataclass(frozen=True)
class _Source:
    """A set before preprocessing."""

    train: Raw
    test: Raw
    labels: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str
    side: int | None  # of the pictures, if they all have the same


def load(name: str, folder: Path | None, image_size: int) -> DataSet:
    """The set of that name at the network's image size. Raises TrainingError.

    Pictures smaller than the network's input are enlarged, except from 28 to 32 pixels, where they get a black border.
    """
    if name not in SOURCES:
        raise TrainingError(f"--data {name}: unknown, expected one of {', '.join(SOURCES)}")
    if name != "digits" and folder is None:
        raise TrainingError(f"--data {name}: needs --data-folder; tools/train/data.py says what it must hold")
    source = SOURCES[name](folder or Path())
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
        train=_prepare(source.train, preprocessing),
        test=_prepare(source.test, preprocessing),
        labels=source.labels,
        preprocessing=preprocessing,
        origin=source.origin,
    )


def _prepare(raw: Raw, preprocessing: Preprocessing) -> Split:
    """Resized, cropped and padded pictures, not yet normalised."""
    size, pad = preprocessing.image_size, preprocessing.pad
    pixels = np.zeros((len(raw), size, size, 3), np.uint8)
    for place, (picture, _) in zip(pixels, raw, strict=True):
        try:
            cut = preprocessing.centre_crop(preprocessing.resized(open_image(picture)))
        except BitvitError as problem:
            raise TrainingError(str(problem)) from None
        place[pad : size - pad, pad : size - pad] = np.asarray(cut)
    return Split(torch.from_numpy(pixels), torch.tensor([label for _, label in raw]))


# ---------------------------------------------------------------------------------------------------------- sources


def digits_pictures() -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_]]:
    """scikit-learn's digits: uint8 [1797, 8, 8], labels, and which are held out: every third, in the set's order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise TrainingError("--data digits: needs scikit-learn; pip install 'bitvit[train]'") from None
    bunch = load_digits()
    pictures = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return pictures, bunch.target, np.arange(len(pictures)) % 3 == 2


def _digits(_folder: Path) -> _Source:
    pictures, labels, held_out = digits_pictures()
    return _Source(
        train=_pairs(pictures[~held_out], labels[~held_out]),
        test=_pairs(pictures[held_out], labels[held_out]),
        labels=[str(digit) for digit in range(10)],
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
        origin="UCI optical recognition of handwritten digits (Alpaydin and Kaynak, CC BY 4.0), the 1,797 pictures "
        "that come with scikit-learn; every third is held out",
        side=8,
    )


def _cifar10(folder: Path) -> _Source:
    arrays = _read_npz(folder / "cifar10.npz") or _read_cifar10_binary(folder)
    return _Source(
        train=_pairs(*arrays["train"]),
        test=_pairs(*arrays["test"]),
        labels=CIFAR10_LABELS,
        mean=(0.4914, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        origin="CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence stated)",
        side=32,
    )


def _fashion(folder: Path) -> _Source:
    arrays = _read_npz(folder / "fashion_mnist.npz") or _read_idx(folder)
    return _Source(
        train=_pairs(*arrays["train"]),
        test=_pairs(*arrays["test"]),
        labels=FASHION_LABELS,
        mean=(0.286, 0.286, 0.286),
        std=(0.353, 0.353, 0.353),
        origin="Fashion-MNIST (MIT licence, © 2017 Zalando SE)",
        side=28,
    )


def _folder(folder: Path) -> _Source:
    train, test = folder / "train", folder / "test"
    classes = sorted(place.name for place in train.iterdir() if place.is_dir()) if train.is_dir() else []
    if len(classes) < 2:
        raise TrainingError(f"{train}: expected a folder for each class, at least two, with pictures in it")
    splits = [
        [(path, label) for label, name in enumerate(classes) for path in _pictures(split / name)]
        for split in (train, test)
    ]
    return _Source(
        train=splits[0],
        test=splits[1],
        labels=classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        origin=f"pictures of the folder {folder.name}",
        side=None,
    )


SOURCES: dict[str, Callable[[Path], _Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fashion": _fashion,
    "folder": _folder,
}
NAMES = list(SOURCES)


# ------------------------------------------------------------------------------------------------------------- files

Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[Any]]]


def _pairs(pictures: Iterable[Any], labels: Iterable[Any]) -> Raw:
    return [(picture, int(label)) for picture, label in zip(pictures, labels, strict=True)]


def _pictures(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except BitvitError as problem:
        raise TrainingError(str(problem)) from None


def _read_npz(path: Path) -> Arrays | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as archive:
            return {split: (archive[f"{split}_x"], archive[f"{split}_y"]) for split in ("train", "test")}
    except (OSError, KeyError, ValueError) as problem:
        raise TrainingError(f"{path}: expected the arrays train_x, train_y, test_x, test_y ({problem})") from None


def _read_cifar10_binary(folder: Path) -> Arrays:
    """The original binary version: records of one label byte and 3 x 32 x 32 pixels."""
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    arrays = {}
    for split, names in files.items():
        records = np.concatenate([np.frombuffer(_read(folder / name), np.uint8).reshape(-1, 3073) for name in names])
        arrays[split] = (records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])
    return arrays


def _read_idx(folder: Path) -> Arrays:
    """The original gzipped files: a header of 16 or 8 bytes, then pixels or labels."""
    arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        pictures = gzip.decompress(_read(folder / f"{stem}-images-idx3-ubyte.gz"))
        labels = gzip.decompress(_read(folder / f"{stem}-labels-idx1-ubyte.gz"))
        pixels = np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 28, 28)
        arrays[split] = (pixels, np.frombuffer(labels, np.uint8, offset=8))
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise TrainingError(f"{path}: cannot be read ({problem.strerror}); check --data-folder") from None
