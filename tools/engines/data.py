"""Parquet files of images, some of them damaged, and what must come of them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bitvit.extras import require

__all__ = ["DAMAGED", "answers_of", "faults_of", "jpegs", "pngs", "write_images"]

DAMAGED: tuple[Callable[[bytes], bytes | None], ...] = (
    lambda data: data[: len(data) // 2],
    lambda _: b"",
    lambda _: b"no image",
    lambda _: None,
)
"""From the bytes of an image to those of one that cannot be read."""


def pngs(count: int) -> list[bytes]:
    """Images of 32 x 32 pixels, as CIFAR-10 has them."""
    return [_encoded(number, (32, 32), "PNG") for number in range(count)]


def jpegs(count: int) -> list[bytes]:
    """Images of 500 x 375 pixels, as ImageNet has them."""
    return [_encoded(number, (500, 375), "JPEG", quality=90) for number in range(count)]


def _encoded(seed: int, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    """Patches of colour with a little noise, which compress about as photographs do."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(patches, np.int16) + random.integers(-8, 9, (size[1], size[0], 3), np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def write_images(folder: Path, images: Sequence[bytes], rows: int, *, files: int, damaged: Sequence[int] = ()) -> None:
    """Files of columns `path`, which no two rows share, and `image`: the images again and again.

    damaged: the rows whose image cannot be read, each in the next way of DAMAGED.
    """
    arrow, parquet = require("pyarrow", "Parquet"), require("pyarrow.parquet", "Parquet")
    folder.mkdir(parents=True)
    cells: list[bytes | None] = [images[row % len(images)] for row in range(rows)]
    for number, row in enumerate(damaged):
        cells[row] = DAMAGED[number % len(DAMAGED)](images[row % len(images)])
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        table = arrow.table(
            {
                "path": arrow.array([f"{row:06}.png" for row in part], arrow.string()),
                "image": arrow.array([cells[row] for row in part], arrow.binary()),
            }
        )
        parquet.write_table(table, folder / f"{number:04}.parquet", use_dictionary=False, compression="none")


def answers_of(folder: Path) -> Any:
    """All rows in a folder of Parquet files, a pyarrow table; their schemas must be one."""
    arrow, parquet = require("pyarrow", "Parquet"), require("pyarrow.parquet", "Parquet")
    return arrow.concat_tables(parquet.read_table(path) for path in sorted(folder.rglob("*.parquet")))


def faults_of(answers: Any, expected: Any) -> dict[str, int]:
    """How many rows are lost, doubled, or are not as expected; both are pyarrow tables with a column `path`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in answers.to_pylist():
        found.setdefault(row["path"], []).append(row)
    wanted = {row["path"]: row for row in expected.to_pylist()}
    return {
        "lost": sum(path not in found for path in wanted),
        "doubled": sum(len(rows) - 1 for rows in found.values()),
        "others": sum(rows[0] != wanted.get(path) for path, rows in found.items()),
    }
