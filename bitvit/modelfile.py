"""The packed model file: an ordinary .safetensors whose tensor names are the attribute paths of the model.

Weights of binary layers are uint64 planes [out_features, ceil(in_features/64)] (bits.py); all else is float32, folded
at conversion. Metadata holds one key, `bitvit`: a JSON object with the format version, config, preprocessing, labels,
sha256 of the source checkpoint and the bitvit version that wrote the file. The file does not know the CPU: kernels
rearrange the planes when a model is loaded. Equal inputs give equal bytes.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bitvit import __version__, bits
from bitvit.config import Config
from bitvit.errors import ConfigError, ModelFileError
from bitvit.preprocess import Preprocessing

FORMAT_VERSION = 1
METADATA_KEY = "bitvit"

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


@dataclass(frozen=True)
class ModelFile:
    """A packed model as read from disk."""

    path: Path
    config: Config
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    source_sha256: str
    version: str  # of the bitvit that wrote the file
    tensors: dict[str, NDArray[Any]]


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
    """Write a packed model: to a temporary file first, then renamed, so that `path` is never half-written.

    Raises ModelFileError if the folder cannot be written to.
    """
    header = {
        "format": FORMAT_VERSION,
        "config": config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "labels": None if labels is None else list(labels),
        "source_sha256": source_sha256,
        "version": __version__,
    }
    # The library stores the memory order of a strided array as if it were C order.
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    data = save(contiguous, metadata={METADATA_KEY: json.dumps(header, sort_keys=True, ensure_ascii=False)})
    _write_atomically(Path(path), data)


def _write_atomically(path: Path, data: bytes) -> None:
    try:
        path = path.resolve()  # a link keeps pointing where it did
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: is not an ordinary file, and would be replaced; name another output file")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(
            f"{path}: cannot write here ({reason}); choose an existing folder that you may write to"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ModelFileError(f"{path}: could not be written ({error.strerror}); nothing was changed") from error
        raise


# ---------------------------------------------------------------------------------------------------------- read
def load_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a packed model.

    Raises ModelFileError if the file is missing, not a packed model, of another format version, or if any tensor is
    missing, unexpected, of the wrong dtype or shape, has tail bits set or holds NaN or infinity.
    """
    path = Path(path)
    header, tensors = _read(path)
    if header.get("format") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: packed format {header.get('format')!r}, this bitvit ({__version__}) reads format"
            f" {FORMAT_VERSION}; convert the checkpoint again with bitvit convert"
        )
    try:
        config = Config.from_dict(header["config"])
        preprocessing = Preprocessing.from_dict(header["preprocessing"])
        labels, sha256, version = header["labels"], header["source_sha256"], header["version"]
    except (ConfigError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: broken metadata ({error}); {_AGAIN}") from error
    if labels is not None and not (
        isinstance(labels, list) and len(labels) == config.num_classes and all(isinstance(x, str) for x in labels)
    ):
        raise ModelFileError(f"{path}: the labels are not a list of {config.num_classes} strings; {_AGAIN}")
    _check(path, expected_tensors(config), tensors)
    names = None if labels is None else tuple(labels)
    return ModelFile(path, config, preprocessing, names, str(sha256), str(version), tensors)


_AGAIN = "convert the checkpoint again with bitvit convert"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file never raises
        what = "is a folder" if os.path.isdir(path) else "does not exist"  # noqa: PTH112
        raise ModelFileError(f"{path}: {what}; expected a packed model written by bitvit convert")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise ModelFileError(
                    f"{path}: a .safetensors file, but not a packed model; if it is a training checkpoint, run"
                    f" bitvit convert {path} -o model.safetensors first"
                )
            header = json.loads(metadata[METADATA_KEY])
            tensors = {name: _read_tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path}: not a packed model, or damaged ({error}); if it is a training checkpoint, run"
            f" bitvit convert {path} -o model.safetensors first"
        ) from error
    except (ValueError, RecursionError) as error:  # not JSON, or a number of thousands of digits
        raise ModelFileError(f"{path}: broken metadata ({error}); {_AGAIN}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: broken metadata (not an object); {_AGAIN}")
    return header, tensors


def _read_tensor(path: Path, file: Any, name: str) -> NDArray[Any]:
    try:
        tensor: NDArray[Any] = file.get_tensor(name)
    except (TypeError, AttributeError, KeyError) as error:  # how the library fails on what NumPy has no dtype for
        dtype = file.get_slice(name).get_dtype()
        raise ModelFileError(f"{path}: '{name}' is {dtype}, expected float32 or uint64; {_AGAIN}") from error
    return tensor


def _check(path: Path, expected: dict[str, TensorSpec], tensors: Mapping[str, NDArray[Any]]) -> None:
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise ModelFileError(
            f"{path}: {len(missing)} tensors missing {missing[:5]}, {len(unexpected)} unexpected {unexpected[:5]};"
            f" {_AGAIN}"
        )
    for name, spec in expected.items():
        tensor = tensors[name]
        if tensor.dtype != spec.dtype or tensor.shape != spec.shape:
            raise ModelFileError(
                f"{path}: '{name}' is {tensor.dtype} {tensor.shape}, expected {spec.dtype} {spec.shape}; {_AGAIN}"
            )
        if spec.features and bits.has_tail_bits(tensor, spec.features):
            raise ModelFileError(f"{path}: '{name}' has bits set beyond its {spec.features} features; {_AGAIN}")
        if not spec.features and not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: '{name}' holds NaN or infinity; {_AGAIN}")
