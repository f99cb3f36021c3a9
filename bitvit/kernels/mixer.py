"""Token mixer: signs -> three 3x3 binary convolutions in four groups, dilations 1, 3, 5 -> RPReLUs, summed (SPEC 7.3).

The signs of a map live in `4·ceil(group/32)` bit planes, one 32-bit word a pixel, with a border of 5 zero words. A tap
outside the map must contribute 0, but a zero word reads as -1 in every channel. Its xor with the weights is the
weights' own popcount, so for each dilation and each set of missing taps one number a channel puts it right:

    dot = correction[missing taps] - 2·popcount,  correction = group·(valid taps) + 2·Σ_missing popcount(weights),

which the bias of the affine map takes in. Counters start at -(K // 2), K = 9·group, so inside the map nothing is left
to correct but K mod 2.

A dot runs over 9·group bits. Where a group is not a multiple of 32 channels the nine taps are first packed densely
into ceil(9·group/32) words, 16 pixels at a time (5 words rather than 9 for groups of 16); otherwise words are read
straight from the planes. Either way word j of pixel x is words[base + offsets[j] + x].
"""

import numpy as np

from bitvit.kernels.catalog import BORDER, GROUPS, LANE_BITS, MIXER, MIXER_SIGNS
from bitvit.kernels.inline import inline
from bitvit.kernels.matmul import BLOCK, LANE_POPCOUNT, total_ones
from bitvit.kernels.rows import normalize_row
from bitvit.kernels.simd import (
    at,
    broadcast_rows,
    count_differences_bytes,
    floats_at,
    fma,
    ints_at,
    load,
    load_rows,
    load_rows_at,
    popcount,
    prelu,
    record,
    shift_left,
    shift_right,
    splat,
    splat_rows,
    store,
    store_mask,
    store_rows,
    to_float,
    words_at,
)
from bitvit.kernels.target import LANES, TAIL_ROWS, TILE_ROWS
from bitvit.kernels.tiles import in_tiles, in_whole_tiles, vectors


def mixer_signs(piece, arguments, const, state, scratch):
    """planes[(g·group_words + w)][y + 5][x + 5] = signs of norm(x) + move for channels 32w… of group g.

    norm: [group][half word][scale, bias + move][LANES], lanes beyond the group (0, -1): their bits are 0.
    """
    a = record(arguments, MIXER_SIGNS)
    source, norm, planes = floats_at(state, a.source), floats_at(const, a.norm), words_at(state, a.planes)
    zero = splat(np.float32(0))
    side, stride, group, group_words, plane = a.side, a.stride, a.group, a.group_words, a.plane
    halves = vectors(group)
    first, last = piece * a.piece_rows, min((piece + 1) * a.piece_rows, side)
    for g in range(GROUPS):
        for h in range(halves):
            p = (g * halves + h) * 2 * LANES
            scale, bias = load(norm, p), load(norm, p + LANES)
            for y in range(first, last):
                x = y * side * stride + g * group + h * LANES
                word = (g * group_words + h * LANES // LANE_BITS) * plane + (y + BORDER) * a.plane_row + BORDER
                bit = word * LANE_BITS + h * LANES % LANE_BITS
                for _ in range(side):
                    store_mask(planes, bit, fma(load(source, x), scale, bias) > zero)
                    x += stride
                    bit += LANE_BITS


@inline
def pack_taps(planes, row, side, entries, entry_count, taps, taps_row):
    """Pack the taps of one image row: taps[word][x] = OR over entries of plane words, shifted.

    entries: int32 [entry_count][starts, word, offset, left, right, offset, left, right], two parts of a word each: a
    part is a plane word shifted left, then right. An entry that does not start its word adds to it.
    """
    for e in range(0, 8 * entry_count, 8):
        to = np.int64(entries[e + 1]) * taps_row
        one, one_left, one_right = row + np.int64(entries[e + 2]), np.int64(entries[e + 3]), np.int64(entries[e + 4])
        two, two_left, two_right = row + np.int64(entries[e + 5]), np.int64(entries[e + 6]), np.int64(entries[e + 7])
        if entries[e]:
            for x in range(0, side, LANES):
                v = shift_right(shift_left(load(planes, one + x), one_left), one_right)
                v |= shift_right(shift_left(load(planes, two + x), two_left), two_right)
                store(taps, to + x, v)
        else:
            for x in range(0, side, LANES):
                v = shift_right(shift_left(load(planes, one + x), one_left), one_right)
                v |= shift_right(shift_left(load(planes, two + x), two_left), two_right)
                store(taps, to + x, load(taps, to + x) | v)


@inline
def convolve_tile(x, height, g, chunk, a, y, words, base, const):
    """Σ over dilations of RPReLU(convolution): `height` pixels from (y, x) by LANES channels of a group, float32.

    const: panels [group][chunk][dilation][words][LANES]; affine [group][chunk][dilation][scale, slope - 1][LANES];
    biases [group][chunk][dilation][16 sets of missing taps][LANES]; classes int32 [dilation][y or x].
    """
    offsets, panels, affine = ints_at(const, a.offsets), words_at(const, a.panels), floats_at(const, a.affine)
    biases, classes = floats_at(const, a.biases), ints_at(const, a.classes)
    n, padded_side = a.words, (a.side + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    chunks = vectors(a.group)
    total = splat_rows(np.float32(0), height)
    for d in range(3):
        part = (g * chunks + chunk) * 3 + d
        acc = splat_rows(np.uint32(a.start), height)
        if LANE_POPCOUNT:
            for j in range(n):
                word = base + np.int64(at(offsets, (g * 3 + d) * n + j)) + x
                acc += popcount(load(panels, (part * n + j) * LANES) ^ broadcast_rows(words, word, 1, height))
        else:
            for block in range(0, n, BLOCK):
                count = splat_rows(np.uint32(0), height)
                for j in range(block, min(n, block + BLOCK)):
                    word = base + np.int64(at(offsets, (g * 3 + d) * n + j)) + x
                    count = count_differences_bytes(count, load(panels, (part * n + j) * LANES), words, word, 1)
                acc += total_ones(count, n)
        # classes hold LANES·(1 if the first tap is missing, + 2 if the last is); y counts fourfold
        missing = part * 16 * LANES + 4 * np.int64(classes[d * padded_side + y])
        bias = load_rows_at(biases, missing, classes, d * padded_side + x, height)
        p = part * 2 * LANES
        total += prelu(fma(to_float(acc), load(affine, p), bias), load(affine, p + LANES))
    return total


@inline
def mixed_row(a):
    """Floats of a row of scratch `mixed`: a group's last vector may go beyond the width."""
    return a.width + LANES


@inline
def find_taps(y, a, const, state, scratch):
    """Where the words of image row y are: (array, offset), packed first if need be."""
    planes, row = words_at(state, a.planes), (y + BORDER) * a.plane_row + BORDER
    if not a.packed:
        return planes, row
    taps = words_at(scratch, a.taps)
    pack_taps(planes, row, a.side, ints_at(const, a.entries), a.entry_count, taps, a.taps_row)
    return taps, 0


@in_tiles
def mixed_tile(x, height, g, chunk, a, y, words, base, const, mixed):
    """`convolve_tile` into `mixed`."""
    row = mixed_row(a)
    total = convolve_tile(x, height, g, chunk, a, y, words, base, const)
    store_rows(mixed, x * row + g * a.group + chunk * LANES, row, total)


@inline
def convolve_row(y, a, const, state, scratch):
    """Convolutions of image row y into scratch `mixed`."""
    words, base = find_taps(y, a, const, state, scratch)
    for g in range(GROUPS):
        for chunk in range(vectors(a.group)):
            mixed_tile(a.side, g, chunk, a, y, words, base, const, floats_at(scratch, a.mixed))


@inline
def add_row(y, a, const, state, mixed):
    """out = residual + affine(mixed) for image row y; out_affine: [width/LANES][scale, bias][LANES]."""
    residual, out, affine = floats_at(state, a.residual), floats_at(state, a.out), floats_at(const, a.out_affine)
    side, width = a.side, a.width
    for x in range(side):
        o, m = (y * side + x) * a.stride, x * mixed_row(a)
        for c in range(0, width, LANES):
            v = fma(load(mixed, m + c), load(affine, 2 * c), load(affine, 2 * c + LANES))
            store(out, o + c, v + load(residual, o + c))


@in_tiles
def convolve_and_add_tile(x, height, g, chunk, a, y, words, base, const, state):
    """`convolve_and_add_row` for some pixels and channels."""
    residual, out, affine = floats_at(state, a.residual), floats_at(state, a.out), floats_at(const, a.out_affine)
    total = convolve_tile(x, height, g, chunk, a, y, words, base, const)
    c = g * a.group + chunk * LANES
    o = (y * a.side + x) * a.stride + c
    v = fma(total, load(affine, 2 * c), load(affine, 2 * c + LANES))
    store_rows(out, o, a.stride, v + load_rows(residual, o, a.stride, height))


@inline
def convolve_and_add_row(y, a, const, state, scratch):
    """`convolve_row` and `add_row` in one, where no pixel is computed in vain and groups are whole vectors."""
    words, base = find_taps(y, a, const, state, scratch)
    for g in range(GROUPS):
        for chunk in range(a.group // LANES):
            convolve_and_add_tile(a.side, g, chunk, a, y, words, base, const, state)


def mixer(piece, arguments, const, state, scratch):
    """X + BN(Σ RPReLU(conv)) for some image rows."""
    a = record(arguments, MIXER)
    rest = a.side - in_whole_tiles(a.side)
    whole = rest >= 0 and rest % TAIL_ROWS == 0 and a.group % LANES == 0
    for y in range(piece * a.piece_rows, min((piece + 1) * a.piece_rows, a.side)):
        if whole:
            convolve_and_add_row(y, a, const, state, scratch)
        else:
            convolve_row(y, a, const, state, scratch)
            add_row(y, a, const, state, floats_at(scratch, a.mixed))


def mixer_ln(piece, arguments, const, state, scratch):
    """X + LN(Σ RPReLU(conv) + shift) for some image rows; shift: float32 [width], the RPReLUs' outer offsets."""
    a = record(arguments, MIXER)
    mixed, shift, valid = floats_at(scratch, a.mixed), floats_at(const, a.shift), floats_at(const, a.valid)
    for y in range(piece * a.piece_rows, min((piece + 1) * a.piece_rows, a.side)):
        convolve_row(y, a, const, state, scratch)
        for x in range(a.side):
            m = x * mixed_row(a)
            for c in range(0, a.width, LANES):
                store(mixed, m + c, load(mixed, m + c) + load(shift, c))
            normalize_row(mixed, m, 1, a.width, a.channels, valid)
        add_row(y, a, const, state, mixed)
