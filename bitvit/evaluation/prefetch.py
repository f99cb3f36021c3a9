"""Work ahead: threads prepare the next items while the caller is busy with those before."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetch"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    prepare: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """prepare(item) of each item, in order, computed by `workers` threads; at most `ahead` results lie ready.

    An exception of `prepare` is raised when its item's turn comes. Close the generator to stop early: what has not
    begun is dropped.
    """
    pool = ThreadPoolExecutor(workers, "bitvit-prefetch")
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
