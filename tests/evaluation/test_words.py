"""Which names are the same, and which only look alike."""

import itertools
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

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
        ("covid-19", "COVID 19", "covid_19"),
        ("temp-1", "temp 1"),
        ("कु-1", "कु 1"),
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
        ("Rh (+)", "Rh (-)", "Rh"),
        ("T=1", "T=-1", "T=\N{MINUS SIGN}1 0", "T=.1", "T=-.1"),
        (">5", ">-5", "<5"),
        ("$5", "$-5", "-$5"),
        ("2^1", "2^-1"),
        ("°1", "°-1"),
        ("x*1", "x*-1", "x -1", "x -.1", "x .1"),
        ("f(1)", "f(-1)", "f(-½)", "f(½)"),
        ("-∞", "∞"),
        ("lr=1e-5", "lr=1e5"),
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


WORD = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=4)
NUMBER = st.from_regex(r"[1-9][0-9]{0,2}(\.[0-9])?|½|\uff11|\u0661", fullmatch=True)
DASH = st.sampled_from("-\N{MINUS SIGN}\N{EN DASH}\uff0d")


@given(st.text(max_size=4), st.text(st.characters(exclude_categories=["L", "M", "N", "Cs"]), max_size=2), DASH, NUMBER)
def test_a_minus_before_a_number_is_a_sign_unless_it_joins_it_to_a_word(
    start: str, symbols: str, dash: str, number: str
) -> None:
    """At the start of a name, and after whatever is not a letter or digit."""
    start = start if symbols else ""
    assert words_of(f"{start}{symbols}{dash}{number}") != words_of(f"{start}{symbols}{number}")


@given(WORD, st.characters(categories=["L"]), NUMBER)
def test_a_minus_between_a_letter_and_a_number_is_a_hyphen(word: str, letter: str, number: str) -> None:
    assume(letter not in "eE")  # of 1e-5
    joined = {words_of(f"{word}{letter}{between}{number}") for between in ("-", "_", " ", "")}
    assert len(joined) == 1


@pytest.mark.parametrize("text", ["1", "-1.5", ".5", "1.", "1e3", "+0"])
def test_numbers(text: str) -> None:
    assert number_in(text) == Decimal(text)


@pytest.mark.parametrize(
    "text", ["", "e", "1e", "1_000", "1,5", "nan", "inf", "0x1", "\u0661", "--1", "1" * (LONGEST_NUMBER + 1), "1e9999"]
)
def test_what_is_no_number(text: str) -> None:
    assert number_in(text) is None
