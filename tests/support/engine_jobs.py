"""Jobs of docs/scaling.md: the page's programs, run as they stand, and their worker processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["PAGE", "busy_worker", "program", "run", "started"]

PAGE = ROOT / "docs" / "scaling.md"
LONGEST = 240  # seconds of a job
TICKS = os.sysconf("SC_CLK_TCK")


def program(heading: str, number: int = 0) -> str:
    """A Python block under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return blocks[number]


def started(text: str, folder: Path, **variables: str) -> "subprocess.Popen[str]":
    """A program as a script of its own in a folder, with processes of its own."""
    script = folder / "job.py"
    script.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, **variables}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, script.name], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip


def run(text: str, folder: Path, **variables: str) -> int:
    """The exit code of a program. What it wrote is in the file `log` of its folder."""
    return ended(started(text, folder, **variables))


def ended(process: "subprocess.Popen[str]") -> int:
    """Its exit code. Raises TimeoutExpired, and ends all of its processes, where it does not end by itself."""
    try:
        return process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        for number in [process.pid, *descendants(process.pid)]:
            os.kill(number, signal.SIGKILL)
        raise


def busy_worker(process: "subprocess.Popen[str]", pattern: str, seconds: float) -> int:
    """The number of a process below another one whose command line has a pattern, once it has used so much CPU time."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until and process.poll() is None:
        for number in descendants(process.pid):
            line, used = _facts(number)
            if re.search(pattern, line) and used >= seconds:
                return number
        time.sleep(0.05)
    raise AssertionError(f"no process like {pattern} before the job ended with {process.poll()}")


def descendants(process: int) -> list[int]:
    """The numbers of all processes below one."""
    below: dict[int, list[int]] = {}
    for number, parent in _parents():
        below.setdefault(parent, []).append(number)
    found = [process]
    for number in found:
        found.extend(below.get(number, []))
    return found[1:]


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (facts := _stat(int(folder.name))):
            yield int(folder.name), int(facts[1])


def _stat(number: int) -> list[str]:
    """What stands behind the name in /proc/NUMBER/stat, from the state on; nothing if it has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _facts(number: int) -> tuple[str, float]:
    """Its command line, and the seconds of CPU time that it has used."""
    facts = _stat(number)
    try:
        line = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        line = ""
    return line, (int(facts[11]) + int(facts[12])) / TICKS if facts else 0.0
