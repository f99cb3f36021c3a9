"""Short runs of tools/stress: many callers, faults in the middle of a command, a soak. And proof that checks fail."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bitvit
from bitvit.model import BHViT
from bitvit.runtime.calls import Call
from bitvit.runtime.team import Team
from tests.support.paths import ROOT
from tests.support.runtime import tireless_team
from tools.stress import callers, faults, reloads, soak
from tools.stress.__main__ import DEFAULT
from tools.stress.callers import Question
from tools.stress.commands import Command, check_whole, make_commands
from tools.stress.promise import CheckError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes, signals and /proc as Linux has them"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


# -------------------------------------------------------------------------------------------------------------- callers
def test_many_threads_on_one_model(tiny: Path) -> None:
    assert "64 threads on one model" in callers.check_threads(tiny, seconds=2)


def test_many_models(tiny: Path) -> None:
    assert "8 models, two threads each" in callers.check_models(tiny, seconds=1)


@pytest.mark.parametrize("method", callers.start_methods())
def test_process_pools(method: str, tiny: Path) -> None:
    assert "12 tasks by " in callers.check_pool(tiny, method, tasks=12)


def test_workers_forked_by_a_server(tiny: Path, tmp_path: Path) -> None:
    assert "3 pre-forked workers, one killed" in callers.check_prefork(tiny, 2, tmp_path)


def test_a_wrong_answer_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a thread, in a pool and from a server."""
    right = callers.questions(tiny)
    wrong = [Question(q.pixels, bytes(len(q.answer))) for q in right]
    monkeypatch.setattr(callers, "questions", lambda _: wrong)
    checks: list[Callable[[], str]] = [
        lambda: callers.check_threads(tiny, 5, count=2),
        lambda: callers.check_pool(tiny, "fork", tasks=2),
        lambda: callers.check_prefork(tiny, 5, tmp_path),
    ]
    for check in checks:
        with pytest.raises(CheckError, match="another answer"):
            check()


def test_a_call_that_does_not_end_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(callers, "PATIENCE", 0.3)
    monkeypatch.setattr(callers, "ask", lambda *_: release.wait(30))
    with pytest.raises(CheckError, match=r"2 of 2 threads are still inside a call after 0\.3 s"):
        callers.check_threads(tiny, 0.1, count=2)
    release.set()


# -------------------------------------------------------------------------------------------------------------- reloads
def test_a_few_reloads_under_load(tiny: Path) -> None:
    assert "40 reloads in " in reloads.check_reloads(tiny, 40, growth=32 << 20)  # so few tell little of memory


@pytest.mark.parametrize("kept", ["threads", "files"])
def test_what_a_reload_leaves_behind_is_noticed(kept: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []

    def load(path: Path, *, threads: int | None = None) -> BHViT:
        model = original(path, threads=threads)
        left.append(open(os.devnull) if kept == "files" else tireless_team(2))  # noqa: SIM115, PTH123
        if isinstance(left[-1], Team):
            left[-1].run([Call(lambda: None)] * 2)
        return model

    original = bitvit.load
    monkeypatch.setattr(reloads, "SETTLING", 0.1)
    monkeypatch.setattr(bitvit, "load", load)
    with pytest.raises(CheckError, match=rf"something is left of models that are gone: .*{kept}"):
        reloads.check_reloads(tiny, 3, count=1)
    for file in left:
        if isinstance(file, io.IOBase):
            file.close()


# --------------------------------------------------------------------------------------------------------------- faults
@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    return make_commands(tmp_path_factory.mktemp("commands"))


@pytest.mark.parametrize("name", ["convert", "classify"])
def test_interrupts(name: str, commands: dict[str, Command]) -> None:
    assert "all next runs equal" in faults.check_interrupts(commands[name], times=2)


@pytest.mark.parametrize("name", ["convert", "classify"])
def test_a_full_disk(name: str, commands: dict[str, Command]) -> None:
    assert f"a full disk under {name}: a limit of the file's size" in faults.check_full_disk(commands[name])


def test_what_is_left_behind_is_noticed(commands: dict[str, Command]) -> None:
    command = commands["convert"]
    expected = {"model.safetensors": b"whole"}
    for name, content in (("model.safetensors", b"wh"), (".bitvit.0123", b"whole"), ("other", b"")):
        command.empty()
        (command.folder / name).write_bytes(content)
        with pytest.raises(CheckError, match=f"convert, Ctrl-C: {name} is half-written, or left behind"):
            check_whole(command, expected, "Ctrl-C")
    command.empty()
    (command.folder / "model.safetensors").write_bytes(b"whole")
    check_whole(command, expected, "Ctrl-C")


# ----------------------------------------------------------------------------------------------------------------- soak
def test_a_short_soak(tiny: Path) -> None:
    found = soak.soak(tiny, seconds=2, settling=1)
    assert found.calls > 10
    assert 0 < found.p50 <= found.p99 < 100
    assert found.grown < 32 << 20  # of a second; the megabyte is for half an hour
    assert "p99" in str(found)


def test_memory_that_grows_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(np.arange(0, 1 << 40, 300_000).tolist())
    monkeypatch.setattr(soak, "resident", lambda: next(sizes))
    with pytest.raises(CheckError, match=r"memory grows: .* calls in "):
        soak.check_soak(tiny, seconds=1, settling=0.2)


def test_the_command_line_runs_the_checks_that_are_named(tiny: Path) -> None:
    """Names of checks, and the exit code."""
    command = [sys.executable, "-m", "tools.stress", str(tiny), "--seconds", "0.5", "--only", "threads"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("threads              ok, 64 threads on one model of ")


def test_the_default_model_is_there() -> None:
    assert DEFAULT.is_file()
