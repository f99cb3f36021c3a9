"""Teachers: a small float residual network that this tool trains, or any program saved by torch.export.

Input of either: pixels [B, 3, S, S] as the student gets them. The residual network first averages them down to its own
image size, so a student of 64 pixels can learn from a teacher of 32.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from bitvit.train.settings import Network, TrainingError

__all__ = ["ResidualNetwork", "load_teacher"]

Teacher = Callable[[Tensor], Tensor]


class ResidualNetwork(nn.Module):
    """A stem, three stages of a convolution with pooling and a residual pair, then global max pooling."""

    def __init__(self, network: Network, num_classes: int) -> None:
        super().__init__()
        self.image_size = network.image_size
        first, *widths = network.widths
        layers: list[nn.Module] = [_convolution(3, first)]
        for before, width in zip(network.widths, widths, strict=False):
            layers += [_convolution(before, width, pool=True), _Residual(width)]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] != self.image_size:
            pixels = functional.interpolate(pixels, (self.image_size, self.image_size), mode="area")
        features = self.layers(pixels.contiguous(memory_format=torch.channels_last))
        return self.classifier(features.amax((2, 3))) / 8


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pair(x)


def _convolution(inputs: int, outputs: int, *, pool: bool = False) -> nn.Sequential:
    """Pooling comes before the norm, which then has a quarter of the values to process."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    rest = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(convolution, *rest, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def load_teacher(path: Path, num_classes: int) -> Teacher:
    """A teacher from a file: .safetensors written by this tool with network.kind "teacher", or a .pt2 of torch.export.

    Raises TrainingError if it is neither or has another number of classes.
    """
    try:
        model = torch.export.load(path).module() if path.suffix == ".pt2" else _load_own(path, num_classes)
    except TrainingError:
        raise
    except Exception as problem:  # a damaged archive raises nearly anything
        raise TrainingError(f"--teacher {path}: cannot be read ({problem})") from None
    return model


def _load_own(path: Path, num_classes: int) -> nn.Module:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "teacher" not in metadata:
        raise TrainingError(
            f"--teacher {path}: not a teacher of this tool; train one with settings whose network.kind is teacher"
        )
    told = json.loads(metadata["teacher"])
    if told["num_classes"] != num_classes:
        raise TrainingError(f"--teacher {path}: {told['num_classes']} classes, expected {num_classes}")
    network = Network(kind="teacher", image_size=told["image_size"], widths=tuple(told["widths"]))
    model = ResidualNetwork(network, num_classes)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
