"""From functions of the catalog to addresses: machine code out of the cache, or compiled, loaded into this process.

Numba is imported only where something is compiled.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bitvit.jit import cache
from bitvit.jit.checks import check_execution, check_features
from bitvit.jit.sweeping import mark_used, sweep
from bitvit.kernels import target
from bitvit.kernels.catalog import Function
from bitvit.llvm import llvm
from bitvit.messages import plural

__all__ = ["addresses", "compile_all", "missing_of"]

_log = logging.getLogger("bitvit")
_lock = threading.RLock()
_found: dict[str, bytes] = {}  # by function: machine code that is not loaded yet
_loaded: dict[str, int] = {}  # by function: the address of its machine code in this process
_announced = False  # that this process compiles
_engines: list[Any] = []  # LLVM's owners of the code that is loaded, which lives as long as they do

if hasattr(os, "register_at_fork"):  # a child must not find LLVM in the middle of work that nobody in it will end
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def addresses(functions: Sequence[Function]) -> list[int]:
    """Where the C functions are in memory, in the order given; compiles what is neither loaded nor in the cache.

    Raises BitvitError where machine code cannot be run or, if it is needed, Numba cannot be used.
    """
    with _lock:
        missing = missing_of(functions)
        for done, function in enumerate(compile_all(missing), 1):
            _log.info("compiled %s, %d of %d", function.name, done, len(missing))
        _load({f.name for f in functions} - _loaded.keys())
        return [_loaded[f.name] for f in functions]


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
    """Compile functions, shared with other processes; yields each as soon as its machine code is at hand.

    Says so by a log record, of level WARNING the first time in a process, as nobody expects seconds of silence and the
    root logger shows these on stderr unless a program wants it otherwise. Raises BitvitError as `addresses` does.
    """
    if not functions:
        return
    check_execution()
    _announce(len(functions))
    from bitvit.jit.sharing import compile_shared

    if (folder := cache.folder()) is not None:
        sweep(folder)
    for function, code in compile_shared(functions):
        _found[function.name] = code
        yield function


def _announce(count: int) -> None:
    global _announced
    problem = cache.problem()
    text = f"compiling {plural(count, 'kernel')} for this processor ({target.CPU}), which takes some seconds"
    if problem:
        text += (
            f"; every process does so, as they cannot be kept: {problem}. Let NUMBA_CACHE_DIR name a folder that only "
            "you or root may write to, and fill it with bitvit warmup if it is read-only later"
        )
    else:
        text += f", once: they are kept in {cache.folder()}"
    _log.log(logging.INFO if _announced else logging.WARNING, "%s", text, extra={"routine": not problem})
    _announced = True


def _load(names: Iterable[str]) -> None:
    """Link object files into this process, for good.

    Each time with an engine of its own: one that an exception stopped half-way has handed out no address, and goes.
    """
    new = list(names)
    if not new:
        return
    check_execution()
    check_features()
    if (folder := cache.place()) is not None:
        mark_used(folder)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for name in new:
        engine.add_object_file(llvm.ObjectFileRef.from_data(_found[name]))
    engine.finalize_object()
    found = {name: engine.get_function_address(name) for name in new}
    _engines.append(engine)
    _loaded.update(found)
    for name in new:
        _found.pop(name, None)
