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

A convolution looks up the 4 bits of a pixel and of the one right of it, in the three taps of a row at once; its panels
are of 16 outputs, so that a vector has room for two pairs of pixels:

pairs    uint16 [row][pixel][nibbles of a group's channels]: as above, for every pixel of the map and of its border
panels   uint8 [outputs/16][row of taps][nibble][three taps][16]: byte 4·j + q is that of output 4·q + j

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
    for block in range(0, count, BLOCK):
        last = min(count, block + BLOCK)
        n = 0
        while n + 4 * OUTPUTS <= width:
            _panels(4, n, block, last, count, pairs, rows, panels, first, start, out, out_rows)
            n += 4 * OUTPUTS
        if n + 2 * OUTPUTS <= width:
            _panels(2, n, block, last, count, pairs, rows, panels, first, start, out, out_rows)
            n += 2 * OUTPUTS
        if n < width:
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


@inline
def look_up_taps(pairs, first, row_step, step, nibbles, pixels, panels, panel, start, out, chunk):
    """Half dots of 16 outputs with the nine taps of every pixel of an image row, as float32.

    out[half][pixel][LANES], halves `chunk` apart, is written for pixels up to whole fours. pairs: as for a convolution,
    `first` where the middle tap of pixel 0 is, row_step from one row of taps to the next, step from one tap to the
    next; panels: uint32, this panel at `panel`.
    """
    rows = 3 if 3 * nibbles <= BLOCK // 3 else 1  # of taps whose counts fit
    for r in range(0, 3, rows):
        for n in range(0, nibbles, BLOCK // 3):
            last = min(nibbles, n + BLOCK // 3)
            for x in range(0, pixels - 15, 16):
                _taps(4, x, r, rows, n, last, pairs, first, row_step, step, nibbles, panels, panel, start, out, chunk)
            for x in range(pixels // 16 * 16, pixels, 4):
                _taps(1, x, r, rows, n, last, pairs, first, row_step, step, nibbles, panels, panel, start, out, chunk)


@inline
def _taps(height, x, r, rows, n, last, pairs, first, row_step, step, nibbles, panels, panel, start, out, chunk):
    """4·height pixels from x on."""
    counts = no_counts(height)
    for row in range(r, r + rows):
        at = first + (row - 1) * row_step + x * nibbles
        for k in range(n, last):
            weights = panel + (row * nibbles + k) * 12
            counts = look_up_three_taps(counts, pairs, at + k, step, 2 * nibbles, panels, weights)
    store_pixel_counts(out, x * LANES, chunk, counts, r + n > 0, start)


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


def _offset(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> ir.Value:
    """pairs[index]."""
    return builder.zext(builder.load(_half_words(context, builder, array_type, array, index)), I64)


def _sixteen(builder: ir.IRBuilder, table: ir.Value, offset: ir.Value) -> ir.Value:
    """The table that begins there."""
    half = builder.load(builder.bitcast(builder.gep(table, [offset]), ir.VectorType(I8, 16).as_pointer()))
    half.align = 16
    return half


def _in_both_halves(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """16 bytes and 16 bytes."""
    if low is high:
        return builder.shuffle_vector(low, low, ir.Constant(ir.VectorType(I32, 32), 2 * list(range(16))))
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 32), list(range(32))))


def _shuffle(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    """table[index] of each byte, in each half."""
    kind = ir.FunctionType(_BYTES, [_BYTES, _BYTES])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pshuf.b"), [table, indices])


def _counted(builder: ir.IRBuilder, total: ir.Value, upper: ir.Value, found: Any) -> tuple[ir.Value, ir.Value]:
    """T and H after three more lookups."""
    three = builder.add(builder.add(found[0], found[1]), found[2])
    total = builder.add(builder.bitcast(total, _BYTES), three)
    halves = builder.lshr(builder.bitcast(three, _WORDS), _words(4))
    return builder.bitcast(total, _WORDS), builder.add(upper, builder.and_(halves, _words(0x0F0F0F0F)))


def _counts(builder: ir.IRBuilder, total: ir.Value, upper: ir.Value, is_second: bool) -> list[ir.Value]:
    """What the first or second of a pair has counted: the q-th bytes of all lanes, q < 4."""
    if not is_second:
        sixteens = builder.shl(builder.and_(upper, _words(0x0F0F0F0F)), _words(4))
        upper = builder.bitcast(builder.sub(builder.bitcast(total, _BYTES), builder.bitcast(sixteens, _BYTES)), _WORDS)
    shifted = [builder.lshr(upper, _words(8 * q)) if q else upper for q in range(4)]
    return [builder.and_(value, _words(255)) if q < 3 else value for q, value in enumerate(shifted)]


def _words(n: int) -> ir.Constant:
    return ir.Constant(_WORDS, [n] * LANES)


def _store_floats(builder: ir.IRBuilder, places: Any, more: ir.Value, start: ir.Value) -> None:
    """Store integers as float32: added to what is there, or to `start`. places: called to make (integers, address)s."""
    floats = ir.VectorType(ir.FloatType(), LANES)
    base = splat_value(builder, builder.trunc(start, I32), LANES)
    with builder.if_else(more) as (then, otherwise):
        for branch, is_more in ((then, True), (otherwise, False)):
            with branch:
                for value, address in places():
                    pointer = builder.bitcast(address, floats.as_pointer())
                    if is_more:
                        before = builder.load(pointer)
                        before.align = 4
                        value = builder.fadd(before, builder.sitofp(value, floats))
                    else:
                        value = builder.sitofp(builder.add(value, base), floats)
                    builder.store(value, pointer).align = 4


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
        table, tables = _table(builder), []
        for k in range(3):
            place = builder.add(index, ir.Constant(I64, k))
            half = _sixteen(builder, table, _offset(context, builder, sig.args[1], pairs, place))
            tables.append(_in_both_halves(builder, half, half))
        rows = row_values(builder, sig.args[0], counts)
        found = []
        for panel, (total, upper) in enumerate(zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)):
            first = builder.add(at, builder.mul(stride, ir.Constant(I64, panel)))
            bytes_ = []
            for k in range(3):
                place = builder.add(first, ir.Constant(I64, k * LANES))
                address = address_of(context, builder, sig.args[3], panels, place)
                weights = builder.load(builder.bitcast(address, _BYTES.as_pointer()))
                weights.align = 4
                bytes_.append(_shuffle(builder, tables[k], weights))
            found.append(_counted(builder, total, upper, bytes_))
        return join_values(builder, [total for total, _ in found] + [upper for _, upper in found])

    return counts(counts, pairs, types.intp, panels, types.intp, types.intp), codegen


@intrinsic
def look_up_three_taps(typingctx, counts, pairs, index, step, stride, panels, at):
    """counts + lookups in the taps left of, at, and right of a pixel: pairs[index + (-step, 0, step)].

    A vector of counts is of two pairs of pixels, `stride` apart in `pairs`, and so is the next vector's first.
    panels[at : at + 12] are the weights of the three taps.
    """

    def codegen(context, builder, sig, args):
        counts, pairs, index, step, stride, panels, at = args
        table, weights = _table(builder), []
        for k in range(3):
            address = address_of(context, builder, sig.args[5], panels, builder.add(at, ir.Constant(I64, 4 * k)))
            half = builder.load(builder.bitcast(address, ir.VectorType(I8, 16).as_pointer()))
            half.align = 4
            weights.append(_in_both_halves(builder, half, half))
        rows = row_values(builder, sig.args[0], counts)
        found = []
        for i, (total, upper) in enumerate(zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)):
            bytes_ = []
            for k in range(3):
                halves = []
                for pair in (2 * i, 2 * i + 1):
                    place = builder.add(index, builder.mul(stride, ir.Constant(I64, pair)))
                    place = builder.add(place, builder.mul(step, ir.Constant(I64, k - 1)))
                    halves.append(_sixteen(builder, table, _offset(context, builder, sig.args[1], pairs, place)))
                bytes_.append(_shuffle(builder, _in_both_halves(builder, *halves), weights[k]))
            found.append(_counted(builder, total, upper, bytes_))
        return join_values(builder, [total for total, _ in found] + [upper for _, upper in found])

    return counts(counts, pairs, types.intp, types.intp, types.intp, panels, types.intp), codegen


@intrinsic(prefer_literal=True)
def store_counts(typingctx, out, at, stride, counts, second, more, start):
    """What the first or the `second` row of a pair has counted, as float32: LANES outputs at `at`, more `stride` on.

    more: whether it is added to what is there; if not, it begins at `start`.
    """
    is_second = bool(second.literal_value)

    def codegen(context, builder, sig, args):
        out, at, stride, counts, _, more, start = args
        rows = row_values(builder, sig.args[3], counts)

        def places() -> Any:
            place = at
            for total, upper in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
                for value in _counts(builder, total, upper, is_second):
                    yield value, address_of(context, builder, sig.args[0], out, place)
                    place = builder.add(place, stride)

        _store_floats(builder, places, more, start)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, counts, second, types.boolean, types.int64), codegen


@intrinsic
def store_pixel_counts(typingctx, out, at, chunk, counts, more, start):
    """What pixels have counted: LANES outputs of each one after another from `at` on, LANES more a `chunk` further."""

    def codegen(context, builder, sig, args):
        out, at, chunk, counts, more, start = args
        rows = row_values(builder, sig.args[3], counts)
        quarters = [list(range(4 * half, 4 * half + 4)) for half in range(2)]

        def places() -> Any:
            for i, (total, upper) in enumerate(zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)):
                for is_second in (False, True):
                    values = _counts(builder, total, upper, is_second)
                    for half in range(2):
                        pixel = 4 * i + 2 * half + is_second
                        lanes = [*quarters[half], *(LANES + lane for lane in quarters[half])]
                        for q in range(2):
                            ordered = builder.shuffle_vector(
                                values[2 * q], values[2 * q + 1], ir.Constant(ir.VectorType(I32, LANES), lanes)
                            )
                            place = builder.add(at, ir.Constant(I64, pixel * LANES))
                            place = builder.add(place, builder.mul(chunk, ir.Constant(I64, q)))
                            yield ordered, address_of(context, builder, sig.args[0], out, place)

        _store_floats(builder, places, more, start)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, counts, types.boolean, types.int64), codegen
