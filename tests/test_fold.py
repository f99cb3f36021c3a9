"""Folding identities, each against the formula that it replaces."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.fold import (
    EPS,
    ShiftGroup,
    batch_norm,
    binarize,
    coordinate_map,
    pool_adjacent,
    shift_taps,
    sinusoidal_positions,
)
from bitvit.schema import TAPS, Affine
from bitvit.verify import reference

Floats = NDArray[np.float64]

derandomized = settings(derandomize=True, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------------------- affine maps


@derandomized
@given(channels=st.integers(1, 40), seed=seeds)
def test_batch_norm_is_affine(channels: int, seed: int) -> None:
    x, weight, bias, mean = (normal(seed + i, channels) for i in range(4))
    variance = np.square(normal(seed + 4, channels))
    norm = batch_norm(weight, bias, mean, variance)
    expected = (x - mean) / np.sqrt(variance + EPS) * weight + bias
    np.testing.assert_allclose(norm.scale * x + norm.bias, expected, rtol=1e-12, atol=1e-10)


def test_eps_is_the_specs_and_the_references() -> None:
    assert EPS == reference.EPS == 1e-5
    norm = batch_norm(np.ones(1), np.zeros(1), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(norm.scale, 1e5**0.5)


def test_an_affine_map_after_a_scale_and_plus_an_offset() -> None:
    x, scale, bias, rows, offset = (normal(i, 7) for i in range(5))
    norm = Affine(scale, bias)
    after, plus = norm.after(rows), norm.plus(offset)
    np.testing.assert_allclose(after.scale * x + after.bias, scale * (rows * x) + bias)
    np.testing.assert_allclose(plus.scale * x + plus.bias, scale * x + bias + offset)
    np.testing.assert_array_equal(norm.bias, bias)  # neither changes the map it starts from


# ---------------------------------------------------------------------------------------------- binary weights


@derandomized
@given(outputs=st.integers(1, 8), inputs=st.integers(2, 80), seed=seeds)
def test_binary_weights_are_the_references(outputs: int, inputs: int, seed: int) -> None:
    weight = (0.02 * normal(seed, outputs, inputs) + 0.01).astype(np.float32)
    binary = binarize(weight)
    scale, signs = reference.binary_weight(weight, np.float64)
    np.testing.assert_allclose(binary.scale, scale, rtol=1e-14)
    np.testing.assert_array_equal(binary.positive, signs > 0)
    assert binary.zeros == np.count_nonzero(signs == 0)


def test_the_scale_is_taken_before_centring_and_the_sign_after() -> None:
    binary = binarize(np.array([[1.0, 2.0, 3.0, 10.0]], np.float32))
    np.testing.assert_array_equal(binary.scale, [4])
    np.testing.assert_array_equal(binary.positive, [[False, False, False, True]])
    assert binary.zeros == 0


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-30, 1e30])
@pytest.mark.parametrize("inputs", [1, 27, 64, 1000])
def test_a_constant_row_has_no_sign_so_its_scale_is_zero(value: float, inputs: int) -> None:
    """scale·dot is then 0 whatever the bits say, as in the reference; such zeros are held, not lost."""
    weight = normal(1, 3, inputs).astype(np.float32)
    weight[1] = value
    binary = binarize(weight)
    _, signs = reference.binary_weight(weight, np.float64)
    np.testing.assert_array_equal(signs[1], np.zeros(inputs))
    assert binary.scale[1] == 0
    assert binary.zeros == 0
    if inputs > 1:
        assert (binary.scale[[0, 2]] > 0).all()


def test_single_zeros_are_counted_and_become_minus_one() -> None:
    weight = np.array(
        [
            [-1, 0, 1, 0],  # mean 0: two zeros
            [2, 3, 1, 2],  # mean 2: two more
            [5, 5, 5, 5],  # a constant row does not count
            [0, 0, 0, 0],
            [1, 2, 4, 8],  # none
        ],
        np.float32,
    )
    binary = binarize(weight)
    assert binary.zeros == 4
    np.testing.assert_array_equal(binary.positive[:2], [[False, False, True, False], [False, True, False, False]])
    np.testing.assert_array_equal(binary.scale, [0.5, 2, 0, 0, 3.75])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_binarize_computes_in_float64_and_leaves_its_argument(dtype: Any) -> None:
    weight = (normal(3, 4, 30) * 10).astype(dtype)
    before = weight.copy()
    binary = binarize(weight)
    assert binary.scale.dtype == np.float64
    np.testing.assert_allclose(binary.scale, np.abs(before.astype(np.float64)).mean(axis=1), rtol=1e-14)
    np.testing.assert_array_equal(weight, before)
    assert weight.dtype == dtype


# -------------------------------------------------------------------------------------------------------- pools


@derandomized
@given(channels=st.integers(1, 20), ratio=st.integers(1, 8), seed=seeds)
def test_pool_is_the_mean_of_adjacent_entries(channels: int, ratio: int, seed: int) -> None:
    hidden = normal(seed, channels * ratio)
    np.testing.assert_allclose(pool_adjacent(hidden, ratio), reference.pool(hidden, channels), rtol=1e-13)


# ------------------------------------------------------------------------------------------------------- shifts


def groups_and_state(width: int, reaches: list[int], seed: int) -> tuple[list[ShiftGroup], dict[str, Any]]:
    """Random layer scales of some shift groups, as the stencil and as the reference want them; without offsets."""
    groups, state = [], {}
    for reach in reaches:
        alphas = [normal(seed + 10 * reach + i, width) for i in range(3)]
        groups.append(ShiftGroup(reach, *alphas))
        for way, alpha in zip(("h", "w", "ch"), alphas, strict=True):
            state[f"block.layerscale_{way}{2 * reach + 1}.alpha"] = alpha
            state[f"block.layerscale_{way}{2 * reach + 1}.move"] = np.zeros(width)
    return groups, state


def apply_stencil(taps: Floats, x: Floats) -> Floats:
    """Σ_k taps[k]·x at the offset TAPS[k], circular; np.roll(x, -d)[y] is x[y + d]."""
    total = np.zeros_like(x)
    for tap, (dy, dx) in zip(taps, TAPS[: len(taps)], strict=True):
        total += tap * np.roll(x, (-dy, -dx), axis=(1, 2))
    return total


@derandomized
@given(side=st.integers(1, 9), width=st.integers(1, 40), reaches=st.sampled_from([[1], [2], [1, 2]]), seed=seeds)
def test_shift_residuals_are_one_stencil(side: int, width: int, reaches: list[int], seed: int) -> None:
    """Also on maps of fewer than 5 pixels a side, where taps fall on one another, and for odd quarters."""
    groups, state = groups_and_state(width, reaches, seed)
    x = normal(seed, 1, side, side, width)
    taps = shift_taps(groups, width)
    assert taps.shape == (9 if 2 in reaches else 5, width)
    np.testing.assert_allclose(apply_stencil(taps, x), reference.shifts(state, "block", x), rtol=1e-12, atol=1e-12)


def test_each_shift_reads_its_neighbour() -> None:
    """A quarter's channels move down, up, right, left; read at the offset before them (SPEC 7.6)."""
    zero, one = np.zeros(8), np.ones(8)
    taps = shift_taps([ShiftGroup(1, zero, zero, one)], 8)
    found = {TAPS[k]: np.flatnonzero(taps[k]).tolist() for k in range(5)}
    assert found == {(0, 0): [], (-1, 0): [0, 1], (1, 0): [2, 3], (0, -1): [4, 5], (0, 1): [6, 7]}
    taps = shift_taps([ShiftGroup(2, zero, zero, one)], 8)
    found = {TAPS[k]: np.flatnonzero(taps[k]).tolist() for k in range(9)}
    assert {offset: c for offset, c in found.items() if c} == {
        (-2, 0): [0, 1], (2, 0): [2, 3], (0, -2): [4, 5], (0, 2): [6, 7]
    }  # fmt: skip


def test_vertical_and_horizontal_means() -> None:
    zero, one = np.zeros(4), np.ones(4)
    for reach in (1, 2):
        vertical = shift_taps([ShiftGroup(reach, one, zero, zero)], 4)
        horizontal = shift_taps([ShiftGroup(reach, zero, one, zero)], 4)
        share = 1 / (2 * reach + 1)
        for k, (dy, dx) in enumerate(TAPS[: len(vertical)]):
            np.testing.assert_allclose(vertical[k], share if dx == 0 and abs(dy) <= reach else 0)
            np.testing.assert_allclose(horizontal[k], share if dy == 0 and abs(dx) <= reach else 0)


@pytest.mark.parametrize("size", [32, 35, 67])
def test_the_coordinates_part_of_the_stem_is_a_map(size: int) -> None:
    """What two constant channels add to a convolution of stride 4, the same for every image."""
    weight = np.random.default_rng(0).standard_normal((6, 2, 4, 4))
    side = size // 4
    y, x = reference.coordinates(size).astype(np.float64)
    expected = np.zeros((side, side, 6))
    for i, j in np.ndindex(side, side):
        patch = np.stack([plane[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for plane in (y, x)])
        expected[i, j] = (weight * patch).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(coordinate_map(weight, size), expected.reshape(-1, 6), atol=1e-12)


@pytest.mark.parametrize(("channels", "side"), [(4, 8), (12, 8), (64, 56), (20, 12)])
def test_sinusoidal_positions_are_tokens_by_channels(channels: int, side: int) -> None:
    expected = reference.sinusoidal_positions(channels, side).transpose(1, 2, 0).reshape(side * side, channels)
    got = sinusoidal_positions(channels, side)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, expected)
