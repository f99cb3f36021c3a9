"""The command line: bitvit convert | classify | evaluate | inspect | verify | warmup | bench | bundle | serve |
push | train.

Each command has a file: it parses, calls one public function and prints. What a command needs beyond typer is imported
when it runs, so that --help answers at once. `classify` and `evaluate` with plain arguments start without typer too
(quick.py).

Exit codes: 0 done; 1 an error, told in one line; 2 wrong usage; 3 some images could not be read; 130 interrupted;
141 the reader of a pipe went away.
"""

import gc
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitvit.cli.console import occupy_standard_descriptors
from bitvit.cli.ending import told

if TYPE_CHECKING:
    from bitvit.cli.application import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    """The app, imported when first used, since it brings typer and every command."""
    if name == "app":
        return importlib.import_module("bitvit.cli.application").app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """The console script."""
    try:
        with told():  # what keeps a command from beginning, too
            occupy_standard_descriptors()
            # Pillow warns of images that bitvit refuses with an error of its own, and of metadata that nobody reads.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # names may hold bytes or letters that no terminal shows
                    stream.reconfigure(errors="backslashreplace")
            gc.set_threshold(10_000)  # at 700, looking for cycles in what is imported takes a tenth of a short command
            if not _ran_quickly(sys.argv[1:]):
                _spare_threads()
                from bitvit.cli.application import app

                app()
    finally:  # nothing is left to clean up: Ctrl-C may end Python's own exit, which looks for no cycles then
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _spare_threads() -> None:
    """Keep OpenBLAS from starting threads where they are not to be had: it would send the process a SIGINT, as Ctrl-C
    does."""
    if "OPENBLAS_NUM_THREADS" not in os.environ and (_has_limited_memory() or not _has_threads()):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"


def _has_limited_memory() -> bool:
    """What threads reserve may then be more than there is."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    kinds = resource.RLIMIT_AS, resource.RLIMIT_DATA
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _has_threads() -> bool:
    """Whether as many threads can be started as OpenBLAS does, one for each further processor."""
    import threading

    end, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range((os.cpu_count() or 1) - 1):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        end.set()
        for thread in started:
            thread.join()
    return True


def _ran_quickly(arguments: Sequence[str]) -> bool:
    """Run a command that may take as little as its start does, if its arguments are plain; False otherwise."""
    if arguments[:1] not in (["classify"], ["evaluate"]) or os.name == "nt":  # there typer expands the command line
        return False
    from bitvit.cli.quick import values_of

    name = arguments[0]
    command = getattr(importlib.import_module(f"bitvit.cli.{name}"), name)
    values = values_of(command, arguments[1:])
    if values is None:
        return False
    if values.get("explain") is None:  # which multiplies floats; otherwise BLAS is not used, and its idle threads spin
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _spare_threads()
    command(**values)
    return True
