"""What a classifier's logits mean: probabilities, class names, and a class with its probability."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prediction", "default_names", "predictions", "softmax"]


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


def predictions(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[list[Prediction]]:
    """The top_k most probable classes of each image, the most probable first, equal ones by index.

    logits: float32 [B, classes]. If top_k is greater than the number of classes, there are all of them.
    """
    order = _largest(logits, top_k)
    scores = np.take_along_axis(softmax(logits), order, axis=1).tolist()
    return [
        [{"label": labels[k], "index": k, "score": score} for k, score in zip(indices, row, strict=True)]
        for indices, row in zip(order.tolist(), scores, strict=True)
    ]


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """int64 [B, count]: where the largest of each row are, the largest first, equal ones and NaN as they stand."""
    if 4 * count < values.shape[1]:
        # A fifth of the time: not all are put in order, only those that are as large as the last one wanted.
        least = np.partition(values, -count, axis=1)[:, -count]
        candidates = [np.flatnonzero(row >= value) for row, value in zip(values, least, strict=True)]
        if all(len(indices) >= count for indices in candidates):  # false where there is a NaN
            return np.stack(
                [
                    indices[np.argsort(-row[indices], kind="stable")[:count]]
                    for row, indices in zip(values, candidates, strict=True)
                ]
            )
    return np.argsort(-values, axis=1, kind="stable")[:, :count]
