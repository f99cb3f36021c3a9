"""How Numba compiles the functions of the kernel modules: to LLVM code, which jit/compiler.py takes over.

Numba would optimise every helper function on its own, emit machine code for it and wrap it for Python; none of that is
needed where it is inlined into a kernel.
"""

import ctypes
import functools
from typing import Any

from numba import njit
from numba.core.codegen import AOTCodeLibrary, AOTCPUCodegen
from numba.core.compiler import Compiler
from numba.core.runtime import rtsys

# 'contract' lets LLVM fuse a multiply and an add; anything stronger could reorder a sum and flip a later sign.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}


class _Library(AOTCodeLibrary):
    """The LLVM code of a function and of what it calls, as it was written."""

    def add_llvm_module(self, module: Any) -> None:
        self._final_module.link_in(module)

    def add_linking_library(self, library: Any) -> None:
        if library is not rtsys.library:  # reference counts: compiler.py has something simpler
            super().add_linking_library(library)

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, _name: str) -> int:
        """What a call from Python runs: there is no machine code, so it is a TypeError."""
        return ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value or 0


class _Codegen(AOTCPUCodegen):
    _library_class = _Library

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing is looked up in Python while a kernel runs."""


@functools.cache
def _codegen() -> _Codegen:
    return _Codegen("bitvit")


class _Pipeline(Compiler):
    """Numba's compiler with `_Library` for its output."""

    def __init__(self, typingctx: Any, targetctx: Any, *arguments: Any) -> None:
        super().__init__(typingctx, targetctx.subtarget(_internal_codegen=_codegen()), *arguments)


# Declares a function that is inlined wherever a compiled one calls it; Python cannot call it.
inline = njit(forceinline=True, pipeline_class=_Pipeline, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)
