"""Which names are the same, and which only look alike."""

import itertools
import unicodedata
from decimal import Decimal

import pytest

from bitvit.evaluation.words import LONGEST_NUMBER, number_in, words_of


@pytest.mark.parametrize(
    "names",
    [
        ("T-shirt/top", "t_shirt top", "T-SHIRT_TOP", "tshirt (top)"),
        ("jack-o'-lantern", "jack_o_lantern"),
        ("St. Bernard", "St Bernard"),
        ("Gänge", unicodedata.normalize("NFD", "Gänge"), "GÄNGE"),
        ("Straße", "STRASSE"),
        ("Boeing 707", "Boeing-707", "boeing_707"),
        ("v1.2", "v1_2"),
        ("A - B", "A_B"),
        ("1", "01", "+1", "1.0", "1e0", " 1 "),
        ("0.5", ".5", "0.50", "5e-1"),
        ("0", "-0", "0.0"),
        ("कुत्ता घर", "कुत्ता_घर"),
    ],
)
def test_the_same(names: tuple[str, ...]) -> None:
    assert len({words_of(name) for name in names}) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("C", "C++", "C#", "C*", "C&", "C!"),
        ("1", "-1", "\N{MINUS SIGN}1", "10", "0.1", "11", "1 0", "x 1", "x -1"),
        ("1.5", "15", "-1.5", "1 5 0"),
        ("v1.2", "v12"),
        ("Rh+", "Rh-", "Rh"),
        ("A+", "A-", "A", "A*"),
        ("x<1", "x>1", "x=1", "x 1"),
        ("no .5", "no 5"),
        ("ไก่", "ไก", "ไข่"),
        ("कुत्ता", "कत"),
        ("🐶", "🐱", "_", "-", ""),
        ("$", "€", "%"),
        ("12345678901234567890123", "12345678901234567890124"),
        ("\N{BLACK HEART SUIT}", "\N{BLACK SPADE SUIT}"),
    ],
)
def test_not_the_same(names: tuple[str, ...]) -> None:
    pairs = itertools.combinations(names, 2)
    assert [pair for pair in pairs if words_of(pair[0]) == words_of(pair[1])] == []


@pytest.mark.parametrize("text", ["1", "-1.5", ".5", "1.", "1e3", "+0"])
def test_numbers(text: str) -> None:
    assert number_in(text) == Decimal(text)


@pytest.mark.parametrize(
    "text", ["", "e", "1e", "1_000", "1,5", "nan", "inf", "0x1", "\u0661", "--1", "1" * (LONGEST_NUMBER + 1), "1e9999"]
)
def test_what_is_no_number(text: str) -> None:
    assert number_in(text) is None
