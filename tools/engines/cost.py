"""CPU time of an image inside an engine: all processes of a job, in a control group of their own.

    python -m tools.engines.cost Daft Spark [--model MODEL] [--images png|jpeg] [--rows 5000 20000]

Run it with the Python of an environment that has the engine. What starting costs falls out: the figure is the
difference between two numbers of rows. "plain" is Classifier with one thread, over the same bytes in one process.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.support.engine_jobs import program, run
from tests.support.paths import ROOT
from tools.engines.data import jpegs, pngs, write_images

__all__ = ["marginal"]

PLAIN = """
import bitvit
import pyarrow.parquet as pq

classify = bitvit.Classifier("model.safetensors", threads=1)
column = pq.read_table("images")["image"]
print(sum(len(found) for found in classify.attempt((cell.as_py() for cell in column), top_k=1)))
"""
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))  # where version 2 of control groups may be


def group() -> Path:
    """A new control group, which this process has entered and its children will be in."""
    home = next((place for place in GROUPS if (place / "cgroup.controllers").exists()), None)
    if home is None:
        raise SystemExit("no control groups of version 2 under /sys/fs/cgroup")
    made = Path(tempfile.mkdtemp(prefix="bitvit-cost-", dir=home))
    (made / "cgroup.procs").write_text(str(os.getpid()))
    return made


def seconds(place: Path) -> float:
    """The CPU time that all processes of a group have used, ended ones too."""
    facts = dict(line.split() for line in (place / "cpu.stat").read_text().splitlines())
    return int(facts["usage_usec"]) / 1e6


def marginal(text: str, model: Path, images: list[bytes], rows: tuple[int, int], place: Path) -> float:
    """Milliseconds of CPU time for each further image. Raises SystemExit where a job fails."""
    used = []
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            shutil.copy(model, work / "model.safetensors")
            write_images(work / "images", images, count, files=10)
            begin = seconds(place)
            if run(text, work):
                raise SystemExit((work / "log").read_text())
            used.append(seconds(place) - begin)
    return 1000 * (used[1] - used[0]) / (rows[1] - rows[0])


def main(
    engines: Annotated[list[str], typer.Argument(help="headings of docs/scaling.md")],
    model: Path = ROOT / "weights" / "bhvit-cifar10.safetensors",
    images: str = "png",
    rows: tuple[int, int] = (5000, 20000),
) -> None:
    """Print the marginal CPU time of an image."""
    place, pool = group(), pngs(200) if images == "png" else jpegs(50)
    plain = marginal(PLAIN, model, pool, rows, place)
    print(f"plain: {plain:.3f} ms", flush=True)
    for engine in engines:
        found = marginal(program(engine), model, pool, rows, place)
        print(f"{engine}: {found:.3f} ms, {found / plain:.2f} x plain", flush=True)


if __name__ == "__main__":
    typer.run(main)
