"""Who compiles what, where several processes want the same functions: locks on bytes of one file in the cache.

    a byte for each of SEATS    a process that compiles has one; the others wait, and do not even import Numba
    a byte for each function    whoever compiles it has it, so those that have seats share one list

They are POSIX record locks. The system drops them when their process ends, however it does, and a child has none of
its parent's: nothing can be left behind that somebody would have to clean up. They know no process numbers, so they
hold between containers with a volume in common, and they work over NFS. Where there are none, all is this process's.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from bitvit.jit import cache
from bitvit.kernels.catalog import FUNCTIONS, Function

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FILE", "SEATS", "Claims", "compile_once"]

FILE = ".lock"  # empty, and never removed: two processes could then have locks on two files of this name
SEATS = range(2)
_BYTES = {function.name: len(SEATS) + place for place, function in enumerate(FUNCTIONS)}
_TAKEN = {errno.EACCES, errno.EAGAIN}


class Claims:
    """What this process has claimed in a folder of the cache, until the context ends. folder: None if there is none.

    Two of them in one process see nothing of each other, and the first that ends drops what both have.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file: int | None = None
        if folder is not None and fcntl is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # a full disk, or another user's file
                self._file = os.open(folder / FILE, flags, mode=0o644)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Drop all claims, and from now on act as if there were no other process."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def seats(self, most: int) -> list[int]:
        """Those of SEATS that are free, and this process's from now on; at most so many."""
        seats: list[int] = []
        for seat in SEATS:
            if len(seats) < most and self._take(seat):
                seats.append(seat)
        return seats

    def leave_seats(self) -> None:
        self._release(SEATS)

    def take(self, function: Function) -> bool:
        """Whether nobody else compiles it; then this process does."""
        return self._take(_BYTES[function.name])

    def release(self, function: Function) -> None:
        self._release([_BYTES[function.name]])

    def _take(self, byte: int) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as problem:  # of another kind where the disk knows no locks
            return problem.errno not in _TAKEN
        return True

    def _release(self, numbers: Iterable[int]) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                for number in numbers:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


def compile_once(
    function: Function, claims: Claims, compiler: Callable[[], Callable[[Function], bytes]]
) -> bytes | None:
    """A function's machine code, out of the cache or compiled now and kept; None while another process compiles it.

    compiler: returns what compiles; called only where it is needed.
    """
    if not claims.take(function):
        return None
    try:
        code = cache.read(function.name)
        if code is None:
            code = compiler()(function)
            if not cache.write(function.name, code):  # such as on a full disk: nobody need wait for what never appears
                claims.give_up()
        return code
    finally:
        claims.release(function)
