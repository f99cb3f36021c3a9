"""Who is computed for: a bounded queue in front of worker threads.

Requests are counted on the event loop, before they are handed to the threads: a count kept by the threads themselves
would never see those that wait.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bitvit.serve.messages import HTTPError

__all__ = ["Admission", "StoppedError"]

Result = TypeVar("Result")


class StoppedError(Exception):
    """The server ends, and does not wait for the rest of a job."""


class Admission:
    """workers: threads, each of which does one job at a time. queue: jobs that may wait for one."""

    def __init__(self, workers: int, queue: int) -> None:
        self.workers, self.queue = workers, queue
        self.admitted = 0
        """Jobs that wait or are done now."""
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(workers, "bitvit-serve")

    @property
    def is_full(self) -> bool:
        return self.admitted >= self.workers + self.queue

    def check(self) -> None:
        """Raises HTTPError 503 if one more job would have to wait for a place in the queue."""
        if self.is_full:
            text = f"{self.admitted} requests are waiting or computed; try again"
            raise HTTPError(503, text, ((b"retry-after", b"1"),))

    async def run(self, job: Callable[[], Result]) -> Result:
        """What a job returns, run by a worker when its turn comes.

        Raises HTTPError 503 if the queue is full, StoppedError if the server ends before its turn comes.
        """
        self.check()
        self.go_on()
        self.admitted += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, job)
        except asyncio.CancelledError:
            self.go_on()
            raise
        finally:
            self.admitted -= 1

    def go_on(self) -> None:
        """Called by long jobs, now and then. Raises StoppedError."""
        if self._stopped.is_set():
            raise StoppedError

    def stop(self) -> None:
        """Begin no further job; those that run end soon."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
