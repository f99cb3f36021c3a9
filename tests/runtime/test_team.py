"""Leases, helpers and the CPUs that they run on."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.runtime.calls import Call
from bitvit.runtime.policy import RestPolicy
from bitvit.runtime.team import RETRY, GreenThreadError, Helper, Team
from tests.support.golden_data import load_case
from tests.support.paths import ROOT
from tests.support.patience import patience
from tests.support.runtime import load_with_team, tireless, tireless_team


@pytest.fixture
def pixels() -> NDArray[np.float32]:
    return load_case("micro96_pth").input


class Absent(Helper):
    """A helper that never gets a core; counts what it was asked for."""

    def __init__(self) -> None:
        self.posted = 0

    def pin(self, cpus: set[int] | None) -> None:
        pass

    def post(self, call: Call) -> None:  # noqa: ARG002
        self.posted += 1


class RecordingPolicy(RestPolicy):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[tuple[bool, int]] = []
        self.alone: list[float] = []

    def computed_alone(self, seconds: float) -> None:
        super().computed_alone(seconds)
        self.alone.append(seconds)

    def computed_together(self, seconds: float, *, stalled: bool, interruptions: int) -> None:
        super().computed_together(seconds, stalled=stalled, interruptions=interruptions)
        self.together.append((stalled, interruptions))


# ------------------------------------------------------------------------------------------------------------ lease
def test_there_is_one_lease_at_a_time() -> None:
    team = Team(2)
    lease = team.lease()
    assert lease is not None
    assert team.lease() is None
    del lease
    assert team.lease() is not None


def test_threads_agree_on_one_lease() -> None:
    """Also when they are the first in a process to ask for it."""
    for _ in range(50):
        team, barrier = tireless_team(2), threading.Barrier(4)
        leases: list[object] = []

        def ask(team: Team = team, barrier: threading.Barrier = barrier, leases: list[object] = leases) -> None:
            barrier.wait()
            leases.append(team.lease())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=patience(60))
        assert sum(lease is not None for lease in leases) == 1


def test_a_busy_team_leaves_a_caller_to_work_alone(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    policy = RecordingPolicy()
    team = Team(2, policy=lambda: policy)
    model = load_with_team(packed("micro96_pth"), team)
    lease = team.lease()
    assert lease is not None
    alone = model(pixels[:1])
    assert policy.together == []
    del lease
    assert np.array_equal(model(pixels[:1]), alone)
    assert len(policy.together) == 1


# ---------------------------------------------------------------------------------------------------------- helpers
def test_calls_are_made_by_the_leader_and_its_helpers() -> None:
    team, made = tireless_team(3), threading.Barrier(3)
    threads: list[str] = []

    def function(number: int) -> int | None:
        made.wait(timeout=patience(60))
        threads.append(f"{number} {threading.current_thread().name}")
        made.wait(timeout=patience(60))
        return None

    for _ in range(2):
        team.run([Call(function, number) for number in range(3)])
        assert sorted(threads) == ["0 MainThread", "1 bitvit", "2 bitvit"]
        threads.clear()


def test_a_helper_that_lingers_is_not_woken() -> None:
    helpers = [Absent(), Absent()]
    team = Team(3, start_helper=iter(helpers).__next__)
    nothing = [Call(lambda: None)] * 3
    team.run(nothing, np.array([1, 0]))
    assert [helper.posted for helper in helpers] == [0, 1]
    team.run(nothing, np.array([0, 0]))
    assert [helper.posted for helper in helpers] == [1, 2]


def test_a_helper_that_is_late_gets_no_second_call() -> None:
    """It would make them one after the other, when nobody waits for them any more."""
    asleep, release = threading.Event(), threading.Event()
    made: list[int] = []

    def slow() -> None:
        asleep.set()
        release.wait(timeout=patience(60))

    helper = Helper()
    helper.post(Call(slow))
    assert asleep.wait(timeout=patience(60))
    for number in range(5):  # it has taken the first, and is busy with it
        helper.post(Call(made.append, number))
    release.set()
    done = threading.Event()
    while not done.wait(0.01):
        helper.post(Call(done.set))
    assert made == [0]


def wait_for_threads(most: int) -> None:
    """Until there are no more; a thread that has been told to end needs a moment."""
    deadline = time.monotonic() + 60
    while threading.active_count() > most and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= most


def test_helpers_end_with_their_team() -> None:
    """At once, not when Python next looks for garbage."""
    before, calls = threading.active_count(), [Call(lambda: None)] * 3
    gc.disable()
    try:
        for _ in range(20):
            tireless_team(3).run(calls)
        wait_for_threads(before)
    finally:
        gc.enable()


def test_helpers_of_a_team_in_a_cycle_end_too() -> None:
    before, team = threading.active_count(), tireless_team(2)
    team.run([Call(lambda: None)] * 2)
    team.itself = team  # type: ignore[attr-defined]
    del team
    gc.collect()
    wait_for_threads(before)


def test_a_helper_in_the_middle_of_a_call_makes_it_and_ends() -> None:
    before, begun, release = threading.active_count(), threading.Event(), threading.Event()
    made: list[str] = []

    def slow() -> None:
        begun.set()
        release.wait(timeout=patience(60))
        made.append("slow")

    helper = Helper()
    helper.post(Call(slow))
    assert begun.wait(timeout=patience(60))
    helper.post(Call(made.append, 2))
    del helper
    release.set()
    wait_for_threads(before)
    assert made == ["slow", 2]


def test_models_that_are_dropped_leave_nothing_behind(
    packed: Callable[[str], Path], pixels: NDArray[np.float32]
) -> None:
    """Loaded again and again, while another thread calls the first of them."""
    path = packed("micro96_pth")
    first = load_with_team(path, tireless_team(2))
    expected = first(pixels)
    before, stop = threading.active_count(), threading.Event()
    wrong: list[int] = []

    def call() -> None:
        while not stop.is_set():
            wrong.extend([1] * (not np.array_equal(first(pixels), expected)))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for number in range(60):
            model = load_with_team(path, tireless_team(3))
            wrong.extend([number] * (not np.array_equal(model(pixels[:1]), expected[:1])))
    finally:
        stop.set()
        caller.join(timeout=patience(60))
    del model
    wait_for_threads(before)
    assert wrong == []


# ------------------------------------------------------------------------------------- threads that are not to be had
class NoMoreThreads(Helper):
    """A helper that cannot be started, as under a limit of processes; counts how often that was tried."""

    tried = 0

    def __init__(self) -> None:
        type(self).tried += 1
        raise RuntimeError("can't start new thread")


def test_a_team_computes_with_the_helpers_that_there_are(
    packed: Callable[[str], Path], pixels: NDArray[np.float32]
) -> None:
    expected = bitvit.load(packed("micro96_pth"), threads=1)(pixels)
    for count in range(3):
        starts = iter([Helper] * count)
        team = Team(4, policy=tireless, start_helper=lambda starts=starts: next(starts, NoMoreThreads)())  # type: ignore[misc]
        model = load_with_team(packed("micro96_pth"), team)
        for _ in range(3):
            assert np.array_equal(model(pixels[:1]), expected[:1])
            assert np.array_equal(model(pixels[[0, 1] * 3]), expected[[0, 1] * 3])


def test_helpers_that_cannot_be_started_are_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoMoreThreads, "tried", 0)
    team = Team(2, policy=tireless, start_helper=NoMoreThreads)
    calls, now = [Call(lambda: None)] * 2, 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(100):
        team.run(calls)
    assert NoMoreThreads.tried == 1
    now += 2 * RETRY
    for _ in range(100):
        team.run(calls)
    assert NoMoreThreads.tried == 2


def test_no_thread_is_started_while_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start would be waited for, and it would never get Python's lock."""
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no thread can be started any more"):
        Helper()
    assert threading.active_count() <= before  # fewer, where other tests' threads have ended meanwhile


def test_a_first_call_after_the_main_thread_has_ended(packed: Callable[[str], Path]) -> None:
    """Python 3.12 starts no threads then."""
    path = packed("micro96_pth")
    bitvit.load(path)  # compiles here
    script = (
        "import sys, threading, time, numpy as np, bitvit\n"
        "model, main = bitvit.load(sys.argv[1]), threading.main_thread()\n"
        "def call():\n"
        "    while main.is_alive(): time.sleep(0.01)\n"
        "    time.sleep(0.2)\n"
        "    print(model(np.zeros((1, 3, 96, 96), np.float32)).shape)\n"
        "threading.Thread(target=call).start()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=patience(300))
    assert (done.stdout, done.stderr) == ("(1, 10)\n", "")


class GreenThread(threading.Thread):
    """A thread as gevent and eventlet make them when they replace Python's: it runs on its starter's."""

    started = 0

    def start(self) -> None:
        type(self).started += 1
        self.run()

    @property
    def native_id(self) -> int:
        return threading.get_native_id()


def test_green_threads_are_no_helpers(
    packed: Callable[[str], Path], pixels: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take a CPU from their caller with each call, and a wait of theirs would be everybody's."""
    monkeypatch.setattr(threading, "Thread", GreenThread)
    monkeypatch.setattr(GreenThread, "started", 0)
    expected = bitvit.load(packed("micro96_pth"), threads=1)(pixels)
    model = load_with_team(packed("micro96_pth"), tireless_team(3))
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    for _ in range(5):
        assert np.array_equal(model(pixels[:1]), expected[:1])
        assert np.array_equal(model(pixels), expected)
        if cpus is not None:
            assert os.sched_getaffinity(0) == cpus
    assert GreenThread.started == 1
    with pytest.raises(GreenThreadError):
        Helper()


def test_a_queue_of_green_threads_is_not_used(packed: Callable[[str], Path]) -> None:
    """gevent has one even where it leaves threads as they are (`patch_all(thread=False)`), which real ones die of."""
    script = (
        "import queue, sys, threading\n"
        "class SimpleQueue: __class_getitem__ = classmethod(lambda *_: SimpleQueue)\n"
        "queue.SimpleQueue = SimpleQueue\n"
        "import numpy as np, bitvit, bitvit.runtime.team, bitvit.pipeline\n"
        "classify = bitvit.Classifier(sys.argv[1], threads=2)\n"
        "images = [np.zeros((96, 96, 3), np.uint8)] * 40\n"
        "print(len(list(classify(images))), len(list(classify(iter(images)))))\n"
    )
    command = [sys.executable, "-c", script, str(packed("micro96_pth"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=patience(300))
    assert (done.stdout, done.stderr) == ("40 40\n", "")


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_worker_of_a_library_of_green_threads(library: str, packed: Callable[[str], Path]) -> None:
    """The real one, if it is there."""
    pytest.importorskip(library)
    patch = {"gevent": "from gevent import monkey; monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}[library]
    script = (
        f"import {library}; {patch}\n"
        "import os, sys, numpy as np, bitvit\n"
        "model, before = bitvit.load(sys.argv[1]), os.sched_getaffinity(0)\n"
        "for _ in range(4): model(np.zeros((1, 3, 96, 96), np.float32))\n"
        "print(os.sched_getaffinity(0) == before)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(packed("micro96_pth"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=patience(300))
    assert done.stdout == "True\n"


# ------------------------------------------------------------------------------------------------------- contention
def test_a_team_without_cores_of_its_own_rests(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    """A helper that is never scheduled costs nothing: the leader finishes, and soon does not ask for it."""
    helper, policy = Absent(), RecordingPolicy()
    interruptions = itertools.count().__next__  # the leader, too, is taken off its core again and again
    team = Team(2, policy=lambda: policy, start_helper=lambda: helper, interruptions=interruptions)
    model = load_with_team(packed("micro96_pth"), team)
    answers = [model(pixels[:1]) for _ in range(4)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert helper.posted == 2
    assert policy.together == [(False, 1)] * 2
    assert len(policy.alone) == 2
    assert policy.resting == 0


def test_a_rest_is_timed_by_the_image(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    policy = RecordingPolicy()
    model = load_with_team(packed("micro96_pth"), Team(2, policy=lambda: policy))
    for _ in range(2):
        policy.computed_together(1.0, stalled=True, interruptions=0)
    model(pixels[:1])
    model(pixels[[0, 1] * 50 + [0]])  # all but the last one by both members, each a whole image at a time
    one, last = policy.alone
    assert 0 < last < 50 * one


def test_batches_say_nothing_of_contention(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    """In a batch nobody waits for a helper's piece."""
    policy = RecordingPolicy()
    model = load_with_team(packed("micro96_pth"), Team(2, policy=lambda: policy))
    model(pixels[:2])
    assert policy.together == []
    model(pixels[[0, 1, 0]])
    assert len(policy.together) == 1


# ------------------------------------------------------------------------------------------------------------- CPUs
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs thread affinity")
def test_the_caller_keeps_its_affinity(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    model = load_with_team(packed("micro96_pth"), tireless_team(2))
    before = os.sched_getaffinity(0)
    model(pixels[:1])
    model(pixels)
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs affinity and two CPUs"
)
def test_the_leader_stays_on_one_cpu_and_helpers_run_on_others() -> None:
    found: dict[int, set[int]] = {}
    both = threading.Barrier(2)

    def look(number: int) -> None:
        both.wait(timeout=patience(60))
        found[number] = os.sched_getaffinity(0)
        both.wait(timeout=patience(60))

    allowed = os.sched_getaffinity(0)
    tireless_team(2).run([Call(look, 0), Call(look, 1)])
    assert len(found[0]) == 1
    assert found[1] == allowed - found[0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs thread affinity")
def test_an_exception_in_a_call_unpins_the_leader() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    before = os.sched_getaffinity(0)
    with pytest.raises(KeyboardInterrupt):
        tireless_team(2).run([Call(fail), Call(lambda: None)])
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs affinity and two CPUs"
)
def test_who_places_the_caller_during_its_call_is_obeyed() -> None:
    """As taskset does from outside: it is not undone."""
    before = os.sched_getaffinity(0)
    chosen: list[set[int]] = []

    def place() -> None:
        chosen.append(before - os.sched_getaffinity(0))
        os.sched_setaffinity(0, chosen[0])

    try:
        tireless_team(2).run([Call(place), Call(lambda: None)])
        assert os.sched_getaffinity(0) == chosen[0] != before
    finally:
        os.sched_setaffinity(0, before)
