"""From functions of the catalog to addresses: machine code out of the cache, or compiled, loaded into this process.

Numba is imported only where something is compiled.
"""

import functools
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import llvmlite.binding as llvm

from bitvit import cache
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
    """Compile functions, in two processes if possible; yields each as soon as its machine code is at hand."""
    if not functions:
        return
    from bitvit.workers import compile_apart

    left = dict.fromkeys(functions)
    for function, code in compile_apart(functions):
        _found[function.name] = code
        del left[function]
        yield function
    for function in left:
        from bitvit.kernels.compiler import compile_object

        _found[function.name] = compile_object(function)
        cache.write(function.name, _found[function.name])
        yield function


@functools.cache
def _engine() -> Any:
    """What links object files into this process, for good."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _load(names: Iterable[str]) -> None:
    new = list(names)
    for name in new:
        _engine().add_object_file(llvm.ObjectFileRef.from_data(_found.pop(name)))
    if new:
        _engine().finalize_object()
    _loaded.update({name: _engine().get_function_address(name) for name in new})
