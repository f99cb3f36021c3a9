"""tools/fuzz: a short run, and proof that it notices the faults that it looks for."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tools.fuzz.tensors import Seeds
from tools.fuzz.worker import FORMATS, make_mutant

INPUTS = 1000  # of each format

PLANTED = """
import os, pickle, subprocess, sys
from pathlib import Path
from bitvit.errors import CheckpointError
from tools.fuzz import guard, worker

guard.SECONDS = 0.3
FAULTS = {
    "nothing": lambda path: None,
    "refusal": lambda path: fail(CheckpointError(f"{path}: bad")),
    "nameless": lambda path: fail(CheckpointError("bad")),
    "exception": lambda path: path.read_bytes()[10**9],
    "exit": lambda path: sys.exit(3),
    "hang": lambda path: endless(),
    "memory": lambda path: bytearray(600 << 20),
    "import": lambda path: __import__("this"),
    "eval": lambda path: eval("1 + 1"),
    "shell": lambda path: os.system("true"),
    "process": lambda path: subprocess.run(["true"]),
    "pickle": lambda path: pickle.loads(b"cos\\nsystem\\n."),
    "write": lambda path: open(path, "w"),
    "hidden": lambda path: hidden(path),
}

def fail(error):
    raise error

def endless():
    while True:
        pass

def hidden(path):
    try:
        open(path, "a")
    except BaseException:
        pass

this = worker.Worker("safetensors", 1, Path(sys.argv[1]))
this.use = lambda found, folder: None
guard.limit_memory()
for name, fault in FAULTS.items():
    this.path.write_bytes(b"x")
    this.read = fault
    print(name, (this.feed() or "passed").strip().splitlines()[-1][:60], sep="|")
"""

NOTICED = {
    "nothing": "passed",
    "refusal": "passed",
    "nameless": "a message without the file's name: bad",
    "exception": "IndexError",
    "exit": "SystemExit: 3",
    "hang": "Hang: more than 0.3 s",
    "memory": "MemoryError",
    "import": "Executed: import ('this'",
    "eval": "Executed: compile",
    "shell": "Executed: os.system",
    "process": "Executed: subprocess.Popen",
    "pickle": "Executed: pickle.find_class",
    "write": "Executed: open",
    "hidden": "not let through: open",
}


def fuzz(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.fuzz", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_readers_survive_a_short_run_that_is_resumed(tmp_path: Path) -> None:
    """In two halves: the second goes on where the first ended."""
    for _ in range(2):
        done = fuzz("--count", INPUTS // 2, "--out", tmp_path)
        kept = [path.read_text() for path in tmp_path.glob("*.txt")]
        assert done.returncode == 0, done.stdout + done.stderr + "\n".join(kept)
    for form, messages in {"pth": 40, "safetensors": 30, "packed": 40}.items():
        progress = json.loads((tmp_path / f"{form}-1.json").read_text())
        assert progress["done"] == sum(progress["outcomes"].values()) == INPUTS
        assert progress["failures"] == 0
        assert progress["outcomes"].get("read", 0) + progress["outcomes"].get("read, CheckpointError", 0) > 20
        assert len(progress["messages"]) > messages, "hardly anything is reached"


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = dict(line.split("|", 1) for line in done.stdout.splitlines())
    assert found.keys() == NOTICED.keys(), done.stderr
    for name, part in NOTICED.items():
        assert part in found[name], name


def test_inputs_depend_on_nothing_but_their_number(tmp_path: Path) -> None:
    seeds = Seeds(tmp_path)
    for form in FORMATS:
        first = [make_mutant(form, 1, index, seeds) for index in range(30)]
        assert first == [make_mutant(form, 1, index, seeds) for index in range(30)]
        assert len(set(first)) == 30
        assert first != [make_mutant(form, 2, index, seeds) for index in range(30)]


def test_a_kept_input_is_fed_again(tmp_path: Path) -> None:
    (tmp_path / "pth-1-7").write_bytes(b"PK\x03\x04")
    done = fuzz("--replay", tmp_path / "pth-1-7")
    assert done.returncode == 0, done.stderr
    assert "no failure: {'CheckpointError': 1}" in done.stdout


def test_an_unknown_format_is_wrong_usage() -> None:
    done = fuzz("zip")
    assert done.returncode == 2
    assert "no such format: zip" in done.stderr
