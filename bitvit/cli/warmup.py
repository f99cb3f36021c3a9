"""bitvit warmup: compile the kernels for this CPU before the first image needs them."""

from pathlib import Path
from typing import Annotated

import typer

from bitvit.cli.console import compiling_status, is_animated, stderr_console
from bitvit.errors import BitvitError

__all__ = ["warmup"]


def warmup(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL", help="Packed models, or hf://owner/name, to compile the kernels of; default: all kernels."
        ),
    ] = None,
) -> None:
    """Compile the kernels for this CPU and keep them in the cache.

    Otherwise the first run of a model compiles those that it needs. It is an error if they cannot be kept, as a
    container would then be built without them.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bitvit.jit import cache, loader
    from bitvit.kernels.catalog import FUNCTIONS
    from bitvit.model import functions_of

    functions = list(dict.fromkeys(f for path in models for f in functions_of(path))) if models else list(FUNCTIONS)
    missing = loader.missing_of(functions)
    if missing and (problem := cache.problem()):
        raise BitvitError(
            f"{len(missing)} kernels are missing and cannot be kept: {problem}; let NUMBA_CACHE_DIR name a "
            "folder that only you or root may write to"
        )
    columns = TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = stderr_console()
    bar = Progress(*columns, console=console, disable=not is_animated(console))
    with compiling_status(live=False), bar as progress:
        task = progress.add_task("", total=len(missing))
        for _ in loader.compile_all(missing):
            progress.advance(task)
    lost = sum(cache.read(function.name) is None for function in missing)
    if lost:
        raise BitvitError(f"{cache.folder()}: {lost} of {len(missing)} kernels could not be written; is the disk full?")
    print(f"{len(missing)} functions compiled, {len(functions) - len(missing)} were ready")
    print(f"cache: {cache.place()}")
