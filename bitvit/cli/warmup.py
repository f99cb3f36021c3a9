"""bitvit warmup: compile the kernels for this CPU before the first image needs them."""

from pathlib import Path
from typing import Annotated

import typer

from bitvit.cli.console import is_animated, stderr_console


def warmup(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="Packed models to compile the kernels of; default: all kernels."),
    ] = None,
) -> None:
    """Compile the kernels for this CPU and keep them in the cache.

    Otherwise the first run of a model compiles those that it needs.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bitvit.jit import cache, loader
    from bitvit.kernels.catalog import FUNCTIONS
    from bitvit.model import functions_of

    functions = list(dict.fromkeys(f for path in models for f in functions_of(path))) if models else list(FUNCTIONS)
    missing = loader.missing_of(functions)
    columns = TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = stderr_console()
    with Progress(*columns, console=console, disable=not is_animated(console)) as progress:
        task = progress.add_task("", total=len(missing))
        for _ in loader.compile_all(missing):
            progress.advance(task)
    folder = cache.folder()
    print(f"{len(missing)} functions compiled, {len(functions) - len(missing)} were ready")
    print(
        f"cache: {folder}"
        if folder
        else "no private, writable folder for a cache: each process will compile them again"
    )
