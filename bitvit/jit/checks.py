"""Whether this process can compile kernels and run them: what keeps it from either is a BitvitError with a remedy."""

import os
import re
from collections.abc import Callable

from bitvit.errors import BitvitError, lacks_memory
from bitvit.kernels import target
from bitvit.kernels.catalog import Function
from bitvit.llvm import llvm

__all__ = ["check_execution", "check_features", "compiler", "is_foreign_setting"]

_OURS = {"NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}


def is_foreign_setting(name: str) -> bool:
    """Whether an environment variable is Numba's own and not for kernels, such as what somebody debugs with."""
    return name.startswith("NUMBA_") and name not in _OURS


def check_execution() -> None:
    """Raises BitvitError where no machine code that a process brings along can be run: a call would end it."""
    if target.ELSEWHERE in os.environ:
        raise BitvitError(
            f"{target.ELSEWHERE} is set, so kernels are compiled for {target.TRIPLE} ({target.CPU}) and cannot be run "
            "here; unset it"
        )
    try:
        llvm.check_jit_execution()
    except OSError as problem:
        raise BitvitError(
            f"compiled kernels cannot be run: the system lets no memory become executable ({problem.args[0]}: "
            f"{os.strerror(problem.args[0])}); under systemd set MemoryDenyWriteExecute=no for the unit, under SELinux "
            "allow its domain execmem"
        ) from None


def check_features() -> None:
    """Raises BitvitError if kernels for what NUMBA_CPU_FEATURES says would end the process on this processor."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if chosen:
        host = llvm.get_host_cpu_features()
        lacking = [name for name in chosen.split(",") if name.startswith("+") and host.get(name[1:]) is False]
        if lacking:
            raise BitvitError(
                f"NUMBA_CPU_FEATURES asks for {','.join(lacking)}, which this processor ({llvm.get_host_cpu_name()}) "
                "lacks; leave that out"
            )


def compiler() -> Callable[[Function], bytes]:
    """compile_object of jit/compiler.py. Raises BitvitError where Numba cannot be used."""
    try:
        import numba

        from bitvit.jit.compiler import compile_object
    except Exception as problem:  # a wrong setting may give any
        check_execution()  # where memory must not be executable Numba cannot be imported
        raise BitvitError(_refusal(problem)) from problem
    if numba.config.DISABLE_JIT:
        raise BitvitError(
            "NUMBA_DISABLE_JIT keeps Numba from compiling the kernels, which are not in the cache; unset it for one "
            "run of this command, after which it does no harm"
        )
    return compile_object


def _refusal(problem: Exception) -> str:
    """Why Numba cannot be imported, and what to do."""
    if lacks_memory(problem):
        return "too little memory to load Numba, which compiles the kernels; allow the process more"
    import importlib.metadata  # its import takes as long as a twentieth of a warm start

    versions = []
    for package in ("numba", "llvmlite", "numpy"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    remedies = ["pip install --upgrade numba"]
    newest = re.search(r"NumPy (\d+)\.(\d+) or less", str(problem))
    if newest is not None:
        remedies.append(f"pip install 'numpy<{newest[1]}.{int(newest[2]) + 1}'")
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if is_foreign_setting(name)]
    if settings:
        remedies.insert(0, f"without what is wrong of {', '.join(settings)}")
    reason = str(problem).strip() or type(problem).__name__
    return (
        f"Numba, which compiles the kernels, cannot be imported: {reason} (installed: {', '.join(versions)}); mend it: "
        f"{', or '.join(remedies)}"
    )
