"""Functions and values to test vectors with."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bitvit.kernels.inline import OPTIONS

Array = NDArray[Any]

compiled = njit(**OPTIONS)  # as the kernels are
CANARY = 77

rng = np.random.default_rng(0)


def floats(*shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def words(*shape: int) -> NDArray[np.uint32]:
    return rng.integers(0, 2**32, shape, dtype=np.uint32)


def any_values(dtype: Any, size: int) -> Array:
    """All different, of both signs where the dtype has them."""
    return np.arange(1, size + 1).astype(dtype) if dtype is np.uint32 else (np.arange(size) - size // 2).astype(dtype)


def unpack(packed: NDArray[np.uint32], bits: int) -> NDArray[np.bool_]:
    """The lowest `bits` bits of every word, one after the other."""
    return (packed[:, None] >> np.arange(bits, dtype=np.uint32) & 1).astype(bool).reshape(-1)
