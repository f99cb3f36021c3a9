"""bitvit verify: a packed model against the plain NumPy reference on its checkpoint."""

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bitvit.cli.console import IGNORE, check_drawing, compiling_status, format_of, output, require_stdout
from bitvit.cli.tables import Table, print_lines, print_table
from bitvit.files import is_folder
from bitvit.messages import plural

if TYPE_CHECKING:
    from bitvit.verify.verifying import VerifyReport, VerifyRow


class Format(str, Enum):
    table = "table"
    json = "json"


def verify(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Packed model, written by bitvit convert, or hf://owner/name.")
    ],
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint that it was converted from.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Image or folder of images to compare on; may be given several times."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the training, if the checkpoint needs it.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Compare with the averaged weights ('model_ema').")] = False,
    ignore: Annotated[list[str] | None, typer.Option(metavar="NAME", help=IGNORE)] = None,
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
    form: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Format of the report; default: as the output's name ends, or a table."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
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
    if out is None:
        require_stdout()
    with compiling_status():
        report = verify_model(
            model,
            checkpoint,
            images=_expanded(images),
            config=config,
            ema=ema,
            ignore=ignore or (),
            count=count,
            seed=seed,
        )
    with output(out) as stream:
        if format_of(form, out, Format.table) is Format.json:
            stream.write(json.dumps(report.to_dict(), indent=2) + "\n")
        else:
            _print_report(report, stream)
    if draw is not None:
        report.draw(draw)
    if not report.passed:
        raise typer.Exit(1)


def _expanded(paths: list[Path] | None) -> list[Path] | None:
    """Folders replaced by the images in them."""
    if not paths:
        return None
    from bitvit.errors import ImageError
    from bitvit.folders import find_images

    images: list[Path] = []
    for path in paths:
        found = find_images(path, recursive=False, required=False).images if is_folder(path) else [path]
        if not found:
            raise ImageError(f"{path}: --images: no images in this folder; name one that has some, or the files")
        images += found
    return images


def _print_report(report: "VerifyReport", stream: TextIO) -> None:
    rows = []
    for row in report.rows:
        signs = f"{row.sign_disagreements:,} of {row.signs:,}" if row.signs else "no signs"
        rows.append((row.name, f"{row.max_error:.2e}", f"{row.relative_error:.2e}", signs, _verdict(row)))
    columns = ("part", "max error", "typical error", "signs that differ", "")
    print_table(Table(columns, rows, words=frozenset({0, len(columns) - 1})), stream)
    same = round(report.top1_agreement * report.inputs)
    lines = [
        "",
        f"whole network: top-1 is the reference's on {same} of {report.inputs} inputs",
        f"whole network: largest logit error {report.max_relative_logit_error:.2e} of the logits' standard deviation",
    ]
    failed = [row.name for row in report.rows if not row.passed]
    lines += [f"note: {note}" for note in report.notes]
    if any(row.undecided for row in report.rows):
        lines.append("note: 'by rounding' are places where float32's last bits decide a sign, which is no fault")
    if not failed and report.apart:
        lines.append(
            f"note: on {report.apart} of {report.inputs} inputs the two networks diverged, as float32 and float64 do in"
            " a network of signs: a value within rounding error of its threshold got the other sign, and everything"
            " after it differs. The model file is not at fault; what counts is that each part gives the same output for"
            " the same input."
        )
    if failed:
        lines.append(f"FAILED: {', '.join(failed)} {'differ' if len(failed) > 1 else 'differs'} from the checkpoint")
    else:
        lines.append(f"PASSED: {_count(len(report.rows))} what the checkpoint says")
    print_lines(lines, stream)


def _count(parts: int) -> str:
    return f"all {parts} parts compute" if parts != 1 else "the one part computes"


def _verdict(row: "VerifyRow") -> str:
    if not row.passed:
        return f"WRONG at {row.wrong:,} of {row.places:,} places" if row.wrong else "WRONG: typical error"
    return f"{plural(row.undecided, 'place')} by rounding" if row.undecided else ""
