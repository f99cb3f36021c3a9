"""Wheel and source archive, which have the same bytes wherever they are built from the same commit."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["build", "commit_time", "export", "run_tests_of", "sums", "unpack"]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, hatchling.build
os.umask(int(sys.argv[2], 8))
for function in (hatchling.build.build_wheel, hatchling.build.build_sdist):
    print(function(sys.argv[1]))
"""


def commit_time() -> int:
    """When the last commit was made, in seconds since 1970: the time of all files in the archives."""
    return int(_git("log", "-1", "--format=%ct"))


def export(folder: Path) -> None:
    """Write what the last commit holds into a folder, to be made; nothing else that lies in the clone."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    _git("archive", "--format=tar", f"--output={archive}", "HEAD")
    unpack(archive, folder)
    archive.unlink()


def build(source: Path, out: Path, *, time: int, umask: str = "022", zone: str = "UTC") -> list[Path]:
    """Build wheel and source archive of the sources in a folder, with the hatchling that is installed.

    time: of the archives' files, seconds since 1970. umask, zone: of the process that builds, which must not matter.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out), umask],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(time), "TZ": zone, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{source}: cannot be built: {done.stderr[-800:]}")
    return [out / name for name in done.stdout.split()]


def sums(paths: Sequence[Path]) -> str:
    """A line for each file as sha256sum writes and checks them."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def run_tests_of(archive: Path, folder: Path, tests: Sequence[str]) -> str:
    """Unpack a source archive into a folder, to be made, and run tests of it there, which must see no other bitvit.

    Returns pytest's last line. Raises RuntimeError if a test fails.
    """
    unpack(archive, folder)
    (sources,) = folder.iterdir()
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    where = [sys.executable, "-c", "import bitvit; print(bitvit.__file__)"]
    found = subprocess.run(
        where, cwd=sources, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if Path(found) != sources / "bitvit" / "__init__.py":
        raise RuntimeError(f"{archive.name}: its tests would see {found}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{archive.name}: tests fail: {done.stdout[-800:]}{done.stderr[-800:]}")
    return done.stdout.strip().splitlines()[-1]


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        raise RuntimeError("there is no git, and a release is built from a commit")
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
