"""evaluate: labelled images and packed models in, figures out.

    read the data and match its classes with each model's   (dataset.py, classes.py)
    decode ahead, once for all models that prepare images alike; compute; keep the logits of every image
    measure                                                 (metrics.py)

Everything that can be wrong with names, files and options is found before the first image is computed. What is done
is kept in a state file, so an evaluation that was stopped goes on where it was; logits are the same bits in any
batch, so its figures are those of an uninterrupted one.
"""

import contextlib
import hashlib
import itertools
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from bitvit.classify import Classifier, Model
from bitvit.errors import BitvitError, ConfigError, ImageError
from bitvit.evaluation import metrics
from bitvit.evaluation.classes import ClassMap, Label, Matching, find_classes, match_classes, read_class_map
from bitvit.evaluation.dataset import Dataset, DataSource, Layout, read_data, read_folds
from bitvit.evaluation.metrics import Metrics
from bitvit.evaluation.prefetch import prefetch
from bitvit.extras import require
from bitvit.files import make_folder, write_file
from bitvit.system import available_threads

__all__ = ["Comparison", "EvalReport", "Failure", "Progress", "evaluate"]

ModelSource: TypeAlias = str | os.PathLike[str] | Model
OnError: TypeAlias = Literal["fail", "skip"]

SAVE_SECONDS = 60.0  # between saves of the state, or
SAVE_PAUSE = 20.0  # times as long as the last one took, if that is more
FIGURES = ("top1", "top5", "loss", "balanced_accuracy", "macro_f1", "roc_auc", "calibration_error")


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is."""

    model: str
    unit: int
    """Number of the model, from 0, of `units`."""
    units: int
    done: int
    """Images of this model that are through, failures included, of `total`."""
    total: int
    correct: int
    """Of those that could be read."""
    failed: int
    overall: tuple[int, int]
    """Images that are through, and how many there are, of all models together: some take turns, batch by batch."""
    state: Path | None
    """Where the evaluation is kept if it is stopped."""

    @property
    def accuracy(self) -> float | None:
        """Top-1 so far."""
        counted = self.done - self.failed
        return self.correct / counted if counted else None


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalReport(Metrics):
    """What one model achieves on one data set; the figures are described in bitvit.metrics.Metrics."""

    model: str
    model_sha256: str | None
    """Of the model file; None for a model that was given loaded."""
    data: str
    failures: tuple[Failure, ...]
    """Images that could not be read; they are in no figure."""
    notes: tuple[str, ...]
    """What a reader of the figures should know."""
    seconds: float
    """Of decoding and computing, which overlap; models that share decoded images share the waiting for them."""
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    """[images] position of each image's class in `classes`."""
    logits: NDArray[np.float32]
    """[images, classes]"""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """[images, classes], softmax of the logits."""
        return metrics.softmax(self.logits)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, as JSON can hold it."""
        from bitvit.evaluation.tables import report_dict

        return report_dict(self)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write report.json, classes.csv, confusion.csv, confusion.png, calibration.png and, if any, failures.csv."""
        from bitvit.evaluation.tables import save_report

        return save_report(self, Path(folder))

    def save_predictions(self, path: str | os.PathLike[str]) -> None:
        """Write what was answered to each image: .csv, .jsonl or .parquet, as the name ends."""
        from bitvit.evaluation.tables import save_predictions

        save_predictions([self], path)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several models side by side, or the folds of a cross-validation."""

    reports: tuple[EvalReport, ...]

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean of each of the figures over the models, each model counting the same; None where one has none."""
        return {name: None if values is None else float(np.mean(values)) for name, values in self._columns()}

    @property
    def spread(self) -> dict[str, float | None]:
        """Standard deviation over the models, with n - 1; None for fewer than two."""
        return {
            name: None if values is None or len(values) < 2 else float(np.std(values, ddof=1))
            for name, values in self._columns()
        }

    def _columns(self) -> Iterator[tuple[str, list[float] | None]]:
        for name in FIGURES:
            values = [getattr(report, name) for report in self.reports]
            yield name, None if None in values else values

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, as JSON can hold it."""
        return {
            "reports": [report.to_dict() for report in self.reports],
            "mean": self.mean,
            "standard_deviation": self.spread,
        }

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write summary.csv, summary.json, and a folder for each report."""
        from bitvit.evaluation.tables import save_comparison

        return save_comparison(self, Path(folder))

    def save_predictions(self, path: str | os.PathLike[str]) -> None:
        """Write all models' answers to one file: .csv, .jsonl or .parquet, as the name ends."""
        from bitvit.evaluation.tables import save_predictions

        save_predictions(self.reports, path)


# A str is a sequence too, and a path: the first overload that fits is the right one.
@overload
def evaluate(  # type: ignore[overload-overlap]
    model: ModelSource,
    data: DataSource,
    *,
    classes: str | os.PathLike[str] | ClassMap | None = ...,
    subset: Sequence[Label] | None = ...,
    on_error: OnError = ...,
    folds: bool = ...,
    path_column: str | None = ...,
    label_column: str | None = ...,
    root: str | os.PathLike[str] | None = ...,
    batch_size: int = ...,
    threads: int | None = ...,
    decoders: int | None = ...,
    output: str | os.PathLike[str] | None = ...,
    predictions: str | os.PathLike[str] | None = ...,
    state: str | os.PathLike[str] | None = ...,
    resume: bool = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> EvalReport: ...
@overload
def evaluate(
    model: Sequence[ModelSource],
    data: DataSource | list[DataSource],
    *,
    classes: str | os.PathLike[str] | ClassMap | None = ...,
    subset: Sequence[Label] | None = ...,
    on_error: OnError = ...,
    folds: bool = ...,
    path_column: str | None = ...,
    label_column: str | None = ...,
    root: str | os.PathLike[str] | None = ...,
    batch_size: int = ...,
    threads: int | None = ...,
    decoders: int | None = ...,
    output: str | os.PathLike[str] | None = ...,
    predictions: str | os.PathLike[str] | None = ...,
    state: str | os.PathLike[str] | None = ...,
    resume: bool = ...,
    progress: Callable[[Progress], None] | None = ...,
) -> Comparison: ...
def evaluate(
    model: ModelSource | Sequence[ModelSource],
    data: DataSource | list[DataSource],
    *,
    classes: str | os.PathLike[str] | ClassMap | None = None,
    subset: Sequence[Label] | None = None,
    on_error: OnError = "fail",
    folds: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    decoders: int | None = None,
    output: str | os.PathLike[str] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> EvalReport | Comparison:
    """Measure a model, or several, on labelled images.

        report = evaluate("model.safetensors", "images")      # images/cat/1.jpg, images/dog/2.jpg, ...
        report.top1, report.calibration_error, report.confusion
        evaluate(["a.safetensors", "b.safetensors"], "labels.csv").mean["top1"]

    model: path of a packed model, or a loaded one; a list of them gives a Comparison.
    data: a folder with a folder for each class; a CSV file with the columns path and label (and fold), in which paths
        start from the file's own folder; or a pair of images (a list, or uint8 [B, H, W] or [B, H, W, 3]) and labels.
        With several models it may be a list with one for each.
    classes: what the data set's class names mean, if they are not the model's own: names in the model's order, or a
        mapping of names to class names or numbers, or a file with either (bitvit.classes.read_class_map).
    subset: names or numbers of the only classes that take part: images of others are left out, and answers are
        chosen among these. "present" alone stands for the classes that have images.
    on_error: "fail": the first image that cannot be read is an error; "skip": such images are left out and
        listed in the report.
    folds: the data has a fold for each model, in this order: the folders in the folder, or the column `fold`.
    path_column, label_column, root: of a CSV file, if they are not the usual.
    batch_size, threads: as for Classifier. decoders: threads that decode images meanwhile.
    output: a folder for the tables and drawings of the report. predictions: a file for the answer to each image.
    state: keep what is done in this file if the evaluation is stopped, and every minute; in a folder, the file is
        named after the job. resume: go on from there, if it exists. Models must be given by their paths.
    progress: called after every batch of every model.

    Models that take the same images and prepare them alike share them: each image is decoded once.

    Raises BitvitError for what the user can mend; ValueError for impossible arguments.
    """
    several = isinstance(model, list | tuple)
    models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'fail' or 'skip'")
    if not models:
        raise ValueError("model: an empty list, expected at least one model")
    require("sklearn.metrics", "evaluate")
    _check_outputs(output, predictions)
    datasets = _datasets(data, len(models), folds, Layout(path_column, label_column, root))
    class_map = read_class_map(classes) if isinstance(classes, str | os.PathLike) else classes
    units = []
    for source, dataset in zip(models, datasets, strict=True):
        is_path = isinstance(source, str | os.PathLike)
        classifier = Classifier(source, threads=threads if is_path else None, batch_size=batch_size)
        units.append(_unit(classifier, source, dataset, class_map, subset))
    store = _Store(units, state)
    if resume:
        store.load()
    runner = _Runner(units, store, on_error, decoders or max(1, min(4, available_threads() // 2)), progress)
    try:
        runner.run()
        reports = tuple(unit.report() for unit in units)
        result = Comparison(reports) if several else reports[0]
        if output is not None:
            result.save(output)
        if predictions is not None:
            result.save_predictions(predictions)
    except BaseException:
        store.save()
        raise
    store.remove()
    return result


def _check_outputs(output: str | os.PathLike[str] | None, predictions: str | os.PathLike[str] | None) -> None:
    """Find out now, not after an hour, that results could not be written."""
    from bitvit.evaluation import tables as evalfiles

    if output is not None:
        require("matplotlib", "drawing the confusion matrix")
        make_folder(Path(output))
    if predictions is not None:
        evalfiles.check_predictions(Path(predictions))


def _datasets(data: DataSource | list[DataSource], count: int, folds: bool, layout: Layout) -> list[Dataset]:
    """One data set for each model."""
    if isinstance(data, list):
        if len(data) != count:
            raise ConfigError(f"{len(data)} data sets for {count} models, expected one for each")
        return [read_data(item, layout) for item in data]
    if not folds:
        return [read_data(data, layout)] * count
    found = read_folds(data, layout)
    if len(found) != count:
        names = ", ".join(dataset.name for dataset in found)
        raise ConfigError(f"{len(found)} folds for {count} models, expected one for each: {names}")
    return found


# --------------------------------------------------------------------------------------------------- one model's part
@dataclass
class _Unit:
    """A model and the images for it; what has been computed grows from the first image on.

    Images are taken in a random order, the same every time: class after class, what has been found so far would say
    little about the whole.
    """

    classifier: Classifier
    model: str
    sha256: str | None
    dataset: Dataset
    taking: NDArray[np.int64]  # positions in the data set of the images that take part, [B]
    targets: NDArray[np.int64]  # [B] their class, as a column
    columns: NDArray[np.int64] | None  # classes to choose among; None: all
    names: tuple[str, ...]  # of the columns
    notes: tuple[str, ...]
    logits: NDArray[np.float32]  # [B, columns], rows of failures mean nothing
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)  # number of an image -> why
    seconds: float = 0.0

    def shares_images(self, other: "_Unit") -> bool:
        """Whether both models take the same images, in the same order and prepared alike."""
        return (
            self.dataset is other.dataset
            and self.classifier.model.preprocessing == other.classifier.model.preprocessing
            and np.array_equal(self.taking, other.taking)
        )

    def path(self, number: int) -> str:
        return self.dataset.paths[int(self.taking[number])]

    def correct(self, start: int, stop: int) -> int:
        right = self.logits[start:stop].argmax(axis=1) == self.targets[start:stop]
        return int(right.sum()) - sum(bool(right[n - start]) for n in self.failed if start <= n < stop)

    def prepare(self, number: int) -> NDArray[np.float32] | ImageError:
        """Decode an image; called from other threads."""
        place = int(self.taking[number])
        return self.classifier.prepare(place, self.dataset.images[place])

    def report(self) -> EvalReport:
        order = np.argsort(self.taking).tolist()  # the data's
        kept = [n for n in order if n not in self.failed]
        if not kept:
            raise ImageError(
                f"{self.dataset.name}: none of the {len(order)} images could be read; the first: "
                f"{self.failed[order[0]]}"
            )
        logits, targets = self.logits[kept], self.targets[kept]
        numbers = range(len(self.names)) if self.columns is None else self.columns.tolist()
        measured = metrics.measure(logits, targets, self.names, tuple(numbers))
        return EvalReport(
            **vars(measured),
            model=self.model,
            model_sha256=self.sha256,
            data=self.dataset.name,
            failures=tuple(Failure(self.path(n), reason) for n in order if (reason := self.failed.get(n))),
            notes=self.notes,
            seconds=self.seconds,
            paths=tuple(map(self.path, kept)),
            targets=targets,
            logits=logits,
        )


def _unit(
    classifier: Classifier,
    source: Any,
    dataset: Dataset,
    class_map: ClassMap | None,
    subset: Sequence[Label] | None,
) -> _Unit:
    model, count = classifier.model, classifier.model.config.num_classes
    is_path = isinstance(source, str | os.PathLike)
    name = str(os.fspath(source)) if is_path else type(source).__name__
    matching = match_classes(
        [*dataset.labels, *dataset.empty],
        labels=model.labels,
        count=count,
        classes=class_map,
        where=dataset.name,
        partial=subset is not None,
    )
    columns = _columns(subset, matching, dataset)
    wanted = set(range(count)) if columns is None else set(columns.tolist())
    pairs = [(i, matching.numbers.get(label, -1)) for i, label in enumerate(dataset.labels)]
    taking = np.array([i for i, number in pairs if number in wanted], np.int64)
    targets = np.array([number for _, number in pairs if number in wanted], np.int64)
    if not len(taking):
        raise ConfigError(f"{dataset.name}: no image of the chosen classes; check --subset (subset=)")
    order = np.random.default_rng(0).permutation(len(taking))
    chosen = range(count) if columns is None else columns.tolist()
    if len(chosen) < 2:
        raise ConfigError(f"{name}: {len(chosen)} class to choose from, expected at least two")
    notes = _notes(dataset, matching, chosen, targets, len(dataset) - len(taking), columns is None)
    return _Unit(
        classifier,
        name,
        hashlib.sha256(Path(source).read_bytes()).hexdigest() if is_path else None,
        dataset,
        taking[order],
        (targets if columns is None else np.searchsorted(columns, targets))[order],
        columns,
        tuple(matching.names[k] for k in chosen),
        notes,
        np.zeros((len(taking), len(chosen)), np.float32),
    )


def _columns(subset: Sequence[Label] | None, matching: Matching, dataset: Dataset) -> NDArray[np.int64] | None:
    """The classes of a subset, sorted; None for all."""
    if subset is None:
        return None
    wanted = [subset] if isinstance(subset, str) else list(subset)
    if wanted == ["present"]:
        found = {matching.numbers[label] for label in dataset.labels if label in matching.numbers}
    else:
        own = {label: number for label, number in matching.numbers.items() if label in wanted}
        others = [label for label in wanted if label not in own]
        found = {*own.values(), *find_classes(others, matching.names, "subset")}
    return np.array(sorted(found), np.int64)


def _notes(
    dataset: Dataset,
    matching: Matching,
    chosen: Sequence[int],
    targets: NDArray[np.int64],
    left_out: int,
    every: bool,
) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    notes = [f"classes are matched by {matching.how}", *dataset.notes]
    if not every:
        notes.append(f"{len(chosen)} of the model's {len(matching.names)} classes take part: the best of them is taken")
    if left_out:
        notes.append(f"{left_out} images of other classes are left out")
    missing = len(chosen) - len(np.unique(targets))
    if missing:
        notes.append(
            f"{missing} of {len(chosen)} classes have no images"
            + ("; an answer with one of them counts as wrong" if every else "")
        )
    return tuple(notes)


# ------------------------------------------------------------------------------------------------------------ running
@dataclass
class _Runner:
    units: list[_Unit]
    store: "_Store"
    on_error: OnError
    decoders: int
    progress: Callable[[Progress], None] | None

    def run(self) -> None:
        groups: list[list[int]] = []  # numbers of units that share images
        for index, unit in enumerate(self.units):
            group = next((g for g in groups if self.units[g[0]].shares_images(unit)), None)
            if group is None:
                groups.append(group := [])
            group.append(index)
        for group in groups:
            self._run_group(group)

    def _run_group(self, group: list[int]) -> None:
        """Decode a batch of images after the other, and let each of the group's models compute it."""
        units = [self.units[index] for index in group]
        correct = [unit.correct(0, unit.done) for unit in units]
        for index, right in zip(group, correct, strict=True):
            self._tell(index, right)
        lead, size = units[0], units[0].classifier.batch_size
        start = min(unit.done for unit in units)
        numbers = range(start, len(lead.taking))
        ready = prefetch(lead.prepare, numbers, workers=self.decoders, ahead=2 * size + self.decoders)
        with contextlib.closing(ready):  # type: ignore[type-var]
            while True:
                begin = time.perf_counter()
                batch = list(itertools.islice(ready, size))
                waited = (time.perf_counter() - begin) / len(units)
                if not batch:
                    return
                errors = []
                for place, (index, unit) in enumerate(zip(group, units, strict=True)):
                    before = unit.done
                    if before >= start + len(batch):
                        continue  # resumed, it had come further than the others
                    begin = time.perf_counter()
                    errors.append(self._compute(unit, batch[before - start :]))
                    unit.seconds += waited + time.perf_counter() - begin
                    correct[place] += unit.correct(before, unit.done)
                    self._tell(index, correct[place])
                start += len(batch)
                self.store.save_sometimes()
                if (error := next(filter(None, errors), None)) is not None:
                    raise ImageError(f'{error}; or leave such images out with --on-error skip (on_error="skip")')

    def _compute(self, unit: _Unit, batch: list[NDArray[np.float32] | ImageError]) -> ImageError | None:
        """Take a batch's results in; they count from when `done` says so.

        Returns the error that the evaluation is to stop at; images before it are through.
        """
        start = unit.done
        errors = {start + i: item for i, item in enumerate(batch) if isinstance(item, ImageError)}
        first = min(errors) if errors and self.on_error == "fail" else None
        if first is not None:
            batch = batch[: first - start]
        pixels = {start + i: item for i, item in enumerate(batch) if not isinstance(item, ImageError)}
        if pixels:
            good = list(pixels)
            logits = unit.classifier.model(np.stack(list(pixels.values())))
            if not np.isfinite(logits).all():
                raise BitvitError(
                    f"{unit.model}: its answer to {unit.path(good[0])}, or one soon after it, is not finite; the model "
                    "is broken, compare it with its checkpoint by bitvit verify"
                )
            unit.logits[good] = logits if unit.columns is None else logits[:, unit.columns]
        if first is None:
            unit.failed.update({number: str(error) for number, error in errors.items()})
        unit.done = start + len(batch)
        return None if first is None else errors[first]

    def _tell(self, index: int, correct: int) -> None:
        if self.progress is not None:
            unit = self.units[index]
            counts = unit.done, len(unit.taking), correct, len(unit.failed)
            overall = sum(u.done for u in self.units), sum(len(u.taking) for u in self.units)
            self.progress(Progress(unit.model, index, len(self.units), *counts, overall, self.store.path))


# -------------------------------------------------------------------------------------------------------------- state
class _Store:
    """The state file: for every unit what has been computed, and which evaluation it belongs to."""

    def __init__(self, units: list[_Unit], place: str | os.PathLike[str] | None) -> None:
        self.units = units
        self.path: Path | None = None
        self._saved, self._pause = time.monotonic(), SAVE_SECONDS
        if place is None:
            return
        if any(unit.sha256 is None for unit in units):
            raise ValueError("state: needs models that are given by path, to know them again")
        self.job = self._job()
        self.path = Path(place)
        if self.path.is_dir():
            self.path = self.path / f"bitvit-evaluate-{self.job[:8]}.state"
        if not os.access(self.path.resolve().parent, os.W_OK):
            raise BitvitError(f"{self.path}: cannot be written; name a place for the state in a folder of yours")

    def _job(self) -> str:
        """What must be the same for an evaluation to go on: models, images' names, classes."""
        from bitvit.version import __version__

        digest = hashlib.sha256(__version__.encode())
        for unit in self.units:
            digest.update(f"{unit.sha256}\0{unit.names}\0{unit.columns}\0".encode("utf-8", "surrogateescape"))
            digest.update("\0".join(unit.dataset.paths).encode("utf-8", "surrogateescape"))
            digest.update(unit.taking.tobytes() + unit.targets.tobytes())
        return digest.hexdigest()

    def save_sometimes(self) -> None:
        if time.monotonic() - self._saved > self._pause:
            begin = time.monotonic()
            with contextlib.suppress(BitvitError):  # a full disk is no reason to stop, and may have room in the end
                self.save()
            self._saved = time.monotonic()
            self._pause = max(SAVE_SECONDS, SAVE_PAUSE * (self._saved - begin))

    def save(self) -> None:
        if self.path is None or not any(unit.done for unit in self.units):
            return
        parts = [
            {
                "done": unit.done,
                "seconds": unit.seconds,
                "failed": {str(n): why for n, why in unit.failed.items() if n < unit.done},
            }
            for unit in self.units
        ]
        header = json.dumps({"job": self.job, "units": parts}).encode()
        arrays: dict[str, Any] = {f"logits{i}": unit.logits[: unit.done] for i, unit in enumerate(self.units)}
        arrays["header"] = np.frombuffer(header, np.uint8)
        write_file(self.path, lambda file: np.savez(file, **arrays))

    def load(self) -> None:
        """Take up what the file holds; nothing if there is none."""
        if self.path is None:
            raise ValueError("resume: needs state=, the file or folder to go on from")
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(archive["header"].tobytes())
                if header["job"] != self.job:
                    raise BitvitError(
                        f"{self.path}: was left by another evaluation: other models, images, classes or bitvit; "
                        "repeat that one, or start afresh without --resume (resume=)"
                    )
                for i, (unit, part) in enumerate(zip(self.units, header["units"], strict=True)):
                    done = int(part["done"])
                    unit.logits[:done] = archive[f"logits{i}"]
                    unit.done, unit.seconds = done, float(part["seconds"])
                    unit.failed = {int(n): str(why) for n, why in part["failed"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as problem:
            raise BitvitError(
                f"{self.path}: is not a state file, or damaged ({problem}); start afresh without --resume (resume=)"
            ) from None

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
