"""Dataclasses out of what a JSON file holds, each field checked against its type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bitvit.errors import BitvitError
from bitvit.messages import shown

__all__ = ["Decoder"]

T = TypeVar("T")


@dataclass(frozen=True)
class Decoder:
    """Makes dataclasses out of the content of one kind of file.

    Types of fields that it knows: int, float, str, bool, Literal, dataclasses, `X | None`, and list, dict and tuple of
    these.
    """

    error: type[BitvitError]
    remedy: str
    """The end of each message."""
    skip_unknown: bool = False
    """Whether fields that a class does not have are left out, as those of a later version may be, or refused."""

    def record(self, kind: type[T], content: object, where: str) -> T:
        """A dataclass out of a JSON object. where: file and place in it, for messages.

        Fields with a default may be missing. Raises `error` for a missing or unknown field and for a wrong type.
        """
        fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if not isinstance(content, Mapping):
            raise self._refusal(where, f"is {shown(content)}, expected an object with the fields {list(fields)}")
        missing = [name for name, item in fields.items() if name not in content and not _has_default(item)]
        if missing:
            raise self._refusal(where, f"lacks the fields {missing}")
        unknown = [name for name in content if name not in fields]
        if unknown and not self.skip_unknown:
            raise self._refusal(where, f"has unknown fields {shown(unknown)}, expected some of {list(fields)}")
        hints = typing.get_type_hints(kind)
        known = {name: value for name, value in content.items() if name in fields}
        return kind(**{name: self._value(hints[name], value, f"{where}: {name}") for name, value in known.items()})

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is types.UnionType:  # X | None
            return None if value is None else self._value(arguments[0], value, where)
        if origin is list and isinstance(value, list):
            return [self._value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
            items = zip(arguments, value, strict=True)
            return tuple(self._value(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(items))
        if origin is dict and isinstance(value, dict):
            return {str(name): self._value(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.record(hint, value, where)
        if (origin is Literal and value in arguments) or type(value) is hint:
            return value
        if hint is float and type(value) is int:
            return float(value)
        raise self._refusal(where, f"is {shown(value)}, expected {_expected(hint)}")

    def _refusal(self, where: str, problem: str) -> BitvitError:
        return self.error(f"{where} {problem}; {self.remedy}")


def _has_default(item: "dataclasses.Field[Any]") -> bool:
    return item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING


def _expected(hint: Any) -> str:
    """A type in words: 'an integer', 'a list of 4', "one of ['latency', 'throughput']"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {list(arguments)}"
    if origin is tuple:
        return f"a list of {len(arguments)}"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", list: "a list"}
    return names.get(origin or hint, "an object")
