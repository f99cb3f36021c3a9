"""Loops of fused.py: each reads and writes every large array once, and leaves sums over rows for each channel.

A matrix of R rows and C channels is a flat array: float32, or bfloat16 in the bits of uint16. Sums are kept apart for
every piece of PIECE rows (or every image), as float32 [piece, sums, C], so they do not depend on the number of
threads. Widths are multiples of LANES. Parameters are float32 [parameters, C], named in the order of their rows.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bitvit.kernels.simd import (
    Vec,
    add_rows,
    broadcast,
    count_bits,
    fma,
    lane_sum,
    load,
    load_rows,
    maximum,
    minimum,
    splat,
    store,
    store_mask,
    unzip_rows,
)
from bitvit.kernels.target import LANES

PIECE = 256
ZERO, ONE, TWO, THREE = np.float32(0), np.float32(1), np.float32(2), np.float32(3)
MAGIC = np.float32(1.5 * 2**23)
# A cached loop is stored with the name of its module, so only the program's own name for it may leave one behind.
compiled = njit(nogil=True, cache=__name__ == "tools.train.passes")
inline = njit(inline="always")

I16, I32 = ir.IntType(16), ir.IntType(32)


# ------------------------------------------------------------------------------------------------- half precision


def _all(count, value):
    return ir.Constant(ir.VectorType(I32, count), [value] * count)


def _pointer(context, builder, array_type, array, index, kind):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


@intrinsic
def get(typingctx, array, index):
    """LANES values as float32. A bfloat16 is the upper half of a float32."""
    vec, half = Vec(types.float32), array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(I16, vec.lanes) if half else vec.row_type
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], kind))
        value.align = 2 if half else 4
        if not half:
            return value
        wide = builder.zext(value, ir.VectorType(I32, vec.lanes))
        return builder.bitcast(builder.shl(wide, _all(vec.lanes, 16)), vec.row_type)

    return vec(array, types.intp), codegen


@intrinsic
def put(typingctx, array, index, value):
    """Store LANES values, rounded half to even if the array is bfloat16: add 0x7fff and the last bit that stays."""
    half = array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        array, index, value = args
        if half:
            lanes = value.type.count
            bits = builder.bitcast(value, ir.VectorType(I32, lanes))
            last = builder.and_(builder.lshr(bits, _all(lanes, 16)), _all(lanes, 1))
            rounded = builder.add(bits, builder.add(last, _all(lanes, 0x7FFF)))
            value = builder.trunc(builder.lshr(rounded, _all(lanes, 16)), ir.VectorType(I16, lanes))
        place = _pointer(context, builder, sig.args[0], array, index, value.type)
        builder.store(value, place).align = 2 if half else 4
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


# --------------------------------------------------------------------------------------------------- small functions


@intrinsic
def choose(typingctx, x, positive, other):
    """`positive` where x > 0, elsewhere `other`."""

    def codegen(context, builder, sig, args):
        zero = ir.Constant(args[0].type, [0.0] * args[0].type.count)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], args[2])

    return x(x, x, x), codegen


@intrinsic(prefer_literal=True)
def spread(typingctx, x, copies, part):
    """Lane l is lane (part * LANES + l) // copies of x."""
    copies_, part_ = copies.literal_value, part.literal_value
    places = ir.Constant(ir.VectorType(I32, x.lanes), [(part_ * x.lanes + k) // copies_ for k in range(x.lanes)])

    def codegen(context, builder, sig, args):
        return builder.shuffle_vector(args[0], args[0], places)

    return x(x, copies, part), codegen


@inline
def sign_of(x):
    """-1, 0 or +1."""
    one, zero = splat(ONE), splat(ZERO)
    return choose(x, one, choose(zero - x, zero - one, zero))


@inline
def estimate(x):
    """The surrogate gradient of sign: max(0, 2 - 2|x|)."""
    return maximum(splat(ZERO), fma(maximum(x, splat(ZERO) - x), splat(-TWO), splat(TWO)))


@inline
def add_to(sums, place, value):
    store(sums, place, load(sums, place) + value)


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


# --------------------------------------------------------------------------------------------------------- attention
#
# Tokens [B, S² + M, C] are the pixels window by window, then the merged tokens; a window's own are its w² pixels and
# all merged tokens. Below, `square` is w², `fine` S², `coarse` M, n = w² + M, and `padded` n in whole vectors.


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
