"""Teams and processes as tests need them."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bitvit
from bitvit.jit import cache, loader
from bitvit.kernels import catalog
from bitvit.model import BHViT
from bitvit.runtime import Runner, Workspace
from bitvit.runtime.policy import RestPolicy
from bitvit.runtime.team import Team

tireless = functools.partial(RestPolicy, most=0)
"""Makes a policy that never rests, whatever else the machine's cores do."""


def tireless_team(size: int) -> Team:
    """A team that takes part in every call; it may have more members than the machine has cores."""
    return Team(size, policy=tireless)


def load_with_team(path: Path, team: Team) -> BHViT:
    """A model whose calls are shared by a team of the test's own."""
    model = bitvit.load(path, threads=1)
    model.runner = Runner(model.runner.program, team=team)
    return model


def logits_in(workspace: Workspace, runner: Runner) -> NDArray[np.float32]:
    """float32 [outputs], as the last step left them in a workspace."""
    start = runner.program.output.offset
    return workspace.state[start : start + runner.program.outputs].view(np.float32)


def cell(cells: NDArray[np.int64], which: int) -> NDArray[np.int64]:
    """One counter of `new_cells`, int64 [1]."""
    return cells[which * catalog.LINE :][:1]


def claims_in(cells: NDArray[np.int64], steps: int, ranges: int) -> NDArray[np.int64]:
    """The counters of pieces claimed, int64 [steps, ranges]: a view."""
    lines = cells.reshape(-1, catalog.LINE)[catalog.CLAIMS : catalog.CLAIMS + steps * ranges]
    return lines.reshape(steps, ranges, catalog.LINE)[:, :, 0]


def compile_quietly() -> None:
    """This process has said that it compiles kernels, which it says once."""
    loader._announced = True


def forget_functions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A function after which this process is as one that has loaded none; it returns the folder of the cache."""

    def forget() -> Path:
        monkeypatch.setattr(loader, "_found", {})
        monkeypatch.setattr(loader, "_loaded", {})
        monkeypatch.setattr(loader, "_announced", False)
        folder = cache.folder()
        assert folder is not None
        return folder

    return forget
