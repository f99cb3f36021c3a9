"""Plain command lines are read as typer reads them, and all others are left to typer."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bitvit.cli.application import with_typers
from bitvit.cli.classify import classify
from bitvit.cli.declare import Argument, Option
from bitvit.cli.evaluate import evaluate
from bitvit.cli.quick import values_of
from tests.support.command import shell
from tests.support.paths import ROOT

PLAIN = [
    ("m.safetensors", "a.png"),
    ("m.safetensors", "a.png", "b.png", "-"),
    ("a.png", "-k", "3", "b.png", "--format", "csv"),
    ("m", "--top-k=3", "--exif", "-r", "-o", "out.csv", "x"),
    ("m", "-0", "@-", "--watch", "x", "--urls", "--max-download=8"),
    ("m", "x", "-f", "json", "-b", "1", "-t", "2", "--explain", "heat", "-k", "1", "-k", "2"),
]
OTHER = [
    (),
    ("m",),
    ("m", ""),
    ("--help",),
    ("m", "x", "-h"),
    ("m", "x", "--top-k"),
    ("m", "x", "--top-k", "0"),
    ("m", "x", "--top-k", "two"),
    ("m", "x", "--top-k", "-1"),
    ("m", "x", "--top-k="),
    ("m", "x", "-k3"),
    ("m", "x", "-k=3"),
    ("m", "x", "-re"),
    ("m", "x", "--form", "csv"),
    ("m", "x", "--format", "xml"),
    ("m", "x", "--exif=yes"),
    ("m", "x", "--no-exif"),
    ("m", "--", "-x"),
]


EVALUATE_PLAIN = [
    ("m", "data"),
    ("m", "n", "data"),
    ("m", "n", "o", "-b", "4", "data", "--on-error", "list"),
    ("m", "data", "--output=report", "-f", "json", "--resume", "--decoders", "3"),
    ("--folds", "m", "data", "--root", ".", "--path-column", "photo", "-t", "1"),
]
EVALUATE_OTHER = [
    (),
    ("m",),
    ("m", "data", "--subset", "cat"),  # may be given again and again
    ("m", "data", "--on-error", "ignore"),
    ("m", "data", "--decoders", "0"),
    ("m", "--help"),
]


def by_typer(command: Callable[..., None], *arguments: str) -> dict[str, Any] | None:
    """The values that typer finds; None if it refuses the command line or answers it itself."""
    found: list[dict[str, Any]] = []
    app = typer.Typer(add_completion=False)

    def note(**values: Any) -> None:
        found.append(values)

    copy = with_typers(command)
    note.__annotations__ = copy.__annotations__
    note.__signature__ = inspect.signature(copy)  # type: ignore[attr-defined]
    app.command()(note)
    CliRunner().invoke(app, list(arguments))
    return found[0] if found else None


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_plain_command_lines_are_read(arguments: tuple[str, ...]) -> None:
    values = values_of(classify, arguments)
    assert values is not None
    assert values == by_typer(classify, *arguments)


@pytest.mark.parametrize("arguments", EVALUATE_PLAIN, ids=" ".join)
def test_plain_command_lines_of_evaluate_are_read(arguments: tuple[str, ...]) -> None:
    values = values_of(evaluate, arguments)
    assert values is not None
    assert values == by_typer(evaluate, *arguments)


@pytest.mark.parametrize("arguments", OTHER, ids=" ".join)
def test_others_are_left_to_typer(arguments: tuple[str, ...]) -> None:
    assert values_of(classify, arguments) is None


@pytest.mark.parametrize("arguments", EVALUATE_OTHER, ids=" ".join)
def test_others_of_evaluate_are_left_to_typer(arguments: tuple[str, ...]) -> None:
    assert values_of(evaluate, arguments) is None


WORDS = st.sampled_from(
    [
        *("m", "a b", "-", "--", "--exif", "-r", "-k", "--top-k", "--top-k=2", "3", "0", "-f", "csv", "--format=json"),
        *("-o", "--output", "-t", "--threads", "-b", "٣", "1.0", "+1", "CSV", "-h", "--explain", "", "-rk", "--x"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=8))
def test_nothing_is_read_otherwise_than_by_typer(arguments: list[str]) -> None:
    for command in (classify, evaluate):
        values = values_of(command, arguments)
        assert values is None or values == by_typer(command, *arguments)


class Colour(str, Enum):
    red = "red"


def test_settings_that_are_not_known_are_left_to_typer() -> None:
    def command(
        name: Annotated[Path, Argument(exists=True)],
        colour: Annotated[Colour, Option("--colour", help="")] = Colour.red,
        size: Annotated[float, Option("--size", help="")] = 1.0,
    ) -> None: ...

    assert values_of(command, ["here"]) is None
    command.__annotations__["name"] = Annotated[Path, Argument(help="")]
    assert values_of(command, ["here"]) == {"name": Path("here"), "colour": Colour.red, "size": 1.0}
    assert values_of(command, ["here", "--colour", "red"]) is not None
    assert values_of(command, ["here", "--size", "2"]) is None


def test_a_plain_command_line_starts_without_typer_and_rich(model: Path, images: Path) -> None:
    code = (
        "import gc, os, sys; from bitvit.cli import main; main(); "
        "print(*sorted({'typer', 'rich', 'pydantic', 'numba', 'bitvit.explain'} & set(sys.modules)), "
        "os.environ['OPENBLAS_NUM_THREADS'], gc.get_freeze_count() > 0)"
    )
    command = [sys.executable, "-c", code, "classify", str(model), str(images / "a.png")]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 True"


def test_evaluate_starts_without_typer_and_scikit_learn(model: Path, images: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from bitvit.cli import main; main(); "
        "print(*sorted({'typer', 'pydantic', 'numba', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)), 'end')"
    )
    table = tmp_path / "table.csv"
    table.write_text(f"path,label\n{images / 'a.png'},0\n{images / 'b.jpg'},1\n")
    command = [sys.executable, "-c", code, "evaluate", str(model), str(table), "--state", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "top-1" in done.stdout
    assert done.stdout.splitlines()[-1] == "end"


def test_both_ways_of_reading_end_alike(model: Path, images: Path) -> None:
    """-k1 is typer's to read."""
    (images / "no.png").write_text("no image")
    for code, paths in ((0, ["a.png"]), (3, ["no.png", "a.png"]), (3, ["missing.png"])):
        plain, other = (
            shell("classify", model, *[images / path for path in paths], *option) for option in (("-k", "1"), ("-k1",))
        )
        assert (plain.returncode, plain.stdout, plain.stderr) == (other.returncode, other.stdout, other.stderr)
        assert plain.returncode == code
    wrong = [shell("classify", "no.safetensors", images / "a.png", *option) for option in (("-k", "1"), ("-k1",))]
    assert wrong[0].stderr == wrong[1].stderr
    assert wrong[0].stderr.startswith(b"Error: no.safetensors: does not exist")
    assert [done.returncode for done in wrong] == [1, 1]
