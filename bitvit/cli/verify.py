"""bitvit verify: the packed model's answers against the plain NumPy reference on its checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import compiling_status, stdout_console

if TYPE_CHECKING:
    from bitvit.verify import VerifyReport


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Packed model, written by bitvit convert.")],
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The checkpoint it was converted from.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Picture, or folder of pictures, to compare on; repeat it for more."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the training, if the checkpoint needs it.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights ('model_ema').")] = False,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Random inputs to compare on, without --images.")] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the random inputs.")] = 0,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw where the two differ, block by block, as a PNG.")
    ] = None,
) -> None:
    """Compare a packed model with its checkpoint, computed by the plain NumPy reference in float64, block by block.

    Errors are in units of the standard deviation of a block's output. The exit code is 0 if they agree, else 1.
    """
    from bitvit.extras import require
    from bitvit.verify import verify as verify_model

    if draw is not None:
        require("matplotlib", "drawing")  # now, not after the work
    with compiling_status():
        report = verify_model(
            model, checkpoint, images=_expanded(images), config=config, ema=ema, count=count, seed=seed
        )
    _print_report(report)
    if draw is not None:
        report.draw(draw)
    if not report.passed:
        raise typer.Exit(1)


def _expanded(paths: list[Path] | None) -> list[Path] | None:
    """Folders replaced by the pictures in them."""
    if not paths:
        return None
    from bitvit.preprocess import list_images

    return [image for path in paths for image in (list_images(path) if path.is_dir() else [path])]


def _print_report(report: "VerifyReport") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("block", no_wrap=True)
    for name in ("max error", "typical error", "sign disagreements"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        signs = f"{row.sign_disagreements:,} of {row.signs:,}"
        table.add_row(row.name, f"{row.max_error:.2e}", f"{row.relative_error:.2e}", signs)
    stdout_console().print(table)
    inputs = f"{report.inputs} input{'' if report.inputs == 1 else 's'}"
    print(f"top-1 agreement {report.top1_agreement:.1%} on {inputs}")
    print(f"largest logit error {report.max_relative_logit_error:.2e} of the logits' standard deviation")
    print("PASSED" if report.passed else "FAILED")
