"""The shared library that Python loads, linked by the machine's C compiler when a bundle is written."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bitvit.bundle.manifest import LIBRARY
from bitvit.bundle.targets import architecture_of, default_target
from bitvit.errors import BitvitError

__all__ = ["command_of", "compiler_for", "link_library"]

FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-DBITVIT_WEIGHTS_APART")
# -z defs: what no library has is told now, not when the library is loaded.
LINKING = ("-shared", "-Wl,--build-id=none", "-Wl,-z,defs", "-Wl,-z,noexecstack")


def command_of(variable: str) -> list[str]:
    """The words of a command in an environment variable. Raises BitvitError for a quote that does not end."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as problem:
        raise BitvitError(f"{variable}: {problem}; expected a command as a shell takes it") from None


def compiler_for(triple: str) -> list[str]:
    """The command of a C compiler for a target: $CC, else cc, or the one that Debian has for another processor.

    Raises BitvitError if there is none.
    """
    machine = architecture_of(triple).machine
    here = machine == architecture_of(default_target()).machine
    command = command_of("CC") or ["cc" if here else f"{machine}-linux-gnu-gcc"]
    if shutil.which(command[0]) is None:
        debian = "gcc" if here else f"gcc-{machine.replace('_', '-')}-linux-gnu"
        raise BitvitError(
            f"there is no C compiler {command[0]!r} to link the library for Python with; install one (Debian: apt "
            f"install {debian}), or let CC name one for {triple}"
        )
    return command


def link_library(folder: Path, objects: Sequence[str], command: Sequence[str]) -> None:
    """Link bitvit_model.c, bitvit_program.c and the kernels, in the folder. Raises BitvitError if that fails."""
    sources = ("bitvit_model.c", "bitvit_program.c")
    done = subprocess.run(
        [*command, *FLAGS, *LINKING, "-o", LIBRARY, *sources, *objects],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BitvitError(
            f"{shlex.join(command)} cannot link the library for Python: {' | '.join(lines[:3])[:500]}; let CC name a C "
            "compiler for the target, or leave --python out"
        )
