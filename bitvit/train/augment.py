"""Training images that differ a little each time: shifts, flips, rotations, zoom, blanked squares and colours.

All of an epoch's random numbers are drawn at once from a seed, one row an image, so an image's variant depends on
nothing but seed, epoch and its place in the set: neither on the order of the batches nor on where a run was resumed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bitvit.train.settings import Augment

__all__ = ["Variants", "generator", "mixup", "normalise", "shifted"]


def generator(*numbers: int) -> torch.Generator:
    """A random generator that depends on all of these numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Variants:
    """One variant of every image of a set of `count`."""

    settings: Augment
    numbers: Tensor  # [count, 12], uniform in [0, 1), where the images are

    @classmethod
    def draw(cls, settings: Augment, count: int, *seeds: int, device: str = "cpu") -> "Variants":
        random = generator(*seeds)
        places, colours = torch.rand(count, 7, generator=random), torch.rand(count, 5, generator=random)
        return cls(settings, torch.cat([places, colours], 1).to(device))

    def __call__(self, pixels: Tensor, index: Tensor) -> Tensor:
        """Images number `index` [B] of pixels uint8 [N, S, S, 3] -> uint8 [B, S, S, 3]."""
        way, numbers = self.settings, self.numbers[index]
        side = pixels.shape[1]
        span = 2 * way.shift + 1
        down, across = ((numbers[:, k] * span).long() - way.shift for k in (0, 1))
        mirrored = numbers[:, 2] < (0.5 if way.flip else 0.0)
        if way.rotate or way.zoom:
            batch = self._rotated(pixels[index], numbers, down, across, mirrored)
        else:
            batch = shifted(pixels, index, down, across, mirrored)
        if way.cutout:
            corner = (numbers[:, 5:7] * (side + way.cutout)).long() - way.cutout
            axis = torch.arange(side, device=pixels.device)
            inside = [(axis >= corner[:, k, None]) & (axis < corner[:, k, None] + way.cutout) for k in (0, 1)]
            hole = inside[0][:, :, None] & inside[1][:, None, :]
            batch = batch.masked_fill(hole[..., None], 128)
        return self._coloured(batch, numbers[:, 7:]) if way.colour else batch

    def _coloured(self, batch: Tensor, numbers: Tensor) -> Tensor:
        """Contrast about an image's mean, brightness, and the strength of each channel."""
        changes = 1 + self.settings.colour * (2 * numbers[:, :, None, None] - 1)
        contrast, brightness, channels = changes[:, :1], changes[:, 1:2], (1 + changes[:, 2:].permute(0, 2, 3, 1)) / 2
        values = batch.float()
        mean = values.mean((1, 2, 3), keepdim=True)
        values = (mean + (values - mean) * contrast) * brightness * channels
        return values.round().clamp(0, 255).to(torch.uint8)

    def _rotated(self, batch: Tensor, numbers: Tensor, down: Tensor, across: Tensor, mirrored: Tensor) -> Tensor:
        """Rotation, zoom and shift in one bilinear resampling; edges are continued."""
        side = batch.shape[1]
        angle = (2 * numbers[:, 3] - 1) * math.radians(self.settings.rotate)
        zoom = 1 + (2 * numbers[:, 4] - 1) * self.settings.zoom
        cosine, sine = angle.cos() / zoom, angle.sin() / zoom
        mirror = torch.where(mirrored, -1.0, 1.0)
        rows = [
            torch.stack([mirror * cosine, -sine, 2 * across / side], 1),
            torch.stack([mirror * sine, cosine, 2 * down / side], 1),
        ]
        planes = batch.permute(0, 3, 1, 2).float()
        grid = functional.affine_grid(torch.stack(rows, 1), list(planes.shape), align_corners=False)
        rotated = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
        return rotated.permute(0, 2, 3, 1).round().to(torch.uint8)


def shifted(pixels: Tensor, index: Tensor, down: Tensor, across: Tensor, mirrored: Tensor) -> Tensor:
    """Whole-pixel shifts and flips, by indexing; what lies beyond an edge is its mirror image."""
    side = pixels.shape[1]
    axis = torch.arange(side, device=pixels.device)
    rows = _reflected(axis + down[:, None], side)
    columns = _reflected(torch.where(mirrored[:, None], side - 1 - axis, axis) + across[:, None], side)
    return pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(place: Tensor, side: int) -> Tensor:
    place = place.abs()
    return torch.where(place >= side, 2 * (side - 1) - place, place)


def normalise(pixels: Tensor, mean: tuple[float, ...] | Tensor, std: tuple[float, ...] | Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] as the engine's preprocessing does it, channels last in memory.

    mean and std as tensors where the pixels are spare a GPU the wait for their copy.
    """
    x = pixels.float() / 255
    x = (x - torch.as_tensor(mean, device=x.device)) / torch.as_tensor(std, device=x.device)
    return x.permute(0, 3, 1, 2)


def mixup(pixels: Tensor, shares: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend every image [B, ...] with another of the batch, and its classes' shares [B, L] likewise.

    The share of the first is drawn from Beta(alpha, alpha), once for the batch, by PyTorch's global generator.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(pixels), device=pixels.device)
    return pixels.lerp(pixels[partner], 1 - share), shares.float().lerp(shares[partner].float(), 1 - share)
