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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bitvit import bits
from bitvit.bundle.manifest import IS_BUNDLE, MANIFEST, NOT_HERE
from bitvit.config import Config
from bitvit.errors import ConfigError, ModelFileError
from bitvit.files import is_file, open_file, write_file
from bitvit.messages import shown
from bitvit.preprocess import Preprocessing
from bitvit.schema import TensorSpec, expected_tensors
from bitvit.tensorfile import Entry, FormatError, Header, parse_json, read_header
from bitvit.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "MAX_FILE",
    "MAX_VALUE",
    "METADATA_KEY",
    "ModelFile",
    "digest",
    "load_model_file",
    "read_file",
    "read_model",
    "save_model_file",
    "seal",
]

FORMAT_VERSION = 1
METADATA_KEY = "bitvit"
MAX_FILE = 1 << 30  # bytes; BHViT-small has 10 MB
MAX_VALUE = 1e12  # of a float tensor: products of three stay finite in float32

_FIELDS = frozenset({"format", "config", "preprocessing", "labels", "source_sha256", "version"})
_CHECKSUM = "checksum"  # files that bitvit wrote before it had one are read all the same
_NO_DIGITS = "0" * 64
_SEAL = re.compile(rb'\\"checksum\\": \\"([0-9a-f]{64})\\"')  # in JSON within JSON


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
    digest: str  # of the file's bytes, see the function
    tensors: dict[str, NDArray[Any]]  # read-only


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
    return data[: at.start] + digest(data).encode() + data[at.stop :]


def digest(data: bytes) -> str:
    """The sha256 of a model file, in which the digits of its checksum, if it has one, count as zeros."""
    at = _digits(data)
    view, found = memoryview(data), hashlib.sha256()
    for part in (view,) if at is None else (view[: at.start], _NO_DIGITS.encode(), view[at.stop :]):
        found.update(part)
    return found.hexdigest()


def _digits(data: bytes) -> slice | None:
    """Where in a file the digits of its checksum are; None if they are not where bitvit writes them, once."""
    end = 8 + int.from_bytes(data[:8], "little")
    found = [match.span(1) for match in _SEAL.finditer(data, 0, min(len(data), end))]
    return slice(*found[0]) if len(found) == 1 else None


# ---------------------------------------------------------------------------------------------------------- read
def load_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Load and check a packed model.

    Raises ModelFileError if the file is missing, not a packed model, of another format version, if its bytes do not
    give the checksum that it carries, or if any tensor is missing, unexpected, of the wrong dtype or shape, has tail
    bits set or holds NaN, infinity or a number beyond MAX_VALUE.
    """
    if not os.fspath(path):  # which Path would take for the working folder
        raise ModelFileError("the model's path is empty; expected that of a packed model written by bitvit convert")
    path = Path(path)
    return read_model(read_file(path), path)


def read_model(data: bytes, path: Path) -> ModelFile:
    """The packed model in the bytes of a file; path: its name, for messages. Raises what load_model_file does."""
    try:
        header = read_header(io.BytesIO(data), len(data))
    except FormatError as error:
        raise ModelFileError(f"{path}: {_what_else(data, path, error)}") from None
    fields = _metadata(path, header)
    found = digest(data)
    checksum = _compared(path, data, fields, found)
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
    return ModelFile(
        path, config, preprocessing, names, fields["source_sha256"], fields["version"], checksum, found, tensors
    )


_AGAIN = "convert the checkpoint again with bitvit convert"


def _what_else(data: bytes, path: Path, fault: FormatError) -> str:
    """What a file is that is not well formed, and what to do."""
    from bitvit.checkpoint.sniff import UNKNOWN, foreign, kind_of  # the other half, which only this message needs

    expected = "expected a packed model written by bitvit convert"
    convert = f"run bitvit convert {path} -o model.safetensors first"
    if not data:
        return f"is empty, {expected}; copy or download it again"
    kind = kind_of(data[:1024])
    if kind == "pth-legacy" or (kind == "pth-zip" and b"data.pkl" in data):
        return f"is a training checkpoint, {expected}; {convert}"
    if kind == "pth-zip":
        return f"is a zip archive, {expected}; unpack it first"
    what, remedy = foreign(data[:1024], path)
    if kind == "safetensors" or what.startswith(UNKNOWN):
        reason = fault if kind == "safetensors" else f"it begins with {shown(data[:8])}"
        return f"not a packed model, or damaged ({reason}); if it is a training checkpoint, {convert}"
    if what.endswith(" image"):
        remedy = "name the model first; images, where they are wanted, come after it"
    elif "checkpoint" in remedy:
        remedy = "convert the training checkpoint to one"
    return f"is {what}, {expected}; {remedy}"


def read_file(path: Path) -> bytes:
    """All of the file: what is checked is what is used, whatever becomes of the file meanwhile.

    Raises ModelFileError if it cannot be read, or is larger than MAX_FILE.
    """
    faults = ("does not exist", "is a folder", "is not a regular file")
    missing, folder, special = (f"{fault}; expected a packed model written by bitvit convert" for fault in faults)
    if is_file(path / MANIFEST):
        folder = f"{IS_BUNDLE}, expected a packed model; {NOT_HERE}"
    with open_file(path, ModelFileError, missing=missing, folder=folder, special=special) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE:
            raise ModelFileError(f"{path}: {size} bytes, expected a packed model of at most {MAX_FILE}")
        try:
            return file.read(size)
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}; check file and disk") from None


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
            raise ModelFileError(f"{path}: broken metadata ({name} is not text); {_AGAIN}")
    return fields


def _compared(path: Path, data: bytes, fields: Mapping[str, Any], found: str) -> str | None:
    """The checksum that the file carries, which its bytes give as well, `found`; None if it carries none."""
    if _CHECKSUM not in fields:
        return None
    at = _digits(data)
    if at is None or data[at].decode() != fields[_CHECKSUM]:
        raise ModelFileError(f"{path}: broken metadata (the checksum is not as bitvit writes it); {_AGAIN}")
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
