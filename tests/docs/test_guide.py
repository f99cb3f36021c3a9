"""docs/guide.md: its commands and programs run, in order, and print what the page shows; figures may be others."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.golden_data import find
from tests.support.paths import ROOT

for package in ("sklearn", "matplotlib", "torch"):
    pytest.importorskip(package, reason="needs scikit-learn, matplotlib and PyTorch: bitvit[dev] and bitvit[train]")

GUIDE = ROOT / "docs" / "guide.md"
LEFT_BEHIND = (  # what the page says that its commands write
    *("predictions.csv", "heat/photo.png", "model.safetensors", "before.json", "after.json", "profile.png"),
    *("report/report.json", "report/confusion.png", "report/calibration.png", "answers.csv"),
    *("my-digits.run/results.png", "my-digits.run/log.csv", "my-digits.run/README.md", "my-digits.run/config.json"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block and the line it begins at; what the page shows of its output."""

    line: int
    language: str
    text: str
    shown: str = ""


def blocks() -> list[Block]:
    """The page's programs and shell commands, each with the text block right behind it."""
    page = GUIDE.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        language, text = match.groups()
        if language == "text":
            assert page[: match.start()].endswith(f"{found[-1].text}```\n"), "output that belongs to no command"
            found[-1] = Block(found[-1].line, found[-1].language, found[-1].text, text)
        else:
            found.append(Block(page.count("\n", 0, match.start()) + 1, language, text))
    return found


def without_figures(text: str) -> list[str]:
    """Lines whose figures are all 0, and whose spaces are single."""
    return [" ".join(re.sub(r"\d+", "0", line).split()) for line in text.splitlines()]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with what the page takes for granted, and a `bitvit` on the path in tmp_path/bin."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "weights").symlink_to(ROOT / "weights")
    (place / "checkpoint.pth").symlink_to(find("pth/checkpoint.pth"))
    config = json.loads(find("cases/micro96_pth.json").read_text())["config"]
    (place / "config.json").write_text(json.dumps(config))
    (place / "labels.txt").write_text("".join(f"class {letter}\n" for letter in "abcdefghij"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)).save(place / "photo.jpg")
    program = tmp_path / "bin" / "bitvit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bitvit "$@"\n')
    program.chmod(0o755)
    return place


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_everything_on_the_page_runs(workplace: Path) -> None:
    """As it stands there, but that benchmarks and the training take less time."""
    environment = {
        **os.environ,
        "PATH": f"{workplace.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for block in blocks():
        begin = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
        shorter = re.sub(r"--seconds [\d.]+\b", "--seconds 0.1", block.text).replace(
            "--epochs 2", "--epochs 1 --threads 1"
        )
        command = [*begin, shorter]
        done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{GUIDE.name}, line {block.line}: {done.stderr}"
        printed = without_figures(done.stdout)
        missing = [line for line in without_figures(block.shown) if line not in printed]
        assert missing == [], f"{GUIDE.name}, line {block.line}: printed {done.stdout}"
    assert [name for name in LEFT_BEHIND if not (workplace / name).exists()] == []
    assert list(workplace.glob("*.state")) == []
    report = json.loads((workplace / "report" / "report.json").read_text())
    assert f"{report['images']} images about a point" in GUIDE.read_text(encoding="utf-8")


def test_every_verb_and_option_on_the_page_exists() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    verbs = ("convert", "classify", "evaluate", "inspect", "verify", "warmup", "bench", "push", "train")
    sources = "".join((ROOT / "bitvit" / "cli" / f"{verb}.py").read_text(encoding="utf-8") for verb in verbs)
    known = set(re.findall(r'"(--[a-z-]+)"', sources))
    known |= {"--index-url"}  # of pip
    known |= {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): Annotated", sources, re.MULTILINE)}
    assert len(options) > 20
    assert sorted(options - known) == []
    assert set(re.findall(r"\bbitvit ([a-z]+)\b", "\n".join(b.text for b in blocks() if b.language == "bash"))) == {
        *verbs
    }


def test_the_page_is_linked_and_its_links_lead_somewhere() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    headings = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    anchors = re.findall(r"\]\(docs/guide\.md#([\w-]+)\)", readme) + re.findall(r"\]\(#([\w-]+)\)", page)
    assert "(docs/guide.md)" in readme
    assert len(anchors) > 8
    assert sorted(set(anchors) - headings) == []


def test_the_model_file_is_told_in_25_lines() -> None:
    section = GUIDE.read_text(encoding="utf-8").split("## The model file\n")[1].split("```python")[0]
    assert len(section.strip().splitlines()) <= 25


def test_figures_on_the_page_are_measured_ones() -> None:
    """Those of speed stand in the generated tables of benchmarks.md, those of accuracy on the models' cards."""
    page = GUIDE.read_text(encoding="utf-8")
    tables = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    cards = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for figure in re.findall(r"(\d+\.\d\d) % on (?:Fashion-MNIST|the held-out digits)", page):
        assert f"{figure} %" in cards
    end_to_end = re.search(
        r"End to end it takes ([\d.]+) ms, ([\d.]+) x what the limit says for its (\S+) binary", tables
    )
    assert end_to_end is not None
    time, ratio, work = end_to_end.groups()
    assert f"takes {float(time):.1f} ms for {work} binary multiply-adds, {float(ratio):.1f} x what" in page
    floats = re.findall(r"\| (?:stem stem|stages\.\d\.downsample float_down) \| (\d+) \|", tables)
    assert f"multiply floats ({sum(map(int, floats)) / 1e3:.1f} ms of it)" in page
    limit = re.search(r"The limit is (\S+) binary multiply-adds a second on one core", tables)
    assert limit is not None
    assert f"at most {limit[1]} multiply-adds a second" in " ".join(page.split())
    shares = [int(share) for share in re.findall(r"^\| \d+ x \d+ x \d+ \| (\d+)% \|$", tables, re.MULTILINE)]
    assert f"reach {min(shares)} to {max(shares)} % of that" in " ".join(page.split())
