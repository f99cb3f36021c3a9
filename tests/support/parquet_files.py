"""Parquet files of images."""

import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "fish")
SIDE = 32


def png(number: int) -> bytes:
    """The bytes of a small image, another for each number."""
    data = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def write_images(
    path: Path,
    images: Sequence[bytes | None],
    group_rows: int = 3,
    names: Sequence[str] = CLASSES,
    **columns: Sequence[Any],
) -> None:
    """A file with images as Hugging Face has them, and with a column `number`.

    columns: further ones; `label` is of its type ClassLabel, with these names.
    """
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    cells = [None if data is None else {"bytes": data, "path": f"{row}.png"} for row, data in enumerate(images)]
    table = arrow.table({"number": list(range(len(images))), "image": arrow.array(cells, kind), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group_rows)
