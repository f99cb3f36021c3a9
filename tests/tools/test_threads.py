"""The model of a team of threads: its table names the code as it is, and the model checker goes through it."""

import ast
import re
from functools import cache

import pytest

from tests.support.paths import ROOT
from tools.threads.__main__ import FAULTS, SIZES
from tools.threads.checker import MODEL, check, missing

README = MODEL.with_name("README.md").read_text(encoding="utf-8")
SCHEDULE = "bitvit/kernels/schedule.py"
ROWS = re.findall(r"^\| .*?\| `(bitvit/[\w/.]+)` \| `(\w+)` \| `(.+)` \|$", README, re.MULTILINE)


@cache
def functions(path: str) -> dict[str, list[str]]:
    """The lines of each function of a file, without white space around them; of all functions of a name."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    if path.endswith(".py"):
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).extend(
                    line.strip() for line in lines[node.lineno - 1 : node.end_lineno]
                )
    else:
        for name, body in re.findall(r"^[\w *]+?(\w+)\([^;{]*\)\n\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            found[name] = [line.strip() for line in body.splitlines()]
    return found


def test_each_line_of_the_table_is_in_the_code() -> None:
    assert len(ROWS) > 40
    assert [row for row in ROWS if row[2] not in functions(row[0]).get(row[1], [])] == []


def test_each_atomic_access_is_in_the_table() -> None:
    """So whoever adds one is told to add it to the model."""
    described = {(name, line) for path, name, line in ROWS if path == SCHEDULE}
    accesses = {
        (name, line)
        for name, lines in functions(SCHEDULE).items()
        for line in lines
        if re.search(r"\batomic_(?:add|load|store)\(", line) and not line.startswith("def ")
    }
    assert len(accesses) > 20
    assert sorted(accesses - described) == []


def test_functions_of_the_model_are_those_of_the_code() -> None:
    model = MODEL.read_text(encoding="utf-8")
    named = {name.rpartition(".")[2] for name in re.findall(r"/\* # ([\w.]+)", model)}
    code = {name for path in {row[0] for row in ROWS} for name in functions(path)}
    assert named <= code
    assert {"_run_image", "_claim", "_close", "open_image", "help_image", "post", "_serve"} <= named


def test_each_fault_of_the_model_is_checked() -> None:
    faults = set(re.findall(r"\bFAULT_\w+", MODEL.read_text(encoding="utf-8"))) - {"FAULT_"}
    assert faults == {option for fault in FAULTS for option in fault.options.split() if option.startswith("FAULT_")}


@pytest.mark.skipif(bool(missing()), reason="needs spin and gcc")
def test_no_order_of_steps_leads_to_an_error_and_a_fault_is_found() -> None:
    outcome = check(["RAISES=2", "CALLS=2"])
    assert outcome.errors == 0
    assert outcome.states > 50_000
    fault = next(fault for fault in FAULTS if "SECOND_LOOK" in fault.options)
    outcome = check(fault.options.split())
    assert outcome.errors == 1
    assert fault.found in outcome.found


def test_four_helpers_are_the_most() -> None:
    """As README.md says."""
    assert {int(n) for size in SIZES for n in re.findall(r"HELPERS=(\d)", size.options)} == {2, 3, 4}
