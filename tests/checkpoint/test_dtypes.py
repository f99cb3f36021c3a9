"""Types of elements, from every format and in either byte order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.checkpoint import read_checkpoint
from tests.support.checkpoints import assert_same, read_zip, refuse, write_legacy, write_safetensors, write_zip
from tools.fuzz.pickles import call, glob, storage, tensor

# torch's storage class, .safetensors name, stored dtype, the dtype that comes out
DTYPES = [
    ("DoubleStorage", "F64", "f8", "f8"),
    ("FloatStorage", "F32", "f4", "f4"),
    ("HalfStorage", "F16", "f2", "f4"),
    ("BFloat16Storage", "BF16", "u2", "f4"),
    ("LongStorage", "I64", "i8", "i8"),
    ("IntStorage", "I32", "i4", "i4"),
    ("ShortStorage", "I16", "i2", "i2"),
    ("CharStorage", "I8", "i1", "i1"),
    ("ByteStorage", "U8", "u1", "u1"),
    ("BoolStorage", "BOOL", "u1", "?"),
]


def widened(stored: NDArray[Any], name: str) -> NDArray[Any]:
    """What the reader makes of elements, worked out in another way."""
    if name == "BF16":
        high = np.zeros((stored.size, 2), "<u2")
        high[:, 1] = stored
        return high.view("<f4")[:, 0]
    return stored.astype({"F16": "f4", "BOOL": "?"}.get(name, stored.dtype))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.sampled_from(DTYPES), seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), swap=st.booleans())
def test_dtypes_come_out_as_numpy_reads_them(
    tmp_path: Path, row: tuple[str, str, str, str], seed: int, count: int, swap: bool
) -> None:
    kind, name, code, result = row
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 2 if name == "BOOL" else 256, count * np.dtype(code).itemsize).astype(np.uint8).view(code)
    expected = widened(stored, name)
    stored = np.where(np.isfinite(expected), stored, 0).astype(code)
    expected = widened(stored, name)
    assert expected.dtype == result
    value = {"w": tensor("0", (count,), (1,), kind=kind)}
    big = write_zip(tmp_path / "z.pth", value, {"0": stored.astype(np.dtype(code).newbyteorder(">"))}, byteorder=b"big")
    paths = [
        write_zip(tmp_path / "l.pth", value, {"0": stored}),
        write_legacy(tmp_path / "old.pth", value, {"0": stored}),
        write_safetensors(tmp_path / "m.safetensors", name, [count], stored.tobytes()),
    ]
    for path in [big] if swap else paths:
        assert_same(read_checkpoint(path).state, {"w": expected})


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_dtypes_over_untyped_storages(kind: str, tmp_path: Path) -> None:
    """torch's uint16 and its like have no storage class: _rebuild_tensor_v3 over bytes."""
    data = np.array([1, 2, 65535], kind)
    base, hooks = storage("0", data.nbytes, "UntypedStorage"), call("collections", "OrderedDict")
    value = {
        "w": call("torch._utils", "_rebuild_tensor_v3", base, 1, (2,), (1,), False, hooks, glob("torch", kind)),
    }
    assert_same(read_zip(tmp_path, value, {"0": data}).state, {"w": data[1:]})


def test_overflow_of_half_precision_is_not_hidden(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", "BF16", [1], b"\x80\x7f")
    refuse(path, "'w' has 0 NaN and 1 infinite of 1 values")
