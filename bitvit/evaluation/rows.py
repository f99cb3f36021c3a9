"""Labelled images in Parquet files: labels are read at once, images when their turn comes."""

from collections.abc import Sequence
from typing import Any

from bitvit.columns import LABEL_COLUMNS, column_of
from bitvit.errors import ImageError
from bitvit.evaluation.classes import Label
from bitvit.messages import plural
from bitvit.parquet import Images, TableFile, class_names, find_files, image_column

__all__ = ["read_rows"]


def read_rows(
    place: str, path_column: str | None, label_column: str | None, root: str | None
) -> tuple[Images, list[Label]]:
    """The images in the Parquet files at a place, and the label of each; columns and root as in Layout.

    Raises ImageError, also for a row without a label.
    """
    files = find_files(place)
    labels: list[Label] = []
    counts: list[int] = []
    column: str | None = None
    for file in files:
        with file.open() as table:
            schema = table.schema_arrow
            own = image_column(schema, path_column, file.name)
            label = _label_column(schema, label_column, file)
            values = table.read(columns=[label]).column(0).to_pylist()
        if column not in (None, own):
            raise ImageError(
                f"{file.name}: images are in {own!r}, in files before it in {column!r}; name one kind of files"
            )
        column = own
        labels += _labels(values, class_names(schema, label), label, file)
        counts.append(len(values))
    if column is None or not labels:
        raise ImageError(f"{place}: no rows in {plural(len(files), 'Parquet file')}")
    return Images(files, column, counts, root), labels


def _label_column(schema: Any, wanted: str | None, file: TableFile) -> str:
    names = list(schema.names)
    classes = [name for name in names if class_names(schema, name) is not None]
    usual = classes if len(classes) == 1 else LABEL_COLUMNS
    option = "--label-column (Layout(label_column=))"
    return str(names[column_of(file.name, names, wanted, [name.lower() for name in usual], option)])


def _labels(values: Sequence[Any], names: list[str] | None, column: str, file: TableFile) -> list[Label]:
    """Names of classes, or their numbers where the file has no names for them."""
    labels: list[Label] = []
    for row, value in enumerate(values):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_number and not isinstance(value, str):
            raise ImageError(f"{file.row(row)}: {column!r} is {value!r}, expected a class name or a whole number")
        if names is not None and is_number:
            if not 0 <= value < len(names):
                raise ImageError(
                    f"{file.row(row)}: {column!r} is {value}, expected a number from 0 to {len(names) - 1}; rows "
                    "without a label cannot be evaluated, bitvit classify takes them"
                )
            value = names[value]
        labels.append(value)
    return labels
