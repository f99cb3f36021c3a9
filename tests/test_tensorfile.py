"""The header of a .safetensors: every broken rule by name, and never more lenient than the library."""

import io
import json
import struct
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from bitvit.tensorfile import MAX_HEADER, FormatError, Header, parse_json, read_header
from tools.fuzz import tensors


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), len(data))


def file(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "empty": np.zeros((0, 3), np.int64),
        "a.ø": np.array(True),
        "scalar": np.array(3, np.float16),
    }
    data = save(arrays, {"format": "pt"})
    header = read(data)
    assert header.metadata == {"format": "pt"}
    assert header.entries.keys() == arrays.keys()
    for name, array in arrays.items():
        found = header.entries[name]
        assert found.shape == np.shape(array)
        assert data[found.begin : found.end] == array.tobytes()


def test_an_empty_file_of_tensors() -> None:
    assert read(file({})) == Header({}, {}, 10)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\2\0\0", "in a file of 3"),
        (file({}, size=3), "a header of 3 bytes in a file of 10"),
        (file({}, size=2**64 - 1), f"a header of {2**64 - 1} bytes in a file of 10"),
        (file(b"{" + b" " * MAX_HEADER + b"}"), f"a header of {MAX_HEADER + 2} bytes, expected at most {MAX_HEADER}"),
        (file(b""), "begins with b''"),
        (file(b" {}"), "begins with b' {}'"),
        (file(b"\xef\xbb\xbf{}"), "begins with"),
        (file("{}".encode("utf-16-le")), "broken JSON"),
        (file(b"[]"), "begins with b'[]'"),
        (file(b'{"\xff": 1}'), "not UTF-8 (invalid start byte at byte 2)"),
        (file(b'{"a'), "broken JSON (Unterminated string"),
        (file(b"{} x"), "broken JSON (Extra data"),
        (file(b'{"a": NaN}'), "NaN, which is not JSON"),
        (file(b'{"a": -Infinity}'), "-Infinity, which is not JSON"),
        (file(b'{"a": ' + b"[" * 100_000), "broken JSON (maximum recursion depth"),
        (file(b'{"a": ' * 100_000), "broken JSON (maximum recursion depth"),
        (file(b'{"a": ' + b"9" * 5000 + b"}"), "a number of 5000 digits"),
        (file(b'{"\\ud800": {}}'), "broken JSON ('utf-8' codec can't encode"),
        (file(b'{"a": {}, "a": {}}'), "the key 'a' occurs twice"),
        (file(b'{"a": {"dtype": "U8", "dtype": "I8"}}'), "the key 'dtype' occurs twice"),
        (file(b'{"__metadata__": {"x": "", "x": ""}}'), "the key 'x' occurs twice"),
        (file({"__metadata__": []}), "__metadata__ is not an object of strings"),
        (file({"__metadata__": {"a": 1}}), "__metadata__ is not an object of strings"),
        (file({"w": 3}), "'w' is not described by"),
        (file({"w": {**entry(0, 1), "more": 1}}, b"x"), "'w' is not described by"),
        (file({"w": {"dtype": "U8", "shape": [1]}}, b"x"), "'w' is not described by"),
        (file({"w": entry(0, 1, dtype="u8")}, b"x"), "'w' has dtype 'u8', expected one of F64"),
        (file({"w": {**entry(0, 1), "dtype": ["U8"]}}, b"x"), "'w' has dtype ['U8']"),
        (file({"w": entry(0, 1, [-1])}, b"x"), "not counts"),
        (file({"w": entry(0, 1, [1.0])}, b"x"), "not counts"),
        (file({"w": entry(0, 1, [True])}, b"x"), "not counts"),
        (file({"w": {**entry(0, 1), "shape": {"1": 1}}}, b"x"), "not counts"),
        (file({"w": entry(-1, 0)}, b"x"), "not counts"),
        (file({"w": {**entry(0, 1), "data_offsets": [0, 1, 1]}}, b"x"), "not counts"),
        (file({"w": entry(0, 0, [2**32, 2**32])}), "too many elements to count"),
        (file({"w": entry(0, 0, [0, 2**40, 2**40])}), "too many elements to count"),
        (file({"w": entry(0, 4, [2**62 + 1], dtype="F32")}, b"1234"), "too many elements to count"),
        (file({"w": entry(0, 4, [2**30], dtype="F32")}, b"1234"), "'w' of F32 and shape [1073741824] has 4 bytes"),
        (file({"w": entry(4, 0, [4])}, b"1234"), "has -4 bytes"),
        (file({"a": entry(0, 3), "b": entry(2, 4)}, b"1234"), "'b' overlaps the tensor before it by 1 bytes"),
        (file({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"), "'b' overlaps the tensor before it by 4 bytes"),
        (file({"a": entry(0, 4), "b": entry(2, 2)}, b"1234"), "'b' overlaps the tensor before it by 2 bytes"),
        (file({"a": entry(0, 1), "b": entry(2, 4)}, b"1234"), "1 bytes before 'b' belong to no tensor"),
        (file({"a": entry(1, 4)}, b"1234"), "1 bytes before 'a' belong to no tensor"),
        (file({"a": entry(0, 3)}, b"1234"), "1 bytes behind the last tensor belong to none"),
        (file({}, b"1234"), "4 bytes behind the last tensor belong to none"),
        (file({"a": entry(0, 5)}, b"1234"), "truncated: 72 bytes, expected 73"),
        (file({"a" * 5000: 1}), "'" + "a" * 76 + "... is not described by"),
        (file({"\x1b[2J": 1}), r"'\x1b[2J' is not described by"),
    ],
)  # fmt: skip
def test_broken_rules_are_named(data: bytes, problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(data)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


def test_text_of_two_halves_is_a_letter() -> None:
    """Both halves of a surrogate pair are a character, as JSON spells those beyond 16 bits."""
    assert parse_json('{"a": "\\ud83e\\udd86"}') == {"a": "🦆"}


def test_the_library_is_never_stricter() -> None:
    """Mutants, most of them broken: what is read here, the library reads too, and as the same tensors."""
    seeds, read_by_both, refused_here_alone = tensors.small_files(), 0, set()
    for number in range(3000):
        rng = Random(number)
        data = tensors.mutate(rng, rng.choice(seeds))
        try:
            header = read(data)
        except FormatError as problem:
            try:
                deserialize(data)  # type: ignore[no-untyped-call]
                refused_here_alone.add(" ".join(str(problem).replace("'", " ").split()[-2:]))
            except SafetensorError:
                pass
            continue
        theirs = dict(deserialize(data))  # type: ignore[no-untyped-call]
        assert header.entries.keys() == theirs.keys()
        for name, found in header.entries.items():
            assert (found.dtype, list(found.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
            assert data[found.begin : found.end] == bytes(theirs[name]["data"])
        read_by_both += 1
    assert read_by_both > 300
    # Doubled keys, fields that nobody knows, metadata that is null, a side of 0 beside huge ones, spaces before the
    # JSON: the library lets them pass.
    allowed = {"occurs twice", "and data_offsets", "of strings", "to count", "expected JSON"}
    assert refused_here_alone <= allowed
