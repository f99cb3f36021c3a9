"""What is done to one token's row of channels: layer norm, laying out a tiled shortcut."""

import numpy as np

from bitvit.kernels.catalog import SUM_LANES
from bitvit.kernels.inline import inline
from bitvit.kernels.simd import fma, join_rows, lane_sum, load, splat, store, store_rows, unzip_rows
from bitvit.kernels.target import LANES

EPS = np.float32(1e-5)  # SPEC section 7.0: always, whatever the config says


@inline
def sum_lanes(sums):
    """The sum of SUM_LANES floats, in order."""
    total = sums[0]
    for i in range(1, SUM_LANES):
        total += sums[i]
    return total


@inline
def normalize_row(x, at, spread, width, features, valid):
    """x[at + c·spread] <- (x[at + c·spread] - mean)/√(variance + eps) for the channels c of one row, in place.

    Statistics run over the first `features` of `width` lanes; valid: float32 [width], 1 or 0. The (biased) variance is
    summed around the mean: no cancellation, whatever the offset. Padding becomes 0: were it left to grow, image after
    image, it would reach infinity.
    """
    total = splat(np.float32(0))
    for c in range(0, width, LANES):
        total = fma(load(x, at + c * spread), load(valid, c), total)
    mean = splat(lane_sum(total) / np.float32(features))
    total = splat(np.float32(0))
    for c in range(0, width, LANES):
        centred = (load(x, at + c * spread) - mean) * load(valid, c)
        total = fma(centred, centred, total)
    scale = splat(np.float32(1) / np.sqrt(lane_sum(total) / np.float32(features) + EPS))
    for c in range(0, width, LANES):
        o = at + c * spread
        store(x, o, (load(x, o) - mean) * scale * load(valid, c))


@inline
def normalize_products(z, rows, out_rows, width, features, prescale, valid):
    """Layer-normalise rows of half dots as `binary_matmul` leaves them: z <- normalise(prescale·z), in place.

    prescale: [width/LANES][scale, bias][LANES] turns half dots into the reference's real-valued products, whose size
    matters to layer norm's eps.
    """
    for i in range(rows):
        for c in range(0, width, LANES):
            o = c * out_rows + i * LANES
            store(z, o, fma(load(z, o), load(prescale, 2 * c), load(prescale, 2 * c + LANES)))
        normalize_row(z, i * LANES, out_rows, width, features, valid)


@inline
def _next(offset, channels):
    """(offset + LANES) mod channels without a division."""
    offset += LANES
    while offset >= channels:
        offset -= channels
    return offset


@inline
def extend_periodically(row, at, channels):
    """Make row[at + channels : … + LANES] repeat the channels from `at` on, so that a vector may start at any of them.

    Writes up to 2·LANES behind the channels; whole vectors of channels need no extension.
    """
    if channels % LANES:
        for p in range(channels, channels + LANES, channels):
            store(row, at + p, load(row, at))


@inline
def _load_next(h, at, o, channels):
    """h[at + o : … + LANES], and where the next vector is."""
    return load(h, at + o), _next(o, channels)


def _twice(load_some):
    """Load twice as many consecutive vectors of a periodic row, as a tile."""

    @inline
    def load_more(h, at, o, channels):
        first, o = load_some(h, at, o, channels)
        second, o = load_some(h, at, o, channels)
        return join_rows(first, second), o

    return load_more


def _deal(load_some):
    """`tile_channels` for as many copies as vectors are loaded: each gets every so many-th of their lanes."""

    @inline
    def deal(h, at, channels, span, out, to, copy):
        o = 0
        for q in range(0, span, LANES):
            v, o = load_some(h, at, o, channels)
            store_rows(out, to + q, copy, unzip_rows(v))

    return deal


_load_two = _twice(_load_next)
_load_four = _twice(_load_two)
_deal_1, _deal_2, _deal_4, _deal_8 = map(_deal, (_load_next, _load_two, _load_four, _twice(_load_four)))


@inline
def tile_channels(h, at, channels, ratio, span, out, to, copy):
    """Lay the tiled shortcut out for the hidden order.

    out[to + j·copy + q] = h[at + (ratio·q + j) mod channels] for j < ratio, q < span. Hidden feature ratio·c + j meets
    channel (ratio·c + j) mod channels (SPEC 7.5), so the vector of the hidden features ratio·c + j of LANES channels
    from c0 on reads `out` at j·copy + c0 mod period, period = channels/gcd(channels, ratio); `span` >= the largest such
    start + LANES. h is extended periodically by up to 2·LANES in place. A ratio of 2, 4 or 8 that divides `channels` is
    de-interleaved by shuffles: (even, odd) halves, log2(ratio) times.
    """
    extend_periodically(h, at, channels)
    if ratio == 1:
        _deal_1(h, at, channels, span, out, to, copy)
    elif ratio == 2 and channels % 2 == 0:
        _deal_2(h, at, channels, span, out, to, copy)
    elif ratio == 4 and channels % 4 == 0:
        _deal_4(h, at, channels, span, out, to, copy)
    elif ratio == 8 and channels % 8 == 0:
        _deal_8(h, at, channels, span, out, to, copy)
    else:
        for j in range(ratio):
            c = j
            while c >= channels:
                c -= channels
            for q in range(span):
                out[to + j * copy + q] = h[at + c]
                c += ratio
                while c >= channels:
                    c -= channels
