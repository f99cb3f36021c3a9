"""Whole jobs, from image files to labels, with two installed builds of bitvit in turn.

    python -m tools.bench_pipeline OLD NEW MODEL [--small SMALL ...] [--photos 300] [--rounds 9] [--threads 2]
        [--memory 10000] [--record docs/benchmarks.json]

OLD and NEW are Python interpreters of environments that have a build each. MODEL classifies made-up photographs of 500
x 375 pixels (JPEG), the first SMALL ten times as many made-up PNGs of 32 pixels. Every round runs each command with
both builds, one right after the other; a ratio is the median over the rounds of new by old. The outputs must be the
same bytes. CPU time is user and system time of the process; kernels and bytecode are in their caches.

In every round NEW also does the parts of the work alone, on one thread (pipeline_parts.py): their CPU time over threads
x time by the clock is the share of the bound that a job reaches. At the end each SMALL is called on one and on two
threads, and classify's memory is measured over --memory photographs, links to those there are, and over a tenth of
them; 0 leaves that out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bitvit.bench.formats import digits
from bitvit.bench.machine import cpu_name, instruction_set
from bitvit.errors import BitvitError
from tools.results import check_record, store

CLASSES = 4  # folders of the images, for `evaluate`
PARTS = Path(__file__).with_name("pipeline_parts.py")
# Of variables that a developer's shell may have set: installed packages have their bytecode, and pipes are buffered.
UNSET = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "FORCE_COLOR")
# The main program, which in the end says the most memory that it had. Not what wait4 tells: that may be this process's.
WATCHED = """
import atexit, sys
from bitvit.cli import main
lines = lambda: open("/proc/self/status").read().splitlines()
atexit.register(lambda: print(next(line for line in lines() if line.startswith("VmHWM:")), file=sys.stderr))
main()
"""


class Job(NamedTuple):
    """A command line after the interpreter, and what of it is compared."""

    name: str
    arguments: tuple[str, ...]
    images: int


class Run(NamedTuple):
    """One process."""

    wall: float
    cpu: float
    output: bytes
    problems: bytes


def make_photos(folder: Path, count: int, seed: int = 0) -> None:
    """JPEGs of 500 x 375 pixels with the spectrum of photographs, in CLASSES folders."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = np.zeros((375, 500, 3), np.float32)
        for side in (4, 16, 64, 256):  # finer details are fainter
            for channel in range(3):
                layer = Image.fromarray((rng.standard_normal((side * 3 // 4, side)) / side).astype(np.float32))
                scene[..., channel] += np.asarray(layer.resize((500, 375)))
        scene = (scene - scene.min()) / np.ptp(scene)
        place = folder / f"class {number % CLASSES}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * scene).astype(np.uint8)).save(place, quality=90)


def make_small(folder: Path, count: int, seed: int = 0) -> None:
    """PNGs of 32 pixels, in CLASSES folders."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        soft = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        place = folder / f"class {number % CLASSES}" / f"{number:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        soft.save(place)


def jobs(model: Path, small: Path | None, folder: Path, photos: int, threads: int) -> list[Job]:
    """The commands, once their images are made in folder/photos and folder/small."""
    names = folder / "classes.json"
    names.write_text(json.dumps({f"class {number}": number for number in range(CLASSES)}))
    common = ("--threads", str(threads))
    found = []
    for name, path, images, count, make in (
        ("photographs", model, folder / "photos", photos, make_photos),
        ("small images", small, folder / "small", 10 * photos, make_small),
    ):
        if path is None:
            continue
        make(images, count)
        one = str(next(images.rglob("*00000.*")))
        found += [
            Job(f"classify, {count} {name}", ("classify", str(path), str(images), "-r", "-f", "csv", *common), count),
            Job(
                f"evaluate, {count} {name}",
                ("evaluate", str(path), str(images), "--classes", str(names), *common),
                count,
            ),
            Job(f"classify, one of the {name}", ("classify", str(path), one, "-f", "csv", *common), 1),
        ]
    return found


def run(python: str, *arguments: str) -> Run:
    """One process of a build. Raises BitvitError if it fails."""
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problems:
        process = subprocess.Popen([python, *arguments], stdout=out, stderr=problems, cwd="/", env=environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), problems.seek(0)
        found = Run(wall, used.ru_utime + used.ru_stime, out.read(), problems.read())
        if process.returncode:
            raise BitvitError(f"{python} {' '.join(arguments)}: {found.problems.decode()[-400:]}")
        return found


def pair(old: str, new: str, job: Job, number: int) -> tuple[Run, Run]:
    """A job with both builds; in every other round the new one is first. BitvitError if they answer differently."""
    order = (old, new) if number % 2 else (new, old)
    found = {python: run(python, "-m", "bitvit", *job.arguments) for python in order}
    if job.arguments[0] == "classify" and found[old].output != found[new].output:
        raise BitvitError(f"{job.name}: the two builds answer differently")
    return found[old], found[new]


def row(job: Job, pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """Medians of both builds and of their ratios."""
    found: dict[str, Any] = {"job": job.name, "images": job.images}
    for field in ("wall", "cpu"):
        found[field] = {
            "old": statistics.median(getattr(one, field) for one, _ in pairs),
            "new": statistics.median(getattr(two, field) for _, two in pairs),
            "ratio": statistics.median(getattr(two, field) / getattr(one, field) for one, two in pairs),
        }
    return found


PART_NAMES = ("decode", "resize", "network")


def parts_row(job: Job, threads: int, found: Sequence[dict[str, float]], walls: Sequence[float]) -> dict[str, Any]:
    """Shares of the bound, and what an image costs beside its parts. found: of pipeline_parts, a round each; walls: of
    the job in the same rounds."""
    totals = [one["decode"] + one["resize"] + one["network"] for one in found]
    images = job.images
    return {
        "job": job.name,
        **{f"{name}_ms": 1e3 * statistics.median(one[name] for one in found) / images for name in PART_NAMES},
        "outside_ms": 1e3 * statistics.median(one["outside"] for one in found) / images,
        "share": statistics.median(t / (threads * one["wall"]) for one, t in zip(found, totals, strict=True)),
        "share_with_start": statistics.median(t / (threads * wall) for t, wall in zip(totals, walls, strict=True)),
    }


def measure(
    old: str, new: str, todo: Sequence[Job], rounds: int, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of all jobs, and of the parts of those that classify many images; round by round."""
    for job in todo:
        if job.images == 1:  # fills the caches
            pair(old, new, job, 0)
    whole = [job for job in todo if job.arguments[0] == "classify" and job.images > 1]
    pairs: dict[Job, list[tuple[Run, Run]]] = {job: [] for job in todo}
    parts: dict[Job, list[dict[str, float]]] = {job: [] for job in whole}
    for number in range(rounds):
        for job in todo:
            print(f"round {number + 1} of {rounds}: {job.name}", file=sys.stderr, flush=True)
            pairs[job].append(pair(old, new, job, number))
            if job in parts:
                parts[job].append(asked(new, "parts", *job.arguments[1:3], str(threads)))
    return (
        [row(job, pairs[job]) for job in todo],
        [parts_row(job, threads, parts[job], [two.wall for _, two in pairs[job]]) for job in whole],
    )


def asked(python: str, *arguments: str) -> Any:
    """What pipeline_parts.py answers."""
    return json.loads(run(python, str(PARTS), *arguments).output)


def peak(python: str, model: Path, photos: Path, count: int, threads: int) -> dict[str, float]:
    """Most memory, MB, of classify over so many photographs, links to those there are; Linux only."""
    originals = sorted(photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=photos.parent) as folder:
        for number in range(count):
            (Path(folder) / f"{number:06}.jpg").symlink_to(originals[number % len(originals)])
        done = run(python, "-c", WATCHED, "classify", str(model), folder, "-f", "csv", "--threads", str(threads))
    return {"images": count, "peak": int(done.problems.split()[-2]) / 1024}


# ------------------------------------------------------------------------------------------------------------ tables
def table(result: dict[str, Any]) -> str:
    """The rows as tables. Records of earlier versions have the first alone."""
    lines = [
        "| job | wall time, s | against before | CPU time, s | against before |",
        "|---|--:|--:|--:|--:|",
    ]
    for found in result["results"]:
        wall, cpu = found["wall"], found["cpu"]
        lines.append(
            f"| {found['job']} | {wall['new']:.2f} | {wall['ratio']:.2f} x | {cpu['new']:.2f} | {cpu['ratio']:.2f} x |"
        )
    if result.get("parts"):
        lines += [
            "",
            "| CPU time of an image, ms | decode | resize | network | all else | share of the bound | with the start |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for found in result["parts"]:
            cells = [digits(found[f"{name}_ms"]) for name in (*PART_NAMES, "outside")]
            lines.append(
                f"| {found['job']} | {' | '.join(cells)} | {found['share']:.0%} | {found['share_with_start']:.0%} |"
            )
    if result.get("small"):
        lines += ["", "| model | batch | 1 thread, ms | 2 threads, ms | ratio |", "|---|--:|--:|--:|--:|"]
        lines += [
            f"| {found['model']} | {found['batch']} | {digits(found['one'])} | {digits(found['two'])} |"
            f" {found['ratio']:.2f} x |"
            for found in result["small"]
        ]
    if result.get("memory"):
        peaks = ", ".join(f"{found['peak']:.0f} MB over {found['images']:,}" for found in result["memory"])
        lines += ["", f"Most memory of classify: {peaks} photographs."]
    lines += [
        "",
        f"{result['cpu']} ({result['instructions']}), {result['threads']} threads, medians of {result['rounds']}"
        f" rounds; {result['date'][:10]}.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="Python interpreter with the build to compare with")
    parser.add_argument("new", type=Path, help="Python interpreter with the build to measure")
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--small", type=Path, nargs="+", default=[], help="models for small images; the first does the jobs"
    )
    parser.add_argument("--photos", type=int, default=300, help="and ten times as many small images (default 300)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="photographs (default 0: not measured)")
    parser.add_argument("--record", type=Path, metavar="FILE")
    options = parser.parse_args()
    old, new, model = str(options.old.absolute()), str(options.new.absolute()), options.model.resolve()
    small, threads = [path.resolve() for path in options.small], options.threads
    try:
        check_record(options.record)
        with tempfile.TemporaryDirectory() as folder:
            todo = jobs(model, small[0] if small else None, Path(folder), options.photos, threads)
            rows, parts = measure(old, new, todo, options.rounds, threads)
            compared = [{"model": path.stem, **found} for path in small for found in asked(new, "threads", str(path))]
            counts = sorted({options.memory // 10, options.memory} - {0})
            memory = [peak(new, model, Path(folder) / "photos", count, threads) for count in counts]
        result = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "instructions": instruction_set(),
            "threads": threads,
            "rounds": options.rounds,
            "results": rows,
            "parts": parts,
            "small": compared,
            "memory": memory,
        }
        print(table(result))
        if options.record is not None:
            store(options.record, "pipeline", result)
    except BitvitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
