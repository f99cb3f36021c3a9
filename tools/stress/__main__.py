"""Many callers, faults and long runs, against a packed model.

    python -m tools.stress                                  # all checks, some 40 minutes
    python -m tools.stress model.safetensors --only threads --seconds 60
    python -m tools.stress --only kill-evaluate --kills 300 --tally kills.json    # again and again, in parts
    python -m tools.stress --only eio-classify --step 10    # each tenth call fails
    python -m tools.stress model.safetensors --soak 30        # minutes

Each line is a promise of SECURITY.md and what was done to see whether it holds. Exit code 1 if one did not.
"""

import argparse
import contextlib
import errno
import functools
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.stress import callers, clocks, disks, faults, kills, memory, reloads, shim, soak
from tools.stress.commands import Command, make_commands
from tools.stress.promise import CheckError
from tools.stress.zygote import Zygote

DEFAULT = Path(__file__).resolve().parents[2] / "weights" / "bhvit-digits.safetensors"
FULL = ("convert", "classify", "evaluate", "warmup")
KILLED = ("convert", "classify", "parquet", "evaluate", "warmup", "bundle", "train")
DISKS = ("convert", "classify", "parquet", "evaluate", "warmup", "inspect", "verify", "train")
SLOW = ("warmup", "bundle", "train")  # which are run undisturbed once, not three times
GOING_ON = ("parquet", "evaluate", "train")
CLOCKS = ("classify", "parquet", "evaluate", "warmup", "train")
MEASURED = ("classify", "convert", "inspect", "serve", "load")
TORCH = ("torch", "bitvit.train.training")


@dataclass(eq=False)
class Faults:
    """Checks of commands, for which commands and processes are made when the first of them is run."""

    folder: Path
    stack: contextlib.ExitStack
    tally: Path | None
    times: int
    kills: int
    step: int

    @functools.cached_property
    def library(self) -> Path | None:
        """The shim, where there is a C compiler."""
        return shim.build(self.folder) if shim.compiler() else None

    @functools.cached_property
    def files(self) -> Path:
        """Where all is that commands read and write."""
        place = self.folder / "files"
        place.mkdir()
        return place

    @functools.cached_property
    def commands(self) -> dict[str, Command]:
        return make_commands(self.files)

    def command(self, name: str) -> Command:
        if name not in self.commands or (name == "train" and importlib.util.find_spec("torch") is None):
            raise CheckError(f"{name} needs a package that is not installed")
        return self.commands[name]

    @functools.cache  # noqa: B019  # there is one of these objects
    def _zygote(self, with_torch: bool) -> Zygote:
        return self.stack.enter_context(Zygote(TORCH if with_torch else (), self.library))

    def zygote(self, name: str) -> Zygote:
        """The process that forks for a command: PyTorch is imported for those that need it."""
        return self._zygote(name == "train")

    def check_killed(self, name: str) -> str:
        runs = 1 if name in SLOW else 3
        return kills.check_kills(self.zygote(name), self.command(name), self.kills, kills.Tally(self.tally), runs)

    @functools.cache  # noqa: B019
    def disk(self, name: str) -> disks.Disk:
        if self.library is None:
            raise CheckError("there is no C compiler, which faults of a disk need")
        command = self.command(name)
        folder = command.folder if name == "train" else self.files  # which leaves out images that cannot be read
        return disks.on_disk(self.zygote(name), command, folder, resumed=name in GOING_ON)

    def check_errors(self, name: str, error: int) -> str:
        return disks.check_errors(self.disk(name), error, self.step)

    def check_legal(self, name: str) -> str:
        return disks.check_legal(self.disk(name))

    def check_clock(self, name: str) -> str:
        if self.library is None:
            raise CheckError("there is no C compiler, which faults of the clock need")
        return clocks.check_clock(self.zygote(name), self.command(name), 1 if name in SLOW else 3)

    def check_served_clock(self, model: Path) -> str:
        if self.library is None:
            raise CheckError("there is no C compiler, which faults of the clock need")
        return clocks.check_served_clock(self.library, model, self.folder)

    def check_memory(self, model: Path, name: str, kind: str) -> str:
        _, checkpoint, _, _, *options = self.command("convert").arguments
        trials = memory.commands(model, Path(checkpoint), options, self.folder)
        return memory.check_memory(name, trials[name], memory.LIMITS[kind])


def checks(model: Path, seconds: float, count_of_reloads: int, of: Faults) -> dict[str, Callable[[], str]]:
    """Name and function of every check."""
    found: dict[str, Callable[[], str]] = {
        "threads": partial(callers.check_threads, model, seconds),
        "models": partial(callers.check_models, model, seconds),
        "reloads": partial(reloads.check_reloads, model, count_of_reloads),
        **{f"pool-{method}": partial(callers.check_pool, model, method) for method in callers.start_methods()},
        "prefork": partial(callers.check_prefork, model, seconds, of.folder),
        "read-only-home": lambda: faults.check_read_only_home(of.command("classify")),
    }
    for name in FULL:
        found[f"interrupt-{name}"] = partial(_with, of, name, partial(faults.check_interrupts, times=of.times))
        found[f"full-disk-{name}"] = partial(_with, of, name, faults.check_full_disk)
    found |= {f"kill-{name}": partial(of.check_killed, name) for name in KILLED}
    for name in DISKS:
        found[f"short-{name}"] = partial(of.check_legal, name)
        found[f"eio-{name}"] = partial(of.check_errors, name, errno.EIO)
        found[f"enospc-{name}"] = partial(of.check_errors, name, errno.ENOSPC)
    found["kernels-classify"] = lambda: disks.check_kernels(of.disk("classify"))
    found |= {f"clock-{name}": partial(of.check_clock, name) for name in CLOCKS}
    found["clock-serve"] = partial(of.check_served_clock, model)
    for name in MEASURED:
        for kind in memory.LIMITS:
            found[f"memory-{name}-{kind}"] = partial(of.check_memory, model, name, kind)
    return found


def _with(of: Faults, name: str, check: Callable[[Command], str]) -> str:
    return check(of.command(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=DEFAULT, help="packed model; default bhvit-digits")
    parser.add_argument("--seconds", type=float, default=10, help="how long each check of callers lasts (default 10)")
    parser.add_argument("--times", type=int, default=6, help="how often each command is interrupted (default 6)")
    parser.add_argument("--kills", type=int, default=20, help="how often each command is killed (default 20)")
    parser.add_argument("--tally", type=Path, metavar="FILE", help="add the kills to those in this file, and go on")
    parser.add_argument("--step", type=int, default=1, help="have each so many-th call on a file fail (default 1)")
    parser.add_argument("--reloads", type=int, default=500, help="how often a called model is replaced (default 500)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="run the checks whose names begin with this; may be given again"
    )
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="run at full load for that long, and nothing else"
    )
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bitvit-stress-") as folder, contextlib.ExitStack() as stack:
        if options.soak:
            chosen: dict[str, Callable[[], str]] = {"soak": partial(soak.check_soak, options.model, 60 * options.soak)}
        else:
            of = Faults(Path(folder), stack, options.tally, options.times, options.kills, options.step)
            every = checks(options.model, options.seconds, options.reloads, of)
            chosen = {n: c for n, c in every.items() if not options.only or n.startswith(tuple(options.only))}
        for name, check in chosen.items():
            begin = time.monotonic()
            try:
                print(f"{name:20} ok, {check()} ({time.monotonic() - begin:.0f} s)", flush=True)
            except CheckError as failure:
                failed += 1
                print(f"{name:20} FAILED: {failure}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
