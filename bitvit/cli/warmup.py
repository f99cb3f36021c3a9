"""bitvit warmup: compile the kernels for this CPU before the first picture needs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import stderr_console

if TYPE_CHECKING:
    from bitvit.kernels.step import Kernel


def warmup(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[MODEL]...", help="Packed models, whose kernels alone are compiled; default all."),
    ] = None,
) -> None:
    """Compile the kernels for this CPU and keep them in the cache.

    Otherwise the first run does it, for the kernels of its own model.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bitvit import runtime

    kernels = _kernels_of(models) if models else runtime.all_kernels()
    missing = [kernel for kernel in kernels if not runtime.is_cached(kernel)]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=stderr_console()) as progress:
        task = progress.add_task("compiling", total=len(missing))
        for kernel in missing:
            progress.update(task, description=f"compiling {kernel.name}")
            runtime.compiled(kernel)
            progress.advance(task)
        runtime.compile_scheduling()
    folder = runtime.cache_folder()
    print(f"{len(missing)} kernels compiled, {len(kernels) - len(missing)} were ready")
    print(f"cache: {folder}" if folder else "no private, writable place for a cache: they will be compiled again")


def _kernels_of(models: list[Path]) -> "list[Kernel]":
    from bitvit.model import Network
    from bitvit.modelfile import load_model_file

    files = [load_model_file(path) for path in models]
    steps = [step for file in files for step in Network.read(file.config, file.tensors).program().steps]
    return list({step.kernel.name: step.kernel for step in steps}.values())
