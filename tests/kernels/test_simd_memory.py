"""Loads and stores of kernels/simd.py, against NumPy, lane by lane and row by row."""

import functools
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.kernels import simd
from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.target import LANES, TILE_ROWS
from tests.support.vectors import CANARY, any_values, compiled, unpack

Array = NDArray[Any]


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
