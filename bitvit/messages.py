"""Wording that many messages share."""

import itertools
import re
from collections.abc import Callable, Collection
from typing import TypeVar

__all__ = ["LONGEST", "LONGEST_WORD", "listing", "plural", "shortened", "shown"]

Value = TypeVar("Value")

MOST_LISTED = 8
LONGEST = 80
"""Characters of a value out of a file that a message shows."""
LONGEST_WORD = 1000
"""Characters of a word in a message: what is longer is hardly a path, and may be an image in base64."""
_LONG_WORD = re.compile(rf"[^\s:;,'\"]{{{LONGEST_WORD + 1},}}")


def shown(value: object) -> str:
    """A value out of a file as a message shows it: quoted, control characters escaped, at most LONGEST characters."""
    text = repr(value[:LONGEST] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def shortened(text: str) -> str:
    """A message without most of each word that is longer than LONGEST_WORD."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST]}... ({len(found[0]):,} characters)", text)


def listing(values: Collection[Value], *, most: int = MOST_LISTED, show: Callable[[Value], str] | None = None) -> str:
    """The first values, at most `most`, and how many more there are. show: how one is written; default: shown."""
    first = ", ".join((show or shown)(value) for value in itertools.islice(values, most))
    return first + (f" and {len(values) - most} more" if len(values) > most else "")


def plural(count: int, noun: str, many: str | None = None) -> str:
    """'1 image', '2 images'; many: the noun's plural where an s does not make it."""
    return f"{count} {noun if count == 1 else many or f'{noun}s'}"
