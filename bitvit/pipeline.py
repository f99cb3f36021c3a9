"""From images to answers on all cores: each thread decodes, prepares and computes images of its own.

    answers     images -> an answer or an error for each, in order
    in_order    the threads: work on items, a few at a time, results in order

Pillow and the kernels let go of Python's lock, so threads that do the whole work of an image keep all cores busy, and
nobody has to know what decoding costs beside the network. The caller's thread takes part: with one thread there is no
other, and where no more are to be had it does the work alone.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
import weakref
from _queue import Empty, SimpleQueue  # those of queue may be gevent's, which are not for threads of the system
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitvit.config import Config
from bitvit.errors import ImageError
from bitvit.images import ImageSource
from bitvit.preprocess import Preprocessing

__all__ = [
    "Answer",
    "Logits",
    "Model",
    "Prepared",
    "answers",
    "computing",
    "in_order",
    "is_parallel",
    "portion_size",
]

Logits: TypeAlias = NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")

PORTION_SECONDS = 0.008  # that a portion of items takes, at least: to change places every 2 ms costs a tenth
AHEAD = 2  # portions for each thread that are taken ahead of the results


class Model(Protocol):
    """What a Classifier needs of a model; bitvit.model.BHViT has it.

    A model that has BHViT's `of_bytes` too computes in many threads at once; others are called by one.
    """

    @property
    def config(self) -> Config: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    def __call__(self, pixels: NDArray[np.float32], /) -> Logits: ...


class Prepared(NamedTuple):
    """An image of the size that the network takes."""

    crop: NDArray[np.uint8]
    """[crop, crop, 3], as Preprocessing.cropped makes it."""
    turned: bool
    """Whether its EXIF data calls for it to be turned, which has not been done."""


class Answer(NamedTuple, Generic[Result]):
    """What models make of an image."""

    results: tuple[Result, ...]
    """One of each model."""
    turned: bool
    """As of Prepared."""


# ------------------------------------------------------------------------------------------------------------- images
Compute: TypeAlias = Callable[[Sequence[NDArray[np.uint8]], bool], Logits]
"""Logits of crops, float32 [B, classes]; and whether to compute on this thread alone."""


def is_parallel(model: Model) -> bool:
    """Whether it has BHViT's `of_bytes`, for many threads at once, each of which computes alone.

    That of the class with its `__call__`: a subclass or a wrapper that answers otherwise is asked in its own way.
    """
    return "of_bytes" in next((vars(kind) for kind in type(model).__mro__ if "__call__" in vars(kind)), {})


def computing(model: Model) -> Compute:
    """How a model computes; where `alone` is not its to choose, it is called as it would be by its user."""
    if is_parallel(model):
        return lambda crops, alone: model.of_bytes(crops, alone=alone)  # type: ignore[attr-defined]
    return lambda crops, _: model(np.stack([model.preprocessing.planes(crop) for crop in crops]))


Numbered: TypeAlias = tuple[int, ImageSource]
Prepare: TypeAlias = Callable[[int, ImageSource], Prepared | ImageError]


def answers(
    models: Sequence[Compute],
    images: Iterable[Numbered],
    prepare: Prepare,
    finish: Callable[[Logits], Sequence[Result]],
    *,
    parallel: bool,
    threads: int,
    batch_size: int,
    kept: bool,
) -> Generator[Answer[Result] | ImageError, None, None]:
    """What models that prepare images alike make of each image, or why it cannot be read; in order.

    images: each with its number. prepare: takes both; called from other threads. finish: float32 [B, classes] -> B
    results; called from other threads too. parallel: whether the models are. threads: that work at once, this one
    included; if the models are not parallel, on preparing alone. batch_size: images that a model computes together, at
    most. kept: whether an array stays as it is when the next image is taken, as in a list; an iterator may give one
    array again and again.

    At most AHEAD x threads x batch_size images are taken ahead of the answers. An exception comes when its image's turn
    does. Close the generator to stop early.
    """
    waiting = (str, os.PathLike, bytes, np.ndarray) if kept else (str, os.PathLike, bytes)
    # The others cannot wait: files may share a place or be closed, images and arrays may be used for the next one.
    items: Iterator[Prepared | ImageError | Numbered]
    items = (item if isinstance(item[1], waiting) else prepare(*item) for item in images)
    first = list(itertools.islice(items, threads))
    if len(first) < threads:  # so few images that the network's own threads are of more use
        threads = 1
    items = itertools.chain(first, items)
    del first

    def prepared(portion: Iterable[Prepared | ImageError | Numbered]) -> Iterator[Prepared | ImageError]:
        return (item if isinstance(item, Prepared | ImageError) else prepare(*item) for item in portion)

    if parallel:

        def work(portion: Sequence[Prepared | ImageError | Numbered]) -> Iterator[Answer[Result] | ImageError]:
            return _answered(models, prepared(portion), finish, threads > 1)

        yield from in_order(work, items, threads=threads, most=batch_size)
        return
    with contextlib.closing(in_order(prepared, items, threads=threads, most=batch_size)) as ready:
        while batch := list(itertools.islice(ready, batch_size)):
            yield from _answered(models, batch, finish, alone=False)


def _answered(
    models: Sequence[Compute],
    images: Iterable[Prepared | ImageError],
    finish: Callable[[Logits], Sequence[Result]],
    alone: bool,
) -> Iterator[Answer[Result] | ImageError]:
    """Answers of a few images, computed together. An exception in between comes behind the answers before it."""
    ready: list[Prepared | ImageError] = []
    problem: Exception | None = None
    try:
        for image in images:
            ready.append(image)  # noqa: PERF402  # those before an exception count
    except Exception as raised:
        problem = raised
    crops = [image.crop for image in ready if isinstance(image, Prepared)]
    found = zip(*(finish(compute(crops, alone)) for compute in models), strict=True) if crops else iter(())
    for image in ready:
        yield image if isinstance(image, ImageError) else Answer(next(found), image.turned)
    if problem is not None:
        raise problem


# ------------------------------------------------------------------------------------------------------------ threads
class _Portion(Generic[Item, Result]):
    """A few items, and what came of them."""

    __slots__ = ("count", "done", "items", "problem", "ready", "results", "seconds")

    def __init__(self, items: list[Item], problem: Exception | None) -> None:
        self.items, self.count = items, len(items)
        self.problem: BaseException | None = problem
        """Raised behind the results."""
        self.results: list[Result] = []
        self.done, self.seconds = not items, 0.0
        self.ready = threading.Lock()  # held until it is done, if a helper does it
        self.ready.acquire()

    def run(self, work: Callable[[list[Item]], Iterable[Result]]) -> None:
        """Exceptions, but those that end a program, are kept for the items' turn."""
        begin, self.results = time.perf_counter(), []
        try:
            for result in work(self.items):
                self.results.append(result)
        except Exception as problem:
            self.problem = problem
        self.seconds = time.perf_counter() - begin
        self.items, self.done = [], True


class _Owner:
    """The generator's, gone when it is."""


_Jobs: TypeAlias = SimpleQueue[_Portion[Item, Result] | weakref.ref[_Owner]]
"""The reference tells helpers to end. Its callback puts it there once its owner is gone: C code that no exception can
interrupt, as Ctrl-C might an orderly end."""


def in_order(
    work: Callable[[list[Item]], Iterable[Result]], items: Iterable[Item], *, threads: int, most: int
) -> Generator[Result, None, None]:
    """What `work` makes of the items, one result of each, in order.

    work: takes a portion of items, 1 to `most` of them, so many that it takes about PORTION_SECONDS; called by up to
    `threads` threads at once, of which the caller's is one. Items are taken by the caller's thread alone, at most AHEAD
    portions for each thread ahead of the results; with one thread, a portion of `most` items at a time.

    An exception of `work` or of the items is raised when its turn comes, behind the results before it. Close the
    generator to stop early: what has not begun is dropped, and no thread is left behind.
    """
    source, size, ended, process = iter(items), most if threads == 1 else 1, False, os.getpid()
    jobs: _Jobs[Item, Result] = SimpleQueue()
    waiting: deque[_Portion[Item, Result]] = deque()
    helpers: list[threading.Thread] = []
    owner = _Owner()
    over = weakref.ref(owner, jobs.put)
    try:
        while True:
            if waiting and waiting[0].done:
                portion = waiting.popleft()
                if threads > 1:
                    size = portion_size(portion.seconds, portion.count, most)
                yield from portion.results
                if portion.problem is not None:
                    raise portion.problem
            elif not ended and len(waiting) < (AHEAD * threads if threads > 1 else 1):
                portion = _take(source, size)
                ended = portion.count < size
                waiting.append(portion)
                if portion.count:
                    jobs.put(portion)
                    if len(helpers) < min(threads, len(waiting)) - 1 and not _hire(helpers, jobs, over, work):
                        threads = 1 + len(helpers)
            elif not waiting:
                return
            else:
                _advance(jobs, waiting[0], work, process)
    finally:
        _dismiss(helpers, jobs, over)


def _take(source: Iterator[Item], size: int) -> _Portion[Item, Any]:
    """The next items; fewer if there are no more, or an exception came in place of one."""
    items: list[Item] = []
    try:
        for item in itertools.islice(source, size):
            items.append(item)  # noqa: PERF402  # those before an exception count
    except Exception as problem:
        return _Portion(items, problem)
    return _Portion(items, None)


def portion_size(seconds: float, count: int, most: int) -> int:
    """How many items the next portion has, at most `most`, where `count` of the last one took so long."""
    each = seconds / max(1, count)
    return most if each * most < PORTION_SECONDS else max(1, int(PORTION_SECONDS / each))


def _advance(
    jobs: _Jobs[Item, Result],
    oldest: _Portion[Item, Result],
    work: Callable[[list[Item]], Iterable[Result]],
    process: int,
) -> None:
    """Do a portion that nobody has begun, or else wait for the oldest, which a helper does."""
    try:
        portion = jobs.get_nowait()
    except Empty:
        if os.getpid() == process:
            oldest.ready.acquire()
            return
        portion = oldest  # this is a fork, and the helper stayed behind in the parent
    if isinstance(portion, _Portion):
        portion.run(work)


def _hire(
    helpers: list[threading.Thread],
    jobs: _Jobs[Item, Result],
    over: weakref.ref[_Owner],
    work: Callable[[list[Item]], Iterable[Result]],
) -> bool:
    """Start another helper; whether there was a thread to be had.

    None is under a limit of processes; while the interpreter ends, when a new one would never get Python's lock, and
    its start would be waited for; and where threads are green ones, as gevent and eventlet make them.
    """
    if sys.is_finalizing():
        return False
    name = f"bitvit-pipeline_{len(helpers)}"
    here = threading.get_native_id()
    thread = threading.Thread(target=_help, args=(jobs, over, work, here), name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return False
    if thread.native_id == here:
        return False
    helpers.append(thread)
    return True


def _help(
    jobs: _Jobs[Item, Result],
    over: weakref.ref[_Owner],
    work: Callable[[list[Item]], Iterable[Result]],
    starter: int,
) -> None:
    """What a helper does: portions, until there is `over` in place of one, which it leaves to the other helpers."""
    if threading.get_native_id() == starter:  # a green thread: to wait here would stop everybody on this thread
        return
    while isinstance(portion := jobs.get(), _Portion):
        try:
            portion.run(work)
        except BaseException as problem:
            portion.problem, portion.done = problem, True
        finally:
            portion.ready.release()
    jobs.put(over)


def _dismiss(helpers: list[threading.Thread], jobs: _Jobs[Any, Any], over: weakref.ref[_Owner]) -> None:
    """End all helpers, and wait for them."""
    with contextlib.suppress(Empty):
        while True:
            jobs.get_nowait()
    jobs.put(over)
    if not sys.is_finalizing():  # they will never get Python's lock again, nor end
        for helper in helpers:
            helper.join()
