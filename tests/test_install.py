"""Installing: from the folder that holds a clone, an editable install is the package; what a wheel and an sdist hold.

A clone is itself a folder named bitvit, without an __init__.py. setuptools' editable install loses against it,
hatchling's does not (setuptools #3592).
"""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
# Without hatchling, which is in the extra "dev", pip fetches it.
BUILD = ["--no-deps"] if importlib.util.find_spec("hatchling") is None else ["--no-deps", "--no-build-isolation"]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed_folders() -> list[str]:
    """Where bitvit's dependencies and hatchling are."""
    names = ("numpy", "numba", "llvmlite", "safetensors", "PIL", "typer", "rich", "hatchling")
    specs = (importlib.util.find_spec(name) for name in names)
    return list(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder named bitvit with what a clone has, as far as packages are made of it."""
    folder = tmp_path_factory.mktemp("beside") / "bitvit"
    folder.mkdir()
    shutil.copytree(ROOT / "bitvit", folder / "bitvit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("tests", "tools", "docs", "weights"):
        (folder / name).mkdir()
        (folder / name / "README.md").write_text("stands for the folder's files")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, which has what bitvit needs but not bitvit."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    path = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (packages,) = run(path, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).splitlines()
    Path(packages, "zz-dependencies.pth").write_text("\n".join(installed_folders()))
    return path


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", *BUILD, "--wheel-dir", folder, clone, cwd=folder)
    (path,) = folder.glob("bitvit-*.whl")
    return path


def test_import_from_the_folder_that_holds_the_clone(clone: Path, python: Path) -> None:
    beside = clone.parent
    run(*PIP, "--python", python, "install", *BUILD, "--editable", "./bitvit", cwd=beside)
    script = "import bitvit; bitvit.load; print(bitvit.__file__)"
    for place in (beside, clone, python.parent):
        assert Path(run(python, "-c", script, cwd=place).strip()) == clone / "bitvit" / "__init__.py"


def test_a_wheel_holds_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    templates = (ROOT / "bitvit" / "bundle" / folder for folder in ("c", "web"))
    found = [*(ROOT / "bitvit").rglob("*.py"), *(path for folder in templates for path in folder.iterdir())]
    sources = {path.relative_to(ROOT).as_posix() for path in found}
    assert {name for name in names if ".dist-info/" not in name} == {
        *sources,
        "bitvit/py.typed",
        "bitvit/serve/page.html",
    }
    assert {name.partition(".dist-info/")[2] for name in names} >= {"licenses/LICENSE", "entry_points.txt"}


def test_an_sdist_holds_all_that_a_clone_has(tmp_path: Path) -> None:
    """So the tests run from it: their golden files, the models and the pages that they compare are there."""
    pytest.importorskip("hatchling", reason="needs hatchling: pip install 'bitvit[dev]'")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    run(sys.executable, "-c", f"import hatchling.build; hatchling.build.build_sdist({str(tmp_path)!r})", cwd=ROOT)
    (path,) = tmp_path.glob("bitvit-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert sorted(tracked - names) == []
    assert {name.partition("/")[0] for name in names} == {*(name.partition("/")[0] for name in tracked), "PKG-INFO"}
