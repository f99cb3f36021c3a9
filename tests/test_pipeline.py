"""Work ahead: in order, bounded, and ended when nobody wants it."""

import threading
import time
from collections.abc import Iterator

import pytest

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


def allow_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on only so many more can be started, as under a limit of processes."""
    left, start = [count], threading.Thread.start

    def start_or_not(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_prefetch_does_with_the_threads_that_there_are(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item once, in order, by the caller where nobody else does it."""
    allow_threads(count, monkeypatch)
    prepared: list[tuple[int, bool]] = []

    def prepare(item: int) -> int:
        prepared.append((item, threading.current_thread() is threading.main_thread()))
        return item * item

    assert list(prefetch(prepare, range(50), workers=3, ahead=5)) == [n * n for n in range(50)]
    assert sorted(item for item, _ in prepared) == list(range(50))
    if count == 0:
        assert all(by_caller for _, by_caller in prepared)


@pytest.mark.parametrize("count", [0, 2])
def test_an_exception_comes_when_its_items_turn_does(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(count, monkeypatch)

    def prepare(item: int) -> float:
        return 6 / (3 - item)

    ready = prefetch(prepare, range(5), workers=2, ahead=5)
    assert [next(ready) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(ready)
