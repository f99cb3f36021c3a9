"""Processes that compile for another machine."""

import sys

import pytest

from bitvit.bundle.processes import Process
from bitvit.errors import BitvitError


def test_what_it_prints_is_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has this process's path, and of the settings for kernels only what it is given."""
    monkeypatch.setenv("NUMBA_CPU_NAME", "nehalem")
    with Process(("builtins", "print"), ["one", 2]) as process:
        assert process.result() == "one 2\n"
    code = "import os, sys; print(sys.path[0], os.environ.get('NUMBA_CPU_NAME'), os.environ.get('BITVIT_TARGET'))"
    with Process(("builtins", "exec"), [code], target="some target") as process:
        assert process.result() == f"{sys.path[0]} None some target\n"


def test_a_failure_is_told_by_its_last_line() -> None:
    with (
        Process(("builtins", "int"), ["two"]) as process,
        pytest.raises(BitvitError, match="a process that compiles has failed: ValueError: invalid literal for int"),
    ):
        process.result()
    with (
        Process(("os", "_exit"), [7]) as process,
        pytest.raises(BitvitError, match="a process that compiles has failed: exit code 7"),
    ):
        process.result()


def test_it_ends_with_the_context() -> None:
    with Process(("time", "sleep"), [60]) as process:
        pass
    with pytest.raises(BitvitError, match="exit code -9"):
        process.result()


def test_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(BitvitError, match="is no Python, which compiles for other machines"):
        Process(("builtins", "print"), [])
