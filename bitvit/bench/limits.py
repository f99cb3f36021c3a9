"""The best that this machine can do, measured with the loops of kernels/roofline.py: the roofs of a roofline."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitvit.bench.together import run_together
from bitvit.kernels import catalog
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.program import aligned_zeros
from bitvit.runtime.calls import Call, c_function

PRODUCTS = 2 * TILE_ROWS * LANES  # of two words, in each step of the loops of kernels/roofline.py
STEPS = 20_000  # about 2 ms
REPEATS = 15
CACHED = (1 << 18, 1 << 20, 1 << 22)  # bytes; the fastest counts as the rate of caches beyond the first level
UNCACHED = 1 << 27  # bytes: more than any cache that one core has


@dataclass(frozen=True)
class Limits:
    """What one core did at best in loops that do nothing else, per second."""

    binary_macs: float  # xor, popcount, add; or lookups, see kernels/lookup.py
    float_macs: float  # float32 multiply-adds
    cache_bytes: float  # read from a cache beyond the first level
    memory_bytes: float  # read from memory

    def seconds(self, binary_macs: float, float_macs: float, moved: float) -> tuple[float, str]:
        """The least time for so many multiply-adds and so many bytes out of a cache, and which of the three bounds it.

        Binary and float products compete for the same ports, so their times add up; reading goes on beside them.
        """
        binary, real, read = binary_macs / self.binary_macs, float_macs / self.float_macs, moved / self.cache_bytes
        if read > binary + real:
            return read, "bytes"
        return binary + real, "popcount" if binary >= real else "fma"


def measure_limits() -> Limits:
    """Measure all of them on one core; takes about 0.3 s."""
    cached = max(_read_rate(size, max(1, (1 << 23) // size)) for size in CACHED)
    memory = _read_rate(UNCACHED, 1)
    return Limits(popcount_rate(), _float_rate(), cached, memory)


def popcount_rate(threads: int = 1) -> float:
    """Binary multiply-adds per second when so many threads count bits at the same time."""
    calls = [_registers_call(catalog.popcount_limit, seed) for seed in range(threads)]
    work = STEPS * catalog.LIMIT_MACS
    return work / _best(calls[0]) if threads == 1 else work * threads / _best_together(calls)


def _float_rate() -> float:
    return STEPS * PRODUCTS / _best(_registers_call(catalog.fma_limit, 0))


def _registers_call(function: catalog.Scheduling, seed: int) -> Call:
    words = aligned_zeros(2 * catalog.LIMIT_TABLE * LANES)
    words.view(np.float32)[:] = np.random.default_rng(seed).standard_normal(len(words), np.float32)
    return Call(c_function(function), words, STEPS)


def _read_rate(size: int, passes: int) -> float:
    words = aligned_zeros(size // 4)
    words[:] = 1  # pages that were never written to would all be the same page of zeros
    steps = len(words) // PRODUCTS
    call = Call(c_function(catalog.read_limit), words, steps)

    def read() -> None:
        for _ in range(passes):
            call()

    return 4 * PRODUCTS * steps * passes / _best(read)


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls: an interruption can only slow a call down."""
    fastest = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return float(fastest)


def _best_together(calls: list[Call]) -> float:
    """Seconds that a call takes on average when all are made at once, each on its own thread."""
    rounds: list[list[float]] = [[] for _ in range(REPEATS)]
    barrier = threading.Barrier(len(calls))

    def work(call: Call) -> None:
        for times in rounds:
            barrier.wait()
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)

    run_together(lambda number: work(calls[number]), len(calls))
    return float(min(np.mean(times) for times in rounds))
