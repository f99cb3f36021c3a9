"""The training loop: one run from settings to a trained network, resumable after any step.

Nothing random is carried from step to step: order and variants of the images are functions of seed and epoch
(augment.py), rate and β of the step (schedule.py), and what a step draws it draws from a seed of its own. What a run
must remember is the network, the optimiser's moments, the average, the flips, the teacher's answers so far and the
log; checkpoint.py keeps it. A run that was stopped and resumed therefore ends, on one machine, with the same bits as
one that was not.
"""

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.train import losses, schedule
from bitvit.train.augment import Variants, generator, mixup, normalise
from bitvit.train.checkpoint import load_state, load_weights, save_state
from bitvit.train.data import DataSet, Split
from bitvit.train.layers import Options
from bitvit.train.machine import FixedThreads, ThreadChooser
from bitvit.train.network import BHViT
from bitvit.train.optimizers import build_optimizer
from bitvit.train.oscillation import FlipCounter
from bitvit.train.settings import Settings, TrainingError
from bitvit.train.start import Start, calibrate
from bitvit.train.teacher import ResidualNetwork, Teacher

__all__ = ["InterruptedRunError", "Run", "accuracy", "build", "duration", "predictions"]

EVALUATION_BATCH = 250
CALIBRATED = 256  # images that the norms of a start without statistics are measured on
RECKON_AFTER = 20  # steps of an epoch, after which it is reckoned how many fit into the minutes
Row = dict[str, float]


class InterruptedRunError(TrainingError):
    """The run was asked to stop, and saved its state."""


def build(settings: Settings, num_classes: int) -> nn.Module:
    """The network of the settings, with first parameters that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = settings.network
        if network.kind == "teacher":
            return ResidualNetwork(network, num_classes).to(memory_format=torch.channels_last)
        return BHViT(network.config(num_classes), Options(network.recu, network.attention_levels, settings.drop_path))


@dataclass
class Run:
    """A training run in a folder; `train` begins or resumes it."""

    settings: Settings
    data: DataSet
    folder: Path
    teacher: Teacher | None = None
    start: Start | None = None
    """What the network begins with; None: random weights."""
    device: str = "cpu"
    save_seconds: float = 240.0
    threads: FixedThreads | ThreadChooser = field(default_factory=FixedThreads)
    say: Callable[[str], None] = print
    on_step: Callable[["Run"], None] = lambda _run: None
    on_epoch: Callable[["Run"], None] = lambda _run: None
    stop_after: int | None = None
    """Stop, as if interrupted, after this step; for tests."""
    step: int = 0
    seconds: float = 0.0
    log: list[Row] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Of the epoch's losses so far, with how many of each there were."""

    def __post_init__(self) -> None:
        self.train_split = self.data.train.first(self.settings.train_limit)
        self.per_epoch = len(self.train_split) // self.settings.batch_size
        if not self.per_epoch:
            raise TrainingError(
                f"batch_size {self.settings.batch_size}: the training split has only {len(self.train_split)} images"
            )
        self.most_steps = self.per_epoch * self.settings.epochs
        self.steps = self.most_steps
        self.model = build(self.settings, len(self.data.labels))
        if self.start is not None:
            load_weights(self.model, self.start.state, self.start.name)
        self.model.to(self.device)
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(self.device)
        self.optimizer = build_optimizer(self.model, self.settings)
        self.flips = FlipCounter(self.model)
        self.average = _copy(self.model) if self.settings.ema else None
        self.answers = self._no_answers()
        self._resume()

    # -------------------------------------------------------------------------------------------------- the steps

    def train(self) -> None:
        """Train from where the run stands to its end.

        Raises InterruptedRunError on SIGINT and SIGTERM, its state saved.
        """
        if self.step == 0 and isinstance(self.model, BHViT):
            self._begin(self.model)
        saved = spoken = time.monotonic()
        with _stop_requests() as stop:
            while self.step < self.steps:
                epoch, first = divmod(self.step, self.per_epoch)
                variants = self._variants(epoch)
                for index in self._batches(epoch, first):
                    start = time.monotonic()
                    self._add(self._train_step(index, epoch, variants))
                    now = time.monotonic()
                    self.seconds += now - start
                    self.threads.after_step(now - start)
                    if self.settings.minutes and self.step % self.per_epoch == min(RECKON_AFTER, self.per_epoch - 1):
                        self._reckon()
                    if now - spoken > 15 or self.step == 1:
                        self.say(self._progress(epoch))
                        spoken = now
                    self.on_step(self)
                    ended = self.step % self.per_epoch == 0 or self.step >= self.steps
                    if ended:
                        self._end_epoch()
                    asked = bool(stop) or self.step == self.stop_after
                    if ended or asked or now - saved > self.save_seconds:
                        self.save()
                        saved = time.monotonic()
                    if asked and self.step < self.steps:
                        raise InterruptedRunError(
                            f"stopped after step {self.step}; repeat the command to go on from there"
                        )
                    if ended:
                        break

    def _begin(self, model: BHViT) -> None:
        """What the first images tell: statistics of a start that has none, else the quantizers' first steps."""
        if self.start is not None and not self.start.calibrated:
            count = min(CALIBRATED, len(self.train_split))
            order = torch.randperm(len(self.train_split), generator=generator(self.settings.seed, 4))[:count]
            calibrate(model, self._batch(order, self._variants(0))[0])
        elif self.start is None:
            pixels, _ = self._batch(next(self._batches(0, 0)), self._variants(0))
            torch.manual_seed(generator(self.settings.seed, 4).initial_seed())
            model.initialise(pixels)

    def _reckon(self) -> None:
        """How many steps fit into the minutes at the speed so far."""
        left = 60 * self.settings.minutes - self.seconds
        more = int(left / (self.seconds / self.step)) if left > 0 else 0
        self.steps = min(self.most_steps, self.step + max(more, 1))

    def _train_step(self, index: Tensor, epoch: int, variants: Variants) -> Row:
        settings, rate = self.settings, schedule.learning_rate(self.settings, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pixels, labels = self._batch(index, variants)
        if settings.mixup or settings.drop_path:
            torch.manual_seed(generator(settings.seed, 3, self.step).initial_seed())
        if settings.mixup:
            pixels, labels = mixup(pixels, functional.one_hot(labels, len(self.data.labels)), settings.mixup)
        taught = self._teach(pixels, index, epoch)
        self.model.train()
        with self._precision():
            logits = self.model(pixels)
        task = losses.task(logits, labels, settings.label_smoothing)
        loss, row = task, {"task": task}
        if taught is not None:
            row["distillation"] = losses.distillation(logits, taught)
            loss = (1 - settings.distillation) * task + settings.distillation * row["distillation"]
        beta = schedule.regulariser(settings, self.step, self.steps)
        if beta and settings.network.kind == "bhvit":
            row["oscillation"] = losses.oscillation(self.model)
            loss = loss + beta * row["oscillation"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.flips.update()
        self.step += 1
        if self.average is not None:
            _follow(self.average, self.model, min(settings.ema, self.step / (self.step + 10)))
        values = {name: float(value.detach()) for name, value in row.items()}
        if not all(abs(value) < 1e9 for value in values.values()):
            raise TrainingError(f"step {self.step}: the loss is {values}; try a lower learning_rate")
        return values

    def _teach(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor | None:
        """The teacher's logits for a batch; from memory, if it has seen this view of the images before."""
        if self.teacher is None:
            return None
        if self.answers is None:
            with torch.no_grad(), self._precision():
                return self.teacher(pixels)
        view = self.answers[epoch % self.settings.views]
        if bool(view[index].isnan().any()):
            with torch.no_grad(), self._precision():
                view[index] = self.teacher(pixels).float().cpu()
        return view[index].to(self.device)

    def _no_answers(self) -> Tensor | None:
        if self.teacher is None or not self.settings.views:
            return None
        return torch.full((self.settings.views, len(self.train_split), len(self.data.labels)), torch.nan)

    def _precision(self) -> Any:
        enabled = self.settings.precision == "bfloat16"
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled)

    # -------------------------------------------------------------------------------------------------- images

    def _batches(self, epoch: int, first: int) -> Iterator[Tensor]:
        """Indices of the epoch's batches from number `first` on; the images left over wait for another epoch."""
        count, size = len(self.train_split), self.settings.batch_size
        order = torch.randperm(count, generator=generator(self.settings.seed, 1, epoch))
        for k in range(first, self.per_epoch):
            yield order[k * size : (k + 1) * size]

    def _variants(self, epoch: int) -> Variants:
        view = epoch % self.settings.views if self.settings.views else epoch
        return Variants.draw(self.settings.augment, len(self.train_split), self.settings.seed, 2, view)

    def _batch(self, index: Tensor, variants: Variants) -> tuple[Tensor, Tensor]:
        pixels = variants(self.train_split.pixels, index).to(self.device)
        way = self.data.preprocessing
        return normalise(pixels, way.mean, way.std), self.train_split.labels[index].to(self.device)

    # -------------------------------------------------------------------------------------------------- epochs

    def _add(self, row: Row) -> None:
        for name, value in row.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    @property
    def losses(self) -> Row:
        """The terms of the loss, their means of the epoch so far."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    def _end_epoch(self) -> None:
        """Log an epoch, or as much of the last one as there was time for."""
        start = time.monotonic()
        done, rest = divmod(self.step, self.per_epoch)
        last = self.step >= self.steps
        row: Row = {"epoch": done + round(rest / self.per_epoch, 2), "step": self.step}
        row |= {"seconds": round(self.seconds, 1), **self.losses}
        self.sums = {}
        row["learning_rate"] = schedule.learning_rate(self.settings, self.step - 1, self.steps)
        if self.flips.weights:
            row["flips"] = self.flips.share(self.settings.flip_window)
        if last or (not rest and done % self.settings.eval_every == 0):
            row["top1"] = 100 * accuracy(self.best_model, self.data.test, self.data, self.device)
        self.log.append(row)
        self.say(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if self.settings.minutes and not last:
            self.seconds += time.monotonic() - start
            self._reckon()
        self.on_epoch(self)

    @property
    def best_model(self) -> nn.Module:
        """What is evaluated and exported: the average if there is one, else the network itself."""
        return self.model if self.average is None else self.average

    @property
    def epochs(self) -> float:
        """How often each image was seen so far."""
        return self.step / self.per_epoch

    @property
    def taught(self) -> bool:
        return self.teacher is not None

    @property
    def made_with(self) -> str:
        return f"PyTorch {torch.__version__}"

    @property
    def seconds_left(self) -> float:
        """Until the end, at the speed so far."""
        return self.seconds / max(self.step, 1) * (self.steps - self.step)

    def _progress(self, epoch: int) -> str:
        each = self.seconds / max(self.step, 1)
        means = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        return (
            f"epoch {epoch + 1}/{-(-self.steps // self.per_epoch)}, step {self.step}/{self.steps}, {means}, "
            f"{1e3 * each / self.settings.batch_size:.2f} ms an image, {duration(self.seconds_left)} left"
        )

    # -------------------------------------------------------------------------------------------------- on the disk

    @property
    def _path(self) -> Path:
        return self.folder / "state.pt"

    @property
    def _digest(self) -> str:
        started = " started" if self.start is not None else ""
        return f"{self.settings.digest()} {self.data.name} {self.teacher is not None}{started}"

    def save(self) -> None:
        """Everything that the rest of the run depends on."""
        state: dict[str, Any] = {
            "digest": self._digest,
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "log": self.log,
            "sums": self.sums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "flips": self.flips.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.answers is not None:
            state["answers"] = self.answers
        save_state(self._path, state)

    def _resume(self) -> None:
        state = load_state(self._path, self._digest)
        if state is None:
            return
        self.step, self.seconds, self.log, self.sums = (state[name] for name in ("step", "seconds", "log", "sums"))
        self.steps = state.get("steps", self.most_steps)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.flips.load_state_dict(state["flips"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.answers is not None:
            self.answers = state["answers"]
        self.say(f"resumed after step {self.step} of {self.steps}")


@torch.no_grad()
def predictions(model: nn.Module, split: Split, data: DataSet, device: str = "cpu") -> Tensor:
    """Logits [N, L] of a split, in evaluation mode and float32."""
    model.eval()
    way = data.preprocessing
    parts = split.pixels.split(EVALUATION_BATCH)
    return torch.cat([model(normalise(part.to(device), way.mean, way.std)).cpu() for part in parts])


def accuracy(model: nn.Module, split: Split, data: DataSet, device: str = "cpu") -> float:
    """Share of a split's images whose highest logit is their label's."""
    return float((predictions(model, split, data, device).argmax(1) == split.labels).float().mean())


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an average's parameters and running statistics a little towards a model's."""
    own = average.state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            own[name].lerp_(value, 1 - decay)
        else:
            own[name].copy_(value)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM arrives, instead of the process ending there and then."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _frame: received.append(got)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
