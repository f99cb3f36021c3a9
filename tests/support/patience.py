"""Time limits that grow with the slowness of the machine: emulated processors and small boards take their time."""

import functools
import time

__all__ = ["patience"]

_USUAL = 0.05  # seconds that the loop below takes on a processor of 2020 at 3 GHz


@functools.cache
def _slowness() -> float:
    """How many times as long as usual this machine takes, the best of three; 1 if it is no slower."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        sum(i * i for i in range(400_000))
        taken.append(time.perf_counter() - began)
    return max(1.0, min(taken) / _USUAL)


def patience(seconds: float) -> float:
    """A time limit in seconds, for a machine as slow as this one."""
    return seconds * _slowness()
