"""The library in front of the C library that makes faults (shim.c): building, preloading and telling it what to do."""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .promise import CheckError

__all__ = ["arm", "build", "compiler", "faults", "preloading"]

SOURCE = Path(__file__).parent / "shim.c"
_NAMES = ("FOLDERS", "AT", "ERROR", "WRITES", "FROM", "SHORT", "EINTR", "LOG", "CLOCK")


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(folder: Path) -> Path:
    """Compile it into a folder."""
    library, command = folder / "shim.so", compiler()
    if command is None:
        raise CheckError("there is no C compiler, which faults of a disk and of the clock need")
    if not library.exists():
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([command, *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def preloading(library: Path | None) -> dict[str, str]:
    """The environment of a process that has it in front."""
    return {} if library is None else {"LD_PRELOAD": str(library)}


def faults(
    folders: Iterable[Path] = (),
    *,
    at: int = 0,
    error: int = errno.EIO,
    writes_only: bool = False,
    from_there_on: bool = False,
    short: int = 0,
    interrupted: int = 0,
    log: Path | None = None,
    clock: Iterable[tuple[float, float]] = (),
) -> dict[str, str]:
    """The environment that asks for faults, or for none.

    at: the number of the call on files below the folders that fails with `error`; 0: none. writes_only: calls that take
    no room on a disk are not counted. short, interrupted: seeds, 0 for none. log: gets a line for each such call.
    clock: pairs of seconds after the start, and seconds by which the clock is wrong from then on.
    """
    values = (
        ":".join(map(str, folders)), at, error, int(writes_only), int(from_there_on), short, interrupted, log or "",
        ",".join(f"{moment}:{offset}" for moment, offset in clock),
    )  # fmt: skip
    return {f"SHIM_{name}": str(value) for name, value in zip(_NAMES, values, strict=True)}


def arm() -> None:
    """Have this process's shim, if it has one, read the environment again and begin to count."""
    with_shim = getattr(ctypes.CDLL(None), "stress_arm", None)
    if with_shim is not None:
        with_shim()
