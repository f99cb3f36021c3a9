"""The shift-augmented MLP of one block of rows, from the residual stream back to the residual stream (SPEC 7.5, 7.6).

Per block: N2 = norm(x) -> bits -> hidden = RPReLU(affine(W1·bits) + tile(N2)) -> bits, pooled sums
-> RPReLU(affine(W2·bits) + pool) -> layer scale + residual + the shift stencil. The hidden layer never exists as
floats: its signs are compared out of registers, its pool is summed there.

A hidden value is u = RPReLU(y + t) with y = s·dot + shortcut: y + t + (a - 1)·min(y + t, 0). As min(y + t, 0) =
min(y, -t) + t, it is w + a·t with w = y + (a - 1)·min(y, -t), and one addition is saved: the threshold is lowered by
a·t at load, and the pool's share of a·t goes into the bias of the second layer.

Hidden features are permuted at load: for each block of LANES output channels c0 …, `ratio` vectors whose lanes are the
features ratio·c + j of those channels. So pooling the `ratio` adjacent features of a channel is a vertical add, and
the signs of a vector land at bits [p·LANES, (p + 1)·LANES) of the hidden row, p = (c0/LANES)·ratio + j.

The six shift residuals are one circular depthwise stencil of N2 with nine taps: centre, ±1 and ±2 along y and x (SPEC
9.11). Under batch norm N2 is affine in x, so the stencil reads x itself with folded taps.
"""

import numpy as np

from bitvit.kernels.catalog import LANE_BITS, MLP
from bitvit.kernels.inline import inline
from bitvit.kernels.lookup import pair_rows
from bitvit.kernels.matmul import binary_matmul, binary_product, half_dots, two_half_dots
from bitvit.kernels.neon import spread_rows, store_masks_two
from bitvit.kernels.rows import normalize_products, tile_channels
from bitvit.kernels.simd import (
    floats_at,
    fma,
    load,
    load_rows,
    minimum,
    prelu,
    record,
    splat_rows,
    store,
    store_mask,
    store_mask_rows,
    store_rows,
    to_float,
    words_at,
)
from bitvit.kernels.target import ARM, LANES, LOOKUP, PAIR_ROWS
from bitvit.kernels.tiles import in_tiles, in_tiles_of


@inline
def prepare_rows(first, rows, a, source, const, scratch):
    """N2 = norm(x), its signs, and its tiled copies, for `rows` rows from `first` on.

    norm: [width/LANES][scale, bias, threshold][LANES]; a bit is N2 > threshold.
    """
    norm, bits = floats_at(const, a.norm), words_at(scratch, a.bits)
    row, tiled = floats_at(scratch, a.row), floats_at(scratch, a.tiled)
    width, words, channels, ratio, span = a.width, a.words, a.channels, a.ratio, a.span
    for i in range(rows):
        x = (first + i) * a.stride
        for c in range(0, width, LANES):
            h = fma(load(source, x + c), load(norm, 3 * c), load(norm, 3 * c + LANES))
            store_mask(bits, i * words * LANE_BITS + c, h > load(norm, 3 * c + 2 * LANES))
            store(row, c, h)
        tile_channels(row, 0, channels, ratio, span, tiled, i * span, a.piece_rows * span)


@inline
def hidden_values(h, shortcut, affine, p):
    """Hidden vector p less its share of a·t, as said above; affine: [scale, -bias, slope - 1, threshold][LANES]."""
    y = fma(h, load(affine, 4 * p), shortcut)
    return fma(minimum(y, load(affine, 4 * p + LANES)), load(affine, 4 * p + 2 * LANES), y)


def hidden_tile(m, height, c, stored, start, a, const, scratch, layer_norms):
    """Signs and pooled sum of the hidden features of channels c …

    Their products, unless they are computed here, are in z, which begins with hidden feature `stored`.
    start: c mod period, where their tiled shortcut is. affine: [vector p][scale, -bias, slope - 1, threshold][LANES].
    """
    bits, tiled, z = words_at(scratch, a.bits), floats_at(scratch, a.tiled), floats_at(scratch, a.z)
    hidden_bits, pooled = words_at(scratch, a.hidden_bits), floats_at(scratch, a.pooled)
    panels, affine = words_at(const, a.panels1), floats_at(const, a.affine1)
    span, words, row_bits, block = a.span, a.words, a.hidden_words * LANE_BITS, a.piece_rows
    first, last, counter, at = c * a.ratio, (c + LANES) * a.ratio, a.start1, m * span + start
    pool = splat_rows(np.float32(0), height)
    for p in range(first, last, LANES):  # nothing of `a` is read here: a store might have changed it
        if layer_norms or LOOKUP:
            h = load_rows(z, (p - stored) * block + m * LANES, LANES, height)
        else:
            h = to_float(half_dots(bits, m * words, words, panels, p * words, counter, height))
        shortcut = load_rows(tiled, at, span, height)
        at += block * span
        y = fma(h, load(affine, 4 * p), shortcut)
        w = fma(minimum(y, load(affine, 4 * p + LANES)), load(affine, 4 * p + 2 * LANES), y)
        store_mask_rows(hidden_bits, m * row_bits + p, row_bits, w > load(affine, 4 * p + 3 * LANES))
        pool += w
    store_rows(pooled, c * block + m * LANES, LANES, pool)


hidden_tiles, hidden_row = in_tiles(hidden_tile), inline(hidden_tile)


@in_tiles_of(PAIR_ROWS)
def hidden_pairs(m, height, c, rows, start, a, const, scratch):
    """`hidden_tile` for 64-bit ARM, which computes two hidden vectors at a time."""
    spread, tiled = words_at(scratch, a.pairs), floats_at(scratch, a.tiled)
    hidden_bits, pooled = words_at(scratch, a.hidden_bits), floats_at(scratch, a.pooled)
    panels, affine = words_at(const, a.panels1), floats_at(const, a.affine1)
    span, words, row_bits, block = a.span, a.words, a.hidden_words * LANE_BITS, a.piece_rows
    first, last, counter, at = c * a.ratio, (c + LANES) * a.ratio, a.start1, m * span + start
    pool = splat_rows(np.float32(0), height)
    for p in range(first, last, 2 * LANES):
        left, right = two_half_dots(spread, m, rows, words, panels, p * words, counter, height)
        left = hidden_values(to_float(left), load_rows(tiled, at, span, height), affine, p)
        at += block * span
        right = hidden_values(to_float(right), load_rows(tiled, at, span, height), affine, p + LANES)
        at += block * span
        above = 4 * p + 3 * LANES
        left_bits, right_bits = left > load(affine, above), right > load(affine, above + 4 * LANES)
        store_masks_two(hidden_bits, m * row_bits + p, row_bits, left_bits, right_bits)
        pool += left
        pool += right
    store_rows(pooled, c * block + m * LANES, LANES, pool)


@inline
def hidden_layer(rows, a, const, scratch, layer_norms):
    """Hidden signs and pooled sums.

    A layer norm needs all products of a row before the first sign. Then no weights are left for rows to share, and a
    row alone stays in registers where a tile would not.
    """
    bits, pairs, z = words_at(scratch, a.bits), words_at(scratch, a.pairs), floats_at(scratch, a.z)
    panels = words_at(const, a.panels1)
    if layer_norms:
        hidden = a.width * a.ratio
        prescale, valid = floats_at(const, a.prescale1), floats_at(const, a.valid_hidden)
        binary_product(bits, pairs, rows, a.words, panels, hidden, a.start1, z, a.piece_rows)
        normalize_products(z, rows, a.piece_rows, hidden, a.channels * a.ratio, prescale, valid)
        for m in range(rows):
            for c in range(0, a.width, LANES):
                hidden_row(m, 1, c, 0, c % a.period, a, const, scratch, layer_norms)
    elif LOOKUP:
        pair_rows(bits, rows, a.words, pairs)
        for first in range(0, a.width, a.chunk):
            last, stored = min(a.width, first + a.chunk), first * a.ratio
            products = (last - first) * a.ratio
            binary_matmul(bits, pairs, rows, a.words, panels, stored, products, a.start1, z, a.piece_rows)
            for c in range(first, last, LANES):
                hidden_tiles(rows, c, stored, c % a.period, a, const, scratch, layer_norms)
    elif ARM and a.ratio % 2 == 0:
        spread_rows(bits, rows, a.words, pairs)
        for c in range(0, a.width, LANES):
            hidden_pairs(rows, c, rows, c % a.period, a, const, scratch)
    else:
        for c in range(0, a.width, LANES):
            hidden_tiles(rows, c, 0, c % a.period, a, const, scratch, layer_norms)


@inline
def _wrap(i, side):
    """i mod side for i >= 0, without a division."""
    while i >= side:
        i -= side
    return i


@inline
def output_rows(first, rows, a, z, pooled, affine, taps, source, residual, out, layer_norms):
    """RPReLU(affine(z) + pool) -> layer scale + residual + shift stencil.

    The pool is a mean, but `pooled` holds sums: prelu(x/r) = prelu(x)/r, so the affine map is that times r and the
    layer scale takes the 1/r. affine: [width/LANES][r·scale, r·bias, slope - 1, out scale/r, out bias][LANES];
    taps: [width/LANES][9][LANES]. Under batch norm the source is the residual, and the centre tap holds its 1.

    Each stretch of a map row is walked with the five horizontal taps in registers: only one of them and the four
    vertical ones are loaded anew.
    """
    width, stride, side, block = a.width, a.stride, a.side, a.piece_rows
    step, shifts = side * stride, a.shifts
    for c in range(0, width, LANES):
        p = 5 * c
        scale, bias, slope = load(affine, p), load(affine, p + LANES), load(affine, p + 2 * LANES)
        out_scale, out_bias = load(affine, p + 3 * LANES), load(affine, p + 4 * LANES)
        t = c * block
        if not shifts:
            for o in range(first * stride + c, (first + rows) * stride + c, stride):
                u = prelu(fma(load(z, t), scale, bias) + load(pooled, t), slope)
                store(out, o, fma(u, out_scale, out_bias) + load(residual, o))
                t += LANES
            continue
        w = 9 * c
        w0, w1, w2 = load(taps, w), load(taps, w + LANES), load(taps, w + 2 * LANES)
        w3, w4, w5 = load(taps, w + 3 * LANES), load(taps, w + 4 * LANES), load(taps, w + 5 * LANES)
        w6, w7, w8 = load(taps, w + 6 * LANES), load(taps, w + 7 * LANES), load(taps, w + 8 * LANES)
        i = first
        while i < first + rows:
            y, x = i // side, i % side
            count = min(side - x, first + rows - i)
            row = y * step + c
            up1, up2 = (_wrap(y + side - 1, side) - y) * step, (_wrap(y + 2 * side - 2, side) - y) * step
            down1, down2 = (_wrap(y + 1, side) - y) * step, (_wrap(y + 2, side) - y) * step
            left2 = load(source, row + _wrap(x + 2 * side - 2, side) * stride)
            left1 = load(source, row + _wrap(x + side - 1, side) * stride)
            centre = load(source, row + x * stride)
            right1 = load(source, row + _wrap(x + 1, side) * stride)
            o, ahead = row + x * stride, row + _wrap(x + 2, side) * stride
            for _ in range(count):
                right2 = load(source, ahead)
                u = prelu(fma(load(z, t), scale, bias) + load(pooled, t), slope)
                s0 = fma(u, out_scale, fma(centre, w0, out_bias))
                s1 = load(source, o + up1) * w1
                s0 = fma(load(source, o + down1), w2, s0)
                s1 = fma(left1, w3, s1)
                s0 = fma(right1, w4, s0)
                s1 = fma(load(source, o + up2), w5, s1)
                s0 = fma(load(source, o + down2), w6, s0)
                s1 = fma(left2, w7, s1)
                s0 = fma(right2, w8, s0)
                s0 += s1
                if layer_norms:
                    s0 += load(residual, o)
                store(out, o, s0)
                left2, left1, centre, right1 = left1, centre, right1, right2
                o += stride
                t += LANES
                ahead += stride
                if ahead == row + step:
                    ahead = row
            i += count


@inline
def mlp_rows(piece, a, const, state, scratch, layer_norms):
    """One block of rows of the MLP."""
    first = piece * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    source, residual, out = floats_at(state, a.source), floats_at(state, a.residual), floats_at(state, a.out)
    hidden_bits, pooled, z = words_at(scratch, a.hidden_bits), floats_at(scratch, a.pooled), floats_at(scratch, a.z)
    prepare_rows(first, rows, a, source, const, scratch)
    hidden_layer(rows, a, const, scratch, layer_norms)
    pairs, panels, words = words_at(scratch, a.pairs), words_at(const, a.panels2), a.hidden_words
    binary_product(hidden_bits, pairs, rows, words, panels, a.width, a.start2, z, a.piece_rows)
    if layer_norms:
        prescale, valid = floats_at(const, a.prescale2), floats_at(const, a.valid)
        normalize_products(z, rows, a.piece_rows, a.width, a.channels, prescale, valid)
    affine, taps = floats_at(const, a.affine2), floats_at(const, a.taps)
    output_rows(first, rows, a, z, pooled, affine, taps, source, residual, out, layer_norms)


def mlp(piece, arguments, const, state, scratch):
    """MLP with batch norms."""
    mlp_rows(piece, record(arguments, MLP), const, state, scratch, False)


def mlp_ln(piece, arguments, const, state, scratch):
    """MLP with layer norms; `source` holds N2, normalised already."""
    mlp_rows(piece, record(arguments, MLP), const, state, scratch, True)
