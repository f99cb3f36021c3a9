"""Images as the stem reads them: normalised planes of floats, or the bytes of a cropped image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels.catalog import IMAGE

__all__ = ["Inputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Records for the kernels, and the arrays whose addresses stand in them."""

    records: "NDArray[np.void]"
    """IMAGE [B]"""
    arrays: Sequence[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, part: slice) -> "Inputs":
        return Inputs(self.records[part], self.arrays)

    @classmethod
    def of_planes(cls, images: NDArray[np.float32]) -> "Inputs":
        """images: float32 [B, 3, S, S], each C-contiguous."""
        records = np.zeros(len(images), IMAGE)
        records["address"] = images.ctypes.data + images.strides[0] * np.arange(len(images))
        return cls(records, [images])

    @classmethod
    def of_bytes(cls, crops: Sequence[NDArray[np.uint8]], pad: int, table: NDArray[np.float32]) -> "Inputs":
        """crops: uint8 [crop, crop, 3] each, in which R, G, B are neighbours. pad: black pixels on each side. table:
        float32 [3, 256], C-contiguous, what becomes of a byte of each channel."""
        records = np.zeros(len(crops), IMAGE)
        if crops:
            records["address"] = [crop.ctypes.data for crop in crops]
            records["row_bytes"], records["pixel_bytes"], _ = zip(*(crop.strides for crop in crops), strict=True)
            records["crop"], records["pad"], records["table"] = len(crops[0]), pad, table.ctypes.data
        return cls(records, [*crops, table])
