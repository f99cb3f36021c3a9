"""Targets: what bitvit itself has written, and reads again: a bundle's manifest, the state of an evaluation."""

import contextlib
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from bitvit.bundle.manifest import FORMAT, LIBRARY, WEIGHTS, as_text, read_manifest
from bitvit.evaluation.state import Computed, StateFile
from bitvit.preprocess import Preprocessing

from . import damage, documents
from .seeds import CONFIGS
from .target import Reading, Target

__all__ = ["Manifest", "State"]


class Manifest(Target):
    """bundle.json. Nothing that it speaks of is loaded: a bundle's library is code, which SECURITY.md says."""

    file = "bundle.json"
    words = (
        "config",
        "labels",
        "library",
        LIBRARY,
        WEIGHTS,
        "sha256",
        "offset",
        "bytes",
        "cpu",
        1 << 40,
        -1,
        "a",
        None,
    )

    def seeds(self) -> list[bytes]:
        section = {"bytes": 8, "sha256": hashlib.sha256(bytes(8)).hexdigest()}
        found = []
        for config in CONFIGS:
            model = {
                "config": config.to_dict(),
                "preprocessing": Preprocessing.for_image_size(config.image_size).to_dict(),
                "labels": [f"label {k}" for k in range(config.num_classes)] or None,
            }
            fields = {
                "format": FORMAT, "target": "x86_64-linux-gnu", "model": model, "outputs": 3, "library": LIBRARY,
                "levels": [{"cpu": "x86-64-v2", "weights": {"offset": 0, **section}}],
                "files": {LIBRARY: section, WEIGHTS: section},
            }  # fmt: skip
            found.append(as_text(fields).encode())
        return found

    def mutate(self, rng: Random, data: bytes) -> bytes:
        changed = documents.edited_json(rng, data, self.words)
        if rng.random() < 0.9:
            with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):  # no object
                fields = json.loads(changed)
                fields.pop("checksum", None)
                return as_text(fields).encode()
        return changed

    def readings(self) -> Sequence[Reading]:
        return (lambda: read_manifest(self.folder),)


class State(Target):
    """What bitvit evaluate --resume goes on from."""

    allowed = frozenset({"compile"})  # of ast.literal_eval, with which NumPy reads the header of an array
    file = "job.state"
    words = (
        "job",
        "units",
        "done",
        "seconds",
        "failed",
        "turned",
        "header",
        "logits0",
        0,
        1,
        2,
        5,
        -1,
        "1",
        {"0": "x"},
    )
    _IMAGES, _CLASSES, _JOB = 4, 3, "0" * 64

    def _parts(self, count: int) -> list[Computed]:
        rows = np.arange(self._IMAGES, dtype=np.int64)
        return [Computed(np.zeros((self._IMAGES, self._CLASSES), np.float32), rows) for _ in range(count)]

    def seeds(self) -> list[bytes]:
        found = []
        for count in (1, 2):
            parts = self._parts(count)
            for part in parts:
                part.done, part.failed, part.turned = 3, {1: "why"}, [0]
            state = StateFile(self.path, self._JOB, parts)
            state.save()
            found.append(self.path.read_bytes())
        return found

    def mutate(self, rng: Random, data: bytes) -> bytes:
        members = _members(data) if rng.random() > 0.2 else None
        if not members:
            return damage.damage(rng, data)
        name = rng.choice(list(members))
        if name == "header.npy" and rng.random() < 0.8:
            members[name] = _array(documents.edited_json(rng, members[name][128:], self.words))
        else:
            members[name] = _edited_array(rng, members[name])
        if rng.random() < 0.1:
            members[rng.choice((*members, "logits1.npy", "x"))] = members.pop(name)
        return _archive(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))

    def readings(self) -> Sequence[Reading]:
        return (lambda: self._load(1), lambda: self._load(2))

    def _load(self, count: int) -> None:
        StateFile(self.path, self._JOB, self._parts(count)).load()


def _members(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {entry.filename: archive.read(entry) for entry in archive.infolist() if entry.file_size < 100_000}
    except Exception:  # whatever it raises for a broken one
        return None


def _archive(members: Mapping[str, bytes], compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def _array(data: bytes) -> bytes:
    file = io.BytesIO()
    np.save(file, np.frombuffer(data, np.uint8))
    return file.getvalue()


def _edited_array(rng: Random, data: bytes) -> bytes:
    """A .npy with another description, or other numbers."""
    size = struct.unpack_from("<H", data.ljust(10, b"\0"), 8)[0]
    text, rest = data[10 : 10 + size], data[10 + size :]
    if rng.random() < 0.3:
        return data[: 10 + size] + damage.damage(rng, rest)
    sides = rng.choice(
        ("(3, 3)", "(0,)", "(1 << 40, 3)", f"({damage.number(rng)}, 3)", "(2, 3)", "(3,)", "()", "[3, 3]")
    )
    kind = rng.choice(("'<f4'", "'|O'", "'<f8'", "'<U9'", "[('a', '<f4')]", "'V8'", "'<M8[s]'", "5", "'<c8'"))
    order = rng.choice(("True", "False", "1"))
    text = rng.choice(
        (
            f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {sides}, }}".encode(),
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': {sides}, }}".encode(),
            *(
                damage.damage(rng, text),
                b"(" * 500 + b")" * 500,
                b"-" * 3000 + b"1",
                b"{}",
                b"{'descr': '<f4'",
                b"[" * 200,
            ),
        )
    )
    return data[:8] + struct.pack("<H", len(text) & 0xFFFF) + text + rest
