"""Opening ordinary files, and writing them so that they are there as a whole or not at all."""

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from bitvit.errors import BitvitError
from bitvit.messages import shown
from bitvit.nopaths import no_path, path_text
from bitvit.tensorfile import whole_number

__all__ = [
    "EXHAUSTED",
    "GIT_LFS",
    "LFS_POINTER",
    "cannot_write",
    "is_file",
    "is_folder",
    "is_special",
    "make_folder",
    "open_file",
    "read_csv",
    "read_json",
    "read_small",
    "read_text",
    "replacing",
    "write_file",
]

EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors that no file is to blame for: memory, or open files of the process or the system."""
GIT_LFS = b"version https://git-lfs"
"""How a file begins that a clone without Git LFS has in place of a large one."""
LFS_POINTER = "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether it is that of a folder; False for what can be no path, for which pathlib raises an OSError."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether it is that of an ordinary file; False for what can be no path."""
    return os.path.isfile(path)  # noqa: PTH113


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether there is something that is neither folder nor ordinary file, such as /dev/null: not to be replaced."""
    return os.path.exists(path) and not is_file(path) and not is_folder(path)  # noqa: PTH110


def open_file(
    path: str | os.PathLike[str],
    error: type[BitvitError],
    *,
    missing: str = "no such file; check the path",
    folder: str = "is a folder, expected a file",
    special: str = "is not a regular file; copy it to one first",
) -> io.BufferedReader:
    """Open an ordinary file for reading.

    A pipe or device is refused: opening one may wait for a writer for ever. missing, folder, special: what the message
    says after the name, the remedy included. Raises `error`; plain BitvitError where the system is at its limits.
    """
    where = path_text(path)
    text = os.fsdecode(path)
    if not text:  # which Path would take for the working folder
        raise error(f"{where}: {missing}")
    try:
        mode = os.stat(text).st_mode  # noqa: PTH116  # pathlib would take 30 µs, for each of a thousand images
        if stat.S_ISDIR(mode):
            raise error(f"{where}: {folder}")
        if not stat.S_ISREG(mode):
            raise error(f"{where}: {special}")
        return open(text, "rb")  # noqa: PTH123
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            raise error(f"{where}: {no_path(text) or missing}") from None
        if problem.errno in EXHAUSTED:
            raise BitvitError(
                f"{where}: cannot be opened: {problem.strerror}; raise the limit of the process"
            ) from None
        raise error(f"{where}: cannot be read: {problem.strerror or problem}; check file and disk") from None
    except ValueError as problem:  # a NUL character
        raise error(f"{shown(where)}: is not a path ({problem}); check the path") from None


def read_small(path: str | os.PathLike[str], most: int) -> bytes | None:
    """The bytes of an ordinary file, if there are 1 to `most` and nothing is in the way; else None, and open_file says
    what is. Half of the time of opening such a file and reading it piece by piece."""
    try:
        found = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= most:
            return None
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            data = os.read(descriptor, found.st_size + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    return data if len(data) == found.st_size else None


def read_text(path: str | os.PathLike[str], error: type[BitvitError], expected: str) -> str:
    """The text of a UTF-8 file, without a byte order mark; ends of lines are left as they are.

    expected: what the file should hold, for messages. Raises `error`.
    """
    where = os.fspath(path)
    try:
        with open_file(path, error, folder=f"is a folder, expected a file with {expected}") as file:
            data = file.read()
        if data.startswith(GIT_LFS):
            raise error(f"{where}: {LFS_POINTER}")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{where}: byte {problem.start} is not UTF-8 text; expected {expected}") from None
    except OSError as problem:
        raise error(f"{where}: cannot be read: {problem.strerror or problem}; check file and disk") from None


def read_json(path: str | os.PathLike[str], error: type[BitvitError], expected: str) -> object:
    """The value in a UTF-8 file of JSON. expected: what it should hold, for messages. Raises `error`."""
    text = read_text(path, error, expected)
    try:
        return json.loads(text, parse_int=whole_number)
    except (ValueError, RecursionError) as problem:
        raise error(f"{os.fspath(path)}: is not JSON ({problem}); expected {expected}") from None


def read_csv(
    path: str | os.PathLike[str], error: type[BitvitError], expected: str, *, delimiters: str = ","
) -> list[tuple[int, list[str]]]:
    """The rows of a UTF-8 file of CSV that are not empty, each with the number of its last line.

    delimiters: that which the first line has most of is taken. expected: what the file should hold, for messages.
    Raises `error`.
    """
    import csv  # every program imports this module, and few read tables

    text = read_text(path, error, expected)
    first = io.StringIO(text, newline="").readline()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(delimiters, key=first.count))
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as problem:
        raise error(f"{os.fspath(path)}: is not CSV ({problem}); expected {expected}") from None


def write_file(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], error: type[BitvitError] = BitvitError
) -> None:
    """Write a file, which appears under its name when it is complete; if that is a link, the file that it points to.

    Raises `error` if it cannot be written, or if the name is that of a folder or a device.
    """
    try:
        with replacing(path, error) as file:
            write(file)
    except OSError as problem:
        raise cannot_write(path, problem, error) from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], error: type[BitvitError] = BitvitError) -> Iterator[BinaryIO]:
    """A file to write piece by piece: what write_file does, as a context; after an exception in it nothing is left.

    Raises `error` as write_file does, but an OSError within the context is the caller's.
    """
    import secrets  # which few programs need

    try:
        target = Path(path).resolve()
        ordinary = target.is_file() or not target.exists()
        place = target.with_name(f".bitvit.{secrets.token_hex(8)}")
    except (OSError, ValueError) as problem:  # a name that is none
        raise cannot_write(path, problem, error) from None
    if not ordinary:
        raise error(f"{path}: is not an ordinary file, and would be replaced; name another output file")
    try:
        file = place.open("xb")
    except OSError as problem:
        raise cannot_write(path, problem, error) from None
    try:
        with file:
            yield file
        try:
            place.replace(target)
        except OSError as problem:
            raise cannot_write(path, problem, error) from None
    finally:
        place.unlink(missing_ok=True)


def cannot_write(path: object, problem: Exception, error: type[BitvitError] = BitvitError) -> BitvitError:
    """What keeps a file from being written, as an error that names it."""
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
