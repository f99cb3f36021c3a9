"""A function of the catalog, from Python to an object file.

Numba types it and writes LLVM code. The rest is done here, once a kernel: what it calls is linked and inlined, all is
optimised together and emitted with one symbol, a plain C function of the kernel's name that needs neither Numba nor
Python (`nm` shows sched_yield at most).
"""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import config, types
from numba.core.compiler_lock import global_compiler_lock

from bitvit.kernels.catalog import Function
from bitvit.kernels.inline import inline
from bitvit.kernels.simd import I8
from bitvit.kernels.target import ARM, CPU, FEATURES, TRIPLE, WASM

__all__ = ["compile_for_library", "compile_object", "llvm_code", "machine", "optimize"]


@functools.cache
def machine(*, library: bool = False) -> Any:
    """LLVM's machine for the target. library: for code that a linker places, not this process."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLE)
    static = target.name.startswith("x86")
    if library:
        reloc, model = "static" if WASM else "pic", "default"
    else:
        reloc, model = "static" if static else "default", "jitdefault"
    # AArch64 at level 3 fuses a product and a sum where its model of the processor says that it is quicker; at level 2
    # wherever they may be, as for x86, so that answers are the same on every processor.
    level = 2 if ARM else 3
    return target.create_target_machine(
        cpu=CPU, features=FEATURES, opt=level, reloc=reloc, codemodel=model, jit=not library
    )


@global_compiler_lock  # type: ignore[untyped-decorator]
def llvm_code(function: Function) -> Any:
    """The LLVM module of a function, linked but not optimised; all but its C function is internal to it.

    What Numba writes is for the processor that it runs on, but until it is optimised nothing depends on which that is.
    """
    source = getattr(importlib.import_module(f"bitvit.kernels.{function.module}"), function.name)
    helper = inline(source)
    helper.compile(function.signature)
    (compiled,) = helper.overloads.values()
    library = compiled.target_context.codegen().create_library(function.name)
    library.add_ir_module(_c_function(compiled, function.name))
    library.add_linking_library(compiled.library)
    library.finalize()
    module = library._final_module
    module.triple, module.data_layout = TRIPLE, str(machine().target_data)
    for value in (*module.functions, *module.global_variables):
        if value.name != function.name and not value.is_declaration:
            value.linkage = "internal"
    return module


def _c_function(compiled: Any, name: str) -> Any:
    """An LLVM module with a C function that calls a compiled one, which cannot raise."""
    context, about = compiled.target_context, compiled.fndesc
    module = context.create_module(name)
    callee_type = context.call_conv.get_function_type(about.restype, about.argtypes)
    callee = ir.Function(module, callee_type, about.llvm_func_name)
    returns = about.restype != types.none
    result = context.get_value_type(about.restype) if returns else ir.VoidType()
    function_type = ir.FunctionType(result, [context.get_value_type(t) for t in about.argtypes])
    function = ir.Function(module, function_type, name)
    builder = ir.IRBuilder(function.append_basic_block())
    _, value = context.call_conv.call_function(builder, callee, about.restype, about.argtypes, function.args)
    if returns:
        builder.ret(value)
    else:
        builder.ret_void()
    for counter in ("NRT_incref", "NRT_decref"):  # kernels own no memory, so references are not counted
        nothing = ir.Function(module, ir.FunctionType(ir.VoidType(), [I8.as_pointer()]), counter)
        nothing.attributes.add("alwaysinline")
        ir.IRBuilder(nothing.append_basic_block()).ret_void()
    return module


def optimize(module: Any, machine: Any) -> None:
    """LLVM's own passes of level 3."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.slp_vectorization = False  # as in Numba, which met wrong code
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


@contextlib.contextmanager
def _as_usual() -> Iterator[None]:
    """Without the settings of Numba that change compiled code, for others would find it in the cache."""
    usual = {"BOUNDSCHECK": None, "DEBUGINFO_DEFAULT": 0}
    before = {name: getattr(config, name) for name in usual}
    try:
        vars(config).update(usual)
        yield
    finally:
        vars(config).update(before)


def compile_object(function: Function) -> bytes:
    """The object file of a function, for this process to load."""
    return _object(_code(function), machine())


def compile_for_library(function: Function, symbol: str) -> bytes:
    """The object file of a function, for a linker: position-independent, its symbol not seen outside the library."""
    module = _code(function)
    found = module.get_function(function.name)
    found.name, found.visibility = symbol, "hidden"
    return _object(module, machine(library=True))


def _code(function: Function) -> Any:
    with _as_usual():
        return llvm_code(function)


def _object(module: Any, machine: Any) -> bytes:
    optimize(module, machine)
    return machine.emit_object(module)
