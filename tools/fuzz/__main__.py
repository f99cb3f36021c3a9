"""Feed mutated .pth, .safetensors and packed model files to their readers.

    python -m tools.fuzz --count 100000                  # of each format
    python -m tools.fuzz pth --seconds 60 --out failures
    python -m tools.fuzz --replay failures/pth-1-13630

A failure is any exception but a BitvitError, more than 2 s of processor time or 512 MB of growth for a file, a process
that dies, and anything that a reader does apart from reading: importing, running code, starting a process, connecting,
writing. The folder keeps the input of each failure, what happened, and how far the run has come: the same command goes
on from there. The exit code is 1 if there is any failure.

Input number n of a format depends on the seed and n alone, and each of the readers runs in a process of its own.
"""

import argparse
import collections
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitvit.files import write_file

from . import tensors
from .worker import FORMATS, Worker, make_mutant

ROOT = Path(__file__).resolve().parent.parent.parent
SLICE = 20_000  # inputs for one process
PATIENCE = 60.0  # seconds of the clock for one input: the process is stuck where no signal reaches it


@dataclass
class Progress:
    """How far a format has come; kept in a file."""

    done: int = 0
    slowest: float = 0.0  # seconds of processor time for one input
    grown: int = 0  # most bytes that a process has grown by
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    messages: set[str] = field(default_factory=set)
    failures: int = 0

    def add(self, line: dict[str, Any]) -> None:
        self.done = line["done"]
        self.slowest, self.grown = max(self.slowest, line["slowest"]), max(self.grown, line["grown"])
        self.outcomes.update(line["outcomes"])
        self.messages.update(line["messages"])

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "messages": sorted(self.messages)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Progress":
        known = {"outcomes": collections.Counter(fields["outcomes"]), "messages": set(fields["messages"])}
        return cls(**{**fields, **known})


class Run:
    """The inputs of one format, fed to one process after another."""

    def __init__(self, form: str, seed: int, out: Path) -> None:
        self.form, self.seed, self.out = form, seed, out
        self.file = out / f"{form}-{seed}.json"
        self.progress = Progress.from_dict(json.loads(self.file.read_text())) if self.file.exists() else Progress()

    def advance(self, count: int, deadline: float) -> None:
        """Feed up to `count` more inputs, until the deadline."""
        end = self.progress.done + count
        while self.progress.done < end and time.monotonic() < deadline:
            with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-", dir=_memory()) as folder:
                self._slice(min(SLICE, end - self.progress.done), Path(folder), deadline)

    def _slice(self, count: int, folder: Path, deadline: float) -> None:
        start = self.progress.done
        command = [sys.executable, "-m", "tools.fuzz.worker", self.form, *map(str, (self.seed, start, count, folder))]
        errors = folder / "stderr"
        with errors.open("wb") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stream, text=True)
        with process, _Watchdog(process, folder / "at", deadline) as watchdog:
            for line in process.stdout or ():
                self._take(json.loads(line))
        if process.returncode in (-signal.SIGTERM, -signal.SIGINT):
            return  # stopped from outside: the next process goes on from there
        if process.returncode and not watchdog.ended:
            index = watchdog.index()
            last = errors.read_text(errors="replace")[-3000:]
            self._keep(index, f"the process ended with {process.returncode}, {watchdog.reason}\n{last}")
            self.progress.done = index + 1
        self._save()

    def _take(self, line: dict[str, Any]) -> None:
        if "failure" in line:
            self._keep(line["index"], line["failure"])
        else:
            self.progress.add(line)
            self._save()

    def _keep(self, index: int, what: str) -> None:
        self.progress.failures += 1
        with tempfile.TemporaryDirectory() as folder:
            data = make_mutant(self.form, self.seed, index, tensors.Seeds(Path(folder)))
        name = f"{self.form}-{self.seed}-{index}"
        (self.out / name).write_bytes(data)
        (self.out / f"{name}.txt").write_text(what)

    def _save(self) -> None:
        content = json.dumps(self.progress.to_dict(), indent=1)
        write_file(self.file, lambda file: file.write(content.encode()))


class _Watchdog:
    """Kills a process at the deadline, or when one input takes longer than PATIENCE."""

    def __init__(self, process: "subprocess.Popen[str]", at: Path, deadline: float) -> None:
        self._process, self._at, self._deadline = process, at, deadline
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.ended = False  # by the deadline, which does not count as a failure
        self.reason = "it was not killed"

    def __enter__(self) -> "_Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def index(self) -> int:
        """Number of the input that the process is at."""
        return int.from_bytes(self._at.read_bytes()[:8], "little") if self._at.exists() else 0

    def _watch(self) -> None:
        last, since = -1, time.monotonic()
        while not self._stop.wait(0.2):
            now, index = time.monotonic(), self.index()
            if index != last:
                last, since = index, now
            if now > self._deadline:
                self.ended = True
                self._process.kill()
                return
            if now - since > PATIENCE:
                self.reason = f"killed: stuck for {PATIENCE} s"
                self._process.kill()
                return


def _memory() -> str | None:
    """A folder in memory, where writing is fastest; None: the system has none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def replay(path: Path) -> None:
    """Feed one kept input to its reader again, and show what happens."""
    form, seed, _ = path.name.split("-")
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(form, int(seed), Path(folder))
        worker.warm_up()
        worker.path.write_bytes(path.read_bytes())
        print(worker.feed() or f"no failure: {dict(worker.outcomes)} {sorted(worker.messages)}")


def lines(runs: list[Run]) -> Iterator[str]:
    """A table of what has been done."""
    yield f"{'format':12}{'inputs':>10}{'refused':>10}{'read':>8}{'messages':>10}{'slowest':>9}{'growth':>9} failures"
    for run in runs:
        p = run.progress
        refused = sum(count for name, count in p.outcomes.items() if not name.startswith(("read", "used")))
        yield (
            f"{run.form:12}{p.done:10,}{refused:10,}{p.done - refused:8,}{len(p.messages):10}{p.slowest:7.2f} s"
            f"{p.grown / 2**20:6.0f} MB{p.failures:9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "formats", nargs="*", metavar="FORMAT", help=f"one or more of {', '.join(FORMATS)}; default: all"
    )
    parser.add_argument("--count", type=int, default=10_000, help="further inputs of each format (default 10000)")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after this time, over all formats; default: never"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default 1)")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="folder for failures and progress")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="only feed this kept input again")
    options = parser.parse_args()
    if options.replay:
        replay(options.replay)
        return
    unknown = set(options.formats) - set(FORMATS)
    if unknown:
        parser.error(f"no such format: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [Run(form, options.seed, options.out) for form in options.formats or FORMATS]
    deadline = time.monotonic() + options.seconds
    for run in runs:
        run.advance(options.count, deadline)
    print("\n".join(lines(runs)))
    sys.exit(any(run.progress.failures for run in runs))


if __name__ == "__main__":
    main()
