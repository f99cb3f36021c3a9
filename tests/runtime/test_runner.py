"""Threads and forks."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.kernels import catalog
from bitvit.model import BHViT
from bitvit.runtime import runner as runtime
from bitvit.system import available_threads
from tests.support.golden_data import load_case
from tests.support.interrupts import interrupted_at


@pytest.fixture
def model(packed: Callable[[str], Path]) -> BHViT:
    """With a team of two, also on a machine with one core."""
    loaded = bitvit.load(packed("micro96_pth"), threads=2)
    loaded.runner.threads = loaded.runner._team.size = 2
    return loaded


@pytest.fixture
def pixels() -> NDArray[np.float32]:
    return load_case("micro96_pth").input


# ------------------------------------------------------------------------------------------------------ threads
def test_many_callers_get_the_same_bits(model: BHViT, pixels: NDArray[np.float32]) -> None:
    expected = model(pixels)
    wrong: list[int] = []

    def call(which: int) -> None:
        wrong.extend(which for _ in range(20) if not np.array_equal(model(pixels[[which]])[0], expected[which]))

    callers = [threading.Thread(target=call, args=(i % 2,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
        assert not caller.is_alive()
    assert wrong == []


def test_a_busy_team_leaves_a_caller_to_work_alone(model: BHViT, pixels: NDArray[np.float32]) -> None:
    expected = model(pixels)
    model.runner._team._plan_rest(crowded=False)
    team = model.runner._team
    turn = team.take_turn()
    assert turn is not None
    assert team.take_turn() is None
    assert np.array_equal(model(pixels), expected)
    del turn
    assert team.take_turn() is not None


def test_more_threads_than_cores(packed: Callable[[str], Path], pixels: NDArray[np.float32]) -> None:
    """Members wait for each other by spinning; they must give way where they outnumber the cores."""
    model = bitvit.load(packed("micro96_pth"), threads=2)
    expected = model(pixels)
    crowd = bitvit.load(packed("micro96_pth"), threads=2)
    crowd.runner.threads = crowd.runner._team.size = 7
    for _ in range(3):
        crowd.runner._team._plan_rest(crowded=False)
        assert np.array_equal(crowd(pixels[:1]), expected[:1])
        assert np.array_equal(crowd(pixels[[0, 1] * 8]), expected[[0, 1] * 8])


def test_a_team_without_cores_of_its_own_rests(model: BHViT, pixels: NDArray[np.float32]) -> None:
    """A helper that is never scheduled costs nothing: the leader finishes, and soon does not ask for it."""
    expected = model(pixels[:1])
    team = model.runner._team
    team._plan_rest(crowded=False)
    rests = []
    for _ in range(9):
        team._plan_rest(crowded=True)
        rests.append(team._resting)
    assert rests == [0, 2, 4, 8, 16, 32, 64, 64, 64]
    assert np.array_equal(model(pixels[:1]), expected)
    assert team._resting == 63
    assert team.rests()
    team._plan_rest(crowded=False)
    assert not team.rests()


def test_an_interrupted_team_rests_only_if_it_is_slower_than_its_leader_alone(
    model: BHViT, pixels: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine takes a core away for moments again and again; two cores may still be the faster."""
    monkeypatch.setattr(runtime, "_interruptions", itertools.count().__next__)
    team = model.runner._team
    team._plan_rest(crowded=False)
    for _ in range(2):
        assert team._resting == 0
        model(pixels[:1])
    assert team._resting == 2, "how long it takes alone is not known yet"
    for _ in range(2):
        model(pixels[:1])
    assert team._resting == 0
    for alone, resting in ((60.0, 0), (1e-9, 2)):
        team._alone = alone
        model(pixels[:1])
        model(pixels[:1])
        assert team._resting == resting


def test_helpers_that_leave_early_do_no_harm(model: BHViT, pixels: NDArray[np.float32]) -> None:
    """A helper that sees the leader stalled claims no more pieces; the leader computes them all."""
    runner = model.runner
    expected = model(pixels[:1])
    workspace = runtime.Workspace(runner.program)
    workspace.set_image(pixels[0])
    claims = 2 * len(runner.program.steps)
    own = catalog.CLAIMS + claims
    cells = runtime._new_cells(own + 1)
    cells[catalog.GATE * catalog.LINE] = catalog.OPEN
    cells[catalog.STALLED * catalog.LINE] = 1
    runner._call(runner._help_image, workspace.state, workspace.scratch, cells, 2, 1, own)()
    assert cells[catalog.DONE * catalog.LINE] == 0
    assert cells[catalog.GATE * catalog.LINE] == catalog.OPEN
    assert cells[own * catalog.LINE] == 0, "it did not linger for ever"
    cells[:] = 0
    runtime.Call(runner._open_image, claims, cells)()
    assert runner._call(runner._lead_image, workspace.state, workspace.scratch, cells, 2)() == 0
    assert np.array_equal(_logits(runner, workspace), expected[0])


def _logits(runner: runtime.Runner, workspace: runtime.Workspace) -> NDArray[np.float32]:
    start = runner.program.output.offset
    return workspace.state[start : start + runner.program.outputs].view(np.float32)


@pytest.mark.parametrize("ranges", range(1, catalog.MOST_RANGES + 1))
def test_every_piece_is_computed_once(ranges: int, model: BHViT, pixels: NDArray[np.float32]) -> None:
    """Also of ranges whose own members never come: some are empty, as there are steps of one piece."""
    runner = model.runner
    pieces = [step.pieces for step in runner.program.steps]
    assert min(pieces) == 1
    expected, workspace = model(pixels[:1]), runtime.Workspace(runner.program)
    workspace.set_image(pixels[0])
    cells = runtime._new_cells(catalog.CLAIMS + ranges * len(pieces))
    for _ in range(2):
        runtime.Call(runner._open_image, ranges * len(pieces), cells)()
        assert runner._call(runner._lead_image, workspace.state, workspace.scratch, cells, ranges)() == 0
        assert np.array_equal(_logits(runner, workspace), expected[0])
        assert cells[catalog.DONE * catalog.LINE] == sum(pieces)
        claimed = cells[catalog.CLAIMS * catalog.LINE :: catalog.LINE][: ranges * len(pieces)]
        assert claimed.reshape(-1, ranges).sum(axis=1).tolist() == pieces


@pytest.mark.parametrize("home", range(3))
def test_a_helper_has_a_range_of_its_own(home: int, model: BHViT, pixels: NDArray[np.float32]) -> None:
    """All of it, where others have begun all pieces of theirs."""
    runner, ranges, waits_for_nobody = model.runner, 3, 1 << 40
    pieces = np.array([step.pieces for step in runner.program.steps])[:, None]
    sizes = pieces * np.arange(1, ranges + 1) // ranges - pieces * np.arange(ranges) // ranges
    workspace = runtime.Workspace(runner.program)
    workspace.set_image(pixels[0])
    own = catalog.CLAIMS + sizes.size
    cells = runtime._new_cells(own + 1)
    claimed = cells[catalog.CLAIMS * catalog.LINE :: catalog.LINE][: sizes.size].reshape(sizes.shape)
    claimed[:] = np.where(np.arange(ranges) == home, 0, sizes)
    cells[catalog.GATE * catalog.LINE] = catalog.OPEN
    cells[catalog.DONE * catalog.LINE] = waits_for_nobody
    runner._call(runner._help_image, workspace.state, workspace.scratch, cells, ranges, home, own)()
    assert cells[catalog.DONE * catalog.LINE] - waits_for_nobody == sizes[:, home].sum()
    assert (claimed == sizes).all()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs thread affinity")
def test_the_caller_keeps_its_affinity(model: BHViT, pixels: NDArray[np.float32]) -> None:
    before = os.sched_getaffinity(0)
    model(pixels[:1])
    model(pixels)
    assert os.sched_getaffinity(0) == before


def test_threads_argument_is_capped(packed: Callable[[str], Path]) -> None:
    assert bitvit.load(packed("micro96_pth"), threads=1).threads == 1
    assert bitvit.load(packed("micro96_pth"), threads=10_000).threads == available_threads()


# ---------------------------------------------------------------------------------------------------- interrupts
def in_runtime(code: CodeType) -> bool:
    """All of runtime.py but `__del__`, which no exception leaves."""
    return code.co_filename == runtime.__file__ and code.co_name != "__del__"


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
        model = bitvit.load(tiny, threads=2)
        for _ in range(2):  # the first call makes what the others find
            model(pixels)
        team = model.runner._team
        team._plan_rest(crowded=False)
        interrupted = interrupted_at(place, lambda model=model: model(pixels), in_runtime)  # type: ignore[misc]
        answers: list[NDArray[np.float32]] = []

        def call(model: BHViT = model, answers: list[NDArray[np.float32]] = answers) -> None:
            for _ in range(3):
                model.runner._team._plan_rest(crowded=False)
                answers.append(model(pixels))

        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(timeout=300)
        assert not caller.is_alive(), f"place {place}: a deadlock"
        assert all(np.array_equal(answer, expected) for answer in answers), f"place {place}"
        team._plan_rest(crowded=False)
        assert team.take_turn() is not None, f"place {place}: the team is lost"
        if cpus is not None:
            assert os.sched_getaffinity(0) == cpus, f"place {place}: the caller is bound to one CPU"
    assert place > 100, "the team had no part in it"


# --------------------------------------------------------------------------------------------------------- fork
def _answer(model: BHViT, pixels: NDArray[np.float32], answers: "multiprocessing.Queue[bytes]") -> None:
    answers.put(model(pixels[:1]).tobytes() + model(pixels).tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_answers(model: BHViT, pixels: NDArray[np.float32]) -> None:
    """The helpers stay behind in the parent, and a lock may be held for ever in the child."""
    expected = model(pixels[:1]).tobytes() + model(pixels).tobytes()
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bytes] = context.Queue()
    turn = model.runner._team.take_turn()  # as if another thread were in the middle of a call
    child = context.Process(target=_answer, args=(model, pixels, answers))
    child.start()
    assert turn is not None
    del turn
    assert answers.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0
    assert model(pixels[:1]).tobytes() + model(pixels).tobytes() == expected
