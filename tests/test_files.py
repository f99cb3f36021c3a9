"""Files that are there as a whole or not at all."""

import os
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from bitvit.errors import BitvitError, ModelFileError
from bitvit.files import make_folder, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_file(tmp_path / "f", lambda file, content=content: file.write(content))  # type: ignore[misc]
        assert (tmp_path / "f").read_bytes() == content
    assert names(tmp_path) == ["f"]


def test_the_longest_of_names(tmp_path: Path) -> None:
    write_file(tmp_path / ("x" * 255), lambda file: file.write(b"1"))
    assert names(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bug")])
def test_what_goes_wrong_leaves_the_old_file(tmp_path: Path, problem: BaseException) -> None:
    (tmp_path / "f").write_text("old")

    def fail(file: BinaryIO) -> NoReturn:
        file.write(b"half")
        raise problem

    with pytest.raises(BitvitError if isinstance(problem, OSError) else type(problem)) as caught:
        write_file(tmp_path / "f", fail)
    if isinstance(problem, OSError):
        assert str(caught.value).startswith(f"{tmp_path / 'f'}: cannot be written: No space left on device; choose")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    """As root, one could replace /dev/null by a drawing."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(ModelFileError, match=f"{name}: is not an ordinary file, and would be replaced"):
            write_file(tmp_path / name, lambda file: file.write(b"1"), ModelFileError)
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("name", ["nul\0", "x" * 300, "missing/f"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BitvitError, match=r"cannot be written: .*; choose an existing folder"):
        write_file(f"{tmp_path}/{name}", lambda file: file.write(b"1"))
    assert names(tmp_path) == []


def test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BitvitError, match="file: cannot be made"):
        make_folder(tmp_path / "file")
