"""When are two class names the same? Text as people and file systems vary it, reduced to what tells names apart.

File systems allow no `/`, scripts put `_` for a space, and accents may be stored as letters of their own. So case and
what separates words do not count. All else does: letters and digits of any script, the marks on them (without which
Hindi or Thai words fall together), `+`, `#` and other symbols (`C`, `C++`, `C#`), the sign of a number and its decimal
point (`-1`, `T=-1`, `1.0`), and a minus at the end (`Rh-`). Between a letter and a digit a minus is a hyphen
(`covid-19`), but not in `1e-5`.
"""

import itertools
import re
import unicodedata
from decimal import Decimal

__all__ = ["LONGEST_NUMBER", "number_in", "words_of"]

LONGEST_NUMBER = 40  # characters
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_MINUS = "\N{MINUS SIGN}"
_SEPARATING = {"Zs", "Cc", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf"}  # Unicode's categories: spaces, low lines, dashes, ...
_PUNCTUATION = frozenset("/\\,.;:'\"`")  # of the category Po, which also has # and &
_AMOUNT = {"Nd", "Nl", "No", "Sc", "Sm"}  # what a sign may stand before: digits of any script, ½, $, ∞
_EXPONENT = re.compile(r"\de$")


def number_in(name: str) -> Decimal | None:
    """The number that the whole text is, such as 1, -1, 1.0 and 1e0; None for other text."""
    text = name.strip()
    return Decimal(text) if len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text) else None


def words_of(name: str) -> str | Decimal:
    """What is equal for two names if and only if one may be taken for the other; of a number, its value."""
    value = number_in(name)
    if value is not None:
        return value
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    runs = [(separates, "".join(run)) for separates, run in itertools.groupby(text, _separates)]
    kept = ""
    for place, (separates, run) in enumerate(runs):
        following = runs[place + 1][1] if place + 1 < len(runs) else ""
        kept += _kept(kept, run, following[:1]) if separates else run
    return kept or name


def _separates(letter: str) -> bool:
    return letter in _PUNCTUATION or letter == _MINUS or unicodedata.category(letter) in _SEPARATING


def _is_dash(letter: str) -> bool:
    return letter == _MINUS or unicodedata.category(letter) == "Pd"


def _kept(before: str, separator: str, after: str) -> str:
    """What counts of a separator: the sign or point that begins a number, the gap between two, a minus at the end.

    before: all that is kept so far; after: the next letter; both are empty at the ends of the name.
    """
    if not after:
        return "-" if before and any(map(_is_dash, separator)) else ""
    if unicodedata.category(after) not in _AMOUNT:
        return ""
    if len(separator) > 1 or not _is_word(before) or _EXPONENT.search(before):  # the number is not joined to a word
        point = "." if separator[-1] == "." else ""
        sign = separator[: -len(point) or None][-1:]
        if point or (sign and _is_dash(sign)):
            return ("-" if sign and _is_dash(sign) else "") + point
    return " " if before and _is_number(before[-1]) and _is_number(after) else ""


def _is_word(text: str) -> bool:
    """Whether it ends with a letter, a mark on one, or a digit."""
    return bool(text) and unicodedata.category(text[-1])[0] in "LMN"


def _is_number(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "N"
