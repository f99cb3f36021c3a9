"""Downsampling by 2x2 patches, through real or binary weights (SPEC 7.7)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.layers.common import (
    NEVER,
    counter_start,
    interleaved,
    kernel_affine,
    pieces,
    prescale,
    product_units,
    rows_a_piece,
    valid_lanes,
    weight_panels,
)
from bitvit.layers.norm import normalized
from bitvit.panels import float_panels, interleave, natural, padded_rows, pair_units, take
from bitvit.program import Builder, Map
from bitvit.schema import Affine


@dataclass(frozen=True, eq=False, repr=False)
class FloatDownsample(schema.FloatDownsample):
    """Emits one step: a float product of normalised patches."""

    name: str

    def emit(self, b: Builder, x: Map) -> Map:
        channels, side = self.weight.shape[0], x.side // 2
        layer_norm = self.out_norm is not None
        kernel = catalog.float_down_ln if layer_norm else catalog.float_down
        source = normalized(b, x, self.norm, self.name, kernel.kind, layer_norm=layer_norm)
        out = b.map(side, channels, after=x)
        order = natural(channels)
        pixel = natural(x.channels)
        columns = _patch_order(pixel, x.channels)
        position = b.const(padded_rows(self.position))
        zero = np.zeros(out.width, np.float32)
        affine = self.out_norm or Affine(zero, zero)
        piece_rows = rows_a_piece(out.rows, 28)
        column_pieces = 2 if out.rows < 16 * TILE_ROWS and out.width % (4 * LANES) == 0 and not layer_norm else 1
        b.step(
            kernel,
            self.name,
            pieces(out.rows, piece_rows) * column_pieces,
            moved=x.rows * x.width + out.rows * channels,
            rows=out.rows,
            piece_rows=piece_rows,
            column_pieces=column_pieces,
            side=x.side,
            out_side=side,
            in_width=x.width,
            in_stride=x.stride,
            channels=channels,
            width=out.width,
            stride=out.stride,
            source=source.region,
            out=out.region,
            norm=b.const(interleaved(source.norm, pixel)),
            panels=b.const(float_panels(self.weight, columns)),
            bias=b.const(zero) if layer_norm else position,
            bias_stride=0 if layer_norm else out.width,
            affine=b.const(interleaved(affine, order)),
            position=position,
            valid=valid_lanes(b, channels),
            patches=b.scratch("patches", piece_rows * 4 * x.width),
        )
        return out


@dataclass(frozen=True, eq=False, repr=False)
class BinaryDownsample(schema.BinaryDownsample):
    """Emits one step: a binary product, with the patches' mean as shortcut."""

    name: str

    def emit(self, b: Builder, x: Map) -> Map:
        channels, side = len(self.bits), x.side // 2
        layer_norm = self.affine.row_scale is not None
        kernel = catalog.binary_down_ln if layer_norm else catalog.binary_down
        source = normalized(b, x, self.norm, self.name, kernel.kind, layer_norm=layer_norm)
        out = b.map(side, channels, after=x)
        order, in_order = natural(channels), natural(x.channels)
        pixel = natural(x.channels, LANE_BITS)
        columns = _patch_order(pixel, x.channels)
        words = len(columns) // LANE_BITS
        piece_rows = rows_a_piece(out.rows, 28)
        threshold = take(self.threshold, in_order, NEVER)
        b.step(
            kernel,
            self.name,
            pieces(out.rows, piece_rows),
            moved=x.rows * x.width + out.rows * channels,
            rows=out.rows,
            piece_rows=piece_rows,
            side=x.side,
            out_side=side,
            in_channels=x.channels,
            in_width=x.width,
            in_stride=x.stride,
            channels=channels,
            width=out.width,
            stride=out.stride,
            words=words,
            start=counter_start(self.in_features),
            source=source.region,
            out=out.region,
            norm=b.const(interleave(take(source.norm.scale, in_order), take(source.norm.bias, in_order), threshold)),
            panels=b.const(weight_panels(self, order, columns)),
            affine=b.const(interleave(*kernel_affine(self, order))),
            position=b.const(padded_rows(self.position)),
            prescale=b.const(prescale(self, order)),
            valid=valid_lanes(b, channels),
            bits=b.scratch(f"down.bits.{x.width}", piece_rows * words),
            pooled=b.scratch("pooled", piece_rows * (x.width + 2 * LANES)),
            pairs=b.scratch("pairs", pair_units(piece_rows, words)),
            z=b.scratch("z", product_units(piece_rows, out.width)),
        )
        return out


def _patch_order(pixel: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Features (row, column, channel) of a patch of four pixels, each in the order of one."""
    return np.concatenate([np.where(pixel >= 0, pixel + tap * channels, -1) for tap in range(4)])
