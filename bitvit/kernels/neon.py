"""What 64-bit ARM does otherwise: tiles two panels wide, rows spread out beforehand, and products by element.

NEON has 32 registers of 128 bits: a tile of PAIR_ROWS rows by two panels holds 16 accumulators. A broadcast would
occupy one of the pipelines that exclusive or, count and addition need too, a seventh of a binary product's time. So
every word of a block's rows is written out four times, once for all panels that meet it, and then merely loaded:

    spread   uint32 [words][rows + 1][4]: a word of PAIR_ROWS rows is 64 bytes in order

A float product needs no broadcast: `fmla` takes one lane of a register for all, so four values of a row are loaded at
once.

Where there are dot products (ARMv8.4, and most processors since the Cortex-A75), the counts of a lane's four bytes are
added up by `udot` with ones, in the place of an addition, and counters are lanes. Elsewhere they are bytes, whose sums
are taken by pairwise additions.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bitvit.kernels.inline import inline
from bitvit.kernels.simd import I8, I32, I64, address_of, at, join_values, row_values, splat_value
from bitvit.kernels.target import DOT_PRODUCTS

__all__ = ["FOURS", "count_differences_two", "fma_fours", "spread_rows", "store_masks_two", "sum_bytes"]

FOURS = 4  # values of a row that a register holds
I16 = ir.IntType(16)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    function = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}"), args)


def _places(builder: ir.IRBuilder, index: ir.Value, stride: ir.Value, rows: int) -> list[ir.Value]:
    return [builder.add(index, builder.mul(stride, ir.Constant(I64, i))) for i in range(rows)]


def _load(builder: ir.IRBuilder, address: ir.Value, vector: ir.VectorType) -> ir.Value:
    value = builder.load(builder.bitcast(address, vector.as_pointer()))
    value.align = 4
    return value


def _ones(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """1 bits of every counter of a vector."""
    counters = x.type if DOT_PRODUCTS else ir.VectorType(I8, 4 * x.type.count)
    name = f"ctpop.v{counters.count}i{counters.element.width}"
    return builder.bitcast(_call(builder, name, counters, builder.bitcast(x, counters)), x.type)


@intrinsic
def store_spread(typingctx, spread, index, word):
    """spread[index : index + 4] = word."""

    def codegen(context, builder, sig, args):
        spread, index, word = args
        value = splat_value(builder, word, FOURS)
        address = address_of(context, builder, sig.args[0], spread, index)
        builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(spread, types.intp, types.uint32), codegen


@inline
def spread_rows(bits, rows, words, spread):
    """Fill `spread` from packed rows, uint32 [rows][words]."""
    for m in range(rows):
        for k in range(words):
            store_spread(spread, (k * (rows + 1) + m) * FOURS, at(bits, m * words + k))


@intrinsic
def count_differences_two(typingctx, spread, index, one, two, left, right):
    """(left + 1 bits of x xor one, right + those of x xor two); x of row i is spread[index + 4·i : … + 4].

    With dot products each lane is a count, else each byte. Made row by row: no registers are left for all rows' x.
    """

    def codegen(context, builder, sig, args):
        spread, index, one, two, left, right = args
        four, lanes = ir.VectorType(I32, FOURS), one.type.count
        twice = ir.Constant(ir.VectorType(I32, lanes), list(range(FOURS)) * (lanes // FOURS))
        rows = [row_values(builder, vec, value) for vec, value in ((sig.args[4], left), (sig.args[5], right))]
        tiles: tuple[list[Any], list[Any]] = ([], [])
        for i, place in enumerate(_places(builder, index, ir.Constant(I64, FOURS), len(rows[0]))):
            x = _load(builder, address_of(context, builder, sig.args[0], spread, place), four)
            x = builder.shuffle_vector(x, x, twice)
            for tile, row, weights in zip(tiles, rows, (one, two), strict=True):
                tile.append(builder.add(row[i], _ones(builder, builder.xor(x, weights))))
        return context.make_tuple(builder, sig.return_type, [join_values(builder, tile) for tile in tiles])

    return types.Tuple((left, right))(  # type: ignore[attr-defined]
        spread, types.intp, one, two, left, right
    ), codegen


@intrinsic
def sum_bytes(typingctx, v):
    """The sum of the four bytes of every lane."""

    def one_row(builder, x):
        sums = []
        for first in range(0, x.type.count, 4):
            quarter = ir.Constant(ir.VectorType(I32, 4), list(range(first, first + 4)))
            part = builder.bitcast(builder.shuffle_vector(x, x, quarter), ir.VectorType(I8, 16))
            pairs = _call(builder, "aarch64.neon.uaddlp.v8i16.v16i8", ir.VectorType(I16, 8), part)
            sums.append(_call(builder, "aarch64.neon.uaddlp.v4i32.v8i16", ir.VectorType(I32, 4), pairs))
        low, high = sums
        return builder.shuffle_vector(low, high, ir.Constant(x.type, list(range(x.type.count))))

    return v(v), lambda context, builder, sig, args: join_values(
        builder, [one_row(builder, row) for row in row_values(builder, v, args[0])]
    )


@intrinsic
def fma_fours(typingctx, array, index, stride, panels, at_one, at_two, left, right):
    """(left + Σ x·one, right + Σ x·two) over FOURS values x of each row, in order.

    Row i's are array[index + i*stride : … + FOURS]; those of a panel are as many vectors from panels[at_…] on.
    """

    def codegen(context, builder, sig, args):
        array, index, stride, panels, at_one, at_two, left, right = args
        vector = sig.args[6].row_type
        four = ir.VectorType(vector.element, FOURS)
        tiles = [row_values(builder, vec, value) for vec, value in ((sig.args[6], left), (sig.args[7], right))]
        xs = [
            _load(builder, address_of(context, builder, sig.args[0], array, place), four)
            for place in _places(builder, index, stride, len(tiles[0]))
        ]
        for k in range(FOURS):
            element = ir.Constant(ir.VectorType(I32, vector.count), [k] * vector.count)
            for tile, first in zip(tiles, (at_one, at_two), strict=True):
                place = builder.add(first, ir.Constant(I64, k * vector.count))
                weights = _load(builder, address_of(context, builder, sig.args[3], panels, place), vector)
                for i, x in enumerate(xs):
                    every = builder.shuffle_vector(x, x, element)
                    tile[i] = _call(builder, f"fmuladd.v{vector.count}f32", vector, weights, every, tile[i])
        return context.make_tuple(builder, sig.return_type, [join_values(builder, tile) for tile in tiles])

    return types.Tuple((left, right))(  # type: ignore[attr-defined]
        array, types.intp, types.intp, panels, types.intp, types.intp, left, right
    ), codegen


@intrinsic
def store_masks_two(typingctx, words, bit, stride, left, right):
    """`simd.store_mask_rows` of `left` and then of `right`, which are adjacent: 16 bits a row from a multiple of 16 on.

    All rows' bytes are weighed by 1, 2, 4 … 128 and go through the same three pairwise additions.
    """

    def codegen(context, builder, sig, args):
        words, bit, stride, left, right = args
        masks = zip(row_values(builder, sig.args[3], left), row_values(builder, sig.args[4], right), strict=True)
        sixteen, joined = ir.VectorType(I8, 16), ir.Constant(ir.VectorType(I32, 16), list(range(16)))
        weights = ir.Constant(sixteen, 2 * [1, 2, 4, 8, 16, 32, 64, 128])
        parts = [builder.and_(builder.sext(builder.shuffle_vector(*pair, joined), sixteen), weights) for pair in masks]
        rows = len(parts)
        for _ in range(3):
            pairs = list(zip(parts[::2], parts[1::2], strict=True)) if len(parts) > 1 else [(parts[0], parts[0])]
            parts = [_call(builder, "aarch64.neon.addp.v16i8", sixteen, *pair) for pair in pairs]
        halves = builder.bitcast(parts[0], ir.VectorType(I16, 8))
        data = builder.bitcast(address_of(context, builder, sig.args[0], words, ir.Constant(I64, 0)), I16.as_pointer())
        first, step = (builder.lshr(value, ir.Constant(I64, 4)) for value in (bit, stride))
        for i, place in enumerate(_places(builder, first, step, rows)):
            half = builder.extract_element(halves, ir.Constant(I32, i))
            builder.store(half, builder.gep(data, [place])).align = 2
        return context.get_dummy_value()

    return types.void(words, types.intp, types.intp, left, right), codegen
