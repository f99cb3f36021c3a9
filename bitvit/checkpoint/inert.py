"""What a pickle may hold, and what it becomes: inert values, built by the few functions below and by nothing else.

A global is only a key into `CALLS`, a table of functions of this module that rebuild plain values and descriptions of
tensors, or into `NAMES`, which stay names. Globals are spelt 'module name', as in the GLOBAL opcode.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bitvit.checkpoint.dtypes import STORAGE_CODES, TORCH_CODES, stored_dtype
from bitvit.messages import shown

__all__ = [
    "CALLS",
    "NAMES",
    "Global",
    "Inert",
    "Namespace",
    "Opaque",
    "Storage",
    "Tensor",
    "described",
    "kind_of",
    "make_dict",
    "make_set",
    "weight",
]

_MAX_NDIM = 32  # NumPy 1's limit


class Inert:
    """A stand-in for an object that is never made; it shows what it stands for, and nothing that it holds."""

    @property
    def kind(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self.kind}>"


@dataclass(frozen=True, eq=False, repr=False)
class Global(Inert):
    """A global that stays a name: a storage class, a dtype, a function of `CALLS`."""

    name: str

    @property
    def kind(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(Inert):
    """An object that a checkpoint may hold and no state dict needs: a NumPy scalar, a random generator's state."""

    what: str

    @property
    def kind(self) -> str:
        return self.what


@dataclass(frozen=True, eq=False, repr=False)
class Namespace(Inert):
    """argparse.Namespace."""

    fields: dict[object, object] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return "Namespace"


@dataclass(frozen=True, eq=False, repr=False)
class Storage(Inert):
    """A persistent id: `count` elements of type `code` in the file's storage `key`."""

    code: str
    key: str
    count: int

    @property
    def kind(self) -> str:
        return "storage"

    @property
    def nbytes(self) -> int:
        return self.count * stored_dtype(self.code, "<").itemsize


@dataclass(frozen=True, eq=False, repr=False)
class Tensor(Inert):
    """A tensor not yet read: where its elements lie in its storage, counted in elements."""

    storage: Storage
    code: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def kind(self) -> str:
        return "tensor"

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * stored_dtype(self.code, "<").itemsize


def kind_of(value: object) -> str:
    """A short name of what a value is, or stands for."""
    return value.kind if isinstance(value, Inert) else type(value).__name__


def described(value: object) -> str:
    """A value for a message: text and numbers quoted, escaped and cut, of anything else the kind."""
    return shown(value) if isinstance(value, str | bytes | int | float | None) else f"<{kind_of(value)}>"


def weight(value: object) -> int:
    """What copying a value costs in steps."""
    if isinstance(value, str | bytes):
        return len(value) // 32
    return len(value) if isinstance(value, list | tuple | set | dict) else 0


# ---------------------------------------------------------------------------------------------------------- containers


def _key(value: object) -> object:
    """A dict or set key that is cheap and safe to hash. Tuples are not (a deep one overflows the C stack), nor are
    huge integers (they can be chosen to collide); such keys occur in no state dict and become placeholders."""
    if value is None or isinstance(value, str | bytes | float) or (isinstance(value, int) and value.bit_length() < 60):
        return value
    return Opaque("key")


def _items(value: Any) -> Any:
    """The elements of a container; text is not one, lest a long one become a huge list."""
    if not isinstance(value, list | tuple | set | dict):
        raise ValueError(f"{described(value)} in place of a container")
    return value


def make_dict(items: Any = ()) -> dict[object, object]:
    """A dict of pairs, or of another dict; ValueError for anything else."""
    pairs = items.items() if isinstance(items, dict) else _items(items)
    return {_key(name): value for name, value in pairs}


def _make_defaultdict(_factory: object = None, items: Any = ()) -> dict[object, object]:
    return make_dict(items)


def make_set(items: Any = ()) -> set[object]:
    """A set of a container's elements; ValueError for anything else."""
    return {_key(item) for item in _items(items)}


def _make_list(items: Any = (), _max_length: object = None) -> list[object]:
    return list(_items(items))


# ------------------------------------------------------------------------------------------------------------- scalars


def _make_namespace() -> Namespace:
    return Namespace()


def _make_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _make_device(kind: object, index: object = None) -> Opaque:
    return Opaque("torch.device" if index is None else f"torch.device {described(kind)}:{described(index)}")


def _encode(text: str, encoding: str) -> bytes:
    """How pickle protocol 2 writes bytes: as text to be encoded to Latin-1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode of {described(text)} to {described(encoding)}")
    return text.encode("latin-1")


def _opaque(what: str) -> Callable[..., Opaque]:
    def make(*_args: object) -> Opaque:
        return Opaque(what)

    return make


# ------------------------------------------------------------------------------------------------------------- tensors


def _make_tensor(storage: Any, code: str, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor whose every element lies inside its storage; ValueError otherwise."""
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor over {described(storage)}, which is not a storage")
    if not isinstance(size, list | tuple) or not isinstance(stride, list | tuple) or len(size) != len(stride):
        raise ValueError("a tensor whose size and stride are not lists of one length")
    if len(size) > _MAX_NDIM or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError(f"a tensor of {len(size)} dimensions with an offset, size or stride that is not a count")
    if 0 in size:  # needs no element, but NumPy multiplies the other dimensions all the same
        if math.prod(count for count in size if count) >> 40:
            raise ValueError("an empty tensor of absurd dimensions")
        return Tensor(storage, code, 0, tuple(size), (0,) * len(size))
    # A dimension of 1 is never stepped along: its stride may be anything, and NumPy must not see it.
    steps = tuple(step if count > 1 else 0 for count, step in zip(size, stride, strict=True))
    last = offset + sum((count - 1) * step for count, step in zip(size, steps, strict=True))
    available = storage.nbytes // stored_dtype(code, "<").itemsize
    if last >= available:
        raise ValueError(f"a tensor whose last element is number {last} of a storage of {available}")
    return Tensor(storage, code, offset, tuple(size), steps)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_flags: object) -> Tensor:
    return _make_tensor(storage, getattr(storage, "code", ""), offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: object, _hooks: object, dtype: object, *_: object
) -> Tensor:
    """Tensors over untyped storages: the dtypes that came after the storage classes."""
    code = TORCH_CODES.get(dtype.name) if isinstance(dtype, Global) else None
    if code is None:
        raise ValueError(f"a tensor of dtype {described(dtype)}, which is not supported")
    return _make_tensor(storage, code, offset, size, stride)


def _rebuild_parameter(data: object, *_flags: object) -> object:
    return data


def _rebuild_from_type(function: object, _type: object, args: Any, _state: object) -> object:
    """A tensor with Python attributes: the tensor alone."""
    if not isinstance(function, Global) or function.name not in _TENSOR_CALLS:
        raise ValueError(f"a tensor rebuilt by {described(function)}")
    return _TENSOR_CALLS[function.name](*args)


# ---------------------------------------------------------------------------------------------------------- the tables


def _under(modules: tuple[str, ...], calls: Mapping[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """The same functions under each of the modules that have had them."""
    return {f"{module} {name}": function for module in modules for name, function in calls.items()}


_TENSOR_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
}
CALLS: Mapping[str, Callable[..., object]] = {
    **_TENSOR_CALLS,
    "torch._tensor _rebuild_from_type_v2": _rebuild_from_type,
    "torch Size": _make_list,
    "torch device": _make_device,
    "torch.serialization _get_layout": _opaque("torch.layout"),
    "collections OrderedDict": make_dict,
    "collections defaultdict": _make_defaultdict,
    "collections Counter": make_dict,
    "collections deque": _make_list,
    "argparse Namespace": _make_namespace,
    "_codecs encode": _encode,
    **_under(
        ("builtins", "__builtin__"),
        {
            "set": make_set,
            "frozenset": make_set,
            "list": _make_list,
            "dict": make_dict,
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
"""The globals that a pickle may call."""

NAMES = frozenset(
    {
        *STORAGE_CODES,
        *TORCH_CODES,
        *("torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter", "numpy ndarray"),
        *(
            f"{module} {kind}"
            for module in ("builtins", "__builtin__")
            for kind in ("int", "float", "str", "bool", "object")
        ),
    }
)
"""The globals that a pickle may name, as an argument or a value."""
