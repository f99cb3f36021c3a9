"""python -m tools.serve.fuzz: mutated requests, to the application itself and over connections to a server.

A failure is an answer of status 500 or none at all where one is due, an error that is not {"error": text}, a request
that takes more than 10 seconds, and memory that grows from the first fifth of the requests to the last. Request
number n depends on --seed and n alone; --only n sends that one, and shows what it is.
"""

import asyncio
import collections
import contextlib
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import typer

from bitvit import serve
from bitvit.serve.application import Application
from tests.support.serving import Answer, RunningServer, exchange, running, scope_of
from tools.fuzz.seeds import CONFIGS, write_packed
from tools.serve.requests import Request, mutated, valid_requests

__all__ = ["ask", "failure_of"]

PATIENCE = 10.0  # seconds for a request
GROWTH = 24  # MiB
TOGETHER = 64  # connections
CONTENT = ("application/json", "text/html; charset=utf-8", "application/octet-stream", "text/plain", "application/open")


def request_number(number: int, seed: int, seeds: list[Request]) -> Request:
    random_ = random.Random(f"{seed}-{number}")
    return mutated(random_.choice(seeds), seeds, random_)


def failure_of(request: Request, answer: Answer) -> str:
    """What is wrong with an answer, or an empty text."""
    if answer.status == 500 or not 200 <= answer.status < 504:
        return f"status {answer.status}: {answer.body[:200]!r}"
    if not answer.headers["content-type"].startswith(CONTENT):
        return f"content type {answer.headers['content-type']}"
    if answer.status >= 400 and request.method != "HEAD":
        try:
            content = json.loads(answer.body)
        except ValueError:
            return f"an error that is not JSON: {answer.body[:200]!r}"
        if not isinstance(content.get("error"), str) or not content["error"]:
            return f"an error without its text: {answer.body[:200]!r}"
    return ""


def resident(process: int | str = "self") -> float:
    """MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


class Tally:
    """Outcomes, failures, and memory."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count
        self.statuses: collections.Counter[int] = collections.Counter()
        self.failures: list[str] = []
        self.slowest = (0.0, 0)
        self.memory: list[float] = []
        self.begin = time.monotonic()

    def add(self, number: int, status: int, seconds: float, failure: str) -> None:
        self.statuses[status] += 1
        self.slowest = max(self.slowest, (seconds, number))
        if failure:
            self.failures.append(f"{self.name} {number}: {failure}")
            print(self.failures[-1], file=sys.stderr)

    def remember(self, mebibytes: float) -> None:
        """Called twenty times a run."""
        self.memory.append(mebibytes)

    def report(self) -> bool:
        """Whether all was well."""
        grown = max(self.memory[-3:]) - max(self.memory[: len(self.memory) // 5 + 1])
        statuses = " ".join(f"{status}:{count}" for status, count in sorted(self.statuses.items()))
        print(f"{self.name}: {self.count} requests in {time.monotonic() - self.begin:.0f} s: {statuses}")
        print(f"  slowest {self.slowest[0]:.2f} s (number {self.slowest[1]}); memory {self.memory[-1]:.0f} MiB", end="")
        print(f", grown by {grown:.1f} (at most {GROWTH}); failures: {len(self.failures)}")
        return grown <= GROWTH and not self.failures


# ------------------------------------------------------------------------------------------------- without a connection
async def ask(app: Application, request: Request) -> tuple[Answer, str]:
    """What the application itself answers, and what is wrong with it."""
    scope = scope_of(request.method, "/")
    path, _, query = request.target.partition("?")
    scope |= {
        "path": unquote(path) or "/",
        "raw_path": path.encode("utf-8"),
        "query_string": query.encode("utf-8"),
        "headers": [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in (("Host", "x"), ("Content-Length", str(len(request.body))), *request.headers)
        ],
    }
    half = len(request.body) // 2
    try:
        answer = await asyncio.wait_for(exchange(app, scope, [request.body[:half], request.body[half:]]), PATIENCE)
    except asyncio.TimeoutError:
        return Answer(0, {}, b""), f"no answer within {PATIENCE} s"
    except Exception as problem:
        return Answer(0, {}, b""), f"raised {problem!r}"
    return answer, failure_of(request, answer)


async def inside(app: Application, seeds: list[Request], numbers: range, seed: int) -> Tally:
    tally = Tally("application", len(numbers))
    for number in numbers:
        request = request_number(number, seed, seeds)
        begin = time.monotonic()
        answer, failure = await ask(app, request)
        tally.add(number, answer.status, time.monotonic() - begin, failure)
        if number % max(1, len(numbers) // 20) == 0:
            tally.remember(resident())
    return tally


# --------------------------------------------------------------------------------------------------- over connections
def raw_number(number: int, seed: int, seeds: list[Request]) -> bytes:
    """What is sent: a mutated request, and every second time with some of its bytes changed again."""
    raw = bytearray(request_number(number, seed, seeds).raw())
    random_ = random.Random(f"raw-{seed}-{number}")
    if random_.random() < 0.5:
        for _ in range(random_.choice((1, 2, 8))):
            place = random_.randrange(min(len(raw), 300))
            raw[place : place + random_.choice((0, 1, 5))] = random_.choice((b"", b"\r\n", b"\0", random_.randbytes(3)))
    return bytes(raw)


async def converse(port: int, data: bytes) -> tuple[int, str]:
    """The status of the first answer, 0 for a connection that is closed without one, and what is wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            while line.startswith(b"HTTP/1.1 100"):
                await reader.readline()
                line = await reader.readline()
            if line:
                status = int(line.split()[1])
                return status, f"status 500 to {data[:300]!r}" if status == 500 else ""
        return 0, ""
    finally:
        writer.close()


async def outside(server: RunningServer, seeds: list[Request], numbers: range, seed: int) -> Tally:
    tally, places = Tally("connections", len(numbers)), asyncio.Semaphore(TOGETHER)

    async def one(number: int) -> None:
        async with places:
            begin = time.monotonic()
            try:
                talk = converse(server.port, raw_number(number, seed, seeds))
                status, failure = await asyncio.wait_for(talk, PATIENCE)
            except asyncio.TimeoutError:
                status, failure = 0, f"no end within {PATIENCE} s"
            except (OSError, ValueError) as problem:
                status, failure = 0, repr(problem)
            tally.add(number, status, time.monotonic() - begin, failure)

    step = max(1, len(numbers) // 20)
    for start in range(0, len(numbers), step):
        await asyncio.gather(*(one(number) for number in numbers[start : start + step]))
        tally.remember(resident(server.process.pid))
    return tally


@contextlib.contextmanager
def model() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-") as folder:
        path = Path(folder) / "tiny.safetensors"
        write_packed(path, CONFIGS[0])
        yield path


def main(
    count: Annotated[int, typer.Option(help="requests to the application itself")] = 100_000,
    connections: Annotated[int, typer.Option(help="requests over connections")] = 5_000,
    seed: Annotated[int, typer.Option(help="another one gives other requests")] = 1,
    only: Annotated[int | None, typer.Option(help="the number of one request, which is shown")] = None,
) -> None:
    """Send mutated requests; exit code 1 if one of them is a failure."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # as `bitvit serve` does
    with model() as path:
        app = serve.app({"tiny": path}, workers=1, limits=serve.Limits(body=4 << 20, seconds=5), allow_load=True)
        seeds = valid_requests("tiny", app.registry.default.size)
        for request in seeds:
            answer, _ = asyncio.run(ask(app, request))
            if answer.status != 200:
                raise SystemExit(f"{request.target} is valid but answered {answer.body!r}")
        if only is not None:
            request = request_number(only, seed, seeds)
            print(request, asyncio.run(ask(app, request)), sep="\n")
            return
        fine = asyncio.run(inside(app, seeds, range(count), seed)).report() if count else True
        if connections:
            with running(path.parent, f"tiny={path}", "--timeout", 1, "--no-access-log", "--allow-load") as server:
                fine &= asyncio.run(outside(server, seeds, range(connections), seed)).report()
                healthy = server.ask("GET", "/v2/health/ready").status == 200
                jobs = "bitvit_jobs 0.0" in server.ask("GET", "/metrics").body.decode()
                ended = server.stop() == 0
                print(f"  then ready: {healthy}; no job left: {jobs}; ended by SIGTERM: {ended}")
                faults = [line for line in server.lines() if "traceback" in line]
                print(f"  tracebacks in its log: {len(faults)}", *faults[:3], sep="\n")
                fine &= healthy and jobs and ended and not faults
    raise typer.Exit(not fine)


if __name__ == "__main__":
    typer.run(main)
