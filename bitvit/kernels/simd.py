"""Explicit SIMD values for Numba: `Vec(element, lanes, rows)`.

A Vec is `rows` LLVM vectors `<lanes x element>`; with rows > 1 it is a register tile. Every operator and function
below becomes one LLVM instruction or intrinsic per row *in the code generator*, so a tile cannot fall off LLVM's
unroll threshold the way a loop over a tuple does. A one-row Vec meets a tile by being used for each of its rows, so
kernels read as arithmetic:

    acc += popcount(load(panels, p) ^ broadcast_rows(bits, m, words, TILE_ROWS))
    u = prelu(fma(to_float(acc), scale, bias) + load_rows(shortcut, o, stride, TILE_ROWS), slope)

Only target-independent LLVM is emitted: the same kernels assemble for AVX-512, AVX2, SSE4 and NEON. Indices are
element offsets into flat C arrays; nothing is bounds-checked, callers own the layout.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.types import unliteral  # type: ignore[attr-defined]
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model
from numba.np import arrayobj

from bitvit.kernels.target import ARM, LANES

I1, I8, I32, I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
_LLVM: dict[Any, Any] = {types.float32: ir.FloatType(), types.int32: I32, types.uint32: I32, types.boolean: I1}


class Vec(types.Type):
    """Numba type of `rows` vectors of `lanes` elements."""

    def __init__(self, elem: types.Type, lanes: int = LANES, rows: int = 1) -> None:
        self.elem, self.lanes, self.rows = elem, lanes, rows
        super().__init__(name=f"Vec({elem},{lanes},{rows})")

    @property
    def row_type(self) -> ir.VectorType:
        return ir.VectorType(_LLVM[self.elem], self.lanes)

    def of(self, elem: types.Type, rows: int | None = None) -> "Vec":
        return Vec(elem, self.lanes, self.rows if rows is None else rows)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        row = fe_type.row_type
        super().__init__(dmm, fe_type, row if fe_type.rows == 1 else ir.ArrayType(row, fe_type.rows))


def row_values(builder: ir.IRBuilder, vec: Vec, value: ir.Value) -> list[ir.Value]:
    """The row vectors of a value."""
    return [value] if vec.rows == 1 else [builder.extract_value(value, i) for i in range(vec.rows)]


def join_values(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> ir.Value:
    """The inverse of `row_values`."""
    if len(rows) == 1:
        return rows[0]
    out = ir.Constant(ir.ArrayType(rows[0].type, len(rows)), ir.Undefined)
    for i, row in enumerate(rows):
        out = builder.insert_value(out, row, i)
    return out


def _map(builder: ir.IRBuilder, vecs: Sequence[Vec], args: Sequence[ir.Value], row_op: Callable[..., ir.Value]) -> Any:
    """Apply row_op(builder, *row_values) to every row; one-row arguments serve all rows."""
    n = max(v.rows for v in vecs)
    split = [row_values(builder, v, a) for v, a in zip(vecs, args, strict=True)]
    return join_values(builder, [row_op(builder, *(s[i if len(s) > 1 else 0] for s in split)) for i in range(n)])


def _common(*vecs: Any) -> Vec | None:
    """The type of an element-wise result, or None if the arguments do not go together."""
    if not all(isinstance(v, Vec) and (v.elem, v.lanes) == (vecs[0].elem, vecs[0].lanes) for v in vecs):
        return None
    sizes = {v.rows for v in vecs} - {1}
    if len(sizes) > 1:
        return None
    first: Vec = vecs[0]
    return first.of(first.elem, max(v.rows for v in vecs))


def _constant(vt: ir.VectorType, x: float | int) -> ir.Constant:
    return ir.Constant(vt, [x] * vt.count)


def splat_value(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    vt = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vt, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, _constant(ir.VectorType(I32, lanes), 0))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic overloaded on the vector type of its first argument."""
    vt = args[0].type
    suffix = f"v{vt.count}" + ("f32" if isinstance(vt.element, ir.FloatType) else f"i{vt.element.width}")
    fn = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, fn, f"llvm.{name}.{suffix}"), args)


# ---------------------------------------------------------------------------------------------------- operators
def _operator(op: Any, on_int: Any, on_float: Any, *, inplace: Any = None, compares: bool = False) -> None:
    """Teach Numba `Vec op Vec`, element by element."""

    class Template(AbstractTemplate):
        key = op

        def generic(self, args: Any, kws: Any) -> Any:
            result = _common(*args) if len(args) == 2 and not kws else None
            if result is None:
                return None
            return signature(result.of(types.boolean) if compares else result, *args)

    for key in [op] if inplace is None else [op, inplace]:
        infer_global(key)(type("Template", (Template,), {"key": key}))

        @lower_builtin(key, Vec, Vec)
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _map(builder, sig.args, args, on_float if sig.args[0].elem == types.float32 else on_int)


_operator(operator.add, ir.IRBuilder.add, ir.IRBuilder.fadd, inplace=operator.iadd)
_operator(operator.sub, ir.IRBuilder.sub, ir.IRBuilder.fsub, inplace=operator.isub)
_operator(operator.mul, ir.IRBuilder.mul, ir.IRBuilder.fmul, inplace=operator.imul)
_operator(operator.truediv, None, ir.IRBuilder.fdiv)
_operator(operator.xor, ir.IRBuilder.xor, None)
_operator(operator.and_, ir.IRBuilder.and_, None)
_operator(operator.or_, ir.IRBuilder.or_, None, inplace=operator.ior)
for _op, _symbol in ((operator.gt, ">"), (operator.ge, ">="), (operator.lt, "<")):
    _operator(
        _op,
        lambda b, x, y, s=_symbol: b.icmp_signed(s, x, y),
        lambda b, x, y, s=_symbol: b.fcmp_ordered(s, x, y),
        compares=True,
    )


# ------------------------------------------------------------------------------------------------------- memory
def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vec: Vec) -> Any:
    address = address_of(context, builder, array_type, array, index)
    value = builder.load(builder.bitcast(address, vec.row_type.as_pointer()))
    value.align = 4
    return value


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = align


def _steps(builder: Any, start: Any, stride: Any, rows: int) -> list[Any]:
    return [builder.add(start, builder.mul(stride, ir.Constant(I64, i))) for i in range(rows)]


@intrinsic
def load(typingctx, array, index):
    """LANES consecutive elements of a flat array."""
    vec = Vec(array.dtype)

    def codegen(context, builder, sig, args):
        return _load(context, builder, sig.args[0], args[0], args[1], vec)

    return vec(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def load_rows(typingctx, array, index, stride, rows):
    """Tile whose row i is array[index + i*stride : … + LANES]."""
    vec = Vec(array.dtype, LANES, rows.literal_value)

    def codegen(context, builder, sig, args):
        at = _steps(builder, args[1], args[2], vec.rows)
        return join_values(builder, [_load(context, builder, sig.args[0], args[0], i, vec) for i in at])

    return vec(array, types.intp, types.intp, rows), codegen


@intrinsic(prefer_literal=True)
def load_rows_at(typingctx, array, index, table, first, rows):
    """Tile whose row i is array[index + table[first + i] : … + LANES]."""
    vec = Vec(array.dtype, LANES, rows.literal_value)

    def codegen(context, builder, sig, args):
        array, index, table, first, _ = args
        out = []
        for i in _steps(builder, first, ir.Constant(I64, 1), vec.rows):
            offset = builder.load(address_of(context, builder, sig.args[2], table, i))
            at = builder.add(index, builder.sext(offset, I64))
            out.append(_load(context, builder, sig.args[0], array, at, vec))
        return join_values(builder, out)

    return vec(array, types.intp, table, types.intp, rows), codegen


@intrinsic
def broadcast(typingctx, array, index):
    """LANES copies of array[index]."""
    vec = Vec(array.dtype)

    def codegen(context, builder, sig, args):
        return splat_value(builder, builder.load(address_of(context, builder, sig.args[0], *args)), vec.lanes)

    return vec(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def broadcast_rows(typingctx, array, index, stride, rows):
    """Tile whose row i is LANES copies of array[index + i*stride]."""
    vec = Vec(array.dtype, LANES, rows.literal_value)

    def codegen(context, builder, sig, args):
        at = _steps(builder, args[1], args[2], vec.rows)
        scalars = [builder.load(address_of(context, builder, sig.args[0], args[0], i)) for i in at]
        return join_values(builder, [splat_value(builder, s, vec.lanes) for s in scalars])

    return vec(array, types.intp, types.intp, rows), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + LANES] = value (one row)."""

    def codegen(context, builder, sig, args):
        _store(builder, args[2], address_of(context, builder, sig.args[0], args[0], args[1]), 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def store_fours(typingctx, array, index, stride, value):
    """array[index + i*stride : … + 4] = lanes 4i … 4i + 3 of a one-row value."""

    def codegen(context, builder, sig, args):
        for i, at in enumerate(_steps(builder, args[1], args[2], sig.args[3].lanes // 4)):
            lanes = ir.Constant(ir.VectorType(I32, 4), list(range(4 * i, 4 * i + 4)))
            part = builder.shuffle_vector(args[3], args[3], lanes)
            _store(builder, part, address_of(context, builder, sig.args[0], args[0], at), 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


@intrinsic
def store_rows(typingctx, array, index, stride, value):
    """array[index + i*stride : … + LANES] = row i of value."""

    def codegen(context, builder, sig, args):
        rows = row_values(builder, sig.args[3], args[3])
        for i, row in zip(_steps(builder, args[1], args[2], len(rows)), rows, strict=True):
            _store(builder, row, address_of(context, builder, sig.args[0], args[0], i), 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


@intrinsic
def store_rows_at(typingctx, array, index, table, first, value):
    """array[index + table[first + i] : … + LANES] = row i of value."""

    def codegen(context, builder, sig, args):
        array, index, table, first, value = args
        rows = row_values(builder, sig.args[4], value)
        for i, row in zip(_steps(builder, first, ir.Constant(I64, 1), len(rows)), rows, strict=True):
            offset = builder.load(address_of(context, builder, sig.args[2], table, i))
            at = builder.add(index, builder.sext(offset, I64))
            _store(builder, row, address_of(context, builder, sig.args[0], array, at), 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, table, types.intp, value), codegen


@intrinsic
def store_rows_first(typingctx, array, index, stride, value, count):
    """`store_rows` of the first `count` lanes alone; nothing beyond them is touched."""

    def codegen(context, builder, sig, args):
        vec = sig.args[3]
        lane = ir.Constant(ir.VectorType(I32, vec.lanes), list(range(vec.lanes)))
        mask = builder.icmp_signed("<", lane, splat_value(builder, builder.trunc(args[4], I32), vec.lanes))
        pointer = vec.row_type.as_pointer()
        fn = ir.FunctionType(ir.VoidType(), [vec.row_type, pointer, I32, mask.type])
        name = f"llvm.masked.store.v{vec.lanes}{'f32' if vec.elem == types.float32 else 'i32'}.p0"
        fn = cgutils.get_or_insert_function(builder.module, fn, name)
        rows = row_values(builder, vec, args[3])
        for i, row in zip(_steps(builder, args[1], args[2], len(rows)), rows, strict=True):
            address = builder.bitcast(address_of(context, builder, sig.args[0], args[0], i), pointer)
            builder.call(fn, [row, address, ir.Constant(I32, 4), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value, types.intp), codegen


@intrinsic
def store_mask(typingctx, words, bit, mask):
    """Write a mask's LANES bits at bit offset `bit` (a multiple of LANES) of a word array.

    Words are little-endian, so lane l of the mask becomes bit (bit + l) mod 32 of word (bit + l) // 32: a compare of
    LANES floats is the packed word's part itself.
    """

    def codegen(context, builder, sig, args):
        _store_mask(context, builder, sig.args[0], args[0], _bytes(builder, args[1]), args[2])
        return context.get_dummy_value()

    return types.void(words, types.intp, mask), codegen


@intrinsic
def store_mask_rows(typingctx, words, bit, stride, mask):
    """`store_mask` for every row of a tile, `stride` bits apart, a multiple of 8: bytes are counted, not bits."""

    def codegen(context, builder, sig, args):
        rows = row_values(builder, sig.args[3], args[3])
        first, stride = (_bytes(builder, bits) for bits in args[1:3])
        for i, row in zip(_steps(builder, first, stride, len(rows)), rows, strict=True):
            _store_mask(context, builder, sig.args[0], args[0], i, row)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.intp, mask), codegen


def _bytes(builder: Any, bits: Any) -> Any:
    return builder.lshr(bits, ir.Constant(I64, 3))


def _store_mask(context: Any, builder: Any, array_type: Any, array: Any, byte: Any, mask: Any) -> None:
    data = builder.bitcast(context.make_array(array_type)(context, builder, array).data, I8.as_pointer())
    address = builder.gep(data, [byte])
    _store(builder, builder.bitcast(mask, ir.IntType(mask.type.count)), address, 1)


@intrinsic
def floats_at(typingctx, arena, offset):
    """The float32 array that starts `offset` 4-byte units into an arena (a pointer to uint32)."""
    return _array_at(types.float32, arena)


@intrinsic
def floats_at_address(typingctx, address):
    """The float32 array at a memory address."""
    return _array_at_address(types.float32)


@intrinsic
def bytes_at_address(typingctx, address):
    """uint8 at a memory address (int64)."""
    return _array_at_address(types.uint8)


@intrinsic
def words_at_address(typingctx, address):
    """The uint32 array at a memory address."""
    return _array_at_address(types.uint32)


@intrinsic
def record(typingctx, address, fields):
    """The record of a dtype at a memory address (voidptr).

    Numba's `carray` would do, but is compiled for the machine that it runs on before it becomes part of a kernel.
    """
    kind = fields.dtype

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(types.voidptr, fields), codegen


def _array_at_address(elem: Any) -> Any:
    array_type = types.Array(elem, 1, "C")

    def codegen(context, builder, sig, args):
        return _raw_array(context, builder, array_type, builder.inttoptr(args[0], I8.as_pointer()))

    return array_type(types.int64), codegen


@intrinsic
def words_at(typingctx, arena, offset):
    """The uint32 array that starts `offset` 4-byte units into an arena (a pointer to uint32)."""
    return _array_at(types.uint32, arena)


@intrinsic
def ints_at(typingctx, arena, offset):
    """The int32 array that starts `offset` 4-byte units into an arena (a pointer to uint32)."""
    return _array_at(types.int32, arena)


def _array_at(elem: Any, arena: Any) -> Any:
    array_type = types.Array(elem, 1, "C")

    def codegen(context, builder, sig, args):
        return _raw_array(context, builder, array_type, builder.gep(args[0], [args[1]]))

    return array_type(arena, types.intp), codegen


def _raw_array(context: Any, builder: Any, array_type: Any, pointer: Any) -> Any:
    """A one-dimensional array of 4-byte elements over memory that Numba does not own; its length is not known."""
    array = context.make_array(array_type)(context, builder)
    unlimited, itemsize = ir.Constant(I64, 1 << 40), ir.Constant(I64, 4)
    data = builder.bitcast(pointer, array.data.type)
    arrayobj.populate_array(array, data=data, shape=[unlimited], strides=[itemsize], itemsize=itemsize, meminfo=None)
    return array._getvalue()


@intrinsic
def at(typingctx, array, index):
    """array[index] without Python's handling of negative indices."""

    def codegen(context, builder, sig, args):
        return builder.load(address_of(context, builder, sig.args[0], *args))

    return array.dtype(array, types.intp), codegen


# ------------------------------------------------------------------------------------------------- element-wise
@intrinsic(prefer_literal=True)
def splat(typingctx, scalar):
    """LANES copies of a scalar."""
    scalar = unliteral(scalar)
    vec = Vec(scalar)
    return vec(scalar), lambda context, builder, sig, args: splat_value(builder, args[0], vec.lanes)


@intrinsic(prefer_literal=True)
def splat_rows(typingctx, scalar, rows):
    """A tile filled with a scalar."""
    scalar = unliteral(scalar)
    vec = Vec(scalar, LANES, rows.literal_value)

    def codegen(context, builder, sig, args):
        return join_values(builder, [splat_value(builder, args[0], vec.lanes)] * vec.rows)

    return vec(scalar, rows), codegen


def _elementwise(name: str, doc: str, row_op: Callable[..., Any], arity: int, result: Any = None) -> Any:
    """An intrinsic of `arity` Vecs that maps row_op over the rows."""

    def resolve(*vecs: Any) -> Any:
        common = _common(*vecs)
        if common is None:
            return None
        out = common if result is None else common.of(result)
        return out(*vecs), lambda context, builder, sig, args: _map(builder, sig.args, args, row_op)

    # Numba reads the number of arguments off the signature, so each arity needs a function of its own.
    def one(typingctx, x):
        return resolve(x)

    def two(typingctx, x, y):
        return resolve(x, y)

    def three(typingctx, x, y, z):
        return resolve(x, y, z)

    fn = (one, two, three)[arity - 1]
    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return intrinsic(fn)


# Minimax polynomials, highest power first: 2**f on |f| <= 1/2 (relative error 2e-9), and erf(x)/x on |x| <= 4 in
# the variable x²/8 - 1 (error of erf 3e-8; 2e-7 after float32 rounding). The constant term of the first is exactly
# 1, so equal attention scores give exactly equal, exactly representable probabilities.
_EXP2 = (
    0.0001534581160210489,
    0.0013399931216422293,
    0.009618488958634245,
    0.05550328776973717,
    0.2402264689062002,
    0.6931472057372626,
    1.0,
)
_ERF = (
    -0.001131728034263463,
    0.0028830953123480142,
    -0.0019220598525728921,
    0.0020886611794739968,
    -0.008906934076656499,
    0.016695158225302285,
    -0.02249516813849555,
    0.03198817272353381,
    -0.045701590721331474,
    0.060148970952889784,
    -0.07474732755838916,
    0.09017790598889623,
    -0.10770837039366848,
    0.13167650823796936,
    -0.17657629088516896,
    0.35353098552111173,
)


def _polynomial(b: Any, x: Any, coefficients: Sequence[float]) -> Any:
    p = _constant(x.type, coefficients[0])
    for c in coefficients[1:]:
        p = _call(b, "fmuladd", x.type, p, x, _constant(x.type, c))
    return p


def _count_bytes(b: Any, x: Any) -> Any:
    """1 bits of each byte."""
    vt = ir.VectorType(I8, 4 * x.type.count)
    return b.bitcast(_call(b, "ctpop", vt, b.bitcast(x, vt)), x.type)


def _at_most(b: Any, x: Any, bound: Any) -> Any:
    """min(x, bound), the bound if x is not a number. NEON has that in one instruction, which differs in -0's sign."""
    return _call(b, "minnum", x.type, x, bound) if ARM else b.select(b.fcmp_ordered("<", x, bound), x, bound)


def _at_least(b: Any, x: Any, bound: Any) -> Any:
    """max(x, bound), the same way."""
    return _call(b, "maxnum", x.type, x, bound) if ARM else b.select(b.fcmp_ordered(">", x, bound), x, bound)


def _prelu_row(b: Any, x: Any, slope_minus_1: Any) -> Any:
    """x + (slope - 1)·min(x, 0): one operation fewer than compare, multiply and blend."""
    zero = _constant(x.type, 0.0)
    return _call(b, "fmuladd", x.type, b.select(b.fcmp_ordered("<", x, zero), x, zero), slope_minus_1, x)


def _erf_row(b: Any, x: Any) -> Any:
    """erf(x) = x·R(x²) on |x| <= 4; beyond that erf is ±1 to float32."""
    x = _at_least(b, _at_most(b, x, _constant(x.type, 4.0)), _constant(x.type, -4.0))
    s = _call(b, "fmuladd", x.type, b.fmul(x, x), _constant(x.type, 0.125), _constant(x.type, -1.0))
    return b.fmul(x, _polynomial(b, s, _ERF))


def _exp2_row(b: Any, x: Any, low: Any) -> Any:
    """2**(x + low) = 2**i · 2**f with i = rint(x) and |f| <= 1/2, for low far below 1."""
    vi = ir.VectorType(I32, x.type.count)
    x = _at_least(b, x, _constant(x.type, -126.0))
    nearest = _call(b, "rint", x.type, x)
    p = _polynomial(b, b.fadd(b.fsub(x, nearest), low), _EXP2)
    exponent = b.shl(b.add(b.fptosi(nearest, vi), _constant(vi, 127)), _constant(vi, 23))
    return b.fmul(p, b.bitcast(exponent, x.type))


popcount_bytes = _elementwise(
    "popcount_bytes",
    "Number of 1 bits of each of the four bytes of a 32-bit lane, in place.",
    _count_bytes,
    1,
)
popcount = _elementwise("popcount", "Number of 1 bits.", lambda b, x: _call(b, "ctpop", x.type, x), 1)
fma = _elementwise("fma", "x*y + z.", lambda b, x, y, z: _call(b, "fmuladd", x.type, x, y, z), 3)
minimum = _elementwise("minimum", "The smaller; y if x is not a number, as y must be.", _at_most, 2)
maximum = _elementwise("maximum", "The larger.", lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y), 2)
minimum_int = _elementwise(
    "minimum_int", "The smaller, signed.", lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y), 2
)
prelu = _elementwise("prelu", "x where x > 0, else slope*x, given slope - 1.", _prelu_row, 2)
exp2 = _elementwise("exp2", "2**(x + low), x raised to -126 if less; relative error below 2e-7.", _exp2_row, 2)
sqrt = _elementwise("sqrt", "The square root.", lambda b, x: _call(b, "sqrt", x.type, x), 1)
erf = _elementwise("erf", "The error function, absolute error below 3e-7.", _erf_row, 1)
to_float = _elementwise(
    "to_float",
    "Signed integers to float32.",
    lambda b, x: b.sitofp(x, ir.VectorType(ir.FloatType(), x.type.count)),
    1,
    types.float32,
)


def _shift(name: str, doc: str, op: Callable[..., Any]) -> Any:
    def fn(typingctx, v, count):
        def codegen(context, builder, sig, args):
            by = splat_value(builder, builder.trunc(args[1], I32), v.lanes)
            return _map(builder, [v, v.of(v.elem, 1)], [args[0], by], op)

        return v(v, types.int64), codegen

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return intrinsic(fn)


shift_left = _shift("shift_left", "Every lane shifted left by a count below 32.", ir.IRBuilder.shl)
shift_right = _shift("shift_right", "Every lane shifted right, zeros coming in.", ir.IRBuilder.lshr)


@intrinsic
def count_differences_bytes(typingctx, count, weights, words, index, stride):
    """count + 1 bits of words[index + i*stride] xor weights in row i, each byte of a lane a count of its own.

    Made row by row: a tile's counts fill half of sixteen registers, and seven rows in the making would spill them.
    """

    def codegen(context, builder, sig, args):
        count, weights, words, index, stride = args
        out = []
        rows = row_values(builder, sig.args[0], count)
        for row, i in zip(rows, _steps(builder, index, stride, len(rows)), strict=True):
            word = builder.load(address_of(context, builder, sig.args[2], words, i))
            differing = builder.xor(splat_value(builder, word, sig.args[0].lanes), weights)
            out.append(builder.add(row, _count_bytes(builder, differing)))
        return join_values(builder, out)

    return count(count, weights, words, types.intp, types.intp), codegen


@intrinsic
def count_bits(typingctx, word):
    """Number of 1 bits of a scalar."""
    return word(word), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def nonzero(typingctx, v):
    """Mask of the lanes that are not zero."""

    def codegen(context, builder, sig, args):
        return _map(builder, sig.args, args, lambda b, x: b.icmp_unsigned("!=", x, _constant(x.type, 0)))

    return v.of(types.boolean)(v), codegen


@intrinsic
def where_sign(typingctx, words, one, two):
    """Lanes of `one` where bit 31 of a word is 1, of `two` elsewhere; one row each."""

    def codegen(context, builder, sig, args):
        words, one, two = args
        return builder.select(builder.icmp_signed("<", words, _constant(words.type, 0)), one, two)

    return one(words, one, two), codegen


@intrinsic
def fma_two(typingctx, array, index, stride, one, two, left, right):
    """(left + x·one, right + x·two), where row i of x is array[index + i*stride] in every lane.

    Made row by row: with sixteen registers there is none for the x of another row.
    """

    def codegen(context, builder, sig, args):
        array, index, stride, one, two, left, right = args
        tiles: tuple[list[Any], list[Any]] = ([], [])
        rows = [row_values(builder, vec, value) for vec, value in ((sig.args[5], left), (sig.args[6], right))]
        for i, place in enumerate(_steps(builder, index, stride, len(rows[0]))):
            scalar = builder.load(address_of(context, builder, sig.args[0], array, place))
            x = splat_value(builder, scalar, sig.args[3].lanes)
            for tile, row, weights in zip(tiles, rows, (one, two), strict=True):
                tile.append(_call(builder, "fmuladd", x.type, weights, x, row[i]))
        return context.make_tuple(builder, sig.return_type, [join_values(builder, tile) for tile in tiles])

    return types.Tuple((left, right))(  # type: ignore[attr-defined]
        array, types.intp, types.intp, one, two, left, right
    ), codegen


# ------------------------------------------------------------------------------------------------- across lanes
def _halves(builder: Any, x: Any) -> tuple[Any, Any]:
    n = x.type.count // 2
    indices = ir.VectorType(I32, n)
    low = builder.shuffle_vector(x, x, ir.Constant(indices, list(range(n))))
    return low, builder.shuffle_vector(x, x, ir.Constant(indices, list(range(n, 2 * n))))


def _reduce(builder: Any, x: Any, op: Callable[..., Any]) -> Any:
    while x.type.count > 1:
        x = op(builder, *_halves(builder, x))
    return builder.extract_element(x, ir.Constant(I32, 0))


def _reduction(name: str, doc: str, on_int: Any, on_float: Any) -> Any:
    def fn(typingctx, v):
        def codegen(context, builder, sig, args):
            return _reduce(builder, args[0], on_float if v.elem == types.float32 else on_int)

        return v.elem(v), codegen

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return intrinsic(fn)


lane_sum = _reduction(
    "lane_sum", "Sum of the lanes, always in the same tree order.", ir.IRBuilder.add, ir.IRBuilder.fadd
)


def _row_reduction(name: str, doc: str, on_int: Any, on_float: Any) -> Any:
    def fn(typingctx, v):
        def codegen(context, builder, sig, args):
            op = on_float if v.elem == types.float32 else on_int
            return _map(builder, sig.args, args, lambda b, x: splat_value(b, _reduce(b, x, op), v.lanes))

        return v(v), codegen

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return intrinsic(fn)


row_sums = _row_reduction(
    "row_sums",
    "Each row's sum of lanes in all of its lanes, in the tree order of `lane_sum`.",
    ir.IRBuilder.add,
    ir.IRBuilder.fadd,
)
row_mins = _row_reduction(
    "row_mins",
    "Each row's smallest lane in all of its lanes (signed integers).",
    lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y),
    None,
)


@intrinsic
def join_rows(typingctx, x, y):
    """The tile of x's rows and then y's."""

    def codegen(context, builder, sig, args):
        return join_values(builder, row_values(builder, x, args[0]) + row_values(builder, y, args[1]))

    return x.of(x.elem, x.rows + y.rows)(x, y), codegen


def _alternate(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, first: int) -> ir.Value:
    """Every other lane of x followed by y."""
    lanes = x.type.count
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, lanes), list(range(first, 2 * lanes, 2))))


def _unzip(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """`unzip_rows`: the even numbers of a row of values, dealt out, in turn with the odd ones, dealt out."""
    if len(rows) == 1:
        return rows
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    evens, odds = (_unzip(builder, [_alternate(builder, x, y, first) for x, y in pairs]) for first in (0, 1))
    return [row for pair in zip(evens, odds, strict=True) for row in pair]


@intrinsic
def unzip_rows(typingctx, v):
    """Deal a tile of R rows, R a power of two, out to its rows: all lanes end to end, row j gets R·q + j, q < LANES."""
    return v(v), lambda context, builder, sig, args: join_values(
        builder, _unzip(builder, row_values(builder, v, args[0]))
    )


@intrinsic
def add_rows(typingctx, v):
    """The sum of a tile's rows, a power of two of them: neighbours first."""

    def codegen(context, builder, sig, args):
        rows = row_values(builder, v, args[0])
        while len(rows) > 1:
            rows = [builder.fadd(x, y) for x, y in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return v.of(v.elem, 1)(v), codegen
