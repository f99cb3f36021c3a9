"""The inputs that are kept in the repository: for each target one compressed archive, since they are much alike."""

import hashlib
import io
import tarfile
from collections.abc import Hashable, Iterable, Mapping, Set
from pathlib import Path

__all__ = ["FOLDER", "keep", "kept", "least", "name_of"]

FOLDER = Path(__file__).resolve().parent / "corpus"
SMALL = 200  # bytes below which it hardly matters how long an input is


def kept(target: str) -> list[bytes]:
    """The inputs for a target, in a fixed order."""
    path = FOLDER / f"{target}.tar.xz"
    if not path.exists():
        return []
    with tarfile.open(path, "r:xz") as archive:
        files = [archive.extractfile(member) for member in archive.getmembers()]
        return [file.read() for file in files if file is not None]


def keep(target: str, inputs: Iterable[bytes]) -> Path:
    """Replace the inputs for a target. Equal inputs give equal bytes."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{target}.tar.xz"
    with tarfile.open(path, "w:xz", format=tarfile.USTAR_FORMAT) as archive:
        for data in sorted(set(inputs), key=lambda data: (len(data), data)):
            entry = tarfile.TarInfo(name_of(data))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def name_of(data: bytes) -> str:
    """As libFuzzer names the file of an input."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def least(reached: Mapping[str, Set[Hashable]], sizes: Mapping[str, int]) -> list[str]:
    """A few inputs that reach all which any of them reaches.

    reached: by the input's name; sizes: bytes of each. Again and again the input is taken that reaches most of what is
    left, for its size.
    """
    left: set[Hashable] = set().union(*reached.values())
    chosen = []
    while left:
        best = max(reached, key=lambda name: (len(reached[name] & left) / (SMALL + sizes[name]), name))
        chosen.append(best)
        left -= reached[best]
    return chosen
