"""Attention over windows of one pixel, as images have whose sides are powers of two (SPEC 7.4).

There are as many merged tokens as windows, M, so window by window (attention.py) most of the work is done M times: the
merged tokens see each other in every window, and two windows differ by their pixel alone. A merged token's query is at
a distance popcount(q xor k) of 0 … d from a pixel's key, and with that distance its whole row of scores is known, the
levels made of it too, and but for the pixel's value, ±1, its context. So for each merged token there is a row of planes
a distance that occurs, whose context is computed twice, without the pixel's value and with it; windows choose.

A piece is some rows of one head: pixels, and the merged tokens of the same numbers in all windows. Where no layer norm
sees whole rows of context, what `coarsen` would make of the windows' rows is done here at once.
"""

import numpy as np

from bitvit.kernels.attention import copy_head, count_common, score, transpose_values
from bitvit.kernels.catalog import ATTEND_PIXELS, LANE_BITS
from bitvit.kernels.inline import inline
from bitvit.kernels.quantizers import count_planes, gsb_tile, gsb_weights, levels_tile, levels_weights
from bitvit.kernels.simd import (
    broadcast,
    broadcast_rows,
    count_bits,
    floats_at,
    fma,
    ints_at,
    load,
    load_rows,
    prelu,
    record,
    shift_right,
    splat,
    splat_rows,
    store,
    store_rows,
    store_rows_first,
    to_float,
    where_sign,
    words_at,
)
from bitvit.kernels.target import LANES
from bitvit.kernels.tiles import in_tiles


@inline
def gather_head(head, first, rows, a, state, scratch):
    """Bits of one head: queries of rows first …, keys and values of all tokens."""
    signs = words_at(state, a.signs)
    queries, keys, values = words_at(scratch, a.queries), words_at(scratch, a.keys), words_at(scratch, a.merged_values)
    pixel_keys, pixel_values = words_at(scratch, a.pixel_keys), words_at(scratch, a.pixel_values)
    words, plane, part = a.key_words, a.plane, a.row_words * a.plane
    for w in range(words):
        bit = head * a.head_dim + w * LANE_BITS
        q, shift, bits_left = bit // LANE_BITS * plane, bit % LANE_BITS, a.head_dim - w * LANE_BITS
        k, v = q + part, q + 2 * part
        to = w * a.queries_padded
        copy_head(signs, q + first, plane, shift, bits_left, rows, queries, to)
        copy_head(signs, q + a.merged + first, plane, shift, bits_left, rows, queries, to + words * a.queries_padded)
        to = w * a.pixels_padded
        copy_head(signs, k, plane, shift, bits_left, a.merged, pixel_keys, to)
        copy_head(signs, v, plane, shift, bits_left, a.merged, pixel_values, to)
        to = w * a.keys_padded
        copy_head(signs, k + a.merged, plane, shift, bits_left, a.merged, keys, to + 1)
        copy_head(signs, v + a.merged, plane, shift, bits_left, a.merged, values, to + 1)
        keys[to], values[to] = np.uint32(0), np.uint32(0)  # the last copies wrote beyond their row, to here
    transpose_values(values, a, words_at(scratch, a.transposed))


@inline
def spread_signs(a, const, scratch):
    """pixel_signs[pixel][channel] <- a word whose bit 31 is the value's bit."""
    values, signs = words_at(scratch, a.pixel_values), words_at(scratch, a.pixel_signs)
    to_bit_31 = load(words_at(const, a.sign_places), 0)  # a product with 2^(31 - lane) shifts bit `lane` there
    for i in range(a.merged):
        for c in range(0, a.dim_padded, LANES):
            word = broadcast(values, c // LANE_BITS * a.pixels_padded + i)
            store(signs, i * a.dim_padded + c, shift_right(word, c % LANE_BITS) * to_bit_31)


@inline
def half_values(q, height, p, values, dim, words, planes, counts, rows):
    """2·popcount(plane & v) - popcount(plane) of rows q … of plane p, less the pixel's value; and the pixel's bit."""
    r = p * rows + q
    acc = count_common(values, dim, planes, r * words, words, height)
    pixel = broadcast_rows(planes, r * words, words, height) & splat(np.uint32(1))
    return acc + acc - broadcast_rows(counts, r, 1, height), pixel


@in_tiles
def weigh_tile(q, height, values, dim, words, planes, counts, rows, signs, weights, count, out):
    """out[q …] <- context of rows q … of planes, each with the value of pixel q …"""
    own = shift_right(load_rows(signs, q * dim, dim, height), 31)
    total = splat_rows(np.float32(0), height)
    for p in range(count):
        value, bit = half_values(q, height, p, values, dim, words, planes, counts, rows)
        bit = bit & own
        total = fma(to_float(value + bit + bit), splat(weights[p]), total)
    store_rows(out, q * LANES, LANES, total)


@in_tiles
def weigh_both_tile(
    q, height, values, dim, words, planes, counts, rows, weights, count, scale, bias, slope, shortcut, out, finishes
):
    """out[q …][2] <- context of rows q … of planes for a pixel's value of 0, and of 1; finished, or as it is.

    Finished is RPReLU(affine(context) + U_q + U_k + U_v), as `context_value` in attention.py.
    """
    without, with_ = splat_rows(np.float32(0), height), splat_rows(np.float32(0), height)
    for p in range(count):
        value, bit = half_values(q, height, p, values, dim, words, planes, counts, rows)
        without = fma(to_float(value), splat(weights[p]), without)
        with_ = fma(to_float(value + bit + bit), splat(weights[p]), with_)
    if finishes:
        without = prelu(fma(without, scale, bias) + shortcut, slope)
        with_ = prelu(fma(with_, scale, bias) + shortcut, slope)
    store_rows(out, 2 * q * LANES, 2 * LANES, without)
    store_rows(out, (2 * q + 1) * LANES, 2 * LANES, with_)


@inline
def store_part(array, at, value, channels):
    """Store a vector, or as much of it as the head has channels: the next ones are another's."""
    if channels < LANES:
        store_rows_first(array, at, 0, value, channels)
    else:
        store(array, at, value)


@inline
def set_scores(m, row, distance, a, const, scratch):
    """The row of scores of merged token m in windows whose pixels are at a distance from it."""
    scores, row_scores, n = words_at(scratch, a.scores), words_at(scratch, a.row_scores), a.keys_padded
    first = load(words_at(const, a.sign_places), 0)  # whose bit 31 is 1 in lane 0 alone
    store(row_scores, row * n, where_sign(first, splat(np.uint32(distance)), load(scores, m * n)))
    for k in range(LANES, n, LANES):
        store(row_scores, row * n + k, load(scores, m * n + k))


@inline
def attend_fine(head, first, rows, a, const, state, scratch, quantize, weights, count):
    """Context of pixels first …, whose keys are themselves and the merged tokens."""
    queries, keys, pixel_keys = words_at(scratch, a.queries), words_at(scratch, a.keys), words_at(scratch, a.pixel_keys)
    words, dim, head_dim = a.key_words, a.dim_padded, a.head_dim
    score(rows, words, queries, a.queries_padded, keys, a.keys_padded, words_at(scratch, a.scores))
    for i in range(rows):
        own = np.uint32(0)
        for w in range(words):
            own += count_bits(queries[w * a.queries_padded + i] ^ pixel_keys[w * a.pixels_padded + first + i])
        set_scores(i, i, own, a, const, scratch)
    quantize(rows, head, 0, a.row_scores, a, const, scratch)
    count_planes(0, rows, a, scratch)
    planes, counts, plane_rows = words_at(scratch, a.plane_words), words_at(scratch, a.counts), a.rows_padded
    values, row = floats_at(scratch, a.values), a.context_rows * a.stride
    context, words = floats_at(state, a.context + first * row + head * head_dim), a.token_words
    for c in range(0, dim, LANES):
        merged_values = words_at(scratch, a.transposed + c)
        signs = words_at(scratch, a.pixel_signs + first * dim + c)
        weigh_tile(rows, merged_values, dim, words, planes, counts, plane_rows, signs, weights, count, values)
        for i in range(rows):
            store_part(context, i * row + c, load(values, i * LANES), head_dim - c)


@inline
def find_distances(m, a, const, scratch):
    """A row of scores of merged token m for each distance from it that occurs; returns how many do."""
    distances, slots = ints_at(scratch, a.pixel_scores + m * a.pixels_padded), ints_at(scratch, a.slots)
    found = 0
    for i in range(a.merged):
        slots[distances[i]] = -1
    for i in range(a.merged):
        distance = distances[i]
        if slots[distance] < 0:
            slots[distance] = found
            set_scores(m, a.piece_rows + found, distance, a, const, scratch)
            found += 1
    return found


@inline
def attend_merged(head, first, rows, a, const, state, scratch, quantize, weights, count, layer_norms):
    """Context of merged tokens first … in all windows; or, without layer norms, its mean when finished."""
    merged, words, dim, head_dim, pixels = a.merged, a.key_words, a.dim_padded, a.head_dim, a.pixels_padded
    queries = words_at(scratch, a.queries + words * a.queries_padded)
    score(rows, words, queries, a.queries_padded, words_at(scratch, a.keys), a.keys_padded, words_at(scratch, a.scores))
    pixel_keys, pixel_scores = words_at(scratch, a.pixel_keys), words_at(scratch, a.pixel_scores)
    score(rows, words, queries, a.queries_padded, pixel_keys, pixels, pixel_scores)

    out, slots = floats_at(scratch, a.values), ints_at(scratch, a.slots)
    row_scores = a.row_scores + a.piece_rows * a.keys_padded
    planes = words_at(scratch, a.plane_words + a.piece_rows * a.token_words)
    counts, plane_rows = words_at(scratch, a.counts + a.piece_rows), a.rows_padded
    share, words = splat(np.float32(1) / np.float32(merged)), a.token_words
    for i in range(rows):
        found = find_distances(i, a, const, scratch)
        quantize(found, head, a.piece_rows, row_scores, a, const, scratch)
        count_planes(a.piece_rows, found, a, scratch)
        m, channel, affine_row = first + i, head * head_dim, a.width + LANES
        distances, affine = ints_at(scratch, a.pixel_scores + i * pixels), floats_at(const, a.affine + channel)
        shortcut = floats_at(state, a.shortcut + (merged + m) * a.stride + channel)
        coarse, row = floats_at(state, a.coarse + m * a.width + channel), a.context_rows * a.stride
        context = floats_at(state, a.context + (1 + m) * a.stride + channel)
        for c in range(0, dim, LANES):
            values, signs = words_at(scratch, a.transposed + c), words_at(scratch, a.pixel_signs + c)
            scale, bias, slope = load(affine, c), load(affine, affine_row + c), load(affine, 2 * affine_row + c)
            u = load(shortcut, c)
            weigh_both_tile(
                found, values, dim, words, planes, counts, plane_rows, weights, count,
                scale, bias, slope, u, out, not layer_norms,
            )  # fmt: skip
            total = splat(np.float32(0))
            for window in range(merged):
                at = 2 * np.int64(slots[distances[window]]) * LANES
                value = where_sign(load(signs, window * dim), load(out, at + LANES), load(out, at))
                if layer_norms:
                    store_part(context, window * row + c, value, head_dim - c)
                else:
                    total += value
            if not layer_norms:
                store_part(coarse, c, total * share, head_dim - c)


@inline
def attend(piece, arguments, const, state, scratch, quantize, plane_weights, planes, layer_norms):
    """Some rows of a head, with a quantizer of so many planes."""
    a = record(arguments, ATTEND_PIXELS)
    head, first = piece % a.heads, piece // a.heads * a.piece_rows
    rows = min(a.piece_rows, a.merged - first)
    gather_head(head, first, rows, a, state, scratch)
    spread_signs(a, const, scratch)
    weights = plane_weights(head, a, const, scratch)
    attend_fine(head, first, rows, a, const, state, scratch, quantize, weights, planes)
    attend_merged(head, first, rows, a, const, state, scratch, quantize, weights, planes, layer_norms)


def attend_pixels_levels(piece, arguments, const, state, scratch):
    """Rows of a head with the multi-level quantizer, batch norms."""
    attend(piece, arguments, const, state, scratch, levels_tile, levels_weights, 2, False)


def attend_pixels_levels_ln(piece, arguments, const, state, scratch):
    """Rows of a head with the multi-level quantizer, layer norms."""
    attend(piece, arguments, const, state, scratch, levels_tile, levels_weights, 2, True)


def attend_pixels_gsb(piece, arguments, const, state, scratch):
    """Rows of a head with the gsb quantizer, batch norms."""
    attend(piece, arguments, const, state, scratch, gsb_tile, gsb_weights, 3, False)


def attend_pixels_gsb_ln(piece, arguments, const, state, scratch):
    """Rows of a head with the gsb quantizer, layer norms."""
    attend(piece, arguments, const, state, scratch, gsb_tile, gsb_weights, 3, True)
