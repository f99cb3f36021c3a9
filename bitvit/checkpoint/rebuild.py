"""The globals that a pickle may speak of, and what each becomes: inert values (inert.py) and nothing else.

A global is only a key: into `CALLS`, a table of functions of this module that rebuild plain values and descriptions of
tensors, or into `NAMES`, which stay names. An object of any other class becomes an `Instance`; any other function ends
the reading. Globals are spelt 'module name', as in the GLOBAL opcode, with Python 3's names of modules.
"""

import builtins
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from bitvit.checkpoint.dtypes import STORAGE_CODES, TORCH_CODES, UNREAD_CODES, stored_dtype
from bitvit.checkpoint.inert import Global, Instance, Opaque, Storage, Tensor, UnreadTensor, described, kind_of
from bitvit.messages import listing

__all__ = ["CALLS", "NAMES", "is_class", "is_known", "make_dict", "make_set", "modern"]

_MAX_NDIM = 32  # NumPy 1's limit
_LONGEST_NAME, _MOST_DOTS = 300, 12  # of a class's module and name


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


def _make_instance(name: str) -> Callable[[], Instance]:
    def make(*_args: object) -> Instance:
        return Instance(name)

    return make


def _reconstruct(cls: object, _base: object = None, state: object = None) -> Instance:
    """How the pickle protocols before 2 make an object."""
    if not isinstance(cls, Global) or not is_class(cls.name):
        raise ValueError(f"an object of {described(cls)}, which is not a class")
    return Instance(cls.name, make_dict(state) if isinstance(state, dict) else {})


def _getattr(owner: object, attribute: object) -> object:
    """A member of an enum, a method of an object, or the class method that rebuilds a plain value: a name."""
    member = f"{owner.name if isinstance(owner, Global) else kind_of(owner)}.{attribute}"
    return Global(member) if member in CALLS else Opaque(member.replace(" ", "."))


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


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: object = None,
    _hooks: object = None,
    metadata: object = None,
    *_: object,
) -> Tensor | UnreadTensor:
    code = getattr(storage, "code", "")
    if code in UNREAD_CODES:
        return _unread_dtype(code)
    return _with_metadata(_make_tensor(storage, code, offset, size, stride), metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: object,
    _hooks: object,
    dtype: object,
    metadata: object = None,
    *_: object,
) -> Tensor | UnreadTensor:
    """Tensors over untyped storages: the dtypes that came after the storage classes."""
    name = dtype.name if isinstance(dtype, Global) else ""
    if name in TORCH_CODES:
        return _with_metadata(_make_tensor(storage, TORCH_CODES[name], offset, size, stride), metadata)
    if not _DTYPE.fullmatch(name):
        raise ValueError(f"a tensor of dtype {described(dtype)}, which is not supported")
    return _unread_dtype(name.removeprefix("torch "))


def _unread_dtype(name: str) -> UnreadTensor:
    return UnreadTensor(name, "v.float()" if name.startswith("float8") else None)


def _with_metadata(tensor: Tensor, metadata: object) -> Tensor | UnreadTensor:
    """A tensor as its metadata says that the storage is to be understood; torch writes an empty or no dict, {'neg':
    True} for a lazily negated tensor, which is obeyed, and {'conj': True} for a lazily conjugated one."""
    if not metadata:
        return tensor
    negated = isinstance(metadata, dict) and len(metadata) == 1 and metadata.get("neg") is True
    if negated and tensor.code != "b1":  # there is no minus of a bool
        return replace(tensor, negative=not tensor.negative)
    shown = listing(metadata) if isinstance(metadata, dict) else described(metadata)
    return UnreadTensor(f"oddly marked ({shown})", "v.resolve_conj().resolve_neg()")


def _unread(what: str, mend: str | None = None) -> Callable[..., UnreadTensor]:
    def make(*_args: object) -> UnreadTensor:
        return UnreadTensor(what, mend)

    return make


def _rebuild_parameter(data: object, *_flags: object) -> object:
    return data


def _rebuild_from_type(function: object, _type: object, args: Any, _state: object) -> object:
    """A tensor with Python attributes: the tensor alone."""
    if not isinstance(function, Global) or function.name not in _TENSOR_CALLS:
        raise ValueError(f"a tensor rebuilt by {described(function)}")
    return _TENSOR_CALLS[function.name](*args)


# ---------------------------------------------------------------------------------------------------------- the tables

_DTYPE = re.compile(r"torch (bool|half|b?float\d\w*|complex\d\w*|q?u?int\d\w*|bits\d\w*)")
"""Any dtype of torch, those of releases to come among them."""

_PLAIN_CLASSES = {
    "array": "array _array_reconstructor",
    "collections": "ChainMap UserDict UserList UserString",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "partial",
    "http": "HTTPMethod HTTPStatus",
    "ipaddress": "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network",
    "random": "Random",
    "re": "RegexFlag _compile",
    "signal": "Signals",
    "time": "struct_time",
    "types": "GenericAlias SimpleNamespace",
    "uuid": "SafeUUID UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
"""The standard library's classes whose objects are values, with the functions that rebuild some."""

_NUMPY_CALLS = {
    "numpy dtype": "NumPy dtype",
    "numpy.ma.core _mareconstruct": "NumPy array",
    "numpy.random._pickle __generator_ctor": "NumPy random generator",
    "numpy.random._pickle __bit_generator_ctor": "NumPy random generator",
    "numpy.random._pickle __randomstate_ctor": "NumPy random generator",
    "numpy.random.bit_generator __pyx_unpickle_SeedSequence": "NumPy random generator",
    **{
        f"{core}.{name}": what
        for core in ("numpy.core", "numpy._core")
        for name, what in (
            ("multiarray scalar", "NumPy scalar"),
            ("multiarray _reconstruct", "NumPy array"),
            ("numeric _frombuffer", "NumPy array"),
        )
    },
}
_NUMPY_TYPES = (
    "bool bool_ int8 int16 int32 int64 intc intp longlong uint8 uint16 uint32 uint64 uintc uintp ulonglong "
    "float16 float32 float64 longdouble complex64 complex128 clongdouble str_ bytes_ void object_ "
    "datetime64 timedelta64 ndarray"
)

_TENSOR_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils _rebuild_sparse_tensor": _unread("sparse", "v.to_dense()"),
    "torch._utils _rebuild_sparse_csr_tensor": _unread("sparse", "v.to_dense()"),
    "torch._utils _rebuild_qtensor": _unread("quantized", "v.dequantize() if v.is_quantized else v"),
    "torch._utils _rebuild_nested_tensor": _unread("nested"),
    "torch.nested._internal.nested_tensor _rebuild_njt": _unread("nested"),
    "torch._utils _rebuild_meta_tensor_no_storage": _unread("valueless meta"),
    "torch._utils _rebuild_wrapper_subclass": _unread("wrapped"),
    "torch._utils _rebuild_device_tensor_from_numpy": _unread("device", "v.cpu()"),
    "torch._utils _rebuild_device_tensor_from_cpu_tensor": _rebuild_parameter,
    "torch._utils _rebuild_xla_tensor": _unread("XLA", "v.cpu()"),
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
    "argparse Namespace": _make_instance("argparse Namespace"),
    "copyreg _reconstructor": _reconstruct,
    "_codecs encode": _encode,
    "_operator getitem": _opaque("type"),  # Optional[int]
    "builtins set": make_set,
    "builtins frozenset": make_set,
    "builtins list": _make_list,
    "builtins dict": make_dict,
    "builtins getattr": _getattr,
    **{f"builtins {name}": _opaque(name) for name in ("bytearray", "complex", "object", "range", "slice", "type")},
    **{
        f"builtins {name}": _opaque(name)
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    },
    **{
        f"{module} {name}": _make_path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    **{
        f"{module} {name}": _make_instance(f"{module} {name}")
        for module, names in _PLAIN_CLASSES.items()
        for name in names.split()
    },
    **{name: _opaque(what) for name, what in _NUMPY_CALLS.items()},
}
"""The globals that a pickle may call."""

NAMES = frozenset(
    {
        *STORAGE_CODES,
        *TORCH_CODES,
        *("torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter", "torch.storage TypedStorage"),
        *(
            f"torch{place} {storage.rpartition(' ')[2].replace('Storage', 'Tensor')}"
            for place in ("", ".cuda", ".sparse", ".cuda.sparse")
            for storage in STORAGE_CODES
            if "Untyped" not in storage
        ),
        *(f"torch per_{scheme}" for scheme in ("tensor_affine", "tensor_symmetric", "channel_affine")),
        *(f"torch per_channel_{scheme}" for scheme in ("symmetric", "affine_float_qparams")),
        *(f"numpy {name}" for name in _NUMPY_TYPES.split()),
        *(f"typing {name}" for name in ("Any", "Dict", "List", "Optional", "Sequence", "Tuple", "Type", "Union")),
        *(
            f"builtins {name}"
            for name in ("bool", "bytes", "float", "int", "str", "tuple", "Ellipsis", "NotImplemented")
        ),
    }
)
"""The globals that a pickle may only name, as an argument or a value."""

_PYTHON_2 = {
    **dict.fromkeys(("__builtin__", "exceptions"), "builtins"),
    **dict.fromkeys(("UserDict", "UserList", "UserString"), "collections"),
    "copy_reg": "copyreg",
}
_PYTHON_2_NAMES = {
    "builtins long": "builtins int",
    "builtins unicode": "builtins str",
    "builtins xrange": "builtins range",
    "collections IterableUserDict": "collections UserDict",
}


def modern(name: str) -> str:
    """Python 3's name of a global; up to pickle protocol 2, which torch.save writes, pickles hold Python 2's."""
    module, _, rest = name.partition(" ")
    if module not in _PYTHON_2:
        return name
    name = f"{_PYTHON_2[module]} {rest}"
    return _PYTHON_2_NAMES.get(name, name)


def is_class(name: str) -> bool:
    """Whether a global that is in no table is a class, whose objects may become stand-ins: by the way it is written.

    Of the standard library only the classes of the tables are; others of it act when they are called.
    """
    if len(name) > _LONGEST_NAME or name.count(".") > _MOST_DOTS:  # looking at it has to cost as little as an opcode
        return False
    module, _, rest = name.partition(" ")
    if module.partition(".")[0] in sys.stdlib_module_names or name in NAMES:
        return False
    return bool(module) and all(part.lstrip("_")[:1].isupper() for part in rest.split("."))


def is_known(name: str) -> bool:
    """Whether a pickle may speak of a global."""
    return name in CALLS or name in NAMES or is_class(name) or _DTYPE.fullmatch(name) is not None
