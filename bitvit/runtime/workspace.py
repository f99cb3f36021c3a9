"""The memory in which one thread computes images."""

import numpy as np
from numpy.typing import NDArray

from bitvit.program import IMAGE_CELL, Program, aligned_zeros
from bitvit.runtime.inputs import Inputs

__all__ = ["Workspace"]


class Workspace:
    """The arenas of one thread that computes images alone, or that takes part in a team.

    state: uint32 [program.state_size], the activations of one image. scratch: uint32 [program.scratch_size], working
    memory. Both begin as zeros on a 64-byte boundary.
    """

    def __init__(self, program: Program) -> None:
        self.state = aligned_zeros(program.state_size)
        self.scratch = aligned_zeros(program.scratch_size)

    def set_image(self, image: NDArray[np.float32]) -> None:
        """Where the stem reads its pixels: float32 [3, S, S], C-contiguous; must outlive the run."""
        self.set_input(Inputs.of_planes(image[None]))

    def set_input(self, image: Inputs) -> None:
        """What the stem reads: one image, which must outlive the run."""
        words = image.records.view(np.uint32)
        self.state[IMAGE_CELL : IMAGE_CELL + len(words)] = words

    def clear(self) -> None:
        """Forget NaN or infinity that an image left behind in pad lanes."""
        self.state[:] = 0
        self.scratch[:] = 0
