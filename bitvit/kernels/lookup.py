"""Binary products by table, for processors that look up 32 bytes at once and have no popcount of lanes (AVX2).

For 4 bits v of a row, the 16 values popcount(v xor w) are a table, and a byte that holds 4 bits w of an output's
weights is an index into it: one shuffle looks 32 outputs up. Both halves of a table's bytes are used, for two rows:

    table[a, b][w] = popcount(a xor w) + 16·popcount(b xor w)

Three such bytes add up to at most 12 a half, so only after three of them the upper halves have to be taken out. With
T = Σ bytes (mod 256) and H = Σ upper halves, the row of b has counted H, and that of a T - 16·H (mod 256): both are
below 256 for up to BLOCK lookups.

pairs    uint16 [pairs of rows][lookups]: where the table of the next 4 bits of both rows begins, in bytes
panels   uint8 [outputs/32][lookups][32]: 4 bits of the outputs' weights. Byte 4·j + q is that of output 8·q + j, so
         the q-th bytes of all 32-bit lanes are 8 outputs in order

What a row lacks to whole threes of lookups is filled with zeros on both sides, which adds popcount(0 xor 0) = 0.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bitvit.kernels.inline import inline
from bitvit.kernels.simd import I8, I32, I64, Vec, address_of, join_values, row_values, splat_value
from bitvit.kernels.target import LANES, OUTPUTS

I16 = ir.IntType(16)
BLOCK = 63  # lookups whose counts fit a byte, as 63·4 < 256, in threes
NIBBLES = 8  # of a word
_BYTES = ir.VectorType(I8, 32)
_WORDS = ir.VectorType(I32, LANES)


@inline
def lookups(words):
    """Of a row of so many words."""
    return (NIBBLES * words + 2) // 3 * 3


@inline
def pair_rows(bits, rows, words, pairs):
    """Fill `pairs` from packed rows, uint32 [rows][words]; an odd last row goes with whatever lies behind it."""
    count = lookups(words)
    for m in range(0, rows, 2):
        to = m // 2 * count
        for k in range(words):
            store_pair(pairs, to + NIBBLES * k, bits[m * words + k], bits[(m + 1) * words + k])
        for k in range(NIBBLES * words, count):
            store_nothing(pairs, to + k)


@inline
def look_up(pairs, rows, words, panels, first, width, start, out, out_rows):
    """`matmul.binary_matmul` of the rows that `pair_rows` prepared."""
    count = lookups(words)
    fours = width // (4 * OUTPUTS) * 4 * OUTPUTS
    for block in range(0, count, BLOCK):
        last = min(count, block + BLOCK)
        for n in range(0, fours, 4 * OUTPUTS):
            _panels(4, n, block, last, count, pairs, rows, panels, first, start, out, out_rows)
        for n in range(fours, width, 2 * OUTPUTS):
            if n + OUTPUTS < width:
                _panels(2, n, block, last, count, pairs, rows, panels, first, start, out, out_rows)
            else:
                _panels(1, n, block, last, count, pairs, rows, panels, first, start, out, out_rows)


@inline
def _panels(height, n, block, last, count, pairs, rows, panels, first, start, out, out_rows):
    """Lookups block … last of all rows in `height` panels from output first + n on, which share the pair's tables."""
    panel = count * LANES  # words
    weights, to = (first + n) // OUTPUTS * panel, n * out_rows
    for m in range(0, rows, 2):
        counts = no_counts(height)
        for k in range(block, last, 3):
            counts = look_up_three(counts, pairs, m // 2 * count + k, panels, weights + k * LANES, panel)
        at = to + m * LANES
        store_counts(out, at, out_rows * LANES, counts, 0, block > 0, start)
        if m + 1 < rows:
            store_counts(out, at + LANES, out_rows * LANES, counts, 1, block > 0, start)


# ---------------------------------------------------------------------------------------------------------- intrinsics
def _table(builder: ir.IRBuilder) -> ir.Value:
    """The tables of all pairs of 4 bits, 4 KB."""
    ones = [bin(v).count("1") for v in range(16)]
    values = bytearray(ones[a ^ w] + 16 * ones[b ^ w] for b in range(16) for a in range(16) for w in range(16))
    name = "bitvit_pair_counts"
    table = builder.module.globals.get(name)
    if table is None:
        table = cgutils.global_constant(builder.module, name, cgutils.make_bytearray(values))
        table.align = 64
    return builder.bitcast(table, I8.as_pointer())


def _half_words(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> ir.Value:
    """Address of the index-th uint16 of an array of words."""
    words = address_of(context, builder, array_type, array, ir.Constant(I64, 0))
    return builder.gep(builder.bitcast(words, I16.as_pointer()), [index])


@intrinsic
def store_pair(typingctx, pairs, index, a, b):
    """pairs[index : index + 8]: 16·(a's next 4 bits + 16·b's)."""

    def codegen(context, builder, sig, args):
        pairs, index, a, b = args
        shifts = ir.Constant(_WORDS, [4 * i for i in range(NIBBLES)])
        low = ir.Constant(_WORDS, [15] * NIBBLES)
        parts = [builder.and_(builder.lshr(splat_value(builder, x, NIBBLES), shifts), low) for x in (a, b)]
        fours, eights = (ir.Constant(_WORDS, [n] * NIBBLES) for n in (4, 8))
        offsets = builder.or_(builder.shl(parts[0], fours), builder.shl(parts[1], eights))
        value = builder.trunc(offsets, ir.VectorType(I16, NIBBLES))
        address = _half_words(context, builder, sig.args[0], pairs, index)
        builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = 2
        return context.get_dummy_value()

    return types.void(pairs, types.intp, types.uint32, types.uint32), codegen


@intrinsic
def store_nothing(typingctx, pairs, index):
    """pairs[index] = 0."""

    def codegen(context, builder, sig, args):
        address = _half_words(context, builder, sig.args[0], *args)
        builder.store(ir.Constant(I16, 0), address)
        return context.get_dummy_value()

    return types.void(pairs, types.intp), codegen


@intrinsic(prefer_literal=True)
def no_counts(typingctx, panels):
    """Counters of a pair of rows, all 0: for each panel T, then for each H (see above), four to a lane."""
    vec = Vec(types.uint32, LANES, 2 * panels.literal_value)

    def codegen(context, builder, sig, args):
        return join_values(builder, [ir.Constant(_WORDS, [0] * LANES)] * vec.rows)

    return vec(panels), codegen


@intrinsic
def look_up_three(typingctx, counts, pairs, index, panels, at, stride):
    """counts + three lookups: pairs[index : index + 3] in panels[at : at + 3·LANES], the next panel `stride` on.

    Made panel by panel, which leaves registers for the three tables.
    """

    def codegen(context, builder, sig, args):
        counts, pairs, index, panels, at, stride = args
        table, halves = _table(builder), ir.VectorType(I8, 16)
        tables = []
        for k in range(3):
            place = builder.add(index, ir.Constant(I64, k))
            offset = builder.zext(builder.load(_half_words(context, builder, sig.args[1], pairs, place)), I64)
            half = builder.load(builder.bitcast(builder.gep(table, [offset]), halves.as_pointer()))
            half.align = 16
            twice = ir.Constant(ir.VectorType(I32, 32), 2 * list(range(16)))
            tables.append(builder.shuffle_vector(half, half, twice))
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_BYTES, [_BYTES, _BYTES]), "llvm.x86.avx2.pshuf.b"
        )
        rows = row_values(builder, sig.args[0], counts)
        totals, uppers = [], []
        for panel in range(len(rows) // 2):
            first = builder.add(at, builder.mul(stride, ir.Constant(I64, panel)))
            found = []
            for k in range(3):
                place = builder.add(first, ir.Constant(I64, k * LANES))
                address = address_of(context, builder, sig.args[3], panels, place)
                weights = builder.load(builder.bitcast(address, _BYTES.as_pointer()))
                weights.align = 4
                found.append(builder.call(shuffle, [tables[k], weights]))
            three = builder.add(builder.add(found[0], found[1]), found[2])
            total = builder.add(builder.bitcast(rows[panel], _BYTES), three)
            shifted = builder.lshr(builder.bitcast(three, _WORDS), ir.Constant(_WORDS, [4] * LANES))
            upper = builder.and_(shifted, ir.Constant(_WORDS, [0x0F0F0F0F] * LANES))
            totals.append(builder.bitcast(total, _WORDS))
            uppers.append(builder.add(rows[len(rows) // 2 + panel], upper))
        return join_values(builder, totals + uppers)

    return counts(counts, pairs, types.intp, panels, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def store_counts(typingctx, out, at, stride, counts, second, more, start):
    """What the first or the `second` row of a pair has counted, as float32: LANES outputs at `at`, more `stride` on.

    more: whether it is added to what is there; if not, it begins at `start`.
    """
    is_second = second.literal_value

    def codegen(context, builder, sig, args):
        out, at, stride, counts, _, more, start = args
        rows = row_values(builder, sig.args[3], counts)
        floats = ir.VectorType(ir.FloatType(), LANES)
        pointers = floats.as_pointer()

        def constant(n: int) -> ir.Constant:
            return ir.Constant(_WORDS, [n] * LANES)

        def each(combine: Any) -> None:
            place = at
            for total, upper in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
                counted = upper
                if not is_second:
                    sixteens = builder.shl(builder.and_(upper, constant(0x0F0F0F0F)), constant(4))
                    difference = builder.sub(builder.bitcast(total, _BYTES), builder.bitcast(sixteens, _BYTES))
                    counted = builder.bitcast(difference, _WORDS)
                for q in range(4):
                    value = builder.lshr(counted, constant(8 * q)) if q else counted
                    value = builder.and_(value, constant(255)) if q < 3 else value
                    address = address_of(context, builder, sig.args[0], out, place)
                    pointer = builder.bitcast(address, pointers)
                    builder.store(combine(value, pointer), pointer).align = 4
                    place = builder.add(place, stride)

        def added(value: Any, pointer: Any) -> Any:
            before = builder.load(pointer)
            before.align = 4
            return builder.fadd(before, builder.sitofp(value, floats))

        with builder.if_else(more) as (then, otherwise):
            with then:
                each(added)
            with otherwise:
                base = splat_value(builder, builder.trunc(start, I32), LANES)
                each(lambda value, _: builder.sitofp(builder.add(value, base), floats))
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, counts, second, types.boolean, types.int64), codegen
