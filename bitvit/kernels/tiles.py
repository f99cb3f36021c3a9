"""Rows in register tiles: the loop over them, and what every tile is given.

A tile is `height` rows by LANES columns, one value (`Vec`, see simd.py), so its height is part of a type and must be a
literal. A block of rows goes in tiles of TILE_ROWS; what these leave is done in tiles of TAIL_ROWS, so that no more
than one row is computed in vain: an image of 48 pixels has one token in stage 4, and 9 in stage 3.

Every function of a tile is called with

    m, height       its first row in the block, and how many
    n, c, k …       its first column, where it has one
    a               the kernel's record of arguments
    first           the block's first row in the map
    …               arrays, or the arenas (const, state, scratch) that hold them
    layer_norms     whether layer norms stand where batch norms could be folded
"""

from numba.core import cgutils
from numba.extending import intrinsic

from bitvit.kernels.inline import inline
from bitvit.kernels.target import LANES, TAIL_ROWS, TILE_ROWS


@inline
def in_whole_tiles(rows, height=TILE_ROWS):
    """How many of so many rows go in tiles of `height`, the last of which may have one row too many."""
    return (rows + TAIL_ROWS - 1) // height * height


@inline
def vectors(features):
    """Vectors of LANES that hold so many features."""
    return (features + LANES - 1) // LANES


@intrinsic(prefer_literal=True)
def call_tile(typingctx, tile, m, height, others):
    """tile(m, height, *others): written so, Numba would make one tuple of all and forget what number `height` is."""
    sig = typingctx.resolve_function_type(tile, (m, height, *others), {})

    def codegen(context, builder, _, args):
        _, m, height, others = args
        return context.get_function(tile, sig)(builder, [m, height, *cgutils.unpack_tuple(builder, others)])

    return sig.return_type(tile, m, height, others), codegen


def in_tiles(tile):
    """Of a function of one tile, tile(m, height, …), make one of all rows: over_rows(rows, …)."""
    return in_tiles_of(TILE_ROWS)(tile)


def in_tiles_of(height):
    """`in_tiles` with whole tiles of another height."""

    def decorate(tile):
        tile = inline(tile)

        @inline
        def over_rows(rows, *others):
            whole = in_whole_tiles(rows, height)
            for m in range(0, whole, height):
                call_tile(tile, m, height, others)
            for m in range(whole, rows, TAIL_ROWS):
                call_tile(tile, m, TAIL_ROWS, others)

        return over_rows

    return decorate
