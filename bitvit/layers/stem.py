"""Stem: 4x4 patches of the image -> tokens (SPEC 7.1)."""

import math
from dataclasses import dataclass

import numpy as np

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.layers.common import interleaved, pieces, rows_a_piece, valid_lanes
from bitvit.panels import float_panels, natural, padded_rows, take
from bitvit.program import IMAGE_CELL, Builder, Map, Region
from bitvit.schema import Affine


@dataclass(frozen=True, eq=False, repr=False)
class Stem(schema.Stem):
    """Emits one step, which reads the image, or two, if it is normalised first; image_size: pixels of its side."""

    name: str
    image_size: int

    def emit(self, b: Builder) -> Map:
        rows, channels = self.position.shape
        out = b.map(math.isqrt(rows), channels)
        order = natural(channels)
        piece_rows = rows_a_piece(rows, 56)
        norm = self.norm or Affine(np.ones(channels, np.float32), np.zeros(channels, np.float32))
        image_norm = self._emit_image_norm(b)
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
            image=IMAGE_CELL,
            out=out.region,
            image_norm=-1 if image_norm is None else image_norm,
            panels=b.const(float_panels(self.weight, natural(catalog.DEPTH))),
            bias=b.const(take(self.bias, order) if self.bias.ndim == 1 else padded_rows(self.bias)),
            bias_stride=0 if self.bias.ndim == 1 else out.width,
            norm=b.const(interleaved(norm, order)),
            position=b.const(padded_rows(self.position)),
            valid=valid_lanes(b, channels),
            patches=b.scratch("patches", piece_rows * catalog.DEPTH),
        )
        return out

    def _emit_image_norm(self, b: Builder) -> Region | None:
        """Where the channels' means, scales and biases will be; None if the image is taken as it is."""
        if self.image_norm is None:
            return None
        out = b.state("image_norm", 9)
        b.step(
            catalog.image_norm,
            self.name,
            3,
            moved=2 * 3 * self.image_size**2,
            image_side=self.image_size,
            image=IMAGE_CELL,
            out=out,
            affine=b.const(self.image_norm.stacked()),
            sums=b.scratch("sums", catalog.SUM_LANES),
        )
        return out
