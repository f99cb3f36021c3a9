"""What a classifier's logits mean: probabilities, class names, and a class with its probability."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prediction", "default_names", "softmax"]


class Prediction(TypedDict):
    """One class with its probability."""

    label: str
    index: int
    score: float


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, float64, of logits, float32 [..., classes]; finite for any finite logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def default_names(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names of `count` classes: a model's own, or LABEL_0, LABEL_1, ... where it has none."""
    return tuple(labels) if labels else tuple(f"LABEL_{number}" for number in range(count))
