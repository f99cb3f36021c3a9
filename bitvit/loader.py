"""From functions of the catalog to addresses: machine code out of the cache, or compiled, loaded into this process.

Numba is imported only where something is compiled. That is done by two processes, from both ends of the list, if there
are two cores and a cache through which they hand over their work; else by this one.
"""

import contextlib
import functools
import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from bitvit import cache
from bitvit.cores import available_threads
from bitvit.kernels import catalog
from bitvit.kernels.catalog import Function

_log = logging.getLogger("bitvit")
_lock = threading.RLock()
_found: dict[str, bytes] = {}  # machine code that is not loaded yet
_loaded: dict[str, int] = {}  # addresses


def addresses(functions: Sequence[Function]) -> list[int]:
    """Where the C functions are; compiles what is neither loaded nor in the cache."""
    with _lock:
        missing = missing_of(functions)
        if missing:
            _log.info("compiling %d functions", len(missing))
        for done, function in enumerate(compile_all(missing), 1):
            _log.info("compiled %s, %d of %d", function.name, done, len(missing))
        _load([f.name for f in functions if f.name not in _loaded])
        return [_loaded[f.name] for f in functions]


# ------------------------------------------------------------------------------------------------------- loading
@functools.cache
def _engine() -> Any:
    """What links object files into this process, for good."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _load(names: Iterable[str]) -> None:
    new = dict.fromkeys(names)
    for name in new:
        _engine().add_object_file(llvm.ObjectFileRef.from_data(_found.pop(name)))
    if new:
        _engine().finalize_object()
    _loaded.update({name: _engine().get_function_address(name) for name in new})


# ----------------------------------------------------------------------------------------------------- compiling
def missing_of(functions: Iterable[Function]) -> list[Function]:
    """Functions whose machine code is not at hand: no earlier process has left it in the cache."""
    return [f for f in dict.fromkeys(functions) if f.name not in _loaded and not _find(f.name)]


def _find(name: str) -> bool:
    if name not in _found:
        code = cache.read(name)
        if code is not None:
            _found[name] = code
    return name in _found


def compile_all(functions: Sequence[Function]) -> Iterator[Function]:
    """Compile functions, in two processes if possible; yields each as soon as its machine code is at hand."""
    left = dict.fromkeys(functions)
    for function in _compile_apart(functions):
        del left[function]
        yield function
    for function in left:
        _compile_here(function)
        yield function


def _compile_here(function: Function) -> None:
    """In this process; the cache may have no place for the result."""
    from bitvit.kernels.compiler import compile_object

    _found[function.name] = compile_object(function)
    cache.write(function.name, _found[function.name])


_WORK = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bitvit.loader import work; work(sys.argv[2:])"
_POLL = 0.02  # seconds


def _compile_apart(functions: Sequence[Function]) -> Iterator[Function]:
    """Yields functions as two other processes leave them in the cache; not all, if anything goes wrong."""
    if len(functions) < 2 or available_threads() < 2 or not _can_start_python() or cache.folder() is None:
        return
    names = [f.name for f in functions]
    with contextlib.ExitStack() as stack:
        try:
            workers = [stack.enter_context(_Worker(order)) for order in (names, names[::-1])]
        except OSError:
            return
        waiting = list(functions)
        while waiting:
            working = any(worker.is_alive() for worker in workers)
            ready = [f for f in waiting if _find(f.name)]
            yield from ready
            waiting = [f for f in waiting if f not in ready]
            if not working:
                return
            time.sleep(_POLL)


def _can_start_python() -> bool:
    """Whether sys.executable is an interpreter, not a program that has Python in it."""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").stem.startswith("python")


class _Worker:
    """A Python process that runs `work(names)`; it ends with the context at the latest."""

    def __init__(self, names: list[str]) -> None:
        path = json.dumps([str(Path(__file__).parent.parent), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORK, path, *names],  # -I: nothing is imported from the current folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def is_alive(self) -> bool:
        return self._process.poll() is None


def work(names: Iterable[str]) -> None:
    """Compile functions into the cache, but those that another process leaves there meanwhile."""
    gc.disable()  # for a few seconds; it takes a tenth of the time
    functions = {f.name: f for f in catalog.FUNCTIONS}
    for name in names:
        if not _find(name):
            _compile_here(functions[name])
