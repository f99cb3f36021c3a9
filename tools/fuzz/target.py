"""What is fuzzed, and the judge of what a reader does with an input."""

import codecs
import collections
import contextlib
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from bitvit.errors import BitvitError

from .guard import Executed, Guard, Hang

__all__ = ["BrokenPromiseError", "Judge", "Reading", "Target"]

Reading = Callable[[], Any]

_CODECS = (
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
    "idna",
    "unicode-escape",
    "raw-unicode-escape",
)


class BrokenPromiseError(Exception):
    """A reader broke a promise of SECURITY.md; the text says which."""


class Target:
    """One kind of input: valid ones to begin with, how one is changed, and what reads it."""

    allowed: ClassVar[frozenset[str]] = frozenset()
    """Audit events of libraries, which execute nothing of the input by them."""
    longest: ClassVar[int] = 150_000
    """Bytes of an input, at most."""
    file: ClassVar[str] = "input"
    """Name of the file that readers are given."""

    def __init__(self, folder: Path) -> None:
        """folder: an empty one, in which files may be written."""
        self.folder = folder
        self.path = folder / self.file

    def seeds(self) -> list[bytes]:
        """Inputs that are valid, or nearly."""
        raise NotImplementedError

    def mutate(self, rng: Random, data: bytes) -> bytes:
        """An input, any bytes, with a few changes that its format's grammar suggests."""
        raise NotImplementedError

    def prepare(self, data: bytes) -> None:
        """Put an input where its readers take it from."""
        self.path.write_bytes(data)

    def readings(self) -> Sequence[Reading]:
        """What reads the input; each is judged alone, and may do nothing but read."""
        raise NotImplementedError

    def use(self, found: Any) -> None:
        """What comes after reading, and may write."""

    def close(self) -> None:
        """Give up what the target holds."""

    def names(self, error: BitvitError) -> bool:
        """Whether an error says which file is at fault."""
        return str(self.path) in str(error)


class Judge:
    """Feeds inputs to the readers of a target, and holds these to what SECURITY.md promises.

    A failure is any exception but a BitvitError, a BitvitError that does not name the file, a warning, more than
    guard.SECONDS of processor time, and anything that a reading does apart from reading.
    """

    def __init__(self, target: Target, guard: Guard) -> None:
        warnings.simplefilter("error")
        self.target, self.guard = target, guard
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.messages: set[str] = set()
        self.slowest = 0.0
        """Seconds of processor time that a reading took."""

    def warm_up(self, inputs: Iterable[bytes]) -> None:
        """Read inputs without judging: what is imported or compiled once is nobody's fault."""
        for codec in _CODECS:
            codecs.lookup(codec)
        for data in inputs:
            self.target.prepare(data)
            for reading in self.target.readings():
                with contextlib.suppress(Exception):
                    self.target.use(reading())

    def feed(self, data: bytes) -> None:
        """Raises BrokenPromiseError."""
        self.target.prepare(data)
        for reading in self.target.readings():
            self._judge(reading)

    def _judge(self, reading: Reading) -> None:
        outcome, begin = "refused", time.process_time()
        try:
            with self.guard.timing():
                with self.guard.reading(self.target.allowed):
                    found = reading()
                outcome = "read, then refused"
                self.target.use(found)
            outcome = "read"
        except BitvitError as error:
            self.messages.add(pattern(str(error)))
            if not self.target.names(error):
                raise BrokenPromiseError(f"a message without the file's name: {error}") from None
        except (Exception, SystemExit, Executed, Hang):
            raise BrokenPromiseError(traceback.format_exc()) from None
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, time.process_time() - begin)
        if self.guard.seen:  # something caught it
            raise BrokenPromiseError(f"not let through: {self.guard.seen[0]}")


def pattern(message: str) -> str:
    """What messages of one kind have in common."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|b'[^']*'", "'…'", message.partition(": ")[2])
    return re.sub(r"-?[\d.]+", "#", plain)[:70]
