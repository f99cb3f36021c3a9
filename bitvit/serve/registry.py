"""The models that are served, by name; each may be loaded again from its file while requests go on."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from bitvit.classify import Classifier
from bitvit.errors import BitvitError
from bitvit.hub import model_name
from bitvit.images import open_image
from bitvit.pipeline import Logits, computing, is_parallel

__all__ = ["Registry", "Served", "Source", "check_name"]

Source: TypeAlias = str | os.PathLike[str] | Classifier

LONGEST_NAME = 100


class Served:
    """A classifier as the server asks it: any number of threads at once, each of which computes alone."""

    def __init__(self, name: str, classifier: Classifier, path: Path | None) -> None:
        self.name, self.path, self.classifier = name, path, classifier
        self.labels: tuple[str, ...] = classifier.labels
        self.size: int = classifier.model.config.image_size
        self.preprocessing = classifier.model.preprocessing
        self._compute = computing(classifier.model)
        self._lock = None if is_parallel(classifier.model) else threading.Lock()
        self.of_pixels(np.zeros((1, 3, self.size, self.size), np.float32))  # so that the first request need not wait

    def _alone(self) -> contextlib.AbstractContextManager[object]:
        """A model that is not made for several threads is called by one at a time."""
        return self._lock or contextlib.nullcontext()

    def crop(self, image: bytes) -> NDArray[np.uint8]:
        """What the network takes of an encoded image: uint8 [crop, crop, 3]. Raises ImageError."""
        return self.preprocessing.cropped(open_image(image, exif=self.classifier.exif))

    def of_crops(self, crops: list[NDArray[np.uint8]]) -> Logits:
        """float32 [B, classes]"""
        with self._alone():
            return self._compute(crops, True)

    def of_pixels(self, pixels: NDArray[np.float32]) -> Logits:
        """pixels: float32 [B, 3, S, S]; returns float32 [B, classes]."""
        with self._alone():
            return self.classifier.model(pixels)


class Registry:
    """name -> Served. Raises ValueError for none, and for an impossible name.

    exif: as Classifier has it, for models that are named by path.
    """

    def __init__(self, models: Mapping[str, Source], *, exif: bool = False) -> None:
        if not models:
            raise ValueError("no model to serve; name at least one")
        for name in models:
            check_name(name)
        self._exif = exif
        self._served = {name: self._load(name, source) for name, source in models.items()}

    @classmethod
    def of(cls, models: Source | Mapping[str, Source], *, exif: bool = False) -> "Registry":
        """Of one model, or of several by name."""
        if isinstance(models, Mapping):
            return cls(models, exif=exif)
        path = getattr(models.model, "path", "model") if isinstance(models, Classifier) else models
        return cls({model_name(path): models}, exif=exif)

    @property
    def default(self) -> Served:
        """The first."""
        return next(iter(self._served.values()))

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def named(self, name: str) -> Served:
        """Raises HTTPException 404."""
        found = self._served.get(name)
        if found is None:
            raise HTTPException(
                404, f"no model is called {name[:LONGEST_NAME]!r}; there are: {', '.join(self._served)}"
            )
        return found

    def reload(self, name: str) -> None:
        """Read a model's file again. Requests that have begun keep the old model, and it goes with the last of them.

        Raises BitvitError, and goes on with the old model, if the new one cannot be used.
        """
        path = self._served[name].path
        if path is None:
            raise BitvitError(f"{name}: was given as a Classifier, not by path; it has no file to be read again")
        self._served[name] = self._load(name, path)

    def _load(self, name: str, source: Source) -> Served:
        if isinstance(source, Classifier):
            return Served(name, source, None)
        return Served(name, Classifier(source, threads=1, exif=self._exif), Path(source))


def check_name(name: str) -> None:
    """Names are parts of paths, of lines of a log and of labels of metrics. Raises ValueError for one that is not."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or "/" in name or name in (".", ".."):
        raise ValueError(
            f"a model is called {name!r}, expected a name of 1 to {LONGEST_NAME} printable characters without a slash"
        )
