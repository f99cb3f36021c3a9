"""What the verbs share: messages on stderr, plain text, and output that is never left half-written."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bitvit.errors import BitvitError

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 160  # columns of a table that goes to a file or a pipe


def stderr_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout_console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def print_error(text: str, console: "Console | None" = None) -> None:
    _print_message("Error", "bold red", text, console or stderr_console())


def print_warning(text: str) -> None:
    _print_message("Warning", "bold yellow", text, stderr_console())


def _print_message(kind: str, style: str, text: str, console: "Console") -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{kind}:", style), " ", printable(text)))


def printable(text: str) -> str:
    """Text for a terminal: control characters and undecodable bytes escaped, since names come from files."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """A text stream to write results to: stdout, or a file that appears under its name only when it is complete.

    Raises BitvitError if the file cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # paths may hold bytes that are not UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    if path.is_dir():
        raise BitvitError(f"{path}: is a folder; name a file to write")
    if path.exists() and not path.is_file():  # such as /dev/null: not to be replaced
        with _open(path, "w") as stream:
            yield stream
        return
    target = path.resolve()  # of a link, the file it points to
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with _open(temporary, "x") as stream:
            yield stream
        _replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open(path: Path, mode: str) -> TextIO:
    try:
        stream: TextIO = path.open(mode, encoding="utf-8", errors="backslashreplace", newline="")  # type: ignore[assignment]
    except OSError as problem:
        raise BitvitError(
            f"{path}: cannot be written: {problem.strerror}; choose an existing folder that you may write to"
        ) from None
    return stream


def _replace(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as problem:
        raise BitvitError(f"{target}: cannot be written: {problem.strerror}; choose another name") from None
