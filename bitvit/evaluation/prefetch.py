"""Work ahead: threads prepare the next items while the caller is busy with those before."""

import collections
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import TypeAlias, TypeVar

__all__ = ["prefetch"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Jobs: TypeAlias = queue.Queue[tuple[Item, Future[Result]] | None]


def prefetch(
    prepare: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """prepare(item) of each item, in order, computed by `workers` threads; at most `ahead` results lie ready.

    Where fewer threads are to be had, those that there are do it, and where there is none, the caller itself. An
    exception of `prepare` is raised when its item's turn comes. Close the generator to stop early: what has not begun
    is dropped.
    """
    jobs: Jobs[Item, Result] = queue.Queue()
    threads = _start(workers, lambda: _work(prepare, jobs))
    if not threads:
        yield from map(prepare, items)
        return
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(Future())
            jobs.put((item, waiting[-1]))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for job in waiting:
            job.cancel()
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join()


def _start(count: int, work: Callable[[], None]) -> list[threading.Thread]:
    """Threads that work, as many as are to be had: there may be a limit, and none start while the interpreter ends."""
    threads: list[threading.Thread] = []
    for number in range(count):
        thread = threading.Thread(target=work, name=f"bitvit-prefetch_{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    return threads


def _work(prepare: Callable[[Item], Result], jobs: Jobs[Item, Result]) -> None:
    """What a thread does: jobs, until there is None in place of one."""
    for item, job in iter(jobs.get, None):
        if job.set_running_or_notify_cancel():
            try:
                result = prepare(item)
            except BaseException as problem:
                job.set_exception(problem)
            else:
                job.set_result(result)
