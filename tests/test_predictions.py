"""Probabilities and class names."""

import numpy as np
import pytest

from bitvit.predictions import default_names, predictions, softmax


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


@pytest.mark.parametrize("top_k", [1, 2, 5, 99])
@pytest.mark.parametrize("classes", [1, 3, 10, 300])
def test_the_most_probable_come_first_and_equal_ones_by_index(classes: int, top_k: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.integers(-3, 4, (20, classes)).astype(np.float32)  # many are equal
    logits[0] = 0
    logits[1, classes // 2] = np.nan
    names = [f"class {k}" for k in range(classes)]
    with np.errstate(invalid="ignore"):
        for row, found in zip(logits, predictions(logits, names, top_k), strict=True):
            expected = sorted(range(classes), key=lambda k: (np.isnan(row[k]), -row[k], k))[:top_k]
            assert [best["index"] for best in found] == expected
            assert [best["label"] for best in found] == [names[k] for k in expected]
            scores = softmax(row)[expected]
            assert np.array_equal([best["score"] for best in found], scores, equal_nan=True)
            assert [type(value) for value in found[0].values()] == [str, int, float]
