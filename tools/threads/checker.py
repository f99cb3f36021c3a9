"""spin, the model checker: a model with its sizes and events is translated to C, compiled and run to the end."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODEL", "MissingError", "Outcome", "check", "missing"]

MODEL = Path(__file__).with_name("team.pml")
DEPTH = 100_000  # steps of one order; a search that needs more fails
LEAST_DEPTH = 20  # of a search that has begun at all


class MissingError(RuntimeError):
    """A program that is not there, or that failed."""


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    errors: int
    found: str
    """The assertion that was violated, or what else spin said of the first error; empty if there is none."""
    states: int
    depth: int
    megabytes: float
    seconds: float


def missing() -> list[str]:
    """Programs that a check needs and that are not there."""
    return [name for name in ("spin", "gcc") if shutil.which(name) is None]


def check(options: Sequence[str], model: Path = MODEL) -> Outcome:
    """Search all orders of a model, or up to the first error.

    options: what the model is compiled with, such as HELPERS=2. Raises MissingError.
    """
    if missing():
        raise MissingError(f"there is no {', '.join(missing())}; Debian: apt-get install spin gcc")
    # Where processes are frozen behind a fork, no end state is valid, and spin cannot leave out orders.
    fork = "FORK" in options
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.perf_counter()
        _run(["spin", *(f"-D{option}" for option in options), "-a", str(model)], folder)
        flags = ["-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", *(["-DNOREDUCE"] if fork else [])]
        _run(["gcc", *flags, "-o", "pan", "pan.c"], folder)
        said = _run(["./pan", f"-m{DEPTH}", *(["-E"] if fork else [])], folder)
        seconds = time.perf_counter() - begin
    if "max search depth too small" in said or "out of memory" in said:
        raise MissingError(f"spin did not search everything: {said[-500:]}")
    first = re.search(r"^pan:1: (.*?)(?: \(at depth \d+\))?$", said, re.MULTILINE)
    outcome = Outcome(
        errors=int(_number(r"errors: (\d+)", said)),
        found=first[1] if first else "",
        states=int(_number(r"(\d+) states, stored", said)),
        depth=int(_number(r"depth reached (\d+)", said)),
        megabytes=_number(r"([\d.]+)\s+total actual memory usage", said),
        seconds=seconds,
    )
    if outcome.depth < LEAST_DEPTH:
        raise MissingError(f"spin hardly began: {said[-500:]}")
    return outcome


def _number(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise MissingError(f"spin did not say {pattern!r}: {said[-500:]}")
    return float(found[1])


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"{command[0]} has failed: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout
