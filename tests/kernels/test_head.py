"""The head: pooling of the tokens, classifier."""

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
    linear: dict[str, Any] = {"weight": weight, "bias": offsets} if classes else {"weight": None, "bias": None}
    head = Head(norm=Affine(scale, bias), pooling=None, **linear, name="head", layer_norm=False, top_tokens=0)
    got = alone(head, side, channels)(x)
    pooled = x.reshape(-1, channels).astype(np.float64).mean(axis=0) * scale + bias
    pooled_bound = EPS * (side**2 + 4) * (np.abs(x).max(axis=(0, 1)) * np.abs(scale) + np.abs(bias))
    if not classes:
        assert (np.abs(got - pooled) <= pooled_bound).all()
        return
    bound = np.abs(weight) @ (pooled_bound + (channels + 1) * EPS * np.abs(pooled)) + channels * EPS * np.abs(offsets)
    assert (np.abs(got - (weight.astype(np.float64) @ pooled + offsets)) <= bound).all()


def pooled(x: Array, scale: Array, bias: Array, *, pooling: Array | None = None, top: int = 0) -> Array:
    """The head's output without a classifier, for a map [S, S, C]."""
    affine = Affine(scale.astype(np.float32), bias.astype(np.float32))
    head = Head(affine, pooling, None, None, name="head", layer_norm=False, top_tokens=top)
    return alone(head, x.shape[0], x.shape[-1])(x)


@pytest.mark.parametrize(("side", "channels"), [(1, 5), (2, 8), (3, 36), (7, 64), (9, 100)])
@pytest.mark.parametrize("size", [0.0, 1.0, 60.0])
def test_attention_pooling_weighs_by_a_softmax(side: int, channels: int, size: float) -> None:
    rng = np.random.default_rng(side)
    scale, bias = rng.standard_normal((2, channels))
    vector = (size * rng.standard_normal(channels) / np.sqrt(channels)).astype(np.float32)
    x = rng.standard_normal((side, side, channels)).astype(np.float32)
    tokens = x.reshape(-1, channels).astype(np.float64)
    scores = tokens @ vector
    shares = np.exp(scores - scores.max())
    expected = (shares / shares.sum()) @ tokens * scale + bias
    got = pooled(x, scale, bias, pooling=vector)
    # A score is off by EPS of the sum of its terms' sizes, and a share relatively by as much.
    doubt = EPS * (channels + 8) * (np.abs(tokens) @ np.abs(vector)).max() + EPS * (side**2 + 8)
    assert np.abs(got - expected).max() <= 2 * doubt * np.abs(scale).max() * np.abs(tokens).max() + 1e-6


@pytest.mark.parametrize(("side", "channels", "top"), [(1, 5, 1), (2, 8, 3), (3, 36, 9), (7, 64, 7), (9, 100, 40)])
def test_top_pooling_takes_the_tokens_of_the_largest_norm(side: int, channels: int, top: int) -> None:
    rng = np.random.default_rng(top)
    scale, bias = rng.standard_normal((2, channels)).astype(np.float32)
    x = rng.standard_normal((side, side, channels)).astype(np.float32)
    tokens = x.reshape(-1, channels).astype(np.float64) * scale + bias
    chosen = np.argsort(-np.square(tokens).sum(axis=1))[:top]
    np.testing.assert_allclose(pooled(x, scale, bias, top=top), tokens[chosen].mean(axis=0), atol=2e-5)


def test_of_equal_norms_the_first_token_is_taken() -> None:
    """Four tokens of the same length, and one that is longer only behind the norm's bias."""
    x = np.zeros((3, 3, 4), np.float32)
    x.reshape(9, 4)[[1, 4, 5, 7], [0, 1, 2, 3]] = 2
    x.reshape(9, 4)[8, 0] = -3
    ones, bias = np.ones(4), np.array([3.0, 0, 0, 0])
    tokens = x.reshape(9, 4) + bias
    assert np.square(tokens).sum(axis=1).argmax() == 1
    np.testing.assert_array_equal(pooled(x, ones, bias, top=1), tokens[1])
    np.testing.assert_allclose(pooled(x, ones, 0 * bias, top=3), [(2 - 3) / 3, 2 / 3, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_pooling_all_tokens_by_equal_weights_is_the_mean(layer_norm: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 4, 20)).astype(np.float32)
    affine = Affine(rng.standard_normal(20).astype(np.float32), rng.standard_normal(20).astype(np.float32))
    same, *others = (
        alone(Head(affine, pooling, None, None, name="head", layer_norm=layer_norm, top_tokens=top), 4, 20)(x)
        for pooling, top in ((None, 0), (np.zeros(20, np.float32), 0), (None, 16))
    )
    for other in others:
        np.testing.assert_allclose(other, same, atol=2e-6)
