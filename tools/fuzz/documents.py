"""Mutations of text: JSON by value, by name and by letter; tables by cell."""

import copy
import csv
import io
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from . import damage

__all__ = ["any_json", "edited_json", "edited_table", "edited_text", "edited_value"]

FRAGMENTS = (
    *(b"[" * 3000, b'{"a":' * 900, b'{"a":' * 3000, b"NaN", b"1e999", b"-Infinity", b"9" * 4000, b"9" * 5000),
    *(b"\xff\xfe", b'"\\ud800"', b"\x00", b" " * 100, b"}", b"{", b",", b'"w":', b"//", b"\\", b"-0", b'""'),
    *(b'"__metadata__":{},', b"\xef\xbb\xbf", b"\r\n", b"\r", b";", b"\t", b'"', "\u2028é٣".encode(), b"x" * 140_000),
)


def any_json(rng: Random) -> Any:
    """Any JSON value."""
    return rng.choice(
        (
            *(None, True, False, 1.5, -1, float("nan"), float("inf"), 1e308, "x", "", "9" * 100, [], {}, [[]]),
            *([0, 1, 2], {"a": 1}, [damage.number(rng)] * rng.randint(0, 3), damage.number(rng), ["a"], [1] * 70),
            *(
                _nested(rng.choice((10, 100, 300, 900)), rng.choice(("a", "args", None))),
                10**400,
                "9" * 5000,
                "\ud800",
                "é٣²",
                "a\x00b",
                float(damage.number(rng) % 2**60),
            ),
        )
    )


def _nested(depth: int, name: str | None) -> Any:
    """Lists in one another, or objects under a name."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if name is None else {name: value}
    return value


def edited_value(rng: Random, value: Any, words: Sequence[Any]) -> Any:
    """A JSON value with one change somewhere inside. words: names and values that mean something to the reader."""
    value = copy.copy(value)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                del value[key]
            case 1:
                value[str(rng.choice((*words, "", key + "x")))] = value[key]
            case 2:
                value[str(rng.choice((*words, "surplus")))] = rng.choice((*words, any_json(rng)))
            case 3:
                value = {str(rng.choice((*words, "inner"))): value}
            case _:
                value[key] = edited_value(rng, value[key], words)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                del value[place]
            case 1:
                value.insert(place, copy.copy(value[place]))
            case 2:
                value.insert(place, rng.choice((*words, any_json(rng))))
            case _:
                value[place] = edited_value(rng, value[place], words)
        return value
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 4, 8))
    if isinstance(value, str) and value and rng.random() < 0.4:
        place = rng.randrange(len(value))
        return value[:place] + str(rng.choice((*words, "", "\n", " ", "0", "é"))) + value[place + 1 :]
    return rng.choice((*words, any_json(rng))) if words and rng.random() < 0.6 else any_json(rng)


def edited_json(rng: Random, data: bytes, words: Sequence[Any]) -> bytes:
    """A JSON text, changed by value one to three times, or by letter if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return edited_text(rng, data)
    if rng.random() < 0.15:
        return edited_text(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = edited_value(rng, value, words)
    return as_json(value)


def as_json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"{}"


def edited_text(rng: Random, data: bytes) -> bytes:
    """Any text, changed by letter or with a piece put in."""
    if rng.random() < 0.5:
        return damage.damage(rng, data)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(FRAGMENTS) + data[at + rng.choice((0, 0, 1, 5)) :]


def edited_table(rng: Random, data: bytes, words: Sequence[str]) -> bytes:
    """A CSV text, changed by cell, row or column, or by letter. words: names and values that mean something."""
    text = data.decode("utf-8", "replace")
    if rng.random() < 0.2 or len(text) > 100_000:
        return edited_text(rng, data)
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return edited_text(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rows[rng.randrange(len(rows))] if rows else []
        at = rng.randrange(len(row)) if row else 0
        match rng.randrange(8):
            case 0 if rows:
                rows.remove(row)
            case 1:
                rows.insert(rng.randrange(len(rows) + 1), list(row))
            case 2 if row:
                del row[at]
            case 3:
                for other in rows:
                    other.append(rng.choice(words))
            case 4 if row:
                row[at] = rng.choice(
                    (
                        "",
                        " ",
                        "9" * rng.choice((20, 20, 20, 20, 5000)),
                        "\n",
                        '"',
                        "٣",
                        "²",
                        "-1",
                        "1.0",
                        "1e3",
                        str(damage.number(rng)),
                    )
                )
            case _ if row:
                row[at] = rng.choice(words)
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=rng.choice(",,,;\t"), lineterminator=rng.choice(("\n", "\r\n", "\r"))).writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")
