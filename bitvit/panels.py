"""Arrays in kernel order: vectors by blocks of lanes, weights by panels of LANES outputs.

An order lists features in the order of lanes or bits; -1 stands for padding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import ARM, LANES, LOOKUP, TILE_ROWS


def padded(n: int, multiple: int = LANES) -> int:
    """n rounded up."""
    return -(-n // multiple) * multiple


def lane_words(bits: int) -> int:
    """How many words of a kernel hold so many bits."""
    return -(-bits // LANE_BITS)


def natural(n: int, multiple: int = LANES) -> NDArray[np.int64]:
    """Feature order 0 … n - 1, then -1 up to a multiple: a lane or bit without a feature."""
    return np.concatenate([np.arange(n), np.full(padded(n, multiple) - n, -1)])


def take(vector: NDArray[Any], order: NDArray[np.int64], fill: float = 0.0) -> NDArray[np.float32]:
    """vector[order], `fill` where order is -1."""
    return np.where(order >= 0, vector[order], fill).astype(np.float32)


def interleave(*vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of equal length n -> [n/LANES][vector][LANES]: what one block of lanes needs lies together."""
    return np.stack([v.reshape(-1, LANES) for v in vectors], axis=1).astype(np.float32)


def binary_panels(
    positive: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Signs [N, K] -> panels uint32 [rows/LANES][columns/LANE_BITS][LANES], in an order of rows and one of columns."""
    if not np.array_equal(columns, natural(positive.shape[1], LANE_BITS)):
        positive = np.take(positive, columns, axis=1) & (columns >= 0)
    words = np.zeros((len(rows), len(columns) // 8), np.uint8)
    packed = np.packbits(positive, axis=1, bitorder="little")
    words[rows >= 0, : packed.shape[1]] = packed[rows[rows >= 0]]
    panels = words.view("<u4").reshape(-1, LANES, len(columns) // LANE_BITS).transpose(0, 2, 1)
    return np.ascontiguousarray(panels, np.uint32)


def lookup_panels(
    positive: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Signs [N, K] -> what kernels/lookup.py reads as uint8 [rows/32][lookups][32], in orders as above."""
    rows = np.concatenate([rows, np.full(padded(len(rows), 32) - len(rows), -1)])
    words = binary_panels(positive, rows, columns).transpose(0, 2, 1).reshape(-1, 4, 8, len(columns) // LANE_BITS)
    words = words.transpose(0, 3, 2, 1)  # [panel][q][j][word] -> [panel][word][j][q]
    nibbles = [words >> np.uint32(shift) & np.uint32(15) for shift in range(0, LANE_BITS, 4)]
    ordered = np.stack(nibbles, axis=2).astype(np.uint8).reshape(len(words), -1, 32)
    missing = padded(ordered.shape[1], 3) - ordered.shape[1]
    return np.ascontiguousarray(np.pad(ordered, ((0, 0), (0, missing), (0, 0)))).view(np.uint32)


product_panels = lookup_panels if LOOKUP else binary_panels
"""What `matmul.binary_matmul` reads."""


def pair_units(rows: int, words: int) -> int:
    """4-byte units of so many rows as products read them, see kernels/lookup.py and kernels/neon.py."""
    if LOOKUP:
        return -(-rows // 2) * padded(8 * words, 3) // 2 + 1
    return 4 * (rows + 1) * words if ARM else 0


def float_panels(weight: NDArray[np.float32], columns: NDArray[np.int64], lanes: int = LANES) -> NDArray[np.float32]:
    """Weights [N, K] -> panels float32 [N padded/lanes][columns][lanes]; -1 gives a zero column."""
    ordered = np.zeros((padded(len(weight), lanes), len(columns)), np.float32)
    ordered[: len(weight)] = np.take(weight, columns, axis=1)
    ordered[:, columns < 0] = 0
    return np.ascontiguousarray(ordered.reshape(-1, lanes, len(columns)).transpose(0, 2, 1))


def padded_rows(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """[rows, C] -> [rows to TILE_ROWS, C to LANES], zeros added."""
    rows, channels = table.shape
    return np.pad(table, ((0, padded(rows, TILE_ROWS) - rows), (0, padded(channels) - channels)))
