"""Disks that fail under a command: errors of input and output, no room, short reads and writes, interrupted calls.

The library in front of the C library (shim.c) makes each call of an undisturbed run fail, one after the other: a run
gives the right answer all the same, or one line that names the file, and it leaves nothing half-written.
"""

import csv
import dataclasses
import errno
import io
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitvit.extras import require
from bitvit.jit import cache
from bitvit.messages import listing

from .commands import Command, Done, check_next_run, check_whole
from .kills import LEFT
from .promise import PATIENCE, CheckError
from .shim import faults
from .zygote import Zygote

__all__ = ["Disk", "check_errors", "check_kernels", "check_legal", "on_disk"]

MOST_TOLD = 12  # failures
SOME_FAILED = 3  # exit code: images could not be read


@dataclass
class Disk:
    """A command, all of whose files lie below a folder, and what an undisturbed run of it gives."""

    zygote: Zygote
    command: Command
    folder: Path
    before: dict[str, bytes]  # what its folder has when it begins
    more: tuple[str, ...] = ()  # options
    expected: dict[str, bytes] = field(default_factory=dict)
    done: Done = field(default_factory=lambda: Done(0, "", ""))
    calls: list[str] = field(default_factory=list)  # that the undisturbed run makes, and that may fail

    def __post_init__(self) -> None:
        log = self.folder.with_name(f"{self.folder.name}.log")
        log.unlink(missing_ok=True)
        self.done = self.run(log=log)
        if self.done.code:
            raise CheckError(f"{self.command.name}, undisturbed: {self.done}")
        self.expected = self.command.written()
        self.calls = log.read_text().splitlines()

    def run(self, folders: Sequence[Path] = (), **wanted: Any) -> Done:
        """Run it under faults, as shim.faults has them. folders: where; also files; default: its folder."""
        self.command.empty()
        for name, content in self.before.items():
            place = self.command.folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return self.zygote.run(self.command, *self.more, environment=faults(folders or [self.folder], **wanted))


def on_disk(zygote: Zygote, command: Command, folder: Path, *, resumed: bool = False) -> Disk:
    """folder: what lies below it fails. Compiled kernels are copied there, unless it is the command's own or has them
    already. resumed: whether it goes on where a run before it was killed."""
    if folder != command.folder and "NUMBA_CACHE_DIR" not in command.environment:
        kept, found = folder / "kernels", cache.folder()
        if found is not None and not kept.exists():
            shutil.copytree(found, kept / "bitvit" / found.name)
        command = dataclasses.replace(command, environment={**command.environment, "NUMBA_CACHE_DIR": str(kept)})
    before = _left_by_a_killed_run(zygote, command) if resumed else {}
    return Disk(zygote, command, folder, before, command.again if resumed else ())


def _left_by_a_killed_run(zygote: Zygote, command: Command) -> dict[str, bytes]:
    """Files of a run that is killed as soon as there is one."""
    command.empty()
    run = zygote.start(command)
    deadline = time.monotonic() + PATIENCE
    while not (found := _unhidden(command.folder)) and time.monotonic() < deadline:
        time.sleep(0.001)
    run.kill(group=True)
    run.finish()
    return {path.relative_to(command.folder).as_posix(): path.read_bytes() for path in found}


def _unhidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def check_errors(disk: Disk, error: int, step: int = 1, first: int = 1) -> str:
    """Have each `step`-th call fail, from call `first` on."""
    begin, results = time.monotonic(), Counter[str]()
    name, code = disk.command.name, errno.errorcode[error]
    writes_only = error == errno.ENOSPC
    calls = [call for call in disk.calls if not writes_only or _takes_room(call)]
    numbers = range(first, len(calls) + 1, step)
    failures = []
    for number in numbers:
        done = disk.run(at=number, error=error, writes_only=writes_only)
        try:
            results[_judge(disk, done)] += 1
        except CheckError as failure:
            failures.append(f"{name}, {code} at call {number}, {calls[number - 1]}: {failure}")
    if failures:
        raise CheckError(listing(failures, most=MOST_TOLD, show=str))
    disk.command.empty()
    check_next_run(disk.command, disk.expected, disk.run(), code)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(results.items()))
    return (
        f"{code} under {name}: {len(numbers)} of {len(calls)} calls failed, one a run ({counts}) in "
        f"{time.monotonic() - begin:.0f} s"
    )


def _takes_room(call: str) -> bool:
    """Whether the shim counts a call, a line of its log, where writes alone may fail."""
    return call.startswith("+")


def _judge(disk: Disk, done: Done) -> str:
    """What came of a run: the right answer, or an error that is told. CheckError if it is neither."""
    if "Traceback" in done.stderr:
        raise CheckError(f"a traceback: {done}")
    check_whole(disk.command, disk.expected if done.code != SOME_FAILED else disk.command.written(), "", more=LEFT)
    if done.code == 0:
        _check_answer(disk, done)
        return "right all the same"
    if done.code == SOME_FAILED:
        _check_rest(disk, done)
        return "right but for an image"
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    if done.code != 1 or len(lines) != 1:
        raise CheckError(f"expected one line: {done}")
    if str(disk.folder) not in lines[0]:
        raise CheckError(f"names no file: {done}")
    return "told"


def _check_answer(disk: Disk, done: Done) -> None:
    found = disk.command.written()
    wrong = [name for name in disk.command.outputs if found.get(name) != disk.expected[name]]
    if wrong:
        raise CheckError(f"another answer, {wrong}: {done}")
    if not disk.command.outputs and _words(done.stdout) != _words(disk.done.stdout):
        raise CheckError(f"another answer: {done.stdout}")


def _words(text: str) -> list[str]:
    """Of an answer on stdout, without times."""
    return [line for line in text.splitlines() if " ms" not in line and " s" not in line.rstrip()[-3:]]


def _check_rest(disk: Disk, done: Done) -> None:
    """Images that could not be read are named, and the answers to all others are there."""
    if str(disk.folder) not in done.stderr and ".parquet" not in done.stderr:
        raise CheckError(f"names no image: {done}")
    for name in disk.command.outputs:
        rows, expected = (_rows(name, files[name]) for files in (disk.command.written(), disk.expected))
        lost = [row for row in expected if row not in rows]
        images = {row.split(",")[0] for row in lost}
        if len(images) != 1 or [row for row in rows if row not in expected]:
            raise CheckError(f"{name}: other answers: {done}")


def _rows(name: str, content: bytes) -> list[str]:
    if name.endswith(".parquet"):
        table = require("pyarrow.parquet", "Parquet").read_table(io.BytesIO(content))
        return [",".join(map(str, row.values())) for row in table.to_pylist() if row["error"] is None]
    return [",".join(row) for row in csv.reader(io.StringIO(content.decode()))]


def check_kernels(disk: Disk) -> str:
    """Compiled kernels that cannot be read or replaced, each alone and all at once, change no answer."""
    begin = time.monotonic()
    files = sorted({Path(call.split()[-1]) for call in disk.calls if call.endswith(".o") and call.startswith("read ")})
    if not files:
        raise CheckError(f"{disk.command.name} reads no kernels")
    for folders in (*([file] for file in files), [files[0].parent]):
        done = disk.run(folders, at=1, from_there_on=True)
        where = folders[0].name
        if done.code:
            raise CheckError(f"{disk.command.name}, EIO at each call on {where}: {done}")
        _check_answer(disk, done)
    return (
        f"EIO at each call on a kernel's file under {disk.command.name}, {len(files)} alone and all at once: the same "
        f"({time.monotonic() - begin:.0f} s)"
    )


def check_legal(disk: Disk, seeds: Sequence[int] = (1, 2, 3)) -> str:
    """Short reads and writes, and calls that a signal interrupts, change nothing."""
    ways: Mapping[str, str] = {"short": "short reads and writes", "interrupted": "interrupted calls"}
    for seed in seeds:
        for way, what in ways.items():
            wanted: dict[str, Any] = {way: seed}
            done = disk.run(**wanted)
            if done.code:
                raise CheckError(f"{disk.command.name}, {what}, seed {seed}: {done}")
            try:
                _check_answer(disk, done)
            except CheckError as failure:
                raise CheckError(f"{disk.command.name}, {what}, seed {seed}: {failure}") from None
    return f"{' and '.join(ways.values())} under {disk.command.name}, {len(seeds)} seeds each: the same"
