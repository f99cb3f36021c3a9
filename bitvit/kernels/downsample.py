"""Downsampling by 2x2 patches: one float product (some-fp), or one binary product with a pooled shortcut (SPEC 7.7)."""

import numpy as np

from bitvit.kernels.catalog import BINARY_DOWN, FLOAT_DOWN, LANE_BITS
from bitvit.kernels.inline import inline
from bitvit.kernels.matmul import binary_product, float_matmul, half_dots
from bitvit.kernels.rows import extend_periodically, normalize_products, normalize_row
from bitvit.kernels.simd import (
    floats_at,
    fma,
    load,
    load_rows,
    prelu,
    record,
    splat,
    store,
    store_mask,
    store_rows,
    to_float,
    words_at,
)
from bitvit.kernels.target import LANES, LOOKUP
from bitvit.kernels.tiles import in_tiles


@inline
def gather_patches(first, rows, a, source, norm, patches):
    """patches[i] = norm of the four pixels of output token first + i, row-major, in_width channels each.

    norm: [in_width/LANES][scale, bias][LANES]. It could fold into the product, but then large means of x would pass
    through the sum and cancel there: three times the error for one fma a vector.
    """
    width, stride = a.in_width, a.in_stride
    for c in range(0, width, LANES):
        scale, bias = load(norm, 2 * c), load(norm, 2 * c + LANES)
        for i in range(rows):
            y, x = (first + i) // a.out_side, (first + i) % a.out_side
            pixel = (2 * y * a.side + 2 * x) * stride + c
            below, to = pixel + a.side * stride, 4 * i * width + c
            store(patches, to, fma(load(source, pixel), scale, bias))
            store(patches, to + width, fma(load(source, pixel + stride), scale, bias))
            store(patches, to + 2 * width, fma(load(source, below), scale, bias))
            store(patches, to + 3 * width, fma(load(source, below + stride), scale, bias))


@inline
def project_patches(piece, a, const, state, scratch):
    """out = W·norm0(patch) + bias for one piece; returns its rows: (first, how many).

    A small map is split into column pieces as well: seven tiles of rows would leave two threads out of balance.
    """
    first = piece // a.column_pieces * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    columns = a.width // a.column_pieces
    n = piece % a.column_pieces * columns
    patches = floats_at(scratch, a.patches)
    gather_patches(first, rows, a, floats_at(state, a.source), floats_at(const, a.norm), patches)
    out, bias = floats_at(state, a.out + first * a.stride + n), floats_at(const, a.bias + first * a.bias_stride + n)
    panels = floats_at(const, a.panels + n * 4 * a.in_width)
    float_matmul(patches, rows, 4 * a.in_width, panels, columns, bias, a.bias_stride, out, a.stride)
    return first, rows


def float_down(piece, arguments, const, state, scratch):
    """out = W'·norm0(patch) + offset of the token: the outer batch norm and the positions are folded."""
    project_patches(piece, record(arguments, FLOAT_DOWN), const, state, scratch)


def float_down_ln(piece, arguments, const, state, scratch):
    """out = LN(W·patch) + position; `source` is normalised already, `bias` is zero, and a piece has all columns."""
    a = record(arguments, FLOAT_DOWN)
    first, rows = project_patches(piece, a, const, state, scratch)
    out = floats_at(state, a.out + first * a.stride)
    affine, position = floats_at(const, a.affine), floats_at(const, a.position + first * a.width)
    for i in range(rows):
        o = i * a.stride
        normalize_row(out, o, 1, a.width, a.channels, floats_at(const, a.valid))
        for c in range(0, a.width, LANES):
            y = fma(load(out, o + c), load(affine, 2 * c), load(affine, 2 * c + LANES))
            store(out, o + c, y + load(position, i * a.width + c))


@inline
def pool_and_sign(first, rows, a, source, norm, bits, pooled):
    """Q = norm(x): signs of the four pixels (a.words // 4 words each) and their mean, extended periodically.

    norm: [in_width/LANES][scale, bias, threshold][LANES].
    """
    quarter = splat(np.float32(0.25))
    pixel_words = a.words // 4
    pooled_row = pooled_span(a)
    for i in range(rows):
        y, x = (first + i) // a.out_side, (first + i) % a.out_side
        for c in range(0, a.in_width, LANES):
            scale, bias = load(norm, 3 * c), load(norm, 3 * c + LANES)
            total = splat(np.float32(0))
            for tap in range(4):
                pixel = ((2 * y + tap // 2) * a.side + 2 * x + tap % 2) * a.in_stride
                q = fma(load(source, pixel + c), scale, bias)
                total += q
                store_mask(bits, (i * a.words + tap * pixel_words) * LANE_BITS + c, q > load(norm, 3 * c + 2 * LANES))
            store(pooled, i * pooled_row + c, total * quarter)
        extend_periodically(pooled, i * pooled_row, a.in_channels)


@inline
def pooled_span(a):
    """Floats of one pooled row: readable for LANES from any channel, writable by the periodic extension."""
    return a.in_width + 2 * LANES


@in_tiles
def binary_down_tile(m, height, c, a, first, const, state, scratch, layer_norms):
    """`binary_down_rows` for rows m … of the piece and channels c …"""
    out, affine, position = floats_at(state, a.out), floats_at(const, a.affine), floats_at(const, a.position)
    bits, pooled, z = words_at(scratch, a.bits), floats_at(scratch, a.pooled), floats_at(scratch, a.z)
    pooled_row = pooled_span(a)
    if layer_norms or LOOKUP:
        h = load_rows(z, c * a.piece_rows + m * LANES, LANES, height)
    else:
        panels = words_at(const, a.panels)
        h = to_float(half_dots(bits, m * a.words, a.words, panels, c * a.words, a.start, height))
    mean = load_rows(pooled, m * pooled_row + c % a.in_channels, pooled_row, height)
    u = fma(h, load(affine, 3 * c), load(affine, 3 * c + LANES)) + mean
    u = prelu(u, load(affine, 3 * c + 2 * LANES))
    at = (first + m) * a.stride + c
    store_rows(out, at, a.stride, u + load_rows(position, (first + m) * a.width + c, a.width, height))


@inline
def binary_down_rows(piece, a, const, state, scratch, layer_norms):
    """RPReLU(affine(product) + tiled mean) + position; affine: [width/LANES][scale, bias, slope - 1][LANES]."""
    first = piece * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    bits, pooled, z = words_at(scratch, a.bits), floats_at(scratch, a.pooled), floats_at(scratch, a.z)
    pool_and_sign(first, rows, a, floats_at(state, a.source), floats_at(const, a.norm), bits, pooled)
    if layer_norms or LOOKUP:
        pairs, panels = words_at(scratch, a.pairs), words_at(const, a.panels)
        binary_product(bits, pairs, rows, a.words, panels, a.width, a.start, z, a.piece_rows)
    if layer_norms:
        valid = floats_at(const, a.valid)
        normalize_products(z, rows, a.piece_rows, a.width, a.channels, floats_at(const, a.prescale), valid)
    for c in range(0, a.width, LANES):
        binary_down_tile(rows, c, a, first, const, state, scratch, layer_norms)


def binary_down(piece, arguments, const, state, scratch):
    """Binary downsampling, batch norms."""
    binary_down_rows(piece, record(arguments, BINARY_DOWN), const, state, scratch, False)


def binary_down_ln(piece, arguments, const, state, scratch):
    """Binary downsampling, layer norms; `source` is normalised already."""
    binary_down_rows(piece, record(arguments, BINARY_DOWN), const, state, scratch, True)
