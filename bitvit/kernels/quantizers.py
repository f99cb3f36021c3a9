"""The middle of attention, one window and head: scores -> softmax -> bit planes, by either quantizer (SPEC 7.4.6).

Scores are integers, s = d - 2·popcount(q xor k), so softmax numerators are exp(-2j/√d), j = popcount - least popcount.
What a quantizer makes of probabilities are planes of bits, and planes weigh values in kernels/attention.py.
"""

import numpy as np
from numba import carray

from bitvit.kernels.attention import attend_head, weigh_values
from bitvit.kernels.catalog import ATTEND, LANE_BITS
from bitvit.kernels.inline import inline
from bitvit.kernels.simd import (
    count_bits,
    exp2,
    floats_at,
    fma,
    lane_min,
    lane_sum,
    load,
    minimum_int,
    splat,
    store,
    store_mask,
    to_float,
    words_at,
)
from bitvit.kernels.target import LANES


@inline
def softmax_row(q, n, steps, scores, numerators, keys, penalties):
    """numerators[q][key] <- exp(-2j/√d) (0 for padding keys); returns their sum.

    The largest is exactly 1. steps = -2·log2(e)/√d as a high part of 12 bits, whose product with j is exact, and a low
    part. The key table holds [penalty (int32)][present][floor] of n entries each: 0, 1, 0 for a key and 2^20, 0,
    -1e30 for padding, seen here as words (penalties) and as floats (keys).
    """
    step_high, step_low = splat(steps[0]), splat(steps[1])
    least = load(scores, q * n) + load(penalties, 0)
    for k in range(LANES, n, LANES):
        least = minimum_int(least, load(scores, q * n + k) + load(penalties, k))
    least = splat(lane_min(least))
    total = splat(np.float32(0))
    for k in range(0, n, LANES):
        j = to_float(load(scores, q * n + k) - least)
        e = exp2(j * step_high, j * step_low) * load(keys, n + k)
        store(numerators, q * n + k, e)
        total += e
    return lane_sum(total)


@inline
def count_plane(planes, at, words):
    """Number of 1 bits of one row of a bit plane."""
    count = np.uint32(0)
    for w in range(words):
        count += count_bits(planes[at + w])
    return count


@inline
def softmax_buffers(a, const, scratch):
    """What a quantizer reads and writes: (its table, key table, scores, numerators, planes, counts).

    Numerators take the place of the scores that they are made of.
    """
    quantizer, keys = floats_at(const, a.quantizer), floats_at(const, a.keys_table)
    scores, numerators = words_at(scratch, a.scores), floats_at(scratch, a.scores)
    return quantizer, keys, scores, numerators, words_at(scratch, a.plane_words), words_at(scratch, a.counts)


def attend_levels(piece, arguments, const, state, scratch):
    """One window and head with the multi-level quantizer.

    quantizer: float32 [2] steps, then [head][alpha, zero point]. level = clamp(rint(3P/alpha + zero), 0, 3), half to
    even: level >= 1 for > 0.5, >= 2 for >= 1.5, 3 for > 2.5. Planes: low = bit 0 (weight alpha), high = bit 1 (twice).
    """
    a = carray(arguments, 1, ATTEND)[0]
    window, head = attend_head(piece, a, state, scratch)
    quantizer, keys, scores, numerators, planes, counts = softmax_buffers(a, const, scratch)
    n, words, rows = a.keys_padded, a.token_words, a.rows_padded
    alpha, zero = quantizer[2 + 2 * head], quantizer[3 + 2 * head]
    for q in range(a.window_tokens + a.merged):
        total = softmax_row(q, n, quantizer, scores, numerators, keys, words_at(const, a.keys_table))
        factor = splat(np.float32(3) / (alpha * total))
        low, high = q * words, (rows + q) * words
        for k in range(0, n, LANES):
            offset = fma(load(keys, n + k), splat(zero), load(keys, 2 * n + k))
            r = fma(load(numerators, q * n + k), factor, offset)
            two = r >= splat(np.float32(1.5))
            store_mask(planes, low * LANE_BITS + k, (r > splat(np.float32(0.5))) ^ two ^ (r > splat(np.float32(2.5))))
            store_mask(planes, high * LANE_BITS + k, two)
        counts[q] = count_plane(planes, low, words)
        counts[rows + q] = count_plane(planes, high, words)
    weights = floats_at(scratch, a.weights)
    weights[0] = alpha
    weights[1] = alpha + alpha
    weigh_values(a, window, head, weights, state, scratch)


def attend_gsb(piece, arguments, const, state, scratch):
    """One window and head with the gsb quantizer.

    quantizer: float32 [2] steps, then raw step a, limits of the two masks (0.9 and 0.7 of the row's largest numerator,
    which is 1; never for a <= 0) and three plane weights. Planes: base (P/a > 0.5), t1 (> 0.7·max), t2 (> 0.9·max).
    """
    a = carray(arguments, 1, ATTEND)[0]
    window, head = attend_head(piece, a, state, scratch)
    quantizer, keys, scores, numerators, planes, counts = softmax_buffers(a, const, scratch)
    n, words, rows = a.keys_padded, a.token_words, a.rows_padded
    for q in range(a.window_tokens + a.merged):
        total = softmax_row(q, n, quantizer, scores, numerators, keys, words_at(const, a.keys_table))
        factor = splat(np.float32(1) / (quantizer[2] * total))
        base, t1, t2 = q * words, (rows + q) * words, (2 * rows + q) * words
        for k in range(0, n, LANES):
            e = load(numerators, q * n + k)
            store_mask(planes, base * LANE_BITS + k, e * factor > splat(np.float32(0.5)))
            store_mask(planes, t1 * LANE_BITS + k, e > splat(quantizer[4]))
            store_mask(planes, t2 * LANE_BITS + k, e > splat(quantizer[3]))
        counts[q] = count_plane(planes, base, words)
        counts[rows + q] = count_plane(planes, t1, words)
        counts[2 * rows + q] = count_plane(planes, t2, words)
    weigh_values(a, window, head, floats_at(const, a.quantizer + 5), state, scratch)
