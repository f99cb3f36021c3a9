"""Who runs which piece: the functions of kernels/schedule.py, called one at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.kernels import catalog
from bitvit.runtime import Runner, Workspace
from bitvit.runtime.calls import Call, c_function
from bitvit.runtime.runner import new_cells
from tests.support.golden_data import load_case
from tests.support.runtime import cell, claims_in, logits_in


@pytest.fixture
def runner(packed: Callable[[str], Path]) -> Runner:
    return bitvit.load(packed("micro96_pth"), threads=1).runner


@pytest.fixture
def pixels() -> NDArray[np.float32]:
    return load_case("micro96_pth").input[:1]


@pytest.fixture
def workspace(runner: Runner, pixels: NDArray[np.float32]) -> Workspace:
    """With an image."""
    workspace = Workspace(runner.program)
    workspace.set_image(pixels[0])
    return workspace


def begin(claims: int, cells: NDArray[np.int64]) -> None:
    Call(c_function(catalog.open_image), claims, cells)()


def lead(runner: Runner, workspace: Workspace, cells: NDArray[np.int64], ranges: int) -> bool:
    """The leader's part; whether it waited too long for a helper."""
    return bool(runner.call(catalog.lead_image, workspace.state, workspace.scratch, cells, ranges)())


def test_helpers_that_leave_early_do_no_harm(runner: Runner, workspace: Workspace, pixels: NDArray[np.float32]) -> None:
    """A helper that sees the leader stalled claims no more pieces; the leader computes them all."""
    claims = 2 * len(runner.program.steps)
    own = catalog.CLAIMS + claims
    cells = new_cells(own + 1)
    cell(cells, catalog.GATE)[:] = catalog.OPEN
    cell(cells, catalog.STALLED)[:] = 1
    runner.call(catalog.help_image, workspace.state, workspace.scratch, cells, 2, 1, own)()
    assert cell(cells, catalog.DONE) == 0
    assert cell(cells, catalog.GATE) == catalog.OPEN
    assert cell(cells, own) == 0, "it did not linger for ever"
    cells[:] = 0
    begin(claims, cells)
    assert not lead(runner, workspace, cells, 2)
    assert np.array_equal(logits_in(workspace, runner), runner(pixels)[0])


@pytest.mark.parametrize("ranges", range(1, catalog.MOST_RANGES + 1))
def test_every_piece_is_computed_once(
    ranges: int, runner: Runner, workspace: Workspace, pixels: NDArray[np.float32]
) -> None:
    """Also of ranges whose own members never come: some are empty, as there are steps of one piece."""
    pieces = [step.pieces for step in runner.program.steps]
    assert min(pieces) == 1
    cells = new_cells(catalog.CLAIMS + ranges * len(pieces))
    for _ in range(2):
        begin(ranges * len(pieces), cells)
        assert not lead(runner, workspace, cells, ranges)
        assert np.array_equal(logits_in(workspace, runner), runner(pixels)[0])
        assert cell(cells, catalog.DONE) == sum(pieces)
        assert claims_in(cells, len(pieces), ranges).sum(axis=1).tolist() == pieces


@pytest.mark.parametrize("home", range(3))
def test_a_helper_has_a_range_of_its_own(home: int, runner: Runner, workspace: Workspace) -> None:
    """All of it, where others have begun all pieces of theirs."""
    ranges, waits_for_nobody = 3, 1 << 40
    pieces = np.array([step.pieces for step in runner.program.steps])[:, None]
    sizes = pieces * np.arange(1, ranges + 1) // ranges - pieces * np.arange(ranges) // ranges
    own = catalog.CLAIMS + sizes.size
    cells = new_cells(own + 1)
    claimed = claims_in(cells, len(pieces), ranges)
    claimed[:] = np.where(np.arange(ranges) == home, 0, sizes)
    cell(cells, catalog.GATE)[:] = catalog.OPEN
    cell(cells, catalog.DONE)[:] = waits_for_nobody
    runner.call(catalog.help_image, workspace.state, workspace.scratch, cells, ranges, home, own)()
    assert cell(cells, catalog.DONE) - waits_for_nobody == sizes[:, home].sum()
    assert (claimed == sizes).all()
