"""The queue in front of the workers."""

import asyncio
import threading

import pytest

from bitvit.serve.admission import Admission, StoppedError
from bitvit.serve.messages import HTTPError
from tests.support.patience import patience


def test_what_exceeds_workers_and_queue_is_refused_at_once() -> None:
    """A hundred at a time: 2 are computed, 3 wait, 95 are refused before the first has ended."""
    admission, release = Admission(2, 3), threading.Event()
    refused: list[HTTPError] = []

    async def one() -> str:
        try:
            return await admission.run(lambda: str(release.wait(patience(30))))
        except HTTPError as error:
            refused.append(error)
            if len(refused) == 95:
                assert admission.admitted == 5
                release.set()
            return "refused"

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(100)))

    assert sorted(asyncio.run(all_of_them())) == ["True"] * 5 + ["refused"] * 95
    assert {(error.status, dict(error.headers)[b"retry-after"]) for error in refused} == {(503, b"1")}
    assert (admission.admitted, admission.is_full) == (0, False)
    admission.stop()


def test_a_place_is_free_again_after_an_error() -> None:
    admission = Admission(1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(admission.run(lambda: 1 // 0))
    admission.stop()


def test_stopping_ends_what_waits_and_tells_long_jobs() -> None:
    admission, begun = Admission(1, 1), threading.Event()

    def long() -> None:
        begun.set()
        while True:
            admission.go_on()

    async def both() -> list[object]:
        jobs = [asyncio.ensure_future(admission.run(job)) for job in (long, lambda: None)]
        await asyncio.to_thread(begun.wait, patience(30))
        admission.stop()
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    found = asyncio.run(both())
    assert [type(item) for item in found] == [StoppedError, StoppedError]
