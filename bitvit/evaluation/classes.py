"""Whose class is it? The names that a data set gives its classes, matched with a model's.

Names are looked up in these ways, and the first that finds all names of the data set is taken:

1. a map that the user gives: names in the order of the classes, or name -> class;
2. the model's class names: the same text, else the same letters and digits whatever their case, so that a folder
   `T-shirt_top` is the class `T-shirt/top`;
3. class numbers, 0, 1, ...;
4. for a model without class names and as many names as classes: the sorted names, as torchvision's ImageFolder
   numbered them in training.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bitvit.errors import ConfigError
from bitvit.files import read_csv, read_json
from bitvit.labels import labels_from_json, read_labels
from bitvit.messages import listing, plural, shown
from bitvit.predictions import default_names

__all__ = ["ClassMap", "Label", "Matching", "find_classes", "match_classes", "read_class_map"]

Label: TypeAlias = str | int
ClassMap: TypeAlias = Sequence[str] | Mapping[str, Label]

GUESSED = 3  # unknown names that a message lists, each with the name that may be meant


@dataclass(frozen=True)
class Matching:
    """Which class each name of a data set is."""

    numbers: dict[Label, int]
    unknown: list[Label]  # names that are not classes
    names: tuple[str, ...]  # of all the model's classes
    how: str  # what the names were matched by, for people


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
    partial: a name that is not a class is not an error, but is listed in `unknown`.
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
            f"{where}: has {plural(len(given), 'class', 'classes')}, but the model has {count} and no names for them; "
            "say which is which with --classes FILE (classes=)"
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
                f"{where}: {shown(name)} is not a class of the model{_guess(str(name), names)}; expected a class name, "
                f"or a number from 0 to {len(names) - 1}"
            )
        found.append(number)
    return found


def _rest(given: Sequence[Label], numbers: Mapping[Label, int]) -> list[Label]:
    return [name for name in given if name not in numbers]


def _checked(matching: Matching, known: Sequence[str], where: str, partial: bool) -> Matching:
    """The matching, unless a name is unknown that should not be, or two names are one class by accident."""
    unknown = matching.unknown
    if unknown and not partial:
        found = listing(unknown, most=GUESSED, show=lambda name: f"{shown(str(name))}{_guess(str(name), known)}")
        total = plural(len(unknown) + len(matching.numbers), "class", "classes")
        raise ConfigError(
            f"{where}: the model does not know {len(unknown)} of its {total}: {found}; rename them, say what they are "
            "with --classes FILE (classes=), or evaluate on some classes only with --subset (subset=)"
        )
    if matching.how == "your class map":
        return matching
    first: dict[int, Label] = {}
    for name, number in matching.numbers.items():
        if number in first:
            raise ConfigError(
                f"{where}: {shown(str(first[number]))} and {shown(str(name))} would both be class {number}, "
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
                f"{where}: {shown(name)} may be class {hits[0]} or class {hits[1]}; use class numbers, or --classes "
                "FILE (classes=)"
            )
        return hits[0] if hits else None


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return places


def _bare(text: str) -> str:
    """Letters and digits, in lower case; composed, since file systems may store accents apart."""
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
            f"class map: {plural(len(classes), 'name')}, but the model has {count} classes; a list must name each of "
            "them, in the model's order; to map only some, use JSON or CSV with pairs of name and class"
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
    if not where.lower().endswith(".json"):
        return read_labels(path)
    value = read_json(path, ConfigError, _FORMS)
    if not isinstance(value, dict):
        return labels_from_json(value, where)
    for name, label in value.items():
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise ConfigError(f"{where}: {shown(name)} is {shown(label)}, expected a class name or number")
    return value


def _from_pairs(path: str | os.PathLike[str], where: str) -> dict[str, Label]:
    rows = [[cell.strip() for cell in row] for _, row in read_csv(path, ConfigError, _FORMS)]
    if rows and [cell.lower() for cell in rows[0]] == ["name", "class"]:
        del rows[0]
    pairs: dict[str, Label] = {}
    for row in rows:
        if len(row) != 2 or not all(row):
            raise ConfigError(f"{where}: {shown(','.join(row))} is not a pair of cells; expected {_FORMS}")
        if pairs.get(row[0], row[1]) != row[1]:
            both = f"{shown(pairs[row[0]])} and {shown(row[1])}"
            raise ConfigError(f"{where}: {shown(row[0])} is {both}; expected one class for each name")
        pairs[row[0]] = row[1]
    if not pairs:
        raise ConfigError(f"{where}: holds no classes, expected {_FORMS}")
    return pairs
