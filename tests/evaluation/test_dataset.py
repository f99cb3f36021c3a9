"""Labelled images from folders, CSV files and arrays."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvit.errors import ImageError
from bitvit.evaluation.dataset import Layout, read_data, read_folds
from tests.support.colours import patch


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch(1, 2, 3)).save(folder / name)
    return folder


def pairs(data: Any, **layout: Any) -> list[tuple[str, object]]:
    dataset = read_data(data, Layout(**layout))
    assert len(dataset) == len(dataset.images)
    return [(Path(path).name, label) for path, label in zip(dataset.paths, dataset.labels, strict=True)]


def table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# ------------------------------------------------------------------------------------------------------------- folders
def test_a_folder_for_each_class(tmp_path: Path) -> None:
    make(tmp_path, "dog/1.png", "cat/2.PNG", "cat/deeper/3.jpg", "big cat, \u00e9t\u00e9/4.png", ".hidden/5.png")
    (tmp_path / "cat" / "notes.txt").touch()
    assert pairs(tmp_path) == [
        ("4.png", "big cat, \u00e9t\u00e9"),
        ("2.PNG", "cat"),
        ("3.jpg", "cat"),
        ("1.png", "dog"),
    ]
    assert read_data(tmp_path).notes == ("left out: 1 hidden folder",)
    assert read_data(tmp_path).folders


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_belong_to_their_class(tmp_path: Path) -> None:
    make(tmp_path, "shard/3.png", "shard/4.png", "data/cat/1.png", "data/dog/2.png")
    (tmp_path / "data" / "cat" / "shard").symlink_to("../../shard")
    (tmp_path / "data" / "dog" / "back").symlink_to("..")
    (tmp_path / "data" / "owl").symlink_to("../shard")
    assert [(label, name) for name, label in pairs(tmp_path / "data")] == [
        ("cat", "1.png"),
        ("cat", "3.png"),
        ("cat", "4.png"),
        ("dog", "2.png"),
        ("owl", "3.png"),
        ("owl", "4.png"),
    ]
    assert read_data(tmp_path / "data").notes == ("left out: 1 link back to a folder above",)


def test_files_of_other_formats_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png")
    for name in ("cat/2.heic", "cat/deep/3.HEIC", "cat/4.avif", "cat/.5.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_data(tmp_path).notes == (
        "left out: 3 files of formats that are not read (1 .avif, 2 .heic; save them as JPEG or PNG), 1 hidden image",
    )
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(
        ImageError, match=r"no images in its 1 folder \(.*\); left out: 3 files of formats that are not"
    ):
        read_data(tmp_path)


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    make(tmp_path, "dog/1.png", "2.png")
    (tmp_path / "cat").mkdir()
    dataset = read_data(tmp_path)
    assert dataset.empty == ("cat",)
    assert dataset.notes == (
        "'cat': its folder holds no image",
        "left out for want of a label: 1 image beside the class folders",
    )


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing: no such folder or file; expected a folder with a folder for each"):
        read_data(tmp_path / "nothing")
    with pytest.raises(ImageError, match=r"holds no folders; expected one for each class .* such as .*/cat/1.jpg"):
        read_data(make(tmp_path / "flat", "1.png"))
    with pytest.raises(
        ImageError, match=r"parts of a data set \('train', 'val'\), not classes; name one of them, such as .*val"
    ):
        read_data(make(tmp_path / "splits", "train/cat/1.png", "val/cat/2.png"))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ImageError, match="no images in its 1 folder "):
        read_data(tmp_path / "empty")
    with pytest.raises(ImageError, match=r"is not a path|no such folder"):
        read_data("a" * 5000)


# ----------------------------------------------------------------------------------------------------------------- CSV
@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.png,cat\n2.png,dog\n",
        "id;Label;Image\n7;cat;a/1.png\n8;dog;2.png\n",
        "filename\tclass\na/1.png\tcat\n\n2.png\tdog\n",
        "\ufeffpath,label\r\na/1.png,cat\r\n2.png , dog\r\n",
        "a/1.png,cat\n2.png,dog\n",
        'path,label\n"a/1.png","cat"\n2.png,dog\n2.png,dog\n',
    ],
)
def test_tables(text: str, tmp_path: Path) -> None:
    file = table(tmp_path, text)
    assert pairs(file) == [("1.png", "cat"), ("2.png", "dog")]
    assert read_data(file).paths == [str(tmp_path / "a" / "1.png"), str(tmp_path / "2.png")]


def test_layout_of_a_table(tmp_path: Path) -> None:
    file = table(tmp_path, "path,image,kind\nx,1.png,cat\n")
    assert pairs(file, path_column="image", label_column="kind", root="/there") == [("1.png", "cat")]
    assert read_data(file, Layout(path_column="image", label_column="kind", root="/there")).paths == ["/there/1.png"]


def test_a_url_is_shown_as_it_is_written(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\nhttps://example.org/a//1.png,cat\n")
    assert read_data(file).paths == ["https://example.org/a//1.png"]


def test_repeated_rows_are_noted(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\n1.png,cat\n./1.png,cat\na/../1.png,cat\n")
    assert pairs(file) == [("1.png", "cat")]
    assert read_data(file).notes == ("left out: 2 rows that repeat an image",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.png,cat\n./1.png,dog\n", r"line 3: './1.png' is \['dog'\], and before it was \['cat'\]"),
        ("path,label\n1.png\n", "line 2 has 1 cell, expected 2: path, label"),
        ("path,label\n1.png,\n", "line 2: 'label' is empty; expected a value in every row"),
        ("path,label\n,cat\n", "line 2: 'path' is empty"),
        ("path,label\n", "holds no images"),
        ("", "is empty, expected a table with the columns path,label"),
        ("name,label\n1.png,cat\n", "columns 'name', 'label': no column image or path or file; say which with --path"),
        ("path,kind\n1.png,cat\n", "no column label or class or target; say which with --label-column"),
        ("path,file,label\n1.png,1.png,cat\n", "'path' and 'file' might be meant"),
    ],
)
def test_wrong_tables(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        read_data(table(tmp_path, text))


def test_a_table_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    with pytest.raises(
        ImageError, match=r"labels.csv: byte 11 is not UTF-8 text; expected a table with the columns path,label"
    ):
        read_data(tmp_path / "labels.csv")
    with pytest.raises(ImageError, match="no column 'kind'"):
        read_data(table(tmp_path, "path,label\n1.png,cat\n"), Layout(label_column="kind"))


# ---------------------------------------------------------------------------------------------------------------- folds
def test_folds_of_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "0/cat/1.png", "1/cat/2.png", "1/dog/3.png")
    first, second = read_folds(tmp_path)
    assert (first.name, first.labels) == (str(tmp_path / "0"), ["cat"])
    assert second.labels == ["cat", "dog"]


def test_folds_of_a_table(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label,fold\n1.png,cat,10\n2.png,dog,2\n3.png,cat,2\n")
    second, tenth = read_folds(file)
    assert (second.name, second.labels) == (f"{file} fold 2", ["dog", "cat"])
    assert (tenth.name, tenth.labels) == (f"{file} fold 10", ["cat"])
    long = "9" * 5000
    folds = read_folds(table(tmp_path, f"path,label,fold\n1.png,cat,{long}\n2.png,dog,10\n", "long.csv"))
    assert [fold.name.rpartition(" ")[2] for fold in folds] == ["10", long]
    with pytest.raises(ImageError, match="no column 'fold'"):
        read_folds(table(tmp_path, "path,label\n1.png,cat\n", "other.csv"))


# --------------------------------------------------------------------------------------------------------------- arrays
def test_arrays() -> None:
    images = np.stack([patch(1, 2, 3)] * 3)
    dataset = read_data((images, np.array([2, 0, 1], np.uint8)))
    assert dataset.labels == [2, 0, 1]
    assert dataset.paths == ["image 0", "image 1", "image 2"]
    assert read_data((images, np.array([2.0, 0.0, 1.0]))).labels == [2, 0, 1]  # as pandas has them beside a gap
    assert read_data((["a.png", b"x"], ["cat", "dog"])).paths == ["a.png", "image 1"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((["a.png"], [1, 2]), "1 image and 2 labels"),
        ((["a.png"],), "a tuple of 1, expected two"),
        (([], []), "no images"),
        ((["a.png"], [0.5]), "label 0 is 0.5, expected a class name or a whole number"),
        ((["a.png"], [True]), "label 0 is True"),
        ((["a.png"], [float("nan")]), "label 0 is nan"),
    ],
)
def test_wrong_arrays(data: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_data(data)
    with pytest.raises(ImageError, match="folds: a pair of arrays has no folds"):
        read_folds(data)
