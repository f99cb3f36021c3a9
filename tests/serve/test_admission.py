"""The queue in front of the workers."""

import asyncio
import threading

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bitvit.errors import BitvitError
from bitvit.serve.admission import Admission, GoOn, StoppedError
from tests.support.patience import patience


async def staying() -> None:
    """Of a client that waits for its answer."""
    await asyncio.Event().wait()


def test_what_exceeds_workers_and_queue_is_refused_at_once() -> None:
    """A hundred at a time: 2 are computed, 3 wait, 95 are refused before the first has ended."""
    admission, release = Admission(2, 3), threading.Event()
    refused: list[HTTPException] = []

    async def one() -> str:
        try:
            return await admission.run(lambda _: str(release.wait(patience(30))), staying)
        except HTTPException as error:
            refused.append(error)
            if len(refused) == 95:
                assert admission.admitted == 5
                release.set()
            return "refused"

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(100)))

    assert sorted(asyncio.run(all_of_them())) == ["True"] * 5 + ["refused"] * 95
    assert {(error.status_code, error.headers["retry-after"]) for error in refused} == {(503, "1")}
    assert (admission.admitted, admission.is_full) == (0, False)
    admission.stop()


def test_a_place_is_free_again_after_an_error() -> None:
    admission = Admission(1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(admission.run(lambda _: 1 // 0, staying))
    admission.stop()


def test_a_thread_that_cannot_be_had_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is in the pool's queue already, and ends there at once."""
    admission, went_on = Admission(1, 0), list[int]()

    def job(go_on: GoOn) -> int:
        go_on()
        went_on.append(len(went_on))
        return went_on[-1]

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(BitvitError, match=r"no thread to compute with \(can't start new thread\)"):
                asyncio.run(admission.run(job, staying))
    assert admission.admitted == 0
    assert asyncio.run(admission.run(job, staying)) == 0
    assert went_on == [0]
    admission.stop()


def test_stopping_ends_what_waits_and_tells_long_jobs() -> None:
    admission, begun = Admission(1, 1), threading.Event()

    def long(go_on: GoOn) -> None:
        begun.set()
        while True:
            go_on()

    async def both() -> list[object]:
        jobs = [asyncio.ensure_future(admission.run(job, staying)) for job in (long, lambda _: None)]
        await asyncio.to_thread(begun.wait, patience(30))
        admission.stop()
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    found = asyncio.run(both())
    assert [type(item) for item in found] == [StoppedError, StoppedError]


def test_what_a_client_that_left_asked_for_is_dropped() -> None:
    """At once while it waits; one that is computed ends when it looks, and holds its place until then."""
    admission, begun, leave = Admission(1, 1), threading.Event(), asyncio.Event()
    done: list[str] = []

    def long(go_on: GoOn) -> None:
        begun.set()
        while True:
            go_on()

    async def all_of_it() -> list[object]:
        first = asyncio.ensure_future(admission.run(long, leave.wait))
        await asyncio.to_thread(begun.wait, patience(30))
        gone = asyncio.ensure_future(admission.run(lambda _: done.append("waiting"), lambda: asyncio.sleep(0)))
        found: list[object] = [*await asyncio.gather(gone, return_exceptions=True)]
        assert (admission.admitted, first.done()) == (1, False)
        leave.set()
        found += await asyncio.gather(first, return_exceptions=True)
        assert admission.admitted == 0
        await admission.run(lambda _: done.append("next"), staying)
        return found

    assert [type(item) for item in asyncio.run(all_of_it())] == [ClientDisconnect] * 2
    assert done == ["next"]
    admission.stop()
