"""How a command ends: what a user can mend is told in one line, and the exit code says what happened."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from bitvit.cli.console import print_error
from bitvit.errors import BitvitError

__all__ = ["INTERRUPTED", "told"]

INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the signal's number, as shells have it
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)  # EIO: the terminal is gone


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
        print_error(str(error))
        raise SystemExit(1) from None
    except MemoryError:
        print_error("too little memory; allow the process more, or use a smaller --batch-size or fewer --threads")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL):
            _discard_stdout()  # a closed pipe is an invalid argument on Windows
            raise SystemExit(BROKEN_PIPE) from None
        if error.errno not in UNWRITABLE:
            raise
        _discard_stdout()
        print_error(f"the output cannot be written: {error.strerror}")
        raise SystemExit(1) from None


def _discard_stdout() -> None:
    """So that what is left in the buffer does not fail again when Python exits."""
    if sys.stdout is None:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
