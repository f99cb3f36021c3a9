"""Limits of memory from 60 MB up: at every step the right answer, or one line that says what is wrong.

Two limits: of the address space (RLIMIT_AS), which counts what is mapped and never touched, and of what a process may
write to (RLIMIT_DATA). Below what Python needs to start, nothing of bitvit is run, and what is said is not its own.
"""

import contextlib
import http.client
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .commands import ROOT, Done, image_for
from .promise import CheckError

__all__ = ["LIMITS", "MB", "Limit", "check_memory", "commands", "least_for", "plain"]

MB = 1 << 20
LIMITS = {"address-space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA}
LONGEST = 120.0  # seconds, after which it hangs
HANGS = Done(-signal.SIGALRM, "", f"does not end in {LONGEST:.0f} s")

OPENBLAS = "OpenBLAS error: Memory allocation still failed after 10 retries, giving up."
"""What a user reads where NumPy, while it is imported, has its library end the process."""

_LOAD = """
import os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or it ends the process where it gets no threads
try:
    import numpy, bitvit
    model = bitvit.load(sys.argv[1])
    print(model(numpy.zeros((1, 3, model.config.image_size, model.config.image_size), "float32")).tobytes().hex())
except Exception as problem:
    if not isinstance(problem, (MemoryError, ImportError)) and type(problem).__module__ != "bitvit.errors":
        raise
    sys.exit(f"Error: {type(problem).__name__} {problem}".replace(chr(10), " "))
"""


@dataclass(frozen=True)
class Limit:
    """A limit of a process: one of LIMITS, and bytes."""

    kind: int
    size: int

    def set(self) -> None:
        resource.setrlimit(self.kind, (self.size, self.size))


Trial: TypeAlias = Callable[[Limit | None], Done]
"""Runs something under a limit, or without one."""


def _started(arguments: Sequence[str], limit: Limit | None) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=pipe,
        stderr=pipe, preexec_fn=None if limit is None else limit.set,
    )  # fmt: skip


def plain(*arguments: str, out: Path | None = None) -> Trial:
    """A program of Python's arguments that runs to its end. out: a file that it writes, and that belongs to the answer;
    times that it says do not."""

    def run(limit: Limit | None) -> Done:
        if out is not None:
            out.unlink(missing_ok=True)
        with _started(arguments, limit) as process:
            try:
                said, errors = process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                return HANGS
        if out is not None and out.exists():
            said += out.read_bytes().hex()
        return Done(process.returncode, re.sub(r"in [\d.]+ s\b", "", said), errors)

    return run


def _served(model: Path, image: Path) -> Trial:
    """A server, what it answers to an image, and how it ends."""

    def run(limit: Limit | None) -> Done:
        with _started(["-m", "bitvit", "serve", str(model), "--port", "0", "--no-access-log"], limit) as process:
            assert process.stdout is not None
            line, answer, refused = process.stdout.readline(), "", False
            if line:
                port = int(line.rpartition(":")[2])
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)) as connection:
                    try:
                        connection.request("POST", "/classify", image.read_bytes())
                        response = connection.getresponse()
                        answer = response.read().decode()
                        refused = response.status == 503  # whoever asks again may get an answer
                    except TimeoutError:
                        process.kill()
                        return HANGS
                    except (OSError, http.client.HTTPException) as problem:
                        answer = f"no answer: {problem}"
                process.send_signal(signal.SIGTERM)
            try:
                _, errors = process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                return HANGS
        if refused and process.returncode == 0:
            return Done(1, "", f"Error: {answer}")
        return Done(process.returncode, answer, errors)

    return run


def commands(model: Path, checkpoint: Path, options: Sequence[str], folder: Path) -> dict[str, Trial]:
    """What is run under limits. options: of convert. folder: for files."""
    image, out = folder / "image.png", folder / "converted.safetensors"
    image.write_bytes(image_for(model))
    bitvit = ("-m", "bitvit")
    return {
        "classify": plain(*bitvit, "classify", str(model), str(image), "-f", "csv"),
        "convert": plain(*bitvit, "convert", str(checkpoint), "-o", str(out), *options, out=out),
        "inspect": plain(*bitvit, "inspect", str(model)),
        "serve": _served(model, image),
        "load": plain("-c", _LOAD, str(model)),
    }


def least_for(code: str, kind: int, step: int = 20 * MB) -> int:
    """The least memory in which Python runs a program to its end, to a step."""
    for size in range(step, 4 << 30, step):
        if plain("-c", code)(Limit(kind, size)).code == 0:
            return size
    raise CheckError(f"{code} does not run in 4 GB")


def check_memory(
    name: str, trial: Trial, kind: int, *, first: int = 60 * MB, step: int = 10 * MB, beyond: int = 3
) -> str:
    """Run something under ever more memory, until it has given the right answer `beyond` times in a row."""
    expected = trial(None)
    if expected.code:
        raise CheckError(f"{name}, without a limit: {expected}")
    begin, results, failures = time.monotonic(), Counter[str](), list[str]()
    start = max(first, least_for("import site", kind))
    size, right = start, 0
    while right < beyond:
        try:
            result = _judge(trial(Limit(kind, size)), expected.stdout)
        except CheckError as failure:
            result = "wrong"
            failures.append(f"{name} in {size // MB} MB: {failure}")
        results[result] += 1
        right = right + 1 if result == "right" else 0
        size += step
    counts = ", ".join(f"{count} {what}" for what, count in results.items())
    if failures:
        raise CheckError("\n".join([counts, *failures]))
    return (
        f"{name} in {start // MB} to {(size - step) // MB} MB by {step // MB}: {counts}; it takes "
        f"{(size - beyond * step) // MB} MB ({time.monotonic() - begin:.0f} s)"
    )


def _judge(done: Done, expected: str) -> str:
    """What came of a run: the right answer, or an error that is told. CheckError if it is neither."""
    said = done.stderr.strip()
    if done.code == 0:
        if done.stdout != expected:
            raise CheckError(f"another answer: {done.stdout!r}, {said}")
        return "right"
    if done.stdout and not expected.startswith(done.stdout):
        raise CheckError(f"half an answer: {done.stdout!r}, {said}")
    if done.code == 1 and said.splitlines() == [OPENBLAS]:
        return "told by OpenBLAS"
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    if done.code < 0 or "Traceback" in said or len(errors) != 1 or len(said.splitlines()) > 3:
        raise CheckError(f"exit code {done.code}, {said[-700:]!r}")
    return "told"
