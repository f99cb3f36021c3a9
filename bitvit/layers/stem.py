"""Stem: 4x4 patches of the image -> tokens (SPEC 7.1)."""

import math
from dataclasses import dataclass

import numpy as np

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.layers.common import interleaved, pieces, rows_a_piece, valid_lanes
from bitvit.panels import float_panels, natural, padded_rows, take
from bitvit.program import ADDRESS_CELL, Builder, Map
from bitvit.schema import Affine


@dataclass(frozen=True, eq=False, repr=False)
class Stem(schema.Stem):
    """Emits one step, which reads the image; image_size: pixels of its side."""

    name: str
    image_size: int

    def emit(self, b: Builder) -> Map:
        rows, channels = self.position.shape
        out = b.map(math.isqrt(rows), channels)
        order = natural(channels)
        piece_rows = rows_a_piece(rows, 56)
        norm = self.norm or Affine(np.ones(channels, np.float32), np.zeros(channels, np.float32))
        b.step(
            catalog.stem if self.norm is None else catalog.stem_ln,
            self.name,
            pieces(rows, piece_rows),
            moved=3 * self.image_size**2 + rows * channels,
            rows=rows,
            piece_rows=piece_rows,
            side=out.side,
            image_side=self.image_size,
            channels=channels,
            width=out.width,
            stride=out.stride,
            pixels=ADDRESS_CELL,
            out=out.region,
            panels=b.const(float_panels(self.weight, natural(catalog.DEPTH))),
            bias=b.const(take(self.bias, order)),
            norm=b.const(interleaved(norm, order)),
            position=b.const(padded_rows(self.position)),
            valid=valid_lanes(b, channels),
            patches=b.scratch("patches", piece_rows * catalog.DEPTH),
        )
        return out
