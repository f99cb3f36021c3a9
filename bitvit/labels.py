"""Class names from a text file or JSON."""

import os
import re
import unicodedata

from bitvit.errors import ConfigError
from bitvit.files import read_json, read_text
from bitvit.messages import plural, shown

__all__ = ["labels_from_json", "read_labels"]

_FORMS = 'one name a line, or JSON (.json): a list of names or an object such as {"0": "cat", "1": "dog"}'


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """The names of classes 0, 1, ... in order.

    path: a UTF-8 text file with one name a line, or a file ending in .json that holds a list of names or an object
    from class number to name. Spaces around a name are dropped. Equal names are allowed (ImageNet has two 'crane').
    Raises ConfigError, with the line or class at fault.
    """
    where = os.fspath(path)
    if where.lower().endswith(".json"):
        return labels_from_json(read_json(path, ConfigError, _FORMS), where)
    text = read_text(path, ConfigError, _FORMS)
    lines = re.split(r"\r\n|\r|\n", text.rstrip()) if text.strip() else []  # splitlines also splits at U+2028
    return _filled([_name(line, f"{where}: line {number}") for number, line in enumerate(lines, 1)], where)


def labels_from_json(value: object, where: str) -> list[str]:
    """The names in what a JSON file holds, as read_labels gives them. where: the file, for messages."""
    if isinstance(value, dict):
        names = _in_order(value, where)
    elif isinstance(value, list):
        names = value
    else:
        raise ConfigError(f"{where}: holds a JSON {type(value).__name__}, expected {_FORMS}")
    return _filled([_name(name, f"{where}: class {number}") for number, name in enumerate(names)], where)


def _in_order(by_class: dict[str, object], where: str) -> list[object]:
    """The values for the keys "0", "1", ..., which must be all the keys there are."""
    expected = {str(number): None for number in range(len(by_class))}
    missing = [key for key in expected if key not in by_class]
    if missing:
        unknown = [key for key in by_class if key not in expected]
        raise ConfigError(
            f"{where}: {plural(len(by_class), 'entry', 'entries')}, but no class {missing[0]!r} (instead "
            f"{shown(unknown[0])}); expected the class numbers 0 to {len(by_class) - 1} as keys"
        )
    return [by_class[key] for key in expected]


def _name(found: object, where: str) -> str:
    """A name without surrounding spaces."""
    if not isinstance(found, str):
        raise ConfigError(f"{where}: is {shown(found)}, expected a name in quotes")
    name = found.strip()
    if not name:
        raise ConfigError(f"{where}: is empty, expected a name; classes are counted, so none may be left out")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise ConfigError(
            f"{where}: {shown(name)} holds control characters or halves of surrogate pairs, expected only a name"
        )
    return name


def _filled(names: list[str], where: str) -> list[str]:
    if not names:
        raise ConfigError(f"{where}: holds no labels, expected {_FORMS}")
    return names
