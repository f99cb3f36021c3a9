"""python -m tools.engines [NAME...]: install engines, each in an environment of its own, and run their tests there.

The folder that has the environments is kept, and used again, if --folder names it. Spark needs Java 17.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.support.paths import ROOT

PACKAGES = {
    "ray": ("ray[data]==2.60.0",),
    "daft": ("daft==0.7.26", "pyarrow"),
    "spark": ("pyspark==4.3.0", "pandas<3", "pyarrow"),
    "dask": ("dask[dataframe]==2026.8.0", "distributed==2026.8.0", "datasets", "polars"),
    "s3": ("moto[s3,server]==5.2.5", "pyarrow"),
}
TESTS = ("tests/engines", "tests/test_batches.py", "tests/test_modelsource.py")


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment with an engine and with what bitvit needs."""
    place = folder / name
    python, complete = place / "bin" / "python", place / "complete"
    if not complete.exists():  # or an installation was cut short
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        wanted = (*PACKAGES[name], "pytest", "hypothesis", "--editable", str(ROOT))
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        complete.touch()
    return python


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PACKAGES)}; default: all")] = None,
    folder: Annotated[Path | None, typer.Option(help="of the environments, kept; default: a temporary one")] = None,
) -> None:
    """Run the tests of engines, and print what came of each."""
    with tempfile.TemporaryDirectory(prefix="bitvit-engines-") as temporary:
        outcomes = {}
        for name in names or PACKAGES:
            python = environment(name, folder or Path(temporary))
            tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "-rs", *TESTS]
            outcomes[name] = subprocess.run(tests, cwd=ROOT, check=False).returncode
    for name, code in outcomes.items():
        print(f"{name:6} {' '.join(PACKAGES[name]):60} {'passed' if code == 0 else 'FAILED'}")
    raise typer.Exit(max(outcomes.values()))


if __name__ == "__main__":
    typer.run(main)
