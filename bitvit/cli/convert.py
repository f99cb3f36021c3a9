"""bitvit convert: a training checkpoint -> a packed model file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import IGNORE, print_warning, printable
from bitvit.cli.tables import print_lines

if TYPE_CHECKING:
    from bitvit.conversion import ConversionReport


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Training checkpoint: .safetensors, .pth, a Hugging Face folder, or hf://owner/name/file.",
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Packed model to write, .safetensors.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="config.json of the training, or its folder, for sizes that the checkpoint does not determine.",
        ),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Convert the averaged weights ('model_ema').")] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names: a text file with one per line, or .json with a list or {number: name}. "
            "Default: id2label of config.json.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Mean of each channel, on a scale from 0 to 1, or one number for all three. Default: that of the "
            "training, as far as the checkpoint tells, else ImageNet's.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Standard deviation of each channel, given like --mean.")
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            metavar="N|none|auto",
            help="Resize the shorter edge of an image to N pixels before the centre crop. none: images already have "
            "the right size. auto: as the training code does, 256/224 of the image size above 32 pixels, else none.",
        ),
    ] = "auto",
    pad: Annotated[int, typer.Option(min=0, metavar="N", help="Black pixels to add on each side after the crop.")] = 0,
    ignore: Annotated[list[str] | None, typer.Option(metavar="NAME", help=IGNORE)] = None,
) -> None:
    """Convert a training checkpoint into a packed model file.

    An existing OUT is replaced once the new file is complete.
    """
    import warnings

    from bitvit.conversion import convert as convert_checkpoint
    from bitvit.labels import read_labels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report holds them, and _print_report shows them
        report = convert_checkpoint(
            checkpoint,
            out,
            config=config,
            ema=ema,
            labels=None if labels is None else read_labels(labels),
            mean=_channels(mean, "--mean"),
            std=_channels(std, "--std"),
            resize=_size(resize),
            pad=pad,
            ignore=ignore or (),
        )
    _print_report(report)


def _channels(text: str | None, option: str) -> list[float] | None:
    """'0.5' or '0.4,0.5,0.6' -> one number per channel."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise typer.BadParameter(
            f"{text!r}, expected one number or three, such as 0.485,0.456,0.406", param_hint=option
        )
    return values * (3 // len(values))


def _size(text: str) -> int | str | None:
    if text in ("none", "auto"):
        return None if text == "none" else text
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r}, expected a number of pixels, none or auto", param_hint="--resize")
    return int(text)


def _print_report(report: "ConversionReport") -> None:
    for note in report.warnings:
        print_warning(note)
    config = report.config
    print(f"{printable(str(report.path))}: {report.bytes:,} bytes in {report.seconds:.1f} s")
    print(f"  {report.binary_weights:,} weights of 1 bit, {report.float_parameters:,} float32")
    print(f"  {config.image_size} x {config.image_size} pixels, {config.num_classes} classes")
    print_lines([f"  note: {note}" for note in report.notes])
