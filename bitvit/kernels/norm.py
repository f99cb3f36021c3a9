"""Layer norm of every token of a map, as a step of its own (models without batch norm)."""

from bitvit.kernels.catalog import LAYER_NORM
from bitvit.kernels.rows import normalize_row
from bitvit.kernels.simd import floats_at, fma, load, record, store
from bitvit.kernels.target import LANES


def layer_norm(piece, arguments, const, state, scratch):
    """out = normalise(source)·weight + bias; affine: [width/LANES][weight, bias][LANES]."""
    a = record(arguments, LAYER_NORM)
    source, out, affine = floats_at(state, a.source), floats_at(state, a.out), floats_at(const, a.affine)
    first = piece * a.piece_rows
    for i in range(first, min(first + a.piece_rows, a.rows)):
        o = i * a.stride
        for c in range(0, a.width, LANES):
            store(out, o + c, load(source, o + c))
        normalize_row(out, o, 1, a.width, a.channels, floats_at(const, a.valid))
        for c in range(0, a.width, LANES):
            store(out, o + c, fma(load(out, o + c), load(affine, 2 * c), load(affine, 2 * c + LANES)))
