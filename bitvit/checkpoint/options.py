"""What a file says of its network beside the state dict, as plain values: dicts of them may lie in one another.

A training script's options are read whole, so that one that is not known can be named. Anything else is searched for
the fields of a network, at any depth, and for text that speaks of them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bitvit.checkpoint.claims import KNOWN, spoken_of
from bitvit.checkpoint.inert import (
    Global,
    Instance,
    Opaque,
    Tensor,
    Unnamed,
    UnreadTensor,
    described,
    key_text,
    kind_of,
)
from bitvit.tensorfile import FormatError, parse_json

__all__ = ["beside", "groups", "options"]

_SCRIPTS = ("args", "hyper_parameters", "hparams", "opt")
_KEYS = (*_SCRIPTS, "config", "cfg", "model_config", "model_args")
_CONFIGS = ("argparse Namespace", "types SimpleNamespace")  # classes of which an object is a dict of options
_MOST = 10_000  # values
_DEEPEST = 8  # dicts of options in one another
_DEEPEST_SEARCH = 40
_MOST_TEXT = 1_000_000  # characters that are searched

Fields = dict[Any, Any]


def options(top: Fields) -> tuple[dict[str, Any] | None, list[str]]:
    """The options in what was saved, and notes about those that cannot be read.

    Of several dicts of options the first one's are returned as they are and another's under its key. Fields of a
    network that lie beside these dicts, or anywhere inside something else, count as well.
    """
    notes: list[str] = []
    plain = _Plain()
    top = {name: plain.content(value) for name, value in top.items()}
    found = beside({name: value for name, value in top.items() if _fields(value) is None or name not in _KEYS}) or {}
    named = False
    for key in _KEYS:
        fields = _fields(top.get(key))
        if fields is None:
            if top.get(key) is not None and key in _SCRIPTS and key not in found:
                notes.append(f"{key!r} is {described(top[key])}, which tells nothing of the network and of the images")
        elif not fields and isinstance(value := plain(top[key], 0), Unnamed):
            found[key] = value
        elif not named:
            inner = next(filter(None, (_fields(fields.get(name)) for name in _SCRIPTS)), {})  # Lightning's own
            merged = {name: value for name, value in (inner | fields).items() if not inner or name not in _SCRIPTS}
            found, named = found | plain.entries(merged, 0), True
        else:
            found = {key: plain.entries(fields, 1)} | found
    return found if found or named else None, notes


def beside(fields: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The fields of a network in what lies beside the weights, at any depth; None if there are none."""
    return _Plain().of_network(dict(fields), 0) or None


def groups(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A dict of options and those inside it, the outermost first."""
    yield fields
    for value in fields.values():
        if isinstance(value, Mapping):
            yield from groups(value)


class _Plain:
    """Makes plain values, and not too many, of what a pickle says; what it is not asked for stays an Opaque."""

    def __init__(self) -> None:
        self._left, self._text_left = _MOST, _MOST_TEXT
        self._searched: dict[int, object] = {}  # by id: the same object may lie in many places

    def entries(self, fields: Fields, depth: int) -> dict[str, Any]:
        """By name; what lies under anything but text is no option, but may hold some."""
        named = {key_text(key): value for key, value in fields.items() if isinstance(key, str | bytes)}
        others = {key: value for key, value in fields.items() if not isinstance(key, str | bytes)}
        inner = self.of_network(others, 0)
        return {name: self(_single(name, _content(value)), depth) for name, value in named.items()} | inner

    def __call__(self, value: object, depth: int) -> object:
        value = self.content(value)
        self._left -= 1
        if isinstance(value, list) and len(value) <= 1000:
            value = [_content(item) for item in value]
        if _is_plain(value):
            return value
        if isinstance(value, Global):
            return value.name.replace(" ", ".")
        fields = _fields(value)
        is_options = isinstance(value, dict) or (isinstance(value, Instance) and value.name in _CONFIGS)
        if fields is None or not is_options or depth == _DEEPEST or len(fields) > self._left:
            return self.of_network(value, 0) or _opaque(value)  # the rest of an object is its own affair
        return self.entries(fields, depth + 1)

    def content(self, value: object) -> object:
        """What a node holds; what JSON text says."""
        value = _content(value)
        if isinstance(value, str):
            self._text_left -= len(value)
            if value.lstrip()[:1] == "{" and self._text_left > 0:
                with contextlib.suppress(FormatError):
                    return parse_json(value)
        return value

    def of_network(self, value: object, depth: int) -> dict[str, Any]:
        """The fields of a network in a dict, an object or a list, and in those inside it; {}: there are none."""
        found: dict[str, Any] = {}
        if id(value) in self._searched or depth == _DEEPEST_SEARCH:
            return found
        self._searched[id(value)] = value
        for key, item in _parts(value):
            name, inner = key_text(key), self.content(item)
            if isinstance(inner, Tensor | UnreadTensor) and not (name in KNOWN and _is_scalar(inner)):
                continue
            if name in KNOWN:
                found[name] = self(_single(name, inner), _DEEPEST - 1)
            elif _is_plain(inner):
                if self._text_left > 0 and spoken_of(inner):
                    found[name] = inner
            elif deeper := self.of_network(inner, depth + 1):
                found[name] = deeper
        return found


def _single(name: str, value: object) -> object:
    """For a field of a network what an enum's member, or another object made of one value, stands for."""
    if name in KNOWN and isinstance(value, Instance) and not value.fields and len(value.unnamed) == 1:
        return value.unnamed[0]
    return value


def _is_scalar(value: Tensor | UnreadTensor) -> bool:
    return isinstance(value, Tensor) and not value.size


def _parts(value: object) -> list[tuple[object, object]]:
    """What a dict, an object or a list holds, by name or by number."""
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    parts = list((_fields(value) or {}).items())
    return parts + list(enumerate(value.unnamed)) if isinstance(value, Instance) else parts


def _opaque(value: object) -> Opaque:
    """What is shown of a value that is not looked into. An enum's member has one value and a date's are bytes."""
    hidden = value.unnamed if isinstance(value, Instance) and not value.fields else []
    values = [item for part in hidden for item in (part if isinstance(part, list | tuple) else [part])]
    settings = [item for item in values if isinstance(item, str | int | float)]
    return (Unnamed if len(settings) > 1 else Opaque)(kind_of(value))


def _is_plain(value: object) -> bool:
    """Whether it is text, a number or None, or not too many of them."""
    scalar = str | bytes | int | float | None
    if isinstance(value, list | tuple):
        return len(value) <= 1000 and all(isinstance(item, scalar) for item in value)
    return isinstance(value, scalar)


def _fields(value: object) -> Fields | None:
    """The named values of a dict or of an object, OmegaConf's among them, whose values lie in nodes."""
    fields = _content(value)
    if isinstance(fields, Instance):
        fields = {_public(name): field for name, field in _attributes(fields).items() if not _is_special(fields, name)}
    return fields if isinstance(fields, dict) else None


def _attributes(owner: Instance) -> Fields:
    """Pydantic's objects store their attributes in a dict called __dict__."""
    inner = None if owner.name in _CONFIGS else owner.fields.get("__dict__")
    return owner.fields | inner if isinstance(inner, dict) else owner.fields


def _public(name: object) -> object:
    """A field of a network without the underscore under which an object's property keeps it."""
    return name[1:] if isinstance(name, str) and name[:1] == "_" and name[1:] in KNOWN else name


def _is_special(owner: Instance, name: object) -> bool:
    """Whether an attribute is the class's own; argparse's have the names that a script gave them."""
    return owner.name != "argparse Namespace" and isinstance(name, str) and name.startswith("__")


def _content(value: object) -> object:
    """What a node of OmegaConf holds: a dict or list of nodes, or a value; anything else as it is."""
    if isinstance(value, Instance):
        return value.fields.get("_content", value.fields.get("_val", value))
    return value
