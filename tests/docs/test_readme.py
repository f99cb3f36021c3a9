"""README.md promises commands and figures; these tests hold it to them."""

import hashlib
import os
import re
import subprocess
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
    *commands, activate = quick_start()
    assert len(commands) == 4
    assert [line for line in run if line in commands] == commands
    assert activate == "source .venv/bin/activate"


def test_the_quick_start_needs_no_active_environment_and_the_rest_says_how_to_have_one() -> None:
    """`bitvit` alone is not found before `source .venv/bin/activate`."""
    for page in (README, *((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/guide.md"))):
        before = page.split("source .venv/bin/activate")[0]
        assert before != page
        blocks = re.findall(r"```bash\n(.*?)```", before, re.DOTALL)
        assert [line for block in blocks for line in block.splitlines() if re.match(r"bitvit|python |pip ", line)] == []


def test_the_paper_and_the_authors_code_are_linked() -> None:
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    for address in ("https://arxiv.org/abs/2503.02394", "https://github.com/IMRL/BHViT"):
        assert all(address in text for text in (README, guide, metadata))


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_tools_check_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python")}
    done = subprocess.run([ROOT / "tools" / "check"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(f"run: {tmp_path / 'python'} -m pip install --editable '.[dev]'\n")


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
    assert written == {name for name, (stored, _) in benchmarks.TABLES.items() if stored in results}


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
