"""A checkpoint in several files, as Hugging Face's libraries write it: a folder, an index of shards, a config.json."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bitvit.bundle.manifest import IS_BUNDLE, MANIFEST, NOT_HERE
from bitvit.checkpoint.remedies import FETCH_AGAIN, SHARD
from bitvit.errors import CheckpointError, ConfigError
from bitvit.files import is_file, is_folder, read_json, read_text
from bitvit.messages import listing, shown
from bitvit.tensorfile import FormatError, parse_json

__all__ = ["ConfigSource", "Parts", "parts_of", "read_config"]

ConfigSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | None
"""config.json of the training run: its path, the folder it is in, or its fields, of which only those are needed that
shapes do not tell."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
_MAX_INDEX = 4 << 20  # bytes; BHViT-small's would have 0.1 MB
_MAX_SHARDS = 1000
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar")


@dataclass(frozen=True)
class Parts:
    """The files of a checkpoint."""

    files: tuple[Path, ...]
    names: Mapping[str, str] | None = None
    """Tensor -> name of the file that it is in; None: there is but one file."""
    config: Mapping[str, Any] | None = None
    """The fields of the config.json in the folder that was named."""
    preprocessor: Mapping[str, Any] | None = None
    """Those of its preprocessor_config.json."""


def parts_of(path: Path) -> Parts:
    """The files behind a path: a checkpoint, the index of its shards, or the folder of a Hugging Face model.

    Raises CheckpointError or ConfigError.
    """
    if is_folder(path):
        found = _in_folder(path)
        parts = _from_index(found) if found.name.endswith(_INDEX) else Parts((found,))
        return Parts(
            parts.files, parts.names, _fields(path / "config.json"), _fields(path / "preprocessor_config.json")
        )
    if path.name.endswith(_INDEX):
        return _from_index(path)
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        raise CheckpointError(
            f"{path}: is one of {int(shard[3])} files of a checkpoint; give the folder with all of them, or the index "
            f"{shown(shard[1] + shard[4] + _INDEX)}"
        )
    return Parts((path,))


def read_config(config: ConfigSource) -> Mapping[str, Any] | None:
    """The fields of a config.json. Raises ConfigError."""
    if config is None or isinstance(config, Mapping):
        return config
    inside = Path(config) / "config.json"
    where = inside if is_file(inside) else config
    read = read_json(where, ConfigError, "the config.json of the model")
    if not isinstance(read, dict):
        raise ConfigError(
            f"{os.fspath(where)}: holds a JSON {type(read).__name__}, expected an object with fields such as depths"
        )
    return read


def _fields(path: Path) -> Mapping[str, Any] | None:
    return read_config(path) if path.exists() else None


def _in_folder(folder: Path) -> Path:
    """The weights of a Hugging Face model, or the index of their shards."""
    for name in _WEIGHTS:
        for candidate in (folder / name, folder / f"{name}{_INDEX}"):
            if candidate.exists():
                return candidate
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as problem:
        raise CheckpointError(f"{folder}: cannot be read: {problem.strerror}; check the folder") from None
    if MANIFEST in names:
        raise CheckpointError(f"{folder}: {IS_BUNDLE}, expected a checkpoint or a packed model; {NOT_HERE}")
    if any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder}: is a checkpoint of torch.distributed; make one file of it: from torch.distributed.checkpoint."
            f"format_utils import dcp_to_torch_save; dcp_to_torch_save({str(folder)!r}, 'weights.pth')"
        )
    files = [name for name in names if name.endswith(_CHECKPOINTS)]
    found = f"it holds {listing(files)}" if files else "it holds no such file"
    raise CheckpointError(
        f"{folder}: is a folder without {' or '.join(_WEIGHTS)}; give the .pth or .safetensors inside it ({found})"
    )


def _from_index(path: Path) -> Parts:
    """The shards that an index names, each in the index's own folder."""
    expected = "the index of a checkpoint's shards"
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise CheckpointError(f"{path}: has {path.stat().st_size} bytes, expected at most {_MAX_INDEX}: {expected}")
        index = parse_json(read_text(path, CheckpointError, expected))
    except FormatError as problem:
        raise CheckpointError(f"{path}: is not {expected}: {problem}; {FETCH_AGAIN}") from None
    except OSError:
        index = parse_json(read_text(path, CheckpointError, expected))  # which says what is wrong with the path
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise CheckpointError(f"{path}: is not {expected}: no weight_map from names to files in it; {FETCH_AGAIN}")
    files = sorted(set(names.values()))
    strange = [file for file in files if not file.strip(".") or Path(file).name != file or set(file) & set("\\:\0")]
    if strange or len(files) > _MAX_SHARDS:
        what = f"names {shown(strange[0])}, which is not in its folder" if strange else f"names {len(files)} files"
        raise CheckpointError(f"{path}: {what}; {FETCH_AGAIN}")
    return Parts(tuple(path.parent / file for file in files), names)
