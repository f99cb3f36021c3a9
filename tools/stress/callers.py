"""Many callers at once: threads, models, process pools, pre-forked workers. All answers must be the same bits.

Every check returns a line that says what was done, or raises CheckError.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bitvit
from bitvit.model import BHViT

from .promise import PATIENCE, CheckError


@dataclass(frozen=True)
class Question:
    """A batch of images, and the answer of one thread."""

    pixels: NDArray[np.float32]
    answer: bytes


def questions(path: Path) -> list[Question]:
    """Batches of several sizes."""
    model = bitvit.load(path, threads=1)
    size, rng = model.config.image_size, np.random.default_rng(0)
    batches = [rng.standard_normal((count, 3, size, size)).astype(np.float32) for count in (1, 1, 2, 5)]
    return [Question(batch, model(batch).tobytes()) for batch in batches]


def ask(model: BHViT, question: Question) -> None:
    """Call a model; CheckError if it gives another answer."""
    if model(question.pixels).tobytes() != question.answer:
        raise CheckError(f"another answer to {len(question.pixels)} images")


class Callers:
    """Threads that do something again and again, until they are told to stop or one of them fails."""

    def __init__(self, jobs: list[Callable[[int], None]]) -> None:
        self.calls = 0
        self._failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(job,), daemon=True) for job in jobs]

    def _repeat(self, job: Callable[[int], None]) -> None:
        for count in itertools.count():
            if self._stop.is_set():
                break
            try:
                job(count)
            except BaseException as failure:
                self._failures.append(failure)
                self._stop.set()
                break
            self.calls += 1

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(timeout=max(0.1, deadline - time.monotonic()))
        alive = sum(thread.is_alive() for thread in self._threads)
        if self._failures:
            raise CheckError(f"{type(self._failures[0]).__name__}: {self._failures[0]}") from self._failures[0]
        if alive:
            raise CheckError(f"{alive} of {len(self._threads)} threads are still inside a call after {PATIENCE} s")

    @property
    def has_failed(self) -> bool:
        return bool(self._failures)

    def wait(self, seconds: float) -> None:
        """Let them work for so long, or until one fails."""
        self._stop.wait(seconds)


def _asker(model: BHViT, asked: list[Question], start: int) -> Callable[[int], None]:
    return lambda count: ask(model, asked[(start + count) % len(asked)])


# -------------------------------------------------------------------------------------------------------------- threads
def check_threads(path: Path, seconds: float, count: int = 64) -> str:
    """Many Python threads on one model."""
    asked, model = questions(path), bitvit.load(path)
    with Callers([_asker(model, asked, start) for start in range(count)]) as callers:
        callers.wait(seconds)
    return f"{count} threads on one model of {model.threads} threads: {callers.calls:,} calls in {seconds:g} s"


def check_models(path: Path, seconds: float, count: int = 8) -> str:
    """Models that are loaded all at once, and called by two threads each."""
    asked = questions(path)
    models: list[BHViT] = []
    loaders = [threading.Thread(target=lambda: models.append(bitvit.load(path)), daemon=True) for _ in range(count)]
    for thread in loaders:
        thread.start()
    for thread in loaders:
        thread.join(timeout=PATIENCE)
    if len(models) != count:
        raise CheckError(f"{len(models)} of {count} models were loaded")
    with Callers([_asker(model, asked, start) for start, model in enumerate(models * 2)]) as callers:
        callers.wait(seconds)
    return f"{count} models, two threads each: {callers.calls:,} calls in {seconds:g} s"


# ------------------------------------------------------------------------------------------------------- process pools
_inherited: tuple[BHViT, list[Question]] | None = None  # in a forked child: what its parent had
_own: dict[Path, tuple[BHViT, list[Question]]] = {}  # in a child that was started afresh: what it has loaded itself


def _in_pool(path: Path, number: int) -> int:
    if _inherited is None and path not in _own:
        _own[path] = bitvit.load(path), questions(path)
    model, asked = _inherited or _own[path]
    ask(model, asked[number % len(asked)])
    return os.getpid()


def check_pool(path: Path, method: str, tasks: int = 40) -> str:
    """A process pool; its parent has a model too, in the middle of a call of two threads while it forks."""
    global _inherited
    asked, model = questions(path), bitvit.load(path)
    _inherited = (model, asked) if method == "fork" else None
    try:
        callers = Callers([_asker(model, asked, start) for start in range(2)])
        with callers, multiprocessing.get_context(method).Pool(3) as pool:
            result = pool.starmap_async(_in_pool, [(path, number) for number in range(tasks)], chunksize=1)
            try:
                used = set(result.get(timeout=PATIENCE))
            except multiprocessing.TimeoutError:
                raise CheckError(f"a pool of {method} does not answer after {PATIENCE} s") from None
    finally:
        _inherited = None
    return f"a pool by {method}: {tasks} tasks by {len(used)} processes, {callers.calls:,} calls of their parent"


# -------------------------------------------------------------------------------------------------------------- prefork
def _serve(listening: socket.socket, model: BHViT, asked: list[Question]) -> None:
    """A worker: one connection a request, as a web server's."""
    while True:
        connection, _ = listening.accept()
        with connection:
            number = int.from_bytes(connection.recv(4), "little")
            connection.sendall(model(asked[number].pixels).tobytes())


def _request(address: str, number: int, asked: list[Question]) -> bool:
    """Ask the server; whether it answered at all."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(address)
            connection.sendall(number.to_bytes(4, "little"))
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except (ConnectionError, BrokenPipeError):
            return False
        except TimeoutError:
            raise CheckError(f"a worker does not answer after {PATIENCE} s") from None
    if answer and answer != asked[number].answer:
        raise CheckError("another answer from a worker")
    return bool(answer)


@contextlib.contextmanager
def _workers(count: int, work: Callable[[], None]) -> Iterator[list[int]]:
    """Process ids of forked workers; whoever is in the list in the end is killed."""
    pids: list[int] = []
    try:
        pids.extend(fork(work) for _ in range(count))
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def fork(work: Callable[[], None]) -> int:
    """A child that does its work and nothing else; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(1)


def check_prefork(path: Path, seconds: float, folder: Path, count: int = 3) -> str:
    """A master that has loaded and used a model, and forks workers that serve; one is killed and replaced."""
    asked, model = questions(path), bitvit.load(path)
    ask(model, asked[3])
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(128)
        unanswered: list[int] = []

        def request(number: int) -> None:
            if not _request(address, number % len(asked), asked):
                unanswered.append(number)

        with _workers(count, lambda: _serve(listening, model, asked)) as pids, Callers([request] * 4) as callers:
            callers.wait(seconds / 2)
            os.kill(pids[0], signal.SIGKILL)
            os.waitpid(pids[0], 0)
            pids[0] = fork(lambda: _serve(listening, model, asked))
            callers.wait(seconds / 2)
    if callers.calls < count or len(unanswered) > 4:
        raise CheckError(f"{callers.calls} requests, {len(unanswered)} without an answer")
    return f"{count} pre-forked workers, one killed: {callers.calls:,} requests, {len(unanswered)} without an answer"


def start_methods() -> list[str]:
    """The ways to start a process that this platform has."""
    return [name for name in ("fork", "forkserver", "spawn") if name in multiprocessing.get_all_start_methods()]
