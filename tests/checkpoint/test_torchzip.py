"""The zip format: other archives, damaged ones, and ones that lie."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvit.checkpoint import read_checkpoint
from tests.support.checkpoints import FIVE, assert_same, refuse, write_zip
from tools.fuzz.pickles import pickled, tensor


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["a.npy", "b.npy"], ["zip archive with 0 data.pkl", "'a.npy', 'b.npy'", "give the training checkpoint"]),
        (["config.json", "model.weights.h5"], ["zip archive with 0 data.pkl", "give the training checkpoint"]),
        (["run/best.pth"], ["zip archive with 0 data.pkl", "unpack it"]),
        (["a/data.pkl", "b/data.pkl"], ["zip archive with 2 data.pkl"]),
        (["m/code/__torch__.py", "m/data.pkl"], ["TorchScript archive"]),
        (["m/constants.pkl", "m/data.pkl"], ["TorchScript archive"]),
        ([f"{k}.npy" for k in range(20)], ["'7.npy' and 12 more"]),
    ],
)
def test_other_zip_archives_are_named(tmp_path: Path, names: list[str], parts: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "x" * 100)
    refuse(tmp_path / "m.pth", *parts)


def test_archives_whose_names_are_not_ascii(tmp_path: Path) -> None:
    """torch.save calls the archive's directory as the file."""
    with zipfile.ZipFile(tmp_path / "größe.pth", "w") as archive:
        archive.writestr("größe/data.pkl", pickled({"w": tensor("0", (5,))}))
        archive.writestr("größe/data/0", FIVE.tobytes())
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "größe.pth").state["w"], FIVE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"compress_type": zipfile.ZIP_DEFLATED}, "'archive/data/0' is compressed"),
        ({"filename": "archive/version"}, "'archive/version' occurs twice"),
        ({"filename": "/archive/data/0"}, "leaves the archive"),
        ({"filename": "archive/../../data/0"}, "leaves the archive"),
        ({"filename": "C:/data/0"}, "leaves the archive"),
        ({"flag_bits": 0x1}, "is encrypted"),
        ({"filename": "archive/data/1"}, "storage '0' has no bytes, expected 20"),
        ({"file_size": 16, "compress_size": 16}, "storage '0' has 16 bytes, expected 20"),
        ({"file_size": 1 << 40, "compress_size": 1 << 40}, "'archive/data/0' overlaps what follows it"),
        ({"CRC": 123}, "do not have the stored check sum"),
        ({"header_offset": 1}, "'archive/data.pkl' overlaps what follows it"),
        ({"header_offset": 40}, "'archive/data.pkl' overlaps what follows it"),
        ({"header_offset": 1 << 33}, "'archive/data/0' overlaps what follows it"),
        ({"orig_filename": "archive/data/1", "filename": "archive/data/1"}, "storage '0' has no bytes"),
    ],
)
def test_damaged_archives(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    """The archive's directory says something else about storage 0 than torch.save would."""
    path = tmp_path / "t.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"w": tensor("0", (5,))}))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", FIVE.tobytes())
        for field, value in change.items():
            setattr(archive.filelist[-1], field, value)
    refuse(path, problem)


def test_check_sums_that_torch_was_told_to_leave_out(tmp_path: Path) -> None:
    """torch.serialization.set_crc32_options(False) writes 0."""
    path = tmp_path / "t.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"w": tensor("0", (5,))}))
        archive.writestr("archive/data/0", FIVE.tobytes())
        for entry in archive.filelist:
            entry.CRC = 0
    assert_same(read_checkpoint(path).state, {"w": FIVE})


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """A thousand storages over the same kilobyte."""
    path = tmp_path / "t.pth"
    data = np.zeros(256 * 100, np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        keys = [str(k) for k in range(100)]
        archive.writestr("archive/data.pkl", pickled({k: tensor(k, (1,), (1,), count=data.size) for k in keys}))
        archive.writestr("archive/data/0", data.tobytes())
        for key in keys[1:]:
            entry = zipfile.ZipInfo(f"archive/data/{key}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(entry, field, getattr(archive.filelist[1], field))
            archive.filelist.append(entry)
    refuse(path, "'archive/data/1' overlaps what follows it, which torch.save never writes")


def test_unknown_byte_order(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE}, byteorder=b"middle")
    refuse(path, "byteorder is b'middle', expected 'little' or 'big'")


def test_truncated_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE})
    path.write_bytes(path.read_bytes()[:-60])
    refuse(path, "truncated or damaged zip archive", "download the file again")


def test_archive_that_lost_its_beginning(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE})
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[14:])
    refuse(path, "lie outside the file", "download the file again")
