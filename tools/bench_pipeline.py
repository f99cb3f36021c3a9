"""Whole jobs, from image files to labels, with two installed builds of bitvit in turn.

    python -m tools.bench_pipeline OLD NEW MODEL [--small SMALL] [--photos 300] [--rounds 9] [--threads 2]
        [--record docs/benchmarks.json]

OLD and NEW are Python interpreters of environments that have a build each. MODEL classifies made-up photographs of 500
x 375 pixels (JPEG), SMALL made-up PNGs of 32 pixels. Every round runs each command with both builds, one right after
the other; a row's ratio is the median over the rounds of new by old. The outputs must be the same bytes. CPU time is
user and system time of the process; the cache of kernels is warm.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bitvit.bench.machine import cpu_name, instruction_set
from bitvit.errors import BitvitError
from tools.results import check_record, store

CLASSES = 4  # folders of the images, for `evaluate`


class Job(NamedTuple):
    """A command line after the interpreter, and what of it is compared."""

    name: str
    arguments: tuple[str, ...]
    images: int


class Run(NamedTuple):
    """One process."""

    wall: float
    cpu: float
    peak: float  # MB
    output: bytes


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
    """The commands, once their images are made."""
    names = folder / "classes.json"
    names.write_text(json.dumps({f"class {number}": number for number in range(CLASSES)}))
    found = []
    for name, path, images, count, make in (
        ("photographs", model, folder / "photos", photos, make_photos),
        ("small images", small, folder / "small", 10 * photos, make_small),
    ):
        if path is None:
            continue
        make(images, count)
        common = ("--threads", str(threads)) if threads else ()
        found += [
            Job(f"classify, {count} {name}", ("classify", str(path), str(images), "-r", "-f", "csv", *common), count),
            Job(
                f"evaluate, {count} {name}",
                ("evaluate", str(path), str(images), "--classes", str(names), *common),
                count,
            ),
            Job(
                f"classify, one of the {name}",
                ("classify", str(path), str(next(images.rglob("*00000.*"))), "-f", "csv", *common),
                1,
            ),
        ]
    return found


def run(python: str, job: Job) -> Run:
    """One process of a build. Raises BitvitError if it fails."""
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FORCE_COLOR")}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problems:
        process = subprocess.Popen(
            [python, "-m", "bitvit", *job.arguments], stdout=out, stderr=problems, cwd="/", env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), problems.seek(0)
        if process.returncode:
            raise BitvitError(f"{python} -m bitvit {' '.join(job.arguments)}: {problems.read().decode()[-400:]}")
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / scale, out.read())


def compare(old: str, new: str, job: Job, rounds: int) -> dict[str, Any]:
    """A row: medians of both builds and of their ratios."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            pair = run(old, job), run(new, job)
        else:
            second, first = run(new, job), run(old, job)
            pair = first, second
        if job.arguments[0] == "classify" and pair[0].output != pair[1].output:
            raise BitvitError(f"{job.name}: the two builds answer differently")
        pairs.append(pair)
    pairs = pairs[1:]  # the first fills caches
    row: dict[str, Any] = {"job": job.name, "images": job.images}
    for field in ("wall", "cpu", "peak"):
        row[field] = {
            "old": statistics.median(getattr(one, field) for one, _ in pairs),
            "new": statistics.median(getattr(two, field) for _, two in pairs),
            "ratio": statistics.median(getattr(two, field) / getattr(one, field) for one, two in pairs),
        }
    return row


def table(result: dict[str, Any]) -> str:
    """The rows as a table."""
    lines = [
        "| job | wall time, s | against before | CPU time, s | against before | peak, MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in result["results"]:
        wall, cpu = row["wall"], row["cpu"]
        lines.append(
            f"| {row['job']} | {wall['new']:.2f} | {wall['ratio']:.2f} x | {cpu['new']:.2f} | {cpu['ratio']:.2f} x |"
            f" {row['peak']['new']:.0f} |"
        )
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
    parser.add_argument("--small", type=Path, help="model for small images")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        check_record(options.record)
        with tempfile.TemporaryDirectory() as folder:
            small = None if options.small is None else options.small.resolve()
            todo = jobs(options.model.resolve(), small, Path(folder), options.photos, options.threads)
            rows = [
                compare(str(options.old.absolute()), str(options.new.absolute()), job, options.rounds) for job in todo
            ]
        result = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "instructions": instruction_set(),
            "threads": options.threads,
            "rounds": options.rounds,
            "results": rows,
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
