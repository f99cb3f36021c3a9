"""Who is computed for: a bounded queue in front of worker threads.

Requests are counted on the event loop, before they are handed to the threads: a count kept by the threads themselves
would never see those that wait.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bitvit.errors import BitvitError
from bitvit.serve.messages import RETRY

__all__ = ["Admission", "GoOn", "StoppedError"]

WATCHED = 0.05  # seconds after which a job's client is watched: a task for each would cost as much as routing does

Result = TypeVar("Result")
GoOn: TypeAlias = Callable[[], None]
"""Called by a job now and then. Raises if its answer is wanted no more."""


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
        """Raises HTTPException 503 if one more job would have to wait for a place in the queue."""
        if self.is_full:
            raise HTTPException(503, f"{self.admitted} requests are waiting or computed; try again", RETRY)

    async def run(self, job: Callable[[GoOn], Result], left: Callable[[], Awaitable[object]]) -> Result:
        """What a job returns, run by a worker when its turn comes.

        left: returns once the client has gone away; a job that waits is then dropped, one that runs ends soon. Raises
        HTTPException 503 if the queue is full, ClientDisconnect, StoppedError if the server ends before its turn comes,
        BitvitError if there is no thread to be had.
        """
        self.check()
        has_left = threading.Event()

        def go_on() -> None:
            if self._stopped.is_set():
                raise StoppedError
            if has_left.is_set():
                raise ClientDisconnect

        go_on()
        try:
            future = self._pool.submit(job, go_on)
        except (RuntimeError, MemoryError) as problem:
            has_left.set()  # it is in the pool's queue all the same
            raise BitvitError(
                f"no thread to compute with ({problem}); allow the server more memory or processes, or fewer --workers"
            ) from None
        self.admitted += 1
        watching: list[asyncio.Task[None]] = []

        async def drop_when_left() -> None:
            await left()
            has_left.set()
            future.cancel()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(WATCHED, lambda: watching.append(loop.create_task(drop_when_left())))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            go_on()
            raise
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()
            self.admitted -= 1

    def stop(self) -> None:
        """Begin no further job; those that run end soon."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
