"""A process that has imported bitvit and forks a child for every command: it begins in milliseconds, not in a second.

    with Zygote() as zygote:
        run = zygote.start(command)
        run.kill(group=True)
        run.finish()

The child is a process group of its own. What of it outlives its first process is waited for, too.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import shim
from .commands import ROOT, Command, Done
from .promise import PATIENCE, CheckError

__all__ = ["Run", "Zygote", "main"]

MODULES = (
    "bitvit.cli.application", "bitvit.classify", "bitvit.conversion", "bitvit.evaluation", "bitvit.evaluation.drawings",
    "bitvit.evaluation.evaluating", "bitvit.evaluation.tables", "bitvit.verify.verifying", "bitvit.bundle.writing",
    "bitvit.parquetjob", "bitvit.cli.parquet", "bitvit.jit.sharing", "bitvit.summary", "rich.console", "rich.progress",
    "rich.table", "PIL.PngImagePlugin",
)  # fmt: skip
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: what a killed child leaves behind becomes the zygote's to wait for


# ------------------------------------------------------------------------------------------------------- one side of it
@dataclass(frozen=True)
class Run:
    """A command that has begun."""

    zygote: "Zygote"
    name: str
    pid: int

    def kill(self, *, group: bool) -> None:
        """kill -9 of its first process, or of all that belong to it."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)

    def finish(self) -> Done:
        """Wait for its end, and that of the processes that it has started."""
        code = self.zygote.answer()
        if code is None:
            self.kill(group=True)
            raise CheckError(f"{self.name} does not end")
        return Done(int(code), self.zygote.stdout.read_text(), self.zygote.stderr.read_text())


class Zygote:
    """modules: to import besides the usual ones. library: to preload, as shim.build has made it."""

    def __init__(self, modules: Sequence[str] = (), library: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bitvit-zygote-")
        self.stdout, self.stderr = (Path(self._folder.name, name) for name in ("stdout", "stderr"))
        single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a fork takes along no thread but one
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *MODULES, *modules],
            cwd=ROOT,
            env={**os.environ, **single, **shim.preloading(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def start(self, command: Command, *more: str, environment: Mapping[str, str] | None = None) -> Run:
        """Begin a command. environment: for this run, beside the command's."""
        job = {
            "arguments": [*command.arguments, *more],
            "environment": {**command.environment, **(environment or {})},
            "settings": dict(command.settings),
            "outputs": [str(self.stdout), str(self.stderr)],
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        return Run(self, command.name, int(self.answer() or 0))

    def run(self, command: Command, *more: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end."""
        return self.start(command, *more, environment=environment).finish()

    def answer(self) -> bytes | None:
        """The next line that it says; None if none comes."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else b""
        if ready and not line:
            raise CheckError("the process that forks commands has ended")
        return line or None


# ------------------------------------------------------------------------------------------------------------ the other
def main(modules: Sequence[str]) -> None:
    """Fork a child for each line of stdin; say its process id, and its exit code once all of it has ended."""
    import ctypes

    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for module in modules:
        with contextlib.suppress(ImportError):  # of an extra
            importlib.import_module(module)
    for line in sys.stdin.buffer:
        pid = os.fork()
        if not pid:
            _work(json.loads(line))
        with contextlib.suppress(OSError):  # done by the child meanwhile
            os.setpgid(pid, pid)
        print(pid, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-pid, 0)
        print(code, flush=True)


def _work(job: dict[str, Any]) -> None:
    """What the child does; it never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in enumerate(job["outputs"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.environ.update(job["environment"])
        for setting, value in job["settings"].items():
            module, _, name = setting.rpartition(".")
            setattr(importlib.import_module(module), name, value)
        from bitvit.cli import main as command_line

        sys.argv = ["bitvit", *job["arguments"]]
        shim.arm()
        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
