"""An assembler of pickles: opcode by opcode, so it needs no torch and can say what no pickler would write."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."  # a legacy .pth begins with it


@dataclass(frozen=True)
class Raw:
    """Opcodes that leave one object on the stack."""

    code: bytes


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def emit(value: object) -> bytes:
    """Opcodes that build a plain value."""
    if isinstance(value, Raw):
        return value.code
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, tuple):
        return b"(" + b"".join(map(emit, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(emit, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(emit(item) for pair in value.items() for item in pair) + b"u"
    raise TypeError(type(value).__name__)


def glob(module: str, name: str) -> Raw:
    return Raw(f"c{module}\n{name}\n".encode())


def call(module: str, name: str, *args: object) -> Raw:
    return Raw(glob(module, name).code + emit(args) + b"R")


def build(target: Raw, state: object) -> Raw:
    return Raw(target.code + emit(state) + b"b")


def namespace(**fields: object) -> Raw:
    """argparse.Namespace as pickle protocol 2 writes it."""
    return build(Raw(glob("argparse", "Namespace").code + b")\x81"), fields)


def storage(key: str, count: int, kind: str = "FloatStorage", *view: object) -> Raw:
    return Raw(emit(("storage", glob("torch", kind), key, "cuda:0", count, *view)) + b"Q")


def tensor(key: str, size: tuple[int, ...], stride: tuple[int, ...] = (), offset: int = 0, **options: Any) -> Raw:
    """A tensor over a storage of its own size, or of options['count'] elements of options['kind']."""
    base = storage(key, options.get("count", int(np.prod(size))), options.get("kind", "FloatStorage"))
    steps = stride or tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", base, offset, size, steps, False, hooks)


def pickled(value: object) -> bytes:
    return b"\x80\x02" + emit(value) + b"."


def attacks(canary: str) -> dict[str, bytes]:
    """Pickles that make a file when unpickled, by a shell or by Python; each leaves one object."""
    shell, touch = text(f"touch {canary}"), text(f"open({canary!r}, 'w').close()")
    reduce = b"cos\nsystem\n(" + shell + b"tR"
    nested = b"\x80\x02" + reduce + b"."
    module = call("importlib", "import_module", "os").code
    return {
        "reduce": reduce,
        "posix": b"cposix\nsystem\n(" + shell + b"tR",
        "stack global": text("os") + text("system") + b"\x93(" + shell + b"tR",
        "eval": b"cbuiltins\neval\n(" + touch + b"tR",
        "exec": b"cbuiltins\nexec\n(" + touch + b"tR",
        "inst": b"(" + shell + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + shell + b"o",
        "getattr": b"cbuiltins\ngetattr\n(" + module + text("system") + b"tR(" + shell + b"tR",
        "memo": b"cos\nsystem\nq\x050h\x05(" + shell + b"tR",
        "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n](" + shell + b"etRtR",
        "partial": b"cfunctools\npartial\n(cos\nsystem\n" + shell + b"tR)R",
        "subprocess": b"csubprocess\ncall\n(](" + text("touch") + text(canary) + b"etR",
        "dotted": call("pathlib", "Path", canary).code + b"q\x010cpathlib\nPath.touch\nh\x01\x85R",
        "nested": b"c_pickle\nloads\n(B" + struct.pack("<I", len(nested)) + nested + b"tR",
    }
