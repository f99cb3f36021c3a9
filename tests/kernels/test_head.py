"""The head: mean over the tokens, classifier."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.layers.head import Head
from bitvit.schema import Affine
from tests.support.engine import alone
from tests.support.signs import EPS

Array = NDArray[Any]


@pytest.mark.parametrize("classes", [0, 1, 10, 63, 64, 65, 200])
@pytest.mark.parametrize(("side", "channels"), [(1, 5), (3, 36), (7, 64), (2, 100)])
def test_head_pools_and_classifies(classes: int, side: int, channels: int) -> None:
    """float32 sums of S² tokens, then of C products: at most that many half ulps of the terms' sizes."""
    rng = np.random.default_rng(classes)
    scale, bias, offsets = (rng.standard_normal(n).astype(np.float32) for n in (channels, channels, classes))
    weight = rng.standard_normal((classes, channels)).astype(np.float32)
    x = rng.standard_normal((side, side, channels)).astype(np.float32)
    head = Head(
        Affine(scale, bias), weight if classes else None, offsets if classes else None, name="head", layer_norm=False
    )
    got = alone(head, side, channels)(x)
    pooled = x.reshape(-1, channels).astype(np.float64).mean(axis=0) * scale + bias
    pooled_bound = EPS * (side**2 + 4) * (np.abs(x).max(axis=(0, 1)) * np.abs(scale) + np.abs(bias))
    if not classes:
        assert (np.abs(got - pooled) <= pooled_bound).all()
        return
    bound = np.abs(weight) @ (pooled_bound + (channels + 1) * EPS * np.abs(pooled)) + channels * EPS * np.abs(offsets)
    assert (np.abs(got - (weight.astype(np.float64) @ pooled + offsets)) <= bound).all()
