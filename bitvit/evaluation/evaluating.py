"""evaluate and compare: labelled images and packed models in, figures out.

    read the data and match its classes with each model's   (dataset.py, classes.py)
    decode, once for all models that prepare images alike; compute; keep the logits of every image   (job.py)
    measure   (metrics.py)

Everything that can be wrong with names, files and options is found before the first image is computed. What is done
is kept in a state file (state.py), so an evaluation that was stopped goes on where it was; logits are the same bits in
any batch, so its figures are those of an uninterrupted one.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from bitvit.errors import ConfigError
from bitvit.evaluation.classes import ClassMap, Label, read_class_map
from bitvit.evaluation.dataset import Dataset, DataSource, Layout, read_data, read_folds
from bitvit.evaluation.job import ModelSource, OnError, Progress, Runner, fingerprint, plan
from bitvit.evaluation.report import Comparison, EvalReport
from bitvit.evaluation.state import StateFile
from bitvit.evaluation.tables import check_answers
from bitvit.extras import require
from bitvit.files import make_folder
from bitvit.messages import listing, plural

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Options", "Outputs", "compare", "evaluate"]

Result = TypeVar("Result", EvalReport, Comparison)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results are written and shown, and what is done is kept."""

    report: str | os.PathLike[str] | None = None
    """A folder for the tables and drawings of the report."""
    predictions: str | os.PathLike[str] | None = None
    """A file for the answer to each image: .csv, .jsonl or .parquet."""
    state: str | os.PathLike[str] | None = None
    """A file that keeps what is done if the evaluation is stopped, and every minute; in a folder, the file is named
    after the job. Models must be given by their paths."""
    resume: bool = False
    """Go on from the state, if it exists."""
    progress: Callable[[Progress], None] | None = None
    """Called after every batch of every model."""


class Options(TypedDict, total=False):
    """The keyword arguments that evaluate and compare share; all may be left out."""

    classes: str | os.PathLike[str] | ClassMap | None
    """What the data's class names mean, if they are not the model's own: names in the model's order, or a mapping of
    names to class names or numbers, or a file with either (bitvit.evaluation.classes.read_class_map)."""
    subset: Sequence[Label] | None
    """Names or numbers of the only classes that take part: images of others are left out, and answers are chosen among
    these. "present" alone stands for the classes that have images."""
    on_error: OnError
    """"fail", the default: the first image that cannot be read is an error; "skip": such images are left out, and
    listed in the report."""
    layout: Layout
    """What a CSV file calls its columns, and where its images are, if not as usual."""
    batch_size: int
    """As for Classifier; default: 16."""
    threads: int | None
    """As for Classifier."""
    exif: bool
    """As for Classifier; default: False."""
    decoders: int | None
    """Threads that decode and compute images of their own at once; default: as many as `threads`."""
    outputs: Outputs
    """Where results are written and shown, and what is done is kept; default: nowhere."""


def evaluate(model: ModelSource, data: DataSource, **options: "Unpack[Options]") -> EvalReport:
    """Measure a model on labelled images.

        report = evaluate("model.safetensors", "images")      # images/cat/1.jpg, images/dog/2.jpg, ...
        report.top1, report.calibration_error, report.confusion
        evaluate("model.safetensors", "images", subset=["cat", "dog"], outputs=Outputs(report="report"))

    model: path of a packed model, hf://owner/name[@revision][/file], or a loaded one.
    data: a folder with a folder for each class; a CSV file with the columns path and label, in which paths start from
        the file's own folder; a Parquet file, a folder of them or the address of one; or a pair of images (a list, or
        uint8 [B, H, W] or [B, H, W, 3]) and labels.
    options: classes, subset, on_error, layout, batch_size, threads, exif, decoders, outputs; see Options.

    Raises BitvitError for what the user can mend; ValueError and TypeError for impossible arguments.
    """
    if isinstance(model, Sequence) and not isinstance(model, str):
        raise TypeError(f"model: is a {type(model).__name__}, expected one model; compare measures several")
    _check(options)
    return _run([model], [read_data(data, options.get("layout"))], options, lambda reports: reports[0])


def compare(
    models: Iterable[ModelSource],
    data: DataSource | list[DataSource],
    *,
    folds: bool = False,
    **options: "Unpack[Options]",
) -> Comparison:
    """Measure several models on labelled images, side by side.

        compare(["a.safetensors", "b.safetensors"], "images").mean["top1"]

    models, data: as for evaluate; data may also be a list with one for each model.
    folds: the data has a fold for each model, in this order: the folders in the folder, or the CSV's column `fold`.
    options: classes, subset, on_error, layout, batch_size, threads, exif, decoders, outputs; see Options.

    Models that take the same images and prepare them alike share them: each image is decoded once.

    Raises BitvitError for what the user can mend; ValueError and TypeError for impossible arguments.
    """
    if isinstance(models, str | os.PathLike):
        raise TypeError("models: is one path, expected a list of models; evaluate measures one")
    models = list(models)
    if not models:
        raise ValueError("models: an empty list, expected at least one model")
    _check(options)
    datasets = _one_for_each(data, len(models), folds, options.get("layout"))
    return _run(models, datasets, options, Comparison)


def _check(options: Options) -> None:
    """Find out now, not after an hour, what is missing and what could not be written."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        known = list(Options.__annotations__)
        raise TypeError(f"no such option: {listing(sorted(unknown))}; expected {listing(known, most=len(known))}")
    on_error, outputs = options.get("on_error", "fail"), options.get("outputs", Outputs())
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'fail' or 'skip'")
    if outputs.report is not None:
        require("matplotlib", "drawing the confusion matrix")
        make_folder(Path(outputs.report))
    if outputs.predictions is not None:
        check_answers(outputs.predictions)


def _one_for_each(data: DataSource | list[DataSource], count: int, folds: bool, layout: Layout | None) -> list[Dataset]:
    """One data set for each of `count` models."""
    if isinstance(data, list):
        found = [read_data(item, layout) for item in data]
    elif folds:
        found = read_folds(data, layout)
    else:
        return [read_data(data, layout)] * count
    if len(found) != count:
        number = f"{plural(len(found), 'fold' if folds else 'data set')} for {plural(count, 'model')}"
        raise ConfigError(f"{number}, expected one for each: {listing([dataset.name for dataset in found])}")
    return found


def _run(
    models: Sequence[ModelSource],
    datasets: Sequence[Dataset],
    options: Options,
    gather: Callable[[tuple[EvalReport, ...]], Result],
) -> Result:
    """Compute what is not done yet, write what is to be written, and return what `gather` makes of the reports."""
    outputs = options.get("outputs", Outputs())
    classes = options.get("classes")
    if isinstance(classes, str | os.PathLike):
        classes = read_class_map(classes)
    parts = [
        plan(
            model,
            dataset,
            classes=classes,
            subset=options.get("subset"),
            threads=options.get("threads"),
            batch_size=options.get("batch_size", 16),
            exif=options.get("exif", False),
        )
        for model, dataset in zip(models, datasets, strict=True)
    ]
    job = "" if outputs.state is None else fingerprint(parts)
    state = StateFile(outputs.state, job, [part.computed for part in parts])
    if outputs.resume:
        state.load()
    runner = Runner(
        parts=parts,
        state=state,
        on_error=options.get("on_error", "fail"),
        decoders=options.get("decoders"),
        progress=outputs.progress,
    )
    try:
        runner.run()
        result = gather(tuple(part.report() for part in parts))
        if outputs.report is not None:
            result.save(outputs.report)
        if outputs.predictions is not None:
            result.save_predictions(outputs.predictions)
    except BaseException:
        state.save()
        raise
    state.remove()
    return result
