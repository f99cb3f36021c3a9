"""Whose class is it? The names that a data set gives its classes, matched with a model's.

A name is looked up in this order, and the first way in which all names of the data set are found is the one taken:

1. a map that the user gives: names in the order of the classes, or name -> class;
2. the model's class names: the same text, else the same letters and digits whatever their case, so that a folder
   `T-shirt_top` is the class `T-shirt/top`;
3. class numbers, 0, 1, ...;
4. for a model without class names and as many names as classes: the sorted names, as torchvision's ImageFolder
   numbered them in training.
"""

import csv
import difflib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bitvit.errors import ConfigError
from bitvit.labels import read_labels

__all__ = ["ClassMap", "Label", "Matching", "default_names", "find_classes", "match_classes", "read_class_map"]

Label: TypeAlias = str | int
ClassMap: TypeAlias = Sequence[str] | Mapping[str, Label]

_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Matching:
    """Which class each name of a data set is."""

    numbers: dict[Label, int]
    unknown: list[Label]  # names of no class
    names: tuple[str, ...]  # of all the model's classes
    how: str  # the way, for people


def default_names(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The model's class names, or LABEL_0, LABEL_1, ..."""
    return tuple(labels) if labels is not None else tuple(f"LABEL_{number}" for number in range(count))


def match_classes(
    found: Iterable[Label],
    *,
    labels: Sequence[str] | None,
    count: int,
    classes: ClassMap | None = None,
    where: str,
    partial: bool = False,
) -> Matching:
    """Match the class names of a data set with the classes of a model.

    found: the names; integers are class numbers. labels: the model's class names, if it has any; count: how many
    classes it has. classes: the user's map, see above. where: the data set, for messages.
    partial: a name of no class is no error, but noted in `unknown`.
    Raises ConfigError.
    """
    given = sorted(set(found), key=lambda name: (isinstance(name, str), name))
    names = default_names(labels, count)
    if classes is not None:
        mapped = _map_numbers(classes, labels, count)
        if labels is None and not isinstance(classes, Mapping):
            names = tuple(classes)
        numbers = {name: mapped[str(name)] for name in given if str(name) in mapped}
        return _checked(Matching(numbers, _rest(given, numbers), names, "your class map"), list(mapped), where, partial)
    known = _Names(labels or ())
    numbers = {name: number for name in given if (number := known.find(name, where)) is not None}
    by_number = {name: number for name in given if (number := _by_number(name, count)) is not None}
    way = "the model's class names"
    if len(by_number) == len(given) > len(numbers):
        return Matching(by_number, [], names, "class numbers")
    if labels is None and not by_number:
        way = "their sorted order, as ImageFolder numbers classes: the model has no class names"
        if len(given) == count:
            return Matching({name: i for i, name in enumerate(given)}, [], tuple(map(str, given)), way)
        raise ConfigError(
            f"{where}: has {len(given)} classes, but the model has {count} and no names for them; say which is which "
            "with --classes FILE (classes=)"
        )
    if not numbers and by_number:
        numbers, way = by_number, "class numbers"
    return _checked(Matching(numbers, _rest(given, numbers), names, way), names, where, partial)


def find_classes(wanted: Sequence[Label], names: Sequence[str], where: str) -> list[int]:
    """The classes with these names or numbers. Raises ConfigError where there is none, or more than one."""
    known, found = _Names(names), []
    for name in wanted:
        number = known.find(name, where)
        number = _by_number(name, len(names)) if number is None else number
        if number is None:
            raise ConfigError(
                f"{where}: {name!r} is no class of the model{_guess(str(name), names)}; expected a class name, or a "
                f"number from 0 to {len(names) - 1}"
            )
        found.append(number)
    return found


def _rest(given: Sequence[Label], numbers: Mapping[Label, int]) -> list[Label]:
    return [name for name in given if name not in numbers]


def _checked(matching: Matching, known: Sequence[str], where: str, partial: bool) -> Matching:
    """The matching, unless a name is unknown that should not be, or two names are one class by accident."""
    unknown = matching.unknown
    if unknown and not partial:
        shown = ", ".join(f"{str(name)!r}{_guess(str(name), known)}" for name in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        total = len(unknown) + len(matching.numbers)
        raise ConfigError(
            f"{where}: {len(unknown)} of its {total} classes are unknown to the model: {shown}{more}; rename them, say "
            "what they are with --classes FILE (classes=), or evaluate on some classes only with --subset (subset=)"
        )
    if matching.how == "your class map":
        return matching
    first: dict[int, Label] = {}
    for name, number in matching.numbers.items():
        if number in first:
            raise ConfigError(
                f"{where}: {str(first[number])!r} and {str(name)!r} would both be class {number}, "
                f"{matching.names[number]!r}; rename one, or say so with --classes FILE (classes=)"
            )
        first[number] = name
    return matching


class _Names:
    """Finds a class by its name: the same text, else the same letters and digits."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact, self._bare = _places(names), _places([_bare(name) for name in names])

    def find(self, name: Label, where: str) -> int | None:
        """None if there is no such class. Raises ConfigError if there are several."""
        if isinstance(name, int):
            return None
        hits = self._exact.get(name) or self._bare.get(_bare(name) or name, [])
        if len(hits) > 1:
            raise ConfigError(
                f"{where}: {name!r} may be class {hits[0]} or class {hits[1]}; use class numbers, or --classes FILE "
                "(classes=)"
            )
        return hits[0] if hits else None


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return places


def _bare(text: str) -> str:
    """Letters and digits, in lower case; however accents are encoded, which file systems change."""
    return "".join(letter for letter in unicodedata.normalize("NFC", text).casefold() if letter.isalnum())


def _by_number(name: Label, count: int) -> int | None:
    if isinstance(name, str) and not (name.isascii() and name.isdecimal()):
        return None
    return int(name) if 0 <= int(name) < count else None


def _guess(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (perhaps {near[0]!r})" if near else ""


def _map_numbers(classes: ClassMap, labels: Sequence[str] | None, count: int) -> dict[str, int]:
    """The user's map with class numbers for values."""
    if isinstance(classes, Mapping):
        names = default_names(labels, count)
        numbers = find_classes(list(classes.values()), names, "class map")
        return {str(name): number for name, number in zip(classes, numbers, strict=True)}
    if len(classes) != count:
        raise ConfigError(
            f"class map: {len(classes)} names, but the model has {count} classes; a list must name each of them, in "
            "the model's order; to map some, use JSON or CSV with pairs of name and class"
        )
    if len(set(classes)) < count:
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise ConfigError(f"class map: {twice!r} is listed twice; expected a different name for each class")
    return {name: number for number, name in enumerate(classes)}


# ---------------------------------------------------------------------------------------------------- class map files
_FORMS = (
    'one name a line in the order of the classes (.txt), JSON (.json): such a list, or an object {"name": class}, or '
    "lines name,class (.csv)"
)


def read_class_map(path: str | os.PathLike[str]) -> list[str] | dict[str, Label]:
    """A class map from a file: names in the order of the classes, or name -> class name or number.

    path: text, one name a line; .json with a list or an object; .csv with two columns, name and class.
    Raises ConfigError, with the line or entry at fault.
    """
    where = os.fspath(path)
    if where.lower().endswith(".csv"):
        return _from_pairs(path, where)
    if where.lower().endswith(".json"):
        read = _read_json(path, where)
        if isinstance(read, dict):
            for name, label in read.items():
                if isinstance(label, bool) or not isinstance(label, str | int):
                    raise ConfigError(f"{where}: {name!r} is {label!r:.80}, expected a class name or number")
            return read
    return read_labels(path)


def _read_json(path: str | os.PathLike[str], where: str) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise ConfigError(f"{where}: cannot be read: {problem.strerror or problem}; check the path") from None
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{where}: is not JSON ({problem}); expected {_FORMS}") from None


def _from_pairs(path: str | os.PathLike[str], where: str) -> dict[str, Label]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except OSError as problem:
        raise ConfigError(f"{where}: cannot be read: {problem.strerror or problem}; check the path") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ConfigError(f"{where}: is not CSV ({problem}); expected {_FORMS}") from None
    if rows and [cell.lower() for cell in rows[0]] == ["name", "class"]:
        del rows[0]
    pairs: dict[str, Label] = {}
    for row in rows:
        if len(row) != 2 or not all(row):
            raise ConfigError(f"{where}: {','.join(row)!r:.80} has not two cells; expected {_FORMS}")
        if pairs.get(row[0], row[1]) != row[1]:
            raise ConfigError(f"{where}: {row[0]!r} is {pairs[row[0]]!r} and {row[1]!r}; expected one class a name")
        pairs[row[0]] = row[1]
    if not pairs:
        raise ConfigError(f"{where}: holds no classes, expected {_FORMS}")
    return pairs
