"""python -m tools.serve.schema: schemathesis asks a server what its OpenAPI document lets it ask.

It is installed in an environment of its own, which is kept and used again if --folder names it. Its exit code is this
command's.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.support.serving import running
from tools.serve.fuzz import model

__all__: list[str] = []

PACKAGE = "schemathesis==4.32.5"
# A body of any bytes is no image, and one that the schema allows may disagree with itself: valid data may be refused.
# Bodies of protocol v2 may have names that the document does not know: invalid data may be taken.
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"


def main(
    examples: Annotated[int, typer.Option(help="for each operation")] = 100,
    folder: Annotated[Path | None, typer.Option(help="of the environment, kept; default: a temporary one")] = None,
) -> None:
    """Run schemathesis with all checks that make sense."""
    with tempfile.TemporaryDirectory(prefix="bitvit-schema-") as temporary, model() as path:
        place = folder or Path(temporary) / "environment"
        command = place / "bin" / "schemathesis"
        if not command.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", PACKAGE], check=True)
        with running(Path(temporary), f"tiny={path}", "--timeout", 5, "--allow-load", "--no-access-log") as server:
            settings = ["--checks", "all", "--exclude-checks", LEFT_OUT, "--max-examples", str(examples)]
            settings += ["--continue-on-failure", "--request-timeout", "10", "--generation-database", "none"]
            target = f"{server.url}/openapi.json"
            done = subprocess.run([str(command), "run", target, *settings], cwd=temporary, check=False)
            faults = [line for line in server.lines() if "traceback" in line]
            print(f"tracebacks in the server's log: {len(faults)}", *faults[:3], sep="\n")
            ended = server.stop()
    raise typer.Exit(done.returncode or ended or bool(faults))


if __name__ == "__main__":
    typer.run(main)
