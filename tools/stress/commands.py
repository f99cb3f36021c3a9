"""Commands of bitvit that take a second or so, what they read, and what an undisturbed run of them writes."""

import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from bitvit.extras import require
from bitvit.modelfile import load_model_file
from tools.fuzz.seeds import checkpoint_state, config

from .promise import PATIENCE, CheckError

__all__ = ["ROOT", "Command", "Done", "check_next_run", "check_whole", "image_for", "make_commands", "reference"]

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


@dataclass(frozen=True)
class Done:
    """How a run of a command has ended."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}, {self.stderr or self.stdout}"


@dataclass
class Command:
    """A command of bitvit, what it leaves in its folder, and how to run it again after a fault."""

    name: str
    arguments: list[str]
    folder: Path  # everything is written below it
    outputs: tuple[str, ...] = ()
    again: tuple[str, ...] = ()  # options for going on
    left: tuple[str, ...] = ()  # what a stopped run may leave, as glob patterns
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)  # of bitvit's modules, where a zygote runs it
    refuses: bool = False  # to replace what it has written
    together: bool = False  # all files appear at once

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

    def run(self, *more: str, limit: int | None = None) -> Done:
        """Start it and wait for its end."""
        return self.finish(self.start(*more, limit=limit))

    def finish(self, process: "subprocess.Popen[bytes]") -> Done:
        """Wait for its end."""
        try:
            out, error = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CheckError(f"{self.name} does not end") from None
        return Done(process.returncode, out.decode(), error.decode())

    def empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def written(self) -> dict[str, bytes]:
        """Names of the files in the folder, and their contents; seconds, which differ, are left out."""
        files = {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        return {name: _lasting(name, content) for name, content in files.items()}


def _lasting(name: str, content: bytes) -> bytes:
    if not name.endswith(".json"):
        return content
    try:
        fields = json.loads(content)
    except ValueError:
        return content
    return json.dumps({key: value for key, value in fields.items() if key != "seconds"}).encode()


def check_whole(command: Command, expected: Mapping[str, bytes], what: str, more: Sequence[str] = ()) -> None:
    """Whatever is there is complete, or what a stopped run may leave. more: patterns of that, beside the command's."""
    for name, content in command.written().items():
        may_be_left = any(Path(name).match(pattern) for pattern in (*command.left, *more))
        if not may_be_left and expected.get(name) != content:
            raise CheckError(f"{command.name}, {what}: {name} is half-written, or left behind")


def check_next_run(command: Command, expected: Mapping[str, bytes], done: Done, what: str) -> None:
    """A run after a fault ends well, and its outputs, or all that it writes, are those of an undisturbed one."""
    found = command.written()
    names = command.outputs or [name for name in expected if not Path(name).name.startswith(".")]
    wrong = [name for name in names if found.get(name) != expected[name]]
    if done.code or wrong:
        raise CheckError(f"{command.name} after {what}, the next run: {done}; other outputs: {wrong}")


def reference(command: Command) -> tuple[dict[str, bytes], float]:
    """What an undisturbed run writes, and the seconds that it takes once it has begun."""
    command.empty()
    process, begin = command.start(), time.monotonic()
    done = command.finish(process)
    if done.code:
        raise CheckError(f"{command.name}: {done}")
    return command.written(), time.monotonic() - begin


def image_for(model: Path) -> bytes:
    """A PNG file that a packed model takes as it is."""
    side, file = load_model_file(model).config.image_size, io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------ commands
def make_commands(folder: Path, images: int = 60) -> dict[str, Command]:
    """The commands, by name, and what they read, in a folder that is there."""
    network = config(
        image_size=96, window_size=3, depths=(1, 1, 2, 1), hidden_sizes=(32, 64, 128, 256),
        intermediate_sizes=(128, 256, 512, 1024), num_heads=(1, 1, 4, 8), num_classes=10,
    )  # fmt: skip
    checkpoint, model, pictures, out = (
        folder / name for name in ("checkpoint.safetensors", "model.safetensors", "images", "out")
    )
    save_file(checkpoint_state(network), checkpoint)
    rng = np.random.default_rng(0)
    for number in range(images):
        place = pictures / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(place / f"{number}.png")
    options = ["--config", str(folder / "config.json")]
    (folder / "config.json").write_text('{"window_size": 3, "num_attention_heads": [1, 1, 4, 8]}')
    convert = Command(
        "convert", ["convert", str(checkpoint), "-o", str(out / "model.safetensors"), *options], out,
        ("model.safetensors",),
    )  # fmt: skip
    convert.empty()
    done = convert.run()
    if done.code:
        raise CheckError(str(done))
    shutil.copy(out / "model.safetensors", model)
    data = [str(model), str(pictures)]
    found = [
        convert,
        Command(
            "classify", ["classify", *data, "-r", "-f", "csv", "-o", str(out / "answers.csv")], out, ("answers.csv",)
        ),
        Command(
            "evaluate",
            ["evaluate", *data, "--output", str(out / "report"), "--state", str(out), "--format", "json"], out,
            ("report/report.json", "report/classes.csv"), ("--resume",), ("*.state", "report/*"),
            settings={"bitvit.evaluation.state.SAVE_SECONDS": 0.0, "bitvit.evaluation.state.SAVE_PAUSE": 0.0},
        ),
        Command(
            "warmup", ["warmup", str(model)], out, environment={"NUMBA_CACHE_DIR": str(out)}, left=("*.o", ".*")
        ),
        Command("inspect", ["inspect", str(model), "--check"], out),
        Command("verify", ["verify", str(model), str(checkpoint), *options], out),
        Command(
            "bundle", ["bundle", str(model), "-o", str(out / "bundle"), "--cpu", "native", "--python"], out,
            ("bundle/bundle.json", "bundle/weights.bin"), refuses=True, together=True,
        ),
        Command(
            "train",
            ["train", str(pictures), "-o", str(out / "model.safetensors"), *_SHORT_TRAINING], out,
            ("model.safetensors",), left=("model.run/*", "model.run/*/*"), refuses=True,
        ),
    ]  # fmt: skip
    if table := _write_parquet(folder / "rows", pictures):
        names = tuple(sorted(path.name for path in table.iterdir()))
        arguments = ["classify", str(model), str(table), "-o", str(out)]
        found.append(Command("parquet", arguments, out, names, ("--resume",)))
    return {command.name: command for command in found}


_SHORT_TRAINING = ["--size", "32", "--width", "8", "--epochs", "4", "-b", "8", "--teacher", "none", "-t", "1"]
for _change in ("network.depths=[1, 1, 1, 1]", "network.expansion=[2, 2, 2, 2]"):
    _SHORT_TRAINING += ["--set", _change]


def _write_parquet(folder: Path, images: Path) -> Path | None:
    """Three files with the images; None without pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        return None
    arrow, parquet = require("pyarrow", "Parquet"), require("pyarrow.parquet", "Parquet")
    folder.mkdir()
    files = sorted(images.rglob("*.png"))
    for part in range(3):
        cells = [path.read_bytes() for path in files[part::3]]
        parquet.write_table(arrow.table({"image": cells}), folder / f"part-{part}.parquet")
    return folder
