"""BHViT, as the paper's figure draws it: a stem, four stages with downsampling between them, a head.

Loading a model walks the figure once; each layer leaves its steps in a flat program (program.py), and that is what
runs (runtime.py). Stages 1 and 2 mix tokens by binary convolutions, stages 3 and 4 by binary window attention.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitvit import schema
from bitvit.config import Config, Place
from bitvit.errors import ModelFileError
from bitvit.hub import local_path
from bitvit.kernels.catalog import Function
from bitvit.layers.attention import Attention
from bitvit.layers.downsample import BinaryDownsample, FloatDownsample
from bitvit.layers.head import Head
from bitvit.layers.mixer import TokenMixer
from bitvit.layers.mlp import MLP
from bitvit.layers.stem import Stem
from bitvit.messages import plural
from bitvit.modelfile import ModelFile, digest, load_model_file, read_file, read_model
from bitvit.preprocess import Preprocessing, batch_of_planes
from bitvit.program import Builder, Map, Program
from bitvit.runtime import Runner
from bitvit.runtime.inputs import Inputs
from bitvit.system import check_threads

__all__ = ["BHViT", "Network", "functions_of", "load"]

MAX_WORKING_BYTES = 1 << 30  # for one image on one thread; BHViT-small takes 3 MB


# -------------------------------------------------------------------------------------------------- the paper's figure
@dataclass(frozen=True, eq=False, repr=False)
class ConvBlock:
    """A GC block: tokens are mixed by binary convolutions."""

    mixer: TokenMixer
    mlp: MLP

    def emit(self, b: Builder, x: Map) -> Map:
        x = self.mixer.emit(b, x)  # X' = X + MIX(NORM(X))
        return self.mlp.emit(b, x)  # Y = X' + MLP(NORM(X')) + SHIFT(NORM(X'))


@dataclass(frozen=True, eq=False, repr=False)
class AttentionBlock:
    """A ViT block: tokens are mixed by binary attention."""

    attention: Attention
    mlp: MLP

    def emit(self, b: Builder, x: Map) -> Map:
        x = self.attention.emit(b, x)  # X' = X + OUT(ATT(NORM(X)))
        return self.mlp.emit(b, x)  # Y = X' + MLP(NORM(X')) + SHIFT(NORM(X'))


Middle: TypeAlias = ConvBlock | AttentionBlock | FloatDownsample | BinaryDownsample


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """All layers of a BHViT, in order."""

    stem: Stem
    middle: tuple[tuple[Place, Middle], ...]
    """Blocks, and the downsamplings between stages."""
    head: Head

    @classmethod
    def read(cls, config: Config, tensors: schema.Tensors) -> "Network":
        """Build the layers from the tensors of a model file."""
        stem, *middle, head = ((place, _read(config, place, tensors)) for place in config.places())
        return cls(stem[1], tuple(middle), head[1])

    def program(self, builder: Builder | None = None) -> Program:
        """Walk the figure once. builder: that places regions otherwise than usual."""
        b = builder or Builder()
        x = self.stem.emit(b)
        for _, layer in self.middle:
            x = layer.emit(b, x)
        return b.build(*self.head.emit(b, x))


def _read(config: Config, place: Place, tensors: schema.Tensors) -> Any:
    """The layer of a place, with its name and what else it needs to emit its steps."""
    name = place.name
    match schema.read_layer(config, place, tensors):
        case schema.Stem() as layer:
            return Stem(**vars(layer), name=name, image_size=config.image_size)
        case schema.ConvBlock(mixer, mlp):
            return ConvBlock(TokenMixer(**vars(mixer), name=f"{name}.mixer"), MLP(**vars(mlp), name=f"{name}.mlp"))
        case schema.AttentionBlock(attention, mlp):
            heads = config.num_heads[place.stage]
            geometry: dict[str, Any] = {"num_heads": heads, "window": config.window_size, "padding": config.padding}
            return AttentionBlock(
                Attention(**vars(attention), **geometry, name=f"{name}.attention"), MLP(**vars(mlp), name=f"{name}.mlp")
            )
        case schema.FloatDownsample() as layer:
            return FloatDownsample(**vars(layer), name=name)
        case schema.BinaryDownsample() as layer:
            return BinaryDownsample(**vars(layer), name=name)
        case schema.Head() as layer:
            return Head(**vars(layer), name=name, layer_norm=config.norm == "layer", top_tokens=config.top_tokens)


# ---------------------------------------------------------------------------------------------------------- the engine
class BHViT:
    """A packed model, ready to run. Thread-safe: any number of Python threads may call one model.

    It can be pickled: the pickle holds the bytes of its file, which are read again and must not have changed. So it can
    be unpickled where there is no such file; how many threads it gets is decided there, as by `load`. A copy shares
    weights and threads with its original.

    Raises ModelFileError for a network that would need more than MAX_WORKING_BYTES: attention grows with the square of
    the tokens, so a small file can ask for any amount.
    """

    def __init__(self, file: ModelFile, *, threads: int | None = None) -> None:
        self.path: Path = file.path
        self.config: Config = file.config
        self.preprocessing: Preprocessing = file.preprocessing
        self.labels: tuple[str, ...] | None = file.labels
        program = Network.read(file.config, file.tensors).program()
        if program.working_bytes > MAX_WORKING_BYTES:
            raise ModelFileError(
                f"{file.path}: needs {program.working_bytes / 2**30:.1f} GB of memory for one image (image_size "
                f"{file.config.image_size}, window_size {file.config.window_size}), expected at most "
                f"{MAX_WORKING_BYTES / 2**30:.0f} GB; train with smaller images or another window"
            )
        self.runner = Runner(program, threads)
        self._threads_wanted = threads
        self._file, self._digest = file.path.absolute(), file.digest
        self._bytes: bytes | None = None  # of the file, where it need not exist

    def __repr__(self) -> str:
        size, classes = self.config.image_size, plural(self.config.num_classes, "class", "classes")
        return f"<bitvit.BHViT {str(self.path)!r}, {size} x {size} pixels, {classes}, {plural(self.threads, 'thread')}>"

    def __reduce__(self) -> Any:
        """Raises ModelFileError if the file is gone or has changed since it was loaded."""
        made_there = ("path", "runner", "_threads_wanted", "_file", "_digest", "_bytes")
        state = {name: value for name, value in vars(self).items() if name not in made_there}
        return _unpickled, (type(self), self._packed(), str(self.path), self._threads_wanted), state

    def _packed(self) -> bytes:
        """The bytes of the model file."""
        if self._bytes is not None:
            return self._bytes
        data = read_file(self._file)
        if digest(data) != self._digest:
            raise ModelFileError(
                f"{self._file}: changed since the model was loaded, so the model cannot be pickled; load it again"
            )
        return data

    def __copy__(self) -> "BHViT":
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "BHViT":
        """Weights never change, and calls of two models may share a team of threads: there is nothing to be copied."""
        return self.__copy__()

    @property
    def threads(self) -> int:
        """Threads that one call may use."""
        return self.runner.threads

    def __call__(self, pixels: ArrayLike) -> NDArray[np.float32]:
        """Logits of a batch of images.

        pixels: float32 [B, 3, S, S], channels R, G, B, normalised (SPEC section 6). Returns float32 [B, classes], the
        same bits whatever the batch size and the number of threads. Raises ValueError for another shape.
        """
        return self.runner(batch_of_planes(pixels, self.config.image_size))

    def of_bytes(self, crops: Sequence[NDArray[np.uint8]], *, alone: bool = False) -> NDArray[np.float32]:
        """Logits of images that are not normalised yet, the same bits as a call's.

        crops: uint8 [crop, crop, 3] each, in which R, G, B are neighbours, as preprocessing.cropped makes them. alone:
        compute on this thread, whatever `threads` says. Returns float32 [B, classes].
        """
        preprocessing = self.preprocessing
        if self.config.image_norm:  # its sums are over floats
            planes = np.stack([preprocessing.planes(crop) for crop in crops])
            return self.runner.run(Inputs.of_planes(planes), alone=alone)
        return self.runner.run(Inputs.of_bytes(crops, preprocessing.pad, preprocessing.table()), alone=alone)


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> BHViT:
    """Load a packed model file; compiles its kernels the first time on a machine, then takes them from the cache.

    threads: at most this many for one call; default all cores the process may use. Raises ModelFileError; ValueError
    for an impossible number of threads.
    """
    check_threads(threads)
    return BHViT(load_model_file(path), threads=threads)


def _unpickled(kind: type[BHViT], data: bytes, path: str, threads: int | None) -> BHViT:
    """What BHViT.__reduce__ has taken apart."""
    model = kind(read_model(data, Path(path)), threads=threads)
    model._bytes = data
    return model


def functions_of(path: str | os.PathLike[str]) -> list[Function]:
    """What running a packed model needs of the catalog. Raises ModelFileError."""
    file = load_model_file(local_path(path))
    return Network.read(file.config, file.tensors).program().functions
