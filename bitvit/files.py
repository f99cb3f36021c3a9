"""Writing a file so that it is there as a whole or not at all, and folders for such files."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bitvit.errors import BitvitError

__all__ = ["make_folder", "write_file"]


def write_file(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], error: type[BitvitError] = BitvitError
) -> None:
    """Write a file, which appears under its name when it is complete; of a link, the file that it points to.

    Raises `error` if it cannot be written, or if the name is that of a folder or a device.
    """
    try:
        target = Path(path).resolve()
        ordinary = target.is_file() or not target.exists()
        place = target.with_name(f".bitvit.{secrets.token_hex(8)}")
    except (OSError, ValueError) as problem:  # a name that is none
        raise _refusal(path, problem, error) from None
    if not ordinary:
        raise error(f"{path}: is not an ordinary file, and would be replaced; name another output file")
    try:
        try:
            with place.open("xb") as file:
                write(file)
            place.replace(target)
        finally:
            place.unlink(missing_ok=True)
    except OSError as problem:
        raise _refusal(path, problem, error) from None


def _refusal(path: object, problem: Exception, error: type[BitvitError]) -> BitvitError:
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
    return error(
        f"{path}: cannot be written: {reason}; choose an existing folder that you may write to, on a disk with space"
    )


def make_folder(folder: Path) -> None:
    """Raises BitvitError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BitvitError(f"{folder}: cannot be made: {problem.strerror}; name a folder to write results to") from None
    if not os.access(folder, os.W_OK):
        raise BitvitError(f"{folder}: you may not write to it; name a folder to write results to")
