"""bitvit bundle: a packed model -> a folder with C code, kernels and weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import printable, require_stdout
from bitvit.cli.tables import Table, print_lines, print_table

if TYPE_CHECKING:
    from bitvit.bundle.writing import BundleReport

__all__ = ["bundle"]


def bundle(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Packed model, written by bitvit convert, or hf://owner/name.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to make.")],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TRIPLE",
            help="What it is for, as LLVM names it: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu, or wasm32 for "
            "browsers. Default: this machine.",
        ),
    ] = None,
    cpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A processor to have kernels for, as LLVM names it (x86-64-v3, znver4, cortex-a76), or native; may be "
            "given several times. Default: x86-64-v2, -v3 and -v4; generic and cortex-a76.",
        ),
    ] = None,
    python: Annotated[
        bool,
        typer.Option("--python", help="Link the library that Python loads without Numba, with the C compiler $CC."),
    ] = False,
) -> None:
    """Write a model as a small native library: C code, the kernels that it needs, compiled, and its weights.

    The folder builds with make or CMake and needs no more than the C library and POSIX threads; README.md in it says
    how. Of several processors the best that there is one for is chosen when a model is created. For wasm32 there is a
    module and a page that runs it in a browser, without a server.
    """
    require_stdout()
    from bitvit.bundle.writing import write_bundle

    _print_report(write_bundle(model, out, target=target, cpus=cpu or (), python=python))


def _print_report(report: "BundleReport") -> None:
    parts = {"library for Python": report.library_bytes, "model.wasm": report.module_bytes}
    sizes = "".join(f", {name} {size:,} bytes" for name, size in parts.items() if size is not None)
    print(f"{printable(str(report.folder))}: for {report.target}, weights {report.weights_bytes:,} bytes{sizes}")
    rows = [
        [level.cpu, f"{level.code_bytes:,}", f"{level.weights_bytes:,}", f"{level.working_bytes:,}"]
        for level in report.levels
    ]
    print_table(Table(["level", "objects", "weights", "memory a thread"], rows))
    print_lines([f"  {level.cpu}: needs {', '.join(level.features) or 'nothing special'}" for level in report.levels])
    how = "open index.html in a browser" if report.module_bytes is not None else "build it with make or CMake"
    print_lines([f"  next: {how}; README.md in the folder says more"])
