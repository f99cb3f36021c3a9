"""Ctrl-C anywhere in a call."""

import functools
import gc
import os
import threading
import weakref
from pathlib import Path
from types import CodeType

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit import runtime
from bitvit.model import BHViT
from bitvit.runtime.calls import Call
from bitvit.runtime.team import Helper, Lease, Team
from bitvit.system import available_threads
from tests.support.interrupts import interrupted_at
from tests.support.patience import patience
from tests.support.runtime import load_with_team, tireless_team

FOLDER = str(Path(runtime.__file__).parent)
FINALISER = Lease.__del__.__code__, Lease.__init__.__code__


def in_runtime(code: CodeType) -> bool:
    """All lines of the package but those of `Lease.__del__` and what it calls, which no exception leaves."""
    return os.path.dirname(code.co_filename) == FOLDER and code not in FINALISER  # noqa: PTH120


@pytest.mark.skipif(available_threads() < 2, reason="a team needs two cores")
def test_an_interrupt_anywhere_in_a_call(tiny: Path) -> None:
    """Between any two lines: the next call, by another thread, gives the same bits, and the team is soon whole."""
    # Two images apart, one a thread, and one together.
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    expected = bitvit.load(tiny, threads=1)(pixels)
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    place, interrupted = 0, True
    while interrupted:
        place += 1
        team = tireless_team(2)
        model = load_with_team(tiny, team)
        for _ in range(2):  # the first call makes what the others find
            model(pixels)
        interrupted = interrupted_at(place, lambda model=model: model(pixels), in_runtime)  # type: ignore[misc]
        answers: list[NDArray[np.float32]] = []

        def call(model: BHViT = model, answers: list[NDArray[np.float32]] = answers) -> None:
            answers.extend(model(pixels) for _ in range(3))

        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(timeout=patience(300))
        assert not caller.is_alive(), f"place {place}: a deadlock"
        assert len(answers) == 3, f"place {place}: an exception"
        assert all(np.array_equal(answer, expected) for answer in answers), f"place {place}"
        assert team.lease() is not None, f"place {place}: the team is lost"
        if cpus is not None:
            assert os.sched_getaffinity(0) == cpus, f"place {place}: the caller is bound to one CPU"
    assert place > 100, "the team had no part in it"


class Interrupted(Helper):
    """A helper that gets no core, and whose leader is interrupted when it hands it a call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def pin(self, cpus: set[int] | None) -> None:
        pass

    def post(self, call: Call) -> None:
        self.calls.append(call)
        raise KeyboardInterrupt


def test_two_interrupts_leave_a_late_helper_its_memory(tiny: Path) -> None:
    """One leaves the gate open, one comes before it is closed, and then nobody knows the model any more."""
    helper = Interrupted()
    model = load_with_team(tiny, Team(2, start_helper=lambda: helper))
    pixels = np.ones((1, 3, 32, 32), np.float32)
    read = weakref.ref(pixels)
    call_model = functools.partial(model, pixels)
    assert interrupted_at(1, call_model, lambda code: bool(helper.calls) and in_runtime(code))
    (call,) = helper.calls
    helper.calls.clear()
    del model, pixels, call_model
    gc.collect()
    assert read() is not None, "the helper would read memory that is free"
    call()  # the gate is open: it computes the image
    del call
    gc.collect()
    assert read() is None
