"""The command line: bitvit convert | classify | evaluate | inspect | verify | warmup | bench.

Each command has a file: it parses, calls one public function and prints. What a command needs beyond typer is imported
when it runs, so that --help answers at once.

Exit codes: 0 done; 1 an error, told in one line; 2 wrong usage; 3 some images could not be read; 130 interrupted;
141 the reader of a pipe went away.
"""

import errno
import io
import os
import signal
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitvit.cli.bench import bench
from bitvit.cli.classify import classify
from bitvit.cli.console import occupy_standard_descriptors, print_error
from bitvit.cli.convert import convert
from bitvit.cli.evaluate import EvaluateCommand, evaluate
from bitvit.cli.inspect import inspect
from bitvit.cli.verify import verify
from bitvit.cli.warmup import warmup
from bitvit.errors import BitvitError

__all__ = ["app", "main"]

INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the signal's number, as shells have it
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)  # EIO: the terminal is gone


class _Commands(TyperGroup):
    """Runs a command. A mistake of the user gives one line; anything else is a bug and keeps its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty argument, which as a path would be the working folder."""
        if "" in args:
            before = args[args.index("") - 1] if args[0] else "bitvit"
            raise typer.BadParameter(
                f"the argument after {before!r} is empty, perhaps from a variable of the shell that is not set; name a "
                "file or folder, or leave it out",
                ctx=ctx,
            )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:  # None: its descriptor was closed
                sys.stdout.flush()
        except BitvitError as error:
            print_error(str(error))
            raise typer.Exit(1) from None
        except MemoryError:
            print_error("too little memory; allow the process more, or use a smaller --batch-size or fewer --threads")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _discard_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            _discard_stdout()
            print_error(f"the output cannot be written: {error.strerror}")
            raise typer.Exit(1) from None
        return result


def _discard_stdout() -> None:
    """So that what is left in the buffer does not fail again when Python exits."""
    if sys.stdout is None:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def paragraphs(docstring: str) -> str:
    """A docstring with each paragraph on one line, for typer keeps line breaks where a terminal should set them."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


app = typer.Typer(
    cls=_Commands,
    name="bitvit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (convert, classify, evaluate, inspect, verify, warmup, bench):
    app.command(cls=EvaluateCommand if command is evaluate else None, help=paragraphs(command.__doc__ or ""))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from bitvit.version import __version__

        print(f"bitvit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify images on the CPU with BHViT, a binarized vision transformer."""


def main() -> None:
    """The console script."""
    try:
        occupy_standard_descriptors()
        # Pillow warns of images that bitvit refuses with an error of its own, and of metadata that nobody reads.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for stream in (sys.stdout, sys.stderr):
            if isinstance(
                stream, io.TextIOWrapper
            ):  # file names may hold bytes or letters that the terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        app()
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(INTERRUPTED)
    finally:  # nothing is left to clean up: Ctrl-C may end Python's own exit
        signal.signal(signal.SIGINT, signal.SIG_DFL)
