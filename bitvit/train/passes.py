"""Loops of fused.py: each reads and writes every large array once, and leaves sums over rows for each channel.

A matrix of R rows and C channels is a flat array: float32, or bfloat16 in the bits of uint16. Sums are kept apart for
every piece of PIECE rows (or every image), as float32 [piece, sums, C], so they do not depend on the number of
threads. Widths are multiples of LANES. Parameters are float32 [parameters, C], named in the order of their rows.
"""

import numpy as np

from bitvit.kernels.simd import add_rows, fma, load, load_rows, minimum, splat, store, unzip_rows
from bitvit.kernels.target import LANES
from bitvit.train.vectors import (
    ONE,
    PIECE,
    TWO,
    ZERO,
    add_to,
    choose,
    compiled,
    estimate,
    get,
    inline,
    put,
    sign_of,
    spread,
)

__all__ = [
    "affine",
    "combine",
    "contract",
    "contract_back",
    "expand",
    "expand_back",
    "mix",
    "mix_back",
    "moments",
    "move_sign",
    "move_sign_back",
    "norm_sign",
    "norm_sign_back",
    "norm_sums",
    "stencil",
    "stencil_back",
]


# ------------------------------------------------------------------------------------------------------------- norms


@compiled
def moments(first, last, y, rows, width, sums):
    """sums: y, y²."""
    for piece in range(first, last):
        base = piece * 2 * width
        sums[base : base + 2 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                v = get(y, row * width + c)
                add_to(sums, base + c, v)
                add_to(sums, base + width + c, v * v)


@compiled
def norm_sums(first, last, g, y, rows, width, p, sums):
    """sums: g, g·ŷ with ŷ = y·rstd + shift; p: rstd, shift."""
    for piece in range(first, last):
        base = piece * 2 * width
        sums[base : base + 2 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                v = get(g, o)
                add_to(sums, base + c, v)
                add_to(sums, base + width + c, v * fma(get(y, o), load(p, c), load(p, width + c)))


@compiled
def combine(first, last, g, y, rows, width, p, out):
    """out = a·g + b·y + c; p: a, b, c. The gradient through a batch norm, given the sums; out may be g."""
    for row in range(first * PIECE, min(last * PIECE, rows)):
        for c in range(0, width, LANES):
            o = row * width + c
            rest = fma(get(y, o), load(p, width + c), load(p, 2 * width + c))
            put(out, o, fma(get(g, o), load(p, c), rest))


@compiled
def affine(first, last, y, x, rows, width, p, out):
    """out = x + a·y + b; p: a, b."""
    for row in range(first * PIECE, min(last * PIECE, rows)):
        for c in range(0, width, LANES):
            o = row * width + c
            put(out, o, get(x, o) + fma(get(y, o), load(p, c), load(p, width + c)))


# ------------------------------------------------------------------------------------------------------------- signs


@compiled
def norm_sign(first, last, x, rows, width, p, normed, bits):
    """normed = a·x + b, bits = sign(normed + move); p: a, b, move. normed may be None."""
    for row in range(first * PIECE, min(last * PIECE, rows)):
        for c in range(0, width, LANES):
            o = row * width + c
            n = fma(get(x, o), load(p, c), load(p, width + c))
            if normed is not None:
                put(normed, o, n)
            put(bits, o, sign_of(n + load(p, 2 * width + c)))


@compiled
def norm_sign_back(first, last, x, g_normed, g_bits, rows, width, p, out, sums):
    """out = gradient to normed. g_normed may be None. p: a, b, move, rstd, shift; sums: g_bits·estimate, out, out·x̂."""
    for piece in range(first, last):
        base = piece * 3 * width
        sums[base : base + 3 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                v = get(x, o)
                n = fma(v, load(p, c), load(p, width + c))
                g = get(g_bits, o) * estimate(n + load(p, 2 * width + c))
                add_to(sums, base + c, g)
                if g_normed is not None:
                    g += get(g_normed, o)
                put(out, o, g)
                add_to(sums, base + width + c, g)
                add_to(sums, base + 2 * width + c, g * fma(v, load(p, 3 * width + c), load(p, 4 * width + c)))


@compiled
def move_sign(first, last, x, rows, width, move, bits):
    """bits = sign(x + move)."""
    for row in range(first * PIECE, min(last * PIECE, rows)):
        for c in range(0, width, LANES):
            put(bits, row * width + c, sign_of(get(x, row * width + c) + load(move, c)))


@compiled
def move_sign_back(first, last, x, g, rows, width, move, out, sums):
    """out = g·estimate; sums: out."""
    for piece in range(first, last):
        base = piece * width
        sums[base : base + width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                v = get(g, o) * estimate(get(x, o) + load(move, c))
                put(out, o, v)
                add_to(sums, base + c, v)


# ------------------------------------------------------------------- binary linear's end: norm, shortcut, RPReLU, sign


@inline
def pool(line, width, copies, out, at):
    """out = means of `copies` neighbours of line; copies is 1, 2 or 4."""
    half = splat(ONE / TWO)
    if copies == 1:
        for h in range(0, width, LANES):
            put(out, at + h, load(line, h))
    elif copies == 2:
        for h in range(0, width // 2, LANES):
            put(out, at + h, add_rows(unzip_rows(load_rows(line, 2 * h, LANES, 2))) * half)
    else:
        for h in range(0, width // 4, LANES):
            put(out, at + h, add_rows(unzip_rows(load_rows(line, 4 * h, LANES, 4))) * half * half)


@inline
def pool_back(g, at, width, copies, line):
    """The gradient through `pool`."""
    half = splat(ONE / TWO)
    for h in range(0, width // copies, LANES):
        v = get(g, at + h)
        if copies == 1:
            store(line, h, v)
        elif copies == 2:
            v = v * half
            store(line, 2 * h, spread(v, 2, 0))
            store(line, 2 * h + LANES, spread(v, 2, 1))
        else:
            v = v * half * half
            store(line, 4 * h, spread(v, 4, 0))
            store(line, 4 * h + LANES, spread(v, 4, 1))
            store(line, 4 * h + 2 * LANES, spread(v, 4, 2))
            store(line, 4 * h + 3 * LANES, spread(v, 4, 3))


@compiled
def expand(first, last, y, shortcut, rows, width, inputs, copies, p, bits, pooled):
    """v = prelu(a·y + b + tile(shortcut)) + move2, bits = sign(v + move), pooled = means of `copies` neighbours of v.

    p: a, b, slope - 1, move2, move. bits may be None.
    """
    line = np.empty(width, np.float32)
    for row in range(first * PIECE, min(last * PIECE, rows)):
        s = row * inputs
        for h in range(0, width, LANES):
            t = fma(get(y, row * width + h), load(p, h), load(p, width + h)) + get(shortcut, s)
            v = fma(minimum(t, splat(ZERO)), load(p, 2 * width + h), t) + load(p, 3 * width + h)
            store(line, h, v)
            if bits is not None:
                put(bits, row * width + h, sign_of(v + load(p, 4 * width + h)))
            s = s + LANES if s + LANES < (row + 1) * inputs else row * inputs
        pool(line, width, copies, pooled, row * (width // copies))


@compiled
def expand_back(first, last, y, shortcut, g_bits, g_pooled, rows, width, inputs, copies, p, out, d_short, sums):
    """out = gradient to the norm's result, d_short its sum over the tiles. g_bits may be None.

    p: gamma, beta - move1, slope, move2, move, rstd, shift. sums: of g_bits·estimate, of the gradient g to v, of
    g·min(t, 0), of out, of out·ŷ, where t is what the PReLU is given.
    """
    line, short = np.empty(width, np.float32), np.empty(inputs, np.float32)
    for piece in range(first, last):
        base = piece * 5 * width
        sums[base : base + 5 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            pool_back(g_pooled, row * (width // copies), width, copies, line)
            short[:] = 0
            s = 0
            for h in range(0, width, LANES):
                centred = fma(get(y, row * width + h), load(p, 5 * width + h), load(p, 6 * width + h))
                t = fma(centred, load(p, h), load(p, width + h)) + get(shortcut, row * inputs + s)
                slope, g = load(p, 2 * width + h), load(line, h)
                if g_bits is not None:
                    v = choose(t, t, t * slope) + load(p, 3 * width + h)
                    through = get(g_bits, row * width + h) * estimate(v + load(p, 4 * width + h))
                    add_to(sums, base + h, through)
                    g = g + through
                add_to(sums, base + width + h, g)
                add_to(sums, base + 2 * width + h, g * minimum(t, splat(ZERO)))
                g = choose(t, g, g * slope)
                add_to(sums, base + 3 * width + h, g)
                add_to(sums, base + 4 * width + h, g * centred)
                put(out, row * width + h, g)
                add_to(short, s, g)
                s = s + LANES if s + LANES < inputs else 0
            for c in range(0, inputs, LANES):
                put(d_short, row * inputs + c, load(short, c))


@compiled
def contract(first, last, y, shortcut, x, rows, width, p, out):
    """out = x + a·prelu(k·y + b + shortcut) + c; p: k, b, slope - 1, a, c."""
    for row in range(first * PIECE, min(last * PIECE, rows)):
        for c in range(0, width, LANES):
            o = row * width + c
            t = fma(get(y, o), load(p, c), load(p, width + c)) + get(shortcut, o)
            v = fma(minimum(t, splat(ZERO)), load(p, 2 * width + c), t)
            put(out, o, fma(v, load(p, 3 * width + c), load(p, 4 * width + c)) + get(x, o))


@compiled
def contract_back(first, last, y, shortcut, g, rows, width, p, out, sums):
    """out = gradient to the norm's result and to the shortcut.

    p: gamma, beta - move1, slope, a, rstd, shift. sums: g, g·prelu(t), a·g·min(t, 0), out, out·ŷ.
    """
    for piece in range(first, last):
        base = piece * 5 * width
        sums[base : base + 5 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                centred = fma(get(y, o), load(p, 4 * width + c), load(p, 5 * width + c))
                t = fma(centred, load(p, c), load(p, width + c)) + get(shortcut, o)
                slope, v = load(p, 2 * width + c), get(g, o)
                add_to(sums, base + c, v)
                add_to(sums, base + width + c, v * choose(t, t, t * slope))
                v = v * load(p, 3 * width + c)
                add_to(sums, base + 2 * width + c, v * minimum(t, splat(ZERO)))
                v = choose(t, v, v * slope)
                add_to(sums, base + 3 * width + c, v)
                add_to(sums, base + 4 * width + c, v * centred)
                put(out, o, v)


# ------------------------------------------------------------------------------------------------------- token mixer


@compiled
def mix(first, last, y1, y2, y3, rows, width, p, out, sums):
    """out = Σ prelu_i(y_i + c_i) + move2; p: c1, c2, c3, slope_i - 1 (3), move2. sums: out, out²."""
    zero = splat(ZERO)
    for piece in range(first, last):
        base = piece * 2 * width
        sums[base : base + 2 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                t1, t2 = get(y1, o) + load(p, c), get(y2, o) + load(p, width + c)
                t3 = get(y3, o) + load(p, 2 * width + c)
                v = fma(minimum(t1, zero), load(p, 3 * width + c), t1) + load(p, 6 * width + c)
                v += fma(minimum(t2, zero), load(p, 4 * width + c), t2)
                v += fma(minimum(t3, zero), load(p, 5 * width + c), t3)
                put(out, o, v)
                add_to(sums, base + c, v)
                add_to(sums, base + width + c, v * v)


@inline
def mix_back_one(y, o, g, p, k, width, c, out, sums, base):
    t, slope = get(y, o) + load(p, (3 + k) * width + c), load(p, (6 + k) * width + c)
    add_to(sums, base + (4 + k) * width + c, g * minimum(t, splat(ZERO)))
    g = choose(t, g, g * slope)
    add_to(sums, base + (1 + k) * width + c, g)
    put(out, o, g)


@compiled
def mix_back(first, last, g, s, y1, y2, y3, rows, width, p, d1, d2, d3, sums):
    """Gradients to y_i. p: a, b, c of `combine` with s, c_i (3), slope_i (3). sums: g', d_i (3), g'·min(t_i, 0) (3)."""
    for piece in range(first, last):
        base = piece * 7 * width
        sums[base : base + 7 * width] = 0
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            for c in range(0, width, LANES):
                o = row * width + c
                v = fma(get(g, o), load(p, c), fma(get(s, o), load(p, width + c), load(p, 2 * width + c)))
                add_to(sums, base + c, v)
                mix_back_one(y1, o, v, p, 0, width, c, d1, sums, base)
                mix_back_one(y2, o, v, p, 1, width, c, d2, sums, base)
                mix_back_one(y3, o, v, p, 2, width, c, d3, sums, base)


# ----------------------------------------------------------------------------------------------------------- stencil


@inline
def neighbours(place, y, x, side):
    """Where the nine taps read: the pixel, one and two above and below, one and two left and right, circularly."""
    row, column = y * side, x
    place[0] = row + column
    place[1], place[2] = (y + side - 1) % side * side + column, (y + 1) % side * side + column
    place[3], place[4] = (y + 2 * side - 2) % side * side + column, (y + 2) % side * side + column
    place[5], place[6] = row + (x + side - 1) % side, row + (x + 1) % side
    place[7], place[8] = row + (x + 2 * side - 2) % side, row + (x + 2) % side


@compiled
def stencil(first, last, n, x, side, width, taps, constant, places, out):
    """out = x + Σ taps_k · n[tap k] + constant; taps [9, C]; places: int64 [pieces, 9]. A piece is an image."""
    for piece in range(first, last):
        start, place = piece * side * side, places[piece]
        for row in range(side):
            for column in range(side):
                neighbours(place, row, column, side)
                for c in range(0, width, LANES):
                    o = (start + place[0]) * width + c
                    v = get(x, o) + load(constant, c)
                    for k in range(9):
                        v = fma(get(n, (start + place[k]) * width + c), load(taps, k * width + c), v)
                    put(out, o, v)


@compiled
def stencil_back(first, last, n, g, side, width, taps, places, out, sums):
    """out = gradient to n; sums [images, 10, C]: g·n[tap k] (9), g. A tap reads back from its opposite."""
    for piece in range(first, last):
        start, base, place = piece * side * side, piece * 10 * width, places[piece]
        sums[base : base + 10 * width] = 0
        for row in range(side):
            for column in range(side):
                neighbours(place, row, column, side)
                for c in range(0, width, LANES):
                    o = (start + place[0]) * width + c
                    own = get(g, o)
                    add_to(sums, base + 9 * width + c, own)
                    add_to(sums, base + c, own * get(n, o))
                    v = own * load(taps, c)
                    for k in range(1, 9):
                        at = (start + place[k]) * width + c
                        add_to(sums, base + k * width + c, own * get(n, at))
                        opposite = k - 1 if k % 2 == 0 else k + 1
                        v = fma(get(g, at), load(taps, opposite * width + c), v)
                    put(out, o, v)
