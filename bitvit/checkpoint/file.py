"""The file that a checkpoint is in: pieces of it, none beyond its end, and its name in messages."""

import hashlib
import io
import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint.remedies import FETCH_AGAIN
from bitvit.errors import CheckpointError
from bitvit.files import open_file

__all__ = ["Extent", "open_checkpoint", "read_bytes", "read_extent", "sha256", "size"]


class Extent(NamedTuple):
    """Where in the file a storage or an archive's member lies."""

    offset: int
    nbytes: int
    crc: int | None  # None: the legacy format, or torch.serialization.set_crc32_options(False)


def open_checkpoint(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Raises CheckpointError, the path in its message, unless it is an ordinary file that may be read."""
    return open_file(
        path,
        CheckpointError,
        folder="is a folder, expected a file; give the .pth or .safetensors inside it",
        special="is not a regular file; save the checkpoint to a file first",
    )


def size(file: io.BufferedReader) -> int:
    """Bytes of the file at this moment."""
    return os.fstat(file.fileno()).st_size


def sha256(files: Iterable[io.BufferedReader]) -> str:
    """Hex digest of whole files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_bytes(file: io.BufferedReader, offset: int, count: int) -> NDArray[np.uint8]:
    """`count` bytes from `offset` on, read straight into a new array: uint8 [count]. CheckpointError beyond the end."""
    if offset < 0 or offset + count > size(file):
        raise CheckpointError(f"truncated: bytes {offset}..{offset + count} lie outside the file; {FETCH_AGAIN}")
    out = np.empty(count, np.uint8)
    file.seek(offset)
    if file.readinto(out.data) != count:
        raise CheckpointError("the file changed while it was read; try again")
    return out


def read_extent(file: io.BufferedReader, extent: Extent) -> NDArray[np.uint8]:
    """An extent's bytes, uint8 [nbytes]. CheckpointError if they do not have its check sum."""
    raw = read_bytes(file, extent.offset, extent.nbytes)
    if extent.crc is not None and zlib.crc32(raw.data) != extent.crc:
        raise CheckpointError(
            f"damaged: the {extent.nbytes} bytes at {extent.offset} do not have the stored check sum; {FETCH_AGAIN}"
        )
    return raw
