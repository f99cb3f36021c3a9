"""Writing a file so that it is there as a whole or not at all, and folders for such files."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bitvit.errors import BitvitError

__all__ = ["make_folder", "write_file"]


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Write a file, which appears under its name when it is complete. Raises BitvitError if it cannot be written."""
    target = Path(path).resolve()  # of a link, the file it points to
    place = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            with place.open("xb") as file:
                write(file)
            place.replace(target)
        finally:
            place.unlink(missing_ok=True)
    except OSError as problem:
        raise BitvitError(
            f"{path}: cannot be written: {problem.strerror or problem}; choose an existing folder that you may write "
            "to, on a disk with space"
        ) from None


def make_folder(folder: Path) -> None:
    """Raises BitvitError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BitvitError(f"{folder}: cannot be made: {problem.strerror}; name a folder to write results to") from None
    if not os.access(folder, os.W_OK):
        raise BitvitError(f"{folder}: you may not write to it; name a folder to write results to")
