"""Class names as matplotlib can draw them: with fonts that have their letters, or else by number."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bitvit.extras import require

__all__ = ["Drawn", "drawable"]

LONGEST = 24  # characters of a name
UNFIT = ("Last Resort", "cm", "STIXSize")  # a box for every letter there is; parts of formulas under any letters


@dataclass(frozen=True)
class Drawn:
    """Names for a drawing."""

    names: list[str]
    """In the place of a name that no font has, 'class' and its number, which also follows names that look the same."""
    families: list[str]
    """Fonts to draw them with, the first that has a letter."""
    note: str
    """Which names are numbered; empty if none is."""


def drawable(names: Sequence[str], numbers: Sequence[int]) -> Drawn:
    """Names as they can be drawn; numbers: of the classes. Raises BitvitError without matplotlib."""
    plain = [_plain(name) for name in names]
    families = [str(family) for family in require("matplotlib", "drawing").rcParams["font.family"]]
    missing = set("".join(plain)) - _letters(_usual())
    for family, path in _others() if missing else ():
        new = missing & _letters(path)
        if new:
            families.append(family)
            missing -= new
    times = Counter(plain)
    shown = [
        f"class {number}" if missing & set(name) else _numbered(name, number, times[name]).replace("$", r"\$")
        for name, number in zip(plain, numbers, strict=True)
    ]
    count = sum(bool(missing & set(name)) for name in plain)
    note = f"{count} of the names are numbered, as in classes.csv: no font of this system has their letters"
    return Drawn(shown, families, note if count else "")


def _numbered(name: str, number: int, times: int) -> str:
    """The name, with its class's number behind it if others look the same."""
    return name if times == 1 else f"{name} ({number})"


def _plain(name: str) -> str:
    """Without what cannot be drawn at all, and no longer than fits: names that are alike often differ at their ends."""
    text = name.encode("utf-8", "backslashreplace").decode()
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-(LONGEST - LONGEST // 2 - 1) :]}"


def _usual() -> str:
    """The file of the font that is used if none is asked for."""
    fonts = require("matplotlib.font_manager", "drawing")
    return str(fonts.findfont(fonts.FontProperties()))


def _others() -> Iterator[tuple[str, str]]:
    """Name and file of the other upright fonts of usual weight; of others matplotlib says that they are no such."""
    for entry in require("matplotlib.font_manager", "drawing").fontManager.ttflist:
        shape = (entry.style, entry.variant, str(entry.weight), entry.stretch)
        if shape == ("normal", "normal", "400", "normal") and not entry.name.startswith(UNFIT):
            yield entry.name, entry.fname


def _letters(path: str) -> set[str]:
    """The letters that a font has; none for one that cannot be drawn with."""
    try:
        font = require("matplotlib.font_manager", "drawing").get_font(path)
        return set(map(chr, font.get_charmap())) if font.scalable else set()
    except (OSError, RuntimeError, ValueError):  # a damaged file; a format that FreeType refuses
        return set()
