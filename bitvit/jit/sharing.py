"""Compiling functions together with other processes that want them: one compiles each, and the others wait for it.

Processes meet at the cache's folder, by its files and by the locks of claims.py. The few that have a seat compile, in
two subprocesses each if possible. The others look into the folder now and then, and take a seat that becomes free,
such as one of a process that was killed. Where nothing appears for PATIENCE seconds, a process compiles alone.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitvit.jit import cache
from bitvit.jit.checks import compiler
from bitvit.jit.claims import Claims, compile_once
from bitvit.jit.workers import started, useful_workers
from bitvit.kernels.catalog import Function

__all__ = ["PATIENCE", "POLL", "WAIT", "compile_shared"]

POLL = 0.02  # seconds between two looks into the cache, while subprocesses compile
WAIT = 0.1  # the same while other processes do, of which there may be many
PATIENCE = 60.0  # seconds to wait for anything new; the slowest function takes about one to compile


def compile_shared(functions: Sequence[Function]) -> Iterator[tuple[Function, bytes]]:
    """Yields each function with its machine code, as soon as some process has compiled it.

    Raises BitvitError where Numba, if it is needed here, cannot be used.
    """
    with Claims(cache.folder()) as claims:
        arrivals = _Arrivals(functions)
        apart = useful_workers(len(functions)) if cache.folder() is not None else 0
        while arrivals.awaited and not arrivals.is_late():
            yield from arrivals.new()
            seats = claims.seats(max(apart, 1))
            if seats and arrivals.awaited:
                if apart:
                    yield from _compile_apart(arrivals, seats)
                    apart = 0  # once: whatever they have left, they could not do
                yield from _compile_here(arrivals, claims, seats[0])
            claims.leave_seats()
            if arrivals.awaited:
                time.sleep(WAIT)
    for function in arrivals.awaited:
        code = compiler()(function)
        cache.write(function.name, code)
        yield function, code


class _Arrivals:
    """Functions that are awaited, in the cache or from this process."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self.awaited = list(functions)
        self._files: set[str] = set()
        self._start = time.monotonic()  # of waiting for the next

    def new(self) -> Iterator[tuple[Function, bytes]]:
        """Those that have appeared in the cache, with their machine code."""
        files = _files_in(cache.place())
        if files != self._files:
            self._files, self._start = files, time.monotonic()
        for function in list(self.awaited):
            if cache.file_name(function.name) in files and (code := cache.read(function.name)) is not None:
                yield self.arrived(function, code)

    def arrived(self, function: Function, code: bytes) -> tuple[Function, bytes]:
        self.awaited.remove(function)
        self._start = time.monotonic()
        return function, code

    def is_late(self) -> bool:
        """Whether nothing has happened for long, in the cache or here."""
        return time.monotonic() - self._start > PATIENCE


def _files_in(folder: Path | None) -> set[str]:
    """One call for all functions: dozens of waiting processes should not be felt."""
    try:
        return {entry.name for entry in os.scandir(folder)} if folder is not None else set()
    except OSError:
        return set()


def _compile_apart(arrivals: _Arrivals, seats: Sequence[int]) -> Iterator[tuple[Function, bytes]]:
    """In a subprocess for each seat, until none works any more."""
    names = [function.name for function in arrivals.awaited]
    with started([names[::-1] if seat else names for seat in seats]) as workers:
        working = bool(workers)
        while working and arrivals.awaited and not arrivals.is_late():
            working = any(worker.is_alive() for worker in workers)  # before looking, for what it does last
            yield from arrivals.new()
            if working and arrivals.awaited:
                time.sleep(POLL)


def _compile_here(arrivals: _Arrivals, claims: Claims, seat: int) -> Iterator[tuple[Function, bytes]]:
    """What no other process compiles at the moment. seat: the other one goes through the list from its other end."""
    for function in list(reversed(arrivals.awaited) if seat else arrivals.awaited):
        code = compile_once(function, claims, compiler)
        if code is not None:
            yield arrivals.arrived(function, code)
