"""The token mixer: convolutions equal int64 NumPy exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.bits import pack
from bitvit.kernels.catalog import BORDER, DILATIONS, GROUPS
from bitvit.layers.mixer import TokenMixer
from bitvit.schema import Activation, Convolution
from tests.support.engine import alone, constant, identity
from tests.support.signs import PROFILE, pm, random_signs, seeds

Array = NDArray[Any]


def neutral_mixer(positive: Array, scales: Sequence[float] = (1, 1, 1)) -> TokenMixer:
    """X + Σ_d scale_d·dot_d(sgn(X)); positive: bool [3, C, 9·C/4]."""
    channels = positive.shape[1]
    zero, one = constant(channels, 0), constant(channels, 1)
    first, second, third = (
        Convolution(pack(p), Activation(s * one, zero, one)) for p, s in zip(positive, scales, strict=True)
    )
    return TokenMixer(identity(channels), (first, second, third), None, identity(channels), name="mixer")


def convolution(signs: Array, weight: Array, dilation: int) -> NDArray[np.int64]:
    """int64: signs ±1 [S, S, C] by weights ±1 [C, 9, C/4], four groups, zeros outside the map."""
    side, channels = signs.shape[0], signs.shape[2]
    group = channels // GROUPS
    wide = np.pad(signs, ((dilation, dilation), (dilation, dilation), (0, 0)))
    total = np.zeros((side, side, channels), np.int64)
    for tap in range(9):
        y, x = tap // 3 * dilation, tap % 3 * dilation
        seen = wide[y : y + side, x : x + side].reshape(side, side, GROUPS, group)
        taps = weight[:, tap].reshape(GROUPS, group, group)
        total += np.einsum("yxgc,goc->yxgo", seen, taps, optimize=True).reshape(side, side, channels)
    return total


@settings(PROFILE, max_examples=60)
@given(side=st.integers(1, 30), group=st.integers(1, 40), only=st.sampled_from([None, 0, 1, 2]), seed=seeds)
def test_convolutions_are_exact(side: int, group: int, only: int | None, seed: int) -> None:
    """All three dilations summed, or one alone, on maps down to one pixel, where most taps are off the map."""
    check_convolutions(side, group, only, seed)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 7, 10, 11, 16, 17])
@pytest.mark.parametrize("group", [1, 7, 16, 32])
def test_convolutions_are_exact_at_the_borders(side: int, group: int) -> None:
    for only in range(3):
        check_convolutions(side, group, only, side)


def check_convolutions(side: int, group: int, only: int | None, seed: int) -> None:
    channels = GROUPS * group
    x = pm(random_signs(seed, side, side, channels)).astype(np.float32)
    positive = random_signs(seed + 1, 3, channels, 9 * group)
    scales = [float(only is None or only == d) for d in range(3)]
    got = alone(neutral_mixer(positive, scales), side, channels)(x)
    expected = sum(
        int(scale) * convolution(x.astype(np.int64), pm(p).reshape(channels, 9, group), d)
        for scale, p, d in zip(scales, positive, DILATIONS, strict=True)
    )
    np.testing.assert_array_equal(got, x + expected)


@pytest.mark.parametrize("group", [110, 111, 128, 224])
def test_convolutions_of_long_dots_are_exact(group: int) -> None:
    """Beyond 31 and 62 words, where counters of a byte would overflow; also where every sign differs."""
    check_convolutions(6, group, None, group)
    one, tap = np.ones((6, 6, GROUPS), np.int64), np.ones((GROUPS, 9, 1), np.int64)
    taps = np.sum([convolution(one, tap, d)[..., :1] for d in DILATIONS], axis=0)  # on the map, of each pixel
    for positive in (False, True):
        layer = alone(neutral_mixer(np.full((3, GROUPS * group, 9 * group), positive)), 6, GROUPS * group)
        got = layer(np.ones((6, 6, GROUPS * group), np.float32))
        np.testing.assert_array_equal(got, np.broadcast_to(1 + (2 * positive - 1) * group * taps, got.shape))


@pytest.mark.parametrize("group", [1, 5, 16, 20, 32, 33, 40])
def test_each_sign_of_a_map_has_its_bit(group: int) -> None:
    """One positive value sets one bit of the planes; the border stays 0."""
    side, channels = 6, GROUPS * group
    layer = alone(neutral_mixer(random_signs(0, 3, channels, 9 * group)), side, channels)
    step = layer.program.steps[layer.step("mixer_signs")]
    words, row = -(-group // 32), side + 2 * BORDER
    for c in {0, group - 1, group, 2 * group + group // 2, channels - 1}:
        y, x = c % side, (3 * c + 1) % side
        values = constant(side * side * channels, -1).reshape(side, side, channels)
        values[y, x, c] = 1e-30
        layer(values)
        planes = layer.words(step.regions["planes"], GROUPS * words * row * row).reshape(GROUPS, words, row, row)
        assert np.argwhere(planes).tolist() == [[c // group, c % group // 32, y + BORDER, x + BORDER]]
        assert planes.max() == 1 << c % group % 32


def test_a_sign_of_exactly_zero_is_minus_one() -> None:
    channels, side = 8, 3
    layer = alone(neutral_mixer(np.ones((3, channels, 18), bool)), side, channels)
    zeros = np.zeros((side, side, channels), np.float32)
    np.testing.assert_array_equal(layer(zeros), layer(zeros - 1) + 1)
