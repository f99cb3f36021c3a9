"""Matrix products over panels: binary (exact integers) and float32.

Binary: for a, w in {-1, +1}^K with bit 1 meaning +1, <a, w> = K - 2·popcount(a xor w), since every equal pair adds 1
and every differing pair subtracts 1. The tile starts at -(K // 2), so what it accumulates is h = popcount - K // 2
and <a, w> = -2·h + (K mod 2): the factor -2 and the odd 1 fold into the affine map that follows, and no large
constant is ever cancelled in float32.

Lanes run over output features. A panel holds LANES outputs: [K/32][LANES] words, or [K][LANES] floats; one word (or
float) of each of a tile's rows is broadcast against it. No horizontal sums, any K, exact 32-bit counters.
"""

import numpy as np

from bitvit.kernels.inline import inline
from bitvit.kernels.lookup import look_up, pair_rows
from bitvit.kernels.neon import FOURS, count_differences_two, fma_fours, spread_rows, sum_bytes
from bitvit.kernels.simd import (
    broadcast_rows,
    count_differences_bytes,
    fma,
    fma_two,
    load,
    load_rows,
    popcount,
    popcount_bytes,
    shift_right,
    splat,
    splat_rows,
    store_rows,
    to_float,
)
from bitvit.kernels.target import ARM, DOT_PRODUCTS, LANES, LOOKUP, PAIR_ROWS, target_has
from bitvit.kernels.tiles import in_tiles, in_tiles_of

# Where a popcount of 32-bit lanes is one instruction, counters are lanes. Elsewhere it is put together from byte
# counts, so counters are bytes, and their sums are taken once a block: 31 words add at most 248 to a byte.
LANE_POPCOUNT = target_has("avx512vpopcntdq") or DOT_PRODUCTS
BLOCK = 1 << 30 if LANE_POPCOUNT else 31


@inline
def ones(x):
    """1 bits of every counter of a tile."""
    return popcount(x) if LANE_POPCOUNT else popcount_bytes(x)


@inline
def total_ones(count, words):
    """What 1 bits counted over at most so many words, BLOCK or fewer, say of each 32-bit lane."""
    if LANE_POPCOUNT:
        return count
    if words < 8:  # at most 7·32 in all: the product's highest byte is the sum of the four
        return shift_right(count * splat(np.uint32(0x01010101)), 24)
    pairs = (count & splat(np.uint32(0x00FF00FF))) + (shift_right(count, 8) & splat(np.uint32(0x00FF00FF)))
    return (pairs & splat(np.uint32(0xFFFF))) + shift_right(pairs, 16)


@inline
def total_ones_of_neon(count, words):
    """`total_ones` by pairwise additions."""
    return sum_bytes(count)


if ARM and not LANE_POPCOUNT:
    total_ones = total_ones_of_neon


@inline
def half_dots(bits, first, words, panels, panel, start, height):
    """Tile of `height` rows x LANES of popcount(a xor w) + start, as int32.

    bits: uint32 rows of `words` words, the tile's first word at `first`; panels: uint32 [..][words][LANES], this
    panel at `panel`; start: int32, -(K // 2).
    """
    acc = splat_rows(np.uint32(start), height)
    if LANE_POPCOUNT:
        for k in range(words):
            acc += popcount(load(panels, panel + k * LANES) ^ broadcast_rows(bits, first + k, words, height))
        return acc
    for block in range(0, words, BLOCK):
        count = splat_rows(np.uint32(0), height)
        for k in range(block, min(words, block + BLOCK)):
            count = count_differences_bytes(count, load(panels, panel + k * LANES), bits, first + k, words)
        acc += total_ones(count, words)
    return acc


@inline
def count_two_panels(spread, first, step, words, panels, panel, begin, end, left, right):
    """(left, right) + the 1 bits that words begin … end of a tile's rows and of two adjacent panels differ in.

    spread: see neon.py, the tile's first word at `first`, the next one `step` on.
    """
    k, one, two = begin, panel, panel + words * LANES
    while True:  # for one word at least: of a loop that may be empty, LLVM would set the accumulators twice
        weights, others = load(panels, one + k * LANES), load(panels, two + k * LANES)
        left, right = count_differences_two(spread, first + k * step, weights, others, left, right)
        k += 1
        if k >= end:
            return left, right


@inline
def two_half_dots(spread, m, rows, words, panels, panel, start, height):
    """`half_dots` of rows m … of `rows` and two panels, one behind the other, on 64-bit ARM."""
    left, right = splat_rows(np.uint32(start), height), splat_rows(np.uint32(start), height)
    first, step = m * FOURS, (rows + 1) * FOURS
    if LANE_POPCOUNT:
        return count_two_panels(spread, first, step, words, panels, panel, 0, words, left, right)
    for begin in range(0, words, BLOCK):
        zero, end = splat_rows(np.uint32(0), height), min(words, begin + BLOCK)
        ones_left, ones_right = count_two_panels(spread, first, step, words, panels, panel, begin, end, zero, zero)
        left += sum_bytes(ones_left)
        right += sum_bytes(ones_right)
    return left, right


@in_tiles_of(PAIR_ROWS)
def two_binary_panels(m, height, n, spread, rows, words, panels, start, out, to, next_to):
    """A tile of `binary_matmul`, two panels wide."""
    left, right = two_half_dots(spread, m, rows, words, panels, n * words, start, height)
    store_rows(out, to + m * LANES, LANES, to_float(left))
    store_rows(out, next_to + m * LANES, LANES, to_float(right))


@in_tiles
def binary_panel(m, height, n, bits, words, panels, start, out, to):
    """A tile of `binary_matmul`; `to` is where the panel of columns n … begins in `out`."""
    h = half_dots(bits, m * words, words, panels, n * words, start, height)
    store_rows(out, to + m * LANES, LANES, to_float(h))


@inline
def two_panels_a_tile(spread, rows, words, panels, first, width, start, out, out_rows, bits):
    """`binary_matmul` on 64-bit ARM; a last panel alone goes without `spread`."""
    pairs = width // (2 * LANES) * 2 * LANES
    for n in range(0, pairs, 2 * LANES):
        to = n * out_rows
        two_binary_panels(rows, first + n, spread, rows, words, panels, start, out, to, to + LANES * out_rows)
    for n in range(pairs, width, LANES):
        binary_panel(rows, first + n, bits, words, panels, start, out, n * out_rows)


@inline
def binary_matmul(bits, pairs, rows, words, panels, first, width, start, out, out_rows):
    """Half dots of every row m < rows (and of one row behind them) and the outputs from `first` on, as float32.

    out[n/LANES][m][n mod LANES] = popcount(bits[m] xor w[first + n]) - K // 2 for n < width, out_rows rows a panel: a
    tile is stored in one piece, where rows a power of two apart would share a few sets of the first-level cache. The
    panel loop is outside: a panel (K/32 · 64 bytes) stays in that cache while the rows pass.

    With LOOKUP `first` is a multiple of OUTPUTS, and outputs up to such a multiple are written. There and on 64-bit ARM
    the rows are read from `pairs`, which `pair_rows` or `spread_rows` has made of them.
    """
    if LOOKUP:
        look_up(pairs, rows, words, panels, first, width, start, out, out_rows)
        return
    if ARM:
        two_panels_a_tile(pairs, rows, words, panels, first, width, start, out, out_rows, bits)
        return
    for n in range(0, width, LANES):
        binary_panel(rows, first + n, bits, words, panels, start, out, n * out_rows)


@inline
def binary_product(bits, pairs, rows, words, panels, width, start, out, out_rows):
    """`binary_matmul` of all outputs; it fills `pairs` first."""
    if LOOKUP:
        pair_rows(bits, rows, words, pairs)
    if ARM:
        spread_rows(bits, rows, words, pairs)
    binary_matmul(bits, pairs, rows, words, panels, 0, width, start, out, out_rows)


def broadcasting_tile(m, height, n, a, depth, panels, offsets, offset_stride, out, out_stride):
    """A tile of `float_matmul`, two panels wide, which share each broadcast."""
    left = load_rows(offsets, m * offset_stride + n, offset_stride, height)
    right = load_rows(offsets, m * offset_stride + n + LANES, offset_stride, height)
    for k in range(depth):
        one, two = load(panels, n * depth + k * LANES), load(panels, (n + LANES) * depth + k * LANES)
        left, right = fma_two(a, m * depth + k, depth, one, two, left, right)
    store_rows(out, m * out_stride + n, out_stride, left)
    store_rows(out, m * out_stride + n + LANES, out_stride, right)


def by_element_tile(m, height, n, a, depth, panels, offsets, offset_stride, out, out_stride):
    """The same on 64-bit ARM, where nothing is broadcast but of the last values of a row."""
    left = load_rows(offsets, m * offset_stride + n, offset_stride, height)
    right = load_rows(offsets, m * offset_stride + n + LANES, offset_stride, height)
    fours = depth // FOURS * FOURS
    for k in range(0, fours, FOURS):
        one, two = n * depth + k * LANES, (n + LANES) * depth + k * LANES
        left, right = fma_fours(a, m * depth + k, depth, panels, one, two, left, right)
    for k in range(fours, depth):
        one, two = load(panels, n * depth + k * LANES), load(panels, (n + LANES) * depth + k * LANES)
        left, right = fma_two(a, m * depth + k, depth, one, two, left, right)
    store_rows(out, m * out_stride + n, out_stride, left)
    store_rows(out, m * out_stride + n + LANES, out_stride, right)


two_float_panels = in_tiles_of(PAIR_ROWS)(by_element_tile if ARM else broadcasting_tile)


@in_tiles
def float_panel(m, height, n, a, depth, panels, offsets, offset_stride, out, out_stride):
    """A tile of `float_matmul`, one panel wide."""
    acc = load_rows(offsets, m * offset_stride + n, offset_stride, height)
    for k in range(depth):
        acc = fma(load(panels, n * depth + k * LANES), broadcast_rows(a, m * depth + k, depth, height), acc)
    store_rows(out, m * out_stride + n, out_stride, acc)


@inline
def float_matmul(a, rows, depth, panels, width, offsets, offset_stride, out, out_stride):
    """out[m, n] = Σ_k a[m, k]·w[n, k] + offsets[m·offset_stride + n], float32.

    a: [rows][depth]; panels: [width/LANES][depth][LANES]. Two panels go together, which halves the broadcasts. Every
    element is summed over k in order, so the result does not depend on how rows are split.
    """
    pairs = width // (2 * LANES) * 2 * LANES
    for n in range(0, pairs, 2 * LANES):
        two_float_panels(rows, n, a, depth, panels, offsets, offset_stride, out, out_stride)
    for n in range(pairs, width, LANES):
        float_panel(rows, n, a, depth, panels, offsets, offset_stride, out, out_stride)
