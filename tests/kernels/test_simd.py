"""Arithmetic of kernels/simd.py, element by element and across lanes, against NumPy."""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError
from numpy.typing import NDArray

from bitvit.kernels import simd
from bitvit.kernels.target import LANES, TILE_ROWS
from tests.support.signs import EPS
from tests.support.vectors import any_values, compiled, floats, rng, unpack, words

Array = NDArray[Any]


def ones(x: NDArray[np.uint32]) -> NDArray[np.int64]:
    """1 bits of each word (np.bitwise_count came with NumPy 2)."""
    counts: NDArray[np.int64] = np.unpackbits(x.view(np.uint8).reshape(-1, 4), axis=1).sum(axis=1, dtype=np.int64)
    return counts


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


def test_row_mins_finds_every_lane() -> None:
    @compiled
    def least(x: Array, out: Array) -> None:
        simd.store_rows(out, 0, LANES, simd.row_mins(simd.load_rows(x, 0, LANES, 3)))

    for lane in range(LANES):
        x = np.arange(100, 100 + 3 * LANES, dtype=np.int32).reshape(3, LANES)
        x[1, lane] = -(2**31) + lane
        out = np.zeros((3, LANES), np.int32)
        least(x.reshape(-1), out.reshape(-1))
        np.testing.assert_array_equal(out, np.repeat(x.min(axis=1, keepdims=True), LANES, axis=1))


def test_where_sign_chooses_by_bit_31() -> None:
    @compiled
    def choose(words: Array, one: Array, two: Array, out: Array) -> None:
        simd.store(out, 0, simd.where_sign(simd.load(words, 0), simd.load(one, 0), simd.load(two, 0)))

    places = words(LANES)
    one, two, out = floats(LANES), floats(LANES), np.zeros(LANES, np.float32)
    for flags in (places, places ^ np.uint32(1 << 31)):
        choose(flags, one, two, out)
        np.testing.assert_array_equal(out, np.where(flags >> 31, one, two))


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_add_rows_adds_neighbours_first(rows: int) -> None:
    @compiled
    def add(x: Array, out: Array) -> None:
        simd.store(out, 0, simd.add_rows(simd.load_rows(x, 0, LANES, rows)))

    x, out = np.random.default_rng(rows).standard_normal((rows, LANES), np.float32), np.zeros(LANES, np.float32)
    add(x.reshape(-1), out)
    while len(x) > 1:
        x = x[::2] + x[1::2]
    np.testing.assert_array_equal(out, x[0])


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_unzip_rows_deals_all_lanes_out_in_turn(rows: int) -> None:
    @compiled
    def deal(x: Array, out: Array) -> None:
        simd.store_rows(out, 0, LANES, simd.unzip_rows(simd.load_rows(x, 0, LANES, rows)))

    x, out = any_values(np.float32, rows * LANES), np.zeros((rows, LANES), np.float32)
    deal(x, out.reshape(-1))
    np.testing.assert_array_equal(out, x.reshape(LANES, rows).T)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (1, 3), (4, 4)])
def test_join_rows_puts_a_tile_behind_another(first: int, second: int) -> None:
    @compiled
    def join(x: Array, out: Array) -> None:
        low, high = simd.load_rows(x, 0, LANES, first), simd.load_rows(x, first * LANES, LANES, second)
        simd.store_rows(out, 0, LANES, simd.join_rows(low, high))

    x = any_values(np.uint32, (first + second) * LANES)
    out = np.zeros_like(x)
    join(x, out)
    np.testing.assert_array_equal(out, x)
