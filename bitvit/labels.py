"""Class names from a text file or JSON."""

import json
import os
import unicodedata
from pathlib import Path

from bitvit.errors import ConfigError

__all__ = ["read_labels"]

_FORMS = 'one name a line, or JSON (.json): a list of names or an object such as {"0": "cat", "1": "dog"}'


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """The names of classes 0, 1, ... in order.

    path: a UTF-8 text file with one name a line, or a file ending in .json that holds a list of names or an object
    from class number to name. Spaces around a name are dropped. Equal names are allowed (ImageNet has two 'crane').
    Raises ConfigError, with the line or class at fault.
    """
    where = os.fspath(path)
    text = _read(Path(path), where)
    names = _from_json(text, where) if where.lower().endswith(".json") else _from_lines(text, where)
    if not names:
        raise ConfigError(f"{where}: holds no labels, expected {_FORMS}")
    return names


def _read(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise ConfigError(f"{where}: cannot be read: {problem.strerror or problem}; check the path") from None
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{where}: byte {problem.start} is not UTF-8 text; expected {_FORMS}") from None
    except ValueError as problem:  # a NUL character
        raise ConfigError(f"{where!r}: is no path ({problem}); check the path") from None


def _from_lines(text: str, where: str) -> list[str]:
    names = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    for number, name in enumerate(names, 1):
        _check(name, f"{where}: line {number}")
    return names


def _from_json(text: str, where: str) -> list[str]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as problem:  # ValueError: also a number of thousands of digits
        raise ConfigError(f"{where}: is not JSON ({problem}); expected {_FORMS}") from None
    if isinstance(read, dict):
        names = _in_order(read, where)
    elif isinstance(read, list):
        names = read
    else:
        raise ConfigError(f"{where}: holds a JSON {type(read).__name__}, expected {_FORMS}")
    return [_check(name, f"{where}: class {number}") for number, name in enumerate(names)]


def _in_order(by_class: dict[str, object], where: str) -> list[object]:
    """The values for the keys "0", "1", ..., which must be all the keys there are."""
    expected = {str(number): None for number in range(len(by_class))}
    missing = [key for key in expected if key not in by_class]
    if missing:
        unknown = [key for key in by_class if key not in expected]
        raise ConfigError(
            f"{where}: {len(by_class)} entries, but no class {missing[0]!r} (instead {unknown[0]!r}); expected the "
            f"class numbers 0 to {len(by_class) - 1} as keys"
        )
    return [by_class[key] for key in expected]


def _check(name: object, where: str) -> str:
    """A name without surrounding spaces."""
    if not isinstance(name, str):
        raise ConfigError(f"{where}: is {name!r:.80}, expected a name in quotes")
    name = name.strip()
    if not name:
        raise ConfigError(f"{where}: is empty, expected a name; classes are counted, so none may be left out")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise ConfigError(f"{where}: {name!r:.80} holds control characters or halves of letters, expected a name alone")
    return name
