"""Kernels of 64-bit ARM, cross-compiled: what the machine code of their innermost loops is, without such a processor.

What they compute is compared on ARM itself, or by emulation, with tools/arm.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bitvit.kernels.target import ELSEWHERE
from tests.support.paths import ROOT

# Prints the assembly of some functions for BITVIT_TARGET, as JSON.
ASSEMBLE = """
import json, sys
from bitvit.jit import compiler
from bitvit.kernels import catalog, target
machine, assembly = compiler.machine(library=True), {"dot products": str(target.DOT_PRODUCTS)}
for name in sys.argv[1:]:
    module = compiler.llvm_code(getattr(catalog, name))
    compiler.optimize(module, machine)
    assembly[name] = machine.emit_assembly(module)
print(json.dumps(assembly))
"""
PROCESSORS = {"cortex-a76": True, "cortex-a72": False}  # and whether they have dot products

Loop = list[str]  # instructions, without operands where they do not matter


def assemble(cpu: str, *functions: str) -> dict[str, str]:
    """Assembly of functions of the catalog for an ARM processor, by name; and whether it has dot products."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASSEMBLE, *functions],
        env={**os.environ, "PYTHONPATH": str(ROOT), ELSEWHERE: f"aarch64-unknown-linux-gnu {cpu} "},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def assembly() -> Iterator[dict[str, dict[str, str]]]:
    with ThreadPoolExecutor(2) as pool:
        newer = pool.submit(assemble, "cortex-a76", "binary_down_ln", "float_down")
        older = pool.submit(assemble, "cortex-a72", "binary_down_ln")
        yield {"cortex-a76": newer.result(), "cortex-a72": older.result()}


def innermost_loops(text: str) -> list[Loop]:
    """Instructions of the loops that hold no other."""
    lines = [line.split("//")[0].strip() for line in text.splitlines() if re.match(r"\.L\w+:|\t[a-z]", line)]
    start, loops = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}, []
    for i, line in enumerate(lines):
        target = start.get(line.split()[-1], i)
        if re.match(r"b\.|cbn?z|tbn?z", line) and target < i:
            body = [inner for inner in lines[target:i] if not inner.endswith(":")]
            if not any(re.match(r"b\.|cbn?z|tbn?z", inner) for inner in body):
                loops.append([*body, line])
    return loops


def counted(loop: Loop, operation: str) -> int:
    return sum(line.split()[0] == operation for line in loop)


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_a_binary_tile_stays_in_registers(cpu: str, assembly: dict[str, dict[str, str]]) -> None:
    """Four rows by two panels: 16 vectors are xored, counted and added, 8 loaded, and nothing is broadcast."""
    loops = [loop for loop in innermost_loops(assembly[cpu]["binary_down_ln"]) if counted(loop, "cnt") == 16]
    assert len(loops) == 1
    for loop in loops:
        assert len(loop) <= 61, loop
        assert (counted(loop, "eor"), counted(loop, "ldp")) == (16, 4)
        assert counted(loop, "udot") == (16 if PROCESSORS[cpu] else 0)
        assert not counted(loop, "ld1r") + counted(loop, "dup")
        assert not any("[sp" in line for line in loop)
    assert assembly[cpu]["dot products"] == str(PROCESSORS[cpu])


def test_a_float_tile_multiplies_by_element(assembly: dict[str, dict[str, str]]) -> None:
    """Four rows by two panels by four values: 64 products by element, 4 registers of rows, 16 of weights."""
    loops = [loop for loop in innermost_loops(assembly["cortex-a76"]["float_down"]) if counted(loop, "fmla") == 64]
    assert len(loops) == 1
    (loop,) = loops
    assert all(re.search(r"\.s\[\d\]$", line) for line in loop if line.startswith("fmla"))
    assert len(loop) <= 90
    assert not any("[sp" in line for line in loop)
