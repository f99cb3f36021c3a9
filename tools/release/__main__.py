"""Build a release from the last commit, and hold it to what SECURITY.md says of it.

    python -m tools.release [FOLDER] [--tests TEST …]

FOLDER, dist if none is named, gets the wheel, the source archive, a bill of materials (CycloneDX) of bitvit as it is
installed here with all extras for users, and SHA256SUMS, which is what is signed. Before that:

* both archives are built twice, in other folders, with other permissions and in other time zones: the same bytes
* tests of the source archive run where it was unpacked: those named, else a part of a minute
* pip-audit, where it is installed (`pip install pip-audit`), asks the index for known vulnerabilities of what
  .ci/requirements.txt pins; how many packages it had no answer for is said, as pip-audit itself takes that for success

Exit code 1 if anything does not hold.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.release.archives import ROOT, build, commit_time, export, run_tests_of, sums
from tools.release.sbom import LOCK, bill_of_materials, closure

__all__ = ["audited", "main"]

TESTS = (
    *("tests/test_bits.py", "tests/test_config.py", "tests/test_fold.py", "tests/test_pack.py"),
    *("tests/test_package.py", "tests/docs/test_security.py"),
)
EXTRAS = ("evaluate", "parquet", "serve")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.release")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    asked = parser.parse_args(arguments)
    try:
        return _release(asked.folder, asked.tests)
    except RuntimeError as problem:
        print(f"tools.release: {problem}", file=sys.stderr)
        return 1


def _release(out: Path, tests: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        place, time = Path(name), commit_time()
        export(place / "one")
        export(place / "another" / "folder")
        first = build(place / "one", place / "first", time=time)
        second = build(place / "another" / "folder", place / "second", time=time, umask="077", zone="Asia/Kathmandu")
        if sums(first) != sums(second):
            raise RuntimeError(f"other bytes when built again:\n{sums(first)}{sums(second)}")
        print(f"the same bytes twice: {', '.join(path.name for path in first)}")
        source = next(path for path in first if path.name.endswith(".tar.gz"))
        print(f"{source.name}: {run_tests_of(source, place / 'unpacked', tests)}")
        out.mkdir(parents=True, exist_ok=True)
        written = [Path(shutil.copy(path, out)) for path in first]
    bill = out / f"{source.name.removesuffix('.tar.gz')}.cdx.json"
    bill.write_text(bill_of_materials((ROOT / LOCK).read_text(encoding="utf-8"), time, EXTRAS), encoding="utf-8")
    print(f"{bill.name}: {len(closure('bitvit', EXTRAS)) - 1} packages")
    (out / "SHA256SUMS").write_text(sums([*written, bill]), encoding="utf-8")
    return _audit()


def _audit() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        print("known vulnerabilities: not asked for, there is no pip-audit")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--requirement", LOCK, "--require-hashes", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        lines, found = audited(done.stdout)
    except ValueError:
        raise RuntimeError(f"pip-audit has failed: {done.stderr.strip()[-400:]}") from None
    print("\n".join(lines))
    return 1 if found else 0


def audited(report: str) -> tuple[list[str], int]:
    """What pip-audit's JSON says, in lines, and the number of vulnerabilities. Raises ValueError if it is none."""
    packages = json.loads(report)["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in packages
        for fault in package.get("vulns", ())
    ]
    lines = [f"known vulnerabilities: {len(found)} in {len(packages) - len(unknown)} packages", *found]
    if unknown:
        lines.append(f"no answer for {len(unknown)} packages: {', '.join(unknown)}")
    return lines, len(found)


if __name__ == "__main__":
    sys.exit(main())
