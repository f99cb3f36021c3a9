"""Wording that many messages share."""

import pytest

from bitvit.messages import LONGEST, listing, plural, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [("cat", "'cat'"), ("a\nb", r"'a\nb'"), (7, "7"), (None, "None"), (b"\0", r"b'\x00'"), (["a"], "['a']")],
)
def test_values_are_quoted(value: object, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize("value", ["x" * 10_000, ["abc"] * 10_000, "\n" * 79, {"a": "x" * 10_000}, b"x" * 10_000])
def test_long_values_are_cut(value: object) -> None:
    assert len(shown(value)) == LONGEST
    assert shown(value).endswith("...")


def test_lists() -> None:
    assert listing(["a", "b"]) == "'a', 'b'"
    assert listing(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert listing(range(3), most=1, show=lambda number: f"<{number}>") == "<0> and 2 more"


def test_counts() -> None:
    assert [plural(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [plural(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]
