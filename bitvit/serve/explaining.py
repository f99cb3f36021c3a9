"""What the page asks for: predictions, the time of each part, and where the network looked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bitvit.errors import ImageError
from bitvit.images import open_image
from bitvit.predictions import predictions
from bitvit.serve.messages import JSON, unpacked
from bitvit.serve.registry import Served

__all__ = ["ExplainJob"]

CELL = 16  # pixels of the network's input that a cell of the grid stands for, each way


@dataclass(frozen=True)
class ExplainJob:
    """All the work of a request, which one worker thread does. Raises HTTPException when called."""

    served: Served
    body: bytes
    coding: str
    top_k: int
    heat: bool
    most: int

    def __call__(self, go_on: Callable[[], None]) -> tuple[Response, int]:
        """The answer, and how many images it is about. go_on: raises if the answer is wanted no more."""
        served, preprocessing = self.served, self.served.preprocessing
        data = unpacked(self.body, self.coding, self.most)
        go_on()
        marks = [time.perf_counter()]
        try:
            image = open_image(data, exif=served.classifier.exif)
            marks.append(time.perf_counter())
            crop = preprocessing.cropped(image)
        except ImageError as error:
            raise HTTPException(400, str(error)) from None
        marks.append(time.perf_counter())
        logits = served.of_crops([crop])
        marks.append(time.perf_counter())
        parts = zip(("decode", "prepare", "network"), marks, marks[1:], strict=False)
        answer: dict[str, Any] = {
            "model": served.name,
            "predictions": predictions(logits, served.labels, self.top_k)[0],
            "milliseconds": {name: round(1000 * (end - begin), 3) for name, begin, end in parts},
            "width": image.width,
            "height": image.height,
        }
        if self.heat and (grid := heat_grid(served, preprocessing.planes(crop))) is not None:
            resized = preprocessing.resized(image)
            left, top = (corner - preprocessing.pad for corner in preprocessing.crop_corner(resized))
            side = CELL * len(grid)
            box = left / resized.width, top / resized.height
            answer["heat"] = {
                "grid": grid.tolist(),
                "box": [*box, (left + side) / resized.width, (top + side) / resized.height],
            }
        return JSON(answer), 1


def heat_grid(served: Served, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """[cells, cells], 0 … 1: the importance of each cell of the input, 1 for twice the mean, or the greatest if more.

    None for a model that cannot be traced, such as a bundle's.
    """
    from bitvit.explain import importance
    from bitvit.model import BHViT
    from bitvit.runtime.trace import Trace

    model = served.classifier.model
    if not isinstance(model, BHViT):
        return None
    _, blocks = Trace(model.runner).run_image(pixels)
    grid = importance(blocks)
    relative: NDArray[np.float32] = grid / max(2 / grid.size, float(grid.max()))
    return relative
