"""The cache of compiled functions: one object file each, in a folder that only this user or root can write to.

A file is what LLVM emitted, followed by a digest of it: what a crash, a full disk or a faulty one left behind is
compiled again. Files appear under their names when they are complete, so any number of processes may write at once.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bitvit.jit.trust import fault_around, fault_of
from bitvit.kernels import target
from bitvit.llvm import VERSION

__all__ = [
    "file_name",
    "fingerprint",
    "folder",
    "numba_version",
    "place",
    "problem",
    "read",
    "sources",
    "toolchain",
    "write",
]

OTHERS = " (beside it are kernels for other processors or versions)"

_DIGEST = hashlib.sha256().digest_size


def place() -> Path | None:
    """The folder that compiled functions are read from; None if it is not there, or others may have written to it.

    Under NUMBA_CACHE_DIR, else XDG_CACHE_HOME, else where the platform has users' caches. Its name holds a hash of the
    kernels' sources, of the versions that compile them and of the processor that they are compiled for, so an edit
    never meets stale code.
    """
    return _examine(make=False)[0]


def folder() -> Path | None:
    """The same folder if compiled functions can be kept there, made if need be; None if they cannot."""
    found, _ = _examine(make=True)
    return found if found is not None and _is_writable(found) else None


def problem() -> str:
    """Where compiled functions were to be kept, and why they cannot be; empty if they can."""
    found, fault = _examine(make=True)
    if found is not None and not _is_writable(found):
        return _unreadable(found) or f"{found}: this user may not write to it, or it is on a read-only disk"
    return fault


def _unreadable(found: Path) -> str:
    """Why what is in a folder cannot be read, or is not to be used; empty if it can."""
    for path in (found, *sorted(found.glob("*.o"))):
        with contextlib.suppress(OSError):
            if fault := fault_of(path, path.lstat()):
                return fault
        if not os.access(path, os.R_OK | (os.X_OK if path is found else 0)):
            return f"{path}: this user may not read it, which chmod -R a+rX {found} would change"
    return ""


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK)


def _examine(*, make: bool) -> tuple[Path | None, str]:
    """The folder if it is there and what is in it may be executed; else None, and what is wrong with it."""
    try:
        chosen = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
        top = os.path.realpath(chosen or _users_caches())
    except (RuntimeError, ValueError) as error:
        return None, f"there is no folder of this user's ({error})"
    path = Path(top, "bitvit", _own_fingerprint())
    fault = fault_around(str(path.parent))
    try:
        if make and not fault and not path.exists():
            _make(path)
            fault = fault_around(str(path.parent))  # somebody else may have been quicker
        fault = fault or fault_of(path, path.lstat())
    except OSError as error:
        return None, f"{path}: {error.strerror}{OTHERS if make and _holds_any(path.parent) else ''}"
    return (None, fault) if fault else (path, "")


def _holds_any(folder: Path) -> bool:
    """Whether there is something in a folder, as far as this user may know."""
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _users_caches() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ".cache"


def _make(path: Path) -> None:
    """Make a folder and those around it that are missing. Others may look inside, if the umask lets them."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(mode=0o755, exist_ok=True)


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
    bytecode = sys.implementation.cache_tag or sys.version  # Numba's input; a patch release of Python has the same
    versions = [bytecode, numba_version(), VERSION, np.__version__]
    return [*versions, target.TRIPLE, target.CPU, target.FEATURES]


def numba_version() -> str:
    """Of the installed Numba, as its own file has it; empty if there is none.

    Numba is not imported for it, nor is importlib.metadata asked, whose import takes 20 ms: 5 % of a warm start.
    """
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        return ""
    return (Path(found.origin).parent / "_version.py").read_text()


def read(name: str) -> bytes | None:
    """The object file of a function; None if it is not there, not what was written, or perhaps written by others."""
    source = place()
    if source is None:
        return None
    try:
        with open(source / file_name(name), "rb", opener=_open_no_link) as file:
            if fault_of(name, os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    code = content[:-_DIGEST]
    return code if content[-_DIGEST:] == _digest(name, code) else None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def write(name: str, code: bytes) -> bool:
    """Keep the object file of a function, if there is a place for it; returns whether it is kept.

    Not with files.write_file: what others may write to gets executed, so from the first moment on nobody else may
    write to the file, whatever the umask is.
    """
    import secrets  # random numbers, which most processes have no need of

    target_folder = folder()
    if target_folder is None:
        return False
    temporary = target_folder / f".{name}.{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        try:
            with open(temporary, "xb", opener=_open_for_own_writing) as file:
                file.write(code + _digest(name, code))
            temporary.replace(target_folder / file_name(name))
            return True
        finally:
            temporary.unlink(missing_ok=True)
    return False


def _open_for_own_writing(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o644)


def _digest(name: str, code: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + code).digest()


def file_name(function: str) -> str:
    """What the object file of a function is called."""
    return f"{function}.o"
