"""The cache of compiled functions: one object file each, in a folder that only this user can write to.

A file is what LLVM emitted, followed by a digest of it: what a crash, a full disk or a faulty one left behind is
compiled again. Files appear under their names when they are complete, so any number of processes may write at once.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from bitvit.kernels import target

_DIGEST = hashlib.sha256().digest_size


def folder() -> Path | None:
    """The private folder of compiled functions, or None if there is no safe place for one.

    Under NUMBA_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache. Its name holds a hash of the kernels' sources, of the
    versions that compile them and of the processor that they are compiled for, so an edit never meets stale code.
    Cached code gets executed: a folder that others own or may write to is not used.
    """
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        place = (Path(root) if root else Path.home() / ".cache") / "bitvit" / _own_fingerprint()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
            return None
        return place if os.access(place, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):
        return None


@functools.cache  # of the sources as this process found them; every function asks
def _own_fingerprint() -> str:
    return fingerprint(toolchain(), sources())


def fingerprint(toolchain: Iterable[str], sources: Iterable[Path]) -> str:
    """Names a folder: another one if a version, the processor, or the name or a byte of a source is another."""
    digest = hashlib.sha256("\0".join(toolchain).encode())
    for source in sources:
        digest.update(b"\0" + source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


def sources() -> list[Path]:
    """The files that decide what code a function becomes: the kernels, with what is inlined into them, and how they are
    compiled."""
    return [*sorted(Path(target.__file__).parent.glob("*.py")), Path(__file__).parent / "compiler.py"]


def toolchain() -> list[str]:
    """What compiles, in what versions, and the processor for which it does."""
    versions = [sys.version, numba_version(), llvmlite.__version__, np.__version__]
    return [*versions, llvm.get_process_triple(), target.CPU, target.FEATURES]


def numba_version() -> str:
    """Of the installed Numba, as its own file has it; empty if there is none.

    Numba is not imported for it, nor is importlib.metadata asked, whose import takes 20 ms: 5 % of a warm start.
    """
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        return ""
    return (Path(found.origin).parent / "_version.py").read_text()


def read(name: str) -> bytes | None:
    """The object file of a function; None if it is not there, or not what was written."""
    place = folder()
    if place is None:
        return None
    try:
        content = _file(place, name).read_bytes()
    except OSError:
        return None
    code = content[:-_DIGEST]
    return code if content[-_DIGEST:] == _digest(name, code) else None


def write(name: str, code: bytes) -> None:
    """Keep the object file of a function, if there is a place for it.

    Not with files.write_file: what others may write to gets executed, so from the first moment on nobody else may open
    the file, whatever the umask is and whoever may look into the folder.
    """
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=place, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code + _digest(name, code))
            Path(temporary).replace(_file(place, name))
        finally:
            Path(temporary).unlink(missing_ok=True)


def _digest(name: str, code: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + code).digest()


def _file(place: Path, name: str) -> Path:
    return place / f"{name}.o"
