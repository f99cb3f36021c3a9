"""The same work on several threads at once."""

import threading
from collections.abc import Callable

from bitvit.errors import BenchError

__all__ = ["run_together"]


def run_together(work: Callable[[int], None], count: int) -> None:
    """work(0) … work(count - 1), each on a thread of its own; none begins before all are there.

    Raises BenchError if so many threads cannot be started; then nothing has begun.
    """
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            return
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError as problem:
        raise BenchError(
            f"only {len(started)} of {count} threads could be started ({problem}); measure with fewer --threads, or "
            "raise the limit of processes (ulimit -u, or the container's pids limit)"
        ) from None
    finally:
        if len(started) < count:
            barrier.abort()
        for thread in started:
            thread.join()
