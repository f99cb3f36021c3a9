"""Mutated .safetensors files, checkpoints and packed models: headers by field, text and byte; numbers in the data."""

import contextlib
import json
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save

from bitvit.modelfile import METADATA_KEY, seal

from . import damage, documents
from .seeds import CONFIGS, State, checkpoint_state, write_packed

Pairs = list[tuple[str, Any]]  # a JSON object's; a list, since a hostile file may repeat a key


@dataclass
class TensorFile:
    """A .safetensors in parts."""

    pairs: Pairs
    data: bytearray

    @classmethod
    def read(cls, raw: bytes) -> "TensorFile | None":
        """None if it is no such file."""
        size = int.from_bytes(raw[:8], "little")
        try:
            fields = json.loads(raw[8 : 8 + size])
        except (ValueError, RecursionError):
            return None
        return cls(list(fields.items()), bytearray(raw[8 + size :])) if isinstance(fields, dict) else None

    def header(self) -> bytes:
        return _object(self.pairs).encode("utf-8", "surrogatepass")


def _object(pairs: Pairs) -> str:
    try:
        return "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs) + "}"
    except (ValueError, RecursionError):  # a number too long to be written, or lists too deep
        return "{}"


def assembled(header: bytes, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size & (1 << 64) - 1) + header + data


# ----------------------------------------------------------------------------------------------------------- the seeds


def _small_states() -> list[State]:
    five = np.arange(5, dtype=np.float32)
    return [
        {"w": five},
        {"w": five, "v": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.array(3, np.int64)},
        {"vit.encoder.layerA.0.w": five, "empty": np.zeros((0, 4), np.float32), "flag": np.ones(2, bool)},
        {"x.vit.encoder.layerA.0.w": five, "y.vit.encoder.layerA.0.w": five},
        {"vit.encoder.layer.0.rprelu.bias": five},
        {"layer1.0.conv1.weight": five, "conv1.weight": five},
        {},
    ]


def small_files() -> list[bytes]:
    """Valid files of a few tensors."""
    eight_bits = {"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    return [*(save(state) for state in _small_states()), assembled(json.dumps(eight_bits).encode(), bytes(4))]


def network_files() -> list[bytes]:
    """Checkpoints of small networks."""
    return [save(checkpoint_state(config)) for config in CONFIGS]


def packed_files(folder: Path) -> list[bytes]:
    """Packed models of the same networks; folder: where a file may be written."""
    found = []
    for config in CONFIGS:
        write_packed(folder / "seed", config)
        found.append((folder / "seed").read_bytes())
    return found


# ------------------------------------------------------------------------------------------------------------- headers

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", "f32", "X" * 200)
_NAMES = ("w", "", "__metadata__", "a" * 3000, "\ud800", "\x1b[2J", "../../x", "head.bias", "vit.x", "\u0000")


def _edit_entry(rng: Random, entry: Any, size: int) -> Any:
    """A tensor's dtype, shape and offsets, changed."""
    if not isinstance(entry, dict) or rng.random() < 0.05:
        return documents.any_json(rng)
    entry = {key: list(value) if isinstance(value, list) else value for key, value in entry.items()}
    match rng.randrange(8):
        case 0:
            entry["dtype"] = rng.choice(_DTYPES)
        case 1:
            entry[rng.choice(("dtype", "shape", "data_offsets"))] = documents.any_json(rng)
        case 2:
            entry.pop(rng.choice(("dtype", "shape", "data_offsets")), None)
        case 3:
            entry[rng.choice(("extra", "Shape", "strides"))] = documents.any_json(rng)
        case 4 | 5:
            numbers = entry.get("data_offsets")
            if isinstance(numbers, list) and numbers:
                place = rng.randrange(len(numbers))
                near = rng.choice((-8, -4, -1, 1, 4, 8)) + (numbers[place] if isinstance(numbers[place], int) else 0)
                numbers[place] = rng.choice((near, damage.number(rng), size, rng.randrange(size + 1)))
        case 6:
            shape = entry.get("shape")
            if isinstance(shape, list):
                shape.insert(rng.randrange(len(shape) + 1), rng.choice((0, 1, 1, damage.number(rng))))
        case _:
            shape = entry.get("shape")
            if isinstance(shape, list) and shape:
                shape[rng.randrange(len(shape))] = damage.number(rng)
    return entry


def _edit_pairs(rng: Random, file: TensorFile) -> None:
    pairs = file.pairs
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pairs)) if pairs else 0
        match rng.randrange(8):
            case 0 if pairs:
                del pairs[at]
            case 1 if pairs:
                pairs.insert(rng.randrange(len(pairs) + 1), pairs[at])
            case 2 if pairs:
                pairs[at] = (rng.choice((*_NAMES, rng.choice(pairs)[0])), pairs[at][1])
            case 3:
                pairs.insert(at, ("__metadata__", rng.choice(({"format": "pt"}, {"a": 1}, documents.any_json(rng)))))
            case 4 if len(pairs) > 1:
                other = rng.randrange(len(pairs))
                one, two = pairs[at], pairs[other]
                pairs[at], pairs[other] = (one[0], two[1]), (two[0], one[1])
            case _ if pairs:
                pairs[at] = (pairs[at][0], _edit_entry(rng, pairs[at][1], len(file.data)))


def _edit_data(rng: Random, data: bytearray) -> None:
    """NaN, infinities and extreme values; single bits; now and then bytes inserted."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) // 4 + 1) * 4
        match rng.randrange(4):
            case 0 | 1:
                data[at : at + 4] = struct.pack("<I", rng.choice(_FLOATS))
            case 2 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case _ if rng.random() < 0.1:
                data[at:at] = bytes(rng.choice((1, 4, 8)))


_FLOATS = (  # bit patterns of float32
    *(0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00000000, 0x80000000, 0x00000001, 0x00800000),
    *(0x3F800000, 0xBF800000, 0x4B800000, 0x7FA00000, 0xFFFFFFFF),
)


def _edited(rng: Random, file: TensorFile, ways: Collection[str]) -> bytes:
    """The file with its header edited as "pairs" or "text", or its "data"; now and then with a wrong header size."""
    if "pairs" in ways:
        _edit_pairs(rng, file)
    if "data" in ways:
        _edit_data(rng, file.data)
    header = file.header()
    if "text" in ways:
        header = documents.edited_text(rng, header)
    size = None
    if rng.random() < 0.03:
        size = rng.choice((damage.number(rng), len(header) + rng.choice((-1, 1, 8)), len(header) + len(file.data)))
    return assembled(header, bytes(file.data), size)


def mutate(rng: Random, data: bytes) -> bytes:
    """A .safetensors file with its header or its data changed; bytes that are none are changed as such."""
    file = TensorFile.read(data) if rng.random() > 0.15 else None
    if file is None:
        return damage.damage(rng, data)
    ways = rng.choice((("pairs",), ("pairs",), ("text",), ("pairs", "text"), ("data",)))
    return _edited(rng, file, ways)


# -------------------------------------------------------------------------------------------------------- packed models


def _edit_fields(rng: Random, fields: dict[str, Any]) -> None:
    """Change the metadata: a network that the tensors do not match, impossible preprocessing, invalid labels."""
    for _ in range(rng.randint(1, 2)):
        part = rng.choice(("config", "config", "preprocessing", None))
        inside = fields.get(part) if part else fields
        if not isinstance(inside, dict) or not inside:
            continue
        key = rng.choice(list(inside))
        value = inside[key]
        match rng.randrange(6):
            case 0:
                inside[key] = documents.any_json(rng)
            case 1 if isinstance(value, list) and value:
                value[rng.randrange(len(value))] = rng.choice((damage.number(rng), 4, 8, 1e-7, documents.any_json(rng)))
            case 1 | 2:
                inside[key] = rng.choice((damage.number(rng), 1, 3, 33, 35, 48, 64, 65532))
            case 3:
                inside[key] = rng.choice(("batch", "layer", "float", "binary", "levels", "gsb", True, False))
            case 4:
                del inside[key]
            case _:
                inside[rng.choice(("surplus", *inside))] = value


def mutate_packed(rng: Random, data: bytes) -> bytes:
    """A packed model, changed likewise or in its metadata, mostly with a valid checksum."""
    file = TensorFile.read(data) if rng.random() > 0.15 else None
    if file is None:
        return damage.damage(rng, data)
    ways = rng.choice((("fields",), ("fields",), ("pairs",), ("text",), ("data",), ("data",), ("fields", "data")))
    if "fields" in ways:
        _edit_metadata(rng, file)
    whole = _edited(rng, file, ways)
    if rng.random() < 0.95:
        with contextlib.suppress(ValueError):  # the header has no place for a checksum
            return seal(whole)
    return whole


def _edit_metadata(rng: Random, file: TensorFile) -> None:
    try:
        fields = json.loads(dict(file.pairs)["__metadata__"][METADATA_KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return
    if isinstance(fields, dict):
        _edit_fields(rng, fields)
    words = documents.as_json(fields)
    if rng.random() < 0.1:
        words = documents.edited_text(rng, words)
    text = words.decode("utf-8", "replace")
    file.pairs = [(k, {METADATA_KEY: text} if k == "__metadata__" else v) for k, v in file.pairs]
