"""Getting the most out of a machine: how many threads to compute with while other programs come and go, and memory.

Threads that wait for each other run at the pace of the slowest. On two cores, one of them taken by another program of
higher priority, two threads were ten times slower than one; alone, they are nearly twice as fast. So both are tried
every now and then, and the faster one is kept.
"""

import contextlib
import ctypes
import time

import torch

__all__ = ["FixedThreads", "ThreadChooser", "keep_memory"]

TRIAL_STEPS = 4


class FixedThreads:
    """The number that is set already."""

    def after_step(self, seconds: float) -> None:
        """Nothing to learn."""


class ThreadChooser:
    """Chooses between one thread and `most`; to be told how long each step took."""

    def __init__(self, most: int, period: float = 90.0) -> None:
        self.counts = (1, most)
        self.period = period
        self.times: dict[int, list[float]] = {}
        self.next_trial = 0.0
        torch.set_num_threads(most)

    def after_step(self, seconds: float) -> None:
        now = time.monotonic()
        if now >= self.next_trial and not self.times:
            self._try(self.counts[0])
            return
        if not self.times:
            return
        count = torch.get_num_threads()
        self.times[count].append(seconds)
        if len(self.times[count]) == TRIAL_STEPS:
            if count != self.counts[1]:
                self._try(self.counts[1])
                return
            best = min(self.times, key=lambda tried: sum(self.times[tried][1:]))
            torch.set_num_threads(best)
            self.times, self.next_trial = {}, now + self.period

    def _try(self, count: int) -> None:
        torch.set_num_threads(count)
        self.times[count] = []


def keep_memory() -> None:
    """Tell glibc to keep what is freed: fresh pages for every large tensor can cost more than the arithmetic.

    Measured on a virtual machine, BHViT of 64 px on two cores: 9 ms an image in place of 19 to 106.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own for large blocks
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: give nothing back
