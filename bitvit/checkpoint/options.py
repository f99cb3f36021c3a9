"""The options of a training script beside a state dict, as plain values: dicts of them may lie in one another."""

from collections.abc import Iterator, Mapping
from typing import Any

from bitvit.checkpoint.claims import KNOWN
from bitvit.checkpoint.inert import Global, Instance, Opaque, Tensor, UnreadTensor, described, kind_of

__all__ = ["groups", "options"]

_KEYS = ("args", "hyper_parameters", "hparams", "opt", "config", "cfg", "model_config", "model_args")
_CONFIGS = ("argparse Namespace", "types SimpleNamespace")  # classes of which an object is a dict of options
_MOST = 10_000  # values
_DEEPEST = 8  # dicts in one another

Fields = dict[Any, Any]


def options(top: Fields) -> tuple[dict[str, Any] | None, list[str]]:
    """The options in what was saved, and notes about those that cannot be read.

    Of several dicts of options the first one's are returned as they are and another's under its key. A field of a
    network that lies beside the dicts counts as well.
    """
    notes: list[str] = []
    plain = _Plain()
    beside = {name: value for name, value in _of_network(top).items() if not isinstance(value, Tensor | UnreadTensor)}
    found: dict[str, Any] | None = plain.entries(beside, 0) or None
    named = False
    for key in _KEYS:
        fields = _fields(top.get(key))
        if fields is None:
            if top.get(key) is not None and key in _KEYS[:4]:
                notes.append(f"{key!r} is {described(top[key])}, which tells nothing of the network and of the images")
        elif not named:
            inner = next(filter(None, (_fields(fields.get(name)) for name in _KEYS[:4])), {})  # Lightning's own
            merged = {name: value for name, value in (inner | fields).items() if not inner or name not in _KEYS[:4]}
            found, named = (found or {}) | plain.entries(merged, 0), True
        else:
            found = {key: plain.entries(fields, 1)} | (found or {})
    return found, notes


def groups(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A dict of options and those inside it, the outermost first."""
    yield fields
    for value in fields.values():
        if isinstance(value, Mapping):
            yield from groups(value)


class _Plain:
    """Makes plain values, and not too many, of what a pickle says; what it is not asked for stays an Opaque."""

    def __init__(self) -> None:
        self._left = _MOST

    def entries(self, fields: Fields, depth: int) -> dict[str, Any]:
        return {name: self(value, depth) for name, value in fields.items() if isinstance(name, str)}

    def __call__(self, value: object, depth: int) -> object:
        value = _content(value)
        self._left -= 1
        if isinstance(value, list) and len(value) <= 1000:
            value = [_content(item) for item in value]
        if _is_plain(value):
            return value
        if isinstance(value, Global):
            return value.name.replace(" ", ".")
        fields = _fields(value)
        if isinstance(value, Instance) and fields is not None and value.name not in _CONFIGS:
            fields = _of_network(fields) or None  # the rest of an object is its own affair
        if fields is None or depth == _DEEPEST or len(fields) > self._left:
            return Opaque(kind_of(value))
        return self.entries(fields, depth + 1)


def _is_plain(value: object) -> bool:
    """Whether it is text, a number or None, or not too many of them."""
    scalar = str | bytes | int | float | None
    if isinstance(value, list | tuple):
        return len(value) <= 1000 and all(isinstance(item, scalar) for item in value)
    return isinstance(value, scalar)


def _of_network(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if name in KNOWN}


def _fields(value: object) -> Fields | None:
    """The named values of a dict or of an object, OmegaConf's among them, whose values lie in nodes."""
    fields = _content(value)
    if isinstance(fields, Instance):
        fields = {name: field for name, field in fields.fields.items() if not _is_special(fields, name)}
    return fields if isinstance(fields, dict) else None


def _is_special(owner: Instance, name: object) -> bool:
    """Whether an attribute is the class's own; argparse's have the names that a script gave them."""
    return owner.name != "argparse Namespace" and isinstance(name, str) and name.startswith("__")


def _content(value: object) -> object:
    """What a node of OmegaConf holds: a dict or list of nodes, or a value; anything else as it is."""
    if isinstance(value, Instance):
        return value.fields.get("_content", value.fields.get("_val", value))
    return value
