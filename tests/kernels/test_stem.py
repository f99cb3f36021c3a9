"""The stem's image norm: means and variances of whole images."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.layers.stem import Stem
from bitvit.schema import Affine
from bitvit.verify import reference
from tests.support.engine import alone, identity


def image_norm(pixels: NDArray[Any], affine: Affine) -> NDArray[np.float64]:
    """What the kernel finds of an image [3, S, S]: [3][mean, scale, bias]."""
    size = pixels.shape[-1]
    tokens = (size // 4) ** 2
    stem = Stem(
        np.zeros((4, 48), np.float32), np.zeros(4, np.float32), identity(4), np.zeros((tokens, 4), np.float32), affine,
        name="stem", image_size=size,
    )  # fmt: skip
    layer = alone(stem, 1, 4)
    layer(pixels)
    step = layer.program.steps[layer.step("image_norm")]
    return layer.floats(step.regions["out"], 9).reshape(3, 3).astype(np.float64)


@pytest.mark.parametrize("size", [32, 35, 48, 67, 224])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (100.0, 1.0), (-3.0, 1e-3), (5.0, 0.0)])
def test_channels_are_normalised_as_the_reference_does(size: int, offset: float, spread: float) -> None:
    """Also where the mean is a hundred deviations away, and in an image of one colour."""
    rng = np.random.default_rng(size)
    pixels = rng.normal(offset, spread, (3, size, size)).astype(np.float32)
    weight, bias = rng.normal(1, 0.3, 3).astype(np.float32), rng.normal(0, 0.3, 3).astype(np.float32)
    mean, scale, shift = (column[:, None, None] for column in image_norm(pixels, Affine(weight, bias)).T)
    got = (pixels.astype(np.float64) - mean) * scale + shift
    state = {"n.weight": weight.astype(np.float64), "n.bias": bias.astype(np.float64)}
    expected = reference.image_norm(state, "n", pixels[None].astype(np.float64))[0]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)
