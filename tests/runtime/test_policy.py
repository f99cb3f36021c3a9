"""When a team rests: arithmetic, without threads or clocks."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvit.runtime.policy import FIRST, MOST_CALLS, OFTEN, SELDOM, RestPolicy

derandomized = settings(derandomize=True, deadline=None, database=None)
SLOW, QUICK = 2.0, 0.5  # seconds, where an image takes 1 alone
MOST = st.integers(0, 100)


def known(most: int = MOST_CALLS) -> RestPolicy:
    """A policy that knows that an image takes a second alone."""
    policy = RestPolicy(most)
    policy.computed_alone(1.0)
    return policy


def together(policy: RestPolicy, seconds: float, *, stalled: bool = False, interruptions: int = 0) -> None:
    policy.computed_together(seconds, stalled=stalled, interruptions=interruptions)


def rest(policy: RestPolicy) -> int:
    """Make calls until one has helpers; returns how many had none."""
    calls = 0
    while not policy.use_helpers():
        calls += 1
    return calls


# --------------------------------------------------------------------------------------------------------- one call
@pytest.mark.parametrize(("stalled", "interruptions"), [(False, 0), (True, 0), (False, 1), (True, 3)])
def test_two_slow_calls_in_a_row_make_a_rest(stalled: bool, interruptions: int) -> None:
    """Whether something disturbed them, or cores are so far apart that sharing takes longer than computing."""
    policy = known()
    for expected in (0, 2):
        assert policy.use_helpers()
        together(policy, SLOW, stalled=stalled, interruptions=interruptions)
        assert policy.resting == expected


@pytest.mark.parametrize("seconds", [QUICK, 1.0])
def test_a_disturbed_team_that_is_no_slower_than_its_leader_goes_on(seconds: float) -> None:
    """A machine takes a core away for moments again and again; two cores may still be the faster."""
    policy = known()
    for _ in range(5):
        together(policy, seconds, stalled=True, interruptions=7)
        assert policy.resting == 0


def test_a_rest_tells_how_long_an_image_takes_alone() -> None:
    """Until then every disturbed call counts, and no other."""
    policy = RestPolicy()
    for _ in range(5):
        together(policy, SLOW)
        assert policy.resting == 0
    for _ in range(2):
        together(policy, QUICK, interruptions=1)
    assert rest(policy) == 2
    policy.computed_alone(1.0)
    for _ in range(2):
        together(policy, QUICK, interruptions=1)
    assert policy.resting == 0


def test_rests_become_longer_while_calls_are_in_vain() -> None:
    policy, rests = known(), []
    for _ in range(9):
        together(policy, SLOW)
        rests.append(rest(policy))
    assert rests == [0, 2, 4, 8, 16, 32, 64, 64, 64]


@pytest.mark.parametrize(("alone", "seconds", "calls"), [(None, 1.0, FIRST), (1.0, 0.9, OFTEN), (1.0, QUICK, SELDOM)])
def test_one_call_is_made_alone_now_and_then(alone: float | None, seconds: float, calls: int) -> None:
    """Soon if nobody knows what it takes, seldom if the team is far ahead."""
    policy = RestPolicy()
    if alone is not None:
        policy.computed_alone(alone)
    for _ in range(2):
        for _ in range(calls):
            assert policy.use_helpers()
            together(policy, seconds)
        assert rest(policy) == 1
        policy.computed_alone(1.0)
        calls = OFTEN if seconds > QUICK else SELDOM


def test_one_long_call_does_not_change_what_is_known() -> None:
    policy = known()
    policy.computed_alone(100.0)
    for expected in (0, 2):
        together(policy, SLOW)
        assert policy.resting == expected
    for _ in range(20):
        policy.computed_alone(100.0)  # it has become slow indeed
    together(policy, SLOW)
    assert policy.resting == 0


# ----------------------------------------------------------------------------------------------------- any sequence
OUTCOMES = st.lists(
    st.tuples(st.sampled_from((SLOW, QUICK)), st.booleans(), st.integers(0, 2)), max_size=60
)  # seconds, stalled, interruptions of calls with helpers


@derandomized
@given(OUTCOMES, MOST)
def test_rests_follow_from_the_calls_just_before(outcomes: list[tuple[float, bool, int]], most: int) -> None:
    """None before two in a row, then 2, doubling with each, never more than the most; one good call ends it."""
    policy, row = known(most), 0
    for seconds, stalled, interruptions in outcomes:
        assert policy.use_helpers()
        policy.computed_together(seconds, stalled=stalled, interruptions=interruptions)
        row = row + 1 if seconds > 1.0 else 0
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
        together(policy, SLOW)
        found.append(rest(policy))
    assert found == [0, 2, min(4, most)]


@derandomized
@given(st.integers(3, 40), MOST)
def test_a_rest_at_most_doubles(calls: int, most: int) -> None:
    policy, rests = known(most), []
    for _ in range(calls):
        together(policy, SLOW)
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
