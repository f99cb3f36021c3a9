"""BHViT, as the paper's figure draws it: a stem, four stages with downsampling between them, a head.

Loading a model walks the figure once; each layer leaves its steps in a flat program (program.py), and that is what
runs (runtime.py). Stages 1 and 2 mix tokens by binary convolutions, stages 3 and 4 by binary window attention.
"""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitvit.config import Config
from bitvit.errors import ModelFileError
from bitvit.kernels.catalog import SCHEDULING, Function
from bitvit.layers.common import (
    MLP,
    Attention,
    BinaryDownsample,
    FloatDownsample,
    Head,
    Stem,
    Tensors,
    TokenMixer,
)
from bitvit.modelfile import ModelFile, load_model_file
from bitvit.preprocess import Preprocessing
from bitvit.program import Builder, Map, Program
from bitvit.runtime import Runner

MAX_WORKING_BYTES = 1 << 30  # for one image on one thread; BHViT-small takes 3 MB


@dataclass(frozen=True)
class Block:
    """A GC block (token mixer) or a ViT block (attention), and its MLP."""

    mixer: TokenMixer | Attention
    mlp: MLP

    def emit(self, b: Builder, x: Map) -> Map:
        x = self.mixer.emit(b, x)  # X' = X + MIX(NORM(X))
        return self.mlp.emit(b, x)  # Y = X' + MLP(NORM(X')) + SHIFT(NORM(X'))


@dataclass(frozen=True)
class Stage:
    """A downsampling (but for the first stage) and blocks of one width."""

    downsample: FloatDownsample | BinaryDownsample | None
    blocks: tuple[Block, ...]

    def emit(self, b: Builder, x: Map) -> Map:
        if self.downsample is not None:
            x = self.downsample.emit(b, x)
        for block in self.blocks:
            x = block.emit(b, x)
        return x


@dataclass(frozen=True)
class Network:
    """All layers of a BHViT, in order."""

    stem: Stem
    stages: tuple[Stage, ...]
    head: Head

    @classmethod
    def read(cls, config: Config, tensors: Tensors) -> "Network":
        """Build the layers from the tensors of a model file."""
        stages = tuple(_read_stage(config, tensors, s) for s in range(4))
        head = Head.read(tensors, layer_norm=config.norm == "layer")
        return cls(Stem.read(tensors, config.image_size), stages, head)

    def program(self) -> Program:
        """Walk the figure once."""
        b = Builder()
        x = self.stem.emit(b)
        for stage in self.stages:
            x = stage.emit(b, x)
        return b.build(*self.head.emit(b, x))


def _read_stage(config: Config, tensors: Tensors, s: int) -> Stage:
    name = f"stages.{s}"
    downsample: FloatDownsample | BinaryDownsample | None = None
    if s > 0:
        kind = BinaryDownsample if config.downsampling == "binary" else FloatDownsample
        downsample = kind.read(tensors, f"{name}.downsample")
    blocks = []
    for i in range(config.depths[s]):
        block = f"{name}.blocks.{i}"
        mixer = (
            TokenMixer.read(tensors, f"{block}.mixer")
            if s < 2
            else Attention.read(tensors, f"{block}.attention", config.num_heads[s], config.window_size)
        )
        blocks.append(Block(mixer, MLP.read(tensors, f"{block}.mlp")))
    return Stage(downsample, tuple(blocks))


class BHViT:
    """A packed model, ready to run. Thread-safe: any number of Python threads may call one model.

    Raises ModelFileError for a network that would need more than MAX_WORKING_BYTES: attention grows with the square of
    the tokens, so a small file can ask for any amount.
    """

    def __init__(self, file: ModelFile, *, threads: int | None = None) -> None:
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

    @property
    def threads(self) -> int:
        """Threads that one call may use."""
        return self.runner.threads

    def __call__(self, pixels: ArrayLike) -> NDArray[np.float32]:
        """Logits of a batch of images.

        pixels: float32 [B, 3, S, S], channels R, G, B, normalised (SPEC section 6). Returns float32 [B, classes], the
        same bits whatever the batch size and the number of threads. Raises ValueError for another shape.
        """
        size = self.config.image_size
        images = np.ascontiguousarray(pixels, dtype=np.float32)
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixels have shape {images.shape}, expected (batch, 3, {size}, {size}): normalised R, G, B planes,"
                " as Classifier or model.preprocessing make them"
            )
        return self.runner(images)


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> BHViT:
    """Load a packed model file; compiles its kernels the first time on a machine, then takes them from the cache.

    threads: at most this many for one call; default all cores the process may use. Raises ModelFileError.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1, or None for all available cores")
    return BHViT(load_model_file(path), threads=threads)


def functions_of(path: str | os.PathLike[str]) -> list[Function]:
    """What running a packed model needs of the catalog. Raises ModelFileError."""
    file = load_model_file(path)
    steps = Network.read(file.config, file.tensors).program().steps
    return [*dict.fromkeys(step.kernel for step in steps), *SCHEDULING]
