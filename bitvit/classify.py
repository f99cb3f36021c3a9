"""Classifier: images in, predictions out, in the shape of Hugging Face's image-classification pipeline.

Images are decoded, prepared and classified a few at a time, so neither a long list nor an endless iterator is ever
held in memory.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitvit.config import Config
from bitvit.errors import ConfigError, ImageError
from bitvit.explain import Explanation, enlarge, importance
from bitvit.images import ImageSource, open_image
from bitvit.predictions import Prediction, default_names, softmax
from bitvit.preprocess import Preprocessing

__all__ = ["Classifier", "Logits", "Model"]

Logits: TypeAlias = NDArray[np.float32]

_ONE_IMAGE = (str, os.PathLike, bytes, Image.Image, np.ndarray)


class Model(Protocol):
    """What a Classifier needs of a model; bitvit.model.BHViT has it."""

    @property
    def config(self) -> Config: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    def __call__(self, pixels: NDArray[np.float32], /) -> Logits: ...


class Classifier:
    """A packed model that classifies images.

        classify = Classifier("model.safetensors")
        classify("cat.jpg", top_k=1)      # [{"label": "tabby cat", "index": 281, "score": 0.61}]

    An image is a path, the bytes of a file, a PIL image, or a uint8 array [H, W, 3] (R, G, B) or [H, W] (grey).

    model: path of a packed model, or a model that is loaded already.
    threads: how many threads a model given by path may use; default: as many as the process has CPUs.
    batch_size: how many images are decoded and run through the network together.

    Raises ModelFileError for a file that is not a packed model, ConfigError for a model without a classifier,
    ValueError for impossible arguments.
    """

    def __init__(
        self, model: str | os.PathLike[str] | Model, *, threads: int | None = None, batch_size: int = 8
    ) -> None:
        self.model = _load(model, threads)
        self.batch_size = _at_least_one("batch_size", batch_size)
        count = self.model.config.num_classes
        if not count:
            raise ConfigError(
                "the model has no classifier (0 classes), so there is nothing to predict; convert a checkpoint with "
                "one, or call the model itself for its pooled features"
            )
        self.labels = default_names(self.model.labels, count)

    # A str is an iterable of str, and a list an iterable: the first overload that fits is the right one.
    @overload
    def __call__(self, images: ImageSource, top_k: int = 5) -> list[Prediction]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: list[Any] | tuple[ImageSource, ...], top_k: int = 5
    ) -> list[list[Prediction]]: ...
    @overload
    def __call__(self, images: Iterable[ImageSource], top_k: int = 5) -> Iterator[list[Prediction]]: ...

    def __call__(
        self, images: ImageSource | Iterable[ImageSource], top_k: int = 5
    ) -> list[Prediction] | list[list[Prediction]] | Iterator[list[Prediction]]:
        """The top_k most probable classes, the most probable first (equal ones by index).

        One image gives a list of Predictions; a list or tuple of images a list of such lists; any other iterable
        a lazy iterator of such lists, in order. `score` is the softmax probability, in float64. If top_k is greater
        than the number of classes, there are all of them.

        Raises ImageError for the first image that cannot be read, when its turn comes; ValueError for top_k < 1.
        """
        _at_least_one("top_k", top_k)
        if isinstance(images, _ONE_IMAGE):
            return self._best(self.logits(images)[0], top_k)
        predictions = (self._best(logits, top_k) for logits in self._rows(_several(images)))
        return list(predictions) if isinstance(images, list | tuple) else predictions

    def attempt(self, images: Iterable[ImageSource], top_k: int = 5) -> Iterator[list[Prediction] | ImageError]:
        """Like a lazy call, but an image that cannot be read gives its ImageError in place of predictions."""
        _at_least_one("top_k", top_k)
        return (
            outcome if isinstance(outcome, ImageError) else self._best(outcome, top_k)
            for outcome in self._outcomes(_several(images))
        )

    def logits(self, images: ImageSource | Iterable[ImageSource]) -> Logits:
        """The network's output, float32 [B, classes]; B is 1 for one image. Raises ImageError as a call does."""
        rows = list(self._rows([images] if isinstance(images, _ONE_IMAGE) else _several(images)))
        return np.stack(rows) if rows else np.empty((0, len(self.labels)), np.float32)

    def explain(self, image: ImageSource, top_k: int = 5) -> Explanation:
        """Where the network looked: a heat map over the image, by attention rollout (see bitvit.explain).

            classify.explain("cat.jpg").save("cat-heat.png")

        `heat` is float32 [S, S] over the network's input, `overlay()` the image with it, `predictions` what a call
        gives. Raises ImageError as a call does; TypeError for a model that is not a BHViT of this package.
        """
        from bitvit.model import BHViT
        from bitvit.runtime.trace import Trace

        _at_least_one("top_k", top_k)
        if not isinstance(self.model, BHViT):
            raise TypeError(f"explain needs a packed model, as bitvit.load gives it; not a {type(self.model).__name__}")
        preprocessing = self.model.preprocessing
        try:
            opened = open_image(image)
            pixels = preprocessing(opened)
        except ImageError as error:
            raise _named(error, 0, image) from None
        logits, blocks = Trace(self.model.runner).run_image(pixels)
        grid = importance(blocks)
        return Explanation(
            heat=enlarge(grid, preprocessing.image_size),
            grid=grid,
            predictions=self._best(logits, top_k),
            image=opened,
            preprocessing=preprocessing,
        )

    def _rows(self, images: Iterable[ImageSource]) -> Iterator[Logits]:
        """Each image's logits, float32 [classes]. Raises the first ImageError."""
        for outcome in self._outcomes(images):
            if isinstance(outcome, ImageError):
                raise outcome
            yield outcome

    def _outcomes(self, images: Iterable[ImageSource]) -> Iterator[Logits | ImageError]:
        """Each image's logits, float32 [classes], or why there are none; in order, batch_size images at a time."""
        numbered = enumerate(images)
        while batch := [self.prepare(*item) for item in itertools.islice(numbered, self.batch_size)]:
            pixels = [item for item in batch if not isinstance(item, ImageError)]
            logits = iter(self.model(np.stack(pixels)) if pixels else ())
            for item in batch:
                yield item if isinstance(item, ImageError) else next(logits)

    def prepare(self, number: int, image: ImageSource) -> NDArray[np.float32] | ImageError:
        """An image as the network takes it, float32 [3, S, S], or why there is none, naming its path or number."""
        try:
            return self.model.preprocessing(open_image(image))
        except ImageError as error:
            return _named(error, number, image)

    def _best(self, logits: Logits, top_k: int) -> list[Prediction]:
        """The top_k Predictions for float32 [classes]."""
        scores = softmax(logits)
        order = np.argsort(-logits, kind="stable")[:top_k]
        return [{"label": self.labels[k], "index": int(k), "score": float(scores[k])} for k in order]


def _named(error: ImageError, number: int, image: ImageSource) -> ImageError:
    """The error with the image's path, or its number, in front."""
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"
    return error if str(error).startswith(name) else ImageError(f"{name}: {error}")


def _load(model: str | os.PathLike[str] | Model, threads: int | None) -> Model:
    if isinstance(model, str | os.PathLike):
        from bitvit.model import load  # here, as it brings LLVM in

        return load(model, threads=threads)
    if threads is not None:
        raise ValueError("threads: the model is loaded already; give bitvit.load its threads")
    return model


def _at_least_one(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
    return int(value)


def _several(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The argument, checked now: an iterator would only fail when it is used."""
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return images
    raise ImageError(
        f"images: is of type {type(images).__name__}, expected a path, the bytes of a file, a PIL image, a uint8 "
        "array, or a list or iterator of them"
    )
