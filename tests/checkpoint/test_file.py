"""Opening the file, and reading no further than it goes."""

import os
from pathlib import Path
from typing import Any

import pytest

from bitvit.checkpoint import file, read_checkpoint, torchzip
from bitvit.errors import CheckpointError
from tests.support.checkpoints import FIVE, refuse, write_zip
from tools.fuzz.pickles import tensor


def test_missing_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none.pth", "no such file")


def test_folder(tmp_path: Path) -> None:
    refuse(tmp_path, "is a folder without model.safetensors or pytorch_model.bin")


def test_path_with_a_nul(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a path"):
        read_checkpoint(f"{tmp_path}/a\0b")


def test_pipe(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "not a regular file")


def test_file_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    refuse(tmp_path / "a" / "b.pth", "cannot be read")


def test_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "t.pth", {"w": tensor("0", (5,))}, {"0": FIVE})
    monkeypatch.setattr(file, "size", lambda _: 1 << 30)
    members = torchzip.members_of

    def shrink(*arguments: Any) -> Any:
        os.truncate(path, 40)
        return members(*arguments)

    monkeypatch.setattr(torchzip, "members_of", shrink)
    refuse(path, "changed while it was read")
