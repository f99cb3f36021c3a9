"""Checkpoints in .safetensors."""

import struct
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from bitvit.checkpoint import read_checkpoint
from bitvit.errors import CheckpointError
from tests.support.checkpoints import FIVE, refuse, write_safetensors


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("F8_E4M3", [2], b"ab"),
        ("F8_E5M2", [2], b"ab"),
        ("F8_E8M0", [2], b"ab"),
        ("F8_E4M3FNUZ", [2], b"ab"),
        ("C64", [1], bytes(8)),
        ("F4", [4], b"ab"),
        ("F6_E2M3", [4], b"abc"),
        ("F6_E3M2", [4], b"abc"),
        ("F3_OF_A_LATER_RELEASE", [4], b"abc"),
    ],
)
def test_dtypes_that_no_bhvit_has_are_named_and_not_called_damage(
    tmp_path: Path, dtype: str, shape: list[int], data: bytes
) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", dtype, shape, data)
    with pytest.raises(CheckpointError, match=f"'w' has dtype '?{dtype}") as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "damaged" not in message
    line = f"save_file({{k: v.float() for k, v in load_file({str(path)!r}).items()}}, 'weights.safetensors', "
    assert (line in message) == dtype.startswith("F8")
    assert ("before they were quantized" in message) == (dtype[:2] not in ("F8", "C6"))
    assert ("save the weights as real numbers" in message) == (dtype == "C64")


@pytest.mark.parametrize(("dtype", "shape"), [("F4", [3]), ("F4", [5]), ("F6_E2M3", [3])])
def test_bytes_of_small_elements_are_counted(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    refuse(
        write_safetensors(tmp_path / "m.safetensors", dtype, shape, b"ab"), "damaged", f"'w' of {dtype}", "has 2 bytes"
    )


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
