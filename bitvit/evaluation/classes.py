"""Whose class is it? The names that a data set gives its classes, matched with a model's.

Names are looked up in these ways, and the first that finds all names of the data set is taken:

1. a map that the user gives: names in the order of the classes, or name -> class;
2. the model's class names: the same text, else the same words (bitvit.evaluation.words), so that a folder `T-shirt_top`
   is the class `T-shirt/top`;
3. class numbers, 0, 1, ...;
4. for a model without class names and as many names as classes: the sorted names, as torchvision's ImageFolder
   numbered them in training.

Where two of these may be meant and do not agree, none is taken: the user has to say. Above all, ImageFolder sorts names
as text, so it gave the folder `10` the number 2; a training that numbers its classes otherwise gave it 10. And folders
1, 2, ... without a 0 may be class numbers, or have been numbered from 1.
"""

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn, TypeAlias

from bitvit.errors import ConfigError
from bitvit.evaluation.words import number_in, words_of
from bitvit.files import read_csv, read_json
from bitvit.labels import labels_from_json, read_labels
from bitvit.messages import LONGEST, listing, plural, shown
from bitvit.predictions import default_names

__all__ = ["ClassMap", "Label", "Matching", "find_classes", "match_classes", "read_class_map"]

Label: TypeAlias = str | int
ClassMap: TypeAlias = Sequence[str] | Mapping[str, Label]

GUESSED = 3  # unknown names that a message lists, each with the name that may be meant
_NUMBERS = re.compile(r"(\d+)")  # in any script's digits
FIRST = 5  # names by whose example a message shows an order


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
    folders: bool = False,
) -> Matching:
    """Match the class names of a data set with the classes of a model.

    found: the names; integers are class numbers. labels: the model's class names, if it has any; count: how many
    classes it has. classes: the user's map, see above. where: the data set, for messages.
    partial: a name that is not a class is not an error, but is listed in `unknown`.
    folders: the names are those of folders, which ImageFolder may have numbered in training; else a number in them was
    written by somebody who meant a class number.
    Raises ConfigError.
    """
    given = sorted(set(found), key=lambda name: (isinstance(name, str), name))
    names = default_names(labels, count)
    if classes is not None:
        mapped = _map_numbers(classes, labels, count)
        if labels is None and not isinstance(classes, Mapping):
            names = tuple(classes)
        composed = {unicodedata.normalize("NFC", name): number for name, number in mapped.items()}
        numbers = {
            name: n for name in given if (n := composed.get(unicodedata.normalize("NFC", str(name)))) is not None
        }
        return _checked(Matching(numbers, _rest(given, numbers), names, "your class map"), list(mapped), where, partial)
    known = _Names(labels or ())
    by_name = {name: number for name in given if (number := known.find(name, where)) is not None}
    by_number = {name: number for name in given if (number := _by_number(name, count)) is not None}
    all_named, all_numbered = len(by_name) == len(given), len(by_number) == len(given)
    if all_numbered and not (all_named and folders):
        _check_agreement(by_name, by_number, names, where)
    if labels and (all_named or not by_number or (by_name and not all_numbered)):
        way = "the model's class names" + _not_to_the_letter(by_name, names)
        return _checked(Matching(by_name, _rest(given, by_name), names, way), names, where, partial, folders)
    is_named = not any(_value(name) is not None for name in given)
    if not labels and (is_named or (folders and not all_numbered and len(given) == count)):
        return _in_sorted_order(given, count, where)
    matching = Matching(by_number, _rest(given, by_number), names, _by_example(by_number))
    matching = _checked(matching, names, where, partial, folders)
    if folders:
        _check_folders(by_number, count, where)
    return matching


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


def _checked(matching: Matching, known: Sequence[str], where: str, partial: bool, folders: bool = True) -> Matching:
    """The matching, unless a name is unknown that should not be, or two names are one class by accident.

    One number written in two ways, 1 and 1.0, is no accident in a table.
    """
    unknown = matching.unknown
    if unknown and not partial:
        found = listing(unknown, most=GUESSED, show=lambda name: f"{shown(str(name))}{_guess(str(name), known)}")
        total = plural(len(unknown) + len(matching.numbers), "class", "classes")
        raise ConfigError(
            f"{where}: the model does not know {len(unknown)} of its {total}: {found}; rename them, say what they are "
            f"with --classes FILE (classes=), or {_leave_out(unknown)}"
        )
    if matching.how == "your class map":
        return matching
    first: dict[int, Label] = {}
    for name, number in matching.numbers.items():
        other = first.setdefault(number, name)
        if other == name or (not folders and _value(name) is not None and _value(name) == _value(other)):
            continue
        raise ConfigError(
            f"{where}: {shown(str(other))} and {shown(str(name))} would both be class {number}, "
            f"{matching.names[number]!r}; rename one, or say so with --classes FILE (classes=)"
        )
    return matching


def _leave_out(unknown: Sequence[Label]) -> str:
    """How images of these classes are left out."""
    if any((value := _value(name)) is not None and value < 0 for name in unknown):
        return "if a negative number stands for no label, leave such images out with --subset present (subset=)"
    return "evaluate on some classes only with --subset (subset=)"


def _by_example(numbers: Mapping[Label, int]) -> str:
    """'class numbers', with an example where what is written is not the number alone."""
    other = next((name for name, number in numbers.items() if str(name) != str(number)), None)
    return "class numbers" + ("" if other is None else f": {shown(str(other))} is class {numbers[other]}")


def _not_to_the_letter(numbers: Mapping[Label, int], names: Sequence[str]) -> str:
    """Which names were not found by the same text."""
    others = [name for name, number in numbers.items() if name != names[number]]
    if not others:
        return ""
    return f"; not to the letter: {listing(others, most=GUESSED, show=lambda n: f'{n!r} is {names[numbers[n]]!r}')}"


class _Names:
    """Finds a class by its name: the same text, else the same words."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact, self._words = _places(names), _places(map(words_of, names))

    def find(self, name: Label, where: str) -> int | None:
        """None if there is no such class. Raises ConfigError if there are several."""
        if isinstance(name, int):
            return None
        hits = self._exact.get(name) or self._words.get(words_of(name), [])
        if len(hits) > 1:
            raise ConfigError(
                f"{where}: {shown(name)} may be class {hits[0]} or class {hits[1]}; use class numbers, or --classes "
                "FILE (classes=)"
            )
        return hits[0] if hits else None


def _places(names: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return places


def _guess(name: str, known: Sequence[str]) -> str:
    """The name that may be meant; names are compared as far as messages show them, for difflib takes their square."""
    begins = {other[:LONGEST]: other for other in reversed(known)}
    near = difflib.get_close_matches(name[:LONGEST], begins, 1)
    return f" (perhaps {shown(begins[near[0]])})" if near else ""


# ----------------------------------------------------------------------------------------------------- class numbers
def _value(name: Label) -> Decimal | None:
    return Decimal(name) if isinstance(name, int) else number_in(name)


def _by_number(name: Label, count: int) -> int | None:
    value = _value(name)
    if value is None or not 0 <= value < count:
        return None
    return int(value) if value == int(value) else None


def _check_agreement(
    by_name: Mapping[Label, int], by_number: Mapping[Label, int], names: Sequence[str], where: str
) -> None:
    """Raises ConfigError if a number in the data is the name of one class and the number of another."""
    for name, number in by_name.items():
        if by_number[name] != number:
            raise ConfigError(
                f"{where}: {shown(str(name))} may be the class of that name, which is class {number}, or class "
                f"{by_number[name]}, which is {names[by_number[name]]!r}; "
                + _say_order(f"{_start(names, number)} for names, or {_start(range(len(names)), number)} for numbers")
            )


def _check_folders(by_number: Mapping[Label, int], count: int, where: str) -> None:
    """Raises ConfigError if ImageFolder would have numbered these folders otherwise.

    Folders that are missing here are taken to have been there in training, written alike.
    """
    written = {str(name) for name in by_number}
    width = max(map(len, written), default=1)
    padded = any(name.startswith("0") and len(name) > 1 for name in written) and {len(n) for n in written} == {width}
    every = [str(number).zfill(width if padded else 1) for number in range(count)]
    for name, number in by_number.items():
        every[number] = str(name)
    _check_orders(sorted(every), every, written, where)
    if by_number and 0 not in by_number.values():
        name, number = min(by_number.items(), key=lambda item: item[1])
        _refuse_to_count(name, number, every, width if padded else 1, where)


def _refuse_to_count(name: Label, number: int, from_0: list[str], width: int, where: str) -> NoReturn:
    """Raises ConfigError: folders that are numbers, of which none is 0, may be numbered from 0 or from 1."""
    from_1 = [*from_0[1:], str(len(from_0)).zfill(width)]
    orders = {f"{_start(from_0, 0)} from 0": None, f"{_start(from_1, 0)} from 1": None}
    if sorted(from_1) != from_1:
        orders[f"{_start(sorted(from_1), 0)} from 1 as ImageFolder sorts them"] = None
    raise ConfigError(
        f"{where}: there is no folder 0, so {shown(str(name))} is class {number} if folders were numbered from 0 in "
        f"training, but class {number - 1} if from 1, and the model does not tell; " + _say_order(", or ".join(orders))
    )


def _in_sorted_order(given: Sequence[Label], count: int, where: str) -> Matching:
    """The matching for a model that has no names of its own. Raises ConfigError if the order may be another."""
    if len(given) != count:
        raise ConfigError(
            f"{where}: has {plural(len(given), 'class', 'classes')}, but the model has {count} and no names for them; "
            "say which is which with --classes FILE (classes=)"
        )
    names = [str(name) for name in given]
    _check_orders(names, _by_numbers(names), set(names), where)
    way = "their sorted order, as ImageFolder numbers classes: the model has no class names"
    return Matching({name: number for number, name in enumerate(given)}, [], tuple(names), way)


def _by_numbers(names: Sequence[str]) -> list[str]:
    """The names, which are sorted as text, with those among them sorted by value that are numbered.

    Such are names that begin with a number, and names that are alike up to one, if all are, or if their numbers count
    from 0 or 1 (else they may number nothing, as in `A320`, `DC-10`, `DC-3`). Or all, if their numbers count so.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        before, *rest = _NUMBERS.split(name)
        if rest:
            alike.setdefault("" if number_in(name) is not None else before, []).append(name)
    ordered, place = list(names), {name: number for number, name in enumerate(names)}
    for before, group in alike.items():
        if before == "" or len(group) == len(names) or _count_up(group):
            for number, name in zip(sorted(place[name] for name in group), sorted(group, key=_by_value), strict=True):
                ordered[number] = name
    numbered = [name for group in alike.values() for name in group]
    if len(numbered) == len(names) and len(alike) > 1 and _count_up(names):
        return sorted(names, key=_by_value)
    return ordered


def _count_up(names: Sequence[str]) -> bool:
    """Whether the first numbers in them count from 0 or 1."""
    numbers = sorted(Decimal(_NUMBERS.split(name)[1]) for name in names)
    return numbers in (list(range(len(names))), list(range(1, len(names) + 1)))


def _by_value(name: str) -> tuple[Decimal | str, ...]:
    """Sorts names by the first number in them, then by what follows it."""
    value = number_in(name)
    if value is not None:
        return (value,)
    rest = _NUMBERS.split(name)[1:]
    return tuple(part if place % 2 else Decimal(part) for place, part in enumerate(rest))


def _check_orders(as_text: Sequence[str], by_value: Sequence[str], given: set[str], where: str) -> None:
    """Raises ConfigError if a given name has another place in one order of all classes than in the other."""
    places = {name: number for number, name in enumerate(by_value)}
    number, name = next(((i, n) for i, n in enumerate(as_text) if n in given and places[n] != i), (0, None))
    if name is not None:
        last = max(number, places[name])
        raise ConfigError(
            f"{where}: {shown(name)} is class {number} if the model was trained with torchvision's ImageFolder, which "
            f"sorts names as text, but class {places[name]} if classes were numbered by value, and the model does not "
            "tell; " + _say_order(f"{_start(as_text, last)} for ImageFolder, or {_start(by_value, last)} by value")
        )


def _say_order(orders: str) -> str:
    return f"say it with --classes FILE (classes=), all names in the order of the classes, one a line: {orders}"


def _start(names: Sequence[object], last: int) -> str:
    """The first names, up to that with the number `last` if that is soon."""
    first = [str(name) for name in names[: max(FIRST, min(last + 1, 2 * FIRST))]]
    return ", ".join(first) + (", …" if len(first) < len(names) else "")


# --------------------------------------------------------------------------------------------------- the user's map
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
        twice = next(name for name, times in Counter(classes).items() if times > 1)
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
