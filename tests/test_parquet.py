"""Images in Parquet files: found, told by their columns, read."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitvit.errors import ImageError
from bitvit.evaluation.rows import read_rows
from bitvit.images import open_image
from bitvit.parquet import Images, class_names, find_files, image_column, is_parquet
from tests.support.parquet_files import CLASSES, png, write_images

arrow: Any = pytest.importorskip("pyarrow", reason="needs pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images in two files, of three and of one row group, among what is none."""
    top = tmp_path / "images"
    write_images(top / "a.parquet", [png(n) for n in range(5)], group_rows=2)
    write_images(top / "below" / "b.PARQUET", [png(5), png(6)])
    for name in ("_SUCCESS", ".hidden.parquet", "below/_part.parquet", "notes.txt"):
        (top / name).write_text("nothing")
    return top


# -------------------------------------------------------------------------------------------------------------- files
def test_what_stands_for_parquet_files(folder: Path, tmp_path: Path) -> None:
    for place in (folder, folder / "a.parquet", folder / "*.parquet", "s3://bucket/images", tmp_path / "no.parquet"):
        assert is_parquet(str(place))
    for place in (tmp_path, folder / "notes.txt", "-", tmp_path / "missing", "a\0b"):
        assert not is_parquet(str(place))


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a failing disk: it must not be taken for one without Parquet files."""

    def fail(place: str) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), place)

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(ImageError, match=f"{folder.name}: cannot be read: Input/output error; check the folder"):
        is_parquet(str(folder))


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("", ["a.parquet", "below/b.PARQUET"]),
        ("/a.parquet", ["a.parquet"]),
        ("/*.parquet", ["a.parquet"]),
        ("/*/*.PARQUET", ["below/b.PARQUET"]),
        ("/below", ["b.PARQUET"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_folders_and_patterns(place: str, found: Sequence[str], scheme: str, folder: Path) -> None:
    files = find_files(f"{scheme}{folder}{place}")
    assert [file.relative for file in files] == found
    assert all(file.name == file.path and Path(file.path).is_file() for file in files)


@pytest.mark.parametrize("place", ["missing", "*.csv", "images/notes.txt/x.parquet"])
def test_a_place_without_files(place: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no Parquet files there; name a file, a folder or a pattern"):
        find_files(str(tmp_path / place))


def test_an_address_without_its_secrets_is_in_messages() -> None:
    with pytest.raises(ImageError) as error:
        find_files("nosuch://user:secret@host/images?key=secret")
    assert str(error.value).startswith("nosuch://host/images: cannot be read as Parquet: ")
    assert "secret" not in str(error.value).partition("Parquet: ")[0]


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PK\3\4" + bytes(100))
    (file,) = find_files(str(tmp_path))
    with pytest.raises(ImageError, match=r"a\.parquet: cannot be read as Parquet: ") as error, file.open():
        pass
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------ columns
STRUCT = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": arrow.int64(), "photo": STRUCT, "mask": arrow.binary()}, "photo"),
        ({"text": arrow.string(), "jpg": arrow.binary()}, "jpg"),
        ({"text": arrow.string(), "file_name": arrow.large_string()}, "file_name"),
        ({"image": arrow.binary(), "thumbnail": arrow.binary()}, "image"),
    ],
)
def test_the_column_of_images_is_told_by_its_type(columns: dict[str, Any], expected: str) -> None:
    assert image_column(arrow.schema(list(columns.items())), None, "x") == expected


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"a": arrow.binary(), "b": arrow.binary()}, None, "'a' and 'b' might hold the images; say which"),
        ({"a": arrow.int64(), "text": arrow.string()}, None, "none holds images; say which with --path-column"),
        ({"a": arrow.int64()}, "a", "column 'a' is int64, expected one of bytes, of {bytes, path} or of paths"),
        ({"a": arrow.binary()}, "b", "column 'b' is not there, expected"),
    ],
)
def test_a_column_of_images_that_is_not_clear(columns: dict[str, Any], wanted: str | None, message: str) -> None:
    with pytest.raises(ImageError) as error:
        image_column(arrow.schema(list(columns.items())), wanted, "x.parquet")
    assert str(error.value).startswith("x.parquet: ")
    assert message in str(error.value)


def test_what_hugging_face_says_of_columns(folder: Path) -> None:
    schema = parquet.read_schema(folder / "a.parquet")
    assert class_names(schema, "label") == list(CLASSES)
    assert class_names(schema, "image") is None
    assert image_column(schema.append(arrow.field("other", STRUCT)), None, "x") == "image"
    deep = b"[" * 100_000
    for damaged in (b"{", b"[]", b'{"info": {"features": []}}', b'{"info": {"features": {"label": 1}}}', deep):
        assert class_names(schema.with_metadata({"huggingface": damaged}), "label") is None


# --------------------------------------------------------------------------------------------------------------- rows
def test_images_in_any_order_are_those_of_their_rows(folder: Path) -> None:
    files = find_files(str(folder))
    images = Images(files, "image", [5, 2])
    assert len(images) == len(images.names) == 7
    assert images.names[4:6] == [f"{folder}/a.parquet row 4", f"{folder}/below/b.PARQUET row 0"]
    for order in (range(7), [6, 0, 3, 3, 5, 4, 1], [4, 5, 6]):
        for place in order:
            assert (images[place], images[place].name) == (png(place), images.names[place])
    assert list(images) == [png(n) for n in range(7)]
    assert images[1:3] == [png(1), png(2)]


def test_paths_start_from_the_folder_of_their_file_or_from_another(tmp_path: Path) -> None:
    for name in ("here/1.png", "there/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(int(name[-5])))
    cells = ["1.png", "../there/2.png", f"file://{tmp_path}/there/2.png", "3.png", "", None]
    parquet.write_table(arrow.table({"path": cells}), tmp_path / "here" / "a.parquet")
    files = find_files(str(tmp_path / "here"))
    images = list(Images(files, "path", [6]))
    assert images == [png(1), png(2), png(2), b"", b"", b""]
    with pytest.raises(ImageError, match=r"^3\.png: cannot be read: "):
        open_image(images[3])
    for empty in images[4:]:
        with pytest.raises(ImageError, match="no image: the cell is empty"):
            open_image(empty)
    (elsewhere,) = Images(files, "path", [1], root=str(tmp_path / "there" / ".." / "here"))
    assert elsewhere == png(1)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A path is an error of its row, a label one of the file."""
    (tmp_path / "1.png").write_bytes(png(1))
    text = arrow.array([b"1.png", b"\xe9.png", b"1.png"], arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"path": text, "label": [0, 1, 2]}), tmp_path / "paths.parquet")
    images = list(Images(find_files(str(tmp_path / "paths.parquet")), "path", [3]))
    assert images == [png(1), b"", png(1)]
    with pytest.raises(ImageError, match="the path in the cell is not UTF-8"):
        open_image(images[1])
    parquet.write_table(arrow.table({"path": ["1.png"] * 3, "label": text}), tmp_path / "labels.parquet")
    with pytest.raises(ImageError, match=r"labels.parquet: cannot be read as Parquet: 'utf-8' codec"):
        read_rows(str(tmp_path / "labels.parquet"), None, None, None)


def test_dates_that_python_has_not(tmp_path: Path) -> None:
    date = arrow.array([2**31 - 1], arrow.int32()).view(arrow.date32())
    parquet.write_table(arrow.table({"path": ["1.png"], "label": date}), tmp_path / "dates.parquet")
    with pytest.raises(ImageError, match=r"dates.parquet: cannot be read as Parquet: "):
        read_rows(str(tmp_path / "dates.parquet"), None, None, None)
