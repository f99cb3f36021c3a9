"""Head: mean over the tokens, norm, classifier (SPEC 7.2)."""

import numpy as np
from numba import carray

from bitvit.kernels.catalog import CLASSIFY, CLASSIFY_COLUMNS, POOL
from bitvit.kernels.simd import broadcast, floats_at, fma, load, splat, store
from bitvit.kernels.target import LANES


def pool(piece, arguments, const, state, scratch):
    """out = mean over rows of source, then scale and bias, for some channels; affine: [width/LANES][2][LANES]."""
    a = carray(arguments, 1, POOL)[0]
    source, out, affine = floats_at(state, a.source), floats_at(state, a.out), floats_at(const, a.affine)
    share = splat(np.float32(1) / np.float32(a.rows))
    for c in range(piece * a.piece_width, min((piece + 1) * a.piece_width, a.width), LANES):
        total = splat(np.float32(0))
        for r in range(a.rows):
            total += load(source, r * a.stride + c)
        store(out, c, fma(total * share, load(affine, 2 * c), load(affine, 2 * c + LANES)))


def classify(piece, arguments, const, state, scratch):
    """out[n] = bias[n] + Σ_k source[k]·w[n, k] for CLASSIFY_COLUMNS classes.

    panels: [n/CLASSIFY_COLUMNS][k][CLASSIFY_COLUMNS].
    """
    a = carray(arguments, 1, CLASSIFY)[0]
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
