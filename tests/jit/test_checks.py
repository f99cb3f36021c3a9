"""Where kernels cannot be compiled or run: an error with a remedy, not a crash."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bitvit.errors import BitvitError
from bitvit.jit import loader, workers
from bitvit.jit.checks import check_execution, check_features, is_foreign_setting
from bitvit.kernels.catalog import classify, pool
from bitvit.llvm import llvm
from tests.support.paths import ROOT
from tests.support.patience import patience


def run(
    script: str, *arguments: object, path: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process of its own. path: before all others on its path."""
    search = os.pathsep.join(map(str, [path, ROOT] if path else [ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(300),
    )
    return done.returncode, done.stdout, done.stderr


COMMAND = "import sys; from bitvit.cli import main; sys.argv[0] = 'bitvit'; main()"


def test_kernels_for_another_machine_are_not_run(tiny: Path, tmp_path: Path) -> None:
    """Nor kept where this machine's are."""
    script = (
        f"{COMMAND.replace('main()', '')}\n"
        "from bitvit.jit import cache\n"
        "from bitvit.kernels import target\n"
        "print(target.TRIPLE, target.CPU, target.FEATURES, target.LANES, target.LOOKUP, cache.toolchain()[-3:])\n"
        "main()\n"
    )
    environment = {
        "BITVIT_TARGET": "aarch64-unknown-linux-gnu cortex-a76 +lse,+dotprod",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    code, out, err = run(script, "warmup", tiny, environment=environment)
    triple, cpu, features = "aarch64-unknown-linux-gnu", "cortex-a76", "+lse,+dotprod"
    assert out == f"{triple} {cpu} {features} 8 False {[triple, cpu, features]}\n"
    assert (code, err) == (
        1,
        f"Error: BITVIT_TARGET is set, so kernels are compiled for {triple} ({cpu}) and cannot be run here; unset it\n",
    )


# ------------------------------------------------------------------------------------------------ executable memory
def test_memory_that_must_not_be_executable(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold and warm, before anything is called."""

    def refuse() -> None:
        raise OSError(errno.EACCES, "cannot allocate executable memory")

    cold()
    with monkeypatch.context() as patch:
        patch.setattr(llvm, "check_jit_execution", refuse)
        with pytest.raises(BitvitError, match=r"cannot be run: .*Permission denied.*MemoryDenyWriteExecute=no"):
            loader.addresses([pool])
    loader.addresses([pool])
    cold()
    monkeypatch.setattr(llvm, "check_jit_execution", refuse)
    assert loader.missing_of([pool]) == []
    with pytest.raises(BitvitError, match="SELinux"):
        loader.addresses([pool])


DENY = """
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1  # what systemd does for MemoryDenyWriteExecute=yes
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "bitvit", *sys.argv[1:]])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "prctl") if os.name == "posix" else True, reason="needs prctl")
@pytest.mark.parametrize(("command", "warm"), [("classify", False), ("classify", True), ("bundle", False)])
def test_a_process_under_memory_deny_write_execute(command: str, warm: bool, tiny: Path, tmp_path: Path) -> None:
    image = sorted((ROOT / "weights" / "samples").glob("*.png"))[0]
    environment = {} if warm else {"NUMBA_CACHE_DIR": str(tmp_path)}
    if warm:
        loader.addresses([pool])
    more = [image] if command == "classify" else ["-o", tmp_path / "out"]
    code, out, error = run(DENY, command, tiny, *more, environment=environment)
    if code == 77:
        pytest.skip("this kernel cannot forbid it")
    assert (code, out) == (1, "")
    assert error.startswith("Error: compiled kernels cannot be run: ")
    assert error.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- the target
@pytest.mark.parametrize("chosen", ["", "+made-up-feature", "-avx2", "-neon"])
def test_features_that_the_processor_has_or_does_not_know(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", chosen)
    check_features()


def test_a_feature_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call would end the process with an illegal instruction."""
    host = {"avx2": True, "amx-int8": False}
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: host)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+amx-int8")
    with pytest.raises(BitvitError, match=r"NUMBA_CPU_FEATURES asks for \+amx-int8, which this processor"):
        check_features()
    check_execution()


# ------------------------------------------------------------------------------------------------- Numba and llvmlite
def fake(place: Path, package: str, text: str) -> Path:
    """A folder for Python's path, with a package of that name that does this when it is imported."""
    (place / package).mkdir(parents=True)
    (place / package / "__init__.py").write_text(text)
    return place


def one_line(error: str) -> str:
    """The last line, which is the error; the others are notes."""
    *notes, last = error.splitlines()
    assert all(note.startswith("Note: compiling ") for note in notes), error
    return last


def test_a_numpy_that_is_too_new_for_numba(tiny: Path, tmp_path: Path) -> None:
    path = fake(tmp_path, "numba", "raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.4.')")
    (path / "numba" / "_version.py").write_text("")
    arguments = "classify", tiny, sorted((ROOT / "weights" / "samples").glob("*.png"))[0]
    code, out, error = run(COMMAND, *arguments, path=path, environment={"NUMBA_CACHE_DIR": str(tmp_path / "cache")})
    assert (code, out) == (1, "")
    line = one_line(error)
    assert line.startswith(
        "Error: Numba, which compiles the kernels, cannot be imported: Numba needs NumPy 2.2 or less"
    )
    assert "(installed: numba " in line
    assert line.endswith("mend it: pip install --upgrade numba, or pip install 'numpy<2.3'")


def test_no_llvmlite(tiny: Path, tmp_path: Path) -> None:
    """At the command line, and in a program that asks for the engine."""
    path = fake(tmp_path, "llvmlite", "raise ImportError('No module named llvmlite')")
    code, _, error = run(COMMAND, "inspect", tiny, path=path)
    assert (code, error) == (0, ""), "what needs no engine works"
    code, _, error = run(COMMAND, "warmup", path=path)
    assert code == 1
    assert one_line(error).startswith(
        "Error: llvmlite, which loads the compiled kernels, cannot be imported: No module"
    )
    script = "import sys, bitvit\ntry: bitvit.load(sys.argv[1])\nexcept bitvit.BitvitError as problem: print(problem)"
    assert "pip install --force-reinstall llvmlite" in run(script, tiny, path=path)[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NUMBA_DISABLE_JIT", "1", "unset it for one run of this command, after which it does no harm"),
        ("NUMBA_NUM_THREADS", "0", "mend it: without what is wrong of NUMBA_NUM_THREADS=0, or pip install"),
    ],
)
def test_settings_of_numba_that_keep_it_from_compiling(name: str, value: str, message: str, tmp_path: Path) -> None:
    """A single kernel, which no other process compiles; what is in the cache already is used."""
    script = "from bitvit.jit import loader; from bitvit.kernels.catalog import pool; loader.addresses([pool])"
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    code, _, error = run(script, environment=environment | {name: value})
    assert code == 1
    assert error.splitlines()[-1].startswith("bitvit.errors.BitvitError: ")
    assert message in error
    assert run(script, environment=environment)[0] == 0
    assert run(script, environment=environment | {name: value}) == (0, "", "")


def test_other_processes_compile_without_such_settings(
    cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "available_threads", lambda: 2)
    monkeypatch.setattr("bitvit.jit.sharing.compiler", lambda: pytest.fail("compiled here"))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    cold()
    assert len(loader.addresses([pool, classify])) == 2
    assert is_foreign_setting("NUMBA_DISABLE_JIT")
    assert not any(map(is_foreign_setting, ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "HOME")))


def test_what_somebody_debugs_with_changes_no_kernel(cold: Callable[[], Path]) -> None:
    """Others would find it in the cache."""
    from numba.core import config

    from bitvit.jit.compiler import compile_object

    cold()
    before = config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT
    usual = compile_object(pool)
    try:
        config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT = 1, 1
        assert compile_object(pool) == usual
        assert (config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT) == (1, 1)
    finally:
        config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT = before


@pytest.mark.parametrize(("package", "what"), [("llvmlite", "LLVM"), ("numba", "Numba, which compiles the kernels")])
def test_too_little_memory_for_either_is_called_that(package: str, what: str, tiny: Path, tmp_path: Path) -> None:
    path = fake(tmp_path, package, "raise OSError('libllvmlite.so: failed to map segment from shared object')")
    if package == "numba":
        (path / "numba" / "_version.py").write_text("")
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code, _, error = run(COMMAND, "warmup", tiny, path=path, environment=environment)
    assert (code, one_line(error)) == (1, f"Error: too little memory to load {what}; allow the process more")
