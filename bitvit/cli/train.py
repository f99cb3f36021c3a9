"""bitvit train: a folder of images -> a packed model, with a page of results."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import (
    compiling_status,
    print_note,
    printable,
    require_stdout,
)
from bitvit.cli.ending import INTERRUPTED
from bitvit.cli.tables import print_lines
from bitvit.errors import BitvitError
from bitvit.messages import listing, plural

if TYPE_CHECKING:
    from bitvit.train.preparing import Prepared
    from bitvit.train.training import Outcome

__all__ = ["train"]

CPU_BUILD = "https://download.pytorch.org/whl/cpu"


def train(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with a folder of images for each class; or with train/ and val/ (or test/), each with those.",
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Packed model to write, .safetensors.")],
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="N", help="Time for the training. Default: 10, unless --epochs is given."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How often to see each image; with --minutes, at most.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Side of the network's input in pixels: 32, 48, 64, 96, ...")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Side of the attention's windows, in pixels of its maps.")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Channels of the first stage; each further stage has twice as many."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=2, metavar="N", help="Images of a step.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from a packed model, a checkpoint (.pth, .safetensors) or the folder of a training; the "
            "classes may be others.",
        ),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            metavar="auto|none|FILE",
            help="Learn from a float network too: one that is trained first, in a fifth of the time, none, or the "
            "one in a file.",
        ),
    ] = "auto",
    hold_out: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of each class to measure on, where there is no val/ or test/.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the split and the training.")] = 0,
    config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Settings from a file; nothing is chosen then.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting, such as augment.flip=false."),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For log, results and what is needed to go on. Default: OUT with .run."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            metavar="N",
            help="Threads to compute; default: one or all, whichever is faster at the time.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew; replace OUT and what the run's folder has.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; train and write nothing.")
    ] = False,
) -> None:
    """Train a model on a folder of images.

    What is not asked for is chosen from the images and the minutes, and shown first. Some of the images are held out,
    and at the end the model is measured on them, by PyTorch and by bitvit.

    Stopped with Ctrl-C or by an error, it keeps what is done: the same command goes on.
    """
    require_stdout()
    _require_torch()
    from bitvit.cli.trainbars import Shown
    from bitvit.train.choosing import Wishes
    from bitvit.train.loop import InterruptedRunError
    from bitvit.train.preparing import Request, prepare
    from bitvit.train.training import train as train_prepared

    request = Request(
        folder=folder,
        output=out,
        run_folder=run_folder,
        wishes=Wishes(size, window, width, epochs, batch_size, minutes, seed),
        hold_out=hold_out,
        config=config,
        changes=tuple(changes or ()),
        start=start,
        teacher=teacher,
        force=force,
        threads=threads,
    )
    listener = Shown()
    with listener.status():
        prepared = prepare(request, listener.say)
    print_lines(plan_lines(prepared))
    for note in prepared.source.notes:
        print_note(note)
    if dry_run:
        print_lines(["nothing is trained (--dry-run)"])
        return
    sys.stdout.flush()
    try:
        with compiling_status():
            outcome = train_prepared(prepared, listener)
    except InterruptedRunError:
        print_note(f"stopped; what is done is kept in {request.place}: the same command goes on")
        raise SystemExit(INTERRUPTED) from None
    print_lines(outcome_lines(outcome))


def _require_torch() -> None:
    """Raises BitvitError without PyTorch, with the command that installs its build for CPUs."""
    import importlib.util
    import shlex

    if importlib.util.find_spec("torch") is None:
        python = shlex.quote(sys.executable or "python")
        raise BitvitError(
            f"training needs PyTorch, which is not installed: {python} -m pip install torch --index-url {CPU_BUILD} "
            "(the build for CPUs; without --index-url pip takes the one for GPUs, ten times the size)"
        )


# ------------------------------------------------------------------------------------------------------------- words
def plan_lines(prepared: "Prepared") -> list[str]:
    """What is going to be done, with the options that change it."""
    plan, facts, request = prepared.plan, prepared.facts, prepared.request
    settings, way = plan.settings, prepared.preprocessing
    network, steps = settings.network, len(prepared.source.train) // settings.batch_size
    resized = f"shorter side to {way.resize}, " if way.resize else ""
    epochs = plural(settings.epochs, "epoch")
    length = f"{settings.minutes:g} minutes, at most {epochs}" if settings.minutes else epochs
    counts = f"{facts.images:,} to train on, {len(prepared.source.test):,} held out"
    lines = {
        "images": f"{counts}, of {len(facts.labels)} classes: {listing(facts.labels, show=printable)}",
        "sizes": f"{prepared.sizes}; {resized}the centre of {way.crop} x {way.crop}",
        "network": f"{network.image_size} px (--size), window {network.window_size} (--window), widths "
        f"{_row(network.widths)} (--width), depths {_row(network.depths)}",
        "training": f"{length} (--minutes, --epochs) of {plural(steps, 'step')} of {settings.batch_size} images "
        f"(--batch-size), rate {settings.learning_rate:g}, {settings.precision}",
        "variants": _variants(prepared),
        "teacher": _teacher(prepared),
        "files": f"{request.output}, {request.place}/",
    }
    if request.start is not None and prepared.start is not None:
        kind = "the signs and scales of a packed model" if prepared.start.packed else "the weights of a checkpoint"
        lines = {**lines, "start": f"{kind}, {request.start}"}
    told = [f"  {name:9} {text}" for name, text in lines.items()]
    again = " (goes on where it stopped)" if prepared.resumed else ""
    return [f"{request.folder}: {prepared.source.origin.partition(': ')[2]}{again}", *told]


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _variants(prepared: "Prepared") -> str:
    way = prepared.plan.settings.augment
    parts = [
        f"shifted by up to {plural(way.shift, 'pixel')}" if way.shift else "",
        "mirrored" if way.flip else "not mirrored",
        f"turned by up to {way.rotate:g}°" if way.rotate else "",
        f"enlarged or reduced by up to {100 * way.zoom:g} %" if way.zoom else "",
        f"a square of {way.cutout} pixels blanked" if way.cutout else "",
        f"brighter or darker by up to {100 * way.colour:g} %" if way.colour else "",
    ]
    return ", ".join(part for part in parts if part) + " (--set augment.flip=..., shift, rotate, zoom, cutout, colour)"


def _teacher(prepared: "Prepared") -> str:
    settings, asked = prepared.plan.teacher, prepared.request.teacher
    if settings is not None:
        length = f"{settings.minutes:g} minutes" if settings.minutes else plural(settings.epochs, "epoch")
        return f"a float network of {settings.network.image_size} px, trained first: {length} (--teacher none: without)"
    return "none" if asked in ("none", "auto") else asked


def outcome_lines(outcome: "Outcome") -> list[str]:
    """What has come of it."""
    from bitvit.train.training import speed_text

    result = outcome.result
    same = f"{result.same_predictions} of {outcome.held_out} predictions are the same"
    lines = {
        "top-1": f"{result.top1_bitvit:.2f} % by bitvit, {result.top1_pytorch:.2f} % by PyTorch; {same}",
        "speed": f"{speed_text(outcome.milliseconds)} an image",
        "size": f"{result.bytes:,} bytes, {result.parameters / 1e6:.2f} M parameters, {result.minutes:g} minutes",
        "results": str(outcome.files["run"] / "results.png"),
    }
    return [f"{outcome.files['model']}: trained", *(f"  {name:9} {text}" for name, text in lines.items())]
