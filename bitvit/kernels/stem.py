"""Stem: 4x4 patches -> float product -> norm -> GELU -> + positions (SPEC 7.1)."""

import numpy as np
from numba import carray

from bitvit.kernels.catalog import DEPTH, PATCH, STEM
from bitvit.kernels.inline import inline
from bitvit.kernels.matmul import float_matmul
from bitvit.kernels.rows import normalize_row
from bitvit.kernels.simd import erf, floats_at, floats_at_address, fma, load, splat, store, store_fours, words_at
from bitvit.kernels.target import LANES


@inline
def gather_patches(first, rows, side, image_side, image, patches):
    """patches[i] = the 48 pixels of token first + i in (channel, y, x) order; image: float32 [3][S][S]."""
    i = 0
    while i < rows:
        y, x = (first + i) // side, (first + i) % side
        together = min(rows - i, side - x) >= LANES // PATCH  # so many tokens' pixels are one vector load
        for c in range(3):
            for dy in range(PATCH):
                pixel = (c * image_side + y * PATCH + dy) * image_side + x * PATCH
                to = i * DEPTH + (c * PATCH + dy) * PATCH
                if together:
                    store_fours(patches, to, DEPTH, load(image, pixel))
                else:
                    for dx in range(PATCH):
                        patches[to + dx] = image[pixel + dx]
        i += LANES // PATCH if together else 1


@inline
def gelu(x):
    """x·½·(1 + erf(x/√2)), the exact form."""
    half = x * splat(np.float32(0.5))
    return fma(half, erf(x * splat(np.float32(0.7071067811865476))), half)


@inline
def stem_rows(first, rows, a, state, const, scratch):
    """The patches' product, before norm; written to its place in `out`."""
    cell = words_at(state, a.pixels)
    image = floats_at_address(np.int64(cell[0]) | (np.int64(cell[1]) << 32))
    patches = floats_at(scratch, a.patches)
    gather_patches(first, rows, a.side, a.image_side, image, patches)
    out = floats_at(state, a.out + first * a.stride)
    float_matmul(patches, rows, DEPTH, floats_at(const, a.panels), a.width, floats_at(const, a.bias), 0, out, a.stride)


def stem(piece, arguments, const, state, scratch):
    """Stem with the batch norm folded into weights and bias."""
    a = carray(arguments, 1, STEM)[0]
    first = piece * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    stem_rows(first, rows, a, state, const, scratch)
    out, position = floats_at(state, a.out), floats_at(const, a.position)
    for i in range(first, first + rows):
        for c in range(0, a.width, LANES):
            o = i * a.stride + c
            store(out, o, gelu(load(out, o)) + load(position, i * a.width + c))


def stem_ln(piece, arguments, const, state, scratch):
    """Stem with layer norm."""
    a = carray(arguments, 1, STEM)[0]
    first = piece * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    stem_rows(first, rows, a, state, const, scratch)
    out, position, norm = floats_at(state, a.out), floats_at(const, a.position), floats_at(const, a.norm)
    for i in range(first, first + rows):
        normalize_row(out, i * a.stride, 1, a.width, a.channels, floats_at(const, a.valid))
        for c in range(0, a.width, LANES):
            o = i * a.stride + c
            y = fma(load(out, o), load(norm, 2 * c), load(norm, 2 * c + LANES))
            store(out, o, gelu(y) + load(position, i * a.width + c))
