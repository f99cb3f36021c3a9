"""Targets: checkpoints and packed models."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bitvit.checkpoint import Checkpoint, read_checkpoint
from bitvit.conversion import convert
from bitvit.jit import loader
from bitvit.model import BHViT, functions_of
from bitvit.modelfile import ModelFile, load_model_file

from . import pth, tensors
from .seeds import OTHER_FILES, PTH_SEEDS
from .target import Reading, Target

__all__ = ["Packed", "Pth", "Safetensors"]


class Pth(Target):
    """Checkpoints of torch.save. What can be read is converted; it is no network, for those of Safetensors are."""

    longest = 20_000

    def seeds(self) -> list[bytes]:
        whole = [pth.whole(seed) for seed in PTH_SEEDS]
        return [*whole, *(data[:-3] for data in whole if data[:1] == b"\x80"), *OTHER_FILES]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return pth.mutate(rng, data)

    def readings(self) -> Sequence[Reading]:
        return (lambda: read_checkpoint(self.path),)

    def use(self, found: Checkpoint) -> None:
        convert(found.path, self.folder / "converted.safetensors")


class Safetensors(Pth):
    """Checkpoints of the safetensors library, whole networks among them."""

    longest = 80_000

    def seeds(self) -> list[bytes]:
        return [*tensors.small_files(), *tensors.network_files(), *OTHER_FILES]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return tensors.mutate(rng, data)


class Packed(Target):
    """Packed models. One image goes through what can be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._seeds = tensors.packed_files(folder)
        for data in self._seeds:
            self.prepare(data)
            loader.addresses(functions_of(self.path))

    def seeds(self) -> list[bytes]:
        return [*self._seeds, *OTHER_FILES, *map(pth.whole, PTH_SEEDS[:4])]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return tensors.mutate_packed(rng, data)

    def readings(self) -> Sequence[Reading]:
        return (lambda: load_model_file(self.path),)

    def use(self, found: Any) -> None:
        file: ModelFile = found
        model = BHViT(file, threads=1)
        model(np.full((1, 3, model.config.image_size, model.config.image_size), 0.25, np.float32))
