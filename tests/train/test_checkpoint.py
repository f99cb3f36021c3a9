"""Files of a run."""

from pathlib import Path
from typing import BinaryIO

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import checkpoint  # noqa: E402
from bitvit.train.settings import TrainingError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    checkpoint.write_bytes(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(TrainingError, match=r"file\.bin: cannot be written: disk full"):
        checkpoint.write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
