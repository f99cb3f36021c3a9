"""bitvit verify: a packed model against the plain NumPy reference on its checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import check_drawing, compiling_status, stdout_console

if TYPE_CHECKING:
    from bitvit.verify.verifying import VerifyReport, VerifyRow


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Packed model, written by bitvit convert.")],
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint that it was converted from.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Image or folder of images to compare on; may be given several times."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the training, if the checkpoint needs it.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Compare with the averaged weights ('model_ema').")] = False,
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of random inputs to compare on if there are no --images.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random inputs.")] = 0,
    draw: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the errors of each part, and where on its map they are, into a PNG file."
        ),
    ] = None,
) -> None:
    """Compare a packed model, part by part, with its checkpoint as plain NumPy computes it in float64.

    The parts are the stem, each downsampling and block, and the head. The NumPy reference gets the same input to a
    part as the engine. Errors are in units of the standard deviation of the part's output. The exit code is 0 if all
    parts agree, else 1.
    """
    from bitvit.extras import require
    from bitvit.verify.verifying import verify as verify_model

    if draw is not None:
        require("matplotlib", "drawing")  # now, not after the work
        check_drawing(draw)
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
    """Folders replaced by the images in them."""
    if not paths:
        return None
    from bitvit.folders import list_images

    return [image for path in paths for image in (list_images(path) if path.is_dir() else [path])]


def _print_report(report: "VerifyReport") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", no_wrap=True)
    for name in ("max error", "typical error", "signs that differ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        signs = f"{row.sign_disagreements:,} of {row.signs:,}" if row.signs else "no signs"
        table.add_row(row.name, f"{row.max_error:.2e}", f"{row.relative_error:.2e}", signs, _verdict(row))
    stdout_console().print(table)
    same = round(report.top1_agreement * report.inputs)
    print(f"whole network: top-1 is the reference's on {same} of {report.inputs} inputs")
    print(f"whole network: largest logit error {report.max_relative_logit_error:.2e} of the logits' standard deviation")
    failed = [row.name for row in report.rows if not row.passed]
    if failed:
        print(f"FAILED: {', '.join(failed)} {'differ' if len(failed) > 1 else 'differs'} from the checkpoint")
        return
    if report.apart:
        print(
            f"note: on {report.apart} of {report.inputs} inputs the two networks diverged, as float32 and float64 do in"
            " a network of signs: a value within rounding error of its threshold got the other sign, and everything"
            " after it differs. The model file is not at fault; what counts is that each part gives the same output for"
            " the same input."
        )
    print(f"PASSED: all {len(report.rows)} parts compute what the checkpoint says")


def _verdict(row: "VerifyRow") -> str:
    if not row.passed:
        return f"WRONG at {row.wrong:,} of {row.places:,} places" if row.wrong else "WRONG: typical error"
    return (
        f"signs that float32 rounding decides affect {row.undecided:,} of {row.places:,} places"
        if row.undecided
        else ""
    )
