"""Folding: norms, scales and moves into the few vectors that inference needs. float64 in, float64 out.

The identities are those of SPEC section 9. A binary layer's output o is `scale[o]·dot + bias[o]`; a sign is a
comparison with a threshold, sgn(v + move) > 0 <=> v > -move.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.schema import TAPS, Affine

EPS = 1e-5  # SPEC section 7.0

Floats = NDArray[np.float64]


def batch_norm(weight: Floats, bias: Floats, mean: Floats, variance: Floats) -> Affine:
    """Batch norm with running statistics: scale = weight/√(variance + eps), bias - mean·scale."""
    scale = weight / np.sqrt(variance + EPS)
    return Affine(scale, bias - mean * scale)


@dataclass(frozen=True)
class BinaryWeight:
    """scale[o]·sgn(W[o] - mean W[o]), SPEC 8.1."""

    positive: NDArray[np.bool_]  # [out_features, in_features]
    scale: Floats  # [out_features]; 0 where a whole row is equal, whose signs are all 0
    zeros: int  # centred weights that are exactly 0 in other rows: one bit cannot hold them


def binarize(weight: NDArray[np.floating]) -> BinaryWeight:
    """Binarise latent weights [out_features, in_features]: scale from |W| before centring, sign after."""
    wide = weight.astype(np.float64, copy=False)
    scale = np.abs(wide).mean(axis=1)
    centred = wide - wide.mean(axis=1, keepdims=True)
    zero = centred == 0
    zeros_in_row = zero.sum(axis=1)
    constant = zeros_in_row == weight.shape[1]
    scale[constant] = 0
    return BinaryWeight(centred > 0, scale, int(zeros_in_row[~constant & (scale > 0)].sum()))


def pool_adjacent(hidden: Floats, ratio: int) -> Floats:
    """Mean of each `ratio` adjacent entries (SPEC 7.5 pool)."""
    means: Floats = hidden.reshape(-1, ratio).mean(axis=1)
    return means


@dataclass(frozen=True)
class ShiftGroup:
    """Layer scales of one group of shift residuals: reach 1 (shift3) or 2 (shift5)."""

    reach: int
    vertical: Floats
    horizontal: Floats
    quarters: Floats


def shift_taps(groups: list[ShiftGroup], width: int) -> Floats:
    """The shift residuals as one circular depthwise stencil, [9 or 5, width] in TAPS order (SPEC 9.11)."""
    taps = np.zeros((9, width))
    quarter = np.arange(width) // -(-width // 4)
    for group in groups:
        share = 1 / (2 * group.reach + 1)
        for k, (dy, dx) in enumerate(TAPS):
            if dx == 0 and abs(dy) <= group.reach:
                taps[k] += group.vertical * share
            if dy == 0 and abs(dx) <= group.reach:
                taps[k] += group.horizontal * share
        for q, (dy, dx) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
            k = TAPS.index((dy * group.reach, dx * group.reach))
            taps[k] += np.where(quarter == q, group.quarters, 0)
    return taps if any(group.reach == 2 for group in groups) else taps[:5]


def linspace(count: int) -> Floats:
    """`count` >= 2 numbers from -1 to 1 as PyTorch's float32 linspace has them (SPEC 7.9.2).

    The step is rounded to float32; each number is counted from the nearer end and rounded once: float64 holds the
    product of a float32 and a small integer, and the sum, exactly.
    """
    steps, step = np.arange(count), float(np.float32(2) / np.float32(count - 1))
    exact = np.where(steps < count // 2, steps * step - 1, 1 - steps[::-1] * step)
    return exact.astype(np.float32).astype(np.float64)


def coordinate_map(weight: Floats, image_size: int) -> Floats:
    """What the channels y and x, the same in every image, add to the stem's 4x4 convolution: [S_0², C] (SPEC 7.9.2).

    weight: [C, (y, x), 4, 4]. A channel is constant along the other axis, over which its weights may be summed.
    """
    side = image_size // 4
    along = linspace(image_size)[: 4 * side].reshape(side, 4)
    y, x = along @ weight[:, 0].sum(axis=2).T, along @ weight[:, 1].sum(axis=1).T
    total: Floats = (y[:, None] + x[None]).reshape(side * side, -1)
    return total


def sinusoidal_positions(channels: int, side: int) -> Floats:
    """Positions of the stem that are not learned, [S_0², C]; float32's values, as they are trained (SPEC 7.9.3)."""
    angles: NDArray[Any] = linspace(side).astype(np.float32)[:, None] * np.arange(
        1, channels // 4 + 1, dtype=np.float32
    )
    angles = angles.astype(np.float64)  # sines to float64, then rounded: the same on any machine
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32).astype(np.float64)  # [S_0, C/2]
    y, x = np.repeat(waves, side, axis=0), np.tile(waves, (side, 1))
    return np.concatenate([y, x], axis=1)
