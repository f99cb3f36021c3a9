"""Tables: as wide as a terminal allows, plain and unbroken elsewhere."""

import io
import itertools
import os
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from bitvit.cli.tables import Table, print_lines, print_table
from tests.support.command import Terminal, in_terminal, run, shell, without_escapes

NUMBERS = [f"{10**place:,}" for place in range(1, 13)]
WIDE = Table(
    columns=["name", *(f"n{place}" for place in range(len(NUMBERS)))],
    rows=[["first", *NUMBERS], None, ["second", *reversed(NUMBERS)]],
    title="A title:",
)
NAMES = Table(
    columns=["class", "images", "taken for"],
    rows=[
        ["black-footed albatross, Diomedea nigripes", "50", "wandering albatross, Diomedea exulans"],
        ["\u7121\u6a39\u7121\u6a39\u7121\u6a39\u7121\u6a39\u7121\u6a39\u7121\u6a39", "50", "cat"],
    ],
    words=frozenset({0, 2}),
    names=frozenset({0, 2}),
)

posix = pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")


def printed(table: Table, monkeypatch: pytest.MonkeyPatch, columns: int | None = None) -> list[str]:
    """Lines in a terminal so wide, or in a file."""
    stream = io.StringIO() if columns is None else Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns or 20))
    monkeypatch.setattr("sys.stdout", stream)
    print_table(table)
    return without_escapes(stream.getvalue()).splitlines()


def test_a_file_gets_one_block_without_blanks_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(WIDE, monkeypatch)
    assert lines[0] == "A title:"
    assert [line.split() for line in lines if line.startswith(("first", "second"))] == [WIDE.rows[0], WIDE.rows[2]]
    assert [line for line in lines if line != line.rstrip()] == []
    assert len(lines) == 6


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120])
def test_a_narrow_terminal_gets_blocks_that_fit_and_lose_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(WIDE, monkeypatch, columns)
    assert max(map(cell_len, lines)) <= columns
    for row in (WIDE.rows[0], WIDE.rows[2]):
        assert row is not None
        cells = [line.split()[1:] for line in lines if line.startswith(row[0])]
        assert list(itertools.chain(*cells)) == row[1:]
        assert len(cells) > 1


@pytest.mark.parametrize("columns", [1, 10, 19])
def test_a_terminal_too_narrow_for_a_column_gets_it_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(printed(WIDE, monkeypatch, columns))
    assert [number for number in NUMBERS if number not in text] == []


def test_names_are_shortened_in_their_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(NAMES, monkeypatch, 60)
    assert max(map(cell_len, lines)) <= 60
    assert re.fullmatch(r"black-foot.*….*nigripes +50  wandering.*….*exulans", lines[2].rstrip())
    assert "…" not in "".join(printed(NAMES, monkeypatch, 200))
    assert "…" not in "".join(printed(NAMES, monkeypatch))


RUNS = "experiments/run-2026-11-01/seed{}/checkpoints/fold-{}-of-the-data/best.safetensors"


@pytest.mark.parametrize("columns", [30, 80, 100])
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([RUNS.format(seed, 0) for seed in range(2)], "…seed{}"),
        ([RUNS.format(0, fold) for fold in range(3)], "…fold-{}"),
        ([RUNS.format(seed, fold) for seed in range(2) for fold in range(2)], ""),
        ([f"{'x' * 30}{'無' * number}{'x' * 60}" for number in range(4)], ""),
        ([f"{'x' * 30}{middle}{'x' * 30}" for middle in ("a" + "b" * 50 + "c", "a" + "d" * 50 + "c")], ""),
    ],
)
def test_different_names_stay_different_where_they_are_shortened(
    names: list[str], shown: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[name, *NUMBERS[:6]] for name in names]
    table = Table(["model", *"abcdef"], [*rows, None, *rows], names=frozenset({0}))
    lines = printed(table, monkeypatch, columns)
    assert max(map(cell_len, lines)) <= columns
    cells = [line.split("  ")[0] for line in lines if "10  " in line]
    first, again = cells[: len(names)], cells[len(names) :]
    assert first == again
    assert len(set(first)) == len(names)
    assert all("…" in cell for cell in first)
    for number, cell in enumerate(first if shown else []):
        assert shown.format(number).strip("…") in cell


@pytest.mark.parametrize("columns", [60, 78, 79, 80])
def test_names_have_half_of_a_block(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a column is as wide as its title, which is not shortened."""
    name = "a very long class name indeed, such as ImageNet has, number {} of ten"
    rows = [[name.format(k), "60", "43.3 %", "7.3 %", "0.1244", "0.3840", name.format(9 - k)] for k in range(3)]
    titles = ["class", "images", "recall", "precision", "F1", "ROC-AUC", "most often taken for"]
    lines = printed(Table(titles, rows, words=frozenset({0, 6}), names=frozenset({0, 6})), monkeypatch, columns)
    assert max(map(cell_len, lines)) <= columns
    firsts = [line for line in lines if line.startswith("a very") and "0 of ten  " in line]
    assert len(firsts) > 1  # blocks
    assert {line.index("  ") for line in firsts} == {columns // 2}
    folds = Table(["model", "data", *titles[1:6]], [["fold_number_1.safetensors", "folds/1", *rows[0][1:6]]], keys=2)
    assert "fold_number_1.safetensors  folds/1  " in "\n".join(printed(folds, monkeypatch, columns - 20))


def test_rows_of_a_block_stand_below_its_name_where_that_is_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[name, *NUMBERS[:4]] for name in ("stem", "stages.0.blocks.0.mlp.fc1", "stages.0.blocks.0.mlp")]
    table = Table(["layer", "a", "b", "c", "d"], rows, total=["total", "", "", "", "7"], paths=True)
    assert any(line.startswith("stages.0.blocks.0.mlp.fc1  10") for line in printed(table, monkeypatch, 80))
    lines = printed(table, monkeypatch, 40)
    assert [line.split("10")[0].rstrip() for line in lines[2:6]] == [
        "stem",
        "stages.0.blocks.0",
        "  mlp.fc1",
        "  mlp",
    ]
    assert [line.split()[-1] for line in lines if line.startswith("total")] == ["7"]


def test_lines_are_broken_between_words_on_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "note: " + "word " * 30 + "x" * 50
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    for stream, lines in ((io.StringIO(), 1), (Terminal(), 6)):
        monkeypatch.setattr("sys.stdout", stream)
        print_lines([text])
        assert len(stream.getvalue().splitlines()) == lines
        assert stream.getvalue().split() == text.split()


def test_control_characters_in_cells_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(Table(["a"], [["\x1b[31mred[bold]"]]), monkeypatch)[2] == "\\x1b[31mred[bold]"


# ------------------------------------------------------------------------------------------------ commands
@posix
@pytest.mark.parametrize("columns", [80, 120])
def test_inspect_fits_the_terminal(columns: int, model: Path) -> None:
    text = without_escapes(in_terminal(columns, "inspect", model, environment={"TERM": "xterm"}))
    table = text[text.index("\nlayer") :]
    assert max(map(cell_len, table.splitlines())) <= columns
    whole = run("inspect", model)[0]
    for number in re.findall(r"\d[\d,]+", whole[whole.index("\nlayer") :]):
        assert number in table


@posix
def test_colours_are_for_terminals_and_for_those_who_ask(model: Path) -> None:
    assert "\x1b[1m" in in_terminal(80, "inspect", model)
    assert "\x1b" not in in_terminal(80, "inspect", model, environment={"TERM": "dumb"})
    piped = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    for environment, coloured in (({}, False), ({"FORCE_COLOR": "1"}, True)):
        done = shell("inspect", model, env={**piped, **environment})
        assert (b"\x1b[1m" in done.stdout) is coloured
        assert without_escapes(done.stdout.decode()) == run("inspect", model)[0]
    colours = re.findall(r"\x1b\[[\d;]*3\d", in_terminal(80, "inspect", "no", environment={"NO_COLOR": "1"}, code=1))
    assert colours == []
