"""`bitvit warmup`, and the messages of a first run."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bitvit
from bitvit.cli import app
from bitvit.cli.console import compiling_status
from bitvit.jit import cache, loader
from bitvit.kernels import catalog
from bitvit.model import Network, functions_of
from bitvit.modelfile import load_model_file
from tests.support.command import run
from tests.support.paths import ROOT


def test_all_kernels_are_found(packed: Callable[[str], Path]) -> None:
    names = {kernel.name for kernel in catalog.KERNELS}
    for case in ("micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln"):
        file = load_model_file(packed(case))
        used = {step.kernel.name for step in Network.read(file.config, file.tensors).program().steps}
        assert used <= names


def test_warmup_compiles_what_a_model_needs_once(
    cold: Callable[[], Path],
    nearly_warm: Callable[[Path, Sequence[catalog.Function]], Path],
    packed: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = packed("micro96_pth")
    lacking: list[catalog.Function] = [catalog.pool, catalog.classify, catalog.run_steps]
    names = {f"{function.name}.o" for function in functions_of(path)}
    folder = nearly_warm(path, lacking)
    assert {file.name for file in folder.glob("*.o")} == names - {"pool.o", "classify.o", "run_steps.o"}
    first, _ = run("warmup", path)
    assert first == f"3 functions compiled, {len(names) - 3} were ready\ncache: {folder}\n"
    assert {file.name for file in folder.glob("*.o")} == names
    cold()
    again, _ = run("warmup", path)
    assert again.startswith(f"0 functions compiled, {len(names)} were ready\n")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="bitvit"):
        bitvit.load(path)
    assert caplog.messages == []


def test_a_first_load_says_what_it_compiles(cold: Callable[[], Path], caplog: pytest.LogCaptureFixture) -> None:
    """Once as a warning, which is seen without any settings; the rest for who asks for it."""
    folder = cold()
    with caplog.at_level(logging.INFO, logger="bitvit"):
        loader.addresses([catalog.pool, catalog.classify])
        loader.addresses([catalog.coarsen])
    first, *others = caplog.records
    assert first.levelname == "WARNING"
    assert first.getMessage().startswith("compiling 2 kernels for this processor (")
    assert first.getMessage().endswith(f", which takes some seconds, once: they are kept in {folder}")
    assert {record.levelname for record in others} == {"INFO"}
    messages = [record.getMessage() for record in others[:2]]
    assert [message.split(", ")[1] for message in messages] == ["1 of 2", "2 of 2"]
    assert {message.split(", ")[0] for message in messages} == {"compiled pool", "compiled classify"}
    assert others[2].getMessage().startswith("compiling 1 kernel for this processor (")


def test_a_program_without_settings_of_its_own_sees_it_on_stderr(tmp_path: Path) -> None:
    script = "from bitvit.jit import loader; from bitvit.kernels.catalog import *; loader.addresses([pool])"
    for expected in (1, 0):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert done.stderr.count("compiling 1 kernel for this processor") == done.stderr.count("\n") == expected


@pytest.mark.parametrize(("problem", "word"), [("", "Note"), ("/cache: Read-only file system", "Warning")])
def test_a_command_says_once_that_it_compiles(
    problem: str,
    word: str,
    cold: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also without a terminal: a note, or a warning if each run will do so."""
    cold()
    monkeypatch.setattr(cache, "problem", lambda: problem)
    with compiling_status():
        loader.addresses([catalog.pool])
        loader.addresses([catalog.coarsen])
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"{word}: compiling 1 kernel for this processor (")
    assert problem in stderr
    assert stderr.count("\n") == 1


def test_warmup_that_keeps_nothing_is_an_error(
    cold: Callable[[], Path], packed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container would be built without what it was for."""
    path = packed("micro96_pth")
    cold()
    monkeypatch.setattr(cache, "folder", lambda: None)
    monkeypatch.setattr(cache, "problem", lambda: "/cache: Read-only file system")
    _, stderr = run("warmup", path, code=1)
    assert "kernels are missing and cannot be kept: /cache: Read-only file system; let NUMBA_CACHE_DIR name" in stderr


def test_warmup_on_a_full_disk_is_an_error(
    cold: Callable[[], Path], packed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed("micro96_pth")
    folder = cold()
    monkeypatch.setattr(loader, "compile_all", lambda missing: iter(missing))
    _, stderr = run("warmup", path, code=1)
    count = len(functions_of(path))
    assert f"Error: {folder}: {count} of {count} kernels could not be written; is the disk full?" in stderr


def test_warmup_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["warmup", str(tmp_path / "missing.safetensors")])
    assert result.exit_code == 1
    assert "does not exist" in result.stderr


def test_a_disk_that_is_full_for_a_moment(
    cold: Callable[[], Path], packed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason was asked for a second time, when there was none any more."""
    path, place = packed("micro96_pth"), cold()
    shutil.rmtree(place)
    problems, mkdir = iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]), Path.mkdir

    def full_at_first(self: Path, *arguments: Any, **options: Any) -> None:
        if problem := next(problems, None):
            raise problem
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full_at_first)
    _, stderr = run("warmup", path, code=1)
    assert f"kernels are missing and cannot be kept: {place}: No space left on device; let" in stderr
