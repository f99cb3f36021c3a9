"""docs/bundle.md: its files, functions and options are those of the code."""

import re

from bitvit.bundle.manifest import FORMAT, LIBRARY, MANIFEST, WEIGHTS
from bitvit.bundle.source import FIXED, template
from bitvit.bundle.targets import DEFAULT_CPUS
from tests.support.command import run
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")


def test_files_are_those_that_are_written() -> None:
    table = PAGE.split("## What is written")[1].split("\n\n")[1]
    named = set(re.findall(r"`([\w.]+\.\w+|Makefile)`", "\n".join(row.split("|")[1] for row in table.splitlines())))
    made = {"bitvit_model.h", "bitvit_program.c", "README.md", MANIFEST, WEIGHTS, LIBRARY}
    assert named == {*FIXED, *made}
    assert f"format {FORMAT}," in table


def test_functions_and_options_are_those_of_the_header() -> None:
    header = template("bitvit_model.h")
    named = set(re.findall(r"\b(?:bitvit|BITVIT)_[A-Za-z_]+\b", PAGE)) - {"bitvit_program"}
    files = {"bitvit_model", "bitvit_python"}
    assert named >= {"bitvit_create", "bitvit_logits_rgb", "BITVIT_CROP_SIZE"}
    assert sorted(name for name in named - files if name not in header) == []


def test_options_of_the_command() -> None:
    stdout, _ = run("bundle", "--help")
    assert {option for option in re.findall(r"`(--[a-z]+)`", PAGE) if option not in stdout} == set()
    assert {name for names in DEFAULT_CPUS.values() for name in names} <= set(
        re.findall(r"`([\w-]+)`", PAGE.replace("`-v3`", "`x86-64-v3`").replace("`-v4`", "`x86-64-v4`"))
    )
