"""Stem: image norm -> 4x4 patches -> float product -> norm -> GELU -> + positions (SPEC 7.1, 7.9.1)."""

import numpy as np

from bitvit.kernels.catalog import DEPTH, IMAGE, IMAGE_NORM, PATCH, STEM, SUM_LANES
from bitvit.kernels.inline import inline
from bitvit.kernels.matmul import float_matmul
from bitvit.kernels.rows import EPS, normalize_row, sum_lanes
from bitvit.kernels.simd import (
    at,
    bytes_at_address,
    erf,
    floats_at,
    floats_at_address,
    fma,
    load,
    record,
    splat,
    store,
    store_fours,
    words_at,
)
from bitvit.kernels.target import LANES

CHUNK = 16 * SUM_LANES  # values of an image that are added in float32
ADDRESS, ROW_BYTES, PIXEL_BYTES, CROP, PAD, TABLE = range(len(IMAGE.names or ()))


@inline
def image_field(state, image, field):
    """A field of the record IMAGE in the state, by its number."""
    cell = words_at(state, image + 2 * field)
    return np.int64(cell[0]) | (np.int64(cell[1]) << 32)


def image_norm(piece, arguments, const, state, scratch):
    """(mean, scale, bias) of channel `piece`: its values become (value - mean)·scale + bias.

    Sums of CHUNK values in float32, of chunks in float64; the variance is summed around the mean.
    """
    a = record(arguments, IMAGE_NORM)
    image, sums = floats_at_address(image_field(state, a.image, ADDRESS)), floats_at(scratch, a.sums)
    affine, out = floats_at(const, a.affine), floats_at(state, a.out)
    count = a.image_side * a.image_side
    first = piece * count
    pivot = image[first]  # near the mean, which so costs the sums no digits
    mean = np.float64(pivot) + sum_image(image, first, count, pivot, False, sums) / np.float64(count)
    nearest = np.float32(mean)  # what the rounding leaves is added to the bias
    variance = sum_image(image, first, count, nearest, True, sums) / np.float64(count)
    scale = np.float64(affine[piece]) / np.sqrt(variance + np.float64(EPS))
    out[3 * piece] = nearest
    out[3 * piece + 1] = np.float32(scale)
    out[3 * piece + 2] = np.float32(np.float64(affine[3 + piece]) - (mean - np.float64(nearest)) * scale)


@inline
def sum_image(image, first, count, centre, square, sums):
    """Σ (x - centre) or its squares over image[first : first + count], float64."""
    total = np.float64(0)
    whole = count // SUM_LANES * SUM_LANES
    for start in range(0, whole, CHUNK):
        for lane in range(0, SUM_LANES, LANES):
            part = splat(np.float32(0))
            for p in range(start + lane, min(start + CHUNK, whole), SUM_LANES):
                x = load(image, first + p) - splat(centre)
                part = fma(x, x, part) if square else part + x
            store(sums, lane, part)
        total += np.float64(sum_lanes(sums))
    for p in range(whole, count):
        x = np.float64(image[first + p] - centre)
        total += x * x if square else x
    return total


@inline
def normalize_patches(rows, norm, patches):
    """patches <- (patches - mean)·scale + bias of their channels."""
    for start in range(0, rows * DEPTH, DEPTH):
        for c in range(3):
            mean, scale, bias = splat(norm[3 * c]), splat(norm[3 * c + 1]), splat(norm[3 * c + 2])
            for p in range(start + c * PATCH * PATCH, start + (c + 1) * PATCH * PATCH, LANES):
                store(patches, p, fma(load(patches, p) - mean, scale, bias))


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
def gather_bytes(first, rows, side, state, image, patches):
    """What `gather_patches` does, from bytes, which the table normalises; black around them."""
    pixels = bytes_at_address(image_field(state, image, ADDRESS))
    row_bytes, pixel_bytes = image_field(state, image, ROW_BYTES), image_field(state, image, PIXEL_BYTES)
    crop, pad = image_field(state, image, CROP), image_field(state, image, PAD)
    table = floats_at_address(image_field(state, image, TABLE))
    for i in range(rows):
        top, left = (first + i) // side * PATCH - pad, (first + i) % side * PATCH - pad
        inside = min(top, left) >= 0 and max(top, left) + PATCH <= crop
        for dy in range(PATCH):
            pixel, to = (top + dy) * row_bytes + left * pixel_bytes, i * DEPTH + dy * PATCH
            for dx in range(PATCH):
                seen = inside or (0 <= top + dy < crop and 0 <= left + dx < crop)
                for c in range(3):
                    value = np.int64(at(pixels, pixel + dx * pixel_bytes + c)) if seen else np.int64(0)
                    patches[to + c * PATCH * PATCH + dx] = at(table, c * 256 + value)


@inline
def gelu(x):
    """x·½·(1 + erf(x/√2)), the exact form."""
    half = x * splat(np.float32(0.5))
    return fma(half, erf(x * splat(np.float32(0.7071067811865476))), half)


@inline
def stem_rows(first, rows, a, state, const, scratch):
    """The patches' product, before norm; written to its place in `out`."""
    patches = floats_at(scratch, a.patches)
    if image_field(state, a.image, PIXEL_BYTES):
        gather_bytes(first, rows, a.side, state, a.image, patches)
    else:
        planes = floats_at_address(image_field(state, a.image, ADDRESS))
        gather_patches(first, rows, a.side, a.image_side, planes, patches)
    if a.image_norm >= 0:
        normalize_patches(rows, floats_at(state, a.image_norm), patches)
    out, bias = floats_at(state, a.out + first * a.stride), floats_at(const, a.bias + first * a.bias_stride)
    float_matmul(patches, rows, DEPTH, floats_at(const, a.panels), a.width, bias, a.bias_stride, out, a.stride)


def stem(piece, arguments, const, state, scratch):
    """Stem with the batch norm folded into weights and bias."""
    a = record(arguments, STEM)
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
    a = record(arguments, STEM)
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
