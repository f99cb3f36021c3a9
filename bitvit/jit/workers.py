"""Compiling in other processes: plain subprocesses, so nothing of the main program is run or copied.

All they return are files in the cache. Whatever goes wrong, the caller compiles what is left.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bitvit.jit import cache
from bitvit.jit.checks import is_foreign_setting
from bitvit.jit.claims import Claims, compile_once
from bitvit.kernels.catalog import FUNCTIONS
from bitvit.system import available_threads

__all__ = ["can_start_python", "started", "useful_workers", "work"]

_WORK = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bitvit.jit.workers import work; "
    "work(int(sys.argv[2]), sys.argv[3:])"
)


def useful_workers(functions: int) -> int:
    """How many processes that many functions are worth; 0 for a single one, on a single core, or without Python."""
    return 2 if functions > 1 and available_threads() > 1 and can_start_python() else 0


@contextlib.contextmanager
def started(lists: Iterable[list[str]]) -> Iterator[Sequence["_Worker"]]:
    """A process for each list of functions' names, that compiles them; none at all if not all can be started."""
    with contextlib.ExitStack() as stack:
        workers: list[_Worker] = []
        try:
            workers = [stack.enter_context(_Worker(names)) for names in lists]
        except (OSError, RuntimeError):  # the latter while the interpreter ends
            stack.close()
        yield workers


def can_start_python() -> bool:
    """Whether sys.executable is an interpreter, not a program that has Python in it."""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").stem.startswith("python")


class _Worker:
    """A Python process that runs `work(names)`; it ends with the context at the latest."""

    def __init__(self, names: list[str]) -> None:
        path = json.dumps([*map(str, sys.path), str(Path(__file__).parents[2])])
        options = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]  # -I: the current folder is not on the path
        self._process = subprocess.Popen(
            [sys.executable, *options, "-c", _WORK, path, str(os.getpid()), *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not is_foreign_setting(name)},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def is_alive(self) -> bool:
        return self._process.poll() is None


def work(parent: int, names: Iterable[str]) -> None:
    """What a worker does: compile functions into the cache, but those that another process has or is about to.

    It ends when the process that it works for has, but on Windows.
    """
    from bitvit.jit.compiler import compile_object

    gc.disable()  # for a few seconds; it would take a tenth of them
    functions = {f.name: f for f in FUNCTIONS}
    with Claims(cache.folder()) as claims:
        for name in names:
            if sys.platform != "win32" and os.getppid() != parent:
                return  # on Windows the parent may be the launcher that a virtual environment has for its python.exe
            compile_once(functions[name], claims, lambda: compile_object)
