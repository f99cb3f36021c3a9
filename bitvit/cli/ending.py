"""How a command ends: what a user can mend is told in one line, and the exit code says what happened."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from bitvit.cli.console import print_error, printable
from bitvit.errors import BitvitError, has_room, lacks_memory
from bitvit.messages import shortened

__all__ = ["INTERRUPTED", "told"]

INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the signal's number, as shells have it
MORE_MEMORY = "allow the process more, or use a smaller --batch-size or fewer --threads"
LEAST_ROOM = 32 << 20  # bytes; with less Python and NumPy raise nearly anything, as SyntaxError for a module with none
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)  # EIO: a disk, or no terminal any more


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Run a command. A mistake of the user gives one line; anything else is a bug and keeps its traceback.

    Raises SystemExit where the command has failed.
    """
    try:
        yield
        if sys.stdout is not None:  # None: its descriptor was closed
            sys.stdout.flush()
    except BitvitError as error:
        _tell(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        lacks = lacks_memory(error)
        if lacks or not has_room(LEAST_ROOM):
            reason = "" if lacks else f" ({type(error).__name__}: {error})"
            _tell(f"too little memory{reason}; {MORE_MEMORY}")
            raise SystemExit(1) from None
        if not isinstance(error, OSError):
            raise
        if isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL):
            _discard_stdout()  # a closed pipe is an invalid argument on Windows
            raise SystemExit(BROKEN_PIPE) from None
        if error.errno == errno.ENAMETOOLONG and error.filename is not None:
            _tell(f"{os.fsdecode(error.filename)}: {error.strerror}; check the path")
            raise SystemExit(1) from None
        if error.errno not in UNWRITABLE:
            raise
        if error.filename is not None:
            _tell(f"{os.fsdecode(error.filename)}: {error.strerror}; check file and disk")
            raise SystemExit(1) from None
        _discard_stdout()
        _tell(f"the output cannot be written: {error.strerror}")
        raise SystemExit(1) from None


def _tell(text: str) -> None:
    """An error, even where there is no memory for what makes it red."""
    text = shortened(text)
    try:
        print_error(text)
    except Exception as problem:
        if not lacks_memory(problem) and has_room(LEAST_ROOM):
            raise
        if sys.stderr is not None:
            sys.stderr.write(f"Error: {printable(text)}\n")


def _discard_stdout() -> None:
    """So that what is left in the buffer does not fail again when Python exits."""
    if sys.stdout is None:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
