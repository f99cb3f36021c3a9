"""All pages: what they name exists, and nothing is left of what they were made from."""

import importlib.util
import re
from pathlib import Path

import pytest

import bitvit
from tests.support.paths import ROOT

PAGES = sorted(
    path
    for folder in ("", "docs", "weights", "tools/train", "tests/golden", "tests/digits")
    for path in (ROOT / folder).glob("*.md")
)
FOLDERS = r"(?:bitvit|tests|tools|docs|weights|findings)"
MADE = {"bitvit/cli/labels.py", "findings/NAME.sh"}  # what CONTRIBUTING.md's examples add

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def headings(page: Path) -> set[str]:
    """Anchors, as GitHub makes them of headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_all_pages_are_looked_at() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert names >= {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/benchmarks.md",
        "docs/guide.md",
    }


@every_page
def test_named_files_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = text.replace("https://", "")
    files = set(re.findall(rf"(?<![\w./-]){FOLDERS}/[\w./-]*\w", text)) - MADE
    modules = set(re.findall(r"python -m ((?:tools|tests|bitvit)(?:\.[a-z_]+)*)(?![\w.]*[A-Z])", text))
    old = re.findall(r"^  \| (.*) \| .* \|$", text, re.MULTILINE) if page.name == "CHANGELOG.md" else []
    modules -= {module for module in modules if any(module in cell for cell in old)}
    assert sorted(name for name in files if not (ROOT / name).exists()) == []
    assert sorted(name for name in modules if importlib.util.find_spec(name) is None) == []


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), f"{target}#{anchor}"


@every_page
def test_nothing_is_said_of_files_that_are_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert (
        re.findall(r"@[A-Z]+@|DESIGN\.md|TOLERANCE\.md|golden tolerances|(?<![/\w])python (?:tools|tests)/", text) == []
    )


@every_page
def test_an_image_is_an_image(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name != "CHANGELOG.md":
        assert re.findall(r"\w*[Pp]icture\w*", text) == []


# ------------------------------------------------------------------------------------------- changelog and citation
def test_the_changelog_begins_with_what_is_unreleased_or_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert versions[0] in ("Unreleased", bitvit.__version__)
    assert bitvit.__version__ in versions
    kinds = re.findall(r"^### (\w+)", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_file_is_one() -> None:
    """Its form was proved by cffconvert, which is no requirement here: keys of the top level, and what must agree."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "\t" not in text
    top = dict(re.findall(r"^([a-z-]+):[ ]*(.*)$", text, re.MULTILINE))
    assert top.keys() >= {"cff-version", "message", "title", "authors", "references"}
    assert (top["cff-version"], top["type"], top["title"]) == ("1.2.0", "software", "bitvit")
    assert top["version"] == bitvit.__version__
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for value in (top["license"], re.search(r"^  - name: (.*)$", text, re.MULTILINE)):
        assert value is not None
        assert f'"{value if isinstance(value, str) else value[1]}"' in project
    for line in text.splitlines():
        assert re.fullmatch(r" *(- )?([a-z-]+:( .+)?|[A-Za-z0-9].*)", line), line
    reference = text.split("references:\n")[1]
    people = list(zip(*(re.findall(rf"{part}-names: (.*)", reference) for part in ("given", "family")), strict=True))
    assert people[0] == ("Tian", "Gao")
    assert people[-1] == ("Hui", "Kong")
    assert len(people) == 7
