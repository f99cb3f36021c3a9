"""bitvit.decoding: dataclasses out of JSON, and errors that name the place."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bitvit.decoding import Decoder
from bitvit.errors import BitvitError, ConfigError


@dataclass(frozen=True)
class Inner:
    share: float
    name: str = "none"


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    sides: tuple[int, int] = (1, 2)
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, float] = field(default_factory=dict)


STRICT = Decoder(ConfigError, "see the manual")
LENIENT = Decoder(ConfigError, "see the manual", skip_unknown=True)


def test_fields_of_every_type_are_read() -> None:
    content = {
        "count": 3,
        "kind": "b",
        "flag": True,
        "sides": [3, 4],
        "inner": {"share": 1, "name": "x"},
        "many": [{"share": 0.5}],
        "by_name": {"y": 2},
    }
    read = STRICT.record(Outer, content, "file")
    assert read == Outer(3, "b", True, (3, 4), Inner(1.0, "x"), [Inner(0.5)], {"y": 2.0})
    assert read.inner is not None
    assert type(read.inner.share) is float


def test_fields_with_a_default_may_be_missing() -> None:
    assert STRICT.record(Outer, {"count": 1}, "file") == Outer(1)
    assert STRICT.record(Outer, {"count": 1, "inner": None}, "file") == Outer(1)


def test_unknown_fields_are_refused_or_left_out() -> None:
    assert LENIENT.record(Outer, {"count": 1, "new": 2}, "file") == Outer(1)
    with pytest.raises(ConfigError, match=r"^file has unknown fields \['new'\], expected some of \['count', "):
        STRICT.record(Outer, {"count": 1, "new": 2}, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "file is [], expected an object with the fields ['count', "),
        ({}, "file lacks the fields ['count']; "),
        ({"count": "x" * 200}, f"file: count is '{'x' * 76}..., expected an integer; "),
        ({"count": True}, "file: count is True, expected an integer; "),
        ({"count": 1, "flag": 1}, "file: flag is 1, expected true or false; "),
        ({"count": 1, "kind": "c"}, "file: kind is 'c', expected one of ['a', 'b']; "),
        ({"count": 1, "kind": []}, "file: kind is [], expected one of ['a', 'b']; "),
        ({"count": 1, "sides": [1]}, "file: sides is [1], expected a list of 2; "),
        ({"count": 1, "sides": [1, 2.5]}, "file: sides[1] is 2.5, expected an integer; "),
        ({"count": 1, "inner": {"share": "much"}}, "file: inner: share is 'much', expected a number; "),
        ({"count": 1, "many": {}}, "file: many is {}, expected a list; "),
        ({"count": 1, "many": [{"share": 1}, {}]}, "file: many[1] lacks the fields ['share']; "),
        ({"count": 1, "by_name": {"y": None}}, "file: by_name.y is None, expected a number; "),
    ],
)
def test_what_is_wrong_is_named(content: Any, message: str) -> None:
    with pytest.raises(BitvitError) as error:
        STRICT.record(Outer, content, "file")
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("; see the manual")
