"""A .safetensors as a checkpoint: all its tensors."""

import io
import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.dtypes import SAFETENSORS_CODES, native, stored_dtype
from bitvit.checkpoint.file import read_bytes, size
from bitvit.checkpoint.options import beside
from bitvit.checkpoint.remedies import FETCH_AGAIN, GIVE_CHECKPOINT, rewritten
from bitvit.checkpoint.state_dict import Stored
from bitvit.errors import CheckpointError
from bitvit.messages import shown
from bitvit.tensorfile import Entry, FormatError, UnknownTypeError, read_header

__all__ = ["read_safetensors"]

_REAL = "save the weights as real numbers, in float32 or half precision"
_UNQUANTIZED = "save the weights as they were trained, in float32 or half precision, before they were quantized"


def read_safetensors(file: io.BufferedReader, _ema: bool) -> Stored:
    """All tensors of a .safetensors file. Raises CheckpointError."""
    try:
        header = read_header(file, size(file))
    except UnknownTypeError as problem:
        raise CheckpointError(f"{problem}; {_UNQUANTIZED}") from None
    except FormatError as problem:
        raise CheckpointError(f"damaged or truncated .safetensors: {problem}; {FETCH_AGAIN}") from None
    if "bitvit" in header.metadata:
        raise CheckpointError("is a packed bitvit model, already converted; use it as it is")
    if not header.entries:
        raise CheckpointError(f"holds no tensors; {GIVE_CHECKPOINT}")

    def read(names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        return {new: _read_entry(file, name, header.entries[name]) for name, new in names.items()}

    return Stored(header.entries, read, None, beside(header.metadata))


def _read_entry(file: io.BufferedReader, name: str, entry: Entry) -> NDArray[Any]:
    """One tensor of a .safetensors."""
    code = SAFETENSORS_CODES.get(entry.dtype)
    if code is None:
        remedy = _REAL if entry.dtype.startswith("C") else _UNQUANTIZED
        if entry.dtype.startswith("F8"):
            remedy = rewritten(os.fsdecode(file.name), None, value="v.float()")
        raise CheckpointError(
            f"{shown(name)} has dtype {entry.dtype}, expected one of {', '.join(SAFETENSORS_CODES)}; {remedy}"
        )
    raw = read_bytes(file, entry.begin, entry.end - entry.begin)
    try:
        stored: NDArray[Any] = raw.view(stored_dtype(code, "<")).reshape(entry.shape)
    except ValueError as problem:  # more dimensions than NumPy has, or an empty tensor of absurd ones
        raise CheckpointError(f"{shown(name)} has shape {shown(str(entry.shape))} ({problem}); {FETCH_AGAIN}") from None
    return native(stored, code)
