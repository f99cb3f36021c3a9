"""The middle of attention, one window and head: scores -> softmax -> bit planes, by either quantizer (SPEC 7.4.6).

Scores are integers, s = d - 2·popcount(q xor k), so softmax numerators are exp(-2j/√d), j = popcount - least popcount.
What a quantizer makes of probabilities are planes of bits, and planes weigh values in kernels/attention.py.
"""

import numpy as np

from bitvit.kernels.attention import attend_head, weigh_values
from bitvit.kernels.catalog import ATTEND, LANE_BITS
from bitvit.kernels.inline import inline
from bitvit.kernels.simd import (
    count_bits,
    exp2,
    floats_at,
    fma,
    load,
    load_rows,
    minimum_int,
    record,
    row_mins,
    row_sums,
    splat,
    splat_rows,
    store_mask_rows,
    store_rows,
    to_float,
    words_at,
)
from bitvit.kernels.target import LANES
from bitvit.kernels.tiles import in_tiles_of

QUANTIZED_ROWS = 4  # side by side: a row alone would wait for its least score, its sum and its quotient


@inline
def softmax_tile(q, height, a, at, const, scratch):
    """Scores of rows q … become exp(-2j/√d) (0 for padding keys); returns each row's sum in all of its lanes.

    at: where the scores of row 0 begin, which the numerators take the place of. The largest is exactly 1. The
    quantizer's table begins with -2·log2(e)/√d as a high part of 12 bits, whose product with j is exact, and a low
    part. The key table holds [penalty (int32)][present][floor] of keys_padded entries each: 0, 1, 0 for a key and 2^20,
    0, -1e30 for padding.
    """
    scores, numerators, n = words_at(scratch, at), floats_at(scratch, at), a.keys_padded
    penalties, keys, steps = (
        words_at(const, a.keys_table),
        floats_at(const, a.keys_table),
        floats_at(const, a.quantizer),
    )
    step_high, step_low = splat(steps[0]), splat(steps[1])
    least = load_rows(scores, q * n, n, height) + load(penalties, 0)
    for k in range(LANES, n, LANES):
        least = minimum_int(least, load_rows(scores, q * n + k, n, height) + load(penalties, k))
    least = row_mins(least)
    total = splat_rows(np.float32(0), height)
    for k in range(0, n, LANES):
        j = to_float(load_rows(scores, q * n + k, n, height) - least)
        e = exp2(j * step_high, j * step_low) * load(keys, n + k)
        store_rows(numerators, q * n + k, n, e)
        total += e
    return row_sums(total)


@inline
def count_planes(first, rows, a, scratch):
    """counts <- 1 bits of rows of each plane."""
    planes, counts, words = words_at(scratch, a.plane_words), words_at(scratch, a.counts), a.token_words
    for p in range(a.planes):
        for r in range(p * a.rows_padded + first, p * a.rows_padded + first + rows):
            count = np.uint32(0)
            for w in range(words):
                count += count_bits(planes[r * words + w])
            counts[r] = count


# --------------------------------------------------------------------------------------------------------------- levels
@in_tiles_of(QUANTIZED_ROWS)
def levels_tile(q, height, head, first, at, a, const, scratch):
    """Rows first + q … of the planes of levels, from scores q …

    quantizer: float32 [2] steps, then [head][alpha, zero point]. level = clamp(rint(3P/alpha + zero), 0, 3), half to
    even: level >= 1 for > 0.5, >= 2 for >= 1.5, 3 for > 2.5. Planes: low = bit 0, high = bit 1.
    """
    quantizer, keys = floats_at(const, a.quantizer), floats_at(const, a.keys_table)
    numerators, planes = floats_at(scratch, at), words_at(scratch, a.plane_words)
    n, row_bits = a.keys_padded, a.token_words * LANE_BITS
    low, high = (first + q) * row_bits, (a.rows_padded + first + q) * row_bits
    alpha, zero = splat(quantizer[2 + 2 * head]), splat(quantizer[3 + 2 * head])
    factor = splat(np.float32(3)) / (alpha * softmax_tile(q, height, a, at, const, scratch))
    for k in range(0, n, LANES):
        offset = fma(load(keys, n + k), zero, load(keys, 2 * n + k))
        r = fma(load_rows(numerators, q * n + k, n, height), factor, offset)
        two = r >= splat(np.float32(1.5))
        odd = (r > splat(np.float32(0.5))) ^ two ^ (r > splat(np.float32(2.5)))
        store_mask_rows(planes, low + k, row_bits, odd)
        store_mask_rows(planes, high + k, row_bits, two)


@inline
def levels_weights(head, a, const, scratch):
    """What the planes weigh: alpha, and twice that."""
    alpha, weights = floats_at(const, a.quantizer)[2 + 2 * head], floats_at(scratch, a.weights)
    weights[0] = alpha
    weights[1] = alpha + alpha
    return weights


# ------------------------------------------------------------------------------------------------------------------ gsb
@in_tiles_of(QUANTIZED_ROWS)
def gsb_tile(q, height, _head, first, at, a, const, scratch):
    """Rows first + q … of the gsb quantizer's planes, from scores q …

    quantizer: float32 [2] steps, then raw step a, limits of the two masks (0.9 and 0.7 of the row's largest numerator,
    which is 1; never for a <= 0) and three plane weights. Planes: base (P/a > 0.5), t1 (> 0.7·max), t2 (> 0.9·max).
    """
    quantizer, numerators = floats_at(const, a.quantizer), floats_at(scratch, at)
    planes, n, row_bits = words_at(scratch, a.plane_words), a.keys_padded, a.token_words * LANE_BITS
    factor = splat(np.float32(1)) / (splat(quantizer[2]) * softmax_tile(q, height, a, at, const, scratch))
    base, plane_bits = (first + q) * row_bits, a.rows_padded * row_bits
    for k in range(0, n, LANES):
        e = load_rows(numerators, q * n + k, n, height)
        store_mask_rows(planes, base + k, row_bits, e * factor > splat(np.float32(0.5)))
        store_mask_rows(planes, base + plane_bits + k, row_bits, e > splat(quantizer[4]))
        store_mask_rows(planes, base + 2 * plane_bits + k, row_bits, e > splat(quantizer[3]))


@inline
def gsb_weights(_head, a, const, _scratch):
    """What the planes weigh."""
    return floats_at(const, a.quantizer + 5)


# -------------------------------------------------------------------------------------------------------------- kernels
@inline
def attend(piece, a, const, state, scratch, quantize, plane_weights, planes):
    """One window and head, with a quantizer of so many planes."""
    window, head = attend_head(piece, a, state, scratch)
    rows = a.window_tokens + a.merged
    quantize(rows, head, 0, a.scores, a, const, scratch)
    count_planes(0, rows, a, scratch)
    weigh_values(a, window, head, plane_weights(head, a, const, scratch), planes, state, scratch)


def attend_levels(piece, arguments, const, state, scratch):
    """One window and head with the multi-level quantizer."""
    attend(piece, record(arguments, ATTEND), const, state, scratch, levels_tile, levels_weights, 2)


def attend_gsb(piece, arguments, const, state, scratch):
    """One window and head with the gsb quantizer."""
    attend(piece, record(arguments, ATTEND), const, state, scratch, gsb_tile, gsb_weights, 3)
