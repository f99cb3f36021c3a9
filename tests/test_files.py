"""Opening and reading ordinary files, and files that are written as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from bitvit.errors import BitvitError, ConfigError, ModelFileError
from bitvit.files import make_folder, open_file, read_csv, read_json, read_small, read_text, replacing, write_file


# ------------------------------------------------------------------------------------------------------------ reading
def test_only_ordinary_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    with open_file(tmp_path / "f", ConfigError) as file:
        assert file.read() == b"1"
    with pytest.raises(ConfigError, match="no: no such file; check the path"):
        open_file(tmp_path / "no", ConfigError)
    with pytest.raises(ConfigError, match="is a folder, expected a file"):
        open_file(tmp_path, ConfigError)
    with pytest.raises(ConfigError, match="f/g: cannot be read: Not a directory; check file and disk"):
        open_file(tmp_path / "f" / "g", ConfigError)
    with pytest.raises(ConfigError, match=r"'nul\\x00': is not a path"):
        open_file("nul\0", ConfigError)
    with pytest.raises(ModelFileError, match="no: gone"):
        open_file(tmp_path / "no", ModelFileError, missing="gone")


def test_small_files_are_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1234")
    (tmp_path / "empty").touch()
    assert read_small(tmp_path / "f", 4) == read_small(str(tmp_path / "f"), 5) == b"1234"
    assert read_small(tmp_path / "f", 3) is None
    for name in ("empty", "no", "f/g", "nul\0", "a" * 5000, "."):
        assert read_small(tmp_path / name, 4) is None
    assert read_small("", 4) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_small(tmp_path / "pipe", 4) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: is not a regular file; copy it to one first"):
        open_file(tmp_path / "pipe", ConfigError)


def test_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_text(tmp_path / "f", ConfigError, "names") == "a\r\nb\n"
    (tmp_path / "f").write_bytes(b"ab\xff")
    with pytest.raises(ConfigError, match="f: byte 2 is not UTF-8 text; expected names"):
        read_text(tmp_path / "f", ConfigError, "names")
    with pytest.raises(ConfigError, match="is a folder, expected a file with names"):
        read_text(tmp_path, ConfigError, "names")


@pytest.mark.parametrize("read", [read_text, read_json, read_csv])
def test_a_pointer_of_git_lfs_is_no_text(read: Callable[..., object], tmp_path: Path) -> None:
    """Three lines of text would pass for three class names."""
    (tmp_path / "f").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ConfigError, match="f: is a Git LFS pointer, not the file itself; fetch it with git lfs pull"):
        read(tmp_path / "f", ConfigError, "names")


def test_json(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"a": [1]}')
    assert read_json(tmp_path / "f", ConfigError, "names") == {"a": [1]}
    for text in ("", "[" * 100_000, "9" * 5000):
        (tmp_path / "f").write_text(text)
        with pytest.raises(ConfigError, match=r"f: is not JSON \(.*\); expected names"):
            read_json(tmp_path / "f", ConfigError, "names")


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b'a,"b\r\nc";d\r\n\r\n1,2\n')
    assert read_csv(tmp_path / "f", ConfigError, "names") == [(2, ["a", "b\r\nc;d"]), (4, ["1", "2"])]
    (tmp_path / "f").write_text("a;b;c,d\n1;2;3\n")
    assert read_csv(tmp_path / "f", ConfigError, "names", delimiters=",;") == [
        (1, ["a", "b", "c,d"]),
        (2, ["1", "2", "3"]),
    ]
    (tmp_path / "f").write_text("x" * 200_000)
    with pytest.raises(ConfigError, match=r"f: is not CSV \(field larger than .*\); expected names"):
        read_csv(tmp_path / "f", ConfigError, "names")


# ------------------------------------------------------------------------------------------------------------ writing
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


def test_a_file_written_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with replacing(tmp_path / "f") as file:
        file.write(b"n")
        assert (tmp_path / "f").read_text() == "old"
        file.write(b"ew")
    assert (tmp_path / "f").read_text() == "new"

    def fail() -> None:
        with replacing(tmp_path / "f") as file:
            file.write(b"half")
            raise OSError("the caller's")

    with pytest.raises(OSError, match="the caller's"):
        fail()
    assert (tmp_path / "f").read_text() == "new"
    assert names(tmp_path) == ["f"]


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
