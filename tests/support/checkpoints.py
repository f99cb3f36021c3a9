"""Checkpoint files made by hand: no torch is needed, and they can say what no pickler would write.

The pickles are assembled opcode by opcode (tools/fuzz/pickles.py).
"""

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.checkpoint import Checkpoint, read_checkpoint
from bitvit.checkpoint.inert import Opaque
from bitvit.errors import CheckpointError
from tools.fuzz.pickles import MAGIC, pickled

SAMPLES = ["checkpoint.pth", "bare.pth", "bare_legacy.pth", "bare_module_prefix.pth"]
FIVE = np.arange(5, dtype=np.float32)


def write_zip(path: Path, value: object, storages: Mapping[str, NDArray[Any] | bytes], **members: bytes) -> Path:
    """A .pth in the zip format; `value` may be the bytes of data.pkl."""
    data = value if isinstance(value, bytes) else pickled(value)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name}", content)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", bytes(array) if isinstance(array, bytes) else array.tobytes())
    return path


def write_legacy(path: Path, value: object, storages: Mapping[str, NDArray[Any]], keys: object = None) -> Path:
    """A .pth in the format before PyTorch 1.6."""
    parts = [MAGIC, pickled(1001), pickled({"little_endian": True})]
    parts += [value if isinstance(value, bytes) else pickled(value), pickled(list(storages) if keys is None else keys)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def write_safetensors(path: Path, name: str, shape: list[int], data: bytes) -> Path:
    header = json.dumps({"w": {"dtype": name, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def read_zip(folder: Path, value: object, storages: Mapping[str, NDArray[Any] | bytes] | None = None) -> Checkpoint:
    return read_checkpoint(write_zip(folder / "t.pth", value, storages or {}))


def refuse(path: Path, *parts: str, ema: bool = False) -> None:
    """The file is refused, with its path and these parts in the message."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, ema=ema)
    for part in (str(path), *parts):
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


def assert_same(state: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    assert list(state) == list(expected)
    for name, array in expected.items():
        assert state[name].dtype == array.dtype, name
        assert state[name].dtype.isnative
        assert state[name].flags.c_contiguous
        np.testing.assert_array_equal(state[name], array, strict=True, err_msg=name)


def readable(value: Any) -> Any:
    """Options with text in place of what stands for an object."""
    if isinstance(value, dict):
        return {name: readable(inner) for name, inner in value.items()}
    return repr(value) if isinstance(value, Opaque) else value
