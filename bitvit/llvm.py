"""LLVM, as llvmlite has it. Importing this raises BitvitError where llvmlite cannot be imported."""

from bitvit.errors import BitvitError, lacks_memory

try:
    import llvmlite
    import llvmlite.binding as llvm
except (ImportError, OSError) as problem:  # OSError: its library is damaged, or made for another system
    if lacks_memory(problem):
        raise BitvitError("too little memory to load LLVM; allow the process more") from problem
    raise BitvitError(
        f"llvmlite, which loads the compiled kernels, cannot be imported: {problem}; install it again: "
        "pip install --force-reinstall llvmlite numba"
    ) from problem

__all__ = ["VERSION", "llvm"]

VERSION: str = llvmlite.__version__
