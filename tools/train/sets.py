"""Public labelled image sets as their files hold them; needs no PyTorch.

    digits    the 1,797 handwritten digits that come with scikit-learn (UCI, CC BY 4.0)
    cifar10   from a folder with cifar10.npz or the original binary files data_batch_1.bin ... test_batch.bin
    fashion   from a folder with fashion_mnist.npz or the original files *-ubyte.gz

An .npz holds train_x, train_y, test_x, test_y.
"""

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.train.settings import TrainingError
from bitvit.train.source import Raw, Source

__all__ = ["NAMES", "cifar10_arrays", "digits_images", "read_source"]

CIFAR10_LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION_LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_LABELS += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_source(name: str, folder: Path | None) -> Source:
    """The set of that name. Raises TrainingError if it is unknown or its files cannot be read."""
    if name not in SOURCES:
        raise TrainingError(f"--data {name}: unknown, expected one of {', '.join(SOURCES)}")
    if name != "digits" and folder is None:
        raise TrainingError(f"--data {name}: needs --data-folder; tools/train/sets.py says what it must hold")
    return SOURCES[name](folder or Path())


# ---------------------------------------------------------------------------------------------------------- sources


def digits_images() -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_]]:
    """scikit-learn's digits: uint8 [1797, 8, 8], labels, and which are held out: every third, in the set's order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise TrainingError("--data digits: needs scikit-learn; pip install 'bitvit[train]'") from None
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return images, bunch.target, np.arange(len(images)) % 3 == 2


def _digits(_folder: Path) -> Source:
    images, labels, held_out = digits_images()
    return Source(
        train=_pairs(images[~held_out], labels[~held_out]),
        test=_pairs(images[held_out], labels[held_out]),
        labels=[str(digit) for digit in range(10)],
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
        origin="UCI optical recognition of handwritten digits (Alpaydin and Kaynak, CC BY 4.0), the 1,797 images "
        "that come with scikit-learn; every third is held out",
        side=8,
    )


def _cifar10(folder: Path) -> Source:
    arrays = cifar10_arrays(folder)
    return Source(
        train=_pairs(*arrays["train"]),
        test=_pairs(*arrays["test"]),
        labels=CIFAR10_LABELS,
        mean=(0.4914, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        origin="CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence stated)",
        side=32,
    )


def cifar10_arrays(folder: Path) -> "Arrays":
    """Pixels uint8 [N, 32, 32, 3] and labels [N] of "train" and "test". Raises TrainingError."""
    return _read_npz(folder / "cifar10.npz") or _read_cifar10_binary(folder)


def _fashion(folder: Path) -> Source:
    arrays = _read_npz(folder / "fashion_mnist.npz") or _read_idx(folder)
    return Source(
        train=_pairs(*arrays["train"]),
        test=_pairs(*arrays["test"]),
        labels=FASHION_LABELS,
        mean=(0.286, 0.286, 0.286),
        std=(0.353, 0.353, 0.353),
        origin="Fashion-MNIST (MIT licence, © 2017 Zalando SE)",
        side=28,
    )


SOURCES: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fashion": _fashion,
}
NAMES = list(SOURCES)


# ------------------------------------------------------------------------------------------------------------- files

Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[Any]]]


def _pairs(images: Iterable[Any], labels: Iterable[Any]) -> Raw:
    return [(image, int(label)) for image, label in zip(images, labels, strict=True)]


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
        images = gzip.decompress(_read(folder / f"{stem}-images-idx3-ubyte.gz"))
        labels = gzip.decompress(_read(folder / f"{stem}-labels-idx1-ubyte.gz"))
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        arrays[split] = (pixels, np.frombuffer(labels, np.uint8, offset=8))
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise TrainingError(f"{path}: cannot be read ({problem.strerror}); check --data-folder") from None
