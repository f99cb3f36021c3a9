"""The loop over register tiles, and what LLVM makes of a tile.

A tile that leaves the registers, or a loop over it that does not unroll, still gives right answers, 5 to 30 times
slower. So the machine code is read: innermost loops that count bits.
"""

import re
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pytest
from numba import njit, types
from numpy.typing import NDArray

from bitvit.jit import compiler
from bitvit.kernels import catalog, simd
from bitvit.kernels.catalog import Kernel
from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.matmul import binary_matmul, float_matmul
from bitvit.kernels.target import LANES, LOOKUP, TAIL_ROWS, TILE_ROWS
from bitvit.kernels.tiles import in_tiles, in_whole_tiles, vectors
from tests.support.vectors import compiled

Array = NDArray[Any]


@in_tiles
def count_rows(m: int, height: int, c: int, by: float, x: Array) -> None:
    """Add to LANES columns of rows m …, which are 2·LANES wide."""
    at = m * 2 * LANES + c
    simd.store_rows(x, at, 2 * LANES, simd.load_rows(x, at, 2 * LANES, height) + simd.splat(np.float32(by)))


@compiled
def count(rows: int, c: int, by: float, x: Array) -> None:
    count_rows(rows, c, by, x)


@pytest.mark.parametrize("c", [0, LANES])
def test_every_row_is_in_one_tile(c: int) -> None:
    """And at most one row behind them."""
    for rows in range(3 * TILE_ROWS):
        x = np.zeros((rows + TILE_ROWS, 2, LANES), np.float32)
        count(rows, c, 2.0, x.reshape(-1))
        assert (x[:rows, c // LANES] == 2).all()
        assert not x[:, 1 - c // LANES].any()
        assert not x[rows + TAIL_ROWS - 1 :].any()


def test_a_whole_tile_may_have_one_row_too_many() -> None:
    """Rather than that what it lacks is done in smaller ones."""

    @compiled
    def whole(rows: int, height: int) -> Any:
        return in_whole_tiles(rows, height)

    assert [whole(rows, 7) for rows in (0, 5, 6, 7, 12, 13, 14)] == [0, 0, 7, 7, 7, 14, 14]
    assert [whole(rows, 4) for rows in (2, 3, 4, 7)] == [0, 4, 4, 8]


def test_vectors_hold_all_features() -> None:
    @compiled
    def number(features: int) -> Any:
        return vectors(features)

    assert [number(features) for features in range(4 * LANES)] == [
        -(-features // LANES) for features in range(4 * LANES)
    ]


def host_has(feature: str) -> bool:
    chosen = numba.config.CPU_NAME or numba.config.CPU_FEATURES
    return not chosen and bool(llvmlite.binding.get_host_cpu_features().get(feature))


needs_vector_popcount = pytest.mark.skipif(
    not host_has("avx512vpopcntdq"), reason="the assembly is read for AVX-512 with VPOPCNTDQ, compiled for the host"
)


def loops(assembly: str) -> list[list[str]]:
    """The instructions of every loop of a single basic block."""
    found: list[list[str]] = []
    label, body = "", list[str]()
    for line in assembly.splitlines():
        start = re.match(r"([.\w]+):", line)
        if start:
            label, body = start[1], []
            continue
        instruction = line.strip()
        if not instruction or instruction.startswith((".", "#")):
            continue
        body.append(instruction)
        jump = re.match(r"j\w+\s+([.\w]+)", instruction)
        if jump and jump[1] == label:
            found.append(body)
    return found


def vector_spills(instructions: list[str]) -> list[str]:
    """Those that move a vector to or from the stack."""
    return [line for line in instructions if re.search(r"[xyz]mm\d", line) and "%rsp" in line]


def assert_tiles_stay_in_registers(assembly: str, operation: str) -> list[int]:
    """All loops with `operation` do it for tiles of TILE_ROWS or TAIL_ROWS rows, in registers.

    Returns how often the loops of whole tiles do it. They may be unrolled. An address may come from the stack, which a
    load port does beside the arithmetic, but fewer than one a vector.
    """
    whole = []
    for loop in loops(assembly):
        count = sum(operation in line for line in loop)
        if count == 0:
            continue
        if count % TILE_ROWS == 0:
            whole.append(count)
            assert len(loop) <= 5 * count  # load and logic, count, add, and less than two more for addresses
        else:
            assert count % TAIL_ROWS == 0
            assert len(loop) <= 5 * count + 4  # the same, and what the loop itself takes
        assert sum("%rsp" in line for line in loop) < count
        assert vector_spills(loop) == []
    assert whole
    return whole


@needs_vector_popcount
def test_a_binary_tile_stays_in_registers() -> None:
    words_type = types.Array(types.uint32, 1, "C")
    signature = types.void(*[words_type, types.int64, types.int64] * 2, types.float32[::1], types.int64)

    @njit(signature, **OPTIONS)
    def product(
        bits: Array, rows: int, words: int, panels: Array, width: int, start: int, out: Array, out_rows: int
    ) -> None:
        binary_matmul(bits, bits, rows, words, panels, 0, width, start, out, out_rows)

    (assembly,) = product.inspect_asm().values()
    whole = assert_tiles_stay_in_registers(assembly, "vpopcntd")
    assert len(whole) == 1 if llvmlite.binding.llvm_version_info >= (20,) else len(whole) <= 2  # an older one unrolls
    assert re.findall(r"\bpopcnt[wlq]\b", assembly) == []


@pytest.mark.skipif(not LOOKUP, reason="tables are for AVX2")
@pytest.mark.parametrize("kernel", [catalog.mlp, catalog.project, catalog.output], ids=lambda kernel: kernel.name)
def test_counts_of_tables_stay_in_registers(kernel: Kernel) -> None:
    """For three lookups: three tables, and for each panel three shuffles and six other operations.

    The loop over four panels has twelve shuffles, and so has that over two if it is unrolled once.
    """
    module = compiler.llvm_code(kernel)
    compiler.optimize(module, compiler.machine())
    found = [loop for loop in loops(compiler.machine().emit_assembly(module)) if "vpshufb" in "".join(loop)]
    widest = [loop for loop in found if sum("vpshufb" in line for line in loop) == 12]
    assert widest
    for loop in widest:
        assert vector_spills(loop) == []
        assert len(loop) <= 12 + 4 * 6 + 2 * 6 + 8  # tables and where they are; what the loop itself takes


@pytest.mark.skipif(not LOOKUP, reason="for sixteen registers")
def test_two_float_panels_stay_in_sixteen_registers() -> None:
    module = compiler.llvm_code(catalog.float_down)
    compiler.optimize(module, compiler.machine())
    found = [loop for loop in loops(compiler.machine().emit_assembly(module)) if "vfmadd" in "".join(loop)]
    widest = [loop for loop in found if sum("vfmadd" in line for line in loop) % 12 == 0]
    assert widest
    assert [vector_spills(loop) for loop in widest] == [[]] * len(widest)


@needs_vector_popcount
def test_a_float_tile_stays_in_registers() -> None:
    floats_type = types.float32[::1]
    signature = types.void(
        floats_type, types.int64, types.int64, floats_type, types.int64, floats_type, types.int64, floats_type,
        types.int64,
    )  # fmt: skip

    @njit(signature, **OPTIONS)
    def product(
        a: Array, rows: int, depth: int, panels: Array, width: int, offsets: Array, step: int, out: Array, out_step: int
    ) -> None:
        float_matmul(a, rows, depth, panels, width, offsets, step, out, out_step)

    (assembly,) = product.inspect_asm().values()
    whole = assert_tiles_stay_in_registers(assembly, "vfmadd")
    assert max(whole) % (2 * TILE_ROWS) == 0  # two panels a pass


@needs_vector_popcount
@pytest.mark.parametrize("kernel", [catalog.mlp, catalog.mixer, catalog.project], ids=lambda kernel: kernel.name)
def test_a_whole_kernel_keeps_its_tiles_in_registers(kernel: Kernel) -> None:
    module = compiler.llvm_code(kernel)
    compiler.optimize(module, compiler.machine())
    assembly = compiler.machine().emit_assembly(module)
    assert_tiles_stay_in_registers(assembly, "vpopcntd")
