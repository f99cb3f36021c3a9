"""Small functions that the loops of training are made of: vectors of LANES float32, and arrays in half precision."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bitvit.kernels.simd import Vec, fma, load, maximum, splat, store

__all__ = [
    "ONE",
    "PIECE",
    "THREE",
    "TWO",
    "ZERO",
    "add_to",
    "choose",
    "compiled",
    "estimate",
    "get",
    "inline",
    "put",
    "sign_of",
    "spread",
]

PIECE = 256  # rows whose sums are kept together
ZERO, ONE, TWO, THREE = np.float32(0), np.float32(1), np.float32(2), np.float32(3)
# A cached loop is stored with the name of its module, so only the program's own name for it may leave one behind.
compiled = njit(nogil=True, cache=__name__ == "bitvit.train.vectors")
inline = njit(inline="always")

I16, I32 = ir.IntType(16), ir.IntType(32)


# ------------------------------------------------------------------------------------------------- half precision


def _all(count, value):
    return ir.Constant(ir.VectorType(I32, count), [value] * count)


def _pointer(context, builder, array_type, array, index, kind):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


@intrinsic
def get(typingctx, array, index):
    """LANES values as float32. A bfloat16 is the upper half of a float32."""
    vec, half = Vec(types.float32), array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(I16, vec.lanes) if half else vec.row_type
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], kind))
        value.align = 2 if half else 4
        if not half:
            return value
        wide = builder.zext(value, ir.VectorType(I32, vec.lanes))
        return builder.bitcast(builder.shl(wide, _all(vec.lanes, 16)), vec.row_type)

    return vec(array, types.intp), codegen


@intrinsic
def put(typingctx, array, index, value):
    """Store LANES values, rounded half to even if the array is bfloat16: add 0x7fff and the last bit that stays."""
    half = array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        array, index, value = args
        if half:
            lanes = value.type.count
            bits = builder.bitcast(value, ir.VectorType(I32, lanes))
            last = builder.and_(builder.lshr(bits, _all(lanes, 16)), _all(lanes, 1))
            rounded = builder.add(bits, builder.add(last, _all(lanes, 0x7FFF)))
            value = builder.trunc(builder.lshr(rounded, _all(lanes, 16)), ir.VectorType(I16, lanes))
        place = _pointer(context, builder, sig.args[0], array, index, value.type)
        builder.store(value, place).align = 2 if half else 4
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


# --------------------------------------------------------------------------------------------------- small functions


@intrinsic
def choose(typingctx, x, positive, other):
    """`positive` where x > 0, elsewhere `other`."""

    def codegen(context, builder, sig, args):
        zero = ir.Constant(args[0].type, [0.0] * args[0].type.count)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], args[2])

    return x(x, x, x), codegen


@intrinsic(prefer_literal=True)
def spread(typingctx, x, copies, part):
    """Lane l is lane (part * LANES + l) // copies of x."""
    copies_, part_ = copies.literal_value, part.literal_value
    places = ir.Constant(ir.VectorType(I32, x.lanes), [(part_ * x.lanes + k) // copies_ for k in range(x.lanes)])

    def codegen(context, builder, sig, args):
        return builder.shuffle_vector(args[0], args[0], places)

    return x(x, copies, part), codegen


@inline
def sign_of(x):
    """-1, 0 or +1."""
    one, zero = splat(ONE), splat(ZERO)
    return choose(x, one, choose(zero - x, zero - one, zero))


@inline
def estimate(x):
    """The surrogate gradient of sign: max(0, 2 - 2|x|)."""
    return maximum(splat(ZERO), fma(maximum(x, splat(ZERO) - x), splat(-TWO), splat(TWO)))


@inline
def add_to(sums, place, value):
    store(sums, place, load(sums, place) + value)
