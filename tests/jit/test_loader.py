"""Compiling, in one process and several, and loading."""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

import bitvit
from bitvit.jit import cache, compiler, loader, sharing, workers
from bitvit.kernels import catalog
from bitvit.kernels.catalog import CLASSIFY, CLASSIFY_COLUMNS, classify, coarsen, pool
from bitvit.kernels.inline import inline
from tests.support.interrupts import interrupted_at
from tests.support.paths import ROOT
from tests.support.patience import patience

NearlyWarm = Callable[[Path, Sequence[catalog.Function]], Path]


def run_classify(address: int) -> None:
    """One piece of the classifier with 3 inputs: logits = bias + weights·source."""
    record = np.zeros(1, CLASSIFY)
    record["depth"], record["panels"], record["bias"], record["out"] = 3, 0, 3 * CLASSIFY_COLUMNS, 3
    weights = np.arange(4 * CLASSIFY_COLUMNS, dtype=np.float32)
    state = np.zeros(3 + CLASSIFY_COLUMNS, np.float32)
    state[:3] = 1, 2, 3
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)(address)
    function(0, record.ctypes.data, weights.ctypes.data, state.ctypes.data, 0)
    panels = weights.reshape(4, CLASSIFY_COLUMNS)
    np.testing.assert_array_equal(state[3:], panels[3] + panels[0] + 2 * panels[1] + 3 * panels[2])


# ------------------------------------------------------------------------------------------------------ in process
def test_names_are_unique() -> None:
    names = [f.name for f in catalog.FUNCTIONS]
    assert len(set(names)) == len(names)
    assert catalog.attend_gsb in catalog.KERNELS


def test_functions_are_compiled_loaded_and_kept(cold: Callable[[], Path]) -> None:
    folder = cold()
    address, _ = loader.addresses([classify, pool])
    run_classify(address)
    assert {f.name for f in folder.glob("*.o")} == {"classify.o", "pool.o"}
    assert loader.addresses([classify]) == [address]
    written = (folder / "classify.o").stat().st_mtime_ns
    cold()
    run_classify(*loader.addresses([classify]))
    assert (folder / "classify.o").stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", [lambda code: code[: len(code) // 2], lambda code: code[:99] + b"\0" + code[100:]])
def test_a_damaged_file_is_compiled_again(damage: Callable[[bytes], bytes], cold: Callable[[], Path]) -> None:
    file = cold() / "classify.o"
    loader.addresses([classify])
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    cold()
    assert loader.missing_of([classify]) == [classify]
    run_classify(*loader.addresses([classify]))
    assert cache.read("classify") is not None


def test_no_place_for_a_cache(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cold()
    monkeypatch.setattr(cache, "folder", lambda: None)
    run_classify(*loader.addresses([classify, pool])[:1])


@pytest.mark.parametrize("executable", ["", "python-that-is-not-there", "/bin/false", "python"])
def test_other_processes_that_fail(
    executable: str, cold: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot be started, or end without having done anything."""
    if executable == "python":
        executable = str(tmp_path / "python")
        Path(executable).symlink_to("/bin/false")
    cold()
    monkeypatch.setattr(workers, "available_threads", lambda: 2)
    monkeypatch.setattr(sys, "executable", executable)
    run_classify(*loader.addresses([classify, pool])[:1])


@pytest.mark.parametrize("problem", [BlockingIOError("fork"), RuntimeError("can't fork at interpreter shutdown")])
@pytest.mark.parametrize("started", [0, 1])
def test_a_limit_of_processes(
    problem: Exception, started: int, cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the end of the interpreter: the caller compiles, and a process that was started before ends."""
    left, popen, processes = [started], subprocess.Popen, []

    def start_or_not(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        if not left[0]:
            raise problem
        left[0] -= 1
        processes.append(popen(*arguments, **options))
        return processes[-1]

    cold()
    monkeypatch.setattr(workers, "available_threads", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", start_or_not)
    run_classify(*loader.addresses([classify, pool])[:1])
    assert [process.poll() is None for process in processes] == [False] * started


def test_a_process_that_hangs(cold: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    cold()
    monkeypatch.setattr(workers, "available_threads", lambda: 2)
    monkeypatch.setattr(sharing, "PATIENCE", 0.1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    run_classify(*loader.addresses([classify, pool])[:1])


def test_two_processes_share_the_work(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cold()
    monkeypatch.setattr(workers, "available_threads", lambda: 2)
    monkeypatch.setattr(compiler, "compile_object", lambda function: pytest.fail(f"{function.name} compiled here"))
    run_classify(*loader.addresses([classify, pool, coarsen])[:1])
    assert {"classify.o", "pool.o", "coarsen.o"} <= {f.name for f in folder.iterdir()}


def links(code: CodeType) -> bool:
    """Where object files become addresses."""
    return (code.co_filename, code.co_name) == (loader.__file__, "_load")


def test_an_interrupt_anywhere_while_functions_are_loaded(cold: Callable[[], Path]) -> None:
    """The next attempt links them afresh, whatever the first had got to."""
    cold()
    loader.addresses([classify, pool])
    place, interrupted = 0, True
    while interrupted:
        place += 1
        cold()
        interrupted = interrupted_at(place, lambda: loader.addresses([classify, pool]), links)
        run_classify(*loader.addresses([classify, pool])[:1])
    assert place > 10


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_loads(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits: a child that found the lock taken would wait for a thread that it does not have."""
    cold()
    loader.addresses([classify, pool])
    cold()
    reading, release, read = threading.Event(), threading.Event(), cache.read

    def read_slowly(name: str) -> bytes | None:
        reading.set()
        release.wait(timeout=patience(60))
        return read(name)

    monkeypatch.setattr(cache, "read", read_slowly)
    thread = threading.Thread(target=loader.addresses, args=([classify],))
    thread.start()
    assert reading.wait(timeout=patience(60))
    threading.Timer(0.2, release.set).start()
    child = multiprocessing.get_context("fork").Process(target=loader.addresses, args=([pool],))
    child.start()
    assert release.is_set(), "it did not wait"
    child.join(timeout=patience(60))
    alive = child.is_alive()
    child.kill()
    thread.join()
    assert not alive
    assert child.exitcode == 0


@pytest.mark.parametrize("function", [pool, coarsen, catalog.lead_image], ids=lambda f: f.name)
def test_machine_code_needs_nothing_of_numba(function: catalog.Function) -> None:
    """A symbol that the process lacks would abort it at load."""
    module = compiler.llvm_code(function)
    compiler.optimize(module, compiler.machine())
    defined = [f.name for f in module.functions if not f.is_declaration]
    needed = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    assert defined == [function.name]
    assert needed <= {"sched_yield"}
    assert not [v.name for v in module.global_variables if v.linkage == llvm.Linkage.external]


def test_python_cannot_call_a_helper_function() -> None:
    """They have no code of their own to run."""

    @inline  # type: ignore[untyped-decorator]
    def double(value: int) -> int:
        return 2 * value

    with pytest.raises(TypeError, match="bad argument"):
        double(8)


# --------------------------------------------------------------------------------------------------- new processes
LOAD = (
    "from bitvit.jit import loader; from bitvit.kernels.catalog import *; loaded = loader.addresses([pool, classify])"
)


def start(script: str, place: Path, *arguments: str, path: Path = ROOT, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """A Python process with its own place for a cache; the script's folder, not cwd, is on its path."""
    file = place.with_suffix(".py")
    file.write_text(script)
    return subprocess.Popen(
        [sys.executable, "-B", str(file), *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(place), "PYTHONPATH": str(path)},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: "subprocess.Popen[str]") -> str:
    out, error = process.communicate(timeout=patience(120))
    assert process.returncode == 0, error
    return out


def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    processes = [start(LOAD, tmp_path / "cache") for _ in range(2)]
    for process in processes:
        output(process)
    files = [f.name for f in (tmp_path / "cache").rglob("*") if f.is_file()]
    assert sorted(files) == [".lock", "classify.o", "pool.o"]


def test_a_process_killed_while_it_compiles(tmp_path: Path) -> None:
    """What it leaves under a function's name is whole; the next process compiles the rest."""
    for number, delay in enumerate((0.3, 0.8)):
        place = tmp_path / f"cache{number}"
        process = start(LOAD, place)
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=patience(60))
        output(start(LOAD, place))
        assert {f.name for f in place.rglob("*.o")} >= {"classify.o", "pool.o"}
        before = {f: f.read_bytes() for f in place.rglob("*.o")}
        output(start(LOAD, place))
        assert before == {f: f.read_bytes() for f in place.rglob("*.o")}, "something had to be compiled again"


def test_a_worker_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on compiling for a process that is dead."""
    monkeypatch.setattr(compiler, "compile_object", lambda function: pytest.fail(f"{function.name} compiled"))
    workers.work(os.getppid() + 1, ["pool", "classify"])


def test_a_worker_on_windows_may_be_started_by_a_launcher(
    monkeypatch: pytest.MonkeyPatch, cold: Callable[[], Path]
) -> None:
    """There a virtual environment's python.exe starts the interpreter, so the parent is another process."""
    cold()
    monkeypatch.setattr(compiler, "compile_object", lambda function: function.name.encode())
    monkeypatch.setattr(sys, "platform", "win32")
    workers.work(os.getppid() + 1, ["pool", "classify"])
    assert [cache.read(name) for name in ("pool", "classify")] == [b"pool", b"classify"]


def test_the_package_may_be_read_only(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bitvit", tmp_path / "site" / "bitvit", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted((tmp_path / "site").rglob("*"))
    for path in (tmp_path / "site").rglob("*"):
        path.chmod(0o555)
    try:
        output(start(LOAD, tmp_path / "cache", path=tmp_path / "site", cwd=tmp_path))
    finally:
        for path in before:
            path.chmod(0o755)
    assert [path for path in sorted((tmp_path / "site").rglob("*")) if "__pycache__" not in path.parts] == before
    assert len(list((tmp_path / "cache").rglob("*.o"))) == 2


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """Where the images are, which may have come from anywhere."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("numba", "numpy", "json", "bitvit"):
        (downloads / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name}')\n")
    place = tmp_path / "scripts" / "cache"
    place.parent.mkdir()
    output(start(LOAD, place, cwd=downloads))
    assert not (tmp_path / "imported").exists()
    assert len(list(place.rglob("*.o"))) == 2


PREDICT = """
import sys, numpy as np, bitvit
model = bitvit.load(sys.argv[1], threads=1)
print(model(np.full((1, 3, 96, 96), 0.25, np.float32)).tobytes().hex(), "numba" in sys.modules)
"""


def predict(path: Path) -> str:
    """As PREDICT prints it."""
    return bitvit.load(path, threads=1)(np.full((1, 3, 96, 96), 0.25, np.float32)).tobytes().hex()


def times_in(folder: Path) -> dict[str, int]:
    """When each function's file in a cache was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.o")}


def test_a_new_process_compiles_what_the_cache_lacks(
    tmp_path: Path, packed: Callable[[str], Path], nearly_warm: NearlyWarm
) -> None:
    """And no more; the second needs no Numba."""
    place, path = tmp_path / "cache", packed("micro96_pth")
    expected = predict(path)
    folder = nearly_warm(path, [pool, classify])
    before = times_in(folder)
    assert output(start(PREDICT, place, str(path))).split()[0] == expected
    after = times_in(folder)
    assert after.keys() - before.keys() == {"pool.o", "classify.o"}
    assert {name: after[name] for name in before} == before
    assert output(start(PREDICT, place, str(path))).split() == [expected, "False"]
    assert times_in(folder) == after


def test_a_new_process_that_can_keep_nothing(
    tmp_path: Path, packed: Callable[[str], Path], nearly_warm: NearlyWarm
) -> None:
    """It compiles by itself what it lacks, and answers the same."""
    place, path = tmp_path / "cache", packed("micro96_pth")
    expected = predict(path)
    folder = nearly_warm(path, [pool, classify])
    before = times_in(folder)
    keeps_nothing = f"from bitvit.jit import cache; cache.folder = lambda: None\n{PREDICT}"
    assert output(start(keeps_nothing, place, str(path))).split() == [expected, "True"]
    assert times_in(folder) == before


def test_a_new_process_with_no_place_for_a_cache(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    place.write_text("in the way")
    output(start(f"from tests.jit.test_loader import run_classify; {LOAD}; run_classify(loaded[1])", place))
    assert place.read_text() == "in the way"


def test_the_command_line_needs_no_numba_once_it_is_warm(packed: Callable[[str], Path], tmp_path: Path) -> None:
    """`classify` of an image, in a process of its own with the cache of this one."""
    path = packed("micro96_pth")
    bitvit.load(path)
    script = (
        "import sys; from bitvit.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('numba' in sys.modules)\n"
    )
    image = sorted((ROOT / "weights" / "samples").glob("*.png"))[0]
    command = [sys.executable, "-c", script, "classify", str(path), str(image)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"
