"""Small trainings: a network of the least size, and images that it can tell apart. Needs PyTorch."""

from typing import Any

import torch

import bitvit
from bitvit.train import data
from bitvit.train.settings import Network, Settings

__all__ = ["SMALL", "small", "squares"]

SMALL = Network(image_size=32, depths=(1, 1, 1, 1), widths=(8, 16, 16, 32), expansion=(2, 2, 2, 2), heads=(1, 1, 2, 2))


def small(**changes: Any) -> Settings:
    fields: dict[str, Any] = {"network": SMALL, "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "flip_window": 5}
    return Settings(**{**fields, **changes})


def squares(count: int = 40) -> data.DataSet:
    """Squares that are bright above or below, as two classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 120, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    pixels[labels == 0, :16] += 100
    pixels[labels == 1, 16:] += 100
    split = data.Split(pixels, labels)
    way = bitvit.Preprocessing.for_image_size(32, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3), resize=None)
    return data.DataSet("squares", split, split.first(20), ["above", "below"], way, "drawn by a test")
