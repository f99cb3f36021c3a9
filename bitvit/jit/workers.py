"""Compiling in two other processes, which go through the same list from both ends until they meet.

They are plain subprocesses, so nothing of the main program is run or copied, and all they return are files in the
cache. Whatever goes wrong, the caller compiles what is left.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bitvit.jit import cache
from bitvit.jit.checks import is_foreign_setting
from bitvit.kernels.catalog import FUNCTIONS, Function
from bitvit.system import available_threads

__all__ = ["PATIENCE", "POLL", "can_start_python", "compile_apart", "work"]

POLL = 0.02  # seconds between two looks into the cache
PATIENCE = 120.0  # seconds to wait for the next function; the slowest takes about one to compile

_WORK = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bitvit.jit.workers import work; "
    "work(int(sys.argv[2]), sys.argv[3:])"
)


def compile_apart(functions: Sequence[Function]) -> Iterator[tuple[Function, bytes]]:
    """Yields functions and their machine code as they appear; not all of them, if anything goes wrong.

    None at all for a single function, on a single core, or without a cache.
    """
    if len(functions) < 2 or available_threads() < 2 or not can_start_python() or cache.folder() is None:
        return
    names = [f.name for f in functions]
    with contextlib.ExitStack() as stack:
        try:
            workers = [stack.enter_context(_Worker(order)) for order in (names, names[::-1])]
        except (OSError, RuntimeError):  # the latter while the interpreter ends
            return
        waiting, deadline = list(functions), time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            working = any(worker.is_alive() for worker in workers)
            for function in list(waiting):
                code = cache.read(function.name)
                if code is not None:
                    waiting.remove(function)
                    deadline = time.monotonic() + PATIENCE
                    yield function, code
            if not working:
                return
            time.sleep(POLL)


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
    """What a worker does: compile functions into the cache, but those that the other has left there meanwhile.

    It ends when the process that it works for has, but on Windows.
    """
    from bitvit.jit.compiler import compile_object

    gc.disable()  # for a few seconds; it would take a tenth of them
    functions = {f.name: f for f in FUNCTIONS}
    for name in names:
        if sys.platform != "win32" and os.getppid() != parent:
            return  # on Windows the parent may be the launcher that a virtual environment has for its python.exe
        if cache.read(name) is None:
            cache.write(name, compile_object(functions[name]))
