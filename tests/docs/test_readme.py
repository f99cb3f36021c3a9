"""README.md promises commands and figures; these tests hold it to them."""

import hashlib
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools import benchmarks
from tools.results import read_results

README = (ROOT / "README.md").read_text(encoding="utf-8")


def quick_start() -> list[str]:
    """Commands of the quick start's code blocks."""
    section = README.split("## Quick start")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]


def test_ci_runs_the_commands_of_the_quick_start() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert len(quick_start()) == 4
    assert [line for line in run if line in quick_start()] == quick_start()


def test_the_program_of_the_quick_start_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.split("## Quick start")[1].split("\n## ")[0], re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(program, {})
    assert capsys.readouterr().out.startswith("Bag 0.9")


def test_it_is_short_and_begins_with_the_comparison() -> None:
    assert len(README.split()) <= 1000
    first_screen = README.splitlines()[:30]
    assert "<!-- summary:end -->" in first_screen
    assert quick_start()[1] in first_screen


def test_tables_are_those_of_the_stored_results() -> None:
    results = read_results(benchmarks.STORED)
    written = set()
    for page in benchmarks.PAGES:
        text = page.read_text(encoding="utf-8")
        assert benchmarks.with_tables(text, results, page.name) == text, f"{page.name}: run python -m tools.benchmarks"
        written |= set(re.findall(r"<!-- ([\w-]+):start -->", text))
    assert written == set(benchmarks.TABLES)


def test_stored_accuracy_is_that_of_the_cards() -> None:
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for row in read_results(benchmarks.STORED)["accuracy"]["results"]:
        (line,) = (line for line in card.splitlines() if line.startswith(f"| `{row['model']}.safetensors`"))
        assert f"| {row['pytorch_top1']:.2f} % | {row['bitvit_top1']:.2f} % |" in line


@pytest.mark.parametrize("model", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda path: path.name)
def test_model_cards_name_the_file_as_it_is(model: Path) -> None:
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert model.name in card
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card
