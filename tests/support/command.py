"""Running bitvit's commands, in this process or in one of their own."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from typer.testing import CliRunner

from bitvit.cli import app
from tests.support.paths import ROOT
from tests.support.patience import patience


def run(*arguments: object, code: int = 0, stdin: bytes | None = None) -> tuple[str, str]:
    """stdout and stderr of a command, which must end with this exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


class Terminal(io.StringIO):
    """A stream that says that a person looks at it."""

    def isatty(self) -> bool:
        return True


def words(text: str) -> str:
    """Text without the box and the line breaks of a usage error."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A finished `python -m bitvit` with these arguments."""
    command = [sys.executable, "-m", "bitvit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=patience(120), check=False, **options)


def in_terminal(columns: int, *arguments: object, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    """What `python -m bitvit` with these arguments writes to a terminal so wide; POSIX."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CI")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-m", "bitvit", *map(str, arguments)]
    everything = {**clean, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(environment or {})}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=everything, cwd=ROOT) as process:
        os.close(theirs)
        written = b""
        with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123
            try:
                while part := screen.read(1 << 16):
                    written += part
            except OSError:  # Linux's end of a terminal
                pass
        assert process.wait(timeout=patience(60)) == code, written.decode()
    return written.decode().replace("\r\n", "\n")


def without_escapes(text: str) -> str:
    """What a terminal shows in the end, if no line is drawn twice."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
