"""What the layers share: binary products in kernel order, tables, pieces."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import bits
from bitvit.kernels.target import LOOKUP, OUTPUTS, PAIR_ROWS, TILE_ROWS
from bitvit.panels import interleave, natural, padded, product_panels, take
from bitvit.program import Builder
from bitvit.schema import Affine, BinaryLinear

NEVER = np.inf  # a threshold that no value exceeds: the bit stays 0

Order = NDArray[np.int64]
Vector = NDArray[np.float32]


# ----------------------------------------------------------------------------------------------------- binary products
def weight_panels(linear: BinaryLinear, rows: Order, columns: Order) -> NDArray[np.uint32]:
    """A layer's signs in kernel order."""
    return product_panels(bits.unpack(linear.bits, linear.in_features), rows, columns)


def product_units(rows: int, outputs: int) -> int:
    """4-byte units of the products of so many rows: [outputs to whole panels][rows]."""
    return rows * padded(outputs, OUTPUTS)


def counter_start(features: int) -> int:
    """What kernels' counters start at: half dots, popcount - K // 2."""
    return -(features // 2)


def half_affine(linear: BinaryLinear) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and bias as kernels apply them: under batch norm to half dots.

    dot = -2·half + (K mod 2), so scale·dot + bias = (-2·scale)·half + (bias + scale·(K mod 2)).
    """
    scale, bias = linear.affine.scale.astype(np.float64), linear.affine.bias.astype(np.float64)
    if linear.affine.row_scale is not None:
        return scale, bias
    return -2 * scale, bias + scale * (linear.in_features % 2)


def kernel_affine(
    linear: BinaryLinear, order: Order, more: NDArray[np.float64] | float = 0
) -> tuple[Vector, Vector, Vector]:
    """Scale, bias + more and slope - 1 in kernel order."""
    scale, bias = half_affine(linear)
    return take(scale, order), take(bias + more, order), slope_less_one(linear.affine.slope, order)


def slope_less_one(slope: NDArray[Any], order: Order) -> Vector:
    """What kernels' prelu takes, in kernel order: v + (slope - 1)·min(v, 0)."""
    return take(slope.astype(np.float64) - 1, order)


def prescale(linear: BinaryLinear, order: Order) -> Vector:
    """Layer norm only: half dots -> row_scale·dot, interleaved."""
    if linear.affine.row_scale is None:
        return np.zeros(0, np.float32)
    scale = linear.affine.row_scale.astype(np.float64)
    return interleave(take(-2 * scale, order), take(scale * (linear.in_features % 2), order))


# --------------------------------------------------------------------------------------------------- tables and pieces
def interleaved(affine: Affine, order: Order) -> Vector:
    """Scale and bias in kernel order."""
    return interleave(take(affine.scale, order), take(affine.bias, order))


def valid_lanes(b: Builder, features: int, order: Order | None = None, key: Any = None) -> int:
    """Table of 1 for lanes that hold a feature and 0 for padding."""
    order = natural(features) if order is None else order
    return b.shared(("valid", features, key), lambda: (order >= 0).astype(np.float32))


def rows_a_piece(rows: int, most: int) -> int:
    """Rows of a piece: whole tiles, at most `most`, and about 16 pieces a map so that a team stays in balance.

    An even number where rows are looked up in pairs, or tiles of another height would end one row behind an odd piece:
    that row is the next piece's, which another thread may have written already.
    """
    tiles = 2 * TILE_ROWS if LOOKUP or PAIR_ROWS != TILE_ROWS else TILE_ROWS
    return min(most, padded(-(-rows // 16), tiles))


def pieces(rows: int, piece_rows: int) -> int:
    """How many pieces the rows make."""
    return -(-rows // piece_rows)
