"""Quantizers of attention probabilities: the kernel of each, and what it reads (SPEC 7.4.6)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels import catalog
from bitvit.kernels.catalog import Kernel
from bitvit.layers.common import Vector


@dataclass(frozen=True, eq=False, repr=False)
class Quantizer:
    """How kernels/quantizers.py makes bit planes of scores."""

    kernel: Kernel
    pixels_kernel: tuple[Kernel, Kernel]
    """For windows of one pixel: with batch norms, and with layer norms."""
    planes: int
    table: Vector
    """Two steps of the softmax, then what the kernel says."""


def quantizer_of(steps: NDArray[np.float32], head_dim: int) -> Quantizer:
    """The quantizer of a model file's tensor: [2, heads] for levels, [3] for gsb."""
    softmax = _softmax_steps(head_dim)
    if steps.ndim == 1:
        pixels = catalog.attend_pixels_gsb, catalog.attend_pixels_gsb_ln
        return Quantizer(catalog.attend_gsb, pixels, 3, np.concatenate([softmax, _gsb_table(steps)]))
    pixels = catalog.attend_pixels_levels, catalog.attend_pixels_levels_ln
    return Quantizer(catalog.attend_levels, pixels, 2, np.concatenate([softmax, steps.T.reshape(-1)]))


def _gsb_table(clip: NDArray[np.float32]) -> Vector:
    """Three weighted masks with shared steps a, a2, a3 (SPEC 7.4.6), as kernels/quantizers.py takes them."""
    a, a2, a3 = (float(step) for step in clip)
    floor = float(np.float32(1e-5))
    fa, fa2, fa3 = max(a, floor), max(a2, floor), max(a3, floor)
    high, low = (0.9, 0.7) if a > 0 else (2.0, 2.0)
    # A = fa·(base + (fa2 - 1)·t1 + (fa3 - fa2)·t2)
    return np.array([a, high, low, fa, fa * (fa2 - 1), fa * (fa3 - fa2)], np.float32)


def _softmax_steps(head_dim: int) -> Vector:
    """-2·log2(e)/√d as a 12-bit high part and the rest: j·high is exact in float32 for j < 2^12."""
    step = -2 * math.log2(math.e) / math.sqrt(head_dim)
    mantissa, exponent = math.frexp(step)
    high = math.ldexp(round(mantissa * 4096), exponent - 12)
    return np.array([high, step - high], np.float32)
