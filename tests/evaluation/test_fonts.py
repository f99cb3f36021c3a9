"""Class names for drawings: with fonts that have their letters, or numbered."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitvit.evaluation.fonts import LONGEST, drawable
from bitvit.extras import figure

font_manager = pytest.importorskip("matplotlib.font_manager", reason="needs matplotlib: pip install 'bitvit[evaluate]'")

NAMES = ["café", "猫", "naïve_$x$", "ไก่", "🐶 dog", "مرحبا", "a\nb", "\udcff", "\U0010fffe", "x" * 50, ""]


def test_names_of_any_script_are_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drawable(NAMES, range(100, 100 + len(NAMES)))
        drawn = figure(4, 4)
        axes = drawn.subplots()
        axes.set_yticks(range(len(NAMES)), found.names, family=found.families)
        drawn.savefig(tmp_path / "names.png")
    assert found.names[0] == "café"
    assert found.names[2] == r"naïve_\$x\$"  # no formula
    assert found.names[6:8] == [r"a\nb", r"\udcff"]
    assert found.names[8] == r"\U0010fffe"
    assert len(found.names[9]) == LONGEST
    count = sum(name == f"class {number}" for number, name in enumerate(found.names, 100))
    assert found.note.startswith(f"{count} of the names are numbered, as in classes.csv")


def test_long_names_are_shortened_in_their_middle() -> None:
    found = drawable(["American Staffordshire terrier", "American Staffordshire bull terrier", "x" * LONGEST], range(3))
    assert found.names == ["American Sta…ire terrier", "American Sta…ull terrier", "x" * LONGEST]
    assert {len(name) for name in found.names} == {LONGEST}


def test_names_that_are_shortened_to_the_same_are_told_apart() -> None:
    found = drawable([*(f"American Sta{kind}ire terrier" for kind in ("ffordsh", "nfordsh")), "cat"], [7, 9, 11])
    assert found.names == ["American Sta…ire terrier (7)", "American Sta…ire terrier (9)", "cat"]


def test_nothing_is_said_where_all_letters_are_there() -> None:
    found = drawable(["cat", "Größe"], [0, 1])
    assert (found.names, found.note) == (["cat", "Größe"], "")
    assert found.families == list(drawable([], []).families)


def test_another_font_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fonts that have all letters there are, for show, or cannot be read, are passed over."""
    letters = {"broken": OSError("damaged"), "bitmap": None, "cjk": {ord("猫")}, "usual": set(map(ord, "cat "))}

    def get_font(path: str) -> SimpleNamespace:
        found = letters[path]
        if isinstance(found, OSError):
            raise found
        return SimpleNamespace(scalable=found is not None, get_charmap=lambda: found or {ord("猫")})

    entries = [
        SimpleNamespace(name=name, fname=path, style="normal", variant="normal", weight=weight, stretch="normal")
        for name, path, weight in (
            ("Last Resort HE", "cjk", 400),
            ("Bold Only", "cjk", 700),
            ("Broken", "broken", 400),
            ("Emoji", "bitmap", 400),
            ("Noto Sans CJK", "cjk", 400),
        )
    ]
    monkeypatch.setattr(font_manager, "get_font", get_font)
    monkeypatch.setattr(font_manager, "findfont", lambda _: "usual")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    found = drawable(["cat", "猫"], [0, 1])
    assert (found.names, found.note) == (["cat", "猫"], "")
    assert found.families[-1] == "Noto Sans CJK"
    assert drawable(["cat", "猫犬"], [0, 1]).names == ["cat", "class 1"]
