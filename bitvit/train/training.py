"""From a folder of images to a packed model: the whole of a training, in a folder where it can go on after a stop.

    prepared = prepare(Request(folder=Path("flowers"), output=Path("flowers.safetensors")))
    outcome = train(prepared)

`prepare` looks at the images, chooses what is not asked for and writes nothing. `train` reads the images, trains a
teacher if the plan has one, then the network, and at last writes the output. Repeating both goes on where it stopped.
"""

import dataclasses
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bitvit import bench
from bitvit.extras import require
from bitvit.files import write_file
from bitvit.messages import listing, plural
from bitvit.train import data as images
from bitvit.train.card import trained_card
from bitvit.train.checkpoint import write_bytes
from bitvit.train.data import DataSet
from bitvit.train.export import Result, measure, pack_network, save_checkpoint, write_json
from bitvit.train.loop import Run, accuracy
from bitvit.train.machine import FixedThreads, ThreadChooser, keep_memory
from bitvit.train.plan import PACKED
from bitvit.train.preparing import Prepared
from bitvit.train.report import write_log
from bitvit.train.results import Page, draw_page
from bitvit.train.settings import Settings, TrainingError
from bitvit.train.start import Start
from bitvit.train.teacher import Teacher, load_teacher

__all__ = ["Listener", "Outcome", "train"]

LEAST_GAIN = 1.5  # times as often right as by chance a teacher must be
MEASURED_SECONDS = 0.5


class Listener:
    """Is told what happens; this one keeps it to itself, and others derive from it."""

    def say(self, text: str) -> None:
        """A line of what is being done."""

    def note(self, text: str) -> None:
        """What a person should know."""

    def reading(self, total: int) -> AbstractContextManager[Callable[[], None]]:  # noqa: ARG002
        """Around the reading of so many images; what it gives is called after each."""
        return nullcontext(lambda: None)

    def training(self, name: str) -> AbstractContextManager[Callable[[Run], None]]:  # noqa: ARG002
        """Around the training of a network of that name; what it gives is called after each step."""
        return nullcontext(lambda _run: None)


@dataclass(frozen=True)
class Outcome:
    """What a training has come to."""

    result: Result
    milliseconds: dict[int, float]
    """Of an image in the engine, the median, by the number of threads."""
    processor: str
    held_out: int
    faults: list[str]
    """What is wrong with images that were left out."""
    files: dict[str, Path] = field(default_factory=dict)


def train(prepared: Prepared, listener: Listener | None = None) -> Outcome:
    """Train, or go on with it, and write the output.

    Raises InterruptedRunError on SIGINT and SIGTERM, with all kept that is done; BitvitError.
    """
    return _Training(prepared, listener or Listener()).run()


@dataclass
class _Training:
    prepared: Prepared
    listener: Listener
    notes: list[str] = field(default_factory=list)
    """For the card."""

    def run(self) -> Outcome:
        require("matplotlib", "the page of results", "train")
        prepared, plan = self.prepared, self.prepared.plan
        folder = prepared.folder.path
        keep_memory()
        if prepared.request.threads:
            torch.set_num_threads(prepared.request.threads)
        if not prepared.resumed:
            prepared.folder.begin(plan)
        data, faults = self.read()
        teacher = self.teacher(data)
        start = None if prepared.start is None else self.start()
        run = self.trained(plan.settings, data, folder, "network", teacher, start)
        self.listener.say("measuring PyTorch, the engine and its speed")
        packed = folder / PACKED
        save_checkpoint(run.best_model, run, folder / "model.safetensors")
        pack_network(run, packed)
        outcome = self.measured(run, packed, faults)
        write_file(prepared.request.output, lambda file: file.write(packed.read_bytes()), TrainingError)
        write_json(folder / "result.json", _told(outcome))
        unfinished = folder.rglob(".bitvit.*")  # of runs that were killed
        for leftover in (packed, folder / "state.pt", folder / "teacher" / "state.pt", *unfinished):
            leftover.unlink(missing_ok=True)
        return outcome

    # ------------------------------------------------------------------------------------------------------- images
    def read(self) -> tuple[DataSet, list[str]]:
        """The images at the network's size. Raises TrainingError if too few of a class can be read."""
        source = self.prepared.source
        with self.listener.reading(len(source.train) + len(source.test)) as done:
            data, faults = images.prepare(
                source, self.prepared.request.folder.resolve().name, self.prepared.preprocessing, done
            )
        if faults:
            place = self.prepared.folder.path / "unreadable.txt"
            write_bytes(place, "".join(f"{fault}\n" for fault in faults).encode(errors="backslashreplace"))
            self.listener.note(
                f"{plural(len(faults), 'image')} of {len(source.train) + len(source.test)} cannot be read and "
                f"{'is' if len(faults) == 1 else 'are'} left out; {place} says why"
            )
        found = torch.bincount(data.train.labels, minlength=len(source.labels))
        missing = [label for label, count in zip(source.labels, found.tolist(), strict=True) if not count]
        if missing:
            raise TrainingError(
                f"{self.prepared.request.folder}: no image to train on can be read of {listing(missing)}: {faults[0]}"
            )
        if not len(data.test):
            raise TrainingError(f"{self.prepared.request.folder}: no held-out image can be read: {faults[0]}")
        start = self.prepared.start
        return data if start is not None and start.preprocessing is not None else images.measured(data), faults

    # ----------------------------------------------------------------------------------------------------- training
    def start(self) -> Start:
        """The weights to begin with; the classifier among them only if it is for these classes."""
        found = self.prepared.start
        assert found is not None
        labels = self.prepared.source.labels
        known = found.labels is None or list(found.labels) == labels
        return found.start if known else found.start.without_head()

    def trained(
        self,
        settings: Settings,
        data: DataSet,
        folder: Path,
        name: str,
        teacher: Teacher | None = None,
        start: Start | None = None,
    ) -> Run:
        """A run that has come to its end."""
        fixed = self.prepared.request.threads
        with self.listener.training(name) as on_step:
            run = Run(
                settings,
                data,
                folder,
                teacher=teacher,
                start=start,
                threads=FixedThreads() if fixed else ThreadChooser(torch.get_num_threads()),
                say=self.listener.say,
                on_step=on_step,
                on_epoch=lambda run: write_log(run.folder / "log.csv", run.log),
            )
            run.train()
        return run

    def teacher(self, data: DataSet) -> Teacher | None:
        """A teacher from a file, or trained here, if it is any good."""
        request, settings = self.prepared.request, self.prepared.plan.teacher
        classes = len(data.labels)
        if request.teacher not in ("auto", "none"):
            return load_teacher(Path(request.teacher), classes)
        if settings is None:
            return None
        folder = self.prepared.folder.path / "teacher"
        run = self.trained(settings, data, folder, "teacher")
        share = accuracy(run.best_model, data.test, data)
        most = float(torch.bincount(data.test.labels).max()) / len(data.test)
        said = f"teacher: {100 * share:.2f} % of the held-out images"
        if share < LEAST_GAIN * most:
            self.notes.append(f"{said}, hardly better than by chance: the network was trained without it")
            self.listener.note(f"{said}, hardly better than by chance: the network is trained without it")
            return None
        self.listener.say(said)
        save_checkpoint(run.best_model, run, folder / "model.safetensors")
        return run.best_model.eval().requires_grad_(False)

    # ------------------------------------------------------------------------------------------------------ results
    def measured(self, run: Run, packed: Path, faults: list[str]) -> Outcome:
        """Accuracy and speed, with the page and the card that tell of them."""
        request, folder, data = self.prepared.request, self.prepared.folder.path, run.data
        result, logits = measure(run, packed)
        assert logits is not None
        report = bench.measure(packed, batch_sizes=[1], seconds=MEASURED_SECONDS, startup=False, threads=_threads())
        outcome = Outcome(
            result=result,
            milliseconds={one.threads: one.p50_ms for one in report.results},
            processor=report.environment.cpu,
            held_out=len(data.test),
            faults=faults,
            files={"model": request.output, "run": folder},
        )
        if faults:
            self.notes.append(f"{plural(len(faults), 'image')} could not be read and took no part.")
        page = Page(
            title=request.output.stem,
            facts=outcome_facts(outcome, run),
            log=run.log,
            labels=data.labels,
            pixels=data.test.pixels.numpy(),
            targets=data.test.labels.numpy(),
            logits=logits,
        )
        draw_page(folder / "results.png", page)
        named = ("--config", "--from", "--teacher")  # without the folders of this machine
        options = [
            part for name, value in request.options() for part in (name, Path(value).name if name in named else value)
        ]
        command = shlex.join(["bitvit", "train", request.folder.name, "-o", request.output.name, *options])
        card = trained_card(run, result, packed, request.output.name, command, self.notes)
        write_bytes(folder / "README.md", card.encode())
        return outcome


def outcome_facts(outcome: Outcome, run: Run) -> list[tuple[str, str]]:
    """Figures with their names, for the page."""
    result, settings = outcome.result, run.settings
    network = settings.network
    return [
        (
            "top-1",
            f"{result.top1_bitvit:.2f} % by bitvit, {result.top1_pytorch:.2f} % by PyTorch in float32, of "
            f"{plural(outcome.held_out, 'held-out image')}; {result.same_predictions} predictions are the same",
        ),
        ("speed", f"{speed_text(outcome.milliseconds)} an image, on {outcome.processor}"),
        ("size", f"{(result.bytes or 0) / 1e6:.2f} MB; {result.parameters / 1e6:.2f} M parameters"),
        (
            "network",
            f"{network.image_size} px, window {network.window_size}, widths {' '.join(map(str, network.widths))}, "
            f"depths {' '.join(map(str, network.depths))}",
        ),
        (
            "training",
            f"{len(run.train_split)} images, {run.epochs:.0f} epochs in {result.minutes:.1f} minutes, "
            f"{'with a teacher' if run.taught else 'without a teacher'}",
        ),
    ]


def speed_text(milliseconds: dict[int, float]) -> str:
    """'1.20 ms with 1 thread, 0.70 ms with 2 threads'."""
    return ", ".join(f"{ms:.2f} ms with {plural(count, 'thread')}" for count, ms in milliseconds.items())


def _threads() -> list[int]:
    from bitvit.system import available_threads

    return sorted({1, available_threads()})


def _told(outcome: Outcome) -> dict[str, object]:
    """What result.json holds."""
    return {
        **dataclasses.asdict(outcome.result),
        "held_out": outcome.held_out,
        "unreadable": len(outcome.faults),
        "milliseconds": {str(count): round(ms, 3) for count, ms in outcome.milliseconds.items()},
        "processor": outcome.processor,
    }
