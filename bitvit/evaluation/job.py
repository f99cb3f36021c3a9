"""The work of an evaluation: each model's part, and the runner that decodes images and has the models compute them."""

import contextlib
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitvit.bundle.manifest import MANIFEST
from bitvit.classify import Classifier
from bitvit.errors import BitvitError, ConfigError, ImageError
from bitvit.evaluation.classes import ClassMap, Label, Matching, find_classes, match_classes
from bitvit.evaluation.dataset import Dataset
from bitvit.evaluation.metrics import measure, parts
from bitvit.evaluation.report import EvalReport, Failure
from bitvit.evaluation.spill import release, zeros
from bitvit.evaluation.state import Computed, StateFile
from bitvit.hub import local_path, spelled
from bitvit.images import ImageSource
from bitvit.messages import listing, plural
from bitvit.modelfile import read_file
from bitvit.pipeline import Logits, Model, answers, computing, is_parallel
from bitvit.system import available_threads
from bitvit.version import __version__

__all__ = ["ModelSource", "OnError", "Part", "Progress", "Runner", "fingerprint", "plan"]

ModelSource: TypeAlias = str | os.PathLike[str] | Model
OnError: TypeAlias = Literal["fail", "skip"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
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


# --------------------------------------------------------------------------------------------------- one model's part
@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A model, the images it is to classify, and what has been computed so far.

    Images are taken in a random order, the same every time: class by class, the accuracy so far would say little about
    the whole. Those of files that are read from front to back are taken as they stand.
    """

    classifier: Classifier
    model: str
    sha256: str | None
    dataset: Dataset
    taking: NDArray[np.int64]
    """[B] positions in the data set of the images that take part."""
    targets: NDArray[np.int64]
    """[B] their classes, as columns."""
    columns: NDArray[np.int64] | None
    """Classes to choose among; None: all."""
    names: tuple[str, ...]
    """Of the columns."""
    notes: tuple[str, ...]
    computed: Computed
    """Its logits are [B, columns], in the data's order."""

    def shares_images(self, other: "Part") -> bool:
        """Whether both models take the same images, in the same order and prepared alike."""
        return (
            self.dataset is other.dataset
            and self.classifier.model.preprocessing == other.classifier.model.preprocessing
            and np.array_equal(self.taking, other.taking)
        )

    def path(self, number: int) -> str:
        """Of the image that is taken as this number."""
        return self.dataset.paths[int(self.taking[number])]

    def correct(self, start: int, stop: int) -> int:
        """How many of the images from start to stop, which are through, were answered right."""
        logits, rows = self.computed.logits, self.computed.rows[start:stop]
        answers = np.empty(len(rows), np.int64)
        for part in parts((len(rows), logits.shape[1])):
            answers[part] = logits[rows[part]].argmax(axis=1)
            release(logits)
        right = answers == self.targets[start:stop]
        return int(right.sum()) - sum(bool(right[n - start]) for n in self.computed.failed if start <= n < stop)

    def images(self, numbers: Iterable[int]) -> Iterator[tuple[int, ImageSource]]:
        """Images by their numbers, with their positions in the data set."""
        for number in numbers:
            place = int(self.taking[number])
            yield place, self.dataset.images[place]

    def take(self, batch: list[tuple[Logits, bool] | ImageError], on_error: OnError) -> ImageError | None:
        """Take the answers to a batch of images in, those after the last that is done: the logits, float32 [classes],
        and whether the image's EXIF data calls for a turn; or why it could not be read.

        Returns the error that the evaluation is to stop at; images before it are through. Raises BitvitError for logits
        that are not finite.
        """
        computed, start = self.computed, self.computed.done
        errors = {start + i: item for i, item in enumerate(batch) if isinstance(item, ImageError)}
        first = min(errors) if errors and on_error == "fail" else None
        if first is not None:
            batch = batch[: first - start]
        answers = {start + i: item for i, item in enumerate(batch) if not isinstance(item, ImageError)}
        if answers:
            good = list(answers)
            logits = np.stack([row for row, _ in answers.values()])
            if not np.isfinite(logits).all():
                raise BitvitError(
                    f"{self.model}: its answer to {self.path(good[0])}, or one soon after it, is not finite; the model "
                    "is broken, compare it with its checkpoint by bitvit verify"
                )
            computed.logits[computed.rows[good]] = logits if self.columns is None else logits[:, self.columns]
        if first is None:
            computed.failed.update({number: str(error) for number, error in errors.items()})
        computed.turned += [number for number, (_, turned) in answers.items() if turned]
        computed.done = start + len(batch)
        return None if first is None else errors[first]

    def report(self) -> EvalReport:
        """The figures of all images, which must be through. Raises ImageError if none could be read."""
        failed, order = self.computed.failed, np.argsort(self.computed.rows).tolist()  # the data's order
        kept = [n for n in order if n not in failed]
        if not kept:
            raise ImageError(
                f"{self.dataset.name}: none of the {plural(len(order), 'image')} could be read; the first: "
                f"{failed[order[0]]}"
            )
        logits = self.computed.logits if not failed else _rows_of(self.computed.logits, self.computed.rows[kept])
        targets = self.targets[kept]
        numbers = range(len(self.names)) if self.columns is None else self.columns.tolist()
        return EvalReport(
            **vars(measure(logits, targets, self.names, tuple(numbers))),
            model=self.model,
            model_sha256=self.sha256,
            data=self.dataset.name,
            failures=tuple(Failure(self.path(n), reason) for n in order if (reason := failed.get(n))),
            notes=self.notes,
            turned=tuple(map(self.path, sorted(self.computed.turned))),
            seconds=self.computed.seconds,
            paths=tuple(map(self.path, kept)),
            targets=targets,
            logits=logits,
        )


def _rows_of(array: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """A copy of these rows."""
    copy = zeros((len(rows), array.shape[1]))
    for part in parts(copy.shape):
        copy[part] = array[rows[part]]
        release(array)
        release(copy)
    return copy


def _digest(path: Path) -> str:
    """The sha256 of a model's file; of a bundle, that of its bundle.json. Raises ModelFileError."""
    return hashlib.sha256(read_file(path / MANIFEST if path.is_dir() else path)).hexdigest()


def plan(
    source: ModelSource,
    dataset: Dataset,
    *,
    classes: ClassMap | None = None,
    subset: Sequence[Label] | None = None,
    threads: int | None = None,
    batch_size: int = 16,
    exif: bool = False,
) -> Part:
    """One model's part of an evaluation: its classes matched with the data's, its images chosen and put in order.

    Arguments as for bitvit.evaluate; threads count only for a model given by path. Raises BitvitError, above all
    ConfigError for names that do not match; ValueError for impossible arguments.
    """
    if isinstance(source, str | os.PathLike):
        place = local_path(source)
        classifier = Classifier(place, threads=threads, batch_size=batch_size, exif=exif)
        name, sha256 = spelled(source), _digest(Path(place))
    else:
        classifier = Classifier(source, batch_size=batch_size, exif=exif)
        name, sha256 = type(source).__name__, None
    model, count = classifier.model, classifier.model.config.num_classes
    matching = match_classes(
        [*dataset.labels, *dataset.empty],
        labels=model.labels,
        count=count,
        classes=classes,
        where=f"{name} on {dataset.name}",
        partial=subset is not None,
        folders=dataset.folders,
    )
    columns = _columns(subset, matching, dataset)
    chosen = range(count) if columns is None else columns.tolist()
    wanted = set(chosen)
    pairs = [(i, matching.numbers.get(label, -1)) for i, label in enumerate(dataset.labels)]
    taking = np.array([i for i, number in pairs if number in wanted], np.int64)
    targets = np.array([number for _, number in pairs if number in wanted], np.int64)
    if not len(taking):
        raise ConfigError(f"{dataset.name}: no image of the chosen classes; check --subset (subset=)")
    if len(chosen) < 2:
        raise ConfigError(
            f"{name}: {plural(len(chosen), 'class', 'classes')} to choose from, expected at least two; check --subset "
            "(subset=)"
        )
    count = len(taking)
    order = np.arange(count) if dataset.in_order else np.random.default_rng(0).permutation(count)
    return Part(
        classifier=classifier,
        model=name,
        sha256=sha256,
        dataset=dataset,
        taking=taking[order],
        targets=(targets if columns is None else np.searchsorted(columns, targets))[order],
        columns=columns,
        names=tuple(matching.names[k] for k in chosen),
        notes=_notes(dataset, matching, targets, columns),
        computed=Computed(zeros((len(taking), len(chosen))), rows=order),
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
    dataset: Dataset, matching: Matching, targets: NDArray[np.int64], columns: NDArray[np.int64] | None
) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    count = len(matching.names) if columns is None else len(columns)
    notes = [f"classes are matched by {matching.how}", *dataset.notes]
    if columns is not None:
        notes.append(f"{count} of the model's {len(matching.names)} classes take part: the best of them is taken")
    if left_out := len(dataset) - len(targets):
        unknown = f"; not the model's: {listing(matching.unknown)}" if matching.unknown else ""
        notes.append(f"left out: {plural(left_out, 'image')} of other classes{unknown}")
    if missing := count - len(np.unique(targets)):
        answer = "; an answer with one of them counts as wrong" if columns is None else ""
        notes.append(f"{missing} of {count} classes have no images{answer}")
    return tuple(notes)


def fingerprint(parts: Sequence[Part]) -> str:
    """What must be the same for an evaluation to go on: models, names of images, classes; as hexadecimal digits.

    Raises ValueError for a model that was not given by path: it could not be known again.
    """
    if any(part.sha256 is None for part in parts):
        raise ValueError("state: needs models that are given by path, to know them again")
    digest = hashlib.sha256(__version__.encode())
    for part in parts:
        digest.update(
            f"{part.sha256}\0{part.names}\0{part.columns}\0{part.classifier.exif}\0".encode("utf-8", "surrogateescape")
        )
        digest.update("\0".join(part.dataset.paths).encode("utf-8", "surrogateescape"))
        digest.update(part.taking.tobytes() + part.targets.tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ running
@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs all parts; models that take the same images and prepare them alike share them, decoded once.

    state: where what is done is kept now and then. decoders: threads that work on images at once; None: as many as the
    models may use. progress: called after every batch of every model.
    """

    parts: Sequence[Part]
    state: StateFile
    on_error: OnError
    decoders: int | None
    progress: Callable[[Progress], None] | None

    def run(self) -> None:
        """Compute what is not done yet.

        Raises ImageError for an image that cannot be read, unless on_error is "skip"; BitvitError as Part.compute does.
        """
        groups: list[list[int]] = []  # numbers of parts that share images
        for index, part in enumerate(self.parts):
            group = next((g for g in groups if self.parts[g[0]].shares_images(part)), None)
            if group is None:
                groups.append(group := [])
            group.append(index)
        for group in groups:
            self._run_group(group)

    def _run_group(self, group: list[int]) -> None:
        """Have all of the group's models answer one image after another.

        Resumed, one may have come further than the others, which then catch up first.
        """
        correct = {index: self.parts[index].correct(0, self.parts[index].computed.done) for index in group}
        for index, right in correct.items():
            self._tell(index, right)
        done = [self.parts[index].computed.done for index in group]
        stops = sorted({*done, len(self.parts[group[0]].taking)})
        for start, stop in itertools.pairwise(stops):
            behind = {index: correct[index] for index, own in zip(group, done, strict=True) if own <= start}
            self._run_together(behind, range(start, stop))

    def _run_together(self, correct: dict[int, int], numbers: range) -> None:
        """Have some parts answer the same images. correct: the number of each part, and of its right answers so far."""
        parts = [self.parts[index] for index in correct]
        classifier = parts[0].classifier
        share = _Share([part.computed for part in parts])
        ready = answers(
            [share.timed(computing(part.classifier.model), i) for i, part in enumerate(parts)],
            parts[0].images(numbers),
            share.timed(classifier.prepare),
            tuple,
            parallel=all(is_parallel(part.classifier.model) for part in parts),
            threads=self._threads(parts),
            batch_size=classifier.batch_size,
            kept=True,
        )
        with contextlib.closing(ready):
            while True:
                begin = time.perf_counter()
                if not (batch := list(itertools.islice(ready, classifier.batch_size))):
                    return
                share.add(time.perf_counter() - begin)
                errors = []
                for i, (index, part) in enumerate(zip(correct, parts, strict=True)):
                    before = part.computed.done
                    own = [item if isinstance(item, ImageError) else (item.results[i], item.turned) for item in batch]
                    errors.append(part.take(own, self.on_error))
                    correct[index] += part.correct(before, part.computed.done)
                    self._tell(index, correct[index])
                self.state.save_sometimes()
                if (error := next(filter(None, errors), None)) is not None:
                    raise ImageError(f'{error}; or leave such images out with --on-error skip (on_error="skip")')

    def _threads(self, parts: Sequence[Part]) -> int:
        """How many work on the images of some parts."""
        models = [part.classifier.model for part in parts]
        own = max(getattr(model, "threads", 1) for model in models)
        return self.decoders or (own if all(map(is_parallel, models)) else max(1, min(4, available_threads() // 2)))

    def _tell(self, index: int, correct: int) -> None:
        if self.progress is None:
            return
        part = self.parts[index]
        self.progress(
            Progress(
                model=part.model,
                unit=index,
                units=len(self.parts),
                done=part.computed.done,
                total=len(part.taking),
                correct=correct,
                failed=len(part.computed.failed),
                overall=(sum(p.computed.done for p in self.parts), sum(len(p.taking) for p in self.parts)),
                state=self.state.path,
            )
        )


class _Share:
    """Splits the time that goes by among models that share images: as they compute, and evenly what they share."""

    def __init__(self, parts: Sequence[Computed]) -> None:
        self._parts, self._before = parts, [part.seconds for part in parts]
        self._elapsed, self._spent = 0.0, [0.0] * (len(parts) + 1)
        self._lock = threading.Lock()

    def timed(self, call: Callable[Arguments, Result], number: int = -1) -> Callable[Arguments, Result]:
        """The same function, whose time counts for a model, or, as preparing does, for all."""

        def timed(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            begin = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                seconds = time.perf_counter() - begin
                with self._lock:  # several threads compute
                    self._spent[number] += seconds

        return timed

    def add(self, seconds: float) -> None:
        """So much time has gone by."""
        self._elapsed += seconds
        *own, shared = self._spent
        total, count = sum(self._spent), len(self._parts)
        for part, before, spent in zip(self._parts, self._before, own, strict=True):
            share = (spent + shared / count) / total if total else 1 / count
            part.seconds = before + self._elapsed * share
