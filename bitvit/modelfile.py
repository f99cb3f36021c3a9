"""The packed model file: an ordinary .safetensors whose tensor names are the attribute paths of the model.

Weights of binary layers are uint64 planes [out_features, ceil(in_features/64)] (bits.py); all else is float32, folded
at conversion. Metadata holds one key, `bitvit`: a JSON object with the format version, config, preprocessing, labels,
sha256 of the source checkpoint, the bitvit version that wrote the file, and a checksum: the sha256 of the whole file
while the 64 digits of the checksum itself are zeros. The file does not know the CPU: kernels rearrange the planes when
a model is loaded. Equal inputs give equal bytes.

Every load compares the checksum: for the 10 MB of BHViT-small that is 10 of the 110 ms which loading takes.
"""

import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bitvit import bits
from bitvit.config import Config
from bitvit.errors import ConfigError, ModelFileError
from bitvit.files import write_file
from bitvit.preprocess import Preprocessing
from bitvit.tensorfile import Entry, FormatError, Header, parse_json, read_header
from bitvit.version import __version__

FORMAT_VERSION = 1
METADATA_KEY = "bitvit"
MAX_FILE = 1 << 30  # bytes; BHViT-small has 10 MB
MAX_VALUE = 1e12  # of a float tensor: products of three stay finite in float32

_FIELDS = frozenset({"format", "config", "preprocessing", "labels", "source_sha256", "version"})
_CHECKSUM = "checksum"  # files that bitvit wrote before it had one are read all the same
_NO_DIGITS = "0" * 64
_SEAL = re.compile(rb'\\"checksum\\": \\"([0-9a-f]{64})\\"')  # in JSON within JSON

# Rows of a `taps` tensor: the offsets (dy, dx) that the shift stencil reads, the centre first; the first 5 for shift3.
TAPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2))


@dataclass(frozen=True)
class TensorSpec:
    """dtype and shape of one tensor; `features` is the bit count of a row of planes, 0 for floats."""

    shape: tuple[int, ...]
    features: int = 0

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype(np.uint64 if self.features else np.float32)

    @property
    def stored(self) -> str:
        """The dtype as a .safetensors names it."""
        return "U64" if self.features else "F32"


@dataclass(frozen=True)
class ModelFile:
    """A packed model as read from disk."""

    path: Path
    config: Config
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    source_sha256: str
    version: str  # of the bitvit that wrote the file
    checksum: str | None  # it was compared; None: the file carries none
    tensors: dict[str, NDArray[Any]]  # read-only


# ------------------------------------------------------------------------------------------------------- schema
def expected_tensors(config: Config) -> dict[str, TensorSpec]:
    """Name -> dtype and shape of every tensor of a model file."""
    return dict(_all_specs(config))


def _affine(name: str, length: int) -> tuple[str, TensorSpec]:
    """Rows: scale, bias."""
    return name, TensorSpec((2, length))


def _binary(prefix: str, config: Config, out: int, inputs: int, taps: int = 1) -> Iterator[tuple[str, TensorSpec]]:
    """A binary linear layer: input thresholds, planes, and rows scale, bias, slope (and row scale with layer norm)."""
    yield f"{prefix}.threshold", TensorSpec((inputs,))
    yield f"{prefix}.bits", TensorSpec((out, bits.words(taps * inputs)), taps * inputs)
    yield f"{prefix}.affine", TensorSpec((4 if config.norm == "layer" else 3, out))


def _all_specs(config: Config) -> Iterator[tuple[str, TensorSpec]]:
    sides, widths = config.map_sides, config.hidden_sizes
    layer = config.norm == "layer"
    yield "stem.weight", TensorSpec((widths[0], 48))
    yield "stem.bias", TensorSpec((widths[0],))
    if layer:
        yield _affine("stem.norm", widths[0])
    yield "stem.position", TensorSpec((sides[0] ** 2, widths[0]))
    for s in range(4):
        if s:
            yield from _downsample(f"stages.{s}.downsample", config, widths[s - 1], widths[s], sides[s] ** 2)
        for i in range(config.depths[s]):
            block = f"stages.{s}.blocks.{i}"
            if s < 2:
                yield from _mixer(f"{block}.mixer", config, widths[s])
            else:
                yield from _attention(f"{block}.attention", config, widths[s], config.num_heads[s])
            yield from _mlp(f"{block}.mlp", config, widths[s], config.intermediate_sizes[s])
    yield _affine("head.norm", widths[3])
    if config.num_classes:
        yield "head.weight", TensorSpec((config.num_classes, widths[3]))
        yield "head.bias", TensorSpec((config.num_classes,))


def _mixer(prefix: str, config: Config, width: int) -> Iterator[tuple[str, TensorSpec]]:
    features = 9 * (width // 4)
    yield _affine(f"{prefix}.norm", width)
    for k in range(3):
        yield f"{prefix}.convs.{k}.bits", TensorSpec((width, bits.words(features)), features)
        yield f"{prefix}.convs.{k}.affine", TensorSpec((3, width))  # scale, bias, slope
    if config.norm == "layer":
        yield f"{prefix}.shift", TensorSpec((width,))
    yield _affine(f"{prefix}.out", width)


def _attention(prefix: str, config: Config, width: int, heads: int) -> Iterator[tuple[str, TensorSpec]]:
    yield _affine(f"{prefix}.norm", width)
    yield f"{prefix}.max_share", TensorSpec((width,))
    yield _affine(f"{prefix}.token_norm", width)
    for z in ("query", "key", "value"):
        yield from _binary(f"{prefix}.{z}", config, width, width)
        yield f"{prefix}.{z}.out_threshold", TensorSpec((width,))
    # steps and zero points of the heads, or the three shared steps
    yield f"{prefix}.quantizer", TensorSpec((3,) if config.quantizer == "gsb" else (2, heads))
    yield f"{prefix}.context", TensorSpec((3, width))  # scale, bias, slope
    yield f"{prefix}.fine_share", TensorSpec((width,))
    yield from _binary(f"{prefix}.output", config, width, width)
    yield _affine(f"{prefix}.out", width)


def _mlp(prefix: str, config: Config, width: int, hidden: int) -> Iterator[tuple[str, TensorSpec]]:
    yield _affine(f"{prefix}.norm", width)
    yield from _binary(f"{prefix}.fc1", config, hidden, width)
    yield from _binary(f"{prefix}.fc2", config, width, hidden)
    yield _affine(f"{prefix}.out", width)
    if config.shift3 or config.shift5:
        yield f"{prefix}.taps", TensorSpec((9 if config.shift5 else 5, width))


def _downsample(prefix: str, config: Config, inputs: int, width: int, tokens: int) -> Iterator[tuple[str, TensorSpec]]:
    yield _affine(f"{prefix}.norm", inputs)
    if config.downsampling == "binary":
        yield from _binary(prefix, config, width, inputs, taps=4)
    else:
        yield f"{prefix}.weight", TensorSpec((width, 4 * inputs))
        if config.norm == "layer":
            yield _affine(f"{prefix}.out_norm", width)
    yield f"{prefix}.position", TensorSpec((tokens, width))


# --------------------------------------------------------------------------------------------------------- write
def save_model_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    *,
    config: Config,
    preprocessing: Preprocessing,
    labels: tuple[str, ...] | None,
    source_sha256: str,
) -> None:
    """Write a packed model; `path` is never half-written.

    Raises ModelFileError if it cannot be written.
    """
    fields = {
        "format": FORMAT_VERSION,
        "config": config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "labels": None if labels is None else list(labels),
        "source_sha256": source_sha256,
        "version": __version__,
        _CHECKSUM: _NO_DIGITS,
    }
    # The library stores the memory order of a strided array as if it were C order.
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    data = save(contiguous, metadata={METADATA_KEY: json.dumps(fields, sort_keys=True, ensure_ascii=False)})
    sealed = seal(data)
    write_file(path, lambda file: file.write(sealed), ModelFileError)


def seal(data: bytes) -> bytes:
    """The bytes of a packed model with the checksum that they call for. ValueError if they have no place for one."""
    at = _digits(data)
    if at is None:
        raise ValueError("no place for a checksum")
    return data[: at.start] + _digest(data, at).encode() + data[at.stop :]


def _digits(data: bytes) -> slice | None:
    """Where in a file the digits of its checksum are; None if they are not where bitvit writes them, once."""
    end = 8 + int.from_bytes(data[:8], "little")
    found = [match.span(1) for match in _SEAL.finditer(data, 0, min(len(data), end))]
    return slice(*found[0]) if len(found) == 1 else None


def _digest(data: bytes, digits: slice) -> str:
    view, found = memoryview(data), hashlib.sha256()
    for part in (view[: digits.start], _NO_DIGITS.encode(), view[digits.stop :]):
        found.update(part)
    return found.hexdigest()


# ---------------------------------------------------------------------------------------------------------- read
def load_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Load and check a packed model.

    Raises ModelFileError if the file is missing, not a packed model, of another format version, if its bytes do not
    give the checksum that it carries, or if any tensor is missing, unexpected, of the wrong dtype or shape, has tail
    bits set or holds NaN, infinity or a number beyond MAX_VALUE.
    """
    path = Path(path)
    data = _read(path)
    try:
        header = read_header(io.BytesIO(data), len(data))
    except FormatError as error:
        raise ModelFileError(
            f"{path}: not a packed model, or damaged ({error}); if it is a training checkpoint, run"
            f" bitvit convert {path} -o model.safetensors first"
        ) from None
    fields = _metadata(path, header)
    checksum = _compared(path, data, fields)
    try:
        config = Config.from_dict(fields["config"])
        preprocessing = Preprocessing.from_dict(fields["preprocessing"])
    except (ConfigError, TypeError) as error:
        raise ModelFileError(f"{path}: broken metadata ({error}); {_AGAIN}") from error
    labels = fields["labels"]
    if labels is not None and not (
        isinstance(labels, list) and len(labels) == config.num_classes and all(isinstance(x, str) for x in labels)
    ):
        raise ModelFileError(f"{path}: the labels are not a list of {config.num_classes} strings; {_AGAIN}")
    tensors = _tensors(path, header, expected_tensors(config), data)
    names = None if labels is None else tuple(labels)
    return ModelFile(path, config, preprocessing, names, fields["source_sha256"], fields["version"], checksum, tensors)


_AGAIN = "convert the checkpoint again with bitvit convert"


def _read(path: Path) -> bytes:
    """All of the file: what is checked is what is used, whatever becomes of the file meanwhile."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer for ever
            what = "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
            raise ModelFileError(f"{path}: {what}; expected a packed model written by bitvit convert")
        if status.st_size > MAX_FILE:
            raise ModelFileError(f"{path}: {status.st_size} bytes, expected a packed model of at most {MAX_FILE}")
        with path.open("rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: does not exist; expected a packed model written by bitvit convert") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path}: cannot be read: {reason}; check the path, file and disk") from None


def _metadata(path: Path, header: Header) -> dict[str, Any]:
    """The fields under bitvit's key: all that there must be, and no others."""
    if METADATA_KEY not in header.metadata:
        raise ModelFileError(
            f"{path}: a .safetensors file, but not a packed model; if it is a training checkpoint, run"
            f" bitvit convert {path} -o model.safetensors first"
        )
    try:
        fields = parse_json(header.metadata[METADATA_KEY])
    except FormatError as error:
        raise ModelFileError(f"{path}: broken metadata ({error}); {_AGAIN}") from None
    if not isinstance(fields, dict):
        raise ModelFileError(f"{path}: broken metadata (not an object); {_AGAIN}")
    if fields.get("format") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: packed format {fields.get('format')!r:.80}, this bitvit ({__version__}) reads format"
            f" {FORMAT_VERSION}; {_AGAIN}"
        )
    missing, unknown = sorted(_FIELDS - fields.keys()), sorted(fields.keys() - _FIELDS - {_CHECKSUM})
    if missing or unknown:
        raise ModelFileError(f"{path}: broken metadata (missing {missing}, unknown {unknown[:5]}); {_AGAIN}")
    for name in ("source_sha256", "version"):
        if not isinstance(fields[name], str):
            raise ModelFileError(f"{path}: broken metadata ({name} is no text); {_AGAIN}")
    return fields


def _compared(path: Path, data: bytes, fields: Mapping[str, Any]) -> str | None:
    """The checksum that the file carries, which its bytes give; None if it carries none."""
    if _CHECKSUM not in fields:
        return None
    at = _digits(data)
    if at is None or data[at].decode() != fields[_CHECKSUM]:
        raise ModelFileError(f"{path}: broken metadata (the checksum is not as bitvit writes it); {_AGAIN}")
    found = _digest(data, at)
    if found != fields[_CHECKSUM]:
        raise ModelFileError(
            f"{path}: changed since it was written: its checksum is {fields[_CHECKSUM]}, its bytes give {found}; copy"
            f" or download it again, or {_AGAIN}"
        )
    return found


def _tensors(path: Path, header: Header, expected: Mapping[str, TensorSpec], data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors, which must be those expected."""
    entries = header.entries
    missing, unexpected = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
    if missing or unexpected:
        raise ModelFileError(
            f"{path}: {len(missing)} tensors missing {missing[:5]}, {len(unexpected)} unexpected"
            f" {unexpected[:5]!r:.400}; {_AGAIN}"
        )
    for name, spec in expected.items():
        entry = entries[name]
        if entry.dtype != spec.stored or entry.shape != spec.shape:
            raise ModelFileError(
                f"{path}: '{name}' is {entry.dtype} {entry.shape}, expected {spec.stored} {spec.shape}; {_AGAIN}"
            )
    tensors = {name: _tensor(entries[name], spec, data) for name, spec in expected.items()}
    for name, spec in expected.items():
        fault = _fault(tensors[name], spec)
        if fault is not None:
            raise ModelFileError(f"{path}: '{name}' {fault}; {_AGAIN}")
    return tensors


def _tensor(entry: Entry, spec: TensorSpec, data: bytes) -> NDArray[Any]:
    stored = np.frombuffer(data, spec.dtype.newbyteorder("<"), math.prod(spec.shape), entry.begin)
    return stored.reshape(spec.shape).astype(spec.dtype, copy=False)


def _fault(tensor: NDArray[Any], spec: TensorSpec) -> str | None:
    if spec.features:
        if bits.has_tail_bits(tensor, spec.features):
            return f"has bits set beyond its {spec.features} features"
        return None
    largest = np.abs(tensor).max()  # NaN, if there is one
    if not np.isfinite(largest):
        return "holds NaN or infinity"
    return f"holds numbers beyond {MAX_VALUE:.0e}" if largest > MAX_VALUE else None
