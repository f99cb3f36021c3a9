"""The format of torch.save before PyTorch 1.6: five pickles, then the storages."""

import io
import struct
from collections.abc import Mapping

from bitvit.checkpoint.file import Extent, read_bytes, size
from bitvit.checkpoint.inert import Storage, described
from bitvit.checkpoint.pickles import MAX_PICKLE, InertPickle
from bitvit.checkpoint.remedies import FETCH_AGAIN, RESAVE
from bitvit.checkpoint.sniff import LEGACY_MAGIC
from bitvit.checkpoint.state_dict import Source, Stored, select
from bitvit.errors import CheckpointError

__all__ = ["read_legacy"]


def read_legacy(file: io.BufferedReader, ema: bool) -> Stored:
    """The state dict and options in a file of the old format. Raises CheckpointError."""
    content, extents = _pickles(file)

    def locate(storage: Storage) -> Extent:
        extent = extents.get(storage.key)
        if extent is None or extent.nbytes < storage.nbytes:
            raise CheckpointError(f"no storage {described(storage.key)} of {storage.nbytes} bytes; {FETCH_AGAIN}")
        return extent

    # Whatever machine wrote it: torch swaps the bytes of legacy storages to little-endian.
    return select(file, Source(content, locate, "<"), ema)


def _pickles(file: io.BufferedReader) -> tuple[object, dict[str, Extent]]:
    """Five pickles (magic number, version, system, object, storage keys), then the storages in the keys' order."""
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE))
    machine = InertPickle(stream)
    magic, version, _system = (machine.run() for _ in range(3))
    if magic != LEGACY_MAGIC or version != 1001:
        raise CheckpointError(f"legacy format version {described(version)}, expected 1001; {RESAVE}")
    content, keys = machine.run(), machine.run()
    return content, _extents(file, keys, stream.tell(), machine.storages)


def _extents(file: io.BufferedReader, keys: object, offset: int, storages: Mapping[str, Storage]) -> dict[str, Extent]:
    """Walk the storages behind the pickles, each an int64 element count and its elements."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise CheckpointError(f"the list of storages does not fit the tensors; {FETCH_AGAIN}")
    extents: dict[str, Extent] = {}
    for key in keys:
        (count,) = struct.unpack("<q", read_bytes(file, offset, 8).tobytes())
        if count != storages[key].count:
            raise CheckpointError(
                f"storage {described(key)} has {count} elements, expected {storages[key].count}; {FETCH_AGAIN}"
            )
        extents[key] = Extent(offset + 8, storages[key].nbytes, None)
        offset += 8 + storages[key].nbytes
    if offset > size(file):
        raise CheckpointError(f"truncated: {size(file)} bytes, expected {offset}; {FETCH_AGAIN}")
    return extents
