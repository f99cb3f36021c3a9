"""Checkpoint files: .safetensors and .pth to a flat state dict of NumPy arrays (SPEC section 5).

The only module that touches untrusted containers. A .pth file is a pickle, and a pickle is a program. None is ever
given to `pickle`: `_InertPickle` walks the opcodes with `pickletools.genops`, a parser that calls nothing, and builds
inert values. A global is only a key into `_CALLS`, a table of functions of this module that rebuild plain values and
descriptions of tensors, or into `_NAMES`, which stay names; any other global ends the reading. Tensor bytes are read
afterwards, for the chosen state dict alone.

Names that come from a file appear in messages through `_show`: quoted, escaped and cut.
"""

import contextlib
import hashlib
import io
import itertools
import math
import os
import pickletools
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from bitvit.errors import CheckpointError
from bitvit.tensorfile import Entry, FormatError, read_header

__all__ = ["Checkpoint", "read_checkpoint"]

_MAX_PICKLE = 16 << 20  # bytes; BHViT-small with optimizer state and EMA has a pickle of about 1 MB
_MAX_WORK = (
    600_000  # opcodes and copied elements of a file; that one has about 3e5. Bounds time to 2 s, memory to 150 MB
)
_MAX_DIRECTORY = 4 << 20  # bytes of an archive's list of members; that one has 0.2 MB
_MAX_INT_BITS = 1024  # the largest legitimate one is the 77-bit magic number of the legacy format
_MAX_NDIM = 32  # NumPy 1's limit
_MAX_GROWTH = 4  # a state dict of more than this many times its file's size can only be overlapping views

_RESAVE = (
    "if you trust the file, save the weights alone in the environment it was made in: "
    "torch.save({'model': model.state_dict()}, 'weights.pth')"
)
_FETCH_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class Checkpoint:
    """What a training checkpoint holds, as plain NumPy and Python values."""

    path: Path
    state: dict[str, NDArray[Any]]
    """Name (without 'module.') to array, C-contiguous and native-endian: float16 and bfloat16 widened to float32,
    all other dtypes as stored; no NaN, no infinity."""
    args: dict[str, Any] | None
    """The training script's options: scalars, flat lists and tuples of them, and '<type>' for anything else. None if
    the file has none."""
    sha256: str
    """Hex digest of the file's bytes."""
    has_ema: bool
    """Whether the file also holds averaged weights."""
    format: str
    """'safetensors', 'pth-zip' or 'pth-legacy'."""


class _Content(NamedTuple):
    """What the readers of the three formats return."""

    state: dict[str, NDArray[Any]]
    args: dict[str, Any] | None
    has_ema: bool


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool = False) -> Checkpoint:
    """Read a .safetensors or .pth training checkpoint without executing anything in it (SPEC section 5).

    The format is told by content, not by the file's name. ema=True takes the averaged weights ('model_ema') in place
    of the trained ones. Raises CheckpointError for a file that is not such a checkpoint, is damaged, asks for a
    global outside the allow-list, or holds NaN or infinities.
    """
    path = Path(path)
    where = str(path)
    try:
        with _open(path) as file:
            form = _sniff(file, path)
            content = _READERS[form](file, where, ema)
            digest = _sha256(file)
    except OSError as problem:
        raise CheckpointError(f"{where}: cannot be read: {problem.strerror or problem}; check file and disk") from None
    _check_finite(content.state, where)
    return Checkpoint(path, content.state, content.args, digest, content.has_ema, form)


# ---------------------------------------------------------------------------------------------------------- the file


def _open(path: Path) -> io.BufferedReader:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; check the path") from None
    except ValueError as problem:  # a NUL character
        raise CheckpointError(f"{_show(str(path))}: is no path ({problem}); check the path") from None
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path}: is a directory, expected a file; give the .pth or .safetensors inside it")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer for ever
        raise CheckpointError(f"{path}: is not a regular file; save the checkpoint to a file first")
    return path.open("rb")


def _size(file: io.BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _sha256(file: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _read_bytes(file: io.BufferedReader, offset: int, size: int, where: str) -> NDArray[np.uint8]:
    """`size` bytes from `offset` on, read straight into a new array: uint8 [size]."""
    if offset < 0 or offset + size > _size(file):
        raise CheckpointError(
            f"{where}: truncated: bytes {offset}..{offset + size} lie outside the file; {_FETCH_AGAIN}"
        )
    out = np.empty(size, np.uint8)
    file.seek(offset)
    if file.readinto(out.data) != size:
        raise CheckpointError(f"{where}: the file changed while it was read; try again")
    return out


def _show(value: object) -> str:
    """A value out of a file for a message: quoted, control characters escaped, at most 80 characters."""
    if isinstance(value, str | bytes):
        value = value[:80]
    text = repr(value) if isinstance(value, str | bytes | int | float | None) else f"<{_kind(value)}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _listing(names: Collection[object]) -> str:
    shown = ", ".join(_show(name) for name in itertools.islice(names, 8))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# -------------------------------------------------------------------------------------------------------- element types

# The code (NumPy's type string without byte order; 'bf16' is none), and its names: in a .safetensors, as a torch
# storage class (None: torch has none), as a torch dtype.
_DTYPES = (
    ("f8", "F64", "DoubleStorage", "float64"),
    ("f4", "F32", "FloatStorage", "float32"),
    ("f2", "F16", "HalfStorage", "float16"),
    ("bf16", "BF16", "BFloat16Storage", "bfloat16"),
    ("i8", "I64", "LongStorage", "int64"),
    ("i4", "I32", "IntStorage", "int32"),
    ("i2", "I16", "ShortStorage", "int16"),
    ("i1", "I8", "CharStorage", "int8"),
    ("u8", "U64", None, "uint64"),
    ("u4", "U32", None, "uint32"),
    ("u2", "U16", None, "uint16"),
    ("u1", "U8", "ByteStorage", "uint8"),
    ("b1", "BOOL", "BoolStorage", "bool"),
)
_SAFETENSORS_CODES = {name: code for code, name, _, _ in _DTYPES}
_STORAGE_CODES = {f"torch {name}": code for code, _, name, _ in _DTYPES if name}
_STORAGE_CODES |= {"torch UntypedStorage": "u1", "torch.storage UntypedStorage": "u1"}
_TORCH_CODES = {f"torch {name}": code for code, _, _, name in _DTYPES}


def _stored_dtype(code: str, order: str) -> np.dtype[Any]:
    """How elements of a code lie in a file: bfloat16 as the upper half of a float32, bool as a byte."""
    return np.dtype(order + {"bf16": "u2", "b1": "u1"}.get(code, code))


def _native(stored: NDArray[Any], code: str) -> NDArray[Any]:
    """Elements of `_stored_dtype(code)` in native order, half precision widened to float32; same shape."""
    if code == "bf16":
        bits: NDArray[np.uint32] = stored.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    dtype = {"f2": "f4", "b1": "?"}.get(code, code)  # to bool by value: a byte may be other than 0 and 1
    return stored.astype(np.dtype(dtype), copy=False)


# -------------------------------------------------------------------------------------------- which kind of file is it

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = _MAGIC_NUMBER.to_bytes(10, "little")

# (offset, bytes, what it is, what to do)
_GIVE_CHECKPOINT = "give the training checkpoint (.pth or .safetensors)"
_UNPACK = "unpack it and give the checkpoint inside"
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights?)", _GIVE_CHECKPOINT),
    (0, b"GGUF", "a GGUF model", _GIVE_CHECKPOINT),
    (0, b"\x93NUMPY", "a NumPy array file", _GIVE_CHECKPOINT),
    (4, b"TFL3", "a TensorFlow Lite model", _GIVE_CHECKPOINT),
    (257, b"ustar", "a tar archive (also PyTorch's format before 0.1.10)", _UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a rar archive", _UNPACK),
    (0, b"\x80", "a pickle that torch.save did not write", _RESAVE),
)


def _sniff(file: io.BufferedReader, path: Path) -> str:
    """Name the format by the file's first bytes; CheckpointError says what a foreign file is."""
    head = file.read(1024)
    if not head:
        raise CheckpointError(f"{path}: the file is empty; {_FETCH_AGAIN}")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "pth-zip"
    if head[:1] == b"\x80" and _MAGIC_BYTES in head[:32]:
        return "pth-legacy"
    if head[8:9] == b"{" and not any(head[4:8]):  # a header below 4 GB
        return "safetensors"
    what, remedy = _name_foreign(head, path)
    raise CheckpointError(f"{path}: this is {what}, expected a .pth or .safetensors checkpoint; {remedy}")


def _name_foreign(head: bytes, path: Path) -> tuple[str, str]:
    """What a file that is no checkpoint is, and what to do about it."""
    for offset, magic, what, remedy in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return what, remedy
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page saved in place of the file", "download the file itself, not the page about it"
    if text.startswith((b"{", b"[")):
        return "JSON text", "give the checkpoint, and a config.json apart"
    # An ONNX model is a protobuf: field 1 (the version), then as a rule field 2 (the producer's name).
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model", _GIVE_CHECKPOINT
    return f"of no known kind (it begins with {_show(head[:8])})", f"{_GIVE_CHECKPOINT}, or {_FETCH_AGAIN}"


# ------------------------------------------------------------------------------------------------------- .safetensors


def _read_safetensors(file: io.BufferedReader, where: str, ema: bool) -> _Content:
    """All tensors of a .safetensors file."""
    try:
        header = read_header(file, _size(file))
    except FormatError as problem:
        raise CheckpointError(f"{where}: damaged or truncated .safetensors: {problem}; {_FETCH_AGAIN}") from None
    if "bitvit" in header.metadata:
        raise CheckpointError(f"{where}: is a packed bitvit model, already converted; use it as it is")
    if ema:
        raise _no_ema(where, "a .safetensors file holds one state dict")
    if not header.entries:
        raise CheckpointError(f"{where}: holds no tensors; {_GIVE_CHECKPOINT}")
    raw = {name: _read_entry(file, entry, f"{where}: {_show(name)}") for name, entry in header.entries.items()}
    return _Content(_strip_prefixes(raw, where), None, False)


def _read_entry(file: io.BufferedReader, entry: Entry, where: str) -> NDArray[Any]:
    """One tensor of a .safetensors."""
    code = _SAFETENSORS_CODES.get(entry.dtype)
    if code is None:
        raise CheckpointError(
            f"{where} has dtype {entry.dtype}, expected one of {', '.join(_SAFETENSORS_CODES)}; save it as float32"
        )
    raw = _read_bytes(file, entry.begin, entry.end - entry.begin, where)
    try:
        stored: NDArray[Any] = raw.view(_stored_dtype(code, "<")).reshape(entry.shape)
    except ValueError as problem:  # more dimensions than NumPy has, or an empty tensor of absurd ones
        raise CheckpointError(f"{where} has shape {_show(str(entry.shape))} ({problem}); {_FETCH_AGAIN}") from None
    return _native(stored, code)


# ----------------------------------------------------------------------------------------------- inert pickle: values


@dataclass(frozen=True, eq=False)
class _Global:
    """A global that stays a name: a storage class, a dtype, a function of `_CALLS`."""

    name: str


@dataclass(frozen=True, eq=False)
class _Opaque:
    """An object that a checkpoint may hold and no state dict needs: a NumPy scalar, a random generator's state."""

    what: str


@dataclass(frozen=True, eq=False)
class _Namespace:
    """argparse.Namespace."""

    fields: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Storage:
    """A persistent id: `count` elements of type `code` in the file's storage `key`."""

    code: str
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * _stored_dtype(self.code, "<").itemsize


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor not yet read: where its elements lie in its storage, counted in elements."""

    storage: _Storage
    code: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * _stored_dtype(self.code, "<").itemsize


def _kind(value: object) -> str:
    """A short name of what a value stands for."""
    match value:
        case _Opaque(what=text):
            return text
        case _Global(name=text):
            return text
        case _:
            return {"_Tensor": "tensor", "_Namespace": "Namespace"}.get(type(value).__name__, type(value).__name__)


def _key(value: object) -> object:
    """A dict or set key that is cheap and safe to hash. Tuples are not (a deep one overflows the C stack), nor are
    huge integers (they can be chosen to collide); such keys occur in no state dict and become placeholders."""
    if value is None or isinstance(value, str | bytes | float) or (isinstance(value, int) and value.bit_length() < 60):
        return value
    return _Opaque("key")


def _weight(value: object) -> int:
    """What copying a value costs in steps."""
    if isinstance(value, str | bytes):
        return len(value) // 32
    return len(value) if isinstance(value, list | tuple | set | dict) else 0


# ------------------------------------------------------------------------- inert pickle: the globals that may be called


def _items(value: Any) -> Any:
    """The elements of a container; text is none, lest a long one become a huge list."""
    if not isinstance(value, list | tuple | set | dict):
        raise ValueError(f"{_show(value)} in place of a container")
    return value


def _make_dict(items: Any = ()) -> dict[object, object]:
    pairs = items.items() if isinstance(items, dict) else _items(items)
    return {_key(name): value for name, value in pairs}


def _make_defaultdict(_factory: object = None, items: Any = ()) -> dict[object, object]:
    return _make_dict(items)


def _make_set(items: Any = ()) -> set[object]:
    return {_key(item) for item in _items(items)}


def _make_list(items: Any = (), _max_length: object = None) -> list[object]:
    return list(_items(items))


def _make_namespace() -> _Namespace:
    return _Namespace()


def _make_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _make_device(kind: object, index: object = None) -> _Opaque:
    return _Opaque("torch.device" if index is None else f"torch.device {_show(kind)}:{_show(index)}")


def _encode(text: str, encoding: str) -> bytes:
    """How pickle protocol 2 writes bytes: as text to be encoded to Latin-1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode of {_show(text)} to {_show(encoding)}")
    return text.encode("latin-1")


def _opaque(what: str) -> Callable[..., _Opaque]:
    def make(*_args: object) -> _Opaque:
        return _Opaque(what)

    return make


def _make_tensor(storage: Any, code: str, offset: Any, size: Any, stride: Any) -> _Tensor:
    """A tensor whose every element lies inside its storage; ValueError otherwise."""
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor over {_show(storage)}, which is no storage")
    if not isinstance(size, list | tuple) or not isinstance(stride, list | tuple) or len(size) != len(stride):
        raise ValueError("a tensor whose size and stride are no lists of one length")
    if len(size) > _MAX_NDIM or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError(f"a tensor of {len(size)} dimensions with an offset, size or stride that is no count")
    if 0 in size:  # needs no element, but NumPy multiplies the other dimensions all the same
        if math.prod(count for count in size if count) >> 40:
            raise ValueError("an empty tensor of absurd dimensions")
        return _Tensor(storage, code, 0, tuple(size), (0,) * len(size))
    # A dimension of 1 is never stepped along: its stride may be anything, and NumPy must not see it.
    steps = tuple(step if count > 1 else 0 for count, step in zip(size, stride, strict=True))
    last = offset + sum((count - 1) * step for count, step in zip(size, steps, strict=True))
    available = storage.nbytes // _stored_dtype(code, "<").itemsize
    if last >= available:
        raise ValueError(f"a tensor whose last element is number {last} of a storage of {available}")
    return _Tensor(storage, code, offset, tuple(size), steps)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_flags: object) -> _Tensor:
    return _make_tensor(storage, getattr(storage, "code", ""), offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: object, _hooks: object, dtype: object, *_: object
) -> _Tensor:
    """Tensors over untyped storages: the dtypes that came after the storage classes."""
    code = _TORCH_CODES.get(dtype.name) if isinstance(dtype, _Global) else None
    if code is None:
        raise ValueError(f"a tensor of dtype {_show(dtype)}, which is not supported")
    return _make_tensor(storage, code, offset, size, stride)


def _rebuild_parameter(data: object, *_flags: object) -> object:
    return data


def _rebuild_from_type(function: object, _type: object, args: Any, _state: object) -> object:
    """A tensor with Python attributes: the tensor alone."""
    if not isinstance(function, _Global) or function.name not in _TENSOR_CALLS:
        raise ValueError(f"a tensor rebuilt by {_show(function)}")
    return _TENSOR_CALLS[function.name](*args)


def _under(modules: tuple[str, ...], calls: Mapping[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """The same functions under each of the modules that have had them."""
    return {f"{module} {name}": function for module in modules for name, function in calls.items()}


# Globals are spelt 'module name', as in the GLOBAL opcode.
_TENSOR_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
}
_CALLS: dict[str, Callable[..., object]] = {
    **_TENSOR_CALLS,
    "torch._tensor _rebuild_from_type_v2": _rebuild_from_type,
    "torch Size": _make_list,
    "torch device": _make_device,
    "torch.serialization _get_layout": _opaque("torch.layout"),
    "collections OrderedDict": _make_dict,
    "collections defaultdict": _make_defaultdict,
    "collections Counter": _make_dict,
    "collections deque": _make_list,
    "argparse Namespace": _make_namespace,
    "_codecs encode": _encode,
    **_under(
        ("builtins", "__builtin__"),
        {
            "set": _make_set,
            "frozenset": _make_set,
            "list": _make_list,
            "dict": _make_dict,
            "complex": _opaque("complex"),
        },
    ),
    **_under(
        ("pathlib", "pathlib._local"),
        dict.fromkeys(("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"), _make_path),
    ),
    "numpy dtype": _opaque("NumPy dtype"),
    **_under(
        ("numpy.core.multiarray", "numpy._core.multiarray"),
        {"scalar": _opaque("NumPy scalar"), "_reconstruct": _opaque("NumPy array")},
    ),
    **_under(("numpy.core.numeric", "numpy._core.numeric"), {"_frombuffer": _opaque("NumPy array")}),
}

_NAMES = {
    *_STORAGE_CODES,
    *_TORCH_CODES,
    *("torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter", "numpy ndarray"),
    *(
        f"{module} {kind}"
        for module in ("builtins", "__builtin__")
        for kind in ("int", "float", "str", "bool", "object")
    ),
}


# -------------------------------------------------------------------------------------------- inert pickle: the machine

# Opcodes that push the value pickletools has parsed for them.
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTIES: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


class _InertPickle:
    """Interpreter of a file's pickles that builds inert values only: containers, scalars and the stand-ins above.

    Linear in the pickles' length, without recursion. Anything outside the allow-lists is a CheckpointError."""

    def __init__(self, stream: io.BytesIO, where: str) -> None:
        self.stream = stream
        self.where = where
        self.position = 0
        self.work = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, _Storage] = {}  # by key, of all the pickles

    def run(self) -> object:
        """The next pickle's object; the stream then stands behind the pickle."""
        self.stack, self.marks, self.memo = [], [], {}
        # ValueError: arguments that pickletools cannot parse, values that fit no opcode. IndexError: an empty stack.
        # TypeError: a function of _CALLS with the wrong arguments. Warning: an odd escape in a STRING's argument,
        # where warnings are errors.
        try:
            for opcode, argument, position in pickletools.genops(self.stream):
                self.position = position or 0
                self.charge(1)
                self.step(opcode.name, argument)
            (value,) = self.stack
        except (ValueError, IndexError, TypeError, Warning) as problem:
            raise CheckpointError(
                f"{self.where}: malformed or truncated pickle at byte {self.position}: {problem}; {_FETCH_AGAIN}"
            ) from None
        return value

    def step(self, name: str, argument: Any) -> None:
        """Obey one opcode."""
        if name in _LITERALS:
            self.push_literal(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTIES:
            self.stack.append(_EMPTIES[name]())
        else:
            self.step_stack(name, argument)

    def step_stack(self, name: str, argument: Any) -> None:
        """Opcodes of the memo, the marks and the containers."""
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.get(argument)
            case "MARK":
                self.marks.append(len(self.stack))
            case "POP":
                self.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop_many(int(name[-1]))))
            case "FROZENSET":
                self.stack.append(_make_set(self.pop_to_mark()))
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items(self.pop_many(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "ADDITEMS":
                self.add_items(self.pop_to_mark())
            case _:
                self.step_call(name, argument)

    def step_call(self, name: str, argument: Any) -> None:
        """Opcodes that would call something in a true pickle machine."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "GLOBAL":
                self.push_global(argument)
            case "STACK_GLOBAL":
                self.push_global(" ".join(self.pop_many(2)))
            case "REDUCE" | "NEWOBJ":
                self.call(*self.pop_many(2))
            case "NEWOBJ_EX":
                self.call(*self.pop_many(3))
            case "BUILD":
                self.build(self.pop())
            case "BINPERSID":
                self.push_storage(self.pop())
            case _:
                self.refuse(f"the opcode {name} ({_show(argument)})")

    def charge(self, work: int) -> None:
        """Count opcodes and copied elements: a container used again and again must not be copied without bound."""
        self.work += work
        if self.work > _MAX_WORK:
            raise CheckpointError(f"{self.where}: the pickle takes more than {_MAX_WORK} steps to read; {_RESAVE}")

    def refuse(self, what: str) -> NoReturn:
        """End the reading: the pickle wants something that is not on the allow-lists."""
        arguments = (what, *self.remaining_arguments())
        if any(isinstance(argument, str) and "torch.nn.modules." in argument for argument in arguments):
            kind = "it is a whole pickled nn.Module, not a state dict"
        elif "torch._utils." in what or what.endswith("Storage'") or "torch.float" in what:
            kind = "it holds a kind of tensor that no BHViT has"
        else:
            kind = "it holds more than plain values"
        raise CheckpointError(
            f"{self.where}: the pickle asks for {what} at byte {self.position}: {kind}; "
            f"only tensors and plain Python values are read, and nothing was executed; {_RESAVE}"
        )

    def remaining_arguments(self) -> Iterator[object]:
        """Arguments of the opcodes not yet looked at, as far as they can be parsed."""
        with contextlib.suppress(ValueError, Warning):
            for _, argument, _ in itertools.islice(pickletools.genops(self.stream), _MAX_WORK - self.work):
                yield argument

    # -- stack, memo, containers

    def pop(self) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            raise ValueError("an opcode takes more than there is behind the last mark")
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def get(self, slot: int) -> None:
        if slot not in self.memo:
            raise ValueError(f"memo slot {slot} is empty")
        self.stack.append(self.memo[slot])

    def push_literal(self, value: object) -> None:
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise ValueError(f"an integer of {value.bit_length()} bits")
        self.stack.append(value)

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"items appended to {_show(target)}, which is no list")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"{len(items)} keys and values put into {_show(target)}")
        target.update(_make_dict(list(zip(items[::2], items[1::2], strict=True))))

    def add_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise ValueError(f"items added to {_show(target)}, which is no set")
        target.update(_make_set(items))

    # -- globals, calls, persistent ids

    def push_global(self, name: str) -> None:
        self.charge(2)  # its text makes it the slowest of opcodes
        if name not in _CALLS and name not in _NAMES:
            self.refuse(f"the global {_show(name.replace(' ', '.'))}")
        self.stack.append(_Global(name))

    def call(self, function: object, args: object, options: object = None) -> None:
        """Push what a function of `_CALLS` makes of the arguments."""
        if not isinstance(function, _Global) or function.name not in _CALLS or options:
            self.refuse(f"a call of {_show(function)}")
        if not isinstance(args, tuple):
            raise ValueError(f"{function.name} called with {_show(args)} in place of arguments")
        self.charge(len(args) + sum(_weight(arg) for arg in args))
        self.stack.append(_CALLS[function.name](*args))

    def build(self, state: object) -> None:
        """Attributes of the object on the stack: kept for a Namespace, of no use for an OrderedDict (`_metadata`)."""
        target = self.stack[-1]
        if isinstance(target, _Namespace):
            self.charge(_weight(state))
            target.fields.update(_make_dict(state))
        elif not isinstance(target, dict | _Opaque):
            self.refuse(f"setting the attributes of {_show(target)}")

    def push_storage(self, persistent_id: object) -> None:
        """('storage', class, key, location, count) and, in the legacy format, a view, which must be None."""
        match persistent_id:
            case ("storage", _Global(name=name), str(key), _, int(count), *view) if name in _STORAGE_CODES:
                if type(count) is bool or count < 0 or view not in ([], [None]):
                    raise ValueError(f"a storage of {count} elements, or a view of one")
                self.storages[key] = _Storage(_STORAGE_CODES[name], key, count)
                self.stack.append(self.storages[key])
            case ("module", *_):
                self.refuse("the source code of an nn.Module (torch.nn.modules.)")
            case _:
                raise ValueError("a persistent id that describes no storage")


# --------------------------------------------------------------------------------------------------------- .pth: zip


class _Extent(NamedTuple):
    """Where a storage lies in the file."""

    offset: int
    nbytes: int
    crc: int | None  # None: the legacy format, or torch.serialization.set_crc32_options(False)


class _Source(NamedTuple):
    """A .pth file whose pickle is interpreted and whose storages are not read yet."""

    content: object
    locate: Callable[[_Storage], _Extent]
    order: str  # '<' or '>'


class _Member(NamedTuple):
    """An archive's member, and where in the file whatever follows it begins."""

    entry: zipfile.ZipInfo
    stop: int


def _read_zip(file: io.BufferedReader, where: str, ema: bool) -> _Content:
    entries, stop = _zip_entries(file, where)
    prefix = _zip_prefix([entry.filename for entry in entries], where)
    members = _zip_members(entries, stop, where)
    order = _zip_byte_order(file, members.get(f"{prefix}byteorder"), where)
    pickled = members[f"{prefix}data.pkl"]
    if pickled.entry.file_size > _MAX_PICKLE:
        raise CheckpointError(
            f"{where}: data.pkl has {pickled.entry.file_size} bytes, expected at most {_MAX_PICKLE}; {_RESAVE}"
        )
    code = _read_extent(file, _member_extent(file, pickled, where), where).tobytes()
    content = _InertPickle(io.BytesIO(code), f"{where}: data.pkl").run()

    def locate(storage: _Storage) -> _Extent:
        member = members.get(f"{prefix}data/{storage.key}")
        if member is None or member.entry.file_size < storage.nbytes:
            raise CheckpointError(
                f"{where}: storage {_show(storage.key)} has {member.entry.file_size if member else 'no'} bytes, "
                f"expected {storage.nbytes}; {_FETCH_AGAIN}"
            )
        return _member_extent(file, member, where)

    return _select(file, _Source(content, locate, order), where, ema)


class _DirectoryFile:
    """A file for zipfile to read the directory from, and no more of it than a checkpoint's would be."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MAX_DIRECTORY + 1 if size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(data) > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has more than {_MAX_DIRECTORY} bytes")
        return data


def _zip_entries(file: io.BufferedReader, where: str) -> tuple[list[zipfile.ZipInfo], int]:
    """The directory of the archive, and where it begins."""
    try:
        with zipfile.ZipFile(_DirectoryFile(file)) as archive:  # all that it needs to read
            return archive.infolist(), archive.start_dir
    # Beside BadZipFile, malformed numbers in the directory surface as these.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, OSError) as problem:
        raise CheckpointError(
            f"{where}: truncated or damaged zip archive: {_show(str(problem))}; {_FETCH_AGAIN}"
        ) from None


def _zip_prefix(names: Sequence[str], where: str) -> str:
    """The archive's one directory, 'archive/' or the file's stem, ending in '/'."""
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"{where}: is a TorchScript archive, a program, expected a state dict; {_RESAVE}")
    prefixes = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(set(prefixes)) != 1:
        packed = any(name.endswith((".pth", ".pt", ".safetensors", ".bin", ".ckpt")) for name in names)
        raise CheckpointError(
            f"{where}: is a zip archive with {len(prefixes)} data.pkl in it, expected the one that torch.save writes "
            f"(found {_listing(names)}); {_UNPACK if packed else _GIVE_CHECKPOINT}"
        )
    return prefixes[0]


def _zip_members(entries: Sequence[zipfile.ZipInfo], stop: int, where: str) -> dict[str, _Member]:
    """Name to member, each stored plainly under a name of its own and in a place of its own; `stop` ends the last."""
    members: dict[str, _Member] = {}
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        fault = "occurs twice" if entry.filename in members else _member_fault(entry)
        if fault is None and entry.header_offset + _LOCAL_HEADER + entry.file_size > stop:
            fault = "overlaps what follows it"
        if fault:
            raise CheckpointError(
                f"{where}: archive member {_show(entry.filename)} {fault}, which torch.save never writes; {_RESAVE}"
            )
        members[entry.filename] = _Member(entry, stop)
        stop = entry.header_offset
    return members


_LOCAL_HEADER = 30  # bytes before a member's name
_UNREADABLE = 0x2061  # flags: encrypted, patched, strongly encrypted, masked


def _member_fault(entry: zipfile.ZipInfo) -> str | None:
    name = entry.filename
    if entry.flag_bits & _UNREADABLE:
        return "is encrypted or patched"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed"
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        return "has a path that leaves the archive"
    return None


def _zip_byte_order(file: io.BufferedReader, member: _Member | None, where: str) -> str:
    """'<' or '>'; releases before 2.1 say nothing and mean little-endian."""
    text = b"little" if member is None else _read_extent(file, _member_extent(file, member, where), where).tobytes()
    order = {b"little": "<", b"big": ">"}.get(text)
    if order is None:
        raise CheckpointError(f"{where}: byteorder is {_show(text)}, expected 'little' or 'big'; {_FETCH_AGAIN}")
    return order


def _member_extent(file: io.BufferedReader, member: _Member, where: str) -> _Extent:
    """Where a stored member's bytes lie: behind its local header, whose length the directory does not tell."""
    entry = member.entry
    header = _read_bytes(file, entry.header_offset, _LOCAL_HEADER, where).tobytes()
    if header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{where}: damaged: no archive member at byte {entry.header_offset}; {_FETCH_AGAIN}")
    flags, method = struct.unpack("<HH", header[6:10])
    name_size, extra_size = struct.unpack("<HH", header[26:])
    begin = entry.header_offset + _LOCAL_HEADER + name_size + extra_size
    name = _read_bytes(file, entry.header_offset + _LOCAL_HEADER, name_size, where).tobytes()
    same_name = name.decode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace") == entry.orig_filename
    if not same_name or method != zipfile.ZIP_STORED or flags & _UNREADABLE or begin + entry.file_size > member.stop:
        raise CheckpointError(
            f"{where}: archive member {_show(entry.filename)} is not what the archive's directory says; {_FETCH_AGAIN}"
        )
    return _Extent(begin, entry.file_size, entry.CRC or None)


def _read_extent(file: io.BufferedReader, extent: _Extent, where: str) -> NDArray[np.uint8]:
    """The bytes of a storage or member, compared with their check sum: uint8 [nbytes]."""
    raw = _read_bytes(file, extent.offset, extent.nbytes, where)
    if extent.crc is not None and zlib.crc32(raw.data) != extent.crc:
        raise CheckpointError(
            f"{where}: damaged: the {extent.nbytes} bytes at {extent.offset} do not have the stored check sum; "
            f"{_FETCH_AGAIN}"
        )
    return raw


# ------------------------------------------------------------------------------------------------------- .pth: legacy


def _read_legacy(file: io.BufferedReader, where: str, ema: bool) -> _Content:
    content, extents = _legacy_pickles(file, where)

    def locate(storage: _Storage) -> _Extent:
        extent = extents.get(storage.key)
        if extent is None or extent.nbytes < storage.nbytes:
            raise CheckpointError(f"{where}: no storage {_show(storage.key)} of {storage.nbytes} bytes; {_FETCH_AGAIN}")
        return extent

    # Whatever machine wrote it: torch swaps the bytes of legacy storages to little-endian.
    return _select(file, _Source(content, locate, "<"), where, ema)


def _legacy_pickles(file: io.BufferedReader, where: str) -> tuple[object, dict[str, _Extent]]:
    """Five pickles (magic number, version, system, object, storage keys), then the storages in the keys' order."""
    file.seek(0)
    stream = io.BytesIO(file.read(_MAX_PICKLE))
    machine = _InertPickle(stream, where)
    magic, version, _system = (machine.run() for _ in range(3))
    if magic != _MAGIC_NUMBER or version != 1001:
        raise CheckpointError(f"{where}: legacy format version {_show(version)}, expected 1001; {_RESAVE}")
    content, keys = machine.run(), machine.run()
    return content, _legacy_extents(file, keys, stream.tell(), machine.storages, where)


def _legacy_extents(
    file: io.BufferedReader, keys: object, offset: int, storages: Mapping[str, _Storage], where: str
) -> dict[str, _Extent]:
    """Walk the storages behind the pickles, each an int64 element count and its elements."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise CheckpointError(f"{where}: the list of storages does not fit the tensors; {_FETCH_AGAIN}")
    extents: dict[str, _Extent] = {}
    for key in keys:
        (count,) = struct.unpack("<q", _read_bytes(file, offset, 8, where).tobytes())
        if count != storages[key].count:
            raise CheckpointError(
                f"{where}: storage {_show(key)} has {count} elements, expected {storages[key].count}; {_FETCH_AGAIN}"
            )
        extents[key] = _Extent(offset + 8, storages[key].nbytes, None)
        offset += 8 + storages[key].nbytes
    if offset > _size(file):
        raise CheckpointError(f"{where}: truncated: {_size(file)} bytes, expected {offset}; {_FETCH_AGAIN}")
    return extents


# ------------------------------------------------------------------------------------- .pth: from pickle to state dict

_STATE_KEYS = ("model", "state_dict", "model_state_dict")
_EMA_KEYS = ("model_ema", "state_dict_ema")


def _select(file: io.BufferedReader, source: _Source, where: str, ema: bool) -> _Content:
    """Find the wanted state dict and the options in what was pickled, and read that state dict's tensors."""
    top = source.content
    if not isinstance(top, dict):
        raise CheckpointError(f"{where}: holds {_show(top)}, expected a state dict; {_RESAVE}")
    averaged = next((top[key] for key in _EMA_KEYS if isinstance(top.get(key), dict)), None)
    if ema and averaged is None:
        raise _no_ema(where, f"found {_listing(top)}, expected {_show(_EMA_KEYS[0])}")
    chosen = averaged if ema and averaged is not None else _trained(top, where)
    tensors = _tensors(chosen, where)
    return _Content(
        _strip_prefixes(_decode(file, source, tensors, where), where), _plain_args(top), averaged is not None
    )


def _no_ema(where: str, found: str) -> CheckpointError:
    return CheckpointError(f"{where}: has no averaged (EMA) weights: {found}; read it without ema")


def _trained(top: dict[Any, Any], where: str) -> dict[Any, Any]:
    """The state dict inside a training script's dict, or that dict itself."""
    for key in _STATE_KEYS:
        if isinstance(top.get(key), dict):
            return top[key]  # type: ignore[no-any-return]
    if any(isinstance(value, _Tensor) for value in top.values()):
        return top
    raise CheckpointError(
        f"{where}: no state dict inside: found {_listing(top) or 'nothing'}, "
        f"expected one of {', '.join(map(repr, _STATE_KEYS))} or tensors; {_RESAVE}"
    )


def _tensors(state: dict[Any, Any], where: str) -> dict[str, _Tensor]:
    """The state dict, once all its names are text and all its values tensors."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(
                f"{where}: entry {_show(name)} of the state dict is {_show(value)}, expected a tensor; {_RESAVE}"
            )
    if not state:
        raise CheckpointError(f"{where}: the state dict is empty; {_RESAVE}")
    return state


def _plain_args(top: dict[Any, Any]) -> dict[str, Any] | None:
    """The training script's options, without anything nested: a few bytes of pickle can nest without end."""
    args = top.get("args")
    fields = args.fields if isinstance(args, _Namespace) else args
    if not isinstance(fields, dict):
        return None
    return {name: _plain(value) for name, value in fields.items() if isinstance(name, str)}


def _plain(value: object) -> object:
    scalar = str | bytes | int | float | None
    if isinstance(value, scalar):
        return value
    if isinstance(value, list | tuple) and len(value) <= 1000 and all(isinstance(item, scalar) for item in value):
        return value
    return value.name.replace(" ", ".") if isinstance(value, _Global) else f"<{_kind(value)}>"


def _strip_prefixes(state: dict[str, NDArray[Any]], where: str) -> dict[str, NDArray[Any]]:
    """Take off what DistributedDataParallel ('module.') and torch.compile ('_orig_mod.') put before the names."""
    stripped: dict[str, NDArray[Any]] = {}
    for full, array in state.items():
        name = full
        while name.startswith(("module.", "_orig_mod.")):
            name = name.partition(".")[2]
        if name in stripped:
            raise CheckpointError(
                f"{where}: {_show(name)} occurs with and without a prefix such as 'module.'; {_RESAVE}"
            )
        stripped[name] = array
    return stripped


# ----------------------------------------------------------------------------------------- .pth: from storage to array


def _decode(
    file: io.BufferedReader, source: _Source, tensors: Mapping[str, _Tensor], where: str
) -> dict[str, NDArray[Any]]:
    """Read the tensors, one storage at a time: each byte once, however many tensors share it."""
    by_storage: dict[str, list[str]] = {}
    extents: dict[str, _Extent] = {}
    for name, tensor in tensors.items():
        by_storage.setdefault(tensor.storage.key, []).append(name)
        extents[tensor.storage.key] = source.locate(tensor.storage)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    stored = sum(extent.nbytes for extent in extents.values())
    if stored > _size(file) or needed > _MAX_GROWTH * _size(file):
        raise CheckpointError(
            f"{where}: {needed} bytes of tensors over {stored} bytes of storages do not fit a file of "
            f"{_size(file)} bytes: they overlap; {_RESAVE}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, names in by_storage.items():
        raw = _read_extent(file, extents[key], where)
        arrays.update((name, _tensor_array(raw, tensors[name], source.order)) for name in names)
    return {name: arrays[name] for name in tensors}


def _tensor_array(raw: NDArray[np.uint8], tensor: _Tensor, order: str) -> NDArray[Any]:
    """A tensor out of its storage's bytes: without a copy where it is all of them, else only its own elements."""
    dtype = _stored_dtype(tensor.code, order)
    elements = raw[: raw.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)[tensor.offset :]
    picked = np.lib.stride_tricks.as_strided(elements, tensor.size, [step * dtype.itemsize for step in tensor.stride])
    if picked.nbytes != raw.nbytes or not picked.flags.c_contiguous:
        picked = picked.copy(order="C")
    return _native(picked, tensor.code)


def _check_finite(state: Mapping[str, NDArray[Any]], where: str) -> None:
    faulty = {name: array for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()}
    for name, array in faulty.items():
        raise CheckpointError(
            f"{where}: {_show(name)} has {np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite of "
            f"{array.size} values ({len(faulty)} such tensors in all), expected finite ones; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )


_READERS: dict[str, Callable[[io.BufferedReader, str, bool], _Content]] = {
    "safetensors": _read_safetensors,
    "pth-zip": _read_zip,
    "pth-legacy": _read_legacy,
}
