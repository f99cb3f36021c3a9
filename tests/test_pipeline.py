"""The pipeline: in order, bounded, errors in their places, and no thread left when nobody wants more."""

import itertools
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit import pipeline
from bitvit.errors import ImageError
from bitvit.pipeline import AHEAD, Answer, Prepared, answers, in_order
from tests.support.interrupts import interrupted_at
from tests.support.paths import ROOT
from tests.support.patience import patience


def squares(items: list[int]) -> Iterator[int]:
    return (item * item for item in items)


def helpers() -> list[threading.Thread]:
    """Threads of pipelines that are still there."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("bitvit-pipeline")]


class Fault(Exception):  # noqa: N818
    """Of work or items."""


# ------------------------------------------------------------------------------------------------------------ threads
@given(
    count=st.integers(0, 40),
    threads=st.integers(1, 4),
    most=st.integers(1, 5),
    bad_work=st.none() | st.integers(0, 40),
    bad_item=st.none() | st.integers(0, 40),
    wanted=st.none() | st.integers(0, 40),
)
def test_results_come_in_order_and_exceptions_in_their_places(
    count: int, threads: int, most: int, bad_work: int | None, bad_item: int | None, wanted: int | None
) -> None:
    """Whoever does what; also if nobody wants all of them. Each item once, and few ahead of the results."""
    caller = threading.get_ident()
    taken: list[int] = []
    done: list[int] = []
    got: list[int] = []
    portions: list[int] = []

    def items() -> Iterator[int]:
        for item in range(count):
            assert threading.get_ident() == caller, "items are taken by the caller alone"
            assert len(taken) < len(got) + AHEAD * threads * most
            if item == bad_item:
                raise Fault(f"item {item}")
            taken.append(item)
            yield item

    def work(portion: list[int]) -> Iterator[int]:
        portions.append(len(portion))
        for item in portion:
            if item == bad_work:
                raise Fault(f"work {item}")
            done.append(item)
            yield item * item

    ready = in_order(work, items(), threads=threads, most=most)
    problem = None
    try:
        for result in ready if wanted is None else itertools.islice(ready, wanted):
            got.append(result)  # noqa: PERF402  # those before an exception count
    except Fault as raised:
        problem = str(raised)
    ready.close()
    assert helpers() == []
    end = min([count, *(bad for bad in (bad_work, bad_item) if bad is not None)])
    asked = count + 1 if wanted is None else wanted
    assert got == [n * n for n in range(min(end, asked))]
    if asked > end < count:
        assert problem == (f"item {end}" if end == bad_item else f"work {end}")
    else:
        assert problem is None
    assert sorted(done) == sorted(set(done)), "each once"
    assert all(1 <= size <= most for size in portions)


def test_one_thread_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(0, monkeypatch)
    sizes: list[int] = []

    def work(portion: list[int]) -> list[int]:
        sizes.append(len(portion))
        return portion

    assert list(in_order(work, range(10), threads=1, most=4)) == list(range(10))
    assert sizes == [4, 4, 2]


def test_helpers_work_while_the_caller_does_something_else() -> None:
    second = threading.Event()

    def work(portion: list[int]) -> list[int]:
        if 1 in portion:
            second.set()
        return portion

    ready = in_order(work, [0, 1, 2, 3], threads=2, most=1)
    assert next(ready) == 0
    assert second.wait(10)  # though nobody has asked for it
    ready.close()


def test_the_caller_works_while_a_helper_does() -> None:
    """Two threads are enough for two items that wait for each other."""
    meeting = threading.Barrier(2, timeout=patience(10))

    def work(portion: list[int]) -> list[int]:
        meeting.wait()
        return portion

    assert list(in_order(work, range(4), threads=2, most=1)) == list(range(4))


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
def test_it_does_with_the_threads_that_there_are(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_threads(count, monkeypatch)
    workers: set[str] = set()

    def work(portion: list[int]) -> Iterator[int]:
        workers.add(threading.current_thread().name)
        return squares(portion)

    assert list(in_order(work, range(50), threads=4, most=3)) == [n * n for n in range(50)]
    assert len(workers) <= 1 + count
    assert helpers() == []


class GreenThread(threading.Thread):
    """A thread as gevent and eventlet make them when they replace Python's: it runs on its starter's."""

    def start(self) -> None:
        self.run()

    @property
    def native_id(self) -> int:
        return threading.get_native_id()


def test_green_threads_are_no_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait of theirs would be everybody's."""
    monkeypatch.setattr(threading, "Thread", GreenThread)
    assert list(in_order(squares, range(20), threads=4, most=3)) == [n * n for n in range(20)]


def in_pipeline(code: CodeType) -> bool:
    return code.co_filename == pipeline.__file__


def test_an_interrupt_anywhere_leaves_no_thread() -> None:
    place, interrupted = 0, True
    while interrupted:
        place += 1
        got: list[int] = []

        def call(got: list[int] = got) -> None:
            got.extend(in_order(squares, range(6), threads=3, most=2))

        interrupted = interrupted_at(place, call, in_pipeline)
        for thread in helpers():  # one that the exception kept from being noted ends by itself
            thread.join(timeout=patience(10))
        assert helpers() == [], f"place {place}"
    assert got == [n * n for n in range(6)]
    assert place > 50


def _rest(ready: Iterator[int], answers: "multiprocessing.Queue[list[int]]") -> None:
    answers.put(list(ready))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_goes_on_alone() -> None:
    """The helper stays behind in the parent, in the middle of a portion."""
    begun, go_on = threading.Event(), threading.Event()

    def work(portion: list[int]) -> list[int]:
        if portion[0] and threading.current_thread() in helpers():
            begun.set()
            go_on.wait(60)
        return portion

    context = multiprocessing.get_context("fork")
    rest: multiprocessing.Queue[list[int]] = context.Queue()
    ready = in_order(work, range(20), threads=2, most=1)
    assert next(ready) == 0
    assert begun.wait(10)
    child = context.Process(target=_rest, args=(ready, rest))
    child.start()
    assert rest.get(timeout=patience(60)) == list(range(1, 20))
    child.join(timeout=patience(60))
    assert child.exitcode == 0
    go_on.set()
    assert list(ready) == list(range(1, 20))


def test_the_interpreter_may_end_in_between() -> None:
    script = (
        "from bitvit.pipeline import in_order\n"
        "import time\n"
        "ready = in_order(lambda p: [time.sleep(0.01) or n for n in p], range(1000), threads=3, most=1)\n"
        "print(next(ready))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience(60)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# ------------------------------------------------------------------------------------------------------------- images
CROP = np.zeros((4, 4, 3), np.uint8)


def prepare(number: int, image: Any) -> Prepared | ImageError:
    return ImageError(f"image {number}") if image == b"bad" else Prepared(CROP + np.uint8(number), image == b"turned")


def mean(crops: Iterable[NDArray[np.uint8]], alone: bool) -> NDArray[np.float32]:
    return np.array([[crop.mean(), alone] for crop in crops], np.float32)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_image_has_its_answer_or_error(threads: int, parallel: bool) -> None:
    images = [b"good", b"bad", b"turned", *[b"good"] * 9, b"bad"]
    ready = answers(
        [mean, lambda crops, alone: 2 * mean(crops, alone)],
        enumerate(images), prepare, lambda logits: logits[:, 0].tolist(),
        parallel=parallel, threads=threads, batch_size=4, kept=True,
    )  # fmt: skip
    for number, (image, answer) in enumerate(zip(images, ready, strict=True)):
        if image == b"bad":
            assert isinstance(answer, ImageError)
            assert str(answer) == f"image {number}"
        else:
            assert answer == Answer((number, 2 * number), image == b"turned")


@pytest.mark.parametrize(("count", "alone"), [(1, False), (2, False), (3, True), (9, True)])
def test_fewer_images_than_threads_are_left_to_the_networks_own(count: int, alone: bool) -> None:
    ready = answers(
        [mean], enumerate([b"good"] * count), prepare, lambda logits: logits[:, 1].tolist(),
        parallel=True, threads=3, batch_size=4, kept=True,
    )  # fmt: skip
    assert [answer.results for answer in ready if isinstance(answer, Answer)] == [(alone,)] * count
    assert helpers() == []


@pytest.mark.parametrize("threads", [1, 3])
def test_an_array_that_is_used_again_is_prepared_before_the_next_is_taken(threads: int) -> None:
    """As a camera's, or the frames of a film."""
    frame = CROP.copy()

    def film() -> Iterator[tuple[int, Any]]:
        for number in range(20):
            frame[:] = number
            yield number, frame

    ready = answers(
        [mean], film(), lambda _, image: Prepared(np.array(image), False), lambda logits: logits[:, 0].tolist(),
        parallel=True, threads=threads, batch_size=4, kept=False,
    )  # fmt: skip
    assert [answer.results for answer in ready if isinstance(answer, Answer)] == [(number,) for number in range(20)]


def test_answers_before_an_exception_come_first() -> None:
    """One that is no fault of an image, such as too little memory."""

    def fail(number: int, image: Any) -> Prepared | ImageError:
        if number == 2:
            raise MemoryError
        return prepare(number, image)

    ready = answers(
        [mean], enumerate([b"good"] * 9), fail, lambda logits: logits[:, 0].tolist(),
        parallel=True, threads=2, batch_size=4, kept=True,
    )  # fmt: skip
    assert [next(ready), next(ready)] == [Answer((0.0,), False), Answer((1.0,), False)]
    with pytest.raises(MemoryError):
        next(ready)
    assert helpers() == []
