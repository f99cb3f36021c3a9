"""Leases, helpers and the CPUs that they run on."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.runtime.calls import Call
from bitvit.runtime.policy import RestPolicy
from bitvit.runtime.team import Helper, Team
from tests.support.golden_data import load_case
from tests.support.runtime import load_with_team, tireless_team


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
            thread.join(timeout=60)
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
        made.wait(timeout=60)
        threads.append(f"{number} {threading.current_thread().name}")
        made.wait(timeout=60)
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
        release.wait(timeout=60)

    helper = Helper()
    helper.post(Call(slow))
    assert asleep.wait(timeout=60)
    for number in range(5):  # it has taken the first, and is busy with it
        helper.post(Call(made.append, number))
    release.set()
    done = threading.Event()
    while not done.wait(0.01):
        helper.post(Call(done.set))
    assert made == [0]


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
    model(pixels[[0, 1] * 50])
    one, hundred = policy.alone
    assert 0 < hundred < 50 * one


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
        both.wait(timeout=60)
        found[number] = os.sched_getaffinity(0)
        both.wait(timeout=60)

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
