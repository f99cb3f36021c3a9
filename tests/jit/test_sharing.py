"""Functions compiled together with other processes; what stands for a compiler here writes down what it compiles."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitvit.jit import cache, claims, sharing, workers
from bitvit.jit.sharing import compile_shared
from bitvit.kernels.catalog import FUNCTIONS, Function, classify, coarsen, pool
from tests.support.paths import ROOT
from tests.support.patience import patience

SHARE = """
import os, sys, time
from pathlib import Path
from bitvit.jit import claims, sharing
from bitvit.kernels.catalog import FUNCTIONS

log, seconds, count = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def compile(function):
    with log.open("a") as file:
        file.write(function.name + "\\n")
    time.sleep(seconds)
    return function.name.encode()

sharing.compiler = lambda: compile
sharing.WAIT = 0.01
print("ready", flush=True)
sys.stdin.readline()
for function, code in sharing.compile_shared(FUNCTIONS[:count]):
    assert code == function.name.encode()
"""


class Sharing:
    """Processes of one core each, which share the work of compiling the first functions of the catalog."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, processes: int, functions: int, seconds: float) -> None:
        """Start processes that begin together. seconds: what each function takes."""
        new = [
            subprocess.Popen(
                [sys.executable, "-c", SHARE, str(self.log), str(seconds), str(functions)],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        self.processes += new
        for process in new:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in new:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def codes(self) -> list[int]:
        for process in self.processes:
            process.communicate(timeout=patience(60))
        return [process.returncode for process in self.processes]

    def compiled(self) -> list[str]:
        return sorted(self.log.read_text().split()) if self.log.exists() else []


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Sharing]:
    sharing = Sharing(tmp_path)
    yield sharing
    for process in sharing.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def alone(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of this process, which has one core and a quick compiler; waits are short."""
    monkeypatch.setattr(workers, "available_threads", lambda: 1)
    monkeypatch.setattr(sharing, "compiler", lambda: lambda function: function.name.encode())
    monkeypatch.setattr(sharing, "WAIT", 0.01)
    return cold()


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX record locks")


@posix
def test_each_function_is_compiled_by_one_of_several_processes(shared: Sharing) -> None:
    shared.start(3, 12, 0.01)
    assert shared.codes() == [0, 0, 0]
    assert shared.compiled() == sorted(f.name for f in FUNCTIONS[:12])


@posix
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT] if os.name == "posix" else [])
def test_what_a_process_was_at_when_it_ended_another_compiles(way: signal.Signals, shared: Sharing) -> None:
    """It blocks nobody, and nothing but whole functions and the file of the claims is left."""
    shared.start(1, 4, 300)
    while not shared.compiled():
        threading.Event().wait(0.01)
    first = shared.compiled()
    assert first == [FUNCTIONS[0].name]
    shared.start(1, 4, 0)
    while len(shared.compiled()) < 4:  # all but the one that is still claimed
        threading.Event().wait(0.01)
    shared.processes[0].send_signal(way)
    shared.processes[1].communicate(timeout=patience(60))
    assert shared.processes[1].returncode == 0
    assert shared.compiled() == sorted([*first, *(f.name for f in FUNCTIONS[:4])])
    files = {file.name for file in (shared.log.parent / "cache").rglob("*") if file.is_file()}
    assert files == {claims.FILE, *(cache.file_name(f.name) for f in FUNCTIONS[:4])}


@posix
@pytest.mark.usefixtures("alone")
def test_a_holder_that_hangs_is_waited_for_only_so_long(shared: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 0.1)
    shared.environment["NUMBA_CACHE_DIR"] = os.environ["NUMBA_CACHE_DIR"]
    shared.start(1, 2, 300)
    while not shared.compiled():
        threading.Event().wait(0.01)
    found = list(compile_shared(FUNCTIONS[:2]))
    assert sorted(found, key=lambda pair: FUNCTIONS.index(pair[0])) == [(f, f.name.encode()) for f in FUNCTIONS[:2]]
    assert found[-1][0] == FUNCTIONS[0], "the claimed one last"
    assert cache.read(FUNCTIONS[0].name) is not None, "for others"


def test_a_process_without_a_seat_waits_for_what_appears(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles nothing, nor asks for Numba; what is damaged does not count."""
    monkeypatch.setattr(claims.Claims, "seats", lambda *_: [])
    monkeypatch.setattr(sharing, "compiler", lambda: pytest.fail("asks for a compiler"))
    (alone / cache.file_name("pool")).write_bytes(b"damaged")
    wanted = {pool: b"pool", classify: b"classify", coarsen: b"coarsen"}
    found = compile_shared(list(wanted))
    for function, code in reversed(wanted.items()):
        cache.write(function.name, code)
        assert next(found) == (function, code)
    assert list(found) == []


def test_without_a_cache_a_process_compiles_all_itself(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: None)
    assert list(compile_shared([pool, classify])) == [(pool, b"pool"), (classify, b"classify")]
    assert list(alone.iterdir()) == []


@pytest.mark.usefixtures("alone")
def test_a_seat_that_is_the_second_means_the_lists_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two processes meet in the middle."""
    monkeypatch.setattr(claims.Claims, "seats", lambda *_: [1])
    assert [function for function, _ in compile_shared([pool, classify, coarsen])] == [coarsen, classify, pool]


@pytest.mark.usefixtures("alone")
def test_a_caller_that_stops_leaves_its_seat() -> None:
    functions: Iterator[tuple[Function, bytes]] = iter(compile_shared([pool, classify]))
    assert next(functions)[0] == pool
    functions.close()  # type: ignore[attr-defined]
    assert [function for function, _ in compile_shared([pool, classify])] == [pool, classify]
