"""Training by the clock, for a GPU that is there for minutes: the schedule ends when the time does.

Images and their variants stay on the GPU, products run in bfloat16 if the settings say so, and nothing in a step waits
for a result: losses are added up on the GPU and read every few seconds. What is kept at the end, and at every report,
is the average of the parameters with statistics of its norms that are measured anew, in float32.
"""

import copy
import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.train import losses, schedule
from bitvit.train.augment import Variants, generator, mixup, normalise
from bitvit.train.data import DataSet
from bitvit.train.layers import TokenMixer
from bitvit.train.loop import accuracy
from bitvit.train.network import BHViT
from bitvit.train.optimizers import Average, build_optimizer
from bitvit.train.settings import Settings
from bitvit.train.teacher import Teacher

__all__ = ["Images", "TimedRun"]

AHEAD = 2  # steps that are queued on a GPU at most, so that the clock tells how far it is
MEASURED = 10000  # images that the norms' statistics are measured on
MEASURED_BATCH = 500
SPAN = 1000.0  # what the schedule takes for the number of all steps, so that its first rate is not nothing
LARGEST_LOSS = 1e3  # beyond it, or not a number, a run has diverged


@dataclass(frozen=True)
class Images:
    """Training images where they are used: pixels uint8 [N, S, S, 3], labels int64 [N], mean and std float32 [3]."""

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, data: DataSet, device: str, limit: int = 0) -> "Images":
        split, way = data.train.first(limit), data.preprocessing
        mean, std = (torch.tensor(values, device=device) for values in (way.mean, way.std))
        return cls(split.pixels.to(device), split.labels.to(device), mean, std)


class TimedRun:
    """One network in training. `prepare` first, then `train`; `best` is what it has learnt."""

    def __init__(
        self, settings: Settings, model: nn.Module, images: Images, teacher: Teacher | None, say: Callable[[str], None]
    ) -> None:
        self.settings, self.model, self.images, self.teacher, self.say = settings, model, images, teacher, say
        self.device = images.pixels.device.type
        self.classes: int = model.classifier.out_features
        self.optimizer = build_optimizer(model, settings)
        self.average = Average(model, settings.ema)
        self.twin = copy.deepcopy(model).requires_grad_(False)
        self.steps, self.slower, self.report_seconds = 0, 1.0, 5.0
        self.batches = self._batches()
        self.sums = torch.zeros(3, device=self.device)  # task, distillation, regulariser since the last report
        self.queued: deque[torch.cuda.Event] = deque()

    # -------------------------------------------------------------------------------------------------- preparation

    def prepare(self) -> None:
        """The attention's first steps, and on a GPU the faster kind of the grouped convolutions."""
        if isinstance(self.model, BHViT):
            index, variants = next(self.batches)
            self.model.initialise(normalise(variants(self.images.pixels, index), self.images.mean, self.images.std))
        if self.device == "cuda":
            mixers = [module for module in self.model.modules() if isinstance(module, TokenMixer)]
            one_each = {len(mixer.cov1.weight): mixer for mixer in mixers}
            faster = {width: self._dense_is_faster(mixer) for width, mixer in one_each.items()}
            for mixer in mixers:
                _set_dense(mixer, faster[len(mixer.cov1.weight)])

    def compile(self) -> None:
        """Let PyTorch compile each block, and what is between them; it happens in the next step."""
        assert isinstance(self.model, BHViT)
        encoder = self.model.vit.encoder
        downsampling = [encoder.patch_embed1, encoder.patch_embed2, encoder.patch_embed3]
        for part in [self.model.vit.embeddings, *encoder.layerA, *encoder.layerB, *downsampling]:
            part.compile(dynamic=False)

    def rate(self, steps: int) -> float:
        """Images a second, of real training steps at the beginning of the schedule, after two that do not count."""
        self.model.train()
        for number in range(steps + 2):
            if number == 2:
                self._wait()
                start = time.monotonic()
            self._step(0.0)
        self._wait()
        return steps * self.settings.batch_size / (time.monotonic() - start)

    def _dense_is_faster(self, mixer: TokenMixer) -> bool:
        """Whether dense convolutions take clearly less time, forwards and backwards, on maps of this network's size."""
        config, width = self.model.config, len(mixer.cov1.weight)
        side = config.map_sides[config.hidden_sizes.index(width)]
        bits = torch.randn(self.settings.batch_size, side, side, width, device=self.device).sign()
        bits = bits.to(torch.bfloat16 if self.settings.precision == "bfloat16" else torch.float32).requires_grad_()
        taken = {}
        for dense in (False, True):
            _set_dense(mixer, dense)
            for number in range(8):
                if number == 3:
                    self._wait()
                    start = time.monotonic()
                with self._precision():
                    y = mixer.cov1(bits) + mixer.cov2(bits) + mixer.cov3(bits)
                torch.autograd.grad(y.float().sum(), [bits, mixer.cov1.weight, mixer.cov2.weight, mixer.cov3.weight])
            self._wait()
            taken[dense] = time.monotonic() - start
        self.say(f"width {width}: grouped {taken[False] / 5e-3:.2f} ms, dense {taken[True] / 5e-3:.2f} ms")
        return taken[True] < 0.9 * taken[False]

    # ------------------------------------------------------------------------------------------------------ training

    def train(self, end: float, every: float = math.inf, keep: Callable[[float], None] = lambda _done: None) -> None:
        """Train until `end` of time.monotonic(); call keep(share done) every so many seconds."""
        self.model.train()
        start = reported = kept = time.monotonic()
        reported_steps = self.steps
        self.sums.zero_()
        good = self._state()
        while (now := time.monotonic()) < end:
            done = (now - start) / (end - start)
            self._step(done)
            if now - reported < self.report_seconds:
                continue
            means = [value / (self.steps - reported_steps) for value in self.sums.tolist()]
            now = time.monotonic()
            speed = (self.steps - reported_steps) * self.settings.batch_size / (now - reported)
            self.say(
                f"{100 * done:5.1f} %, epoch {self.epochs:.1f}, {speed:.0f} images/s, task {means[0]:.4f}, "
                f"distillation {means[1]:.4f}, regulariser {means[2]:.4f}"
            )
            self.sums.zero_()
            reported, reported_steps = now, self.steps
            finite = torch.stack([value.isfinite().all() for value in self.average.values]).all()
            if finite and all(abs(mean) < LARGEST_LOSS for mean in means):
                good = self._state()
            else:
                self._restore(good)
                self.slower /= 2
                self.say(f"diverged: back to the last report's weights, learning rate times {self.slower:g}")
            if now - kept > every:
                keep(done)
                reported = kept = time.monotonic()

    @property
    def epochs(self) -> float:
        """How often each image was seen, on average."""
        return self.steps * self.settings.batch_size / len(self.images.labels)

    def _step(self, done: float) -> None:
        settings, images = self.settings, self.images
        for group in self.optimizer.param_groups:
            group["lr"] = self.slower * schedule.learning_rate(settings, done * SPAN, SPAN)
        index, variants = next(self.batches)
        pixels = normalise(variants(images.pixels, index), images.mean, images.std)
        labels = images.labels[index]
        if settings.mixup:
            pixels, labels = mixup(pixels, functional.one_hot(labels, self.classes), settings.mixup)
        with self._precision():
            logits = self.model(pixels)
        loss = task = losses.task(logits, labels, settings.label_smoothing)
        distillation = regulariser = torch.zeros_like(task)
        if self.teacher is not None:
            with torch.no_grad(), self._precision():
                taught = self.teacher(pixels)
            distillation = losses.distillation(logits, taught)
            loss = (1 - settings.distillation) * task + settings.distillation * distillation
        beta = schedule.regulariser(settings, done * SPAN, SPAN)
        if beta and isinstance(self.model, BHViT):
            regulariser = losses.oscillation(self.model)
            loss = loss + beta * regulariser
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update()
        self.sums += torch.stack([task, distillation, regulariser]).detach()
        self.steps += 1
        if self.device == "cuda":
            self.queued.append(torch.cuda.Event())
            self.queued[-1].record()
            if len(self.queued) > AHEAD:
                self.queued.popleft().synchronize()

    def _batches(self) -> Iterator[tuple[Tensor, Variants]]:
        """Indices of batches, with the variants of their epoch; without end."""
        settings, count = self.settings, len(self.images.labels)
        size = min(settings.batch_size, count)
        for epoch in itertools.count():
            order = torch.randperm(count, generator=generator(settings.seed, 1, epoch)).to(self.device)
            variants = Variants.draw(settings.augment, count, settings.seed, 2, epoch, device=self.device)
            for index in order[: count // size * size].view(-1, size):
                yield index, variants

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, self.settings.precision == "bfloat16")

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, object], list[Tensor]]:
        parts = self.model.state_dict(), self.optimizer.state_dict(), self.average.values
        return copy.deepcopy(parts)

    def _restore(self, state: tuple[dict[str, Tensor], dict[str, object], list[Tensor]]) -> None:
        model, optimizer, average = copy.deepcopy(state)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.average.values = average

    # ------------------------------------------------------------------------------------------------------- results

    @torch.no_grad()
    def best(self) -> nn.Module:
        """The averaged network in evaluation mode; its norms' statistics are those of some training images."""
        twin, images = self.twin, self.images
        twin.load_state_dict(self.model.state_dict())
        for own, value in zip(twin.parameters(), self.average.values, strict=True):
            own.copy_(value)
        norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        twin.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean of all batches
        count = min(MEASURED, len(images.labels))
        order = torch.randperm(len(images.labels), generator=generator(self.settings.seed, 5))[:count]
        whole = dataclasses.replace(self.settings.augment, cutout=0)
        variants = Variants.draw(whole, len(images.labels), self.settings.seed, 6, device=self.device)
        for index in order.to(self.device).split(MEASURED_BATCH):
            twin(normalise(variants(images.pixels, index), images.mean, images.std))
        for norm in norms:
            norm.momentum = 0.1
        return twin.eval()

    def top1(self, data: DataSet) -> float:
        """Of `best`, on the test split, in percent."""
        search = torch.backends.cudnn.benchmark  # for the best algorithms, which a few batches are not worth
        torch.backends.cudnn.benchmark = False
        try:
            return 100 * accuracy(self.best(), data.test, data, self.device)
        finally:
            torch.backends.cudnn.benchmark = search


def _set_dense(mixer: TokenMixer, dense: bool) -> None:
    for convolution in (mixer.cov1, mixer.cov2, mixer.cov3):
        convolution.dense = dense
