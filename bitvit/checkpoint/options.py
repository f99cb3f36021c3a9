"""What a file says of its network beside the state dict, as plain values: dicts of them may lie in one another.

A training script's options are read whole, so that one that is not known can be named, and so is what holds a network's
inside something else (scopes.py). Anything else is searched for the fields of a network, at any depth, and for text
that speaks of them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bitvit.checkpoint.claims import KNOWN, spoken_of
from bitvit.checkpoint.harmless import says_nothing
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
from bitvit.checkpoint.scopes import Scope, inside
from bitvit.tensorfile import FormatError, parse_json

__all__ = ["beside", "groups", "options"]

_SCRIPTS = ("args", "hyper_parameters", "hparams", "opt")
_KEYS = (*_SCRIPTS, "config", "cfg", "model_config", "model_args")
_CONFIGS = ("argparse Namespace", "types SimpleNamespace")  # whose attributes have the names that a script gave them
_HOLDERS = ("collections UserDict", "collections UserList", "collections UserString")
_REST = "*"
"""The name of what is left of a value that was not looked into."""
_MOST = 10_000  # values
_DEEPEST = 40  # dicts in one another
_MOST_TEXT = 1_000_000  # characters that are searched
_MOST_SHOWN = 20  # values of an object without names that are looked at
_MOST_ITEMS = 1000  # of a list that is one value

Fields = dict[Any, Any]


def options(top: Fields) -> tuple[dict[str, Any] | None, list[str]]:
    """The options in what was saved, and notes about those that cannot be read.

    Of several dicts of options the first one's are returned as they are and another's under its key. Fields of a
    network that lie beside these dicts, or anywhere inside something else, count as well.
    """
    notes: list[str] = []
    plain = _Plain()
    top = {name: plain.content(value) for name, value in top.items()}
    sets = {
        key: fields for key in _KEYS if (fields := _fields(top.get(key))) is not None and not plain.weighs(top[key], 2)
    }
    found = plain.search({name: value for name, value in top.items() if name not in sets}, Scope.TRAINING)
    named = False
    for key in _KEYS:
        fields = sets.get(key)
        if fields is None:
            if key in _SCRIPTS and top.get(key) is not None and _fields(top[key]) is None and key not in found:
                notes.append(f"{key!r} is {described(top[key])}, which tells nothing of the network and of the images")
        elif not fields and isinstance(value := plain(top[key], 0), Unnamed | Mapping) and value:
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
    return _Plain().search(dict(fields), Scope.TRAINING) or None


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
        # By id, since the same object may lie in many places; each is kept, lest another gets its id.
        self._searched: dict[tuple[int, Scope], object] = {}
        self._counted: dict[int, tuple[object, int, int]] = {}
        self._lists: dict[int, tuple[object, list[object]]] = {}
        self._within: set[int] = set()

    def entries(self, fields: Fields, depth: int) -> dict[str, Any]:
        """By name, each with a name of its own."""
        found: dict[str, Any] = {}
        for key, value in fields.items():
            name = key_text(key)
            while name in found:
                name += "'"
            found[name] = self(_single(name, value), depth)
        return found

    def __call__(self, value: object, depth: int) -> object:
        value = self.content(value)
        identity = id(value)
        self._left -= 1
        if isinstance(value, list) and len(value) <= _MOST_ITEMS:
            value = self._items(value)
        if _is_plain(value):
            return value
        if isinstance(value, Global):
            return value.name.replace(" ", ".")
        if isinstance(value, Tensor | UnreadTensor | Opaque):
            return Opaque(kind_of(value))
        if identity in self._within:
            return {}  # it is being read
        if isinstance(value, Instance) and says_nothing(value.kind):
            return self.search(value, Scope.TRAINING) or Opaque(kind_of(value))
        if self.weighs(value, 2):
            return self.search(value, Scope.TRAINING)
        if not isinstance(value, dict | list | tuple | Instance) or depth == _DEEPEST or _size(value) > self._left:
            return self._rest(value)
        if isinstance(value, Instance) and value.is_module:
            return self._rest(value)
        parts = dict(_parts(value))
        if not _fields(value) and all(_is_plain(part) for part in parts.values()):
            return {} if value == {} else self._rest(value)
        self._within.add(identity)
        found = self.entries(parts, depth + 1)
        self._within.remove(identity)
        return found

    def _items(self, value: list[object]) -> list[object]:
        """A list with what nodes in it hold."""
        if id(value) not in self._lists:
            self._lists[id(value)] = value, [_content(item) for item in value]
        return self._lists[id(value)][1]

    def _rest(self, value: object) -> object:
        """What is known of a value that is not looked into, and that there may be more."""
        found = self.search(value, Scope.PART)
        return found | {_REST: _opaque(value)} if found else _opaque(value)

    def content(self, value: object) -> object:
        """What a node holds; what JSON text says."""
        value = _content(value)
        if isinstance(value, str):
            self._text_left -= len(value)
            if value.lstrip()[:1] == "{" and self._text_left > 0:
                with contextlib.suppress(FormatError):
                    return parse_json(value)
        return value

    def search(self, value: object, scope: Scope, depth: int = 0) -> dict[str, Any]:
        """The fields of a network in a dict, an object or a list, and in those inside it; {}: there are none.

        scope: of the names in it. What holds a network's settings is read whole.
        """
        found: dict[str, Any] = {}
        if (id(value), scope) in self._searched or depth == _DEEPEST:
            return found
        self._searched[id(value), scope] = value
        for key, item in _parts(value):
            name, inner = key_text(key), self.content(item)
            if isinstance(inner, Tensor | UnreadTensor) and not (name in KNOWN and _is_scalar(inner)):
                continue
            if name in KNOWN:
                found[name] = self(_single(name, inner), _DEEPEST - 1)
            elif _is_plain(inner):
                if self._text_left > 0 and spoken_of(inner):
                    found[name] = inner
            elif deeper := self._found(inner, inside(scope, name), depth + 1):
                found[name] = deeper
        return found

    def _found(self, value: object, scope: Scope, depth: int) -> object:
        """What `search` finds in a value; None or {}: nothing."""
        if scope is not Scope.NETWORK or self.weighs(value):
            return self.search(value, Scope.TRAINING if scope is Scope.NETWORK else scope, depth)
        whole = self(value, depth)
        return whole if isinstance(whole, Unnamed | Mapping) else None

    def weighs(self, value: object, least: int = 1) -> bool:
        """Whether it is a module with tensors, an optimizer's state, or holds more tensors than other values, and not
        less than so many, as a state dict does."""
        if isinstance(value, dict) and "state" in value and "param_groups" in value:
            return True
        tensors, others = self._count(value, 0)
        return tensors >= least and (tensors > others or (isinstance(value, Instance) and value.is_module))

    def _count(self, value: object, depth: int) -> tuple[int, int]:
        """How many tensors it holds, and how many other values."""
        if isinstance(value, Tensor | UnreadTensor):
            return 1, 0
        if not isinstance(value, dict | list | Instance) or _is_plain(value) or depth == _DEEPEST:
            return 0, 1
        if id(value) not in self._counted:
            self._counted[id(value)] = value, 0, 1  # until it is known: it may lie in itself
            counts = [self._count(part, depth + 1) for _, part in _parts(value)]
            self._counted[id(value)] = value, sum(count[0] for count in counts), sum(count[1] for count in counts)
        return self._counted[id(value)][1:]


def _single(name: str, value: object) -> object:
    """For a field of a network what an enum's member, or another object made of one value, stands for."""
    value = _content(value)
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


def _size(value: dict[Any, Any] | list[Any] | tuple[Any, ...] | Instance) -> int:
    return len(value.fields) + len(value.unnamed) if isinstance(value, Instance) else len(value)


def _opaque(value: object) -> Opaque:
    """What is shown of a value that is not looked into. An enum's member has one value and a date's are bytes."""
    hidden = value.unnamed[:_MOST_SHOWN] if isinstance(value, Instance) and not value.fields else []
    values = [item for part in hidden for item in (part[:_MOST_SHOWN] if isinstance(part, list | tuple) else [part])]
    settings = [item for item in values if isinstance(item, str | int | float)]
    return (Unnamed if len(settings) > 1 else Opaque)(kind_of(value))


def _is_plain(value: object) -> bool:
    """Whether it is text, a number or None, or not too many of them."""
    scalar = str | bytes | int | float | None
    if isinstance(value, list | tuple):
        return len(value) <= _MOST_ITEMS and all(isinstance(item, scalar) for item in value)
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
    """What a node of OmegaConf or a UserDict holds, the dict of which alone another object is made, and the arguments
    of a partial; anything else as it is."""
    if not isinstance(value, Instance):
        return value
    if value.name in _HOLDERS:
        return value.fields.get("data", value)
    if value.name == "functools partial":
        if "_content" not in value.fields:  # made once, however often it is met
            value.fields["_content"] = _arguments(value)
        return value.fields["_content"]
    if not value.fields and len(value.unnamed) == 1 and isinstance(value.unnamed[0], dict):
        return value.unnamed[0]
    return value.fields.get("_content", value.fields.get("_val", value))


def _arguments(partial: Instance) -> object:
    """A partial as a dict: with its arguments by name or by number."""
    match partial.unnamed:
        case [(function, tuple() as unnamed, dict() as named, *_)] if unnamed or named:
            return dict(enumerate(unnamed)) | named | {"_target_": function}
    return Opaque("functools.partial")
