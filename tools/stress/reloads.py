"""A service that loads its model anew again and again, as it does whenever the file is replaced.

The check returns a line that says what was done, or raises CheckError.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import bitvit
from bitvit.model import BHViT

from .callers import Callers, ask, questions
from .promise import CheckError
from .soak import resident

CALLERS = 8
MOST_GROWTH = 16 << 20  # bytes, from the first tenth of the reloads on: what the C library's heaps come and go by
SETTLING = 30.0  # seconds that threads have to end in, when all cores are busy


@dataclass(frozen=True)
class _Held:
    """What a process has of the system."""

    threads: int
    files: int
    memory: int  # bytes

    @classmethod
    def now(cls) -> "_Held":
        threads, files = (sum(1 for _ in Path("/proc/self", kind).iterdir()) for kind in ("task", "fd"))
        return cls(threads, files, resident())


def check_reloads(path: Path, reloads: int = 500, count: int = CALLERS, growth: int = MOST_GROWTH) -> str:
    """Threads that call whatever model is the current one, which is replaced all the time."""
    asked = questions(path)
    current: list[BHViT] = [bitvit.load(path)]
    before, begin, most = _Held.now(), time.monotonic(), 0
    settled = before

    def call(number: int) -> None:
        ask(current[0], asked[number % len(asked)])

    with Callers([call] * count) as callers:
        for number in range(reloads):
            current[0] = bitvit.load(path)
            ask(current[0], asked[number % len(asked)])
            held = _Held.now()
            most = max(most, held.threads)
            if number == reloads // 10:
                settled = held
            if callers.has_failed:
                break
        grown = _Held.now().memory - settled.memory
    current.clear()
    after = _ended(before.threads)
    what = (
        f"{reloads} reloads in {time.monotonic() - begin:.0f} s under {count} threads: {callers.calls:,} calls, the "
        f"same bits; threads {before.threads}, at most {most}, in the end {after.threads}; files {before.files} and "
        f"{after.files}; memory grew by {grown / 2**20:.1f} MB after the first {reloads // 10}"
    )
    if after.threads > before.threads or after.files > before.files or grown > growth:
        raise CheckError(f"something is left of models that are gone: {what}")
    return what


def _ended(threads: int) -> _Held:
    """What is held once threads that are to end have."""
    deadline = time.monotonic() + SETTLING
    while _Held.now().threads > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return _Held.now()
