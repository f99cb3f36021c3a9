"""The bit convention: bit i of uint64 word w is feature 64·w + i; 1 means +1, 0 means -1; tail bits are 0."""

import numpy as np
from numpy.typing import NDArray

WORD = 64


def words(features: int) -> int:
    """Number of uint64 words that hold `features` bits."""
    return -(-features // WORD)


def pack(positive: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool [N, K] (True = +1) into uint64 [N, ceil(K/64)], tail bits 0."""
    n, k = positive.shape
    padded = np.zeros((n, words(k) * WORD), np.uint8)
    padded[:, :k] = positive
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack(packed: NDArray[np.uint64], features: int) -> NDArray[np.bool_]:
    """The inverse of `pack`: bool [N, features]."""
    as_bytes = np.ascontiguousarray(packed.astype("<u8", copy=False)).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, count=features, bitorder="little").view(np.bool_)


def has_tail_bits(packed: NDArray[np.uint64], features: int) -> bool:
    """Whether any bit beyond the last feature is set."""
    tail = features % WORD
    return bool(tail) and bool(np.any(packed[:, -1] >> np.uint64(tail)))
