"""Many callers, more threads than cores, forks."""

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.model import BHViT
from bitvit.runtime.team import Team
from bitvit.system import available_threads
from tests.support.golden_data import load_case
from tests.support.patience import patience
from tests.support.runtime import load_with_team, tireless_team


@pytest.fixture
def team() -> Team:
    """Two members, also on a machine with one core."""
    return tireless_team(2)


@pytest.fixture
def model(team: Team, packed: Callable[[str], Path]) -> BHViT:
    return load_with_team(packed("micro96_pth"), team)


@pytest.fixture
def pixels() -> NDArray[np.float32]:
    return load_case("micro96_pth").input


def test_many_callers_get_the_same_bits(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    model = load_with_team(packed("micro96_pth"), Team(2))
    expected = model(pixels)
    wrong: list[int] = []

    def call(which: int) -> None:
        wrong.extend(which for _ in range(20) if not np.array_equal(model(pixels[[which]])[0], expected[which]))

    callers = [threading.Thread(target=call, args=(i % 2,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=patience(60))
        assert not caller.is_alive()
    assert wrong == []


def test_more_threads_than_cores(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    """Members wait for each other by spinning; they must give way where they outnumber the cores."""
    expected = bitvit.load(packed("micro96_pth"), threads=1)(pixels)
    model = load_with_team(packed("micro96_pth"), tireless_team(7))
    for _ in range(3):
        assert np.array_equal(model(pixels[:1]), expected[:1])
        assert np.array_equal(model(pixels[[0, 1] * 8]), expected[[0, 1] * 8])


def test_an_image_with_nan_leaves_nothing_behind(model: BHViT, pixels: NDArray[np.float32]) -> None:
    """Alone, in a batch and shared."""
    expected, bad = model(pixels), pixels * np.float32(np.nan)
    for count in (1, 2, 3):
        model(bad[[0] * count])
        assert np.array_equal(model(pixels), expected)
        assert np.array_equal(model(pixels[:1]), expected[:1])


def test_threads_argument_is_capped(packed: Callable[[str], Path]) -> None:
    assert bitvit.load(packed("micro96_pth"), threads=1).threads == 1
    assert bitvit.load(packed("micro96_pth"), threads=10_000).threads == available_threads()


# ------------------------------------------------------------------------------------------------------------- fork
def _answer(model: BHViT, pixels: NDArray[np.float32], answers: "multiprocessing.Queue[bytes]") -> None:
    answers.put(model(pixels[:1]).tobytes() + model(pixels).tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_answers(model: BHViT, team: Team, pixels: NDArray[np.float32]) -> None:
    """The helpers stay behind in the parent, and a lock may be held for ever in the child."""
    expected = model(pixels[:1]).tobytes() + model(pixels).tobytes()
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bytes] = context.Queue()
    lease = team.lease()  # as if another thread were in the middle of a call
    child = context.Process(target=_answer, args=(model, pixels, answers))
    child.start()
    assert lease is not None
    del lease
    assert answers.get(timeout=patience(60)) == expected
    child.join(timeout=patience(60))
    assert child.exitcode == 0
    assert model(pixels[:1]).tobytes() + model(pixels).tobytes() == expected


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_team_of_its_own(team: Team) -> None:
    lease = team.lease()
    assert lease is not None
    context = multiprocessing.get_context("fork")
    found: multiprocessing.Queue[bool] = context.Queue()
    child = context.Process(target=lambda: found.put(team.lease() is not None))
    child.start()
    assert found.get(timeout=patience(60))
    child.join(timeout=patience(60))
    assert team.lease() is None
