"""Checkpoints in .safetensors."""

import struct
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.support.checkpoints import FIVE, refuse, write_safetensors


def test_safetensors_dtype_without_numpy_counterpart_is_refused(tmp_path: Path) -> None:
    refuse(write_safetensors(tmp_path / "m.safetensors", "F8_E4M3", [2], b"ab"), "'w' has dtype F8_E4M3", "float32")


def test_packed_model_is_named(tmp_path: Path) -> None:
    save_file({"w": FIVE}, tmp_path / "m.safetensors", metadata={"bitvit": "1"})
    refuse(tmp_path / "m.safetensors", "packed bitvit model, already converted")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (struct.pack("<Q", 500) + b'{"w":', "damaged or truncated .safetensors"),
        (struct.pack("<Q", 5) + b'{"w":', "damaged or truncated .safetensors"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensors"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    refuse(tmp_path / "m.safetensors", problem)


@pytest.mark.parametrize("shape", [[0, 2**40, 2**40], [1] * 70])
def test_safetensors_shapes_that_numpy_has_not(tmp_path: Path, shape: list[int]) -> None:
    data = b"" if 0 in shape else bytes(4)
    refuse(write_safetensors(tmp_path / "m.safetensors", "F32", shape, data), "'w' has shape")


def test_truncated_safetensors(tmp_path: Path) -> None:
    save_file({"w": FIVE}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[:-3])
    refuse(tmp_path / "m.safetensors", "damaged or truncated .safetensors", "download the file again")
