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
            _spare_memory()
            gc.set_threshold(10_000)  # at 700, looking for cycles in what is imported takes a tenth of a short command
            if not _ran_quickly(sys.argv[1:]):
                from bitvit.cli.application import app

                app()
    finally:  # nothing is left to clean up: Ctrl-C may end Python's own exit, which looks for no cycles then
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _spare_memory() -> None:
    """Where memory has a limit, keep OpenBLAS from starting threads: what these reserve may be more than there is, and
    then it sends the process a SIGINT, as Ctrl-C does."""
    try:
        import resource
    except ImportError:  # Windows
        return
    if any(
        resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    ):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


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
    command(**values)
    return True
