"""Threads, forks, the cache of compiled kernels."""

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden_data import load_case
from numpy.typing import NDArray

import bitvit
from bitvit import runtime
from bitvit.kernels import schedule
from bitvit.model import BHViT

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def model(packed: Callable[[str], Path]) -> BHViT:
    return bitvit.load(packed("micro96_pth"), threads=2)


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
    with model.runner._team.lead() as leading:
        assert leading
        assert np.array_equal(model(pixels), expected)


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
    with team.lead() as leading:
        assert not leading
    team._plan_rest(crowded=False)
    with team.lead() as leading:
        assert leading


def test_helpers_that_leave_early_do_no_harm(model: BHViT, pixels: NDArray[np.float32]) -> None:
    """A helper that sees the leader stalled claims no more pieces; the leader computes them all."""
    runner = model.runner
    expected = model(pixels[:1])
    workspace = runtime.Workspace(runner.program)
    workspace.set_image(pixels[0])
    cells = runtime._new_cells(schedule.CLAIMS + len(runner.program.steps))
    cells[schedule.GATE * schedule.LINE] = schedule.OPEN
    cells[schedule.STALLED * schedule.LINE] = 1
    arguments = (runner._table, runner.program.const.ctypes.data, *workspace.addresses, cells)
    runner._help_image(*arguments)
    assert cells[schedule.DONE * schedule.LINE] == 0
    assert cells[schedule.GATE * schedule.LINE] == schedule.OPEN
    cells[:] = 0
    assert runner._lead_image(*arguments) == 0
    start = runner.program.output.offset
    logits = workspace.state[start : start + runner.program.outputs].view(np.float32)
    assert np.array_equal(logits, expected[0])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs thread affinity")
def test_the_caller_keeps_its_affinity(model: BHViT, pixels: NDArray[np.float32]) -> None:
    before = os.sched_getaffinity(0)
    model(pixels[:1])
    model(pixels)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "BITVIT_NUM_THREADS"])
def test_environment_limits_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("BITVIT_NUM_THREADS", raising=False)
    free = runtime.available_threads()
    monkeypatch.setenv(name, "1")
    assert runtime.available_threads() == 1
    for ignored in ("0", "many", "", "-3"):
        monkeypatch.setenv(name, ignored)
        assert runtime.available_threads() == free
    monkeypatch.setenv(name, str(free + 5))
    assert runtime.available_threads() == free


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_cgroup_quota(text: str, quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(runtime, "_CGROUP", tmp_path)
    assert runtime._cgroup_quota() == quota


def test_threads_argument_is_capped(packed: Callable[[str], Path]) -> None:
    assert bitvit.load(packed("micro96_pth"), threads=1).threads == 1
    assert bitvit.load(packed("micro96_pth"), threads=10_000).threads == runtime.available_threads()


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
    with model.runner._team.lead():  # as if another thread were in the middle of a call
        child = context.Process(target=_answer, args=(model, pixels, answers))
        child.start()
    assert answers.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0
    assert model(pixels[:1]).tobytes() + model(pixels).tobytes() == expected


# -------------------------------------------------------------------------------------------------------- cache
def test_cache_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = runtime.cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = runtime.cache_folder()
    assert folder is not None
    folder.chmod(0o777)
    assert runtime.cache_folder() is None


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert runtime.cache_folder() is None


def test_the_folder_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba sees edits of a kernel's own file only; an edited helper must give another folder."""
    fingerprint = runtime._fingerprint.__wrapped__  # as a process of its own would compute it
    before = fingerprint()
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    for source in (ROOT / "bitvit" / "kernels").glob("*.py"):
        (kernels / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(runtime, "_KERNELS", kernels)
    assert fingerprint() == before
    with (kernels / "simd.py").open("a") as file:
        file.write("# edited\n")
    assert fingerprint() != before


@pytest.mark.parametrize("broken", [False, True])
def test_a_new_process_uses_the_cache_or_does_without(
    broken: bool, tmp_path: Path, packed: Callable[[str], Path]
) -> None:
    """With a cache nothing is compiled the second time; with no place for one the answer is the same."""
    place = tmp_path / "cache"
    if broken:
        place.write_text("in the way")
    script = (
        "import sys, numpy as np, bitvit\n"
        "model = bitvit.load(sys.argv[1], threads=1)\n"
        "print(model(np.full((1, 3, 96, 96), 0.25, np.float32)).tobytes().hex())\n"
    )
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(place), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", script, str(packed("micro96_pth"))]
    answers, files = [], []
    for _ in range(1 if broken else 2):
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answers.append(run.stdout)
        files.append({f.name: f.stat().st_mtime_ns for f in place.rglob("*.nb?")} if not broken else {})
    model = bitvit.load(packed("micro96_pth"), threads=1)
    expected = model(np.full((1, 3, 96, 96), 0.25, np.float32)).tobytes().hex()
    assert {answer.strip() for answer in answers} == {expected}
    if not broken:
        assert files[0]
        assert files[0] == files[1]
