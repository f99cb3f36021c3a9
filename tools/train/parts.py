"""An image set as small lossless files, to be carried to a machine in several journeys.

A part is a folder of `SPLIT-FIRST.xz`, images FIRST, FIRST + 1, ... of a split as residuals of the JPEG-LS median
predictor, and `SPLIT-FIRST.npy`, their labels. CIFAR-10's training images take 84 MB so. Needs no PyTorch.
"""

import hashlib
import lzma
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.train.settings import TrainingError

__all__ = ["join_parts", "write_part"]

Bytes = NDArray[np.uint8]
CHUNK = 1250  # images in a file: enough for the coder to learn from, and enough files for all cores
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 4, "lp": 0, "pb": 0}]


def write_part(
    folder: Path, split: str, pixels: Bytes, labels: NDArray[Any], first: int, end: int, workers: int
) -> int:
    """Images first .. end - 1 of a split, pixels uint8 [N, S, S, 3], as files in a folder; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(first, end, CHUNK)
    with _pool(workers) as pool:
        contents = pool.map(_encode, [pixels[a : min(a + CHUNK, end)] for a in starts])
        for a, content in zip(starts, contents, strict=True):
            (folder / f"{split}-{a:05}.xz").write_bytes(content)
            np.save(folder / f"{split}-{a:05}.npy", labels[a : min(a + CHUNK, end)])
    return sum(path.stat().st_size for path in folder.iterdir())


def join_parts(folders: list[Path], keep: Path, workers: int, digests: dict[int, str]) -> dict[str, int]:
    """Decode the parts and write `keep/cifar10.npz` of all images met so far, which sets.py reads.

    Parts of an earlier call are remembered in `keep`. Returns how many images of each split there are. digests: the
    sha256 of the training pixels when there are so many. Raises TrainingError if they are others, or a split has none.
    """
    seen = keep / "parts"
    seen.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for path in sorted(folder.glob("*-*.xz")):
            shutil.copy(path, seen)
            shutil.copy(path.with_suffix(".npy"), seen)
    arrays = {}
    with _pool(workers) as pool:
        for split in ("train", "test"):
            paths = sorted(seen.glob(f"{split}-*.xz"))
            if not paths:
                raise TrainingError(f"no part has images of the {split} split; looked for {split}-*.xz")
            labels = [np.load(path.with_suffix(".npy")) for path in paths]
            arrays[f"{split}_y"] = np.concatenate(labels)
            arrays[f"{split}_x"] = np.concatenate(list(pool.map(_decode, paths, map(len, labels))))
    count = len(arrays["train_y"])
    if count in digests and hashlib.sha256(arrays["train_x"].tobytes()).hexdigest() != digests[count]:
        raise TrainingError(f"the {count} training images are not those of sha256 {digests[count]}")
    np.savez(keep / "cifar10.npz", **arrays)  # type: ignore[arg-type]  # its second argument is named allow_pickle
    return {split: len(arrays[f"{split}_y"]) for split in ("train", "test")}


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("fork"))


def _encode(pixels: Bytes) -> bytes:
    """Images uint8 [N, S, S, 3] -> xz of the residuals [3, N, S, S], planes R - G, G, B - G, modulo 256."""
    planes = pixels.transpose(3, 1, 2, 0).copy()  # [3, S, S, N]
    planes[0] -= planes[1]
    planes[2] -= planes[1]
    residual = np.empty_like(planes)
    for i, j in np.ndindex(planes.shape[1:3]):
        residual[:, i, j] = planes[:, i, j] - _guess(planes, i, j)
    return lzma.compress(residual.transpose(0, 3, 1, 2).tobytes(), lzma.FORMAT_XZ, lzma.CHECK_CRC32, None, FILTERS)


def _decode(path: Path, count: int) -> Bytes:
    """The inverse of _encode for a file of `count` images."""
    residual = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(3, count, -1)
    side = round(residual.shape[2] ** 0.5)
    planes = residual.reshape(3, count, side, side).transpose(0, 2, 3, 1).copy()
    for i, j in np.ndindex(side, side):
        planes[:, i, j] += _guess(planes, i, j)
    planes[0] += planes[1]
    planes[2] += planes[1]
    return np.ascontiguousarray(planes.transpose(3, 1, 2, 0))


def _guess(planes: Bytes, i: int, j: int) -> Bytes:
    """The median predictor's samples [3, N] at row i and column j, from those before: uint8 [3, S, S, N]."""
    if not i or not j:
        return planes[:, i, j - 1] if j else planes[:, i - 1, j] if i else np.zeros_like(planes[:, 0, 0])
    left, up, corner = (planes[:, i - a, j - b].astype(np.int16) for a, b in ((0, 1), (1, 0), (1, 1)))
    low, high = np.minimum(left, up), np.maximum(left, up)
    guess = np.where(corner >= high, low, np.where(corner <= low, high, left + up - corner))
    return guess.astype(np.uint8)
