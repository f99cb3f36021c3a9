"""The norm in front of a layer: folded into it under batch norm, a step of its own under layer norm."""

from dataclasses import dataclass

import numpy as np

from bitvit.kernels import catalog
from bitvit.kernels.catalog import Kind
from bitvit.kernels.target import TILE_ROWS
from bitvit.layers.common import interleaved, pieces, valid_lanes
from bitvit.panels import natural, padded
from bitvit.program import Builder, Map, Region
from bitvit.schema import Affine


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Where kernels read N(x) from, and the affine map that they still have to apply."""

    region: Region
    norm: Affine


def normalized(b: Builder, x: Map, norm: Affine, layer: str, kind: Kind | None, *, layer_norm: bool) -> Source:
    """N(x): under batch norm x itself; under layer norm a copy, which a step of its own normalises.

    layer, kind: whom the step serves.
    """
    if not layer_norm:
        return Source(x.region, norm)
    identity = Affine(np.ones_like(norm.scale), np.zeros_like(norm.bias))
    return Source(_layer_norm(b, x, norm, layer, kind), identity)


def _layer_norm(b: Builder, x: Map, affine: Affine, layer: str, kind: Kind | None) -> Region:
    """A step that normalises every token of x into a buffer of its own."""
    out = b.state("normalized", (padded(x.rows, TILE_ROWS) + TILE_ROWS) * x.stride)
    b.step(
        catalog.layer_norm,
        layer,
        pieces(x.rows, 56),
        kind=kind,
        moved=2 * x.rows * x.channels,
        rows=x.rows,
        piece_rows=56,
        channels=x.channels,
        width=x.width,
        stride=x.stride,
        source=x.region,
        out=out,
        affine=b.const(interleaved(affine, natural(x.channels))),
        valid=valid_lanes(b, x.channels),
    )
    return out
