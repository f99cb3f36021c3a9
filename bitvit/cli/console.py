"""What the verbs share: messages on stderr, plain text, and output that is never left half-written."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from bitvit.errors import BitvitError
from bitvit.files import replacing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

SOME_FAILED = 3  # exit code: images could not be read
TABLE_WIDTH = 160  # columns; in a narrower terminal lines of a table wrap, where Rich would cut numbers short


def stderr_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout_console() -> "Console":
    """For tables."""
    from rich.console import Console

    return Console(highlight=False, width=TABLE_WIDTH)


def print_error(text: str, console: "Console | None" = None) -> None:
    _print_message("Error", "bold red", text, console or stderr_console())


def print_warning(text: str) -> None:
    _print_message("Warning", "bold yellow", text, stderr_console())


def print_note(text: str) -> None:
    _print_message("Note", "bold", text, stderr_console())


def _print_message(kind: str, style: str, text: str, console: "Console") -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{kind}:", style), " ", printable(text)))


def printable(text: str) -> str:
    """Text for a terminal: control characters and undecodable bytes escaped, since names come from files."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def check_drawing(path: Path) -> None:
    """Raises BitvitError if no PNG can be written there: better known before the work than after it."""
    if path.suffix.lower() != ".png":
        raise BitvitError(f"{path}: drawings are PNG files; end the name with .png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise BitvitError(f"{path}: cannot be written: name a .png file in an existing folder")


@contextlib.contextmanager
def compiling_status(*, live: bool = True) -> Iterator[None]:
    """Say on stderr, once, that kernels are being compiled, which the first run on a machine does, and what is wrong if
    every run does. live: say on a terminal too how far that is."""
    with contextlib.ExitStack() as stack:
        log, handler = logging.getLogger("bitvit"), _CompilingHandler(stack, live)
        before = log.level
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before)


class _CompilingHandler(logging.Handler):
    """Shows what the loader of kernels says: warnings as messages, and the rest as a status line if it is live."""

    def __init__(self, stack: contextlib.ExitStack, live: bool) -> None:
        super().__init__(logging.INFO if live else logging.WARNING)
        self._stack = stack
        self._status: Status | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            (print_note if getattr(record, "routine", False) else print_warning)(text)
            return
        console = stderr_console()
        if self._status is not None:
            self._status.update(text)
        elif console.is_terminal:
            self._status = self._stack.enter_context(console.status(text))


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """A text stream to write results to: stdout, or a file that appears under its name only when it is complete.

    Raises BitvitError if the file cannot be written.
    """
    if path is None:
        yield sys.stdout
    elif path.is_dir():
        raise BitvitError(f"{path}: is a folder; name a file to write")
    else:
        special = path.exists() and not path.is_file()  # such as /dev/null: not to be replaced
        with (
            _device(path) if special else replacing(path) as file,
            io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="") as text,
        ):
            yield text


def _device(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as problem:
        raise BitvitError(f"{path}: cannot be written: {problem.strerror}; name another output file") from None
