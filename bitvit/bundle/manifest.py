"""bundle.json: what a bundle's folder holds. Written by bitvit.bundle.writing, read where a bundle is loaded.

    format     1
    version    of the bitvit that wrote it
    target     LLVM's triple
    model      config, preprocessing and labels as in the model file, its source_sha256, and the digest of its bytes
    levels     for each: cpu, features, code_bytes, state_bytes, scratch_bytes, weights {offset, bytes, sha256}
    outputs    numbers that come out for an image
    files      by name: bytes, sha256; all but bundle.json
    library    name of the shared library that Python loads; null if there is none
    checksum   the sha256 of this file as it is without the checksum

Equal fields give equal bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitvit.config import Config
from bitvit.errors import ConfigError, ModelFileError
from bitvit.files import open_file
from bitvit.preprocess import Preprocessing
from bitvit.tensorfile import parse_json

__all__ = [
    "FORMAT",
    "IS_BUNDLE",
    "LIBRARY",
    "MANIFEST",
    "NOT_HERE",
    "WEIGHTS",
    "Manifest",
    "Section",
    "as_text",
    "read_manifest",
]

FORMAT = 1
MANIFEST, WEIGHTS, LIBRARY = "bundle.json", "weights.bin", "libbitvit_python.so"

IS_BUNDLE = "is a bundle, as bitvit bundle writes it"
NOT_HERE = "give the model that it was made from; classify, evaluate and serve take a bundle itself"
"""For messages, where one is given in the place of a file."""

MAX_MANIFEST = 8 << 20  # bytes; that of a model of 1000 classes has 50 kB

AGAIN = "write it again with bitvit bundle"


class Section(NamedTuple):
    """A part of a file."""

    offset: int
    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """What loading needs of a bundle.json."""

    target: str
    config: Config
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    outputs: int
    weights: Mapping[str, Section]
    """By level."""
    library: Section | None
    """All of it."""
    weights_bytes: int
    """Of weights.bin."""
    digest: str
    """The sha256 of bundle.json."""


def as_text(fields: Mapping[str, Any]) -> str:
    """The fields, which have no checksum yet, as they are written with one."""
    return _text({**fields, "checksum": _checksum(fields)})


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(fields).encode()).hexdigest()


def _text(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Raises ModelFileError if the folder is not a bundle, of another format, or its bundle.json is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        raise ModelFileError(
            f"{folder}: is a folder without {MANIFEST}; expected a packed model written by bitvit convert, or a folder "
            "written by bitvit bundle"
        )
    with open_file(path, ModelFileError) as file:
        data = file.read(MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        raise ModelFileError(f"{path}: more than {MAX_MANIFEST} bytes; {AGAIN}")
    try:
        fields = parse_json(data.decode())
        found = fields["format"]
        if found != FORMAT:
            raise ValueError(f"format {found!r:.80}, this bitvit reads format {FORMAT}")
        if fields.pop("checksum") != _checksum(fields):
            raise ValueError("its checksum is another one")
        if str(fields["target"]).startswith("wasm"):
            raise ModelFileError(
                f"{folder}: is a bundle for WebAssembly, which browsers run; open its index.html, or write one for "
                "Python with bitvit bundle --python"
            )
        return _manifest(fields, hashlib.sha256(data).hexdigest())
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise ModelFileError(
            f"{path}: is damaged or of another version ({type(problem).__name__}: {problem}); {AGAIN}"
        ) from None


def _manifest(fields: Mapping[str, Any], digest: str) -> Manifest:
    model, files, library = fields["model"], fields["files"], fields["library"]
    config, labels = Config.from_dict(model["config"]), model["labels"]
    if labels is not None and not (
        isinstance(labels, list) and len(labels) == config.num_classes and all(isinstance(x, str) for x in labels)
    ):
        raise ValueError(f"the labels are not a list of {config.num_classes} strings")
    if library not in (None, LIBRARY):  # nothing else is ever loaded
        raise ValueError(f"the library is {library!r:.80}, expected {LIBRARY!r}")
    return Manifest(
        target=str(fields["target"]),
        config=config,
        preprocessing=Preprocessing.from_dict(model["preprocessing"]),
        labels=None if labels is None else tuple(labels),
        outputs=_count(fields["outputs"]),
        weights={str(level["cpu"]): _section(level["weights"]) for level in fields["levels"]},
        library=None if library is None else _section({"offset": 0, **files[LIBRARY]}),
        weights_bytes=_count(files[WEIGHTS]["bytes"]),
        digest=digest,
    )


def _section(fields: Mapping[str, Any]) -> Section:
    if not isinstance(fields["sha256"], str):
        raise ValueError("a sha256 is not text")
    return Section(_count(fields["offset"]), _count(fields["bytes"]), fields["sha256"])


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 1 << 40:
        raise ValueError(f"{value!r:.80} is not a number of bytes")
    return value
