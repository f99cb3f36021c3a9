"""An inference request's whole work, which one worker thread does: unpack, decode, compute, encode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bitvit.errors import ImageError
from bitvit.pipeline import Logits
from bitvit.predictions import softmax
from bitvit.serve.messages import unpacked
from bitvit.serve.registry import Served
from bitvit.serve.tensors import Tensor, Wanted, classification, decode_request, encode_response

__all__ = ["OUTPUTS", "InferJob", "logits_of_images"]

OUTPUTS = {"logits": True, "label": False, "score": False}
"""Outputs, and whether they can be asked for by classification."""
TOGETHER = 8  # images that are decoded and computed between two looks at whether the server ends


@dataclass(frozen=True)
class InferJob:
    """What is needed of a request to answer it. Raises HTTPException when called."""

    served: Served
    body: bytes
    coding: str
    """The header Content-Encoding."""
    header_length: str
    """The header Inference-Header-Content-Length."""
    most: int
    """Bytes of the body, unpacked."""

    def __call__(self, go_on: Callable[[], None]) -> tuple[Response, int]:
        """The answer, and how many images it is about. go_on: raises if the answer is wanted no more."""
        body = unpacked(self.body, self.coding, self.most)
        request = decode_request(body, self.header_length, self.served.size, OUTPUTS)
        if request.images is not None:
            logits = logits_of_images(self.served, request.images, go_on)
        else:
            assert request.pixels is not None
            logits = self._of_pixels(request.pixels, go_on)
        head = {"model_name": self.served.name, "model_version": "1", **({"id": request.id} if request.id else {})}
        tensors = [(tensor_of(logits, wanted, self.served.labels), wanted.binary) for wanted in request.outputs]
        body, media_type, headers = encode_response(head, tensors)
        return Response(body, media_type=media_type, headers=headers), len(logits)

    def _of_pixels(self, pixels: NDArray[np.float32], go_on: Callable[[], None]) -> Logits:
        found = []
        for start in range(0, len(pixels), TOGETHER):
            go_on()
            found.append(self.served.of_pixels(pixels[start : start + TOGETHER]))
        logits = _joined(self.served, found)
        if not np.isfinite(logits).all():
            raise HTTPException(
                400, "inputs[0] (pixels): values so large that the logits overflow; expected normalised ones"
            )
        return logits


def logits_of_images(served: Served, images: Sequence[bytes], go_on: Callable[[], None]) -> Logits:
    """float32 [n, classes] of encoded images. Raises HTTPException 400, which names the image that cannot be read."""
    found = []
    for start in range(0, len(images), TOGETHER):
        crops = []
        for place, image in enumerate(images[start : start + TOGETHER], start):
            go_on()
            try:
                crops.append(served.crop(image))
            except ImageError as error:
                raise HTTPException(400, f"image {place} of {len(images)}: {error}") from None
        found.append(served.of_crops(crops))
    return _joined(served, found)


def _joined(served: Served, parts: Sequence[Logits]) -> Logits:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, len(served.labels)), np.float32)


def tensor_of(logits: Logits, wanted: Wanted, labels: Sequence[str]) -> Tensor:
    """An output for float32 [n, classes]."""
    if wanted.name == "logits":
        if wanted.classification:
            return classification(logits, labels, wanted.classification, wanted.name)
        return Tensor("logits", logits.shape, logits)
    best = logits.argmax(axis=1) if len(logits) else np.empty(0, np.int64)
    if wanted.name == "label":
        return Tensor("label", best.shape, [labels[k] for k in best.tolist()])
    scores = np.take_along_axis(softmax(logits), best[:, None], axis=1)[:, 0] if len(logits) else np.empty(0)
    return Tensor("score", best.shape, scores.astype(np.float32))
