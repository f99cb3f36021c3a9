"""What is done to one row of channels: the tiled shortcut, layer norm."""

import math
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.rows import normalize_row, tile_channels
from bitvit.kernels.target import LANES
from bitvit.panels import padded
from bitvit.verify import reference
from tests.support.signs import EPS

Array = NDArray[Any]


@njit(**OPTIONS)
def run_tile_channels(h: Array, at: int, channels: int, ratio: int, span: int, out: Array, to: int, copy: int) -> None:
    tile_channels(h, at, channels, ratio, span, out, to, copy)


@pytest.mark.parametrize("ratio", [*range(1, 10), 12, 16])
def test_tiled_channels_meet_their_hidden_features(ratio: int) -> None:
    """out[j·copy + q] = h[(ratio·q + j) mod C], q < span, for every width, by shuffles or one by one."""
    for channels in [*range(1, 41), 48, 63, 64, 65, 80, 100]:
        period = channels // math.gcd(channels, ratio)
        span = padded(max(c % period for c in range(0, padded(channels), LANES)) + LANES)
        h = np.full(5 + padded(channels) + 2 * LANES + 3, -7, np.float32)
        h[5 : 5 + channels] = np.arange(channels)
        copy = span + 5
        out = np.full(3 + ratio * copy + LANES, -1, np.float32)
        run_tile_channels(h, 5, channels, ratio, span, out, 3, copy)
        q, j = np.arange(span), np.arange(ratio)[:, None]
        copies = out[3 : 3 + ratio * copy].reshape(ratio, copy)
        np.testing.assert_array_equal(copies[:, :span], (ratio * q + j) % channels)
        assert (copies[:, span:] == -1).all()
        assert (out[:3] == -1).all()
        assert (out[3 + ratio * copy :] == -1).all()
        np.testing.assert_array_equal(h[5 : 5 + channels], np.arange(channels))
        assert (h[:5] == -7).all()
        assert (h[-3:] == -7).all()


@njit(**OPTIONS)
def run_normalize_row(x: Array, at: int, spread: int, width: int, features: int, valid: Array) -> None:
    normalize_row(x, at, spread, width, features, valid)


@pytest.mark.parametrize("features", [1, 3, 16, 20, 64, 100])
@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_row_is_normalised_around_its_mean(features: int, spread: int, offset: float) -> None:
    """Relative to the row's own spread, an offset of 300 of them costs its rounding, 300 half ulps, not its square."""
    width = padded(features)
    blocks = np.full((1 + width // LANES, spread, LANES), 9, np.float32)  # spread rows, panel by panel
    x = np.full(width, 9, np.float32)
    x[:features] = np.random.default_rng(features).standard_normal(features) + offset
    row = x[:features].astype(np.float64)
    blocks[1:, 0] = x.reshape(-1, LANES)
    valid = (np.arange(width) < features).astype(np.float32)
    run_normalize_row(blocks.reshape(-1), spread * LANES, spread, width, features, valid)
    expected = (row - row.mean()) / np.sqrt(row.var() + reference.EPS)
    assert np.abs(blocks[1:, 0].reshape(-1)[:features] - expected).max() <= 8 * EPS * (4 + offset)
    assert (blocks[0] == 9).all()
    assert (blocks[:, 1:] == 9).all()
