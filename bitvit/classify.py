"""Classifier: images in, predictions out, in the shape of Hugging Face's image-classification pipeline.

Images are decoded, prepared and classified by several threads, a few ahead of the answers (bitvit.pipeline), so neither
a long list nor an endless iterator is ever held in memory.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from bitvit.errors import ConfigError, ImageError
from bitvit.images import ImageSource, open_image
from bitvit.messages import plural
from bitvit.orientation import orientation
from bitvit.pipeline import Logits, Model, Prepared, answers, computing, is_parallel
from bitvit.predictions import Prediction, default_names, predictions
from bitvit.sources import collected, is_one_image, name_of

if TYPE_CHECKING:
    from bitvit.explain import Explanation

__all__ = ["Classifier", "Logits", "Model", "Prepared", "at_least_one"]

Result = TypeVar("Result")


class Classifier:
    """A packed model that classifies images.

        classify = Classifier("model.safetensors")
        classify("cat.jpg", top_k=1)      # [{"label": "tabby cat", "index": 281, "score": 0.61}]

    An image is a path, the bytes of a file, an open file or upload, a PIL image, or a uint8 array [H, W, 3] (R, G, B)
    or [H, W] (grey); bitvit.sources has all kinds.

    model: path of a packed model, hf://owner/name[@revision][/file], or a model that is loaded already.
    threads: how many threads a model given by path may use; default: as many as the process has CPUs. Of several images
        each thread decodes and computes some of its own; one image, or fewer than threads, they compute together.
    batch_size: how many images a thread decodes and runs through the network together, at most. Up to twice as many for
        each thread are taken ahead of the answers; 1: an image is taken when the one before is answered.
    exif: turn images upright as their EXIF data says. The default ignores it, as the training code does.

    It can be pickled and copied; in another process a pickled one loads its model anew, as BHViT says.

    Raises ModelFileError for a file that is not a packed model, ConfigError for a model without a classifier,
    ValueError and TypeError for impossible arguments.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        *,
        threads: int | None = None,
        batch_size: int = 8,
        exif: bool = False,
    ) -> None:
        self.model = _load(model, threads)
        self.batch_size = at_least_one("batch_size", batch_size)
        self.exif = exif
        count = self.model.config.num_classes
        if not count:
            raise ConfigError(
                "the model has no classifier (0 classes), so there is nothing to predict; convert a checkpoint with "
                "one, or call the model itself for its pooled features"
            )
        self.labels = default_names(self.model.labels, count)
        self._start_counting()

    def _start_counting(self) -> None:
        self._turned, self._counting = 0, threading.Lock()

    @property
    def turned(self) -> int:
        """How many images, so far, were classified as they are stored though their EXIF data calls for a turn."""
        return self._turned

    def __repr__(self) -> str:
        path, threads = getattr(self.model, "path", None), getattr(self.model, "threads", None)
        size = self.model.config.image_size
        facts = [
            type(self.model).__name__ if path is None else repr(str(path)),
            f"{size} x {size} pixels",
            plural(len(self.labels), "class", "classes"),
            *([] if threads is None else [plural(threads, "thread")]),
            f"batches of {self.batch_size}",
            *(["turned upright by EXIF"] if self.exif else []),
        ]
        return f"<bitvit.Classifier {', '.join(facts)}>"

    def __getstate__(self) -> dict[str, Any]:
        """All but the count, which belongs to a process."""
        return {name: value for name, value in vars(self).items() if name not in ("_turned", "_counting")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_counting()

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
        at_least_one("top_k", top_k)
        found = self._rows(collected(images), partial(self._best, top_k=top_k))
        if is_one_image(images):
            return next(found)
        return list(found) if isinstance(images, list | tuple) else found

    def attempt(
        self, images: ImageSource | Iterable[ImageSource], top_k: int = 5
    ) -> Iterator[list[Prediction] | ImageError]:
        """Like a lazy call, but an image that cannot be read gives its ImageError in place of predictions.

        One image is a collection of one.
        """
        at_least_one("top_k", top_k)
        return self._outcomes(collected(images), partial(self._best, top_k=top_k))

    def logits(self, images: ImageSource | Iterable[ImageSource]) -> Logits:
        """The network's output, float32 [B, classes]; B is 1 for one image. Raises ImageError as a call does."""
        rows = list(self._rows(collected(images), tuple))
        return np.stack(rows) if rows else np.empty((0, len(self.labels)), np.float32)

    def explain(self, image: ImageSource, top_k: int = 5) -> "Explanation":
        """Where the network looked: a heat map over the image, by attention rollout (see bitvit.explain).

            classify.explain("cat.jpg").save("cat-heat.png")

        `heat` is float32 [S, S] over the network's input, `overlay()` the image with it, `predictions` what a call
        gives. Raises ImageError as a call does; TypeError for a model that is not a BHViT of this package.
        """
        from bitvit.explain import Explanation, enlarge, importance
        from bitvit.model import BHViT
        from bitvit.runtime.trace import Trace

        at_least_one("top_k", top_k)
        if not isinstance(self.model, BHViT):
            raise TypeError(f"explain needs a packed model, as bitvit.load gives it; not a {type(self.model).__name__}")
        preprocessing = self.model.preprocessing
        try:
            opened = open_image(image, exif=self.exif)
            pixels = preprocessing(opened)
        except ImageError as error:
            raise _named(error, 0, image) from None
        if orientation(opened) != 1:
            self._count_turned()
        logits, blocks = Trace(self.model.runner).run_image(pixels)
        grid = importance(blocks)
        return Explanation(
            heat=enlarge(grid, preprocessing.image_size),
            grid=grid,
            predictions=self._best(logits[None], top_k)[0],
            image=opened,
            preprocessing=preprocessing,
        )

    def _rows(self, images: Iterable[ImageSource], finish: Callable[[Logits], Sequence[Result]]) -> Iterator[Result]:
        """What `finish` makes of each image's logits. Raises the first ImageError."""
        for outcome in self._outcomes(images, finish):
            if isinstance(outcome, ImageError):
                raise outcome
            yield outcome

    def _outcomes(
        self, images: Iterable[ImageSource], finish: Callable[[Logits], Sequence[Result]]
    ) -> Iterator[Result | ImageError]:
        """What `finish` makes of each image's logits, float32 [B, classes] of some together; or why there are none."""
        threads = getattr(self.model, "threads", 1) if self.batch_size > 1 else 1
        kept = isinstance(images, list | tuple)
        ready = answers(
            [computing(self.model)], enumerate(images), self.prepare, finish,
            parallel=is_parallel(self.model), threads=threads, batch_size=self.batch_size, kept=kept,
        )  # fmt: skip
        with contextlib.closing(ready):
            for answer in ready:
                if isinstance(answer, ImageError):
                    yield answer
                    continue
                if answer.turned:
                    self._count_turned()
                yield answer.results[0]

    def prepare(self, number: int, image: ImageSource) -> Prepared | ImageError:
        """An image as the network takes it, or why there is none, naming its path or number."""
        try:
            opened = open_image(image, exif=self.exif)
            return Prepared(self.model.preprocessing.cropped(opened), orientation(opened) != 1)
        except ImageError as error:
            return _named(error, number, image)

    def _count_turned(self) -> None:
        with self._counting:
            self._turned += 1

    def _best(self, logits: Logits, top_k: int) -> list[list[Prediction]]:
        """The top_k Predictions of each image, for float32 [B, classes]."""
        return predictions(logits, self.labels, top_k)


def _named(error: ImageError, number: int, image: ImageSource) -> ImageError:
    """The error with the image's path, or its number, in front."""
    name = name_of(image, number)
    return error if str(error).startswith(name) else ImageError(f"{name}: {error}")


def _load(model: str | os.PathLike[str] | Model, threads: int | None) -> Model:
    if isinstance(model, str | os.PathLike):
        from bitvit.loading import load

        return load(model, threads=threads)
    if not all(hasattr(model, name) for name in ("config", "preprocessing", "labels")):
        raise TypeError(
            f"model: is of type {type(model).__name__}, expected the path of a packed model, or a model as bitvit.load "
            "gives it"
        )
    if threads is not None:
        raise ValueError("threads: the model is loaded already; give bitvit.load its threads")
    return model


def at_least_one(name: str, value: int) -> int:
    """The value as an int. Raises ValueError for what is not a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
    return int(value)
