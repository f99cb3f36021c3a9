"""Probabilities and class names."""

import numpy as np
import pytest

from bitvit.predictions import default_names, softmax


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_softmax_is_over_the_last_axis(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = softmax(logits)
    powers = np.exp(logits.astype(np.float64))
    assert found.dtype == np.float64
    assert found == pytest.approx(powers / powers.sum(axis=-1, keepdims=True))


def test_softmax_of_extreme_logits() -> None:
    assert softmax(np.array([3e38, 0, -3e38], np.float32)).tolist() == [1, 0, 0]


def test_one_row_has_the_same_bits_as_among_others() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 1000)).astype(np.float32)
    assert all(
        np.array_equal(softmax(row), probabilities) for row, probabilities in zip(logits, softmax(logits), strict=True)
    )


def test_default_names() -> None:
    assert default_names(["cat", "dog"], 2) == ("cat", "dog")
    assert default_names(None, 2) == ("LABEL_0", "LABEL_1")
