"""CPU time of an image inside engines, beside plain bitvit on the same machine.

    python -m tools.engines.cost Daft Spark --folder FOLDER [--model MODEL] [--images png|jpeg] [--rows 300 2300]

Run it with the Python of an environment that has the engines. It can be stopped and started again: FOLDER keeps the
images and what each run has used, and only runs that are missing are done; --seconds says when to begin no other.

What is counted is the CPU time, user's and system's, of a job's whole control group: the program, all that it started,
and what those leave behind, such as Ray's and Spark's daemons and the JVM. The cost of an image is the difference
between a job of many rows and one of few, in which starting, loading and the JVM's warming up fall out. Jobs take
turns with the plain one, the first of each (which may compile kernels) does not count, and medians are compared. The
plain job is Classifier with one thread over the same files, in as many processes as there are CPUs: one process alone
would have caches and memory for itself, as no engine has.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.support.engine_jobs import ended, program, started
from tests.support.paths import ROOT
from tools.engines.data import jpegs, pngs, write_images

__all__ = ["main"]

PLAIN = """
import multiprocessing
import os
from pathlib import Path

import bitvit
import pyarrow.parquet as pq


def classified(files):
    classify = bitvit.Classifier("model.safetensors", threads=1)
    cells = (cell.as_py() for file in files for cell in pq.read_table(file)["image"])
    return sum(len(found) for found in classify.attempt(cells, top_k=1))


if __name__ == "__main__":
    files, count = sorted(Path("images").glob("*.parquet")), int(os.environ["PROCESSES"])
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        print(sum(pool.map(classified, [files[k::count] for k in range(count)], chunksize=1)))
"""
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))  # where version 2 of control groups may be
FILES = 12


def used(text: str, model: Path, images: Path, **variables: str) -> float:
    """The seconds of CPU time that a program takes. Raises SystemExit if it fails."""
    home = next((place for place in GROUPS if (place / "cgroup.controllers").exists()), None)
    if home is None:
        raise SystemExit("no control groups of version 2 under /sys/fs/cgroup")
    group = Path(tempfile.mkdtemp(prefix="bitvit-cost-", dir=home))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copy(model, work / "model.safetensors")
        (work / "images").symlink_to(images.absolute())
        job = started(text, work, **variables)
        (group / "cgroup.procs").write_text(str(job.pid))  # before it starts others, which are born into the group
        if ended(job):
            raise SystemExit((work / "log").read_text())
        until = time.monotonic() + 30
        while (group / "cgroup.procs").read_text() and time.monotonic() < until:
            time.sleep(0.1)  # daemons end after their program
    facts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    dissolve(group)
    return int(facts["usage_usec"]) / 1e6


def dissolve(group: Path) -> None:
    """Kill what is left in a control group, and remove it. Raises OSError if that takes longer than 30 seconds."""
    (group / "cgroup.kill").write_text("1")
    until = time.monotonic() + 30
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < until:
        time.sleep(0.1)  # processes that have ended count until their parent has taken notice
    group.rmdir()


def missing(
    jobs: list[str], rows: tuple[int, int], times: int, done: list[dict[str, Any]]
) -> Iterator[tuple[str, int]]:
    """The runs to do, those that are to be compared next to each other; the first of each job is not counted."""
    have = [(one["job"], one["rows"]) for one in done]
    for number in range(times + 1):
        for count in rows if number else rows[:1]:
            for job in jobs:
                if have.count((job, count)) <= (number if count == rows[0] else number - 1):
                    yield job, count


def told(jobs: list[str], rows: tuple[int, int], done: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each job that has been run with both numbers of rows."""
    plain = None
    for job in jobs:
        few, many = ([one["seconds"] for one in done if (one["job"], one["rows"]) == (job, count)] for count in rows)
        each = [1000 * (b - a) / (rows[1] - rows[0]) for a, b in zip(few[1:], many, strict=False)]
        if each:
            cost = statistics.median(each)
            plain = plain or cost
            spread = f"{min(each):.3f} to {max(each):.3f} in {len(each)} runs"
            start = f"{statistics.median(few[1:]):.1f} s for {rows[0]}"
            yield f"{job:10} {cost:8.3f} ms an image ({spread}), {cost / plain:.2f} x plain; {start}"


def main(
    engines: Annotated[list[str], typer.Argument(help="headings of docs/scaling.md")],
    folder: Annotated[Path, typer.Option(help="of the images and the results")],
    model: Path = ROOT / "weights" / "bhvit-cifar10.safetensors",
    images: str = "png",
    rows: tuple[int, int] = (300, 2300),
    times: Annotated[int, typer.Option(help="that each job is run with each number of rows")] = 3,
    seconds: Annotated[float, typer.Option(help="begin no run later than this")] = 1e9,
    processes: Annotated[int, typer.Option(help="of the plain job")] = os.cpu_count() or 1,
) -> None:
    """Print the CPU time that each further image costs."""
    begin = time.monotonic()
    for count in rows:
        if not (folder / f"{images}-{count}").exists():
            pool = pngs(200) if images == "png" else jpegs(50)
            write_images(folder / f"{images}-{count}", pool, count, files=FILES)
    results = folder / f"{model.stem}-{images}-{'-'.join(engines)}.jsonl"
    plain = f"plain x {processes}"

    def done() -> list[dict[str, Any]]:
        return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    jobs = [plain, *engines]
    for job, count in missing(jobs, rows, times, done()):
        if time.monotonic() - begin > seconds:
            print("not all runs are done: start this again", file=sys.stderr)
            break
        text = PLAIN if job == plain else program(job)
        took = used(text, model, folder / f"{images}-{count}", PROCESSES=str(processes))
        with results.open("a") as file:
            file.write(json.dumps({"job": job, "rows": count, "seconds": took}) + "\n")
    print(*told(jobs, rows, done()), sep="\n")


if __name__ == "__main__":
    typer.run(main)
