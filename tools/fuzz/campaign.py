"""Runs of Atheris over one target: how far they have come, and what they have found."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bitvit.files import write_file

from . import corpus
from .targets import KINDS, ROOT

__all__ = ["Campaign", "Progress", "is_installed", "memory"]

ENGINE = ("-m", "tools.fuzz.engine")
STUCK = 60  # seconds of the clock for one input: no signal reaches it, as in a loop of C code
_FIGURE = re.compile(r"stat::(\w+):\s+(\d+)")
_BEGIN = re.compile(r"INITED .* rss: (\d+)Mb")


@dataclass
class Progress:
    """Of all runs over a target; kept in a file."""

    inputs: int = 0
    seconds: float = 0.0  # of the clock
    slowest: float = 0.0  # seconds of processor time for one reading
    grown: int = 0  # most MB that a process has grown by
    outcomes: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    failures: int = 0


class Campaign:
    """All runs over one target, in a folder of their own, where the same command goes on."""

    def __init__(self, target: str, out: Path) -> None:
        self.target, self.folder = target, out / target
        self.inputs, self.failures = self.folder / "corpus", self.folder / "failures"
        for folder in (self.inputs, self.failures):
            folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "progress.json"
        self.progress = Progress(**json.loads(self._file.read_text())) if self._file.exists() else Progress()

    def begin(self) -> None:
        """Lay out the inputs that are kept in the repository, and the target's own."""
        with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-", dir=memory()) as folder:
            target = KINDS[self.target].make(Path(folder))
            for data in (*target.seeds(), *corpus.kept(self.target)):
                (self.inputs / corpus.name_of(data)).write_bytes(data)
            target.close()

    def run(self, seconds: float, count: int) -> bool:
        """Feed inputs for so long, or so many; returns whether none of them was a failure."""
        facts, log = self.folder / "facts.json", self.folder / "log.txt"
        facts.unlink(missing_ok=True)
        options = [
            *(f"-max_total_time={max(1, round(seconds))}", f"-runs={count}"),
            *(f"-timeout={STUCK}", "-rss_limit_mb=0", "-print_final_stats=1"),
            *("-use_value_profile=1", "-mutate_depth=1"),  # a mutation is several changes already
            f"-artifact_prefix={self.failures}/",
        ]
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-", dir=memory()) as folder, log.open("wb") as stream:
            command = [sys.executable, *ENGINE, self.target, folder, *map(str, (facts, *options, self.inputs))]
            done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
        text = log.read_text(errors="replace")
        self._add(text, json.loads(facts.read_text()) if facts.exists() else {}, time.monotonic() - begin)
        if done.returncode:
            self.progress.failures += 1
            print(f"{self.target}: see {self.failures} and the end of {log}:", *text.splitlines()[-40:], sep="\n")
        content = json.dumps(asdict(self.progress), indent=1).encode()
        write_file(self._file, lambda file: file.write(content))
        return not done.returncode

    def _add(self, log: str, facts: dict[str, object], seconds: float) -> None:
        """What libFuzzer and the judge say of a run."""
        figures = {name: int(value) for name, value in _FIGURE.findall(log)}
        begin, progress = _BEGIN.search(log), self.progress
        progress.inputs += figures.get("number_of_executed_units", 0)
        progress.seconds += seconds
        if begin:
            progress.grown = max(progress.grown, figures.get("peak_rss_mb", 0) - int(begin[1]))
        slowest, outcomes, messages = (facts.get(name) for name in ("slowest", "outcomes", "messages"))
        if isinstance(slowest, float) and isinstance(outcomes, dict) and isinstance(messages, list):
            progress.slowest = max(progress.slowest, slowest)
            for name, number in outcomes.items():
                progress.outcomes[name] = progress.outcomes.get(name, 0) + number
            progress.messages = sorted({*progress.messages, *messages})


def is_installed(package: str) -> bool:
    """Whether Atheris or coverage.py is there."""
    return importlib.util.find_spec(package) is not None


def memory() -> str | None:
    """A folder in memory, where writing is fastest; None: the system has none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
