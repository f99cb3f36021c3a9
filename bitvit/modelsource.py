"""A packed model as it travels between processes, and the models that this process has loaded."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from bitvit.errors import ConfigError, ModelFileError
from bitvit.files import is_folder
from bitvit.hub import local_path
from bitvit.modelfile import digest, read_file, read_model
from bitvit.pipeline import Model

__all__ = ["ModelSource"]

KEPT = 8  # models, the least recently used goes first: a worker of a cluster may live for weeks


@dataclass(frozen=True)
class ModelSource:
    """Where to take a model from, and which one it must be."""

    path: str
    """Absolute, of a packed model or of a bundle's folder."""
    digest: str
    """The sha256 of the model file (modelfile.digest) or of a bundle's manifest."""
    classes: int
    data: bytes | None
    """Of the file; None: it is read where the model is loaded."""

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, by_path: bool) -> "ModelSource":
        """Read and check a model, without loading it.

        Raises ModelFileError for what is neither a packed model nor a bundle, ConfigError without a classifier.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"model: is of type {type(path).__name__}, expected the path of a packed model or of a bundle"
            )
        if not os.fspath(path):  # which Path would take for the working folder
            raise ModelFileError("the model's path is empty; expected that of a packed model written by bitvit convert")
        place = Path(local_path(path)).absolute()
        data = None
        if is_folder(place):
            from bitvit.bundle.manifest import read_manifest

            manifest = read_manifest(place)
            config, found = manifest.config, manifest.digest
        else:
            data = read_file(place)
            file = read_model(data, place)
            config, found = file.config, file.digest
        if not config.num_classes:
            raise ConfigError(
                f"{path}: the model has no classifier (0 classes), so there is nothing to predict; convert a "
                "checkpoint with one"
            )
        return cls(str(place), found, config.num_classes, None if by_path else data)

    def model(self, threads: int) -> Model:
        """The model, with that many threads; one in a process, whoever asks for it.

        Raises ModelFileError if it travelled by path and there is no such file here, or another one.
        """
        with _lock:
            if (self.digest, threads) not in _loaded:
                _loaded[self.digest, threads] = self._load(threads)
                while len(_loaded) > KEPT:
                    _loaded.popitem(last=False)
            _loaded.move_to_end((self.digest, threads))
            return _loaded[self.digest, threads]

    def _load(self, threads: int) -> Model:
        place = Path(self.path)
        if place.is_dir() and self.data is None:
            from bitvit.bundle.model import BundledModel

            bundled = BundledModel(place, threads=threads)
            self._check(bundled.digest)
            return bundled
        from bitvit.model import BHViT

        data = read_file(place) if self.data is None else self.data
        self._check(digest(data))
        return BHViT(read_model(data, place), threads=threads)

    def _check(self, found: str) -> None:
        if found != self.digest:
            raise ModelFileError(
                f"{self.path}: is not the model that was asked for: its sha256 is {found}, expected {self.digest}; "
                "copy the same file to every machine"
            )


_loaded: OrderedDict[tuple[str, int], Model] = OrderedDict()
_lock = threading.Lock()


def _renew() -> None:
    """In a fork nobody would ever release a lock that another thread of the parent held."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
