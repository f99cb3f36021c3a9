"""The values of a plain command line, without typer, which takes longer to start than an image to be classified.

Whatever is not plain, a mistake, a request for help or an abbreviation, is left to typer: it alone says what is wrong.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from bitvit.cli.declare import Argument, Declared, Option

__all__ = ["values_of"]

_SETTINGS = {"metavar", "help", "min"}  # that are understood here


class _NotPlainError(Exception):
    """A command line is typer's to read."""


def values_of(command: Callable[..., None], arguments: Sequence[str]) -> dict[str, Any] | None:
    """The keyword arguments with which typer would call a command; None where that is not certain.

    command: a function whose parameters are annotated with what declare.py has.
    """
    try:
        return _values(command, arguments)
    except _NotPlainError:
        return None


def _values(command: Callable[..., None], arguments: Sequence[str]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    declared: dict[str, Declared] = {}
    for name, hint in command.__annotations__.items():
        if name != "return":
            kinds[name], declared[name] = get_args(hint)
    options = {spelling: name for name, said in declared.items() if isinstance(said, Option) for spelling in said.names}
    found: dict[str, Any] = {}
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        spelling, equals, value = word.partition("=")
        name = options.get(spelling, "")
        if not name or (equals and not spelling.startswith("--")):
            raise _NotPlainError
        if kinds[name] is bool:
            if equals:
                raise _NotPlainError
            found[name] = True
        else:
            found[name] = _value(value if equals else next(rest, ""), kinds[name], declared[name])
    return {**_defaults(command), **found, **_positional(words, kinds, declared)}


def _defaults(command: Any) -> dict[str, Any]:
    names = command.__code__.co_varnames[: command.__code__.co_argcount]
    defaults = command.__defaults__ or ()
    return dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))


def _positional(words: list[str], kinds: dict[str, Any], declared: dict[str, Declared]) -> dict[str, Any]:
    """The arguments, in their order, each needed; one that is a list takes what the others leave."""
    names = [name for name, said in declared.items() if isinstance(said, Argument)]
    if len(words) < len(names):
        raise _NotPlainError
    found: dict[str, Any] = {}
    left = list(words)
    for place, name in enumerate(names):
        if get_origin(kinds[name]) is list:
            (kind,), count = get_args(kinds[name]), len(left) - len(names[place + 1 :])
            found[name], left = [_value(word, kind, declared[name]) for word in left[:count]], left[count:]
        else:
            found[name] = _value(left.pop(0), kinds[name], declared[name])
    if left:
        raise _NotPlainError
    return found


def _value(text: str, kind: Any, said: Declared) -> Any:
    """The value of a type that is written out."""
    if isinstance(kind, UnionType):  # with None
        kind = get_args(kind)[0]
    if not text or (text.startswith("-") and text != "-") or not said.settings.keys() <= _SETTINGS:
        raise _NotPlainError
    if kind in (str, Path):
        return kind(text)
    if kind is int and text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= said.settings["min"]:
        return int(text)
    if isinstance(kind, type) and issubclass(kind, Enum) and text in {member.value for member in kind}:
        return kind(text)
    raise _NotPlainError
