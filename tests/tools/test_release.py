"""Archives of a release, the list of what they stand on, and the versions that CI installs."""

import json
import os
import re
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from bitvit.version import __version__
from tests.support.paths import ROOT

pytest.importorskip("hatchling", reason="needs hatchling: pip install 'bitvit[dev]'")
pytest.importorskip("packaging", reason="needs packaging: pip install 'bitvit[dev]'")

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.release.__main__ import audited
from tools.release.archives import build, run_tests_of, sums
from tools.release.sbom import LOCK, bill_of_materials, closure, hashes_of

TEXT = (ROOT / LOCK).read_text(encoding="utf-8")
TIME = 1_790_000_000


def needed(*extras: str) -> dict[str, tuple[Distribution, list[str]]]:
    """What bitvit needs; skips the test where some of it is not installed."""
    try:
        return closure("bitvit", extras)
    except PackageNotFoundError as lacking:
        pytest.skip(f"needs {lacking} to be installed: pip install --editable '.[dev]'")


def sources(folder: Path) -> Path:
    """A part of a clone, of which both archives can be built."""
    folder.mkdir(parents=True)
    for name in ("bitvit", "tests/golden", "tests/support"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("__init__.py", "conftest.py", "test_bits.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel and a source archive."""
    folder = tmp_path_factory.mktemp("built")
    return build(sources(folder / "sources"), folder / "out", time=TIME)


# ---------------------------------------------------------------------------------------------------------- archives
def test_archives_have_the_same_bytes_anywhere(built: list[Path], tmp_path: Path) -> None:
    """From another folder, with other permissions, in another time zone, a day later."""
    before = os.umask(0o077)
    try:
        elsewhere = sources(tmp_path / "some" / "where")
    finally:
        os.umask(before)
    for path in elsewhere.rglob("*"):
        os.utime(path, (TIME + 86_400,) * 2)
    again = build(elsewhere, tmp_path / "out", time=TIME, umask="077", zone="Asia/Kathmandu")
    assert [path.suffix for path in built] == [".whl", ".gz"]
    assert sums(again) == sums(built)
    assert sums(build(elsewhere, tmp_path / "later", time=TIME + 86_400)) != sums(built), (
        "SOURCE_DATE_EPOCH has no effect"
    )


def test_tests_run_from_a_source_archive(built: list[Path], tmp_path: Path) -> None:
    last = run_tests_of(built[1], tmp_path / "unpacked", ["tests/test_bits.py"])
    assert re.search(r"\d+ passed", last) or re.fullmatch(r"\.+ +\[100%\]", last)


def test_sources_that_cannot_be_built_are_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"{tmp_path}: cannot be built: ")):
        build(tmp_path, tmp_path / "out", time=TIME)


# -------------------------------------------------------------------------------------------------- bill of materials
@pytest.fixture(scope="module")
def bill() -> Any:
    needed()
    return json.loads(bill_of_materials(TEXT, TIME))


def test_a_bill_has_what_bitvit_needs(bill: Any) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/bitvit@{__version__}"
    assert bill["metadata"]["timestamp"] == "2026-09-21T14:13:20Z"
    direct = {"llvmlite", "numba", "numpy", "pillow", "rich", "safetensors", "typer"}
    depends = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    assert {ref.split("/")[1].split("@")[0] for ref in depends[f"pkg:pypi/bitvit@{__version__}"]} == direct
    components = {row["bom-ref"]: row for row in bill["components"]}
    assert set(depends) == {*components, f"pkg:pypi/bitvit@{__version__}"}
    assert all(need in components for needs in depends.values() for need in needs)
    assert {row["name"] for row in components.values()} > direct
    for row in components.values():
        assert row["version"] == version(row["name"])
        assert row["licenses"], row["name"]


def test_a_bill_has_the_hashes_of_pinned_versions(bill: Any) -> None:
    pinned = hashes_of(TEXT)
    given = 0
    for row in bill["components"]:
        hashes = [h["content"] for r in row.get("externalReferences", ()) for h in r["hashes"]]
        assert hashes == pinned.get((row["name"], row["version"]), [])
        given += bool(hashes)
    if os.environ.get("CI"):  # elsewhere other versions may be installed
        assert given == len(bill["components"])


def test_a_bill_is_the_same_again_and_another_with_extras(bill: Any) -> None:
    assert bill_of_materials(TEXT, TIME) == json.dumps(bill, indent=1) + "\n"
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'bitvit[parquet]'")
    more = json.loads(bill_of_materials(TEXT, TIME, ["parquet"]))
    assert {row["name"] for row in more["components"]} == {row["name"] for row in bill["components"]} | {"pyarrow"}
    assert more["serialNumber"] != bill["serialNumber"]


# -------------------------------------------------------------------------------------------------------------- lock
def test_all_that_ci_installs_is_pinned_by_its_bytes() -> None:
    """Every pin has hashes, and what is installed where CI runs is what is pinned."""
    pinned = hashes_of(TEXT)
    assert len(pinned) > 60
    assert [name for name, hashes in pinned.items() if not hashes] == []
    packages = needed("dev")
    assert {"numba", "pytest", "hatchling", "starlette"} < set(packages)
    assert sorted(set(packages) - {"bitvit"} - {name for name, _ in pinned}) == []
    if os.environ.get("CI"):
        versions = {(name, about.version) for name, (about, _) in packages.items() if name != "bitvit"}
        assert sorted(versions - set(pinned)) == []


def test_pins_are_what_pyproject_asks_for() -> None:
    pinned: dict[str, list[str]] = {}
    for name, number in hashes_of(TEXT):
        pinned.setdefault(name, []).append(number)
    about, _ = needed()["bitvit"]
    checked = 0
    for requirement in map(Requirement, about.requires or ()):
        numbers = pinned.get(canonicalize_name(requirement.name), [])
        assert all(requirement.specifier.contains(number) for number in numbers), f"{requirement}: run .ci/lock"
        checked += bool(numbers)
    assert checked > 15


# ------------------------------------------------------------------------------------------------------------- audit
def test_an_audit_says_what_it_had_no_answer_for() -> None:
    """pip-audit ends with 0 although it could ask for nothing."""
    known = {"name": "one", "version": "1.0", "vulns": [{"id": "PYSEC-0000-0", "fix_versions": ["1.1"]}]}
    unknown = {"name": "another", "skip_reason": "Dependency not found"}
    good = {"name": "third", "version": "3.0", "vulns": []}
    assert audited(json.dumps({"dependencies": [known, unknown, good]})) == (
        [
            "known vulnerabilities: 1 in 2 packages",
            "one 1.0: PYSEC-0000-0, mended in 1.1",
            "no answer for 1 packages: another",
        ],
        1,
    )
    assert audited(json.dumps({"dependencies": [good]})) == (["known vulnerabilities: 0 in 1 packages"], 0)
    with pytest.raises(ValueError, match="Expecting value"):
        audited("")
