"""python -m tools.serve.cost MODEL: CPU time of a JPEG over HTTP, by that of Classifier on the same bytes.

A server and a process with a Classifier, one thread each, get the same photographs in turn, a few at a time. A ratio is
that of two neighbours; their median is to be at most 1.08. Exit code 1 if it is more.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.support.paths import ROOT
from tests.support.serving import running
from tools.bench_pipeline import make_photos

__all__ = ["seconds_of"]

LIMIT = 1.08
ALONE = """
import sys, time
from pathlib import Path
import bitvit

classify = bitvit.Classifier(sys.argv[1], threads=1)
images = [path.read_bytes() for path in sorted(Path(sys.argv[2]).rglob('*.jpg'))]
for image in images:
    classify(image)
for line in sys.stdin:
    begin = time.process_time()
    for number in range(int(line)):
        classify(images[number % len(images)])
    print(time.process_time() - begin, flush=True)
"""


def seconds_of(process: int) -> float:
    """The CPU time of a process's threads, to the nanosecond; /proc/PID/stat counts in hundredths."""
    nanoseconds = 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def main(
    model: Annotated[Path, typer.Argument()],
    chunk: Annotated[int, typer.Option(help="requests between two changes")] = 10,
    rounds: Annotated[int, typer.Option(help="chunks of each")] = 60,
) -> None:
    """Print milliseconds of CPU time an image: over HTTP, and by Classifier."""
    with tempfile.TemporaryDirectory(prefix="bitvit-cost-") as folder:
        place = Path(folder) / "images"
        make_photos(place, 8)
        images = [path.read_bytes() for path in sorted(place.rglob("*.jpg"))]
        alone = subprocess.Popen(
            [sys.executable, "-c", ALONE, str(model), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )
        served = running(Path(folder), model, "--workers", 1, "--no-access-log")
        with alone, served as server, contextlib.closing(server.connect()) as connection:
            asks, says = alone.stdin, alone.stdout
            assert asks is not None
            assert says is not None

            def over_http(count: int) -> float:
                begin = seconds_of(server.process.pid)
                for number in range(count):
                    connection.request("POST", "/classify", images[number % len(images)])
                    response = connection.getresponse()
                    response.read()
                    if response.status != 200:
                        raise SystemExit(f"status {response.status}")
                return seconds_of(server.process.pid) - begin

            def by_classifier(count: int) -> float:
                print(count, file=asks, flush=True)
                return float(says.readline())

            over_http(len(images))
            pairs = [(over_http(chunk), by_classifier(chunk)) for _ in range(rounds)]
            asks.close()
    ratio = statistics.median(http / plain for http, plain in pairs)
    for name, seconds in zip(("over HTTP", "Classifier"), zip(*pairs, strict=True), strict=True):
        print(f"{name:10} {1000 * statistics.median(seconds) / chunk:7.3f} ms, least {1000 * min(seconds) / chunk:.3f}")
    print(f"ratio      {ratio:7.3f}, at most {LIMIT}")
    raise typer.Exit(ratio > LIMIT)


if __name__ == "__main__":
    typer.run(main)
