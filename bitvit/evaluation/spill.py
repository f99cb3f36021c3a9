"""Logits of many images and classes, in a file that has no name where they are too large for memory.

The area under a class's ROC curve compares that class's logits of all images, so they are all kept to the end. Of
30,000 images and 21,841 classes they are 2.6 GB. The file is mapped: its array is like any other, and its pages, once
released, are the system's to write out and drop.
"""

import contextlib
import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGE", "release", "zeros"]

LARGE = 1 << 28  # bytes from which on an array is in a file


def zeros(shape: tuple[int, int]) -> NDArray[np.float32]:
    """A new array: of LARGE bytes or more in a file, if the folder for temporary files (TMPDIR) has room for it."""
    size = 4 * shape[0] * shape[1]
    if size >= LARGE and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would end the process by a signal
            return np.ndarray(shape, np.float32, buffer=mmap.mmap(file.fileno(), size))
    return np.zeros(shape, np.float32)


def release(array: NDArray[np.float32]) -> None:
    """Give back the memory that an array in a file takes; what it holds stays. Others stay as they are."""
    base: object = array.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
