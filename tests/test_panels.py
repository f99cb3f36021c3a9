"""Arrays in kernel order: every feature is where a kernel looks for it, and padding is zero."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.panels import (
    binary_panels,
    float_panels,
    interleave,
    lane_words,
    lookup_panels,
    natural,
    padded,
    padded_rows,
    take,
)


@given(st.integers(1, 200), st.integers(1, 70))
def test_orders_go_up_to_a_multiple(n: int, multiple: int) -> None:
    order = natural(n, multiple)
    assert len(order) == padded(n, multiple)
    assert order[:n].tolist() == list(range(n))
    assert set(order[n:].tolist()) <= {-1}
    assert lane_words(n) * LANE_BITS == padded(n, LANE_BITS)


def test_what_has_no_feature_is_filled() -> None:
    vector = np.array([1.0, 2.0, 3.0])
    assert take(vector, np.array([2, -1, 0]), fill=9).tolist() == [3, 9, 1]
    assert take(vector, np.array([1])).dtype == np.float32


def test_what_a_block_of_lanes_needs_lies_together() -> None:
    one, two = np.arange(2 * LANES, dtype=np.float32), 100 + np.arange(2 * LANES, dtype=np.float32)
    found = interleave(one, two)
    for block in range(2):
        lanes = slice(block * LANES, (block + 1) * LANES)
        assert np.array_equal(found[block], [one[lanes], two[lanes]])


@pytest.mark.parametrize(("outputs", "features"), [(1, 1), (3, 33), (LANES + 1, 70)])
def test_each_sign_has_a_bit_of_its_own(outputs: int, features: int) -> None:
    rows, columns = natural(outputs), natural(features, LANE_BITS)
    for n in range(outputs):
        for k in range(0, features, 7):
            positive = np.zeros((outputs, features), bool)
            positive[n, k] = True
            panels = binary_panels(positive, rows, columns)
            assert panels.shape == (len(rows) // LANES, len(columns) // LANE_BITS, LANES)
            assert panels[n // LANES, k // LANE_BITS, n % LANES] == 1 << (k % LANE_BITS)
            assert np.count_nonzero(panels) == 1


@given(st.data())
def test_panels_follow_any_order(data: st.DataObject) -> None:
    outputs, features = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    positive = rng.random((outputs, features)) < 0.5
    rows = rng.permutation(np.append(np.arange(outputs), np.full(padded(outputs) - outputs, -1)))
    columns = rng.permutation(natural(features, LANE_BITS))
    panels = binary_panels(positive, rows, columns)
    words = np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(len(rows), -1)
    bits: np.ndarray[Any, Any] = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
    for i, n in enumerate(rows):
        expected = [bool(n >= 0 and k >= 0 and positive[n, k]) for k in columns]
        assert bits[i].tolist() == expected


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_lookup_panels_hold_four_bits_of_32_outputs(outputs: int, features: int, seed: int) -> None:
    """Byte 4·j + q of a lookup is the nibble of output 8·q + j."""
    positive = np.random.default_rng(seed).random((outputs, features)) < 0.5
    panels = lookup_panels(positive, natural(outputs), natural(features, LANE_BITS)).view(np.uint8)
    lookups = padded(padded(features, LANE_BITS) // 4, 3)
    found = panels.reshape(-1, lookups, 8, 4).transpose(0, 3, 2, 1).reshape(-1, lookups)  # [output][lookup]
    bits: np.ndarray[Any, Any] = np.unpackbits(found[..., None], axis=2, bitorder="little")
    assert not bits[..., 4:].any()
    values = bits[..., :4].reshape(len(found), -1)
    assert np.array_equal(values[:outputs, :features], positive)
    assert not values[outputs:].any()
    assert not values[:, features:].any()


def test_float_panels_and_rows_are_padded_with_zeros() -> None:
    weight = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    panels = float_panels(weight, np.array([2, -1, 0]))
    assert panels.shape == (1, 3, LANES)
    assert panels[0, :, :2].tolist() == [[3, 6], [0, 0], [1, 4]]
    assert not panels[0, :, 2:].any()
    table = padded_rows(weight)
    assert table.shape == (TILE_ROWS, LANES)
    assert table.sum() == weight.sum()
