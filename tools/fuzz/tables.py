"""Target: the cells of a Parquet file, and what is written beside its columns."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image

from bitvit.errors import BitvitError, ImageError
from bitvit.evaluation.dataset import Dataset, read_data
from bitvit.images import open_image
from bitvit.parquet import batches, find_files, image_column, row_images

from . import documents
from .target import Reading, Target

__all__ = ["Cells"]

MOST_ROWS = 8
_NUMBERS = {
    "int64": pa.int64(),
    "int8": pa.int8(),
    "uint64": pa.uint64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date32": pa.date32(),
    "timestamp": pa.timestamp("ns"),
    "time": pa.time64("us"),
    "duration": pa.duration("s"),
}
_BYTES = {"binary": pa.binary(), "large": pa.large_binary(), "text": pa.binary(), "dictionary": pa.binary()}


class Cells(Target):
    """Parquet files that bitvit's readers, and not pyarrow's, have to make sense of.

    An input is JSON: {"columns": [{"name", "type", "cells"}], "huggingface": text}. Text in a cell of bytes begins with
    "base64:" or stands for its letters' Latin-1. What makes no Parquet file is left alone.
    """

    file = "data.parquet"
    words = (
        *("image", "label", "path", "bytes", "class", "y", "ClassLabel", "Image", "_type", "names", "features", "info"),
        *(*_NUMBERS, *_BYTES, "struct", "list", "null", "1.png", "../1.png", "file:///dev/null", "nosuch", "\xff\xfe"),
        *(-1, 0, 1, 2, 2**31, 2**63 - 1, -(2**63), "1", "cat", None, "\x00", ""),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "1.png").write_bytes(_image("PNG"))
        self._valid = False

    def seeds(self) -> list[bytes]:
        images = ["base64:" + base64.b64encode(_image(kind)).decode() for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM")]
        images += ["base64:" + base64.b64encode(_image(kind)).decode() for kind in ("WEBP", "TIFF")]
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
        written = json.dumps({"info": {"features": features}})
        numbers = [0, 1, 0, 1, 0, 1, 0]
        plain = {"name": "image", "type": "binary", "cells": images}
        struct = {"name": "image", "type": "struct", "cells": [{"bytes": images[0], "path": None}, {"path": "1.png"}]}
        paths = {"name": "path", "type": "text", "cells": ["1.png", "no.png"]}
        label = {"name": "label", "type": "int64", "cells": numbers}
        text = {"name": "label", "type": "text", "cells": ["cat", "dog"]}
        return [
            documents.as_json({"columns": [plain, label], "huggingface": written}),
            documents.as_json({"columns": [struct, text]}),
            documents.as_json({"columns": [paths, {**label, "type": "int8", "cells": [0, 1]}], "huggingface": "{}"}),
            documents.as_json({"columns": [{**plain, "type": "large"}, {**text, "type": "dictionary"}]}),
        ]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        found = self._mutated(rng, data)
        for _ in range(3):
            if _table(found) is not None:
                break
            found = self._mutated(rng, data)
        return found

    def _mutated(self, rng: Random, data: bytes) -> bytes:
        try:
            whole = json.loads(data)
            if rng.random() < 0.2:
                inner = str(whole["huggingface"]).encode("utf-8", "replace")
                edited = documents.edited_json(rng, inner, self.words)
                return documents.as_json({**whole, "huggingface": edited.decode("utf-8", "replace")})
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        return documents.edited_json(rng, data, self.words)

    def prepare(self, data: bytes) -> None:
        table = _table(data)
        self._valid = table is not None
        if table is not None:
            pq.write_table(table, self.path, row_group_size=3, store_schema=True)

    def readings(self) -> Sequence[Reading]:
        return (self._evaluated, self._classified) if self._valid else ()

    def _evaluated(self) -> None:
        """As bitvit evaluate reads it."""
        data: Dataset = read_data(self.path)
        for image in data.images:
            self._open(image)

    def _classified(self) -> None:
        """As bitvit classify does."""
        for file in find_files(str(self.path)):
            with file.open() as table:
                column = image_column(table.schema_arrow, None, file.name)
                for batch in batches(table, range(table.num_row_groups), [column]):
                    for image in row_images(file, batch.column(0), 0):
                        self._open(image)

    def _open(self, image: Any) -> None:
        try:
            open_image(image)
        except ImageError as error:  # a row's own; the next one is read all the same
            if not str(error).strip():
                raise AssertionError("an error without text") from None

    def names(self, error: BitvitError) -> bool:
        return str(self.path) in str(error)


def _table(data: bytes) -> Any | None:
    """The table that an input describes; None if it describes none."""
    try:
        whole = json.loads(data)
        given = [
            (str(column["name"]), column["type"], list(column["cells"])[:MOST_ROWS]) for column in whole["columns"]
        ]
        rows = max(len(cells) for _, _, cells in given)
        columns = {name: _column(kind, cells + [None] * (rows - len(cells))) for name, kind, cells in given}
        written = whole.get("huggingface")
        metadata = None if written is None else {b"huggingface": str(written).encode("latin-1", "replace")}
        return pa.table(columns, metadata=metadata)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, pa.ArrowException):
        return None


def _column(kind: str, cells: list[Any]) -> Any:
    if kind in _BYTES:
        made = pa.array([_bytes(cell) for cell in cells], _BYTES[kind])
        made = made.view(pa.string()) if kind in ("text", "dictionary") else made  # whatever the bytes are
        return made.dictionary_encode() if kind == "dictionary" else made
    if kind == "struct":
        pairs = [cell if isinstance(cell, dict) else {} for cell in cells]
        data, paths = (pa.array([_bytes(pair.get(name)) for pair in pairs], pa.binary()) for name in ("bytes", "path"))
        mask = pa.array([cell is None for cell in cells])
        return pa.StructArray.from_arrays([data, paths.view(pa.string())], ["bytes", "path"], mask=mask)
    if kind == "list":
        return pa.array([None if cell is None else [str(cell)] for cell in cells])
    if kind == "null":
        return pa.nulls(len(cells))
    numbers = [cell if isinstance(cell, int | float) else None for cell in cells]
    if kind in ("date32", "timestamp", "time", "duration"):
        whole = pa.int32() if kind == "date32" else pa.int64()
        return pa.array(numbers, whole).view(_NUMBERS[kind])
    return pa.array(numbers, _NUMBERS[kind])


def _bytes(cell: Any) -> bytes | None:
    """A cell's bytes. An address is none: pyarrow would ask another machine for what is there."""
    if cell is None:
        return None
    text = str(cell)
    if "://" in text and not text.startswith("file:///"):
        raise ValueError("an address")
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode("latin-1", "replace")


def _image(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
