"""Loops that only use up the processor's best: they compute what they say, so nothing of them was optimised away."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.kernels import catalog
from bitvit.kernels.target import LANES, LOOKUP, TILE_ROWS
from bitvit.program import aligned_zeros
from bitvit.runtime.calls import Call, c_function

Words = NDArray[np.uint32]
STEPS = 40  # more than LIMIT_TABLE, behind which the words begin anew
TILE = TILE_ROWS * LANES
ONES = np.array([bin(value).count("1") for value in range(16)])


def run(function: catalog.Scheduling, words: NDArray[Any], steps: int) -> NDArray[Any]:
    """A copy of the words, as the function leaves them."""
    memory = aligned_zeros(len(words))
    memory[:] = words.view(np.uint32)
    Call(c_function(function), memory, steps)()
    return memory.view(words.dtype)


def test_all_that_is_read_is_used() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 6 * TILE, np.uint32)
    found = run(catalog.read_limit, words, 3)
    np.testing.assert_array_equal(found[:TILE], np.bitwise_xor.reduce(words.reshape(6, TILE)))
    np.testing.assert_array_equal(found[TILE:], words[TILE:])


def test_products_are_added() -> None:
    words = np.random.default_rng(0).standard_normal(2 * catalog.LIMIT_TABLE * LANES).astype(np.float32)
    table, rows = words.astype(np.float64).reshape(-1, LANES), words[:TILE].astype(np.float64).reshape(-1, LANES)
    expected = sum(rows * table[2 * (step % catalog.LIMIT_TABLE) + k] for step in range(STEPS) for k in (0, 1))
    found = run(catalog.fma_limit, words, STEPS)
    np.testing.assert_allclose(found[:TILE].reshape(-1, LANES), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[TILE:], words[TILE:])


@pytest.mark.skipif(not LOOKUP, reason="counts by tables")
def test_lookups_are_counted() -> None:
    """Of four panels, the bytes that both rows of a pair have counted together, and then those of the second alone."""
    steps = 10  # more than there are places; each byte stays below 256
    words = np.random.default_rng(0).integers(0, 1 << 32, 2 * catalog.LIMIT_TABLE * LANES, np.uint32)
    words[2:] &= 0x0F0F0F0F  # four bits a byte, as panels have them
    nibbles = words[:2, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    totals, uppers = np.zeros((4, 32), int), np.zeros((4, 32), int)
    for step in range(steps):
        for panel in range(4):
            at = 2 * LANES + step % 8 * 3 * LANES + panel * 9 * LANES
            weights = words[at : at + 3 * LANES].view(np.uint8).reshape(3, 32)
            one, two = (ONES[row[step % 6 : step % 6 + 3, None] ^ weights].sum(axis=0) for row in nibbles)
            totals[panel] += one + 16 * two
            uppers[panel] += (one + 16 * two & 255) >> 4
    expected = np.concatenate([totals, uppers]).astype(np.uint8).reshape(-1)
    found = run(catalog.popcount_limit, words, steps)
    np.testing.assert_array_equal(found[: 8 * LANES].view(np.uint8), expected)
    np.testing.assert_array_equal(found[8 * LANES :], words[8 * LANES :])
