"""Which column of a table, CSV or Parquet, is meant: by its name, or because it has a usual one."""

from collections.abc import Sequence

from bitvit.errors import ImageError
from bitvit.messages import listing

__all__ = ["IMAGE_COLUMNS", "LABEL_COLUMNS", "column_of"]

IMAGE_COLUMNS = ("image", "path", "file", "img", "picture", "filename", "filepath", "file_name", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "class_name", "label_name", "y")


def column_of(path: object, header: list[str], wanted: str | None, usual: Sequence[str], option: str) -> int:
    """Which column of a table is meant: the one of that name, or else of one of the usual names.

    path, option: of the file, and what a user chooses a column with, for messages. Raises ImageError.
    """
    names = [wanted] if wanted is not None else [name for name in header if name.lower() in usual]
    if len(names) == 1 and header.count(names[0]) == 1:
        return header.index(names[0])
    problem = f"no column {wanted!r}" if wanted is not None else f"no column {' or '.join(usual[:3])}"
    if len(names) > 1 or (names and names[0] in header):
        problem = f"{' and '.join(map(repr, names))} might be meant" if len(names) > 1 else f"{names[0]!r} twice"
    raise ImageError(f"{path}: columns {listing(header)}: {problem}; say which with {option}")
