"""Matrix products: integer results equal int64 NumPy exactly, float32 ones within their rounding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.lookup import pair_rows
from bitvit.kernels.matmul import binary_matmul, float_matmul
from bitvit.kernels.neon import spread_rows
from bitvit.kernels.target import ARM, LANES, LOOKUP, OUTPUTS, TILE_ROWS
from bitvit.panels import binary_panels, float_panels, natural, padded, pair_units, product_panels
from tests.support.signs import EPS, PROFILE, pack_words, pm, random_signs, seeds, unpack_words

Array = NDArray[Any]


@njit(**OPTIONS)
def run_binary_matmul(
    bits: Array, pairs: Array, rows: int, words: int, panels: Array, first: int, width: int, start: int, out: Array,
    out_rows: int,
) -> None:  # fmt: skip
    if LOOKUP:
        pair_rows(bits, rows, words, pairs)
    if ARM:
        spread_rows(bits, rows, words, pairs)
    binary_matmul(bits, pairs, rows, words, panels, first, width, start, out, out_rows)


def half_dots(bits: Array, rows: int, w: Array, first: int = 0) -> NDArray[np.float32]:
    """float32 [rows, outputs - first] from packed rows [tiles, words] and signs [outputs, features]."""
    (outputs, features), words = w.shape, bits.shape[1]
    panels = product_panels(w, natural(outputs), natural(features, 32)).reshape(-1)
    out = np.full((padded(outputs - first, OUTPUTS) // LANES, len(bits) + 1, LANES), -77, np.float32)
    pairs = np.zeros(pair_units(rows, words), np.uint32)
    width = padded(outputs) - first
    flat = (bits.reshape(-1), pairs, rows, words, panels, first, width, -(features // 2))
    run_binary_matmul(*flat, out.reshape(-1), out.shape[1])
    assert (out[:, rows + 1 :] == -77).all(), "more than one row in vain"
    found: NDArray[np.float32] = out[:, :rows].transpose(1, 0, 2).reshape(rows, -1)[:, : outputs - first]
    return found


@settings(PROFILE, max_examples=120)
@given(rows=st.integers(1, 30), features=st.integers(1, 600), outputs=st.integers(1, 300), seed=seeds)
def test_binary_products_are_exact(rows: int, features: int, outputs: int, seed: int) -> None:
    """dot = -2·half + (K mod 2), for any K, N and number of rows."""
    a, w = random_signs(seed, rows, features), random_signs(seed + 1, outputs, features)
    words, tiles = padded(features, 32) // 32, padded(rows, TILE_ROWS)
    bits = np.zeros((tiles, words), np.uint32)
    bits[:rows] = pack_words(a, words)
    out = half_dots(bits, rows, w)
    half = out.astype(np.int64)
    np.testing.assert_array_equal(half, out)
    np.testing.assert_array_equal(-2 * half + features % 2, pm(a) @ pm(w).T)
    for first in range(OUTPUTS, outputs, OUTPUTS):
        np.testing.assert_array_equal(half_dots(bits, rows, w, first), out[:, first:])


@pytest.mark.parametrize(
    "features", [1, 7, 16, 31, 32, 33, 63, 64, 65, 224, 225, 252, 253, 504, 505, 992, 993, 1984, 1985, 2048]
)
def test_binary_products_take_every_value(features: int) -> None:
    """A dot of length K takes K + 1 values; row i differs from the weights in i places.

    Counters of a byte would overflow behind 31 words, 992 features, all of which differ; in tables behind 63 nibbles,
    252 features, of either row of a pair.
    """
    a = np.arange(features)[None, :] >= np.arange(features + 1)[:, None]
    words, tiles = padded(features, 32) // 32, padded(features + 1, TILE_ROWS)
    bits = np.zeros((tiles, words), np.uint32)
    bits[: features + 1] = pack_words(a, words)
    half = half_dots(bits, features + 1, np.ones((1, features), bool))[:, 0]
    np.testing.assert_array_equal(-2 * half + features % 2, features - 2 * np.arange(features + 1))


def test_binary_panels_put_each_weight_at_its_place() -> None:
    features, outputs = 70, 40
    for n, k in ((0, 0), (15, 31), (16, 32), (39, 69), (7, 63)):
        positive = np.zeros((outputs, features), bool)
        positive[n, k] = True
        panels = binary_panels(positive, natural(outputs), natural(features, 32))
        assert panels.shape == (padded(outputs) // LANES, 3, LANES)
        assert np.argwhere(panels).tolist() == [[n // LANES, k // 32, n % LANES]]
        assert panels[n // LANES, k // 32, n % LANES] == 1 << k % 32


def test_binary_panels_follow_their_orders() -> None:
    positive = random_signs(0, 5, 9)
    rows, columns = np.array([3, -1, 0, 4] * (LANES // 4)), np.array([8, -1, 2] + [-1] * 29)
    panels = binary_panels(positive, rows, columns)
    bits = unpack_words(panels.transpose(0, 2, 1).reshape(LANES, 1), 32)
    for i, n in enumerate(rows):
        np.testing.assert_array_equal(
            np.flatnonzero(bits[i]), [p for p in (0, 2) if n >= 0 and positive[n, columns[p]]]
        )


@njit(**OPTIONS)
def run_float_matmul(
    a: Array, rows: int, depth: int, panels: Array, width: int, offsets: Array, stride: int, out: Array, out_stride: int
) -> None:
    float_matmul(a, rows, depth, panels, width, offsets, stride, out, out_stride)


@settings(PROFILE, max_examples=40)
@given(rows=st.integers(1, 20), depth=st.integers(1, 90), outputs=st.integers(1, 70), per_row=st.booleans(), seed=seeds)
def test_float_products_round_once_a_term(rows: int, depth: int, outputs: int, per_row: bool, seed: int) -> None:
    """A sum of K products and an offset in float32 is off by at most (K + 1) half ulps of the terms' sizes."""
    rng = np.random.default_rng(seed)
    width, tiles = padded(outputs), padded(rows + 1, TILE_ROWS)
    a, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((tiles, depth), (outputs, depth)))
    offsets = rng.standard_normal((tiles if per_row else 1, width)).astype(np.float32)
    stride, out_stride = (width if per_row else 0), width + 3
    out = np.zeros((tiles, out_stride), np.float32)
    panels = float_panels(w, natural(depth, 1)).reshape(-1)
    flat = offsets.reshape(-1)
    run_float_matmul(a.reshape(-1), rows, depth, panels, width, flat, stride, out.reshape(-1), out_stride)
    got, wide = out[:rows, :outputs], a[:rows].astype(np.float64)
    added = offsets[:rows, :outputs]
    bound = 1.01 * (depth + 1) * EPS * (np.abs(wide) @ np.abs(w.T) + np.abs(added))
    assert (np.abs(got - (wide @ w.astype(np.float64).T + added)) <= bound).all()
    assert not out[:, width:].any()
    # one fixed order of summation: a row alone has the same bits
    single = np.zeros((TILE_ROWS, out_stride), np.float32)
    last = rows - 1
    shared = offsets[last if per_row else 0].copy()
    padding = np.zeros((TILE_ROWS, depth), np.float32)
    padding[0] = a[last]
    run_float_matmul(
        padding.reshape(-1), 1, depth, panels, width, np.tile(shared, TILE_ROWS), stride, single.reshape(-1), out_stride
    )
    assert single[0].tobytes() == out[last].tobytes()
