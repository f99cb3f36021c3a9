"""The same work on several threads, and what happens if there are not so many."""

import threading

import pytest

from bitvit.bench.together import run_together
from bitvit.errors import BenchError
from tests.support.patience import patience


def test_all_are_there_before_any_begins() -> None:
    present = [0]
    seen: list[tuple[int, int]] = []
    barrier = threading.Barrier(3, timeout=patience(60))

    def work(number: int) -> None:
        present[0] += 1
        barrier.wait()
        seen.append((number, present[0]))

    run_together(work, 3)
    assert sorted(seen) == [(0, 3), (1, 3), (2, 3)]


def test_too_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were started do not wait for the others for ever, which would keep the process from ending."""
    before, start, left = threading.active_count(), threading.Thread.start, iter([True, True])

    def start_or_not(self: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    begun: list[int] = []
    with pytest.raises(BenchError, match=r"only 2 of 3 threads could be started \(can't start new thread\); measure"):
        run_together(begun.append, 3)
    assert begun == []
    assert threading.active_count() <= before  # fewer, where other tests' threads have ended meanwhile
