"""The work of an evaluation: each model's part, and the runner that decodes images and has the models compute them."""

import contextlib
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitvit.classify import Classifier, Model, Prepared
from bitvit.errors import BitvitError, ConfigError, ImageError
from bitvit.evaluation.classes import ClassMap, Label, Matching, find_classes, match_classes
from bitvit.evaluation.dataset import Dataset
from bitvit.evaluation.metrics import measure
from bitvit.evaluation.prefetch import prefetch
from bitvit.evaluation.report import EvalReport, Failure
from bitvit.evaluation.state import Computed, StateFile
from bitvit.messages import listing, plural
from bitvit.sources import is_file
from bitvit.version import __version__

__all__ = ["ModelSource", "OnError", "Part", "Progress", "Runner", "fingerprint", "plan"]

ModelSource: TypeAlias = str | os.PathLike[str] | Model
OnError: TypeAlias = Literal["fail", "skip"]

_one_file = threading.Lock()  # open files are read by one thread at a time: members of an archive share its place


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
    the whole.
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
        right = self.computed.logits[self.computed.rows[start:stop]].argmax(axis=1) == self.targets[start:stop]
        return int(right.sum()) - sum(bool(right[n - start]) for n in self.computed.failed if start <= n < stop)

    def prepare(self, number: int) -> Prepared | ImageError:
        """Decode an image; called from other threads."""
        place = int(self.taking[number])
        image = self.dataset.images[place]
        with _one_file if is_file(image) else contextlib.nullcontext():
            return self.classifier.prepare(place, image)

    def compute(self, batch: list[Prepared | ImageError], on_error: OnError) -> ImageError | None:
        """Take a batch of prepared images in: those after the last that is done.

        Returns the error that the evaluation is to stop at; images before it are through. Raises BitvitError for logits
        that are not finite.
        """
        computed, start = self.computed, self.computed.done
        errors = {start + i: item for i, item in enumerate(batch) if isinstance(item, ImageError)}
        first = min(errors) if errors and on_error == "fail" else None
        if first is not None:
            batch = batch[: first - start]
        pixels = {start + i: item for i, item in enumerate(batch) if not isinstance(item, ImageError)}
        if pixels:
            good = list(pixels)
            logits = self.classifier.model(np.stack([item.pixels for item in pixels.values()]))
            if not np.isfinite(logits).all():
                raise BitvitError(
                    f"{self.model}: its answer to {self.path(good[0])}, or one soon after it, is not finite; the model "
                    "is broken, compare it with its checkpoint by bitvit verify"
                )
            computed.logits[computed.rows[good]] = logits if self.columns is None else logits[:, self.columns]
        if first is None:
            computed.failed.update({number: str(error) for number, error in errors.items()})
        computed.turned += [number for number, item in pixels.items() if item.turned]
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
        # Without failures they are the very array: it may take half of the memory.
        logits = self.computed.logits if not failed else self.computed.logits[self.computed.rows[kept]]
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
        classifier = Classifier(source, threads=threads, batch_size=batch_size, exif=exif)
        name, sha256 = os.fspath(source), hashlib.sha256(Path(source).read_bytes()).hexdigest()
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
    order = np.random.default_rng(0).permutation(len(taking))
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
        computed=Computed(np.zeros((len(taking), len(chosen)), np.float32), rows=order),
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

    state: where what is done is kept now and then. decoders: threads that decode images meanwhile. progress: called
    after every batch of every model.
    """

    parts: Sequence[Part]
    state: StateFile
    on_error: OnError
    decoders: int
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
        """Decode one batch of images after another, and let each of the group's models compute it."""
        parts = [self.parts[index] for index in group]
        correct = [part.correct(0, part.computed.done) for part in parts]
        for index, right in zip(group, correct, strict=True):
            self._tell(index, right)
        size = parts[0].classifier.batch_size
        start = min(part.computed.done for part in parts)
        numbers = range(start, len(parts[0].taking))
        ready = prefetch(parts[0].prepare, numbers, workers=self.decoders, ahead=2 * size + self.decoders)
        with contextlib.closing(ready):
            while True:
                begin = time.perf_counter()
                batch = list(itertools.islice(ready, size))
                waited = (time.perf_counter() - begin) / len(parts)
                if not batch:
                    return
                errors = []
                for place, (index, part) in enumerate(zip(group, parts, strict=True)):
                    before = part.computed.done
                    if before >= start + len(batch):
                        continue  # resumed, it had come further than the others
                    begin = time.perf_counter()
                    errors.append(part.compute(batch[before - start :], self.on_error))
                    part.computed.seconds += waited + time.perf_counter() - begin
                    correct[place] += part.correct(before, part.computed.done)
                    self._tell(index, correct[place])
                start += len(batch)
                self.state.save_sometimes()
                if (error := next(filter(None, errors), None)) is not None:
                    raise ImageError(f'{error}; or leave such images out with --on-error skip (on_error="skip")')

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
