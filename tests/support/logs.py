"""Loggers that the server and its fuzzer set for their whole process, which in a test is that of all tests."""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["loggers_as_they_were"]

NAMES = ("bitvit.serve", "bitvit.serve.access", "uvicorn.error", "python_multipart")


@contextlib.contextmanager
def loggers_as_they_were() -> Iterator[None]:
    """What is set within is gone afterwards."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(log.handlers, log.propagate, log.level) for log in loggers]
    try:
        yield
    finally:
        for log, (handlers, propagate, level) in zip(loggers, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(level)
