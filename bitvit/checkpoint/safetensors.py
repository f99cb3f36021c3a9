"""A .safetensors as a checkpoint: all its tensors."""

import io
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.dtypes import SAFETENSORS_CODES, native, stored_dtype
from bitvit.checkpoint.file import read_bytes, size
from bitvit.checkpoint.remedies import FETCH_AGAIN, GIVE_CHECKPOINT
from bitvit.checkpoint.state_dict import Content, no_ema, strip_prefixes
from bitvit.errors import CheckpointError
from bitvit.messages import shown
from bitvit.tensorfile import Entry, FormatError, read_header

__all__ = ["read_safetensors"]


def read_safetensors(file: io.BufferedReader, ema: bool) -> Content:
    """All tensors of a .safetensors file. Raises CheckpointError."""
    try:
        header = read_header(file, size(file))
    except FormatError as problem:
        raise CheckpointError(f"damaged or truncated .safetensors: {problem}; {FETCH_AGAIN}") from None
    if "bitvit" in header.metadata:
        raise CheckpointError("is a packed bitvit model, already converted; use it as it is")
    if ema:
        raise no_ema("a .safetensors file holds one state dict")
    if not header.entries:
        raise CheckpointError(f"holds no tensors; {GIVE_CHECKPOINT}")
    raw = {name: _read_entry(file, name, entry) for name, entry in header.entries.items()}
    return Content(strip_prefixes(raw), None, False)


def _read_entry(file: io.BufferedReader, name: str, entry: Entry) -> NDArray[Any]:
    """One tensor of a .safetensors."""
    code = SAFETENSORS_CODES.get(entry.dtype)
    if code is None:
        raise CheckpointError(
            f"{shown(name)} has dtype {entry.dtype}, expected one of {', '.join(SAFETENSORS_CODES)}; save it as float32"
        )
    raw = read_bytes(file, entry.begin, entry.end - entry.begin)
    try:
        stored: NDArray[Any] = raw.view(stored_dtype(code, "<")).reshape(entry.shape)
    except ValueError as problem:  # more dimensions than NumPy has, or an empty tensor of absurd ones
        raise CheckpointError(f"{shown(name)} has shape {shown(str(entry.shape))} ({problem}); {FETCH_AGAIN}") from None
    return native(stored, code)
