"""Times of several contenders, taken in turns so that a change of the machine's speed meets all of them."""

import gc
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence

from bitvit.bench.measuring import spread as spread_of
from tools.peers.packages import PeersError

# Seconds. Measured on two Zen 4 cores: after a call OpenVINO's idle threads burn 1 ms of processor time, PyTorch's (GNU
# OpenMP) 9 ms, ONNX Runtime's and bitvit's none; then all sleep.
PAUSE = 0.02
SETTLE = 0.01  # seconds of untimed calls after a pause: they wake the threads and bring the weights into the caches
LONG = 0.1  # seconds; a call that takes longer needs no such help
WARM_UP = 3  # calls before anything else: engines compile and allocate in their first ones
METHOD = (
    "All contenders are in one process and take turns, each round in another order. A turn is a pause of"
    f" {PAUSE * 1e3:g} ms, in which the threads of the contender before fall asleep, untimed calls for"
    f" {SETTLE * 1e3:g} ms (none if a call takes over {LONG * 1e3:g} ms), and one timed call."
)


def alternate(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = 0.0,
    pause: float = PAUSE,
    settle: float = SETTLE,
) -> dict[str, list[float]]:
    """Seconds of each call of each contender: one a round, `rounds` rounds, more until `seconds` have passed.

    METHOD says how. Every contender's first calls come before. PeersError if one leaves the process on other cores.
    """
    typical = {name: _warm_up(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, shuffle, cores, collecting = list(calls), random.Random(0), core_count(), gc.isenabled()
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    try:
        for done in range(1_000_000):
            if done >= rounds and time.perf_counter() - start >= seconds:
                break
            shuffle.shuffle(names)
            for name in names:
                time.sleep(pause)
                if typical[name] < LONG:
                    _settle(calls[name], settle)
                times[name].append(_timed(calls[name]))
                if core_count() != cores:
                    raise PeersError(f"{name} left this process on {core_count()} of {cores} cores; time it alone")
    finally:
        if collecting:
            gc.enable()
    return times


def _warm_up(call: Callable[[], object]) -> float:
    """Seconds of the fastest of the first calls."""
    return min(_timed(call) for _ in range(WARM_UP))


def _settle(call: Callable[[], object], settle: float) -> None:
    end = time.perf_counter() + settle
    while True:
        call()
        if time.perf_counter() >= end:
            return


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def core_count() -> int | None:
    """How many cores the process may use; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def quantile(times: Sequence[float], share: float) -> float:
    """The time that this share of the calls did not exceed."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(times: Sequence[float], parts: int = 5) -> float:
    """bitvit.bench's spread of consecutive parts of a series."""
    size = max(1, len(times) // parts)
    return spread_of([times[i : i + size] for i in range(0, len(times) - size + 1, size)])
