"""Short runs of tools/stress: kills, disks that fail, clocks that jump, little memory. And proof that checks fail."""

import errno
import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.stress import clocks, disks, kills, memory, shim
from tools.stress.commands import Command, Done, make_commands
from tools.stress.promise import CheckError
from tools.stress.zygote import Run, Zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes and the C library as Linux has them")

needs_compiler = pytest.mark.skipif(shim.compiler() is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all is that commands read and write."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def commands(folder: Path) -> dict[str, Command]:
    return make_commands(folder, images=6)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    return shim.build(tmp_path_factory.mktemp("shim")) if shim.compiler() else None


@pytest.fixture(scope="module")
def zygote(library: Path | None) -> Iterator[Zygote]:
    with Zygote(library=library) as zygote:
        yield zygote


class Scripted(Zygote):
    """Commands that are not run: each ends as told, and writes what is told. `undisturbed` runs end well."""

    def __init__(self, command: Command, done: Done, files: Mapping[str, bytes], undisturbed: int = 1) -> None:
        self.ends = [(Done(0, "right", ""), dict.fromkeys(command.outputs, b"whole"))] * undisturbed
        self.then = done, files

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, command: Command, *more: str, environment: Mapping[str, str] | None = None) -> Run:  # noqa: ARG002
        done, files = self.ends.pop(0) if self.ends else self.then
        for name, content in files.items():
            (command.folder / name).write_bytes(content)
        if environment and (log := environment["SHIM_LOG"]):
            Path(log).write_text("read a\n+write b\n")
        return Ended(self, command.name, 0, done)


@dataclass(frozen=True)
class Ended(Run):
    done: Done

    def kill(self, *, group: bool) -> None:
        pass

    def finish(self) -> Done:
        return self.done


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """One that is scripted."""
    return Command("scripted", [], tmp_path / "out", ("answers.csv",))


KILLED = Done(-signal.SIGKILL, "", "")


# ---------------------------------------------------------------------------------------------------------------- kills
@pytest.mark.parametrize("name", ["convert", "classify"])
def test_kills(name: str, zygote: Zygote, commands: dict[str, Command], tmp_path: Path) -> None:
    tally = tmp_path / "tally.json"
    for kills_so_far in (1, 2):
        told = kills.check_kills(zygote, commands[name], 1, kills.Tally(tally), runs=1)
        assert "nothing half-written, all next runs right" in told
        assert json.loads(tally.read_text())[name]["kills"] >= kills_so_far


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"answers.csv": b"wh"}, "answers.csv is half-written, or left behind"),
        ({"other": b""}, "other is half-written, or left behind"),
        ({".bitvit.0123": b"wh"}, "the next run: exit code -9"),
    ],
)
def test_what_a_kill_leaves_half_written_is_noticed(files: dict[str, bytes], fault: str, command: Command) -> None:
    with pytest.raises(CheckError, match=fault):
        kills.check_kills(Scripted(command, KILLED, files), command, 3, runs=1)


def test_a_folder_without_some_of_its_files_is_noticed(command: Command) -> None:
    command.outputs, command.together = ("a", "b"), True
    with pytest.raises(CheckError, match=r"there without \['b'\]"):
        kills.check_kills(Scripted(command, KILLED, {"a": b"whole"}), command, 1, runs=1)


# ---------------------------------------------------------------------------------------------------------------- disks
@needs_compiler
def test_disks(zygote: Zygote, commands: dict[str, Command], folder: Path) -> None:
    disk = disks.on_disk(zygote, commands["convert"], folder)
    step = len(disk.calls) // 3
    assert "short reads and writes and interrupted calls under convert" in disks.check_legal(disk, seeds=(1,))
    assert " told)" in disks.check_errors(disk, errno.EIO, step)
    assert " told)" in disks.check_errors(disk, errno.ENOSPC, step=3)
    assert any("model.safetensors" in call for call in disk.calls)


@needs_compiler
def test_a_kernel_that_cannot_be_read_is_compiled(zygote: Zygote, commands: dict[str, Command], folder: Path) -> None:
    disk = disks.on_disk(zygote, commands["classify"], folder)
    file = next(Path(call.split()[1]) for call in disk.calls if call.endswith("/pool.o"))
    done = disk.run([file], at=1, from_there_on=True)
    assert (done.code, disk.command.written()) == (0, disk.expected)
    assert "compiling 1 kernel" in done.stderr


@pytest.mark.parametrize(
    ("done", "files", "fault"),
    [
        (Done(1, "", "Traceback (most recent call last):"), {}, "a traceback"),
        (Done(1, "", "Error: no file"), {}, "names no file"),
        (Done(1, "", ""), {}, "expected one line"),
        (Done(2, "", "Error: {folder}\nError: {folder}"), {}, "expected one line"),
        (Done(1, "", "Error: {folder}"), {"answers.csv": b"wh"}, "half-written"),
        (Done(0, "", ""), {}, "another answer"),
        (Done(3, "", "Error: {folder}/1.png"), {"answers.csv": b"other"}, "other answers"),
        (Done(3, "", "Error"), {"answers.csv": b"other"}, "names no image"),
    ],
)
def test_what_a_disk_must_not_do_is_noticed(
    done: Done, files: dict[str, bytes], fault: str, command: Command, tmp_path: Path
) -> None:
    ended = Done(done.code, done.stdout, done.stderr.replace("{folder}", str(tmp_path)))
    disk = disks.Disk(Scripted(command, ended, files), command, tmp_path, {})
    with pytest.raises(CheckError, match=f"EIO at call 1, read a: .*{fault}"):
        disks.check_errors(disk, errno.EIO)
    with pytest.raises(CheckError, match="short reads and writes, seed 1"):
        disks.check_legal(disk)


# --------------------------------------------------------------------------------------------------------------- clocks
@needs_compiler
def test_clocks(zygote: Zygote, commands: dict[str, Command]) -> None:
    assert "8 clocks that jump under classify: the same" in clocks.check_clock(zygote, commands["classify"], runs=1)


@needs_compiler
def test_a_server_whose_clock_jumps(library: Path, tiny: Path, tmp_path: Path) -> None:
    assert "requests to a server whose clock jumps: the same" in clocks.check_served_clock(
        library, tiny, tmp_path, seconds=0.7
    )


@needs_compiler
def test_a_clock_that_does_not_jump_is_noticed(
    library: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "jumps", lambda _: {number: [(0.0, 0.0)] for number in range(4)})
    with pytest.raises(CheckError, match="its clock does not jump"):
        clocks.check_served_clock(library, tiny, tmp_path, seconds=0.1)


@pytest.mark.parametrize(
    ("done", "files", "fault"),
    [
        (Done(0, "", "-5 s left"), {"answers.csv": b"whole"}, "clock a day ahead: a negative number"),
        (Done(0, "", ""), {"answers.csv": b"other"}, r"other outputs: \['answers.csv'\]"),
        (Done(1, "", "Error"), {"answers.csv": b"whole"}, "clock a day ahead: exit code 1"),
    ],
)
def test_what_a_clock_must_not_do_is_noticed(done: Done, files: dict[str, bytes], fault: str, command: Command) -> None:
    with pytest.raises(CheckError, match=fault):
        clocks.check_clock(Scripted(command, done, files), command, runs=1)


def test_kernels_that_are_thrown_away_are_noticed(command: Command, tmp_path: Path) -> None:
    command.environment = {"NUMBA_CACHE_DIR": str(tmp_path / "out")}
    thrower = Thrower(command, Done(0, "", ""), {"answers.csv": b"whole"})
    with pytest.raises(CheckError, match="kernels of other versions are thrown away: "):
        clocks.check_clock(thrower, command, runs=1)


class Thrower(Scripted):
    """Removes what is in the cache."""

    def start(self, command: Command, *more: str, environment: Mapping[str, str] | None = None) -> Run:
        for folder in command.folder.glob("bitvit/*"):
            (folder / "pool.o").unlink()
            folder.rmdir()
        return super().start(command, *more, environment=environment)


# --------------------------------------------------------------------------------------------------------------- memory
def test_memory(tiny: Path) -> None:
    trial = memory.plain("-m", "bitvit", "inspect", str(tiny))
    told = memory.check_memory("inspect", trial, resource.RLIMIT_AS, step=150 * memory.MB, beyond=1)
    assert "told" in told
    assert "1 right" in told


@pytest.mark.parametrize(
    ("done", "fault"),
    [
        (Done(-signal.SIGABRT, "", "LLVM ERROR"), "exit code -6"),
        (Done(1, "", "Traceback (most recent call last):\nMemoryError"), "exit code 1"),
        (Done(1, "", ""), "exit code 1"),
        (Done(0, "wrong", ""), "another answer"),
        (Done(1, "wrong", "Error: too little memory"), "half an answer"),
        (memory.HANGS, "does not end"),
    ],
)
def test_what_too_little_memory_must_not_do_is_noticed(done: Done, fault: str) -> None:
    ends = iter([Done(0, "right", ""), done])
    with pytest.raises(CheckError, match=fault):
        memory.check_memory("scripted", lambda _: next(ends, Done(0, "right", "")), resource.RLIMIT_AS)
