"""Decomposed binary attention over windows with merged tokens (SPEC 7.4), in four steps.

project   tokens -> layer norm -> signs -> q, k, v: signs kept, real values summed
attend    one window and head: integer scores -> softmax -> levels as bit planes -> popcount-weighted sum of values;
          its beginning and its end are here, what makes bit planes of scores is in quantizers.py; windows of one
          pixel, where there are many, go head by head in pixels.py
coarsen   mean of the merged tokens' outputs over the windows
output    fine and coarse mixed -> signs -> output projection -> residual

Tokens are stored in window order: token wi·w² + t is pixel t of window wi, then come the M merged tokens of the image.
A merged token is the same in every window of an image, so it is projected once; only its attention rows differ.

Scores are integers: s = d - 2·popcount(q xor k), so softmax numerators are exp(-2j/√d), j = popcount - least popcount.
Levels 0..3 are two bit planes, and a plane p weighs values v = ±1 by Σ p·v = 2·popcount(p & v⁺) - popcount(p), with
v transposed to one bit a token. The gsb quantizer has three planes instead.
"""

import numpy as np

from bitvit.kernels.catalog import COARSEN, LANE_BITS, OUTPUT, PROJECT
from bitvit.kernels.inline import inline
from bitvit.kernels.matmul import BLOCK, binary_product, half_dots, ones, total_ones
from bitvit.kernels.rows import EPS, normalize_products, normalize_row
from bitvit.kernels.simd import (
    broadcast_rows,
    floats_at,
    fma,
    ints_at,
    load,
    load_rows,
    load_rows_at,
    maximum,
    nonzero,
    popcount,
    prelu,
    record,
    row_sums,
    shift_left,
    shift_right,
    splat,
    splat_rows,
    sqrt,
    store,
    store_mask,
    store_mask_rows,
    store_rows,
    store_rows_at,
    store_rows_first,
    to_float,
    words_at,
)
from bitvit.kernels.target import LANES, LOOKUP
from bitvit.kernels.tiles import in_tiles


# ------------------------------------------------------------------------------------------------------ project
@inline
def fetch_token(r, a, source, pixels, norm, tokens, to):
    """N1 of fine token r: one pixel under norm; norm: [width/LANES][scale, bias, max share, average share][LANES]."""
    x = np.int64(pixels[r])
    for c in range(0, a.width, LANES):
        store(tokens, to + c, fma(load(source, x + c), load(norm, 4 * c), load(norm, 4 * c + LANES)))


@inline
def merge_token(m, a, source, norm, tokens, to):
    """Merged token m: share of the maximum and of the average over its cell (SPEC 7.4.2).

    The cell is shifted by -padding against the windows; pixels outside the map count as zeros in the average, which
    always divides by w², and not at all in the maximum.
    """
    cells = a.side // a.window
    top = m // cells * a.window - a.padding
    left = m % cells * a.window - a.padding
    for c in range(0, a.width, LANES):
        scale, bias = load(norm, 4 * c), load(norm, 4 * c + LANES)
        largest, total = splat(np.float32(-3.4e38)), splat(np.float32(0))
        for y in range(max(top, 0), top + a.window):
            for x in range(max(left, 0), left + a.window):
                v = fma(load(source, (y * a.side + x) * a.stride + c), scale, bias)
                largest = maximum(largest, v)
                total += v
        share = load(norm, 4 * c + 3 * LANES)
        store(tokens, to + c, fma(largest, load(norm, 4 * c + 2 * LANES), total * share))


@in_tiles
def normalize_tokens(m, height, a, const, scratch):
    """Layer-norm `height` tokens in place and take their signs for q, k and v.

    The rows of a tile go side by side: one row alone would wait for its own sums. token_norm: [width/LANES][weight,
    bias][LANES]; thresholds: [width/LANES][q, k, v][LANES].
    """
    token_norm, thresholds = floats_at(const, a.token_norm), floats_at(const, a.thresholds)
    valid, tokens, bits = floats_at(const, a.valid), floats_at(scratch, a.tokens), words_at(scratch, a.bits)
    at, stride, row_bits, block = m * a.stride, a.stride, a.words * LANE_BITS, a.piece_rows * a.words * LANE_BITS
    share = splat(np.float32(1) / np.float32(a.channels))
    total = splat_rows(np.float32(0), height)
    for c in range(0, a.width, LANES):
        total = fma(load_rows(tokens, at + c, stride, height), load(valid, c), total)
    mean = row_sums(total) * share
    total = splat_rows(np.float32(0), height)
    for c in range(0, a.width, LANES):
        centred = (load_rows(tokens, at + c, stride, height) - mean) * load(valid, c)
        total = fma(centred, centred, total)
    scale = splat(np.float32(1)) / sqrt(row_sums(total) * share + splat(EPS))
    for c in range(0, a.width, LANES):
        t = (load_rows(tokens, at + c, stride, height) - mean) * scale
        t = fma(t, load(token_norm, 2 * c), load(token_norm, 2 * c + LANES))
        store_rows(tokens, at + c, stride, t)
        bit = m * row_bits + c
        store_mask_rows(bits, bit, row_bits, t > load(thresholds, 3 * c))
        store_mask_rows(bits, bit + block, row_bits, t > load(thresholds, 3 * c + LANES))
        store_mask_rows(bits, bit + 2 * block, row_bits, t > load(thresholds, 3 * c + 2 * LANES))


@in_tiles
def project_tile(m, height, c, a, first, const, state, scratch, layer_norms):
    """`project_rows` for rows m … of the piece and channels c …"""
    tokens, bits, z = floats_at(scratch, a.tokens), words_at(scratch, a.bits), floats_at(scratch, a.z)
    panels, affine, signs = words_at(const, a.panels), floats_at(const, a.affine), words_at(state, a.signs)
    width, words, block_rows = a.width, a.words, a.piece_rows
    token = load_rows(tokens, m * a.stride + c, a.stride, height)
    total = splat_rows(np.float32(0), height)
    for k in range(3):
        if layer_norms or LOOKUP:
            h = load_rows(z, k * a.z_part + c * block_rows + m * LANES, LANES, height)
        else:
            bit_row = (k * block_rows + m) * words
            h = to_float(half_dots(bits, bit_row, words, panels, (k * width + c) * words, a.start, height))
        p = 4 * (k * width + c)
        u = fma(h, load(affine, p), load(affine, p + LANES)) + token
        u = prelu(u, load(affine, p + 2 * LANES))
        word = (k * words + c // LANE_BITS) * a.plane + first + m
        store_mask_rows(signs, word * LANE_BITS + c % LANE_BITS, LANE_BITS, u > load(affine, p + 3 * LANES))
        total += u
    store_rows(floats_at(state, a.shortcut), (first + m) * a.stride + c, a.stride, total)


@inline
def project_rows(first, rows, a, const, state, scratch, layer_norms):
    """Signs of q, k, v and the sum of their real values for rows first … of the token list.

    affine: [q, k, v][width/LANES][scale, bias, slope - 1, threshold][LANES].
    """
    source, pixels, norm = floats_at(state, a.source), ints_at(const, a.pixels), floats_at(const, a.norm)
    tokens = floats_at(scratch, a.tokens)
    width, stride, words, block_rows, fine = a.width, a.stride, a.words, a.piece_rows, a.side * a.side
    for i in range(rows):
        if first + i < fine:
            fetch_token(first + i, a, source, pixels, norm, tokens, i * stride)
        else:
            merge_token(first + i - fine, a, source, norm, tokens, i * stride)
    normalize_tokens(rows, a, const, scratch)
    if layer_norms or LOOKUP:
        for k in range(3):
            own_bits, own_pairs = words_at(scratch, a.bits + k * block_rows * words), words_at(scratch, a.pairs)
            own_panels, own_z = words_at(const, a.panels + k * a.panels_part), floats_at(scratch, a.z + k * a.z_part)
            binary_product(own_bits, own_pairs, rows, words, own_panels, width, a.start, own_z, block_rows)
            if layer_norms:
                prescale, valid = floats_at(const, a.prescale + k * 2 * width), floats_at(const, a.valid)
                normalize_products(own_z, rows, block_rows, width, a.channels, prescale, valid)
    for c in range(0, width, LANES):
        project_tile(rows, c, a, first, const, state, scratch, layer_norms)


def project(piece, arguments, const, state, scratch):
    """Tokens to q, k, v with batch norms."""
    a = record(arguments, PROJECT)
    first = piece * a.piece_rows
    project_rows(first, min(a.piece_rows, a.rows - first), a, const, state, scratch, False)


def project_ln(piece, arguments, const, state, scratch):
    """Tokens to q, k, v with layer norms."""
    a = record(arguments, PROJECT)
    first = piece * a.piece_rows
    project_rows(first, min(a.piece_rows, a.rows - first), a, const, state, scratch, True)


# ------------------------------------------------------------------------------------------------------- attend
@inline
def copy_head(signs, at, plane, shift, bits_left, count, out, to):
    """One word of a head for `count` tokens from signs[at] on; its bits start at bit `shift` and end after `bits_left`.

    Bits beyond the head become 0. Up to LANES - 1 more words are written.
    """
    for t in range(0, count, LANES):
        v = shift_right(load(signs, at + t), shift)
        if shift + min(bits_left, LANE_BITS) > LANE_BITS:
            v = v | shift_left(load(signs, at + plane + t), LANE_BITS - shift)
        if bits_left < LANE_BITS:
            v = v & splat(np.uint32((1 << bits_left) - 1))
        store(out, to + t, v)


@inline
def gather_head(window, head, a, state, scratch):
    """Bits of one window and head: head_bits[query, key, value][word][token]; the values also [token word][channel]."""
    signs, head_bits = words_at(state, a.signs), words_at(scratch, a.head_bits)
    transposed = words_at(scratch, a.transposed)
    n, plane, words, row_words, head_dim = a.keys_padded, a.plane, a.key_words, a.row_words, a.head_dim
    tokens, merged = a.window_tokens, a.merged
    own, others = window * tokens, a.windows * tokens
    to = 0
    for part in range(3):  # in the order of memory: what a copy writes too much is overwritten or padding
        for w in range(words):
            bit = head * head_dim + w * LANE_BITS
            at = (part * row_words + bit // LANE_BITS) * plane
            shift, bits_left = bit % LANE_BITS, head_dim - w * LANE_BITS
            copy_head(signs, at + own, plane, shift, bits_left, tokens, head_bits, to)
            copy_head(signs, at + others, plane, shift, bits_left, merged, head_bits, to + tokens)
            to += n
    transpose_values(words_at(scratch, a.head_bits + 2 * words * n), a, transposed)


@inline
def transpose_values(values, a, transposed):
    """[word of channels][token], keys_padded tokens -> [word of tokens][channel]."""
    words, n, dim = a.key_words, a.keys_padded, a.dim_padded
    for w in range(words):
        channels = min(LANE_BITS, dim - w * LANE_BITS)
        for t in range(0, n, LANES):
            v = load(values, w * n + t)
            one = splat(np.uint32(1))
            bit = (t // LANE_BITS * dim + w * LANE_BITS) * LANE_BITS + t % LANE_BITS
            for b in range(channels):
                store_mask(transposed, bit + b * LANE_BITS, nonzero(v & one))
                one += one


@in_tiles
def score_tile(q, height, k, words, queries, query_row, keys, key_row, scores):
    """`score` for queries q … and keys k …"""
    acc = splat_rows(np.uint32(0), height)
    for block in range(0, words, BLOCK):
        last = min(words, block + BLOCK)
        count = splat_rows(np.uint32(0), height)
        for w in range(block, last):
            count += ones(load(keys, w * key_row + k) ^ broadcast_rows(queries, w * query_row + q, 1, height))
        acc += total_ones(count, last - block)
    store_rows(scores, q * key_row + k, key_row, acc)


@inline
def score(rows, words, queries, query_row, keys, key_row, scores):
    """scores[query][key] = popcount(q xor k), int32; the score is head_dim - 2·popcount.

    queries: [words][query_row], of which `rows` count; keys: [words][key_row], whole vectors.
    """
    for k in range(0, key_row, LANES):
        score_tile(rows, k, words, queries, query_row, keys, key_row, scores)


@inline
def count_common(values, row, planes, at, words, height):
    """popcount(value & plane) of a vector of channels in each of a tile's rows of a plane, int32.

    values: [words][row], the vector at the array's beginning; planes: [rows][words], the tile's first word at `at`.
    """
    if words == 1:
        return popcount(load(values, 0) & broadcast_rows(planes, at, words, height))
    acc = splat_rows(np.uint32(0), height)
    for block in range(0, words, BLOCK):
        last = min(words, block + BLOCK)
        count = splat_rows(np.uint32(0), height)
        for w in range(block, last):
            count += ones(load(values, w * row) & broadcast_rows(planes, at + w, words, height))
        acc += total_ones(count, last - block)
    return acc


@in_tiles
def weigh_tile(q, height, values, dim, words, planes, counts, rows, weights, count, context, stride, channels):
    """`weigh_values` for queries q … and as many channels as a vector has, of which `channels` are the head's."""
    total = splat_rows(np.float32(0), height)
    for p in range(count):
        acc = count_common(values, dim, planes, (p * rows + q) * words, words, height)
        difference = acc + acc - broadcast_rows(counts, p * rows + q, 1, height)
        total = fma(to_float(difference), splat(weights[p]), total)
    if channels < LANES:
        store_rows_first(context, q * stride, stride, total, channels)
    else:
        store_rows(context, q * stride, stride, total)


@inline
def weigh_values(a, window, head, weights, count, state, scratch):
    """context[window][query] = Σ_planes weight·(2·popcount(plane & v) - popcount(plane)), float32.

    counts: int32 [plane][query]; plane words: [plane][query][token word]; weights: float32 [count], one a plane.
    """
    planes, counts = words_at(scratch, a.plane_words), words_at(scratch, a.counts)
    queries, dim, words, rows, stride = a.window_tokens + a.merged, a.dim_padded, a.token_words, a.rows_padded, a.stride
    transposed, context = a.transposed, a.context + window * rows * stride + head * a.head_dim
    for c in range(0, dim, LANES):
        values, to = words_at(scratch, transposed + c), floats_at(state, context + c)
        weigh_tile(queries, values, dim, words, planes, counts, rows, weights, count, to, stride, a.head_dim - c)


@inline
def attend_head(piece, a, state, scratch):
    """Gather and score one (window, head); returns (window, head)."""
    window, head = piece // a.heads, piece % a.heads
    gather_head(window, head, a, state, scratch)
    queries, keys = words_at(scratch, a.head_bits), words_at(scratch, a.head_bits + a.key_words * a.keys_padded)
    score(
        a.window_tokens + a.merged,
        a.key_words,
        queries,
        a.keys_padded,
        keys,
        a.keys_padded,
        words_at(scratch, a.scores),
    )
    return window, head


# ------------------------------------------------------------------------------------------------------ coarsen
@inline
def context_value(c, at, shortcut_at, context, shortcut, affine):
    """RPReLU(affine(context) + U_q + U_k + U_v) of channels c … less its outer offset, which later parameters absorb.

    affine: [width/LANES][scale, bias, slope - 1][LANES].
    """
    u = fma(load(context, at + c), load(affine, 3 * c), load(affine, 3 * c + LANES))
    return prelu(u + load(shortcut, shortcut_at + c), load(affine, 3 * c + 2 * LANES))


@inline
def coarsen_rows(piece, a, const, state, layer_norms):
    """coarse[m] = mean over the image's windows of merged token m's output."""
    context, shortcut, coarse = floats_at(state, a.context), floats_at(state, a.shortcut), floats_at(state, a.coarse)
    affine, share = floats_at(const, a.affine), splat(np.float32(1) / np.float32(a.windows))
    for m in range(piece * a.piece_rows, min((piece + 1) * a.piece_rows, a.merged)):
        first, next_window = (a.window_tokens + m) * a.stride, a.rows_padded * a.stride
        if layer_norms:
            for window in range(a.windows):
                at = first + window * next_window
                normalize_row(context, at, 1, a.width, a.channels, floats_at(const, a.valid))
        shortcut_at = (a.windows * a.window_tokens + m) * a.stride
        for c in range(0, a.width, LANES):
            total = splat(np.float32(0))
            for window in range(a.windows):
                total += context_value(c, first + window * next_window, shortcut_at, context, shortcut, affine)
            store(coarse, m * a.width + c, total * share)


def coarsen(piece, arguments, const, state, scratch):
    """Coarse map of some merged tokens, batch norms."""
    coarsen_rows(piece, record(arguments, COARSEN), const, state, False)


def coarsen_ln(piece, arguments, const, state, scratch):
    """Coarse map of some merged tokens, layer norms."""
    coarsen_rows(piece, record(arguments, COARSEN), const, state, True)


# ------------------------------------------------------------------------------------------------------- output
@in_tiles
def output_tile(m, height, c, a, first, const, state, scratch, layer_norms):
    """`output_rows` for rows m … of the piece and channels c …, from the projection on."""
    source, out, pixels = floats_at(state, a.source), floats_at(state, a.out), ints_at(const, a.pixels)
    mixed, bits, z = floats_at(scratch, a.mixed), words_at(scratch, a.bits), floats_at(scratch, a.z)
    affine, p = floats_at(const, a.affine), 5 * c
    if layer_norms or LOOKUP:
        h = load_rows(z, c * a.piece_rows + m * LANES, LANES, height)
    else:
        panels = words_at(const, a.panels)
        h = to_float(half_dots(bits, m * a.words, a.words, panels, c * a.words, a.start, height))
    u = fma(h, load(affine, p), load(affine, p + LANES)) + load_rows(mixed, m * a.stride + c, a.stride, height)
    u = fma(prelu(u, load(affine, p + 2 * LANES)), load(affine, p + 3 * LANES), load(affine, p + 4 * LANES))
    store_rows_at(out, c, pixels, first + m, u + load_rows_at(source, c, pixels, first + m, height))


@inline
def output_rows(piece, a, const, state, scratch, layer_norms):
    """A = fine·G + (1 - fine)·coarse -> signs -> projection -> RPReLU -> layer scale + residual, back to pixels.

    affine: [width/LANES][scale, bias, slope - 1, out scale, out bias][LANES].
    """
    context, shortcut, coarse = floats_at(state, a.context), floats_at(state, a.shortcut), floats_at(state, a.coarse)
    mixed, bits, z = floats_at(scratch, a.mixed), words_at(scratch, a.bits), floats_at(scratch, a.z)
    fine, thresholds = floats_at(const, a.fine), floats_at(const, a.thresholds)
    valid, context_affine = floats_at(const, a.valid), floats_at(const, a.context_affine)
    first = piece * a.piece_rows
    rows = min(a.piece_rows, a.rows - first)
    width, stride, words, block_rows = a.width, a.stride, a.words, a.piece_rows
    for i in range(rows):
        window, t = (first + i) // a.window_tokens, (first + i) % a.window_tokens
        at = (window * a.rows_padded + t) * stride
        if layer_norms:
            normalize_row(context, at, 1, width, a.channels, valid)
        for c in range(0, width, LANES):
            k = load(coarse, window * width + c)
            v = context_value(c, at, (first + i) * stride, context, shortcut, context_affine)
            v = fma(v - k, load(fine, c), k)
            store(mixed, i * stride + c, v)
            store_mask(bits, i * words * LANE_BITS + c, v > load(thresholds, c))
    if layer_norms or LOOKUP:
        pairs = words_at(scratch, a.pairs)
        binary_product(bits, pairs, rows, words, words_at(const, a.panels), width, a.start, z, block_rows)
    if layer_norms:
        normalize_products(z, rows, block_rows, width, a.channels, floats_at(const, a.prescale), valid)
    for c in range(0, width, LANES):
        output_tile(rows, c, a, first, const, state, scratch, layer_norms)


def output(piece, arguments, const, state, scratch):
    """Attention output of some fine tokens, batch norms."""
    output_rows(piece, record(arguments, OUTPUT), const, state, scratch, False)


def output_ln(piece, arguments, const, state, scratch):
    """Attention output of some fine tokens, layer norms."""
    output_rows(piece, record(arguments, OUTPUT), const, state, scratch, True)
