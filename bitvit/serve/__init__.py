"""Classifiers over HTTP: an ASGI application, and the server that `bitvit serve` runs it with.

    application = bitvit.serve.app("model.safetensors")     # for uvicorn, or to be mounted in another application

It speaks the Open Inference Protocol v2 (v2.py, tensors.py), Hugging Face's image classification (classification.py)
and what its own page asks for (page.py). docs/serving.md is its guide. Needs `pip install 'bitvit[serve]'`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitvit.serve.limits import Limits

if TYPE_CHECKING:
    from bitvit.classify import Classifier
    from bitvit.serve.application import Application

__all__ = ["Limits", "app"]


def app(
    models: "str | os.PathLike[str] | Classifier | Mapping[str, str | os.PathLike[str] | Classifier]",
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    exif: bool = False,
    allow_load: bool = False,
) -> "Application":
    """An ASGI application that answers for one model or several.

        app("model.safetensors")
        app({"cats": "cats.safetensors", "dogs": bitvit.Classifier("dogs.safetensors", threads=1)})

    models: a packed model's path, a bundle's folder or a Classifier; or several by the names that requests call them,
    the first of which answers where none is named. One without a name has that of its file. Models given by path get
    one thread each.
    workers: images or batches that are computed at once; default: as many as the process has CPUs.
    exif: whether images are turned as their EXIF data says; a Classifier has that of its own.
    allow_load: whether `POST /v2/repository/models/NAME/load` reads a model's file again.

    Mounted in another application it needs none of that one's lifespan events. Raises BitvitError if a package of
    bitvit[serve] is missing; ModelFileError and ConfigError as Classifier does; ValueError for an impossible name or
    number.
    """
    from bitvit.serve.requirements import require_packages

    require_packages()
    from bitvit.serve.application import Application
    from bitvit.serve.registry import Registry

    return Application(
        Registry.of(models, exif=exif), workers=workers, limits=limits or Limits(), allow_load=allow_load
    )
