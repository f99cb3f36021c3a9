"""When a team rests: arithmetic, without threads or clocks."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvit.runtime.policy import MOST_CALLS, RestPolicy

derandomized = settings(derandomize=True, deadline=None, database=None)
SLOW, QUICK = 2.0, 0.5  # seconds, where an image takes 1 alone
MOST = st.integers(0, 100)


def known(most: int = MOST_CALLS) -> RestPolicy:
    """A policy that knows that an image takes a second alone."""
    policy = RestPolicy(most)
    policy.computed_alone(1.0)
    return policy


def contended(policy: RestPolicy) -> None:
    policy.computed_together(SLOW, stalled=True, interruptions=0)


def rest(policy: RestPolicy) -> int:
    """Make calls until one has helpers; returns how many had none."""
    calls = 0
    while not policy.use_helpers():
        calls += 1
    return calls


# --------------------------------------------------------------------------------------------------------- one call
@pytest.mark.parametrize(("stalled", "interruptions"), [(True, 0), (False, 1), (True, 3)])
def test_two_contended_calls_in_a_row_make_a_rest(stalled: bool, interruptions: int) -> None:
    policy = known()
    for expected in (0, 2):
        assert policy.use_helpers()
        policy.computed_together(SLOW, stalled=stalled, interruptions=interruptions)
        assert policy.resting == expected


def test_a_slow_call_that_nobody_disturbed_is_not_contended() -> None:
    policy = known()
    for _ in range(5):
        policy.computed_together(SLOW, stalled=False, interruptions=0)
        assert policy.resting == 0


@pytest.mark.parametrize("seconds", [QUICK, 1.0])
def test_a_disturbed_team_that_is_no_slower_than_its_leader_goes_on(seconds: float) -> None:
    """A machine takes a core away for moments again and again; two cores may still be the faster."""
    policy = known()
    for _ in range(5):
        policy.computed_together(seconds, stalled=True, interruptions=7)
        assert policy.resting == 0


def test_a_rest_tells_how_long_an_image_takes_alone() -> None:
    """Until then every disturbed call counts."""
    policy = RestPolicy()
    for _ in range(2):
        policy.computed_together(QUICK, stalled=False, interruptions=1)
    assert rest(policy) == 2
    policy.computed_alone(1.0)
    for _ in range(2):
        policy.computed_together(QUICK, stalled=False, interruptions=1)
    assert policy.resting == 0


def test_rests_become_longer_while_contention_goes_on() -> None:
    policy, rests = known(), []
    for _ in range(9):
        contended(policy)
        rests.append(rest(policy))
    assert rests == [0, 2, 4, 8, 16, 32, 64, 64, 64]


# ----------------------------------------------------------------------------------------------------- any sequence
OUTCOMES = st.lists(
    st.tuples(st.sampled_from((SLOW, QUICK)), st.booleans(), st.integers(0, 2)), max_size=60
)  # seconds, stalled, interruptions of calls with helpers


def counts(outcome: tuple[float, bool, int]) -> bool:
    seconds, stalled, interruptions = outcome
    return seconds > 1.0 and (stalled or interruptions > 0)


@derandomized
@given(OUTCOMES, MOST)
def test_rests_follow_from_the_contended_calls_just_before(outcomes: list[tuple[float, bool, int]], most: int) -> None:
    """None before two in a row, then 2, doubling with each, never more than the most; one good call ends it."""
    policy, row = known(most), 0
    for seconds, stalled, interruptions in outcomes:
        assert policy.use_helpers()
        policy.computed_together(seconds, stalled=stalled, interruptions=interruptions)
        row = row + 1 if counts((seconds, stalled, interruptions)) else 0
        assert policy.resting == rest(policy) == (min(most, 2 ** (row - 1)) if row > 1 else 0)


@derandomized
@given(OUTCOMES, st.integers(2, 100))
def test_a_good_call_makes_it_as_if_nothing_had_been(outcomes: list[tuple[float, bool, int]], most: int) -> None:
    policy = known(most)
    for seconds, stalled, interruptions in outcomes:
        policy.computed_together(seconds, stalled=stalled, interruptions=interruptions)
    policy.computed_together(QUICK, stalled=True, interruptions=1)
    assert policy.use_helpers()
    found = []
    for _ in range(3):
        contended(policy)
        found.append(rest(policy))
    assert found == [0, 2, min(4, most)]


@derandomized
@given(st.integers(3, 40), MOST)
def test_a_rest_at_most_doubles(calls: int, most: int) -> None:
    policy, rests = known(most), []
    for _ in range(calls):
        contended(policy)
        rests.append(rest(policy))
    assert max(rests) <= most
    assert all(before <= after <= max(2, 2 * before) for before, after in pairwise(rests))


@derandomized
@given(OUTCOMES)
def test_a_policy_without_rests_always_has_helpers(outcomes: list[tuple[float, bool, int]]) -> None:
    policy = known(0)
    for seconds, stalled, interruptions in outcomes:
        policy.computed_together(seconds, stalled=stalled, interruptions=interruptions)
        assert policy.use_helpers()
