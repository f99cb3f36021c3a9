"""Running bitvit's commands, in this process or in one of their own."""

import re
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner

from bitvit.cli import app
from tests.support.paths import ROOT


def run(*arguments: object, code: int = 0, stdin: bytes | None = None) -> tuple[str, str]:
    """stdout and stderr of a command, which must end with this exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def words(text: str) -> str:
    """Text without the box and the line breaks of a usage error."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A finished `python -m bitvit` with these arguments."""
    command = [sys.executable, "-m", "bitvit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, check=False, **options)
