"""Head: mean over the tokens, or another pooling of them, norm, classifier (SPEC 7.2, 7.9.4, 7.9.5)."""

import numpy as np

from bitvit.kernels.catalog import CLASSIFY, CLASSIFY_COLUMNS, POOL, SUM_LANES, TOKEN_WEIGHTS, WEIGHTED_POOL
from bitvit.kernels.inline import inline
from bitvit.kernels.rows import sum_lanes
from bitvit.kernels.simd import broadcast, exp2, floats_at, fma, load, record, splat, store
from bitvit.kernels.target import LANES


def pool(piece, arguments, const, state, scratch):
    """out = mean over rows of source, then scale and bias, for some channels; affine: [width/LANES][2][LANES]."""
    a = record(arguments, POOL)
    source, out, affine = floats_at(state, a.source), floats_at(state, a.out), floats_at(const, a.affine)
    share = splat(np.float32(1) / np.float32(a.rows))
    for c in range(piece * a.piece_width, min((piece + 1) * a.piece_width, a.width), LANES):
        total = splat(np.float32(0))
        for r in range(a.rows):
            total += load(source, r * a.stride + c)
        store(out, c, fma(total * share, load(affine, 2 * c), load(affine, 2 * c + LANES)))


LOG2_E = np.float32(1.4426950408889634)
LOG2_E_REST = np.float32(1.4426950408889634 - float(np.float32(1.4426950408889634)))


def weigh_attention(piece, arguments, const, state, scratch):
    """weights = softmax over the tokens of source·vector (`affine`), in one piece."""
    a = record(arguments, TOKEN_WEIGHTS)
    source, weights = floats_at(state, a.source), floats_at(state, a.weights)
    vector, sums = floats_at(const, a.affine), floats_at(scratch, a.sums)
    for r in range(a.rows):
        for lane in range(0, SUM_LANES, LANES):
            part = splat(np.float32(0))
            for c in range(lane, a.width, SUM_LANES):
                part = fma(load(source, r * a.stride + c), load(vector, c), part)
            store(sums, lane, part)
        weights[r] = sum_lanes(sums)
    softmax(weights, a.rows)


@inline
def softmax(scores, count):
    """Softmax of scores[:count] in place. exp(t) = 2**(t·log2 e), the product's rounding made up for."""
    largest = scores[0]
    for n in range(1, count):
        largest = max(largest, scores[n])
    for n in range(count, (count + LANES - 1) // LANES * LANES):
        scores[n] = largest
    for n in range(0, count, LANES):
        t = load(scores, n) - splat(largest)
        high = t * splat(LOG2_E)
        low = fma(t, splat(LOG2_E), splat(np.float32(0)) - high)
        store(scores, n, exp2(high, fma(t, splat(LOG2_E_REST), low)))
    total = scores[0]
    for n in range(1, count):
        total += scores[n]
    share = np.float32(1) / total
    for n in range(count):
        scores[n] *= share


def weigh_top(piece, arguments, const, state, scratch):
    """weights = 1/top for the tokens of the largest norm and 0 for the others, in one piece.

    Tokens are source under `affine`. Of equal norms the earlier token counts as the larger.
    """
    a = record(arguments, TOKEN_WEIGHTS)
    source, weights, affine = floats_at(state, a.source), floats_at(state, a.weights), floats_at(const, a.affine)
    scores, sums = floats_at(scratch, a.scores), floats_at(scratch, a.sums)
    for r in range(a.rows):
        for lane in range(0, SUM_LANES, LANES):
            part = splat(np.float32(0))
            for c in range(lane, a.width, SUM_LANES):
                x = fma(load(source, r * a.stride + c), load(affine, 2 * c), load(affine, 2 * c + LANES))
                part = fma(x, x, part)
            store(sums, lane, part)
        scores[r] = sum_lanes(sums)
    share = np.float32(1) / np.float32(a.top)
    for r in range(a.rows):
        own, above = scores[r], 0
        for n in range(a.rows):
            above += scores[n] > own or (scores[n] == own and n < r)
        weights[r] = share if above < a.top else np.float32(0)


def weighted_pool(piece, arguments, const, state, scratch):
    """out = sum over rows of weights·source, then scale and bias, for some channels."""
    a = record(arguments, WEIGHTED_POOL)
    source, weights = floats_at(state, a.source), floats_at(state, a.weights)
    out, affine = floats_at(state, a.out), floats_at(const, a.affine)
    for c in range(piece * a.piece_width, min((piece + 1) * a.piece_width, a.width), LANES):
        total = splat(np.float32(0))
        for r in range(a.rows):
            total = fma(load(source, r * a.stride + c), broadcast(weights, r), total)
        store(out, c, fma(total, load(affine, 2 * c), load(affine, 2 * c + LANES)))


def classify(piece, arguments, const, state, scratch):
    """out[n] = bias[n] + Σ_k source[k]·w[n, k] for CLASSIFY_COLUMNS classes.

    panels: [n/CLASSIFY_COLUMNS][k][CLASSIFY_COLUMNS].
    """
    a = record(arguments, CLASSIFY)
    source, out = floats_at(state, a.source), floats_at(state, a.out)
    panels, bias = floats_at(const, a.panels + piece * a.depth * CLASSIFY_COLUMNS), floats_at(const, a.bias)
    n = piece * CLASSIFY_COLUMNS
    v0, v1 = load(bias, n), load(bias, n + LANES)
    v2, v3 = load(bias, n + 2 * LANES), load(bias, n + 3 * LANES)
    for k in range(a.depth):
        x, p = broadcast(source, k), k * CLASSIFY_COLUMNS
        v0, v1 = fma(load(panels, p), x, v0), fma(load(panels, p + LANES), x, v1)
        v2, v3 = fma(load(panels, p + 2 * LANES), x, v2), fma(load(panels, p + 3 * LANES), x, v3)
    store(out, n, v0)
    store(out, n + LANES, v1)
    store(out, n + 2 * LANES, v2)
    store(out, n + 3 * LANES, v3)
