"""What the verbs share: messages on stderr, plain text, and output that is never left half-written."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, TypeVar

from bitvit.errors import BitvitError
from bitvit.files import cannot_write, is_folder, is_special, replacing
from bitvit.messages import plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

Kind = TypeVar("Kind", bound=Enum)

__all__ = [
    "IGNORE",
    "SOME_FAILED",
    "check_drawing",
    "compiling_status",
    "counting_bar",
    "format_of",
    "is_animated",
    "occupy_standard_descriptors",
    "output",
    "print_error",
    "print_note",
    "print_warning",
    "printable",
    "require_stdout",
    "result_console",
    "stderr_console",
    "width_of",
    "wrapped",
]

IGNORE = "A field of config.json, or an option of the training, that is not known but changes nothing."

SOME_FAILED = 3  # exit code: images could not be read


def stderr_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def result_console(stream: TextIO | None = None) -> "Console":
    """For results, to stdout or an open file. A file gets no colours, whatever the environment says of terminals."""
    from rich.console import Console

    inside = stream is not None and stream is not sys.stdout
    return Console(file=stream, highlight=False, force_terminal=False if inside else None)


def width_of(console: "Console") -> int | None:
    """Columns of the terminal behind a console. None: there is none, so lines may have any length.

    A pipe that FORCE_COLOR makes a terminal has a width if COLUMNS says which.
    """
    known = console.file.isatty() or "COLUMNS" in os.environ
    return console.width if console.is_terminal and known else None


def is_animated(console: "Console") -> bool:
    """Whether a line may be drawn again and again: on a real terminal only. FORCE_COLOR asks for colours alone."""
    return console.file.isatty() and console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def counting_bar(console: "Console", total: int) -> Iterator[Callable[[], None]]:
    """A progress bar that goes away, where a person looks at the console; to be called after each of `total`."""
    if sys.stderr is None or not is_animated(console):
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def print_error(text: str, console: "Console | None" = None) -> None:
    _print_message("Error", "bold red", text, console or stderr_console())


def print_warning(text: str) -> None:
    console = stderr_console()
    _print_message("Warning", "bold magenta", text, console, width_of(console))


def print_note(text: str) -> None:
    console = stderr_console()
    _print_message("Note", "bold", text, console, width_of(console))


def print_turned(turned: int, images: int) -> None:
    """Say once how many images would be turned by --exif; nothing if none would."""
    if turned:
        whose = "its" if turned == 1 else "their"
        print_note(
            f"{turned:,} of {plural(images, 'image')} would be turned by {whose} EXIF data, which is ignored, as in "
            "the training code; --exif obeys it"
        )


def _print_message(kind: str, style: str, text: str, console: "Console", width: int | None = None) -> None:
    """width: to break lines at; an error has none, since it may hold a command that is to be copied."""
    from rich.text import Text

    message = Text(wrapped(f"{kind}: {printable(text)}", width))
    message.stylize(style, 0, len(kind) + 1)
    console.print(message)


def wrapped(line: str, width: int | None) -> str:
    """A line broken between words, what follows the first indented by two more spaces; as it is if width is None."""
    if width is None:
        return line
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def printable(text: str) -> str:
    """Text for a terminal: control characters and undecodable bytes escaped, since names come from files."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def check_drawing(path: Path) -> None:
    """Raises BitvitError if no PNG can be written there: better known before the work than after it."""
    if path.suffix.lower() != ".png":
        raise BitvitError(f"{path}: drawings are PNG files; end the name with .png")
    if is_folder(path) or not is_folder(path.absolute().parent):
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
        elif is_animated(console):
            self._status = self._stack.enter_context(console.status(text))


def occupy_standard_descriptors() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed.

    Otherwise the next file that is opened takes its place: an output file that of stderr, to which C libraries write.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def require_stdout() -> None:
    """Raises BitvitError if stdout is closed, so that a command with nowhere to write its results does not begin."""
    if sys.stdout is None:  # so Python says that its descriptor was closed
        raise BitvitError("stdout is closed; name an output file, or redirect stdout to one")


def format_of(chosen: Kind | None, out: str | os.PathLike[str] | None, default: Kind) -> Kind:
    """The format that was chosen, else the one that the output's name ends with, such as .csv, else the default."""
    if chosen is not None:
        return chosen
    ending = "" if out is None else os.path.splitext(out)[1][1:].lower()  # noqa: PTH122  # may be an address
    return next((kind for kind in type(default) if ending in (kind.value, _SHORT.get(kind.value))), default)


_SHORT = {"markdown": "md"}


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """A text stream to write results to: stdout, or a file that appears under its name only when it is complete.

    Raises BitvitError if the file cannot be written, or stdout is closed.
    """
    if path is None:
        require_stdout()
        yield sys.stdout
    elif is_folder(path):
        raise BitvitError(f"{path}: is a folder; name a file to write")
    else:
        try:
            with (
                _device(path) if is_special(path) else replacing(path) as file,
                io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="") as text,
            ):
                yield text
        except OSError as problem:
            if problem.filename is not None or isinstance(problem, BrokenPipeError):  # of another file, or of a reader
                raise
            raise cannot_write(path, problem) from None


def _device(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as problem:
        raise BitvitError(f"{path}: cannot be written: {problem.strerror}; name another output file") from None
