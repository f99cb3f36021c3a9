"""Processes that compile for another machine: what is compiled for is fixed when bitvit's kernels are imported."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bitvit.errors import BitvitError
from bitvit.jit.checks import is_foreign_setting
from bitvit.jit.workers import can_start_python
from bitvit.kernels.target import ELSEWHERE

__all__ = ["Process"]

_WORK = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from importlib import import_module; "
    "getattr(import_module(sys.argv[2]), sys.argv[3])(*json.loads(sys.argv[4]))"
)
_TARGETS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", ELSEWHERE)


class Process:
    """A Python process that calls a function; it ends with the context at the latest.

    function: module and name. arguments: as JSON can hold them. target: what BITVIT_TARGET says there. Raises
    BitvitError in a program that has Python in it, such as PyInstaller makes.
    """

    def __init__(self, function: tuple[str, str], arguments: Sequence[object], *, target: str = "") -> None:
        if not can_start_python():
            raise BitvitError(
                f"{sys.executable} is no Python, which compiles for other machines; run bitvit bundle in one"
            )
        path = json.dumps([*map(str, sys.path), str(Path(__file__).parents[2])])
        environment = {
            name: value for name, value in os.environ.items() if not is_foreign_setting(name) and name not in _TARGETS
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORK, path, *function, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, **({ELSEWHERE: target} if target else {})},
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> str:
        """What it has printed, once it has ended. Raises BitvitError if it could not do its work."""
        out, said = self._process.communicate()
        if self._process.returncode != 0:
            last = said.strip().rpartition("\n")[2] or f"exit code {self._process.returncode}"
            raise BitvitError(f"a process that compiles has failed: {last.removeprefix('bitvit.errors.')}")
        return out
