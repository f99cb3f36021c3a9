"""Which class was answered for which: the cells of a confusion matrix that are not 0, at most one for each image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Confusion"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """The cells that are not 0, sorted by true class, then by answer; classes are positions in the report's `classes`.

    `np.asarray(confusion)` is the whole matrix, int64 [classes, classes], a row for each true class.
    """

    size: int
    """Number of classes."""
    true: NDArray[np.int64]
    answer: NDArray[np.int64]
    images: NDArray[np.int64]
    """[cells]"""

    @classmethod
    def of(cls, targets: NDArray[np.int64], answers: NDArray[np.int64], size: int) -> "Confusion":
        """targets, answers: [images] from 0 to size - 1."""
        cells, images = np.unique(targets.astype(np.int64) * size + answers, return_counts=True)
        return cls(size, cells // size, cells % size, images.astype(np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        matrix = np.zeros((self.size, self.size), np.int64 if dtype is None else dtype)
        matrix[self.true, self.answer] = self.images
        return matrix

    def cells(self) -> list[list[int]]:
        """[true class, answer, images] of each cell."""
        return np.stack([self.true, self.answer, self.images], axis=1).tolist()

    def mistakes(self, most: int | None = None) -> list[list[int]]:
        """The cells beside the diagonal, the most frequent first; at most so many."""
        order = np.lexsort((self.answer, self.true, -self.images))
        wrong = order[self.true[order] != self.answer[order]][:most]
        return np.stack([self.true[wrong], self.answer[wrong], self.images[wrong]], axis=1).tolist()
