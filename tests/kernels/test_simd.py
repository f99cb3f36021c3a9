"""Each operation of kernels/simd.py against NumPy, lane by lane and row by row, and what LLVM makes of a tile."""

import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pytest
from numba import njit, types
from numba.core.errors import TypingError
from numpy.typing import NDArray

from bitvit.jit import compiler
from bitvit.kernels import catalog, simd
from bitvit.kernels.catalog import Kernel
from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.matmul import binary_matmul, float_matmul
from bitvit.kernels.target import LANES, TAIL_ROWS, TILE_ROWS

Array = NDArray[Any]

compiled = njit(**OPTIONS)  # as the kernels are
CANARY = 77
EPS = 2.0**-24  # half an ulp of 1 in float32

rng = np.random.default_rng(0)


def floats(*shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def words(*shape: int) -> NDArray[np.uint32]:
    return rng.integers(0, 2**32, shape, dtype=np.uint32)


def ones(x: NDArray[np.uint32]) -> NDArray[np.int64]:
    """1 bits of each word (np.bitwise_count came with NumPy 2)."""
    counts: NDArray[np.int64] = np.unpackbits(x.view(np.uint8).reshape(-1, 4), axis=1).sum(axis=1, dtype=np.int64)
    return counts


def any_values(dtype: Any, size: int) -> Array:
    """All different, of both signs where the dtype has them."""
    return np.arange(1, size + 1).astype(dtype) if dtype is np.uint32 else (np.arange(size) - size // 2).astype(dtype)


# ------------------------------------------------------------------------------------------------------- wrappers
# One-row operations work on LANES values at `a`, tiles on TILE_ROWS rows of LANES.


def unary(op: Any) -> Callable[..., Array]:
    """op as a function of an array of any multiple of LANES values."""

    @compiled
    def loop(x: Array, out: Array) -> None:
        for i in range(0, x.size, LANES):
            simd.store(out, i, op(simd.load(x, i)))

    def apply(x: Array, dtype: Any = None) -> Array:
        out = np.zeros(x.size, dtype or x.dtype)
        loop(x.reshape(-1), out)
        return out.reshape(x.shape)

    return apply


def binary(op: Any) -> Callable[[Array, Array], Array]:
    @compiled
    def loop(x: Array, y: Array, out: Array) -> None:
        for i in range(0, x.size, LANES):
            simd.store(out, i, op(simd.load(x, i), simd.load(y, i)))

    def apply(x: Array, y: Array) -> Array:
        out = np.zeros_like(x).reshape(-1)
        loop(x.reshape(-1), y.reshape(-1), out)
        return out.reshape(x.shape)

    return apply


def masks(op: Any) -> Callable[[Array, Array], NDArray[np.bool_]]:
    """A comparison, by way of `store_mask`."""

    @compiled
    def loop(x: Array, y: Array, out: Array) -> None:
        for i in range(0, x.size, LANES):
            simd.store_mask(out, i // LANES * 32, op(simd.load(x, i), simd.load(y, i)))

    def apply(x: Array, y: Array) -> NDArray[np.bool_]:
        out = np.zeros(x.size // LANES, np.uint32)
        loop(x, y, out)
        return unpack(out, LANES)

    return apply


def unpack(packed: NDArray[np.uint32], bits: int) -> NDArray[np.bool_]:
    """The lowest `bits` bits of every word, one after the other."""
    return (packed[:, None] >> np.arange(bits, dtype=np.uint32) & 1).astype(bool).reshape(-1)


# --------------------------------------------------------------------------------------------------------- memory


@compiled
def move_one(x: Array, i: int, out: Array, o: int) -> None:
    simd.store(out, o, simd.load(x, i))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32])
def test_load_and_store_take_lanes_elements_at_any_offset(dtype: Any) -> None:
    x = any_values(dtype, 4 * LANES)
    for i, o in ((0, 0), (1, 3), (LANES - 1, LANES + 1), (3 * LANES, 3 * LANES)):
        out = np.full(4 * LANES, CANARY, dtype)
        move_one(x, i, out, o)
        expected = np.full(4 * LANES, CANARY, dtype)
        expected[o : o + LANES] = x[i : i + LANES]
        np.testing.assert_array_equal(out, expected)


@functools.cache
def move_rows(rows: int) -> Any:
    @compiled
    def move(x: Array, i: int, stride: int, out: Array, o: int, out_stride: int) -> None:
        simd.store_rows(out, o, out_stride, simd.load_rows(x, i, stride, rows))

    return move


@pytest.mark.parametrize("rows", [1, 3, TILE_ROWS])
@pytest.mark.parametrize(("stride", "out_stride"), [(LANES, 2 * LANES), (37, 19), (0, LANES), (5, LANES)])
def test_load_rows_and_store_rows_step_by_a_stride(rows: int, stride: int, out_stride: int) -> None:
    x = any_values(np.float32, 8 * 40)
    out = np.full(8 * 40, CANARY, np.float32)
    move_rows(rows)(x, 2, stride, out, 5, out_stride)
    expected = np.full(8 * 40, CANARY, np.float32)
    for r in range(rows):
        at = 5 + r * out_stride
        expected[at : at + LANES] = x[2 + r * stride : 2 + r * stride + LANES]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("rows", [1, TILE_ROWS])
@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_load_rows_at_reads_each_row_where_a_table_says(rows: int, dtype: Any) -> None:
    @compiled
    def gather(x: Array, index: int, table: Array, first: int, out: Array) -> None:
        simd.store_rows(out, 0, LANES, simd.load_rows_at(x, index, table, first, rows))

    x = any_values(dtype, 200)
    table = np.array([99, 40, -7, 0, 16, 3, 90, 1, 55, 2], np.int32)
    out = np.zeros((rows, LANES), dtype)
    gather(x, 20, table, 1, out.reshape(-1))
    np.testing.assert_array_equal(out, [x[20 + t : 20 + t + LANES] for t in table[1 : 1 + rows]])


@pytest.mark.parametrize("rows", [1, 3, TILE_ROWS])
def test_broadcast_fills_every_lane(rows: int) -> None:
    @compiled
    def fill(x: Array, i: int, stride: int, out: Array, tile: Array) -> None:
        simd.store(out, 0, simd.broadcast(x, i))
        simd.store_rows(tile, 0, LANES, simd.broadcast_rows(x, i, stride, rows))

    for dtype in (np.float32, np.uint32):
        x = any_values(dtype, 64)
        out, tile = np.zeros(LANES, dtype), np.zeros((rows, LANES), dtype)
        fill(x, 3, 8, out, tile.reshape(-1))
        np.testing.assert_array_equal(out, np.full(LANES, x[3]))
        np.testing.assert_array_equal(tile, np.repeat(x[3 : 3 + 8 * rows : 8, None], LANES, axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_store_rows_first_touches_nothing_beyond_the_count(dtype: Any) -> None:
    @compiled
    def first(x: Array, out: Array, o: int, stride: int, count: int) -> None:
        simd.store_rows_first(out, o, stride, simd.load_rows(x, 0, LANES, TILE_ROWS), count)

    x = any_values(dtype, TILE_ROWS * LANES).reshape(TILE_ROWS, LANES)
    for count in range(LANES + 1):
        out = np.full((TILE_ROWS + 1, 21), CANARY, dtype)
        first(x.reshape(-1), out.reshape(-1), 2, 21, count)
        expected = np.full((TILE_ROWS + 1, 21), CANARY, dtype)
        expected[:TILE_ROWS, 2 : 2 + count] = x[:, :count]
        np.testing.assert_array_equal(out, expected)


def test_store_fours_deals_out_four_lanes_a_row() -> None:
    @compiled
    def deal(x: Array, out: Array, o: int, stride: int) -> None:
        simd.store_fours(out, o, stride, simd.load(x, 0))

    x = any_values(np.float32, LANES)
    for stride in (4, 7, 48):
        out = np.full(LANES // 4 * 48 + 8, CANARY, np.float32)
        deal(x, out, 3, stride)
        expected = np.full_like(out, CANARY)
        for i in range(LANES // 4):
            expected[3 + i * stride : 7 + i * stride] = x[4 * i : 4 * i + 4]
        np.testing.assert_array_equal(out, expected)


@compiled
def sign_bits(x: Array, packed: Array, bit: int) -> None:
    simd.store_mask(packed, bit, simd.load(x, 0) > simd.splat(np.float32(0)))


@compiled
def sign_bits_rows(x: Array, packed: Array, bit: int, stride: int) -> None:
    simd.store_mask_rows(packed, bit, stride, simd.load_rows(x, 0, LANES, TILE_ROWS) > simd.splat(np.float32(0)))


@pytest.mark.parametrize("bit", range(0, 96, LANES))
@pytest.mark.parametrize("background", [0, 0xFFFFFFFF])
def test_store_mask_puts_one_lane_into_one_bit_and_leaves_the_other_half_word(bit: int, background: int) -> None:
    for lane in range(LANES):
        x = np.full(LANES, -1, np.float32)
        x[lane] = 1
        packed = np.full(3, background, np.uint32)
        sign_bits(x, packed, bit)
        expected = np.full(96, bool(background))
        expected[bit : bit + LANES] = False
        expected[bit + lane] = True
        np.testing.assert_array_equal(unpack(packed, 32), expected)


@pytest.mark.parametrize(("bit", "stride"), [(0, 32), (16, 32), (0, 16), (32, 48), (16, 64)])
def test_store_mask_rows_puts_one_lane_of_one_row_into_one_bit(bit: int, stride: int) -> None:
    size = bit + TILE_ROWS * stride + 32
    for row in range(TILE_ROWS):
        for lane in range(LANES):
            x = np.full((TILE_ROWS, LANES), -1, np.float32)
            x[row, lane] = 1
            packed = np.zeros(-(-size // 32), np.uint32)
            sign_bits_rows(x.reshape(-1), packed, bit, stride)
            assert np.flatnonzero(unpack(packed, 32)).tolist() == [bit + row * stride + lane]


def test_arrays_over_raw_memory() -> None:
    @compiled
    def write(address: int) -> None:
        out = simd.floats_at_address(address)
        simd.store(out, 1, simd.splat(np.float32(3)))

    @numba.cfunc("void(CPointer(uint32))", **OPTIONS)
    def views(arena: Any) -> None:
        simd.floats_at(arena, 2)[1] = np.float32(1)
        simd.words_at(arena, 4)[0] = np.uint32(0xFFFFFFFF)
        simd.ints_at(arena, 5)[2] = np.int32(-2)

    memory = np.zeros(LANES + 2, np.float32)
    write(memory.ctypes.data)
    np.testing.assert_array_equal(memory, [0, *[3] * LANES, 0])
    arena = np.zeros(8, np.uint32)
    views.ctypes(arena.ctypes.data_as(views.ctypes.argtypes[0]))
    np.testing.assert_array_equal(arena, np.array([0, 0, 0, 0x3F800000, 0xFFFFFFFF, 0, 0, 0xFFFFFFFE], np.uint32))


# ---------------------------------------------------------------------------------------------------- element-wise

SYMBOLS: dict[str, Any] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "xor", "and_", "or_", "gt", "ge", "lt")
}


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_float_arithmetic_is_numpys(name: str) -> None:
    x, y = floats(5 * LANES), floats(5 * LANES)
    np.testing.assert_array_equal(binary(SYMBOLS[name])(x, y), SYMBOLS[name](x, y))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "xor", "and_", "or_"])
def test_integer_arithmetic_wraps_like_numpys(name: str) -> None:
    x, y = words(5 * LANES), words(5 * LANES)
    for dtype in (np.uint32, np.int32):
        expected = SYMBOLS[name](x.view(dtype), y.view(dtype))
        np.testing.assert_array_equal(binary(SYMBOLS[name])(x.view(dtype), y.view(dtype)), expected)


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "ior"])
def test_in_place_operators(name: str) -> None:
    x, y = words(LANES), words(LANES)
    np.testing.assert_array_equal(binary(getattr(operator, name))(x, y), getattr(operator, name)(x.copy(), y))


@pytest.mark.parametrize("name", ["gt", "ge", "lt"])
def test_comparisons(name: str) -> None:
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    x, y = (m.reshape(-1) for m in np.meshgrid(special, special))
    np.testing.assert_array_equal(masks(SYMBOLS[name])(x, y), SYMBOLS[name](x, y))
    special = np.array([0, 1, -1, 2**31 - 1, -(2**31), 5, -5, 100], np.int32)
    x, y = (m.reshape(-1) for m in np.meshgrid(special, special))
    np.testing.assert_array_equal(masks(SYMBOLS[name])(x, y), SYMBOLS[name](x, y))
    # words compare as signed integers too: scores are small, and padding's penalty is positive
    np.testing.assert_array_equal(masks(SYMBOLS[name])(x.view(np.uint32), y.view(np.uint32)), SYMBOLS[name](x, y))


def test_a_row_meets_every_row_of_a_tile() -> None:
    @compiled
    def mixed(x: Array, v: Array, s: Array, out: Array) -> None:
        tile, row = simd.load_rows(x, 0, LANES, TILE_ROWS), simd.load(v, 0)
        simd.store_rows(out, 0, LANES, simd.fma(tile, row, simd.broadcast_rows(s, 0, 1, TILE_ROWS)))
        simd.store_rows(out, TILE_ROWS * LANES, LANES, row - tile)
        simd.store_rows(out, 2 * TILE_ROWS * LANES, LANES, simd.splat_rows(np.float32(1.5), TILE_ROWS))

    x = rng.integers(-9, 9, (TILE_ROWS, LANES)).astype(np.float32)  # integers: fused or not, x*v + s is exact
    v = rng.integers(-9, 9, LANES).astype(np.float32)
    s = np.arange(TILE_ROWS, dtype=np.float32)
    out = np.zeros((3 * TILE_ROWS, LANES), np.float32)
    mixed(x.reshape(-1), v, s, out.reshape(-1))
    np.testing.assert_array_equal(out[:TILE_ROWS], x * v + s[:, None])
    np.testing.assert_array_equal(out[TILE_ROWS : 2 * TILE_ROWS], v - x)
    np.testing.assert_array_equal(out[2 * TILE_ROWS :], np.full((TILE_ROWS, LANES), 1.5))


def test_vectors_that_do_not_go_together_are_a_typing_error() -> None:
    @compiled
    def rows_differ(x: Array) -> None:
        simd.store_rows(x, 0, LANES, simd.load_rows(x, 0, LANES, 3) + simd.load_rows(x, 0, LANES, 2))

    @compiled
    def elements_differ(x: Array, y: Array) -> None:
        simd.store(x, 0, simd.load(x, 0) + simd.load(y, 0))

    with pytest.raises(TypingError):
        rows_differ(np.zeros(64, np.float32))
    with pytest.raises(TypingError):
        elements_differ(np.zeros(64, np.float32), np.zeros(64, np.uint32))


def test_popcount() -> None:
    single = np.uint32(1) << np.arange(32, dtype=np.uint32)
    x = np.concatenate([single, ~single, np.array([0, 0xFFFFFFFF] * 8, np.uint32), words(4 * LANES)])
    np.testing.assert_array_equal(unary(simd.popcount)(x), ones(x))


def test_popcount_bytes_counts_each_byte_in_its_place() -> None:
    x = np.concatenate([np.uint32(1) << np.arange(32, dtype=np.uint32), words(4 * LANES)])
    expected = np.unpackbits(x.view(np.uint8).reshape(-1, 1), axis=1).sum(axis=1, dtype=np.uint8).view(np.uint32)
    np.testing.assert_array_equal(unary(simd.popcount_bytes)(x), expected)


def test_count_differences_bytes_adds_to_each_byte() -> None:
    @compiled
    def count(start: Array, weights: Array, bits: Array, out: Array) -> None:
        tile = simd.load_rows(start, 0, LANES, 3)
        simd.store_rows(out, 0, LANES, simd.count_differences_bytes(tile, simd.load(weights, 0), bits, 1, 2))

    start, weights, bits = words(3 * LANES) >> np.uint32(8) & np.uint32(0x070707), words(LANES), words(6)
    out = np.zeros_like(start)
    count(start, weights, bits, out)
    differing = (weights ^ bits[1::2, None]).reshape(-1)
    in_bytes = np.unpackbits(differing.view(np.uint8).reshape(-1, 1), axis=1).sum(axis=1, dtype=np.uint8)
    np.testing.assert_array_equal(out.view(np.uint8), start.view(np.uint8) + in_bytes)


def test_count_bits() -> None:
    @compiled
    def count(x: Array, out: Array) -> None:
        for i in range(x.size):
            out[i] = simd.count_bits(simd.at(x, i))

    x = np.concatenate([np.uint32(1) << np.arange(32, dtype=np.uint32), words(20), np.array([0, 2**32 - 1], np.uint32)])
    out = np.zeros_like(x)
    count(x, out)
    np.testing.assert_array_equal(out, ones(x))


@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_minimum_and_maximum(name: str) -> None:
    x, y = floats(4 * LANES), floats(4 * LANES)
    np.testing.assert_array_equal(binary(getattr(simd, name))(x, y), getattr(np, name)(x, y))


def test_minimum_int_is_signed() -> None:
    x, y = words(4 * LANES).view(np.int32), words(4 * LANES).view(np.int32)
    np.testing.assert_array_equal(binary(simd.minimum_int)(x, y), np.minimum(x, y))
    np.testing.assert_array_equal(
        binary(simd.minimum_int)(x.view(np.uint32), y.view(np.uint32)), np.minimum(x, y).view(np.uint32)
    )


def test_fma_rounds_once_or_twice() -> None:
    @compiled
    def apply(x: Array, y: Array, z: Array, out: Array) -> None:
        total = simd.fma(simd.load_rows(x, 0, LANES, TILE_ROWS), simd.load(y, 0), simd.load(z, 0))
        simd.store_rows(out, 0, LANES, total)

    x, y, z = floats(TILE_ROWS, LANES), floats(LANES), floats(LANES)
    out = np.zeros((TILE_ROWS, LANES), np.float32)
    apply(x.reshape(-1), y, z, out.reshape(-1))
    product, total = x.astype(np.float64) * y, x.astype(np.float64) * y + z
    # LLVM fuses where the target can: half an ulp of the sum, and without fma half an ulp of the product too
    assert (np.abs(out - total) <= EPS * (np.abs(total) + np.abs(product))).all()


def test_prelu_takes_the_slope_less_one() -> None:
    x, slope = floats(8 * LANES), 2 * floats(8 * LANES)
    x[:4], slope[:4] = 0, (-1, 0, 1, 2)
    got = binary(simd.prelu)(x, slope - np.float32(1))
    wide = x.astype(np.float64)
    expected = np.where(wide > 0, wide, (slope - np.float32(1)).astype(np.float64) * wide + wide)
    np.testing.assert_array_equal(got[x >= 0], x[x >= 0])  # nothing is lost where nothing is done
    # the product and the sum round once each
    assert (np.abs(got - expected) <= 2 * EPS * (np.abs(slope) + 2) * np.abs(wide)).all()


def test_to_float_reads_signed_integers() -> None:
    x = np.concatenate([np.arange(-8, 8), [2**24, -(2**24), 2**31 - 1, -(2**31)] * 4]).astype(np.int32)
    to_float = unary(simd.to_float)
    np.testing.assert_array_equal(to_float(x, np.float32), x.astype(np.float32))
    np.testing.assert_array_equal(to_float(x.view(np.uint32), np.float32), x.astype(np.float32))


def test_exp2_over_its_range() -> None:
    """Relative error below the 2e-7 of its docstring; the two parts are added before they meet the polynomial."""
    x = np.concatenate([np.linspace(-126, 126, 20000), np.arange(-126, 127), np.arange(-126, 126) + 0.5])
    x = np.resize(x, -(-x.size // LANES) * LANES).astype(np.float32)
    for low in (0.0, 1e-6, -3e-4, 0.01):
        part = np.full(x.size, low, np.float32)
        expected = np.exp2(x.astype(np.float64) + part)
        got = binary(simd.exp2)(x, part)
        assert np.max(np.abs(got / expected - 1)) < 2e-7


def test_exp2_is_exact_where_attention_needs_it() -> None:
    """exp2(0) is exactly 1: equal scores give exactly equal, exactly representable probabilities."""
    x = np.array([0, -0.0, -1, 1, -126, 100, -50, 3] * 2, np.float32)
    np.testing.assert_array_equal(binary(simd.exp2)(x, np.zeros_like(x)), np.exp2(x))
    low = np.array([-127, -1000, -1e30, -np.inf] * 4, np.float32)  # raised to the smallest normal number
    np.testing.assert_array_equal(binary(simd.exp2)(low, np.zeros_like(low)), np.full(16, 2.0**-126, np.float32))


def test_erf_over_its_range() -> None:
    x = np.linspace(-6, 6, 400 * LANES).astype(np.float32)
    x[:8] = (0, -0.0, 4, -4, np.inf, -np.inf, 1e30, 1e-30)
    got = unary(simd.erf)(x)
    expected = np.vectorize(math.erf)(x.astype(np.float64))
    assert np.max(np.abs(got - expected)) < 3e-7
    np.testing.assert_array_equal(unary(simd.erf)(-x), -got)  # odd
    assert len(np.unique(got[x >= 4])) == 1  # saturates: one value, at most 3e-7 beside 1
    assert np.abs(got[x >= 4] - 1).max() < 3e-7


@pytest.mark.parametrize("name", ["shift_left", "shift_right"])
def test_shifts_of_every_count(name: str) -> None:
    op, expected = {
        "shift_left": (simd.shift_left, np.left_shift),
        "shift_right": (simd.shift_right, np.right_shift),
    }[name]

    @compiled
    def shift(x: Array, count: int, out: Array) -> None:
        simd.store_rows(out, 0, LANES, op(simd.load_rows(x, 0, LANES, TILE_ROWS), count))

    x = words(TILE_ROWS, LANES)
    for count in range(32):
        out = np.zeros_like(x)
        shift(x.reshape(-1), count, out.reshape(-1))
        np.testing.assert_array_equal(out, expected(x, np.uint32(count)))


def test_nonzero() -> None:
    @compiled
    def word_of(x: Array, out: Array) -> None:
        for i in range(0, x.size, LANES):
            simd.store_mask(out, i // LANES * 32, simd.nonzero(simd.load(x, i)))

    x = np.zeros((LANES + 2, LANES), np.uint32)
    x[:LANES][np.diag_indices(LANES)] = np.uint32(1) << np.arange(32 - LANES, 32, dtype=np.uint32)
    x[LANES] = 1
    out = np.zeros(LANES + 2, np.uint32)
    word_of(x.reshape(-1), out)
    np.testing.assert_array_equal(out, [*(1 << lane for lane in range(LANES)), (1 << LANES) - 1, 0])


# ---------------------------------------------------------------------------------------------------- across lanes


def test_lane_sum_adds_in_one_tree_order() -> None:
    @compiled
    def total(x: Array, out: Array) -> None:
        out[0] = simd.lane_sum(simd.load(x, 0))

    for _ in range(20):
        x = floats(LANES) * np.float32(10) ** rng.integers(-6, 6, LANES).astype(np.float32)
        out, tree = np.zeros(1, np.float32), x
        total(x, out)
        while tree.size > 1:  # the upper half onto the lower
            tree = tree[: tree.size // 2] + tree[tree.size // 2 :]
        np.testing.assert_array_equal(out, tree)
    x, out = words(LANES), np.zeros(1, np.uint32)
    total(x, out)
    assert out[0] == x.sum(dtype=np.uint32)


def test_lane_min_finds_every_lane() -> None:
    @compiled
    def least(x: Array, out: Array) -> None:
        out[0] = simd.lane_min(simd.load(x, 0))

    for lane in range(LANES):
        x = np.arange(100, 100 + LANES, dtype=np.int32)
        x[lane] = -(2**31) + lane
        out = np.zeros(1, np.int32)
        least(x, out)
        assert out[0] == x[lane]


def test_even_and_odd_lanes_of_two_vectors() -> None:
    x, y = any_values(np.float32, LANES), any_values(np.float32, LANES) + 100
    both = np.concatenate([x, y])
    np.testing.assert_array_equal(binary(simd.even)(x, y), both[::2])
    np.testing.assert_array_equal(binary(simd.odd)(x, y), both[1::2])


# -------------------------------------------------------------------------------- what LLVM makes of a register tile
# A tile that leaves the registers, or a loop over it that does not unroll, still gives right answers, 5 to 30 times
# slower (DESIGN.md section 2). So read the machine code: innermost loops that count bits.


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
        binary_matmul(bits, rows, words, panels, width, start, out, out_rows)

    (assembly,) = product.inspect_asm().values()
    whole = assert_tiles_stay_in_registers(assembly, "vpopcntd")
    assert len(whole) == 1 if llvmlite.binding.llvm_version_info >= (20,) else len(whole) <= 2  # an older one unrolls
    assert re.findall(r"\bpopcnt[wlq]\b", assembly) == []


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
