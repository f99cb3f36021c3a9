"""The file of stored measurements, docs/benchmarks.json: a result under each name, as the tool that measured wrote it.

The tools store here with --record; `python -m tools.benchmarks` writes the pages' tables from it.
"""

import json
from pathlib import Path
from typing import Any

from bitvit.errors import BitvitError
from bitvit.files import read_text, write_file

WIDTH = 250  # characters of a line of the file: one row of a table, so that a diff shows what changed

Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """All results of a file. Raises BitvitError."""
    try:
        results = json.loads(read_text(path, BitvitError, "stored measurements"))
    except json.JSONDecodeError as error:
        raise BitvitError(
            f"{path}: is not JSON ({error}); expected stored measurements, as --record writes them"
        ) from None
    if not isinstance(results, dict):
        raise BitvitError(f"{path}: holds no object; expected stored measurements, as --record writes them")
    return results


def check_record(path: Path | None) -> None:
    """Raises BitvitError if `store` would fail, before anything is measured. None: nothing is to be stored."""
    if path is not None and path.exists():
        read_results(path)
    elif path is not None and not path.parent.is_dir():
        raise BitvitError(f"{path}: {path.parent} is not a folder; name a file in an existing one")


def store(path: Path, name: str, result: Any) -> None:
    """Put a result under a name in place of the one before; the file is made if there is none."""
    results = read_results(path) if path.exists() else {}
    write_text(path, f"{_lines(results | {name: result})}\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file at once, never half-written."""
    write_file(path, lambda file: file.write(text.encode()), BitvitError)


def _lines(value: Any, indent: str = "") -> str:
    """JSON in which whatever fits stands on one line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = f"{indent} "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{indent}]"
