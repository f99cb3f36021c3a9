"""Element types of tensors: what each is called in files, how it is stored there, and the array it becomes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAFETENSORS_CODES", "STORAGE_CODES", "TORCH_CODES", "UNREAD_CODES", "native", "stored_dtype"]


class _Element(NamedTuple):
    code: str  # NumPy's type string without byte order; 'bf16', which NumPy has not, is one of ours
    safetensors: str
    storage: str | None  # torch's storage class; None: torch has none
    torch: str  # torch's dtype


_ELEMENTS = (
    _Element("f8", "F64", "DoubleStorage", "float64"),
    _Element("f4", "F32", "FloatStorage", "float32"),
    _Element("f2", "F16", "HalfStorage", "float16"),
    _Element("bf16", "BF16", "BFloat16Storage", "bfloat16"),
    _Element("i8", "I64", "LongStorage", "int64"),
    _Element("i4", "I32", "IntStorage", "int32"),
    _Element("i2", "I16", "ShortStorage", "int16"),
    _Element("i1", "I8", "CharStorage", "int8"),
    _Element("u8", "U64", None, "uint64"),
    _Element("u4", "U32", None, "uint32"),
    _Element("u2", "U16", None, "uint16"),
    _Element("u1", "U8", "ByteStorage", "uint8"),
    _Element("b1", "BOOL", "BoolStorage", "bool"),
)

# Elements whose storages are only skipped: torch's storage class, and how many bytes each takes.
_UNREAD = {
    "complex64": ("ComplexFloatStorage", 8),
    "complex128": ("ComplexDoubleStorage", 16),
    "qint8": ("QInt8Storage", 1),
    "quint8": ("QUInt8Storage", 1),
    "qint32": ("QInt32Storage", 4),
    "quint4x2": ("QUInt4x2Storage", 1),
    "quint2x4": ("QUInt2x4Storage", 1),
}

# Globals of a pickle are spelt 'module name', as in the GLOBAL opcode.
SAFETENSORS_CODES = {element.safetensors: element.code for element in _ELEMENTS}
UNREAD_CODES = frozenset(_UNREAD)
"""Codes of elements that have a size but become no array: torch's names of them."""
STORAGE_CODES = {
    f"{module} {storage}": code
    for module in ("torch", "torch.cuda")
    for storage, code in (
        *((element.storage, element.code) for element in _ELEMENTS if element.storage),
        *((storage, code) for code, (storage, _) in _UNREAD.items()),
    )
}
STORAGE_CODES |= {"torch UntypedStorage": "u1", "torch.storage UntypedStorage": "u1"}
TORCH_CODES = {f"torch {element.torch}": element.code for element in _ELEMENTS}


def stored_dtype(code: str, order: str) -> np.dtype[Any]:
    """How elements of a code lie in a file of byte order '<' or '>': bfloat16 as a float32's upper half, bool as a
    byte; those of `UNREAD_CODES` as so many bytes."""
    if code in UNREAD_CODES:
        return np.dtype(f"V{_UNREAD[code][1]}")
    return np.dtype(order + {"bf16": "u2", "b1": "u1"}.get(code, code))


def native(stored: NDArray[Any], code: str) -> NDArray[Any]:
    """Elements of `stored_dtype(code)` in native order, half precision widened to float32; same shape."""
    if code == "bf16":
        bits: NDArray[np.uint32] = stored.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    dtype = {"f2": "f4", "b1": "?"}.get(code, code)  # to bool by value: a byte may be other than 0 and 1
    return stored.astype(np.dtype(dtype), copy=False)
