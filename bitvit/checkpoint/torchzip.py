"""The zip format of torch.save: an archive of plainly stored members, none over another, one of them a pickle."""

import io
import struct
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

from bitvit.checkpoint.file import Extent, read_bytes, read_extent
from bitvit.checkpoint.inert import Storage
from bitvit.checkpoint.pickles import MAX_PICKLE, InertPickle
from bitvit.checkpoint.remedies import FETCH_AGAIN, GIVE_CHECKPOINT, RESAVE, UNPACK
from bitvit.checkpoint.state_dict import Source, Stored, select
from bitvit.errors import CheckpointError, located
from bitvit.messages import listing, shown

__all__ = ["MAX_DIRECTORY", "members_of", "read_zip"]

MAX_DIRECTORY = 4 << 20  # bytes of an archive's list of members; BHViT-small with optimizer state and EMA has 0.2 MB
_LOCAL_HEADER = 30  # bytes before a member's name
_UNREADABLE = 0x2061  # flags: encrypted, patched, strongly encrypted, masked


class _Member(NamedTuple):
    """An archive's member, and where in the file whatever follows it begins."""

    entry: zipfile.ZipInfo
    stop: int


def read_zip(file: io.BufferedReader, ema: bool) -> Stored:
    """The state dict and options in an archive. Raises CheckpointError."""
    entries, stop = _directory(file)
    prefix = _prefix([entry.filename for entry in entries])
    members = members_of(entries, stop)
    order = _byte_order(file, members.get(f"{prefix}byteorder"))
    pickled = members[f"{prefix}data.pkl"]
    if pickled.entry.file_size > MAX_PICKLE:
        raise CheckpointError(f"data.pkl has {pickled.entry.file_size} bytes, expected at most {MAX_PICKLE}; {RESAVE}")
    code = read_extent(file, _member_extent(file, pickled)).tobytes()
    with located("data.pkl"):
        content = InertPickle(io.BytesIO(code)).run()

    def locate(storage: Storage) -> Extent:
        member = members.get(f"{prefix}data/{storage.key}")
        if member is None or member.entry.file_size < storage.nbytes:
            raise CheckpointError(
                f"storage {shown(storage.key)} has {member.entry.file_size if member else 'no'} bytes, "
                f"expected {storage.nbytes}; {FETCH_AGAIN}"
            )
        return _member_extent(file, member)

    return select(file, Source(content, locate, order), ema)


class _DirectoryFile:
    """A file for zipfile to read the directory from, and no more of it than a checkpoint's would be."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(MAX_DIRECTORY + 1 if size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY} bytes")
        return data


def _directory(file: io.BufferedReader) -> tuple[list[zipfile.ZipInfo], int]:
    """The directory of the archive, and where it begins."""
    try:
        with zipfile.ZipFile(_DirectoryFile(file)) as archive:  # all that it needs to read
            return archive.infolist(), archive.start_dir
    # Beside BadZipFile, malformed numbers in the directory surface as these.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, OSError) as problem:
        raise CheckpointError(f"truncated or damaged zip archive: {shown(str(problem))}; {FETCH_AGAIN}") from None


def _prefix(names: Sequence[str]) -> str:
    """The archive's one directory, 'archive/' or the file's stem, ending in '/'."""
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"is a TorchScript archive, a program, expected a state dict; {RESAVE}")
    prefixes = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(set(prefixes)) != 1:
        packed = any(name.endswith((".pth", ".pt", ".safetensors", ".bin", ".ckpt")) for name in names)
        raise CheckpointError(
            f"is a zip archive with {len(prefixes)} data.pkl in it, expected the one that torch.save writes "
            f"(found {listing(names)}); {UNPACK if packed else GIVE_CHECKPOINT}"
        )
    return prefixes[0]


def members_of(entries: Sequence[zipfile.ZipInfo], stop: int) -> dict[str, _Member]:
    """Name to member, each stored plainly under a name of its own and in a place of its own; `stop` ends the last."""
    members: dict[str, _Member] = {}
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        fault = "occurs twice" if entry.filename in members else _member_fault(entry)
        if fault is None and entry.header_offset + _LOCAL_HEADER + entry.file_size > stop:
            fault = "overlaps what follows it"
        if fault:
            raise CheckpointError(
                f"archive member {shown(entry.filename)} {fault}, which torch.save never writes; {RESAVE}"
            )
        members[entry.filename] = _Member(entry, stop)
        stop = entry.header_offset
    return members


def _member_fault(entry: zipfile.ZipInfo) -> str | None:
    name = entry.filename
    if entry.flag_bits & _UNREADABLE:
        return "is encrypted or patched"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed"
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        return "has a path that leaves the archive"
    return None


def _byte_order(file: io.BufferedReader, member: _Member | None) -> str:
    """'<' or '>'; releases before 2.1 say nothing and mean little-endian."""
    text = b"little" if member is None else read_extent(file, _member_extent(file, member)).tobytes()
    order = {b"little": "<", b"big": ">"}.get(text)
    if order is None:
        raise CheckpointError(f"byteorder is {shown(text)}, expected 'little' or 'big'; {FETCH_AGAIN}")
    return order


def _member_extent(file: io.BufferedReader, member: _Member) -> Extent:
    """Where a stored member's bytes lie: behind its local header, whose length the directory does not tell."""
    entry = member.entry
    header = read_bytes(file, entry.header_offset, _LOCAL_HEADER).tobytes()
    if header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"damaged: no archive member at byte {entry.header_offset}; {FETCH_AGAIN}")
    flags, method = struct.unpack("<HH", header[6:10])
    name_size, extra_size = struct.unpack("<HH", header[26:])
    begin = entry.header_offset + _LOCAL_HEADER + name_size + extra_size
    name = read_bytes(file, entry.header_offset + _LOCAL_HEADER, name_size).tobytes()
    same_name = name.decode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace") == entry.orig_filename
    if not same_name or method != zipfile.ZIP_STORED or flags & _UNREADABLE or begin + entry.file_size > member.stop:
        raise CheckpointError(
            f"archive member {shown(entry.filename)} is not what the archive's directory says; {FETCH_AGAIN}"
        )
    return Extent(begin, entry.file_size, entry.CRC or None)
