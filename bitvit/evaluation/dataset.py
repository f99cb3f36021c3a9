"""Labelled images to evaluate on: a folder for each class, a CSV table, Parquet files, or arrays."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitvit.columns import IMAGE_COLUMNS, LABEL_COLUMNS, column_of
from bitvit.errors import ImageError
from bitvit.evaluation.classes import Label
from bitvit.files import read_csv
from bitvit.folders import Found, find_images
from bitvit.images import EXTENSIONS, ImageSource
from bitvit.messages import listing, plural, shown
from bitvit.nopaths import no_path, path_text
from bitvit.parquet import is_parquet
from bitvit.sources import collected, is_one_image

__all__ = ["DataSource", "Dataset", "Layout", "read_data", "read_folds"]

DataSource: TypeAlias = str | os.PathLike[str] | tuple[Sequence[ImageSource] | NDArray[np.uint8], Iterable[Any]]
"""A folder with a folder for each class, a CSV file, Parquet files (bitvit.parquet has where those may be), or a pair:
images, and the class name or number of each."""

FOLD_COLUMN = "fold"
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a CSV or Parquet file calls its columns, and where its images are."""

    path_column: str | None = None
    """None: one of IMAGE_COLUMNS; in Parquet the one whose type is that of images."""
    label_column: str | None = None
    """None: one of LABEL_COLUMNS; in Parquet, before those, one of Hugging Face's type ClassLabel."""
    root: str | os.PathLike[str] | None = None
    """The folder that paths start from; None: the file's own."""


@dataclass(frozen=True)
class Dataset:
    """Images, their names, and what the data set calls their classes."""

    name: str
    images: Sequence[ImageSource] | NDArray[np.uint8]
    paths: list[str]
    labels: list[Label]
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # classes that have a folder but no image
    folders: bool = False  # whether the classes are named by folders
    in_order: bool = False  # whether images are to be taken as they stand: any other order is slow

    def __len__(self) -> int:
        return len(self.paths)


def read_data(data: DataSource, layout: Layout | None = None) -> Dataset:
    """The data set that `data` names. Raises ImageError for what cannot be read, or has no labelled image."""
    if isinstance(data, tuple):
        return _from_arrays(data)
    if is_parquet(place := path_text(data)):
        return _from_parquet(place, layout or Layout())
    path = _existing(data)
    return _from_folder(path) if path.is_dir() else _from_table(path, layout or Layout())[0]


def read_folds(data: DataSource, layout: Layout | None = None) -> list[Dataset]:
    """The folds of a data set: the folders in a folder, or the values of a CSV file's column `fold`; sorted."""
    if isinstance(data, tuple):
        raise ImageError("folds: a pair of arrays has no folds; give a list with such a pair for each model")
    if is_parquet(place := path_text(data)):
        raise ImageError(f"{place}: folds of Parquet files are not told apart; evaluate each model on its own files")
    path = _existing(data)
    if not path.is_dir():
        return _from_table(path, layout or Layout(), folds=True)
    return [_from_folder(folder) for folder in _folders_in(path)[0]]


def _existing(data: str | os.PathLike[str]) -> Path:
    path = Path(data)
    try:
        exists = path.exists()
    except (OSError, ValueError) as problem:  # a name that is too long; a NUL character
        raise ImageError(f"{shown(os.fspath(data))}: is not a path ({problem}); check it") from None
    if path.suffix == ".safetensors":
        raise ImageError(f"{path}: is a model; expected the data, which comes last, after the models")
    if path.suffix.lower() in EXTENSIONS and path.is_file():
        raise ImageError(f"{path}: is an image, which has no label; expected a folder with a folder for each class")
    if not exists:
        expected = "no such folder or file; expected a folder with a folder for each class, or a CSV"
        raise ImageError(f"{path_text(data)}: {no_path(os.fspath(data)) or expected}")
    return path


# ------------------------------------------------------------------------------------------------------------- arrays
def _from_arrays(data: tuple[Sequence[ImageSource] | NDArray[np.uint8], Iterable[Any]]) -> Dataset:
    if len(data) != 2:
        raise ImageError(f"data: a tuple of {len(data)}, expected two: images and labels")
    images, given = data
    if hasattr(images, "__array__"):
        images = np.asarray(images)  # a Series counts by its index, an array by position, as labels do
    elif is_one_image(images):
        raise ImageError(f"data: a single image of type {type(images).__name__}, expected a list or an array of images")
    elif not isinstance(images, list | tuple):
        images = list(collected(images))
    labels = given.tolist() if isinstance(given, np.ndarray) else list(given)
    if len(images) != len(labels):
        found = f"{plural(len(images), 'image')} and {plural(len(labels), 'label')}"
        raise ImageError(f"data: {found}, expected a label for each image")
    if not labels:
        raise ImageError("data: no images")
    clean = [_label(label, number) for number, label in enumerate(labels)]
    paths = [
        os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"
        for number, image in enumerate(images)
    ]
    return Dataset("arrays", images, paths, clean)


def _label(label: Any, number: int) -> Label:
    if isinstance(label, str):
        return label
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return int(label)
    if isinstance(label, float | np.floating) and label.is_integer():  # pandas' integers are, in a column with gaps
        return int(label)
    raise ImageError(f"data: label {number} is {shown(label)}, expected a class name or a whole number")


# ------------------------------------------------------------------------------------------------------------ folders
def _folders_in(path: Path) -> tuple[list[Path], int]:
    """The folders in a folder, sorted, without hidden ones, and how many of those there are."""
    try:
        found = sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError as problem:
        raise ImageError(f"{problem.filename}: cannot be read: {problem.strerror}; check the folder") from None
    shown = [entry for entry in found if not entry.name.startswith(".")]
    if not shown:
        raise ImageError(
            f"{path}: holds no folders; expected one for each class with its images in it, such as {path}/cat/1.jpg, "
            "or a CSV file with the columns path,label"
        )
    return shown, len(found) - len(shown)


def _from_folder(path: Path) -> Dataset:
    images: list[ImageSource] = []
    labels: list[Label] = []
    empty: list[str] = []
    folders, hidden = _folders_in(path)
    if all(folder.name.lower() in SPLITS for folder in folders):
        raise ImageError(
            f"{path}: its folders are parts of a data set ({listing([folder.name for folder in folders])}), not "
            f"classes; name one of them, such as {folders[-1]}"
        )
    total = Found(hidden_folders=hidden)
    for folder in folders:
        found = find_images(folder, recursive=True, required=False)
        images += map(str, found.images)
        labels += [folder.name] * len(found.images)
        total += found
        if not found.images:
            empty.append(folder.name)
    left_out = total.left_out()
    if not images:
        raise ImageError(
            f"{path}: no images in its {plural(len(folders), 'folder')} ({' '.join(EXTENSIONS)})"
            + (f"; left out: {left_out}" if left_out else "")
        )
    notes = [f"{name!r}: its folder holds no image" for name in empty]
    stray = len(find_images(path, recursive=False, required=False).images)
    if stray:
        notes.append(f"left out for want of a label: {plural(stray, 'image')} beside the class folders")
    if left_out:
        notes.append(f"left out: {left_out}")
    return Dataset(str(path), images, list(map(str, images)), labels, tuple(notes), tuple(empty), folders=True)


# ------------------------------------------------------------------------------------------------------------ Parquet
def _from_parquet(place: str, layout: Layout) -> Dataset:
    from bitvit.evaluation.rows import read_rows

    root = None if layout.root is None else path_text(layout.root)
    images, labels = read_rows(place, layout.path_column, layout.label_column, root)
    return Dataset(place, images, images.names, labels, in_order=True)


# --------------------------------------------------------------------------------------------------------- CSV tables
def _from_table(path: Path, layout: Layout, folds: bool = False) -> list[Dataset]:
    """The data set in a CSV file, or one for each of its folds."""
    header, rows = _rows(path)
    columns = [
        column_of(path, header, layout.path_column, IMAGE_COLUMNS, "--path-column (Layout(path_column=))"),
        column_of(path, header, layout.label_column, LABEL_COLUMNS, "--label-column (Layout(label_column=))"),
    ]
    if folds:
        columns.append(column_of(path, header, FOLD_COLUMN, (), f"a column named {FOLD_COLUMN}"))
    root = Path(layout.root) if layout.root is not None else path.parent
    seen: dict[str, tuple[str, ...]] = {}
    for line, row in rows:
        if len(row) != len(header):
            found = f"line {line} has {plural(len(row), 'cell')}, expected {len(header)}"
            raise ImageError(f"{path}: {found}: {', '.join(header)}")
        name, *values = (row[column].strip() for column in columns)
        if not name or not all(values):
            empty = header[columns[[name, *values].index("")]]
            raise ImageError(f"{path}: line {line}: {empty!r} is empty; expected a value in every row")
        image = name if "://" in name else os.path.normpath(root / name)  # a URL, which is refused as it is written
        if seen.setdefault(image, tuple(values)) != tuple(values):
            raise ImageError(
                f"{path}: line {line}: {name!r} is {values}, and before it was {list(seen[image])}; expected one label "
                "for each image"
            )
    repeated = len(rows) - len(seen)
    if not seen:
        raise ImageError(f"{path}: holds no images, expected a row for each")
    notes = (f"left out: {plural(repeated, 'row')} that repeat an image",) if repeated else ()
    if not folds:
        return [_of_table(str(path), {image: label for image, (label,) in seen.items()}, notes)]
    by_fold: dict[str, dict[str, Label]] = {}
    for image, (label, fold) in seen.items():
        by_fold.setdefault(fold, {})[image] = label
    ordered = sorted(by_fold, key=lambda fold: (not fold.isdecimal(), Decimal(fold) if fold.isdecimal() else 0, fold))
    return [_of_table(f"{path} fold {fold}", by_fold[fold], notes) for fold in ordered]


def _of_table(name: str, labels: dict[str, Label], notes: tuple[str, ...]) -> Dataset:
    return Dataset(name, list(labels), list(labels), list(labels.values()), notes)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each further row with its line number. Cells are separated by commas, semicolons or tabs."""
    expected = "a table with the columns path,label"
    rows = read_csv(path, ImageError, expected, delimiters=",;\t")
    if not rows:
        raise ImageError(f"{path}: is empty, expected {expected}")
    header = [cell.strip() for cell in rows[0][1]]
    if len(header) == 2 and header[0].lower().endswith(EXTENSIONS):  # an image, so the file has no header
        return ["path", "label"], rows
    return header, rows[1:]
