"""Watching a reader: an audit hook that stops what a file must not cause, and limits of time and memory."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

SECONDS = 2.0  # of processor time, for one file
MEGABYTES = 512  # of growth

_FORBIDDEN = {
    "import",
    "exec",
    "compile",
    "builtins.input",
    "builtins.breakpoint",
    "marshal.loads",
    "marshal.load",
    "pickle.find_class",
    "code.__new__",
}
_FORBIDDEN_PREFIXES = (
    *("subprocess.", "os.", "shutil.", "socket.", "ctypes.", "urllib.", "ftplib.", "smtplib.", "tempfile."),
    *("sys.set", "sys._current", "webbrowser.", "pty.", "mmap.", "syslog.", "gc.", "_thread.", "cpython."),
)
_HARMLESS = {"os.listdir", "os.scandir", "os.fwalk", "os.walk"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Executed(BaseException):
    """A file made its reader do something other than read; not an Exception, so that no handler for damaged files
    catches it."""


class Hang(BaseException):
    """A file took too long."""


class Guard:
    """Inside `reading` it stops imports, code, processes, connections and writing; inside `timing`, long runs."""

    def __init__(self) -> None:
        self._armed = False
        self._allowed: Collection[str] = ()
        self.seen: list[str] = []
        sys.addaudithook(self._hook)
        signal.signal(signal.SIGPROF, self._hang)

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    @contextlib.contextmanager
    def reading(self, allowed: Collection[str] = ()) -> Iterator[None]:
        """allowed: events that are none of the file's doing."""
        self.seen.clear()
        self._allowed = allowed
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._armed and self._forbids(event, args):
            self._armed = False  # the repr below may trigger events itself
            self.seen.append(f"{event} {args!r:.300}")
            raise Executed(self.seen[-1])

    def _forbids(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            _, mode, flags = args
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & _WRITING
            )
            return bool(writes)
        if event in self._allowed:
            return False
        return event in _FORBIDDEN or (event.startswith(_FORBIDDEN_PREFIXES) and event not in _HARMLESS)

    def _hang(self, *_: object) -> None:
        raise Hang(f"more than {SECONDS} s")


def limit_memory(megabytes: int = MEGABYTES) -> None:
    """Let allocations fail once the process has grown by so much from now on; replaces an earlier limit."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), most))
