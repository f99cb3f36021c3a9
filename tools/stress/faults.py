"""Faults in the middle of a command: Ctrl-C, a full disk, no home, a kill. The next run works, nothing is half-written.

Every check returns a line that says what was done, or raises CheckError.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tools.fuzz.seeds import checkpoint_state, config

from .promise import PATIENCE, CheckError

ROOT = Path(__file__).resolve().parent.parent.parent

# Says when the command begins: before that, Python itself is at work. Ctrl-C waits until then, in every thread: those
# that an import starts take over what the first one blocks.
_START = """
import signal, sys
interrupt = {signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, interrupt)
import bitvit.cli
app = bitvit.cli.app
bitvit.cli.app = lambda: (signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt), app())
print("ready", flush=True)
sys.argv[0] = "bitvit"
bitvit.cli.main()
"""


@dataclass
class Command:
    """A command of bitvit, what it leaves in its folder, and how to run it again after a fault."""

    arguments: list[str]
    folder: Path  # everything is written below it
    outputs: tuple[str, ...] = ()
    again: tuple[str, ...] = ()  # options for going on
    left: tuple[str, ...] = ()  # what a stopped run may leave, as glob patterns
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, *more: str, limit: int | None = None) -> "subprocess.Popen[bytes]":
        """It has begun when this returns. limit: most bytes of a file that it may write."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [sys.executable, "-c", _START, *self.arguments, *more],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=prepare,
        )
        assert process.stdout is not None
        process.stdout.readline()  # ready
        return process

    def run(self, *more: str, limit: int | None = None) -> "subprocess.CompletedProcess[bytes]":
        """Start it and wait for its end."""
        return self.finish(self.start(*more, limit=limit))

    def finish(self, process: "subprocess.Popen[bytes]") -> "subprocess.CompletedProcess[bytes]":
        """Wait for its end."""
        try:
            out, error = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CheckError(f"{self.name} does not end") from None
        return subprocess.CompletedProcess(self.arguments, process.returncode, out, error)

    @property
    def name(self) -> str:
        return self.arguments[0]

    def empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def written(self) -> dict[str, bytes]:
        """Names of the files in the folder, and their contents; seconds, which differ, are left out."""
        files = {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        return {name: _lasting(name, content) for name, content in files.items()}


def _lasting(name: str, content: bytes) -> bytes:
    if name.endswith(".json"):
        fields = json.loads(content)
        return json.dumps({key: value for key, value in fields.items() if key != "seconds"}).encode()
    return content


def _may_be_left(name: str, patterns: tuple[str, ...]) -> bool:
    return any(Path(name).match(pattern) for pattern in patterns)


def check_whole(command: Command, expected: Mapping[str, bytes], what: str) -> None:
    """Whatever is there is complete, or what a stopped run may leave."""
    for name, content in command.written().items():
        if not _may_be_left(name, command.left) and expected.get(name) != content:
            raise CheckError(f"{command.name}, {what}: {name} is half-written, or left behind")


# ------------------------------------------------------------------------------------------------------------ commands
def make_commands(folder: Path) -> dict[str, Command]:
    """Commands that take a second or so, and what they read."""
    network = config(
        image_size=96, window_size=3, depths=(1, 1, 2, 1), hidden_sizes=(32, 64, 128, 256),
        intermediate_sizes=(128, 256, 512, 1024), num_heads=(1, 1, 4, 8), num_classes=10,
    )  # fmt: skip
    checkpoint, images = folder / "checkpoint.safetensors", folder / "images"
    save_file(checkpoint_state(network), checkpoint)
    rng = np.random.default_rng(0)
    for number in range(60):
        place = images / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(place / f"{number}.png")
    options = ["--config", str(folder / "config.json")]
    (folder / "config.json").write_text('{"window_size": 3, "num_attention_heads": [1, 1, 4, 8]}')
    convert = Command(
        ["convert", str(checkpoint), "-o", str(folder / "out" / "model.safetensors"), *options], folder / "out",
        ("model.safetensors",),
    )  # fmt: skip
    convert.empty()
    done = convert.run()
    if done.returncode:
        raise CheckError(done.stderr.decode())
    model = folder / "model.safetensors"
    shutil.copy(convert.folder / "model.safetensors", model)
    out = folder / "out"
    everything = [str(model), str(images)]
    return {
        "convert": convert,
        "classify": Command(
            ["classify", *everything, "-r", "-f", "csv", "-o", str(out / "answers.csv")], out, ("answers.csv",)
        ),
        "evaluate": Command(
            ["evaluate", *everything, "--output", str(out / "report"), "--state", str(out), "--format", "json"], out,
            ("report/report.json", "report/classes.csv"), ("--resume",), ("*.state", "report/*"),
        ),
        "warmup": Command(
            ["warmup", str(model)], out, environment={"NUMBA_CACHE_DIR": str(out)}, left=("*.o", ".*")
        ),
    }  # fmt: skip


def _reference(command: Command) -> tuple[dict[str, bytes], float]:
    """What an undisturbed run writes, and the seconds that it takes once it has begun."""
    command.empty()
    process, begin = command.start(), time.monotonic()
    done = command.finish(process)
    if done.returncode:
        raise CheckError(f"{command.name}: {done.stderr.decode()}")
    return command.written(), time.monotonic() - begin


# ----------------------------------------------------------------------------------------------------------- interrupts
def check_interrupts(command: Command, times: int = 8) -> str:
    """Ctrl-C at moments all over a command."""
    expected, seconds = _reference(command)
    stopped = 0
    for number in range(times):
        command.empty()
        process = command.start()
        time.sleep(seconds * number / times)
        process.send_signal(signal.SIGINT)
        done = command.finish(process)
        if done.returncode not in (0, 1, 130, -signal.SIGINT) or b"Traceback" in done.stderr:
            raise CheckError(f"{command.name} after Ctrl-C: {done.returncode}, {done.stderr.decode()}")
        stopped += done.returncode != 0
        check_whole(command, expected, "Ctrl-C")
        done = command.run(*command.again)
        if done.returncode or not command.written().items() >= _chosen(expected, command).items():
            raise CheckError(f"{command.name} after Ctrl-C, the next run: {done.returncode}, {done.stderr.decode()}")
    return f"Ctrl-C in the middle of {command.name}: {stopped} of {times} runs stopped, all next runs equal"


def _chosen(expected: Mapping[str, bytes], command: Command) -> dict[str, bytes]:
    return {name: expected[name] for name in command.outputs}


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
    expected, _ = _reference(command)
    command.empty()
    _full(command, expected, lambda: command.run(limit=1000))
    ways = ["a limit of the file's size"]
    with small_disk(command.folder, 64) as mounted:
        if mounted:
            (command.folder / "ballast").write_bytes(bytes(60 << 10))
            _full(command, {**expected, "ballast": bytes(60 << 10)}, command.run)
            ways.append("a disk of 64 KB")
    command.empty()
    done = command.run()
    if done.returncode or not command.written().items() >= _chosen(expected, command).items():
        raise CheckError(f"{command.name} after a full disk, the next run: {done.returncode}, {done.stderr.decode()}")
    return f"a full disk under {command.name}: {' and '.join(ways)}"


def _full(
    command: Command,
    expected: Mapping[str, bytes],
    run: "Callable[[], subprocess.CompletedProcess[bytes]]",
) -> None:
    done = run()
    lines = done.stderr.decode().splitlines()
    said = "could not be written" if command.name == "warmup" else "cannot be written"
    if done.returncode != 1 or not any(said in line for line in lines):
        raise CheckError(f"{command.name} on a full disk: {done.returncode}, {done.stderr.decode()}")
    if b"Traceback" in done.stderr:
        raise CheckError(f"{command.name} on a full disk: {done.stderr.decode()}")
    check_whole(command, expected, "a full disk")


# ----------------------------------------------------------------------------------------------------- home, and a kill
def check_read_only_home(command: Command) -> str:
    """No place for compiled kernels: the answers are the same."""
    expected, _ = _reference(command)
    command.empty()
    bare = dict.fromkeys(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"), "") | {"HOME": "/proc/self/fdinfo/none"}
    homeless = Command(command.arguments, command.folder, command.outputs, environment=bare)
    done = homeless.run()
    if done.returncode or homeless.written() != expected:
        raise CheckError(f"{command.name} without a home: {done.returncode}, {done.stderr.decode()}")
    return f"no home that can be written to: {command.name} gives the same"


def check_killed(warmup: Command, times: int = 4) -> str:
    """A process killed while it compiles: what it leaves is whole, its helpers end, and the next run goes on."""
    expected, seconds = _reference(warmup)
    names = {name for name in expected if name.endswith(".o")}
    for number in range(times):
        warmup.empty()
        process = warmup.start()
        time.sleep(seconds * (number + 0.5) / times)
        process.kill()
        process.communicate()
        _wait_for_orphans(warmup.folder)
        for name, content in warmup.written().items():
            if name.endswith(".o") and content != expected[name]:
                raise CheckError(f"{name} is half-written")
        done = warmup.run()
        found = {name for name in warmup.written() if name.endswith(".o")}
        if done.returncode or found != names:
            raise CheckError(f"after a kill, the next run: {done.returncode}, {done.stderr.decode()}")
    return f"killed {times} times while compiling: {len(names)} functions whole after the next run"


def _wait_for_orphans(folder: Path) -> None:
    """Until nobody writes there any more: compiling subprocesses end by themselves."""
    deadline, before = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        now = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        if now == before:
            return
        before = now
        time.sleep(2)
    raise CheckError("somebody goes on compiling for a process that is dead")
