"""Kernels compiled for a processor that the tests do not run on, by a Python process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitvit.kernels.target import ELSEWHERE
from tests.support.paths import ROOT

ARM_MACHINE, X86_MACHINE = "b700", "3e00"  # as an ELF file has it

_COMPILE = """
import gc, json, sys
from bitvit.jit import compiler
from bitvit.kernels import target
from bitvit.kernels.catalog import FUNCTIONS
gc.disable()
objects, texts = map(json.loads, sys.argv[1:])
machine, machines, assembly = compiler.machine(library=True), {}, {}
for function in FUNCTIONS:
    if function.name in {*objects, *texts}:
        module = compiler.llvm_code(function)
        compiler.optimize(module, machine)
        if function.name in objects:
            machines[function.name] = machine.emit_object(module)[18:20].hex()
        if function.name in texts:
            assembly[function.name] = machine.emit_assembly(module)
print(json.dumps([machines, assembly, target.DOT_PRODUCTS]))
"""


@dataclass(frozen=True)
class Compiled:
    """By function: the machine that its object file is for, and its assembly."""

    machines: Mapping[str, str]
    assembly: Mapping[str, str]
    dot_products: bool
    """Whether the kernels count bits by those of ARM."""


def run_python(script: str, *arguments: str, **environment: str) -> str:
    """Standard output of a Python process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiled(objects: Iterable[str], assembly: Iterable[str], **environment: str) -> Compiled:
    """Functions of the catalog, by name: object files of some and assembly of some, for what the variables say."""
    return Compiled(*json.loads(run_python(_COMPILE, json.dumps([*objects]), json.dumps([*assembly]), **environment)))


def compiled_for_arm(cpu: str, objects: Iterable[str], assembly: Iterable[str]) -> Compiled:
    return compiled(objects, assembly, **{ELSEWHERE: f"aarch64-unknown-linux-gnu {cpu} "})
