"""Faults in the middle of a command: Ctrl-C, a full disk, no home. The next run works, nothing is half-written.

Every check returns a line that says what was done, or raises CheckError.
"""

import contextlib
import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .commands import Command, Done, check_next_run, check_whole, reference
from .promise import CheckError

__all__ = ["check_full_disk", "check_interrupts", "check_read_only_home", "small_disk"]


# ----------------------------------------------------------------------------------------------------------- interrupts
def check_interrupts(command: Command, times: int = 8) -> str:
    """Ctrl-C at moments all over a command."""
    expected, seconds = reference(command)
    stopped = 0
    for number in range(times):
        command.empty()
        process = command.start()
        time.sleep(seconds * number / times)
        process.send_signal(signal.SIGINT)
        done = command.finish(process)
        if done.code not in (0, 1, 130, -signal.SIGINT) or "Traceback" in done.stderr:
            raise CheckError(f"{command.name} after Ctrl-C: {done}")
        stopped += done.code != 0
        check_whole(command, expected, "Ctrl-C")
        check_next_run(command, expected, command.run(*command.again), "Ctrl-C")
    return f"Ctrl-C in the middle of {command.name}: {stopped} of {times} runs stopped, all next runs equal"


# ------------------------------------------------------------------------------------------------------------ full disk
@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of that size; False if this user may not mount one."""
    place.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def check_full_disk(command: Command) -> str:
    """A file that can only be written in part: a limit of its size, and a disk that is full."""
    expected, _ = reference(command)
    command.empty()
    _full(command, expected, lambda: command.run(limit=1000))
    ways = ["a limit of the file's size"]
    with small_disk(command.folder, 64) as mounted:
        if mounted:
            (command.folder / "ballast").write_bytes(bytes(60 << 10))
            _full(command, {**expected, "ballast": bytes(60 << 10)}, command.run)
            ways.append("a disk of 64 KB")
    command.empty()
    check_next_run(command, expected, command.run(), "a full disk")
    return f"a full disk under {command.name}: {' and '.join(ways)}"


def _full(command: Command, expected: Mapping[str, bytes], run: Callable[[], Done]) -> None:
    done = run()
    said = "could not be written" if command.name == "warmup" else "cannot be written"
    if done.code != 1 or said not in done.stderr or "Traceback" in done.stderr:
        raise CheckError(f"{command.name} on a full disk: {done}")
    check_whole(command, expected, "a full disk")


# ---------------------------------------------------------------------------------------------------------------- home
def check_read_only_home(command: Command) -> str:
    """No place for compiled kernels: the answers are the same."""
    expected, _ = reference(command)
    command.empty()
    bare = dict.fromkeys(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"), "") | {"HOME": "/proc/self/fdinfo/none"}
    homeless = dataclasses.replace(command, environment=bare)
    done = homeless.run()
    if done.code or homeless.written() != expected:
        raise CheckError(f"{command.name} without a home: {done}")
    return f"no home that can be written to: {command.name} gives the same"
