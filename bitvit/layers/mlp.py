"""The shift-augmented MLP of every block (SPEC 7.5, 7.6)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, LOOKUP, OUTPUTS, TILE_ROWS
from bitvit.layers.common import (
    NEVER,
    counter_start,
    half_affine,
    kernel_affine,
    pieces,
    prescale,
    product_units,
    rows_a_piece,
    valid_lanes,
    weight_panels,
)
from bitvit.layers.norm import normalized
from bitvit.panels import interleave, lane_words, natural, padded, pair_units, take
from bitvit.program import Builder, Map

PRODUCTS = 128  # hidden features of which all rows' products lie in the first-level cache


@dataclass(frozen=True, eq=False, repr=False)
class MLP(schema.MLP):
    """Emits one step: both layers, the pooled shortcut and the shifts."""

    name: str

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.fc1.affine.row_scale is not None
        kernel = catalog.mlp_ln if layer_norm else catalog.mlp
        source = normalized(b, x, self.norm, self.name, kernel.kind, layer_norm=layer_norm)
        out = b.map(x.side, x.channels, after=x)
        width, ratio = x.width, len(self.fc1.bits) // x.channels
        natural_order, hidden_order = natural(x.channels), _hidden_order(x.channels, ratio)
        hidden = width * ratio
        hidden_words, words = lane_words(hidden), lane_words(width)
        period = x.channels // math.gcd(x.channels, ratio)
        starts = [c % period for c in range(0, width, LANES)]
        span = padded(max(starts) + LANES)
        piece_rows = rows_a_piece(x.rows, 56)
        chunk = _chunk(ratio)
        together = hidden if layer_norm else max(width, min(hidden, chunk * ratio) if LOOKUP else 0)
        threshold1 = take(self.fc1.threshold, natural_order, NEVER)
        # see kernels/mlp.py for what becomes of fc1's bias: hidden values less slope·bias
        hidden_scale, hidden_bias, hidden_slope = kernel_affine(self.fc1, hidden_order)
        moved = self.fc1.affine.slope.astype(np.float64) * half_affine(self.fc1)[1]
        threshold2 = take(self.fc2.threshold - moved, hidden_order, NEVER)
        pooled = moved.reshape(-1, ratio).mean(axis=1)
        scale2, bias2, slope2 = kernel_affine(self.fc2, natural_order, pooled)
        hidden_columns = np.concatenate([hidden_order, np.full(hidden_words * LANE_BITS - hidden, -1)])
        taps = np.zeros((9, x.channels), np.float32)
        if self.taps is not None:
            taps[: len(self.taps)] = self.taps
        if not layer_norm:
            taps[0] += 1  # the residual: what the stencil reads is the map itself
        b.step(
            kernel,
            self.name,
            pieces(x.rows, piece_rows),
            # a layer norm's values and the residual are two maps
            moved=(3 if layer_norm else 2) * x.rows * x.channels,
            rows=x.rows,
            piece_rows=piece_rows,
            side=x.side,
            channels=x.channels,
            width=width,
            stride=x.stride,
            ratio=ratio,
            chunk=chunk,
            span=span,
            period=period,
            words=words,
            hidden_words=hidden_words,
            start1=counter_start(self.fc1.in_features),
            start2=counter_start(self.fc2.in_features),
            shifts=int(self.taps is not None),
            source=source.region,
            residual=x.region,
            out=out.region,
            norm=b.const(
                interleave(take(source.norm.scale, natural_order), take(source.norm.bias, natural_order), threshold1)
            ),
            panels1=b.const(weight_panels(self.fc1, hidden_order, natural(x.channels, LANE_BITS))),
            affine1=b.const(interleave(hidden_scale, -hidden_bias, hidden_slope, threshold2)),
            panels2=b.const(weight_panels(self.fc2, natural_order, hidden_columns)),
            affine2=b.const(
                interleave(
                    np.float32(ratio) * scale2,
                    np.float32(ratio) * bias2,
                    slope2,
                    take(self.out.scale / np.float32(ratio), natural_order),
                    take(self.out.bias, natural_order),
                )
            ),
            taps=b.const(interleave(*(take(tap, natural_order) for tap in taps))),
            valid=valid_lanes(b, x.channels),
            valid_hidden=valid_lanes(b, x.channels * ratio, hidden_order, ratio) if layer_norm else 0,
            prescale1=b.const(prescale(self.fc1, hidden_order)),
            prescale2=b.const(prescale(self.fc2, natural_order)),
            bits=b.scratch(f"mlp.bits.{width}", padded(piece_rows, TILE_ROWS) * words),
            tiled=b.scratch("mlp.tiled", padded(piece_rows, TILE_ROWS) * ratio * span),
            hidden_bits=b.scratch(f"mlp.hidden.{hidden}", padded(piece_rows, TILE_ROWS) * hidden_words),
            pooled=b.scratch("pooled", padded(piece_rows, TILE_ROWS) * width),
            pairs=b.scratch("pairs", pair_units(piece_rows, max(words, hidden_words))),
            z=b.scratch("z", product_units(padded(piece_rows, TILE_ROWS), together)),
            row=b.scratch("row", width + 2 * LANES),
        )
        return out


def _chunk(ratio: int) -> int:
    """Channels whose hidden products are whole panels of OUTPUTS, about PRODUCTS of them."""
    least = LANES * (OUTPUTS // LANES // math.gcd(OUTPUTS // LANES, ratio))
    return least * max(1, PRODUCTS // (least * ratio))


def _hidden_order(channels: int, ratio: int) -> NDArray[np.int64]:
    """Hidden features in kernel order: per LANES channels c, `ratio` vectors of features ratio·c + j."""
    c = natural(channels).reshape(-1, 1, LANES)
    j = np.arange(ratio).reshape(1, -1, 1)
    return np.where(c >= 0, ratio * c + j, -1).reshape(-1)
