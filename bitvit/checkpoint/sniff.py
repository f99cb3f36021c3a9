"""Which kind of file it is, told by its first bytes, whatever its name."""

import io
from pathlib import Path

from bitvit.checkpoint.remedies import FETCH_AGAIN, GIVE_CHECKPOINT, RESAVE, UNPACK
from bitvit.errors import CheckpointError
from bitvit.files import GIT_LFS
from bitvit.messages import shown

__all__ = ["LEGACY_MAGIC", "UNKNOWN", "foreign", "kind_of", "sniff"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
UNKNOWN = "of an unknown kind"

# (offset, bytes, what it is, what to do)
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, GIT_LFS, "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights?)", GIVE_CHECKPOINT),
    (0, b"GGUF", "a GGUF model", GIVE_CHECKPOINT),
    (0, b"\x93NUMPY", "a NumPy array file", GIVE_CHECKPOINT),
    (4, b"TFL3", "a TensorFlow Lite model", GIVE_CHECKPOINT),
    (257, b"ustar", "a tar archive (also PyTorch's format before 0.1.10)", UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!", "a rar archive", UNPACK),
    (0, b"\xff\xd8\xff", "a JPEG image", GIVE_CHECKPOINT),
    (0, b"\x89PNG", "a PNG image", GIVE_CHECKPOINT),
    (0, b"GIF8", "a GIF image", GIVE_CHECKPOINT),
    (8, b"WEBP", "a WEBP image", GIVE_CHECKPOINT),
    (0, b"II*\0", "a TIFF image", GIVE_CHECKPOINT),
    (0, b"MM\0*", "a TIFF image", GIVE_CHECKPOINT),
    (0, b"BM", "a BMP image", GIVE_CHECKPOINT),
    (4, b"ftyp", "an HEIC or AVIF image, or a film", GIVE_CHECKPOINT),
    (0, b"%PDF", "a PDF document", GIVE_CHECKPOINT),
    (0, b"\x80", "a pickle that torch.save did not write", RESAVE),
)


def sniff(file: io.BufferedReader, path: Path) -> str:
    """'pth-zip', 'pth-legacy' or 'safetensors'. CheckpointError says what any other file is."""
    head = file.read(1024)
    if not head:
        raise CheckpointError(f"the file is empty; {FETCH_AGAIN}")
    kind = kind_of(head)
    if kind is not None:
        return kind
    what, remedy = foreign(head, path)
    raise CheckpointError(f"this is {what}, expected a .pth or .safetensors checkpoint; {remedy}")


def kind_of(head: bytes) -> str | None:
    """'pth-zip', 'pth-legacy' or 'safetensors', as a file that begins so may be; None for any other."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "pth-zip"
    if head[:1] == b"\x80" and _LEGACY_BYTES in head[:32]:
        return "pth-legacy"
    if head[8:9] == b"{" and not any(head[4:8]):  # a header below 4 GB
        return "safetensors"
    return None


def foreign(head: bytes, path: Path) -> tuple[str, str]:
    """What a file that is not a checkpoint is, and what to do about it."""
    for offset, magic, what, remedy in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return what, remedy
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page saved in place of the file", "download the file itself, not the page about it"
    if text.startswith((b"{", b"[{", b'["', b"[[")):
        return "JSON text", "give the checkpoint; a config.json is given beside it"
    # An ONNX model is a protobuf: field 1 (the version), then as a rule field 2 (the producer's name).
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model", GIVE_CHECKPOINT
    return f"{UNKNOWN} (it begins with {shown(head[:8])})", f"{GIVE_CHECKPOINT}, or {FETCH_AGAIN}"
