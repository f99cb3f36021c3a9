"""How a command ends where memory is too short, which is told in many ways, or a disk is damaged."""

import errno
import os
import subprocess
import sys

import pytest

from bitvit.cli import ending
from bitvit.cli.ending import told
from tests.support.command import shell
from tests.support.paths import ROOT

resource = pytest.importorskip("resource", reason="limits of memory as POSIX has them")

TOLD = "Error: too little memory; allow the process more, or use a smaller --batch-size or fewer --threads\n"


def caused_by(problem: BaseException, cause: BaseException) -> BaseException:
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libjpeg.so: failed to map segment from shared object"),
        caused_by(ImportError("NumPy's C extensions"), MemoryError()),
    ],
)
def test_too_little_memory_is_told_in_a_line(problem: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told():
        raise problem
    assert ended.value.code == 1
    assert capsys.readouterr().err == TOLD


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (OSError(errno.EIO, "Input/output error", "photos"), "photos: Input/output error; check file and disk"),
        (OSError(errno.EIO, "Input/output error"), "the output cannot be written: Input/output error"),
    ],
)
def test_a_damaged_disk_is_told_with_the_file_if_there_is_one(
    problem: OSError, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended, told():
        raise problem
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"Error: {line}\n"


def test_whatever_is_raised_where_no_memory_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SyntaxError), told():
        raise SyntaxError("expected ':'")
    monkeypatch.setattr(ending, "LEAST_ROOM", 1 << 60)
    with pytest.raises(SystemExit) as ended, told():
        raise SyntaxError("expected ':'")
    assert ended.value.code == 1
    assert capsys.readouterr().err == TOLD.replace("memory;", "memory (SyntaxError: expected ':');")


def test_a_line_needs_no_memory_for_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_text: str) -> None:
        raise ImportError from MemoryError()

    monkeypatch.setattr(ending, "print_error", refuse)
    with pytest.raises(SystemExit), told():
        raise MemoryError
    assert capsys.readouterr().err == TOLD


@pytest.mark.skipif(sys.platform != "linux", reason="address space as Linux limits it")
@pytest.mark.parametrize("arguments", [("inspect", "no.safetensors"), ("classify", "no.safetensors", "no.png")])
def test_a_command_that_cannot_begin_says_so(arguments: tuple[str, ...]) -> None:
    """Python starts in 40 MB, and NumPy's libraries take as much again."""
    limit = 50 << 20
    done = shell(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == TOLD


@pytest.mark.skipif(sys.platform != "linux", reason="address space as Linux limits it")
@pytest.mark.parametrize("limit", [200 << 20, None])
def test_openblas_starts_no_threads_where_memory_has_a_limit(limit: int | None) -> None:
    """It would interrupt the process if it got none."""
    code = "import os, sys; from bitvit.cli import main; sys.argv = ['bitvit', '--version']\ntry: main()\n"
    code += "finally: print(os.environ.get('OPENBLAS_NUM_THREADS'))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
        preexec_fn=lambda: limit and resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.stdout.splitlines()[1] == ("1" if limit else "None")


@pytest.mark.parametrize("arguments", [["--version"], ["classify", "m.safetensors", "i.png", "--explain", "out"]])
def test_openblas_starts_no_threads_where_none_are_to_be_had(arguments: list[str]) -> None:
    """As under a limit of processes, which root is held to by cgroups alone."""
    code = (
        "import os, sys, threading; from bitvit.cli import main\n"
        'def start(thread): raise RuntimeError("can\'t start new thread")\n'
        f"os.cpu_count, threading.Thread.start, sys.argv = lambda: 2, start, ['bitvit', *{arguments}]\n"
        "try: main()\n"
        "finally: print(os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.stdout.splitlines()[-1] == "1", done.stderr
