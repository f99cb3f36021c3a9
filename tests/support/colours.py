"""A model whose answers can be worked out: for tests of what is done with answers."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitvit.preprocess import Preprocessing
from tests.support.configs import MICRO


class Colours:
    """A model of three classes whose logits are the mean red, green and blue, times 10; it notes its batch sizes."""

    def __init__(self, labels: tuple[str, ...] | None = ("red", "green", "blue"), classes: int = 3) -> None:
        ones, fours = (1, 1, 1, 1), (4, 4, 4, 4)
        self.config = replace(
            MICRO, depths=ones, hidden_sizes=fours, intermediate_sizes=fours, num_heads=ones, num_classes=classes
        )
        self.preprocessing = Preprocessing.for_image_size(32, mean=(0, 0, 0), std=(1, 1, 1))
        self.labels = labels
        self.batches: list[int] = []

    def __call__(self, pixels: NDArray[np.float32], /) -> NDArray[np.float32]:
        assert pixels.dtype == np.float32
        assert pixels.shape[1:] == (3, 32, 32)
        self.batches.append(len(pixels))
        logits: NDArray[np.float32] = 10 * pixels.mean(axis=(2, 3))
        return logits


def patch(*colour: int) -> NDArray[np.uint8]:
    """32 x 32 pixels of one colour."""
    return np.full((32, 32, 3), colour, np.uint8)


RED, GREEN, BLUE = patch(255, 0, 0), patch(0, 255, 0), patch(0, 0, 255)
IMAGES, LABELS = [RED, RED, GREEN, BLUE, GREEN], ["red", "red", "green", "blue", "blue"]  # 4 of 5 are right
