"""bitvit classify --watch: each new image in folders once, for as long as the command runs and after a restart.

The folders are looked through every second. A file is complete when two looks find the same size and time; one that
cannot be read then may have a slow writer, so it is tried again after PATIENCE before it counts as damaged.

With --output the results are the journal: each has its file's size and time, and what is in there is not done again.
"""

import contextlib
import csv
import io
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bitvit.cli.console import (
    SOME_FAILED,
    compiling_status,
    print_error,
    print_note,
    print_turned,
    print_warning,
    require_stdout,
)
from bitvit.errors import BitvitError, ImageError
from bitvit.files import is_folder, is_special
from bitvit.folders import find_images
from bitvit.messages import plural
from bitvit.predictions import Prediction

__all__ = ["INTERVAL", "PATIENCE", "Journal", "Watcher", "classify_new", "watch"]

INTERVAL = 1.0  # seconds between two looks
PATIENCE = 10.0  # seconds that a file stays as it is and cannot be read, before that is an error
COLUMNS = ("path", "rank", "label", "index", "score", "size", "mtime_ns")

State: TypeAlias = tuple[int, int]
"""A file's size in bytes, and the nanoseconds at which it was last changed."""
Outcome: TypeAlias = list[Prediction] | ImageError


def classify_new(
    model: Path, folders: Sequence[str], form: str, out: str | None, *, top_k: int, recursive: bool,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """Classify what comes into folders until a signal says to stop. form: jsonl or csv. options: those of Classifier.

    Raises BitvitError for what cannot be watched or written; SystemExit at the end if images could not be read.
    """
    if form not in ("jsonl", "csv"):
        raise BitvitError(f"--watch writes results as they come, which {form} is not for; add --format jsonl or csv")
    for folder in folders:
        if not is_folder(folder):
            raise BitvitError(f"{folder}: is not a folder; --watch wants folders, which are there when it begins")
    from bitvit.classify import Classifier

    with compiling_status():
        classifier = Classifier(model, **options)
    counts = {"done": 0, "failed": 0}
    rows = min(top_k, len(classifier.labels))
    with _until_signalled() as stopping, contextlib.closing(Journal(out, form, rows)) as journal:

        def note(path: str, state: State, outcome: Outcome) -> None:
            journal.write(path, state, outcome)
            counts["done"] += 1
            if isinstance(outcome, ImageError):
                counts["failed"] += 1
                print_error(str(outcome))

        watcher = Watcher(folders, recursive=recursive, done=journal.done)
        watch(watcher, lambda paths: classifier.attempt(paths, top_k), note, stopping)
    print_turned(classifier.turned, counts["done"])
    failed = f", {counts['failed']} of which could not be read" if counts["failed"] else ""
    print_note(f"stopped after {plural(counts['done'], 'image')}{failed}")
    if counts["failed"]:
        raise SystemExit(SOME_FAILED)


@contextlib.contextmanager
def _until_signalled() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; a second one acts as it would have before."""
    come: list[int] = []

    def note(number: int, _: object) -> None:  # takes no lock: the thread that it interrupts may hold it
        come.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(come)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(
    watcher: "Watcher",
    attempt: Callable[[list[str]], Generator[Outcome, None, None] | Iterator[Outcome]],
    note: Callable[[str, State, Outcome], None],
    stopping: Callable[[], bool],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Look, classify and sleep, until it is time to stop, which is asked after each image.

    attempt: gives what came of each path. note: keeps it, once for each file.
    """
    while not stopping():
        ready = watcher.look()
        outcomes = iter(attempt([path for path, _ in ready])) if ready else iter(())
        for (path, state), outcome in zip(ready, outcomes, strict=True):
            if watcher.is_final(path, isinstance(outcome, ImageError)):
                note(path, state, outcome)
                watcher.done[path] = state
            if stopping():
                return
        sleep(INTERVAL)


class Watcher:
    """Finds the images in folders that are complete, and that nothing is known of yet.

    done: the state in which each file was classified; a file that has another one now is new. It is not emptied when
    files vanish, for they may come back with a disk.
    """

    def __init__(
        self,
        folders: Sequence[str],
        *,
        recursive: bool,
        done: dict[str, State],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = done
        self._folders, self._recursive, self._clock = folders, recursive, clock
        self._before: dict[str, State] = {}
        self._unread: dict[str, float] = {}  # when it was found first that a file in its present state cannot be read
        self._missed = dict.fromkeys(folders, 0)  # looks in a row that found no folder

    def look(self) -> list[tuple[str, State]]:
        """The files that are to be classified now, in the order in which they were written."""
        now = {path: state for folder in self._folders for path, state in self._states(folder)}
        self._unread = {path: since for path, since in self._unread.items() if self._before.get(path) == now.get(path)}
        ready = [
            (path, state)
            for path, state in now.items()
            if self._before.get(path) == state and self.done.get(path) != state and not self._is_waiting(path)
        ]
        self._before = now
        return sorted(ready, key=lambda file: (file[1][1], file[0]))

    def is_final(self, path: str, failed: bool) -> bool:
        """Whether what came of a file is to be kept, or may be better the next time."""
        if failed and not self._is_late(self._unread.setdefault(path, self._clock())):
            return False
        self._unread.pop(path, None)
        return True

    def _is_waiting(self, path: str) -> bool:
        since = self._unread.get(path)
        return since is not None and not self._is_late(since)

    def _is_late(self, since: float) -> bool:
        return self._clock() - since >= PATIENCE

    def _states(self, folder: str) -> Iterator[tuple[str, State]]:
        """The images of a folder. One that is away is told of once, at the second look: a folder below may just go."""
        try:
            images = find_images(folder, recursive=self._recursive, required=False).images
        except ImageError as problem:
            self._missed[folder] += 1
            if self._missed[folder] == 2:
                print_warning(f"{problem}; waiting for it")
            return
        if self._missed[folder] >= 2:
            print_note(f"{folder}: is there again")
        self._missed[folder] = 0
        for image in images:
            with contextlib.suppress(OSError):  # it is gone
                found = image.stat()
                yield str(image), (found.st_size, found.st_mtime_ns)


# --------------------------------------------------------------------------------------------------------- journal
class Journal:
    """The results in a file that grows, or on stdout.

    path: of the file; None for stdout, and a device such as /dev/null is written to as well: of neither is known what
    it was given before. form: jsonl or csv. rows: of an image in csv; the last image of a file that has fewer was cut
    off in the middle, as the last line may be, and is taken out.

    done: the state of each file that has a result. Raises BitvitError for a file that cannot be written, or has
    something else.
    """

    def __init__(self, path: str | None, form: str, rows: int) -> None:
        self.done: dict[str, State] = {}
        self._is_csv, self._rows, self._end = form == "csv", rows, 0
        self._file: io.FileIO | None = None
        if path is None:
            require_stdout()
        else:
            self._open(Path(path))
        if self._is_csv and not self._end:
            self._append(_csv([COLUMNS]))

    def _open(self, path: Path) -> None:
        if is_folder(path):
            raise BitvitError(f"{path}: is a folder; name a file to write")
        try:
            if is_special(path):
                self._file = path.open("wb", buffering=0)
                return
            self._file = path.open("ab", buffering=0)
            with path.open("rb") as lines:
                self._end = sum(len(line) for line in lines if line.endswith(b"\n"))
                lines.seek(0)
                whole = itertools.takewhile(lambda line: line.endswith(b"\n"), lines)
                try:
                    (self._read_csv if self._is_csv else self._read_jsonl)(whole)
                except (ValueError, LookupError, TypeError, csv.Error):
                    self.close()
                    raise BitvitError(
                        f"{path}: is there, but not from --watch --format {'csv' if self._is_csv else 'jsonl'}; name "
                        "another output file"
                    ) from None
            self._file.truncate(self._end)
        except OSError as problem:
            self.close()
            raise BitvitError(f"{path}: cannot be written: {problem.strerror}; name another output file") from None

    def _read_jsonl(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            record = json.loads(line)
            self.done[str(record["path"])] = int(record["size"]), int(record["mtime_ns"])

    def _read_csv(self, lines: Iterator[bytes]) -> None:
        place = begin = rank = 0
        path: str | None = None

        def decoded() -> Iterator[str]:
            nonlocal place
            for line in lines:
                place += len(line)
                yield line.decode("utf-8", "surrogateescape")

        reader = csv.reader(decoded(), strict=True)
        if tuple(next(reader, COLUMNS)) != COLUMNS:
            raise ValueError
        above, before = place, None
        for row in reader:
            path, rank, size, modified = row[0], int(row[1]), int(row[5]), int(row[6])
            if rank == 1:
                begin, before = above, self.done.get(path)
            self.done[path], above = (size, modified), place
        if path is not None and rank < self._rows:
            self._end = begin
            self.done.pop(path)
            if before is not None:
                self.done[path] = before

    def write(self, path: str, state: State, outcome: Outcome) -> None:
        """Add what came of a file; csv has no place for failures. If the disk is full, half of it is not left."""
        size, modified = state
        if isinstance(outcome, ImageError):
            found: dict[str, object] = {"error": str(outcome)}
            rows: list[Sequence[object]] = []
        else:
            found = {"predictions": outcome}
            rows = [
                (path, rank, best["label"], best["index"], best["score"], size, modified)
                for rank, best in enumerate(outcome, 1)
            ]
        record = {"path": path, "size": size, "mtime_ns": modified, **found}
        self._append(_csv(rows) if self._is_csv else json.dumps(record) + "\n")

    def _append(self, text: str) -> None:
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        data = text.encode("utf-8", "surrogateescape")
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
