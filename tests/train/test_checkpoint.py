"""Files of a run."""

import sys
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_disk_that_is_full_while_pytorch_writes(tmp_path: Path) -> None:
    """PyTorch raises a RuntimeError of its own behind the system's."""
    import resource

    (path := tmp_path / "state.pt").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"state\.pt: cannot be written: File too large"):
            checkpoint.save_state(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_saved_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not a state"):
        checkpoint.save_state(tmp_path / "state.pt", {"weights": Unsaved()})
    assert list(tmp_path.iterdir()) == []


class Unsaved:
    def __reduce__(self) -> str:
        raise RuntimeError("not a state")
