"""Mutations of .pth files: pickles by grammar, by opcode and by byte, inside archives whose fields lie."""

import collections
import contextlib
import functools
import io
import itertools
import pickletools
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bitvit.checkpoint.rebuild import CALLS, NAMES

from . import damage
from .pickles import MAGIC, Raw, attacks, build, call, emit, glob, namespace, pickled, storage, tensor, text
from .seeds import PTH_SEEDS, PthSeed

# ------------------------------------------------------------------------------------------------- pickles by opcode

_OPCODES = [opcode for opcode in pickletools.opcodes if opcode.name != "STOP"]
_GLOBALS = [
    *(name.replace(" ", "\n") for name in (*CALLS, *sorted(NAMES))),
    *("os\nsystem", "builtins\neval", "torch\nload", "torch.storage\n_load_from_bytes", "__main__\nModel"),
    *("__main__\nrun", "torch.optim.adamw\nAdamW", "torch.nn.modules.linear\nLinear", "__builtin__\nunicode"),
]
_ATTACKS = [*attacks("/nonexistent/canary").values()]


def _argument(rng: Random, kind: str) -> bytes:
    """Some argument for an opcode, as pickletools names its kinds; now and then one that is too short."""
    number = damage.number(rng)
    data = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 3, 9))))
    fixed: dict[str, Callable[[], bytes]] = {
        "uint1": lambda: bytes([number & 0xFF]),
        "uint2": lambda: struct.pack("<H", number & 0xFFFF),
        "int4": lambda: struct.pack("<I", number & 0xFFFFFFFF),
        "uint4": lambda: struct.pack("<I", number & 0xFFFFFFFF),
        "uint8": lambda: struct.pack("<Q", number & (1 << 64) - 1),
        "float8": lambda: struct.pack("<Q", number & (1 << 64) - 1),
        "string1": lambda: bytes([len(data)]) + data,
        "bytes1": lambda: bytes([len(data)]) + data,
        "unicodestring1": lambda: bytes([len(data)]) + data,
        "string4": lambda: struct.pack("<I", len(data)) + data,
        "bytes4": lambda: struct.pack("<I", len(data)) + data,
        "unicodestring4": lambda: struct.pack("<I", len(data)) + data,
        "bytes8": lambda: struct.pack("<Q", rng.choice((len(data), number & (1 << 64) - 1))) + data,
        "bytearray8": lambda: struct.pack("<Q", len(data)) + data,
        "unicodestring8": lambda: struct.pack("<Q", len(data)) + data,
        "long1": lambda: bytes([len(data)]) + data,
        "long4": lambda: struct.pack("<I", rng.choice((len(data), number & 0xFFFFFFFF))) + data,
        "decimalnl_short": lambda: b"%d\n" % number,
        "decimalnl_long": lambda: b"%dL\n" % number if rng.random() < 0.9 else b"9" * 5000 + b"L\n",
        "floatnl": lambda: rng.choice((b"1.5\n", b"nan\n", b"1e999\n", b"x\n")),
        "stringnl": lambda: rng.choice((b"'a'\n", b"'\\q'\n", b'"\\x41"\n', b"a\n", b"'\n")),
        "stringnl_noescape": lambda: rng.choice((b"0\n", b"abc\n", b"\xff\n")),
        "stringnl_noescape_pair": lambda: rng.choice(_GLOBALS).encode() + b"\n",
        "unicodestringnl": lambda: rng.choice((b"a\n", b"\\u00e9\n", b"\\ud800\n", b"\\u12\n")),
    }
    return fixed[kind]()


def _opcode(rng: Random) -> bytes:
    opcode = rng.choice(_OPCODES)
    return opcode.code.encode("latin-1") + (b"" if opcode.arg is None else _argument(rng, opcode.arg.name))


@functools.lru_cache(maxsize=256)
def split(code: bytes) -> Sequence[bytes]:
    """A pickle's opcodes, each with its argument; the last piece is what cannot be read."""
    starts = []
    with contextlib.suppress(Exception):  # pickletools raises several
        for _, _, position in pickletools.genops(code):
            starts.append(position or 0)
    return tuple(code[start:stop] for start, stop in itertools.pairwise([*starts, len(code)]))


def _edit_opcodes(rng: Random, given: Sequence[bytes]) -> bytes:
    """Opcodes taken out, doubled, exchanged, put in; attacks and pieces of other pickles among them."""
    ops = list(given)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(ops)) if ops else 0
        match rng.randrange(8):
            case 0 if ops:
                del ops[at : at + rng.randint(1, 3)]
            case 1 if ops:
                ops[at:at] = ops[at : at + rng.randint(1, 8)] * rng.choice((1, 1, 1, 2, 50))
            case 2 if ops:
                other = rng.randrange(len(ops))
                ops[at], ops[other] = ops[other], ops[at]
            case 3 if ops:
                ops[at] = _opcode(rng)
            case 4:
                donor = rng.choice(_DONORS)
                start = rng.randrange(len(donor))
                ops[at:at] = donor[start : start + rng.randint(1, 20)]
            case 5:
                ops.insert(at, rng.choice(_ATTACKS))
            case 6 if ops:
                number = damage.number(rng)
                if ops[at][:1] in (b"J", b"K", b"M", b"\x8a"):
                    ops[at] = emit(number)
            case _:
                ops.insert(at, _opcode(rng))
    return b"".join(ops)


# ------------------------------------------------------------------------------------------------- pickles by grammar


def _value(rng: Random, depth: int) -> Raw:
    """Something that a checkpoint may hold, or nearly."""
    if depth == 0 or rng.random() < 0.3:
        return Raw(rng.choice(_LEAVES)(rng))
    inner = [_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    match rng.randrange(8):
        case 0:
            return Raw(emit(inner))
        case 1:
            return Raw(emit(tuple(inner)))
        case 2:
            return Raw(b"}(" + b"".join(text(f"k{i}") + item.code for i, item in enumerate(inner)) + b"u")
        case 3:
            return Raw(b"}(" + b"".join(item.code * 2 for item in inner) + b"u")
        case 4:
            module, name = rng.choice(_GLOBALS).split("\n")
            return call(module, name, *inner)
        case 5:
            return build(Raw(_value(rng, depth - 1).code), Raw(_value(rng, depth - 1).code))
        case 6:
            return namespace(**{f"a{i}": item for i, item in enumerate(inner)})
        case _:
            return Raw(emit(inner) + b"0" + _value(rng, depth - 1).code)


def _tensor(rng: Random) -> bytes:
    ndim = rng.choice((0, 1, 1, 2, 2, 3, 33))
    sides = [rng.choice((0, 1, 2, 3, damage.number(rng))) for _ in range(ndim)]
    steps = [rng.choice((0, 1, 2, 3, damage.number(rng))) for _ in range(ndim)]
    kind = rng.choice(
        ("FloatStorage", "HalfStorage", "BFloat16Storage", "ByteStorage", "BoolStorage", "ComplexFloatStorage")
    )
    base = storage(rng.choice(("0", "1", "9")), rng.choice((0, 1, 5, 6, 100)), kind)
    offset = rng.choice((0, 0, 1, damage.number(rng)))
    size, stride = tuple(sides), tuple(steps)
    hooks = call("collections", "OrderedDict")
    name = rng.choice(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v2", "_rebuild_tensor_v3"))
    more: tuple[object, ...] = ()
    if name.endswith("v3"):
        more = (glob("torch", rng.choice(("uint16", "float32", "bfloat16", "float8_e5m2"))),)
    if not name.endswith("tensor") and rng.random() < 0.2:
        more = (*more, rng.choice(({"neg": True}, {"conj": True}, {"neg": 1}, {}, 5)))
    return call("torch._utils", name, base, offset, size, stride, False, hooks, *more).code


_LEAVES: tuple[Callable[[Random], bytes], ...] = (
    lambda rng: emit(damage.number(rng)),
    lambda rng: emit(rng.choice(("", "a", "model", "x" * 300, "\x1b[2J", "é"))),
    lambda rng: emit(rng.choice((None, True, False, 1.5, float("nan"), float("inf")))),
    lambda rng: emit(rng.choice(((), [], {}))),
    lambda rng: b"c" + rng.choice(_GLOBALS).encode() + b"\n",
    lambda _: b"C\x03\x00\xffa",
    lambda rng: _opcode(rng),
    _tensor,
    _tensor,
    _tensor,
)


def _grammatical(rng: Random) -> bytes:
    state = {f"w{i}": Raw(_tensor(rng)) for i in range(rng.randint(0, 3))}
    state |= {"v": tensor("0", (5,))}
    if rng.random() < 0.3:
        return pickled(state)
    wrapper: dict[str, object] = {rng.choice(("model", "state_dict", "net")): state}
    for key in rng.sample(("args", "hyper_parameters", "optimizer", "model_ema", "epoch"), rng.randint(0, 3)):
        wrapper[key] = _value(rng, 3)
    return pickled(wrapper)


# ------------------------------------------------------------------------------------------------------------ archives


@dataclass
class Member:
    """An archive's member; `local` and `central` replace fields of its two headers, by their place."""

    name: bytes
    data: bytes
    extra: bytes = b""
    local: dict[int, int] = field(default_factory=dict)
    central: dict[int, int] = field(default_factory=dict)


_LOCAL, _CENTRAL, _END = "<4sHHHHHIIIHH", "<4sHHHHHHIIIHHHHHII", "<4sHHHHIIH"


def zip_bytes(members: list[Member], end: dict[int, int]) -> bytes:
    """An archive of stored members; `end` replaces fields of the end record."""
    body, directory = bytearray(), bytearray()
    for member in members:
        crc, size = zlib.crc32(member.data), len(member.data)
        offset = len(body)
        local = [b"PK\x03\x04", 20, 0, 0, 0, 0, crc, size, size, len(member.name), len(member.extra)]
        body += _packed(_LOCAL, local, member.local) + member.name + member.extra + member.data
        central = [b"PK\x01\x02", 20, 20, 0, 0, 0, 0, crc, size, size, len(member.name), len(member.extra), 0, 0, 0, 0]
        directory += _packed(_CENTRAL, [*central, offset], member.central) + member.name + member.extra
    count = len(members)
    record = [b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0]
    return bytes(body + directory) + _packed(_END, record, end)


def _packed(form: str, fields: list[Any], changes: dict[int, int]) -> bytes:
    letters = form[2:]
    for place, value in changes.items():
        fields[place] = value & (0xFFFF if letters[place] == "H" else 0xFFFFFFFF)
    return struct.pack(form, *fields)


_NAMES = (
    b"archive/data/0", b"archive/data.pkl", b"/archive/data/0", b"archive/../data/0", b"C:/data/0", b"archive\\data\\0",
    b"other/data.pkl", b"archive/code/__torch__.py", b"archive/data/\xff", b"", b"archive/byteorder", b"a" * 3000,
)  # fmt: skip


def members_of(data: bytes) -> list[Member] | None:
    """The members of an archive whose headers are as zip_bytes writes them, lies aside; None if it is no archive."""
    at = data.rfind(b"PK\x05\x06")
    if at < 0 or at + struct.calcsize(_END) > len(data):
        return None
    count, _, place = struct.unpack_from("<HII", data, at + 10)
    members = []
    for _ in range(min(count, 200)):
        if data[place : place + 4] != b"PK\x01\x02" or place + struct.calcsize(_CENTRAL) > len(data):
            break
        fields = struct.unpack_from(_CENTRAL, data, place)
        nbytes, name, extra, offset = fields[8], fields[10], fields[11], fields[16]
        start = place + struct.calcsize(_CENTRAL)
        named, further = data[start : start + name], data[start + name : start + name + extra]
        content = offset + struct.calcsize(_LOCAL) + name + extra
        members.append(Member(named, data[content : content + nbytes], further))
        place = start + name + extra
    return members or None


def _edit_headers(rng: Random, data: bytes) -> bytes:
    """One to three fields of an archive's headers, changed where they are."""
    changed = bytearray(data)
    places = [
        (found.start(), form)
        for magic, form in ((b"PK\x03\x04", _LOCAL), (b"PK\x01\x02", _CENTRAL), (b"PK\x05\x06", _END))
        for found in re.finditer(re.escape(magic), data)
    ]
    for _ in range(rng.randint(1, 3) if places else 0):
        start, form = rng.choice(places)
        letters = form[3:]  # behind the magic bytes
        field = rng.randrange(1, len(letters))
        at, size = start + struct.calcsize(form[: 3 + field]), struct.calcsize(letters[field])
        value = rng.choice((damage.number(rng), rng.randrange(300), rng.randrange(2000)))
        changed[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(changed)


def _edit_members(rng: Random, members: list[Member]) -> None:
    member = rng.choice(members)
    match rng.randrange(6):
        case 0:
            member.name = rng.choice(_NAMES)
        case 1:
            members.remove(member)
        case 2:
            members.insert(rng.randrange(len(members)), member)
        case 3:
            size = rng.choice((8, 16, 24, 28))
            body = b"".join(struct.pack("<Q", damage.number(rng) & (1 << 64) - 1) for _ in range(4))[:size]
            member.extra = struct.pack("<HH", rng.choice((1, 0x7075, 7)), rng.choice((size, 0, 60000))) + body
            member.central[rng.choice((8, 9, 16))] = 0xFFFFFFFF
        case 4:
            member.data = damage.damage(rng, member.data)
        case _:
            members.append(Member(rng.choice((b"archive/data/2", b"archive/version", b"archive/byteorder")), b"big"))


# ----------------------------------------------------------------------------------------------------------- the whole


def mutate(rng: Random, data: bytes) -> bytes:
    """A .pth file with its pickle, its archive or its bytes changed."""
    way = rng.randrange(10)
    if way == 0:
        return damage.damage(rng, data)
    if data[:1] == b"\x80":
        return _mutated_legacy(rng, data)
    members = members_of(data)
    if members is None:
        return damage.damage(rng, data)
    if way in (1, 2):
        return _edit_headers(rng, data)
    pickles = [member for member in members if member.name.endswith(b".pkl")]
    if way == 3 or not pickles:
        _edit_members(rng, members)
    else:
        pickles[0].data = _mutated_pickle(rng, pickles[0].data)
    return zip_bytes(members, {})


def _mutated_pickle(rng: Random, code: bytes) -> bytes:
    way = rng.randrange(10)
    if way < 2:
        code = _grammatical(rng)
        return damage.damage(rng, code) if way else code
    ops = split(code) if way < 8 else []
    return _edit_opcodes(rng, ops) if ops else damage.damage(rng, code)


def _mutated_legacy(rng: Random, data: bytes) -> bytes:
    """A file of five pickles and their storages with one of them changed."""
    stream, ends = io.BytesIO(data), [0]
    with contextlib.suppress(Exception):  # pickletools raises several
        for _ in range(5):
            collections.deque(pickletools.genops(stream), maxlen=0)
            ends.append(stream.tell())
    parts = [data[start:end] for start, end in itertools.pairwise([*ends, len(data)])]
    at = rng.randrange(len(parts))
    if rng.random() < 0.6 and len(parts) > 3:
        at = 3
    part = parts[at]
    if at == len(parts) - 1:
        parts[at] = damage.damage(rng, part)
    elif at == 3:
        parts[at] = _mutated_pickle(rng, part)
    else:
        parts[at] = rng.choice((damage.damage(rng, part), _edit_opcodes(rng, split(part)), rng.choice(_ATTACKS), b"N."))
    return b"".join(parts)


def whole(seed: PthSeed) -> bytes:
    """The file of a seed."""
    return _legacy(seed) if seed.legacy else _zip(seed)


def _zip(seed: PthSeed) -> bytes:
    members = [Member(b"archive/data.pkl", seed.code), Member(b"archive/byteorder", b"little")]
    members += [Member(b"archive/data/" + key.encode(), data) for key, data in seed.storages.items()]
    return zip_bytes([*members, Member(b"archive/version", b"3\n")], {})


def _legacy(seed: PthSeed) -> bytes:
    head = [MAGIC, pickled(1001), pickled({"little_endian": True}), seed.code, pickled(list(seed.storages))]
    tail = [struct.pack("<Q", len(data) // (4 if len(data) > 4 else 1)) + data for data in seed.storages.values()]
    return b"".join((*head, *tail))


_DONORS = [split(seed.code) for seed in PTH_SEEDS]
