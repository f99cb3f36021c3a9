"""Reading the header of a .safetensors file that anyone may have written.

    8 bytes     size of the header, little-endian
    header      JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}
    the rest    the tensors' bytes, which fill it without a gap

The safetensors library writes such files, and the tests hold this module against it: what it refuses is refused here.
Here a file is read, not mapped, for a mapping kills the process if the file shrinks meanwhile; a header has a limit
that suits a network; and a key may occur only once, so that nobody is shown one tensor and given another.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from bitvit.messages import shown

__all__ = [
    "BITS",
    "MAX_HEADER",
    "Entry",
    "FormatError",
    "Header",
    "UnknownTypeError",
    "parse_json",
    "read_header",
    "whole_number",
]

MAX_HEADER = 4 << 20  # bytes; BHViT-small has 0.2 MB
PREFIX = 8  # bytes before the header

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element."""

_METADATA = "__metadata__"
_MAX_ELEMENTS = 1 << 60  # no product of a tensor's dimensions may exceed it, those of 0 left out
_MAX_DIGITS = 100  # Python reads a number in the square of its length


class FormatError(ValueError):
    """The file is not well formed; its text says why, but neither which file nor what to do."""


class UnknownTypeError(FormatError):
    """A tensor's dtype is none of `BITS`: the file may be of a later format."""


@dataclass(frozen=True)
class Entry:
    """A tensor: type, shape, and where in the file its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file holds; `start` is where the header ends."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    start: int


def read_header(file: BinaryIO, size: int) -> Header:
    """Read and check the header of an open file of `size` bytes. Raises FormatError."""
    file.seek(0)
    length = int.from_bytes(file.read(PREFIX), "little")
    start = PREFIX + length
    if size < PREFIX or start > size:
        raise FormatError(f"a header of {length} bytes in a file of {size}")
    if length > MAX_HEADER:
        raise FormatError(f"a header of {length} bytes, expected at most {MAX_HEADER}")
    raw = file.read(length)
    if raw[:1] != b"{":
        raise FormatError(f"a header that begins with {raw[:8]!r}, expected JSON")
    try:
        fields = parse_json(raw.decode())
    except UnicodeDecodeError as problem:
        raise FormatError(f"a header that is not UTF-8 ({problem.reason} at byte {problem.start})") from None
    metadata = _metadata(fields.pop(_METADATA, {}))
    entries = {name: _entry(name, value, start) for name, value in fields.items()}
    _check_places(entries.items(), start, size)
    return Header(entries, metadata, start)


def parse_json(text: str) -> Any:
    """The value of a JSON text in which no key occurs twice, all numbers are finite and all text can be encoded.

    Raises FormatError.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=whole_number)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair, which no text may hold
            json.dumps(value, ensure_ascii=False).encode()
    except FormatError:
        raise
    except (ValueError, RecursionError) as problem:  # UnicodeEncodeError among them
        raise FormatError(f"broken JSON ({str(problem)[:100]})") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FormatError(f"the key {shown(twice)} occurs twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise FormatError(f"{name}, which is not JSON")


def whole_number(digits: str) -> int:
    """An integer in JSON. Raises FormatError for one that no float could hold."""
    if len(digits) > _MAX_DIGITS:
        raise FormatError(f"a number of {len(digits)} digits")
    return int(digits)


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(f"{_METADATA} is not an object of strings")
    return value


def _entry(name: str, fields: object, start: int) -> Entry:
    """One tensor's description, alone."""
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        error = UnknownTypeError if isinstance(dtype, str) else FormatError
        raise error(f"{shown(name)} has dtype {shown(dtype)}, expected one of {', '.join(BITS)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise FormatError(f"{shown(name)} has a shape or data_offsets that are not counts")
    if math.prod(side for side in shape if side) > _MAX_ELEMENTS:
        raise FormatError(f"{shown(name)} has shape {shown(shape)}: too many elements to count")
    begin, end = offsets
    if 8 * (end - begin) != math.prod(shape) * BITS[dtype]:
        raise FormatError(f"{shown(name)} of {dtype} and shape {shown(shape)} has {end - begin} bytes")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_places(entries: Iterable[tuple[str, Entry]], start: int, size: int) -> None:
    """The tensors lie one behind the other and fill the file."""
    at = start
    for name, entry in sorted(entries, key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < at:
            raise FormatError(f"{shown(name)} overlaps the tensor before it by {at - entry.begin} bytes")
        if entry.begin > at:
            raise FormatError(f"{entry.begin - at} bytes before {shown(name)} belong to no tensor")
        at = entry.end
    if at > size:
        raise FormatError(f"truncated: {size} bytes, expected {at}")
    if at < size:
        raise FormatError(f"{size - at} bytes behind the last tensor belong to none")
