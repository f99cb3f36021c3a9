"""Files of other kinds are called by their names."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import pytest

from tests.support.checkpoints import refuse


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"\n  <HTML><body>404", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b'{"error": "Invalid credentials"}', "JSON text"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5 file (Keras"),
        (b"GGUF\x03\0\0\0", "a GGUF model"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (tar(), "a tar archive"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"BZh91AY", "a bzip2 archive"),
        (b"\xfd7zXZ\x00\0", "an xz archive"),
        (b"\x28\xb5\x2f\xfd\0", "a zstd archive"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "a rar archive"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"GIF89a", "a GIF image"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WEBP image"),
        (b"BM\x36\0\0\0", "a BMP image"),
        (b"II*\0\x08\0\0\0", "a TIFF image"),
        (b"MM\0*\0\0\0\x08", "a TIFF image"),
        (b"\0\0\0\x1cftypheic", "an HEIC or AVIF image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (pickle.dumps({"w": [1, 2]}), "a pickle that torch.save did not write"),
        (b"random bytes", "of an unknown kind (it begins with b'random b')"),
        (struct.pack("<Q", 1 << 40) + b"{", "of an unknown kind"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refuse(path, what, ";")


def test_onnx_is_known_by_its_name_too(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x0a\x00")
    refuse(tmp_path / "m.onnx", "an ONNX model")
