"""What the processor can do at best: the loops that bitvit.bench measures kernels against.

`words` is the address of an array of 4-byte elements. A step is LIMIT_MACS binary products, or 2·TILE_ROWS·LANES
products of floats, or as many words read.
"""

import numpy as np

from bitvit.kernels.catalog import LIMIT_TABLE as TABLE
from bitvit.kernels.lookup import look_up_three, no_counts, store_pair
from bitvit.kernels.matmul import ones
from bitvit.kernels.simd import floats_at_address, fma, load, load_rows, splat_rows, store_rows, words_at_address
from bitvit.kernels.target import LANES, LOOKUP, TILE_ROWS


def popcount_limit(words, steps):
    """xor + popcount + add of two tiles in registers; only one vector a tile is loaded, by a port that is idle else.

    words: uint32 [TABLE][2][LANES], of which the first vectors are overwritten. With LOOKUP: lookups of a pair of rows
    in four panels, which lie in the first-level cache.
    """
    memory = words_at_address(words)
    if LOOKUP:
        store_pair(memory, 0, memory[0], memory[1])
        counts = no_counts(4)
        for step in range(steps):
            counts = look_up_three(counts, memory, step % 6, memory, 2 * LANES + step % 8 * 3 * LANES, 9 * LANES)
        store_rows(memory, 0, LANES, counts)
        return
    a, b = splat_rows(np.uint32(0), TILE_ROWS), splat_rows(np.uint32(0), TILE_ROWS)
    rows = load_rows(memory, 0, LANES, TILE_ROWS)
    for step in range(steps):
        at = (step % TABLE) * 2 * LANES
        a += ones(rows ^ load(memory, at))
        b += ones(rows ^ load(memory, at + LANES))
    store_rows(memory, 0, LANES, a + b)


def fma_limit(words, steps):
    """The same with float32 multiply-adds."""
    memory = floats_at_address(words)
    a, b = splat_rows(np.float32(0), TILE_ROWS), splat_rows(np.float32(0), TILE_ROWS)
    rows = load_rows(memory, 0, LANES, TILE_ROWS)
    for step in range(steps):
        at = (step % TABLE) * 2 * LANES
        a = fma(load(memory, at), rows, a)
        b = fma(load(memory, at + LANES), rows, b)
    store_rows(memory, 0, LANES, a + b)


def read_limit(words, steps):
    """Read 2·TILE_ROWS vectors a step, one after the other through memory; their xor is left in the first TILE_ROWS."""
    memory = words_at_address(words)
    a, b = splat_rows(np.uint32(0), TILE_ROWS), splat_rows(np.uint32(0), TILE_ROWS)
    for step in range(steps):
        at = step * 2 * TILE_ROWS * LANES
        a = a ^ load_rows(memory, at, LANES, TILE_ROWS)
        b = b ^ load_rows(memory, at + TILE_ROWS * LANES, LANES, TILE_ROWS)
    store_rows(memory, 0, LANES, a ^ b)
