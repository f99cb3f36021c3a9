"""Wording that many messages share."""

import itertools
from collections.abc import Collection

__all__ = ["listing", "plural", "shown"]

MOST_LISTED = 8
LONGEST = 80  # characters of a value out of a file


def shown(value: object) -> str:
    """A value out of a file as a message shows it: quoted, control characters escaped, at most LONGEST characters."""
    text = repr(value[:LONGEST] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def listing(values: Collection[object]) -> str:
    """The first MOST_LISTED values, and how many more there are."""
    first = ", ".join(shown(value) for value in itertools.islice(values, MOST_LISTED))
    return first + (f" and {len(values) - MOST_LISTED} more" if len(values) > MOST_LISTED else "")


def plural(count: int, noun: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {noun}{'s' * (count != 1)}"
