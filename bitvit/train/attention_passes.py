"""Attention of fused.py from signs to context, as loops like those of passes.py: an image at a time, a head at a time.

Tokens [B, S² + M, C] are the pixels window by window, then the merged tokens; a window's own are its w² pixels and all
merged tokens. Below, `square` is w², `fine` S², `coarse` M, n = w² + M, and `padded` n in whole vectors.
"""

import numpy as np

from bitvit.kernels.simd import broadcast, count_bits, fma, lane_sum, load, maximum, minimum, splat, store, store_mask
from bitvit.kernels.target import LANES
from bitvit.train.vectors import ONE, THREE, ZERO, choose, compiled, get, inline, put

__all__ = ["attend", "attend_back"]

MAGIC = np.float32(1.5 * 2**23)


@inline
def member(window, i, square, fine):
    """The token that is number i of a window."""
    return window * square + i if i < square else fine + i - square


@compiled
def pack_signs(x, at, tokens, width, size, words, positive, negative):
    """Bits of the values above and below 0: uint32 [tokens, words]."""
    for t in range(tokens):
        for c in range(0, size, LANES):
            v = get(x, at + t * width + c)
            store_mask(positive, t * words * 32 + c, v > splat(ZERO))
            store_mask(negative, t * words * 32 + c, splat(ZERO) > v)


@compiled
def gather(x, at, tokens, width, size, values):
    """values: float32 [tokens, size], one head of x."""
    for t in range(tokens):
        for c in range(0, size, LANES):
            store(values, t * size + c, get(x, at + t * width + c))


@compiled
def score_window(window, square, fine, n, queries, keys, words, scores):
    """scores: int32 [n, n], the sums of products of signs: agreeing pairs less differing ones.

    Merged tokens meet each other in every window, so that part is computed for the first window and stays.
    queries and keys: uint64 [2, tokens, words], the bits above and below 0.
    """
    for i in range(n):
        first = member(window, i, square, fine) * words
        for j in range(n):
            if window > 0 and i >= square and j >= square:
                break
            second = member(window, j, square, fine) * words
            score = np.int64(0)
            for k in range(words):
                up, down = queries[0, first + k], queries[1, first + k]
                other_up, other_down = keys[0, second + k], keys[1, second + k]
                score += np.int64(count_bits((up & other_up) | (down & other_down)))
                score -= np.int64(count_bits((up & other_down) | (down & other_up)))
            scores[i * n + j] = score


@compiled
def softmax_row(scores, at, n, table, shares):
    """shares: float32 [padded], softmax of n integer scores by a table of exp(-i / sqrt(d)); zero beyond."""
    most = scores[at]
    for j in range(1, n):
        most = max(most, scores[at + j])
    total = ZERO
    for j in range(n):
        shares[j] = table[most - scores[at + j]]
        total += shares[j]
    for j in range(n):
        shares[j] /= total


@inline
def rounded(x):
    """rint(x) for |x| < 2²², half to even: beyond 1.5 · 2²³ float32 has no fractions."""
    return x + splat(MAGIC) - splat(MAGIC)


@compiled
def attend(first, last, q, k, v, heads, size, square, fine, coarse, table, step, zero_point, highest, out):
    """Context [B, windows, n, C] of signs q, k, v [B, S² + M, C], by quantised probabilities (SPEC 7.4.5 to 7.4.7)."""
    width, tokens, n = heads * size, fine + coarse, square + coarse
    words, padded = (size + 63) // 64, (n + LANES - 1) // LANES * LANES
    packed = np.zeros((2, 2, tokens * words * 2), np.uint32)
    queries, keys = packed[0].view(np.uint64), packed[1].view(np.uint64)
    values, scores = np.empty(tokens * size, np.float32), np.empty(n * n, np.int32)
    shares, levels = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    for image in range(first, last):
        for head in range(heads):
            at = image * tokens * width + head * size
            pack_signs(q, at, tokens, width, size, 2 * words, packed[0, 0], packed[0, 1])
            pack_signs(k, at, tokens, width, size, 2 * words, packed[1, 0], packed[1, 1])
            gather(v, at, tokens, width, size, values)
            a, z = splat(step[head]), splat(zero_point[head])
            three_over_a = splat(THREE) / a
            for window in range(fine // square):
                score_window(window, square, fine, n, queries, keys, words, scores)
                for i in range(n):
                    softmax_row(scores, i * n, n, table, shares)
                    for j in range(0, padded, LANES):
                        level = rounded(fma(load(shares, j), three_over_a, z))
                        store(levels, j, a * minimum(maximum(level, splat(ZERO)), splat(highest)))
                    to = ((image * (fine // square) + window) * n + i) * width + head * size
                    for c in range(0, size, LANES):
                        total = splat(ZERO)
                        for j in range(n):
                            value = load(values, member(window, j, square, fine) * size + c)
                            total = fma(broadcast(levels, j), value, total)
                        put(out, to + c, total)


@compiled
def attend_back(
    first, last, g, q, k, v, heads, size, square, fine, coarse, table, step, zero_point, highest, dq, dk, dv, sums
):
    """Gradients to the signs; sums [B, heads, 2]: of step and zero point, both unscaled."""
    width, tokens, n = heads * size, fine + coarse, square + coarse
    words, padded = (size + 63) // 64, (n + LANES - 1) // LANES * LANES
    packed = np.zeros((2, 2, tokens * words * 2), np.uint32)
    queries, keys = packed[0].view(np.uint64), packed[1].view(np.uint64)
    reals = np.empty((3, tokens * size), np.float32)
    gradients = np.empty((3, tokens * size), np.float32)
    q_real, k_real, v_real = reals[0], reals[1], reals[2]
    q_sum, k_sum, v_sum = gradients[0], gradients[1], gradients[2]
    scores, across = np.empty(n * n, np.int32), np.zeros(size * padded, np.float32)
    shares, rows = np.zeros(padded, np.float32), np.empty(n * size, np.float32)
    levels, slopes = np.empty(n * padded, np.float32), np.empty(n * padded, np.float32)
    zero, one, top = splat(ZERO), splat(ONE), splat(highest)
    for image in range(first, last):
        for head in range(heads):
            at = image * tokens * width + head * size
            pack_signs(q, at, tokens, width, size, 2 * words, packed[0, 0], packed[0, 1])
            pack_signs(k, at, tokens, width, size, 2 * words, packed[1, 0], packed[1, 1])
            gather(q, at, tokens, width, size, q_real)
            gather(k, at, tokens, width, size, k_real)
            gather(v, at, tokens, width, size, v_real)
            gradients[:] = 0
            a, z = splat(step[head]), splat(zero_point[head])
            three_over_a, over_root = splat(THREE) / a, splat(ONE / np.float32(np.sqrt(size)))
            of_step, of_zero = zero, zero
            for window in range(fine // square):
                score_window(window, square, fine, n, queries, keys, words, scores)
                for j in range(n if window == 0 else square):  # the values, a column a token
                    for c in range(size):
                        across[c * padded + j] = v_real[member(window, j, square, fine) * size + c]
                begin = (image * (fine // square) + window) * n * width + head * size
                gather(g, begin, n, width, size, rows)
                for i in range(n):
                    softmax_row(scores, i * n, n, table, shares)
                    mean = zero
                    for j in range(0, padded, LANES):
                        own = zero  # the gradient to the quantised probabilities
                        for c in range(size):
                            own = fma(broadcast(rows, i * size + c), load(across, c * padded + j), own)
                        ratio = load(shares, j) * three_over_a
                        level = rounded(ratio + z)
                        clamped = minimum(maximum(level, zero), top)
                        inside = choose((level - clamped) * (level - clamped), zero, one)
                        of_step += own * (clamped - ratio * inside)
                        of_zero += own * a * inside
                        own = own * inside * splat(THREE)
                        mean = fma(own, load(shares, j), mean)
                        store(levels, i * padded + j, a * clamped)
                        store(slopes, i * padded + j, own)
                    mean = splat(lane_sum(mean))
                    for j in range(0, padded, LANES):
                        slope = (load(slopes, i * padded + j) - mean) * load(shares, j) * over_root
                        store(slopes, i * padded + j, slope)
                for i in range(n):
                    token = member(window, i, square, fine) * size
                    for c in range(0, size, LANES):
                        to_q, to_k, to_v = load(q_sum, token + c), load(k_sum, token + c), load(v_sum, token + c)
                        for j in range(n):
                            other = member(window, j, square, fine) * size + c
                            to_q = fma(broadcast(slopes, i * padded + j), load(k_real, other), to_q)
                            to_k = fma(broadcast(slopes, j * padded + i), load(q_real, other), to_k)
                            to_v = fma(broadcast(levels, j * padded + i), load(rows, j * size + c), to_v)
                        store(q_sum, token + c, to_q)
                        store(k_sum, token + c, to_k)
                        store(v_sum, token + c, to_v)
            for t in range(tokens):
                for c in range(0, size, LANES):
                    put(dq, at + t * width + c, load(q_sum, t * size + c))
                    put(dk, at + t * width + c, load(k_sum, t * size + c))
                    put(dv, at + t * width + c, load(v_sum, t * size + c))
            sums[image, head, 0], sums[image, head, 1] = lane_sum(of_step), lane_sum(of_zero)
