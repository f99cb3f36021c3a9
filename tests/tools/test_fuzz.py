"""tools/fuzz: the inputs that are kept, proof that the judge notices the faults it looks for, and the mutations."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from bitvit.tensorfile import PREFIX
from tests.support.logs import loggers_as_they_were
from tests.support.paths import ROOT
from tools.fuzz import __main__ as command
from tools.fuzz import corpus
from tools.fuzz.campaign import Campaign
from tools.fuzz.targets import KINDS, all_modules


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The target http silences those of its whole process."""
    with loggers_as_they_were():
        yield


PLANTED = """
import os, pickle, subprocess, sys, warnings
from pathlib import Path
from bitvit.errors import CheckpointError
from tools.fuzz import guard, target

guard.SECONDS = 0.3
FAULTS = {
    "nothing": lambda path: None,
    "refusal": lambda path: fail(CheckpointError(f"{path}: bad")),
    "nameless": lambda path: fail(CheckpointError("bad")),
    "exception": lambda path: path.read_bytes()[10**9],
    "warning": lambda path: warnings.warn("well"),
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

class Planted(target.Target):
    fault = staticmethod(lambda path: None)

    def readings(self):
        return (lambda: self.fault(self.path),)

planted = Planted(Path(sys.argv[1]))
judge = target.Judge(planted, guard.Guard())
guard.limit_memory()
for name, fault in FAULTS.items():
    planted.fault = fault
    found = "passed"
    try:
        judge.feed(b"x")
    except target.BrokenPromiseError as broken:
        found = str(broken)
    print(name, found.strip().splitlines()[-1][:60], sep="|")
"""

NOTICED = {
    "nothing": "passed",
    "refusal": "passed",
    "nameless": "a message without the file's name: bad",
    "exception": "IndexError",
    "warning": "UserWarning: well",
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

MESSAGES = {"pth": 50, "safetensors": 30, "packed": 35, "config": 30, "labels": 9, "csv": 8, "bundle": 15}
"""At least so many kinds of messages do the inputs kept call forth."""


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_inputs_kept_break_no_promise() -> None:
    done = run("-m", "tools.fuzz", "--replay")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+) inputs", done.stdout, re.MULTILINE)}
    assert found == {name: len(corpus.kept(name)) for name in KINDS}
    assert min(found.values()) > 0
    messages = {name: int(count) for name, count in re.findall(r"^(\w+) .* (\d+) messages", done.stdout, re.MULTILINE)}
    assert {name: messages[name] for name in MESSAGES if messages[name] < MESSAGES[name]} == {}


def test_the_inputs_kept_are_small() -> None:
    sizes = {path.name.split(".")[0]: path.stat().st_size for path in corpus.FOLDER.iterdir()}
    assert sizes.keys() == KINDS.keys()
    assert max(sizes.values()) < 60_000
    assert sum(sizes.values()) < 300_000


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    done = run("-c", PLANTED, tmp_path)
    found = dict(line.split("|", 1) for line in done.stdout.splitlines())
    assert found.keys() == NOTICED.keys(), done.stderr
    for name, part in NOTICED.items():
        assert part in found[name], name


@pytest.mark.parametrize("name", KINDS)
def test_mutations_depend_on_nothing_but_input_and_number(name: str, tmp_path: Path) -> None:
    """And take any bytes: those of other formats, of nothing, and of mutants of mutants."""
    target = KINDS[name].make(tmp_path)
    first, others = (
        target.seeds(),
        [b"", b"\0" * 9, b"{}", b"PK\x05\x06" + bytes(18), b"\x80\x02", bytes(PREFIX) + b"{}"],
    )
    rounds = []
    for _ in range(2):
        rng, pool = Random(1), [*first, *others]
        for _ in range(120):
            pool.append(target.mutate(rng, rng.choice(pool)))
        rounds.append(pool)
    target.close()
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) > 100


def test_readers_are_modules() -> None:
    modules = set(all_modules())
    for kind in KINDS.values():
        assert [reader for reader in kind.readers if reader not in modules] == []
        assert kind.modules()


def test_the_least_inputs_reach_what_all_do() -> None:
    reached = {"all": {1, 2, 3, 4}, "one": {1, 2}, "two": {3, 4}, "none": {1}, "other": {5}}
    sizes = {"all": 100_000, "one": 10, "two": 10, "none": 1, "other": 10}
    assert sorted(corpus.least(reached, sizes)) == ["one", "other", "two"]
    assert sorted(corpus.least(reached, dict.fromkeys(sizes, 10))) == ["all", "other"]


def test_inputs_are_kept_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path / "corpus")
    assert corpus.kept("pth") == []
    first = corpus.keep("pth", [b"bb", b"a", b"", b"bb"]).read_bytes()
    assert corpus.kept("pth") == [b"", b"a", b"bb"]
    assert corpus.keep("pth", [b"a", b"", b"bb"]).read_bytes() == first


ENGINE = """
import json, sys
name, folder, facts, *options = sys.argv[1:]
inputs = sorted(open(f"{options[-1]}/" + name, "rb").read() for name in __import__("os").listdir(options[-1]))
json.dump({"slowest": 0.5, "outcomes": {"read": 3, "refused": 1}, "messages": [str(len(inputs))]}, open(facts, "w"))
print("#5 INITED cov: 9 ft: 9 corp: 2/9b exec/s: 0 rss: 100Mb", "stat::number_of_executed_units: 7", sep="\\n")
print("stat::peak_rss_mb:              130", file=sys.stderr)
sys.exit(int(name == "labels"))
"""


def test_a_campaign_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program in place of Atheris that says what libFuzzer would."""
    engine = tmp_path / "engine.py"
    engine.write_text(ENGINE)
    monkeypatch.setattr("tools.fuzz.campaign.ENGINE", (str(engine),))
    for _ in range(2):
        campaign = Campaign("index", tmp_path / "out")
        campaign.begin()
        assert campaign.run(1, 7)
    progress = Campaign("index", tmp_path / "out").progress
    assert (progress.inputs, progress.grown, progress.slowest, progress.failures) == (14, 30, 0.5, 0)
    assert progress.outcomes == {"read": 6, "refused": 2}
    assert progress.messages == [str(len(list((tmp_path / "out" / "index" / "corpus").iterdir())))]
    assert not Campaign("labels", tmp_path / "out").run(1, 7)
    assert Campaign("labels", tmp_path / "out").progress.failures == 1


def test_an_input_is_fed_again(tmp_path: Path) -> None:
    (tmp_path / "crash").write_bytes(b"PK\x03\x04")
    done = run("-m", "tools.fuzz", "pth", "--replay", tmp_path / "crash")
    assert done.returncode == 0, done.stderr
    assert "1 inputs: {'refused': 1}, 1 messages\ntruncated or damaged zip archive" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zip"], "no such target: zip"),
        (["--replay", "x"], "name the target of the input to replay"),
        (["pth"], "atheris is not installed: pip install atheris"),
        (["--reach"], "coverage is not installed: pip install coverage"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(command, "is_installed", lambda _: False)
    monkeypatch.setattr(sys, "argv", ["fuzz", *arguments, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
