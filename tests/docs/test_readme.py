"""README.md promises commands and figures; these tests hold it to them."""

import hashlib
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def quick_start() -> list[str]:
    """Commands of the quick start's code blocks."""
    section = README.split("## Quick start")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]


def test_ci_runs_the_commands_of_the_quick_start() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert len(quick_start()) == 4
    assert [line for line in run if line in quick_start()] == quick_start()


def test_named_files_exist() -> None:
    named = set(re.findall(r"(?:weights|tools|docs|bitvit)/[\w./-]*\w", README))
    assert len(named) > 5
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_no_placeholder_is_left() -> None:
    for page in (README, (ROOT / "weights" / "README.md").read_text(encoding="utf-8")):
        assert re.findall(r"@[A-Z]+@", page) == []


@pytest.mark.parametrize("model", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda path: path.name)
def test_model_cards_name_the_file_as_it_is(model: Path) -> None:
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert model.name in card
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card
