"""Signs as booleans, as numbers and as packed words; what settings of hypothesis the kernels' tests share."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.kernels.catalog import LANE_BITS

Array = NDArray[Any]

# Random shapes are the same in every run. No deadline: the first example compiles kernels.
PROFILE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

seeds = st.integers(0, 2**32 - 1)
EPS = 2.0**-24  # half an ulp of 1 in float32


def random_signs(seed: int, *shape: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < 0.5


def pm(positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """True -> +1, False -> -1."""
    return np.where(positive, 1, -1)


def pack_words(positive: NDArray[np.bool_], words: int) -> NDArray[np.uint32]:
    """bool [M, K] -> uint32 [M, words], bit i of word w is feature LANE_BITS·w + i."""
    bits = np.zeros((len(positive), LANE_BITS * words), np.uint8)
    bits[:, : positive.shape[1]] = positive
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def unpack_words(packed: NDArray[np.uint32], features: int) -> NDArray[np.bool_]:
    raw = np.ascontiguousarray(packed).view(np.uint8)
    return np.unpackbits(raw, axis=-1, count=features, bitorder="little").astype(bool)
