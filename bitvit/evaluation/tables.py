"""What an evaluation writes: tables (CSV), JSON, and the answer to each image (CSV, JSON lines, Parquet)."""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from bitvit.errors import BitvitError
from bitvit.evaluation.metrics import parts
from bitvit.evaluation.spill import release
from bitvit.extras import require
from bitvit.files import is_folder, write_file
from bitvit.predictions import softmax

__all__ = ["Answer", "answers", "check_answers", "write_answers", "write_csv", "write_json"]

GROUP_ROWS = 16384  # of a Parquet file


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8. Raises BitvitError if that is not possible."""
    write_file(path, lambda file: _to_csv(file, header, rows))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as UTF-8. Raises BitvitError if that is not possible."""
    text = json.dumps(value, indent=2) + "\n"
    write_file(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _to_csv(file: BinaryIO, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    text.flush()
    text.detach()


# ------------------------------------------------------------------------------------------------ an answer a row
class Answer(NamedTuple):
    """What one model answered to one image. The fields are the columns of the file."""

    model: str
    path: str
    label: str
    """Name of the true class."""
    label_index: int
    predicted: str
    """Name of the class that was answered."""
    predicted_index: int
    score: float
    """Softmax probability of the answer."""
    correct: bool
    label_score: float
    """Softmax probability of the true class."""
    label_rank: int
    """Place of the true class among the answers, from 1."""


def answers(
    model: str,
    paths: Sequence[str],
    targets: NDArray[np.int64],
    logits: NDArray[np.float32],
    classes: Sequence[tuple[str, int]],
) -> Iterator[Answer]:
    """The answers to images, in order.

    paths: [images]; targets: [images] true classes, as columns of logits; logits: [images, columns]; classes: [columns]
    name and number of each.
    """
    for part in parts(logits.shape):
        release(logits)
        rows, wanted = logits[part], targets[part, None]
        scores, best, own = softmax(rows), rows.argmax(axis=1), np.take_along_axis(rows, wanted, axis=1)
        before = (rows > own) | ((rows == own) & (np.arange(rows.shape[1]) < wanted))  # equal ones by their number
        ranks = before.sum(axis=1) + 1
        for row, (path, target) in enumerate(zip(paths[part], targets[part].tolist(), strict=True)):
            answer = int(best[row])
            yield Answer(
                model=model,
                path=path,
                label=classes[target][0],
                label_index=classes[target][1],
                predicted=classes[answer][0],
                predicted_index=classes[answer][1],
                score=float(scores[row, answer]),
                correct=answer == target,
                label_score=float(scores[row, target]),
                label_rank=int(ranks[row]),
            )


def check_answers(path: str | os.PathLike[str]) -> None:
    """Raises BitvitError if answers could not be written there."""
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise BitvitError(f"{path}: predictions are written as {', '.join(_WRITERS)}; end the name with one of them")
    if path.suffix.lower() == ".parquet":
        require("pyarrow.parquet", f"writing {path}")
    if is_folder(path) or not is_folder(path.resolve().parent):
        raise BitvitError(f"{path}: cannot be written; name a file in an existing folder")


def write_answers(path: str | os.PathLike[str], rows: Iterable[Answer]) -> None:
    """Write answers as .csv, .jsonl or .parquet, as the name ends. Raises BitvitError as check_answers does."""
    check_answers(path)
    write = _WRITERS[Path(path).suffix.lower()]
    write_file(path, lambda file: write(file, rows))


def _answers_to_csv(file: BinaryIO, rows: Iterable[Answer]) -> None:
    _to_csv(file, Answer._fields, ([_lower(cell) for cell in row] for row in rows))


def _lower(cell: Any) -> Any:
    return str(cell).lower() if isinstance(cell, bool) else cell


def _answers_to_jsonl(file: BinaryIO, rows: Iterable[Answer]) -> None:
    for row in rows:
        file.write(json.dumps(row._asdict()).encode() + b"\n")


def _answers_to_parquet(file: BinaryIO, rows: Iterable[Answer]) -> None:
    """Some rows at a time: as Python's objects, all would take more memory than their logits."""
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, types[kind]) for name, kind in get_type_hints(Answer).items()])
    remaining = iter(rows)
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(remaining, GROUP_ROWS)):
            columns = [[_utf8(cell) for cell in column] for column in zip(*group, strict=True)]
            writer.write_table(arrow.table(columns, schema=schema))


def _utf8(cell: Any) -> Any:
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


_WRITERS: dict[str, Callable[[BinaryIO, Iterable[Answer]], None]] = {
    ".csv": _answers_to_csv,
    ".jsonl": _answers_to_jsonl,
    ".parquet": _answers_to_parquet,
}
