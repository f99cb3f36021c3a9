"""Kernels of 64-bit ARM, cross-compiled: what the machine code of their innermost loops is, without such a processor.

What they compute is compared on ARM itself, or by emulation, with tools/arm.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from bitvit.kernels.catalog import FUNCTIONS
from tests.support.crosscompiled import ARM_MACHINE, Compiled, compiled_for_arm

NAMES = [function.name for function in FUNCTIONS]
KERNELS = ("mlp", "mixer", "project", "attend_levels", "float_down")
TILE = "binary_down_ln"
PROCESSORS = {"cortex-a76": True, "cortex-a72": False}  # and whether they have dot products

Loop = list[str]  # instructions, without operands where they do not matter


@pytest.fixture(scope="module")
def arm() -> Iterator[Mapping[str, Compiled]]:
    """By processor: all functions for the newer, one kernel for the older."""
    with ThreadPoolExecutor(2) as pool:
        newer = pool.submit(compiled_for_arm, "cortex-a76", NAMES, (*KERNELS, TILE, "help_image"))
        older = pool.submit(compiled_for_arm, "cortex-a72", (), (TILE,))
        yield {"cortex-a76": newer.result(), "cortex-a72": older.result()}


def test_every_function_compiles(arm: Mapping[str, Compiled]) -> None:
    """To machine code, which LLVM may refuse where it writes assembly."""
    assert arm["cortex-a76"].machines == dict.fromkeys(NAMES, ARM_MACHINE)


def test_kernels_use_vectors(arm: Mapping[str, Compiled]) -> None:
    """With vector popcounts (cnt on bytes) in every binary kernel, and vector multiply-adds."""
    assembly = arm["cortex-a76"].assembly
    for name in KERNELS:  # two registers a row of the tile
        assert len(re.findall(r"\tfml[as]\tv" if name == "float_down" else r"\tcnt\tv", assembly[name])) >= 14, name


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
def test_a_binary_tile_stays_in_registers(cpu: str, arm: Mapping[str, Compiled]) -> None:
    """Four rows by two panels: 16 vectors are xored, counted and added, 8 loaded, and nothing is broadcast."""
    loops = [loop for loop in innermost_loops(arm[cpu].assembly[TILE]) if counted(loop, "cnt") == 16]
    assert len(loops) == 1
    for loop in loops:
        assert len(loop) <= 61, loop
        assert (counted(loop, "eor"), counted(loop, "ldp")) == (16, 4)
        assert counted(loop, "udot") == (16 if PROCESSORS[cpu] else 0)
        assert not counted(loop, "ld1r") + counted(loop, "dup")
        assert not any("[sp" in line for line in loop)
    assert arm[cpu].dot_products == PROCESSORS[cpu]


def test_a_float_tile_multiplies_by_element(arm: Mapping[str, Compiled]) -> None:
    """Four rows by two panels by four values: 64 products by element, 4 registers of rows, 16 of weights."""
    loops = [loop for loop in innermost_loops(arm["cortex-a76"].assembly["float_down"]) if counted(loop, "fmla") == 64]
    assert len(loops) == 1
    (loop,) = loops
    assert all(re.search(r"\.s\[\d\]$", line) for line in loop if line.startswith("fmla"))
    assert len(loop) <= 90
    assert not any("[sp" in line for line in loop)


def test_counters_are_read_in_the_order_of_the_program(arm: Mapping[str, Compiled]) -> None:
    """`ldapr`, by which this processor reads where `acquire` is asked for, may come before an earlier write."""
    assembly = arm["cortex-a76"].assembly["help_image"]
    assert len(re.findall(r"\tldar\t", assembly)) >= 6
    assert len(re.findall(r"\tldaddal\t", assembly)) >= 5
    assert "ldapr" not in assembly
