"""Work ahead: in order, bounded, and ended when nobody wants it."""

import threading
import time
from collections.abc import Iterator

from bitvit.evaluation.prefetch import prefetch


def test_prefetch_keeps_the_order_and_its_bound() -> None:
    started: list[int] = []

    def prepare(item: int) -> int:
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    def items() -> Iterator[int]:
        yield from range(100)

    ready = prefetch(prepare, items(), workers=3, ahead=5)
    assert [next(ready) for _ in range(10)] == [n * n for n in range(10)]
    time.sleep(0.05)
    assert len(started) <= 10 + 5
    assert list(ready) == [n * n for n in range(10, 100)]


def test_prefetch_works_while_the_caller_does() -> None:
    second = threading.Event()

    def prepare(item: int) -> int:
        if item == 1:
            second.set()
        return item

    ready = prefetch(prepare, [0, 1], workers=1, ahead=2)
    assert next(ready) == 0
    assert second.wait(10)  # though nobody has asked for it


def test_prefetch_stops_when_closed() -> None:
    started: list[int] = []
    ready = prefetch(started.append, range(1000), workers=2, ahead=4)
    next(ready)
    ready.close()
    count = len(started)
    time.sleep(0.02)
    assert len(started) == count <= 6
