"""python -m tools.serve.load MODEL: a server under load, on this machine alone.

1. One connection, then as many as there are workers: the median time of a request, and what the server can do.
2. 70 % of that, at an even pace that does not wait for answers: 99 of 100 requests, counted from the time they were
   due, are to take at most 4 times the median.
3. 64 connections for --minutes: no error but 503, memory flat.

Every answer is to have the bytes that it has when the server is idle, which say what Classifier says. Exit code 1 if
any of it does not hold. The client takes its share of the CPUs, so another one would find times that are shorter.
"""

import asyncio
import collections
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

import bitvit
from tests.support.serving import RunningServer, running
from tools.bench_pipeline import make_photos
from tools.serve.fuzz import resident

__all__ = ["Client"]

CONNECTIONS = 64
PATIENCE = 60.0  # seconds for a request
GROWTH = 1.1  # memory in the last quarter by that in the second: the first has what is made once
SLOWEST = 4.0  # of the median
LOAD = 0.7
SHORT = 15.0  # seconds of the phases that measure times


@dataclass
class Client:
    """Asks over connections that it keeps, and compares answers with what they are to be."""

    port: int
    images: list[bytes]
    expected: list[bytes] = field(default_factory=list)
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        streams = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield streams
        except BaseException:
            streams[1].close()
            raise
        self._idle.append(streams)

    async def post(self, number: int) -> tuple[int, bytes]:
        """Status and body."""
        body = self.images[number % len(self.images)]
        async with self.connection() as (reader, writer):
            writer.write(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return int(head.split()[1]), await reader.readexactly(int(length.split()[1]))

    async def ask(self, number: int) -> bool:
        """Whether it was answered with 200; what came of it is counted."""
        try:
            status, body = await asyncio.wait_for(self.post(number), PATIENCE)
        except (OSError, EOFError, asyncio.TimeoutError) as problem:
            self.statuses[type(problem).__name__] += 1
            return False
        is_other = status == 200 and body != self.expected[number % len(self.images)]
        self.statuses["200, another answer" if is_other else str(status)] += 1
        return status == 200

    async def steadily(self, connections: int, seconds: float) -> list[float]:
        """The time of each request that is answered; each connection asks when it has its answer."""
        found: list[float] = []
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            while (begin := time.monotonic()) < end:
                if await self.ask(number):
                    found.append(time.monotonic() - begin)
                else:
                    await asyncio.sleep(0.1)
                number += 1

        await asyncio.gather(*(one(number) for number in range(connections)))
        return found

    async def paced(self, rate: float, seconds: float) -> list[float]:
        """The time from when each request was due to its answer."""
        found: list[float] = []

        async def one(number: int, due: float) -> None:
            if await self.ask(number):
                found.append(time.monotonic() - due)

        begin, tasks = time.monotonic(), set()
        for number in range(round(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)
        return found


async def measure(server: RunningServer, model: Path, images: list[bytes], workers: int, seconds: float) -> bool:
    """Whether all of it holds; prints a table."""
    client = Client(server.port, images)
    classify = bitvit.Classifier(model, threads=1)
    for number, image in enumerate(images):
        _, body = await client.post(number)
        if json.loads(body) != classify(image, top_k=5):
            raise SystemExit(f"image {number}: the server says {body!r}, Classifier {classify(image, top_k=5)}")
        client.expected.append(body)
    await client.steadily(workers, 2)
    alone = statistics.median(await client.steadily(1, SHORT))
    capacity = len(await client.steadily(workers, SHORT)) / SHORT
    times = sorted(await client.paced(LOAD * capacity, 2 * SHORT))
    slow = times[int(0.99 * len(times))]
    table = [
        ("median at 1 connection", f"{1000 * alone:.1f} ms", ""),
        (f"{workers} connections", f"{capacity:.1f} requests/s", ""),
        ("99 % at 70 % of that", f"{1000 * slow:.1f} ms", f"at most {1000 * SLOWEST * alone:.1f}"),
    ]
    calm = client.statuses.copy()
    memory: list[float] = []
    running_ = asyncio.create_task(client.steadily(CONNECTIONS, seconds))
    while not running_.done():
        memory.append(resident(server.process.pid))
        await asyncio.wait((running_,), timeout=max(0.5, seconds / 100))
    quarter = max(1, len(memory) // 4)
    before, after = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    answered, statuses = len(running_.result()), dict(client.statuses - calm)
    table += [
        (f"{CONNECTIONS} connections", f"{answered / seconds:.1f} requests/s", f"{seconds:.0f} s"),
        ("answers", " ".join(f"{status}: {count}" for status, count in statuses.items()), "200 and 503 alone"),
        ("before that", " ".join(f"{status}: {count}" for status, count in calm.items()), "200 alone"),
        ("memory", f"{before:.0f}, then {after:.0f} MiB", f"at most {GROWTH} times"),
    ]
    for row in table:
        print(f"{row[0]:24} {row[1]:32} {row[2]}")
    return (
        slow <= SLOWEST * alone
        and set(calm) == {"200"}
        and set(statuses) <= {"200", "503"}
        and after <= GROWTH * before
    )


def main(
    model: Annotated[Path, typer.Argument()],
    minutes: Annotated[float, typer.Option(help="with 64 connections")] = 5.0,
    workers: Annotated[int | None, typer.Option(help="default: all CPUs")] = None,
) -> None:
    """Ask a server, and print what came of it."""
    workers = workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bitvit-load-") as folder:
        place = Path(folder)
        make_photos(place / "images", 8)
        images = [path.read_bytes() for path in sorted(place.rglob("*.jpg"))]
        with running(place, model, "--workers", workers, "--no-access-log") as server:
            fine = asyncio.run(measure(server, model, images, workers, 60 * minutes))
            fine &= server.stop() == 0 and not server.lines()
    raise typer.Exit(not fine)


if __name__ == "__main__":
    typer.run(main)
