"""A teacher and a BHViT in minutes on a GPU: all of it by the clock, in one command.

python -m tools.train.gpu pack --data-folder DATA --out PARTS          # here: CIFAR-10 in two parts
python -m tools.train.gpu probe --config CONFIG ... --keep KEEP        # there: how fast is each network?
python -m tools.train.gpu train --config CONFIG ... --teacher-config CONFIG --keep KEEP --seconds 540 --out OUT
python -m tools.train.gpu finish OUT/student.safetensors --data-folder DATA --out runs/cifar10     # here again

KEEP is a folder of the machine that outlasts a command: the parts met so far, and what the probe found. The machine
needs PyTorch, NumPy, Pillow and safetensors, and neither bitvit nor Numba installed.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from bitvit.errors import BitvitError
from bitvit.train import data, operators
from bitvit.train.checkpoint import write_bytes
from bitvit.train.data import DataSet, Split
from bitvit.train.loop import build
from bitvit.train.report import say
from bitvit.train.settings import Settings, read_settings

from .compact import read_compact, write_compact
from .parts import join_parts, write_part
from .probe import measure, probe
from .sets import cifar10_arrays, read_source
from .timed import Images, TimedRun

__all__ = ["main"]

# Of all training pixels, uint8 [50000, 32, 32, 3] in C order.
CIFAR10_SHA256 = {50000: "106c92bb46dac6d15868ac7399d1b36b84e074534af9bafd3ed8307e5d86a9f8"}
COMPILE_SECONDS = 150  # that compiling may take, at most
MEASURED_STEPS = 15


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _fast_and_exact()
    try:
        with operators.plain():
            options.run(options)
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def _device(options: argparse.Namespace) -> str:
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _fast_and_exact() -> None:
    """Convolutions by the fastest algorithm; float32, in which networks are measured, without TF32's rounding."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False


# ------------------------------------------------------------------------------------------------------------- data


def _pack(options: argparse.Namespace) -> None:
    arrays = cifar10_arrays(options.data_folder)
    pixels, labels = arrays["train"]
    for part in range(options.parts):
        folder = options.out / "abcdefgh"[part]
        bounds = [len(labels) * k // options.parts for k in (part, part + 1)]
        held = [options.test * k // options.parts for k in (part, part + 1)]
        write_part(folder, "train", pixels, labels, bounds[0], bounds[1], options.workers)
        size = write_part(folder, "test", *arrays["test"], held[0], held[1], options.workers)
        say(f"{folder}: {size / 2**20:.1f} MiB")


def _join(options: argparse.Namespace) -> None:
    counts = join_parts(options.parts, options.keep, options.workers, CIFAR10_SHA256)
    say(f"images: {counts}")


# --------------------------------------------------------------------------------------------------------- training


@dataclass
class Session:
    """What one command trains with, and until when."""

    options: argparse.Namespace
    end: float

    @property
    def device(self) -> str:
        return _device(self.options)

    def load(self, settings: Settings) -> DataSet:
        folder = self.options.data_folder or self.options.keep
        return data.load(read_source("cifar10", folder), "cifar10", settings.network.image_size, self.options.workers)

    def model(self, settings: Settings, images: DataSet) -> nn.Module:
        return build(settings, len(images.labels)).to(self.device)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def _train(options: argparse.Namespace) -> None:
    session = Session(options, time.monotonic() + options.seconds)
    candidates = [read_settings(path, options.set) for path in options.config]
    if options.parts:
        _join(options)
    loaded = session.load(candidates[0])
    images = Images.of(loaded, session.device, options.limit)
    say(f"{len(images.labels)} images of {images.pixels.shape[1]} px; {session.left:.0f} s left")
    teacher, teacher_top1 = _teacher(session, loaded, images)
    for settings, path in zip(candidates, options.config, strict=True):
        if settings.network.image_size != loaded.preprocessing.image_size:
            loaded = session.load(settings)
            images = Images.of(loaded, session.device, options.limit)
        run, rate = _begin(session, settings, loaded, images, teacher, _compiled(options, path))
        epochs = rate * session.left / len(images.labels)
        say(f"{path.stem}: {rate:.0f} images/s, {epochs:.0f} epochs in the {session.left:.0f} s left")
        if epochs >= options.least_epochs:
            break
    started = time.monotonic()

    def keep(done: float) -> None:
        top1 = run.top1(loaded)
        told = {
            "epochs": round(run.epochs, 1),
            "seconds": round(time.monotonic() - started + options.teacher_seconds, 1),
            "done": round(done, 4),
            "images": len(images.labels),
            "teacher_top1": teacher_top1,
            "top1_of_some": top1,
            "machine": _machine(session.device),
        }
        write_compact(options.out / "student.safetensors", run.twin, settings, told)
        write_bytes(options.out / "student.json", (json.dumps(told, indent=1) + "\n").encode())
        say(f"top-1 {top1:.2f} % of {len(loaded.test)} test images; written")

    run.train(session.end - options.reserve, options.every, keep)
    keep(1.0)
    say(f"done, {session.left:.0f} s left")


def _teacher(session: Session, loaded: DataSet, images: Images) -> tuple[nn.Module, float]:
    """A float network trained for the time that the options give it, and its top-1."""
    options, settings = session.options, read_settings(session.options.teacher_config)
    model = session.model(settings, loaded)
    run = TimedRun(settings, model, images, None, say)
    run.train(time.monotonic() + min(options.teacher_seconds, session.left / 3))
    top1 = run.top1(loaded)
    say(f"teacher: {run.epochs:.1f} epochs, top-1 {top1:.2f} % of {len(loaded.test)} test images")
    state = {name: value.half().cpu().contiguous() for name, value in run.twin.state_dict().items()}
    network = {**vars(settings.network), "num_classes": len(loaded.labels)}
    told = {key: network[key] for key in ("image_size", "widths", "num_classes")}
    write_bytes(options.out / "teacher.safetensors", save(state, {"teacher": json.dumps(told)}))
    return run.twin, top1


def _begin(
    session: Session, settings: Settings, loaded: DataSet, images: Images, teacher: nn.Module, compiled: bool
) -> tuple[TimedRun, float]:
    """A run that is ready to train, and its images a second; one that is not compiled if that fails."""
    run = TimedRun(settings, session.model(settings, loaded), images, teacher, say)
    run.prepare()
    if not compiled:
        return run, run.rate(MEASURED_STEPS)
    start = time.monotonic()
    try:
        with _at_most(min(COMPILE_SECONDS, 0.6 * session.left)):
            run.compile()
            rate = run.rate(MEASURED_STEPS)
    except Exception as problem:  # a compiler may raise anything
        say(f"not compiled, after {time.monotonic() - start:.0f} s: {type(problem).__name__}: {str(problem)[:500]}")
        torch.compiler.reset()
        return _begin(session, settings, loaded, images, teacher, compiled=False)
    say(f"compiled and measured in {time.monotonic() - start:.0f} s")
    return run, rate


def _compiled(options: argparse.Namespace, config: Path) -> bool:
    """Whether to compile: as the options say, or as the probe found to be faster."""
    if options.compile != "auto":
        return options.compile == "always"
    try:
        rates = json.loads((options.keep / "probe.json").read_text())[config.stem]
    except (OSError, ValueError, KeyError):
        return False
    return rates.get("compiled", 0.0) > 1.1 * rates.get("eager", 0.0)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """TimeoutError in the main thread after so many seconds, as soon as it runs Python."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _machine(device: str) -> str:
    name = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"PyTorch {torch.__version__}{name}"


# ----------------------------------------------------------------------------------------------------------- the end


@dataclass
class Finished:
    """A run of another machine, as export.py needs it."""

    settings: Settings
    data: DataSet
    folder: Path
    best_model: nn.Module
    train_split: Split
    seconds: float
    made_with: str
    epochs: float
    taught: bool = True
    device: str = "cpu"


def _finish(options: argparse.Namespace) -> None:
    from bitvit.train import export  # brings the engine

    model, settings, told = read_compact(options.student)
    loaded = data.load(
        read_source("cifar10", options.data_folder), "cifar10", settings.network.image_size, options.workers
    )
    run = Finished(
        settings=replace(settings, epochs=max(1, round(told["epochs"]))),
        data=loaded,
        folder=options.out,
        best_model=model,
        train_split=loaded.train.first(told["images"]),
        seconds=told["seconds"],
        made_with=told["machine"],
        epochs=told["epochs"],
    )
    options.out.mkdir(parents=True, exist_ok=True)
    result = export.export(run, "python -m tools.train.gpu, as tools/train/README.md says")
    say(f"done: {json.dumps(vars(result))}")


# ----------------------------------------------------------------------------------------------------- command line


def _measure(options: argparse.Namespace) -> None:
    settings = replace(read_settings(options.config), batch_size=options.batch)
    teacher = read_settings(options.teacher_config) if options.teacher_config else None
    print(json.dumps(measure(settings, teacher, _device(options), compiled=options.compiled, steps=options.steps)))


def _probe(options: argparse.Namespace) -> None:
    probe(options.config, options.teacher_config, options.keep, options.seconds, _device(options), options.batch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that prepare images")
        added.add_argument("--device", default="", help="cpu or cuda; default: cuda where there is one")
        return added

    def keeps(added: argparse.ArgumentParser) -> None:
        added.add_argument("--keep", type=Path, default=Path("/tmp/bitvit-gpu"), help="folder that outlasts commands")

    pack = command("pack", _pack, "write CIFAR-10 as small lossless parts")
    pack.add_argument("--data-folder", type=Path, required=True, help="as for tools.train")
    pack.add_argument("--out", type=Path, required=True)
    pack.add_argument("--parts", type=int, default=2)
    pack.add_argument("--test", type=int, default=1000, help="test images to take along")

    join = command("join", _join, "put the parts that are here to those of earlier commands")
    join.add_argument("--parts", type=Path, nargs="*", default=[])
    keeps(join)

    probing = command("probe", _probe, "measure the networks, each as it is and compiled")
    probing.add_argument("--config", type=Path, action="append", required=True)
    probing.add_argument("--teacher-config", type=Path, required=True)
    probing.add_argument(
        "--seconds", type=float, default=130, help="after which nothing new is begun, and all is ended"
    )
    probing.add_argument("--batch", type=int, nargs="*", default=[512, 1024], help="the first is tried for all")
    keeps(probing)

    measuring = command("measure", _measure, "measure one network in one way; a line of JSON")
    measuring.add_argument("--config", type=Path, required=True)
    measuring.add_argument("--teacher-config", type=Path)
    measuring.add_argument("--batch", type=int, default=512)
    measuring.add_argument("--steps", type=int, default=MEASURED_STEPS)
    measuring.add_argument("--compiled", action="store_true")

    train = command("train", _train, "train a teacher and a BHViT in the time that there is")
    train.add_argument("--config", type=Path, action="append", required=True, help="networks, the best one first")
    train.add_argument("--teacher-config", type=Path, required=True)
    train.add_argument("--set", action="append", metavar="NAME=VALUE", help="change a setting of the networks")
    train.add_argument("--least-epochs", type=float, default=100, help="a network that cannot have so many is left out")
    train.add_argument("--parts", type=Path, nargs="*", default=[], help="parts of the images, to be joined first")
    train.add_argument("--data-folder", type=Path, help="where the images are, if they are not parts")
    train.add_argument("--seconds", type=float, required=True, help="for everything, from start to end")
    train.add_argument("--teacher-seconds", type=float, default=75)
    train.add_argument("--reserve", type=float, default=8, help="seconds for the last measurement and file")
    train.add_argument("--every", type=float, default=45, help="seconds between two files")
    train.add_argument("--compile", choices=("auto", "always", "never"), default="auto")
    train.add_argument("--limit", type=int, default=0, help="number of training images; 0: all")
    train.add_argument("--out", type=Path, required=True)
    keeps(train)

    finish = command("finish", _finish, "the packed model, its card and its top-1 from what train left")
    finish.add_argument("student", type=Path)
    finish.add_argument("--data-folder", type=Path, required=True)
    finish.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
