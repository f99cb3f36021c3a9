"""Which network, and how long: chosen from the images' sizes and count, the minutes, and the speed of this machine.

    size      as large as the images, within what the minutes allow: there must be time for enough epochs
    width     32 for a few images, more for many, as long as that leaves time too
    epochs    at most MOST_EPOCHS; with minutes, as many as they hold
    variants  shifts by an eighth, mirror images unless the classes are signs that it would turn into others

Needs no PyTorch: how fast a network trains here is asked of the caller.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bitvit.config import valid_windows
from bitvit.train.settings import Augment, Network, Settings, TrainingError

__all__ = [
    "MINUTES",
    "MOST_EPOCHS",
    "TEACHER_SHARE",
    "Facts",
    "Wishes",
    "choose",
    "choose_teacher",
    "needed_epochs",
    "network_fields",
    "resolution",
]

MINUTES = 10.0
"""Of a training, if neither minutes nor epochs are asked for."""
MOST_EPOCHS = 300
SIZES = (32, 48, 64, 96, 128, 160, 192, 224)
SMALL = 40  # pixels of an image that has been made small: an icon, a digit, one of CIFAR's
LEAST_DETAIL = 64  # pixels that a photograph keeps: with 32 px a network learnt its colours by heart, and no pattern
LARGEST_WINDOW = 7
TEACHER_SHARE = 0.2  # of the minutes
TEACHER_EPOCHS = 60
LEAST_TEACHER_EPOCHS = 8
MIRRORED = frozenset({"left", "right"})  # classes with such a word are not to be mirrored

Speed = Callable[[Settings], float]
"""Seconds that a training step takes for one image."""


@dataclass(frozen=True)
class Facts:
    """What is known of the images."""

    images: int
    """To train on."""
    labels: Sequence[str]
    side: int
    """The shorter side of a typical image, in pixels."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for; None: to be chosen."""

    size: int | None = None
    window: int | None = None
    width: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    minutes: float | None = None
    seed: int = 0


def resolution(side: int) -> int:
    """The largest input that images of this side are worth: their own size, or twice that of small ones.

    The stem looks at patches of 4 x 4 pixels, so that images of 32 pixels tell more when they are enlarged.
    """
    most = 2 * side if side <= SMALL else side
    return max((size for size in SIZES if size <= most), default=SIZES[0])


def network_fields(size: int, window: int | None, width: int) -> dict[str, Any]:
    """The fields of a Network of this size: each stage is twice as wide as the one before. Raises TrainingError."""
    if width < 8 or width % 8:
        raise TrainingError(f"--width {width}: expected a multiple of 8, the number of the first stage's channels")
    widths = [width << stage for stage in range(4)]
    windows = [w for w in valid_windows(size) if w <= LARGEST_WINDOW]
    return {
        "image_size": size,
        "window_size": window or max(windows, default=1),
        "widths": widths,
        "heads": [1, 1, max(1, widths[2] // 64), max(1, widths[3] // 64)],
    }


def needed_epochs(images: int) -> float:
    """How often a set of this size should be seen at least: sixty times a thousand images, 20 times 10,000."""
    return min(60.0, max(12.0, 2000 / math.sqrt(images)))


def choose(facts: Facts, wishes: Wishes, speed: Speed, precision: str = "float32") -> Settings:
    """The settings for a set of images. speed is asked only where size or width are to be chosen.

    With epochs in place of minutes they are chosen as for MINUTES, which they may take more of.
    """
    minutes = None if wishes.epochs is not None and wishes.minutes is None else wishes.minutes or MINUTES
    settings = [
        replace(_settings(facts, wishes, size, width, minutes), precision=precision)
        for size, width in _candidates(facts, wishes)
    ]
    wanted = min(needed_epochs(facts.images), wishes.epochs or math.inf)
    for candidate in settings[:-1]:
        if 60 * (minutes or MINUTES) / (speed(candidate) * facts.images) >= wanted:
            return candidate
    return settings[-1]


def _candidates(facts: Facts, wishes: Wishes) -> list[tuple[int, int]]:
    """Sizes and widths, the best first: pixels go before channels, but photographs keep LEAST_DETAIL of them."""
    largest = resolution(facts.side)
    sizes = (
        [wishes.size] if wishes.size else [size for size in reversed(SIZES) if size <= largest and valid_windows(size)]
    )
    full = 32 if facts.images < 4000 else 48 if facts.images < 20000 else 64
    widths = [wishes.width] if wishes.width else [full, *(narrow for narrow in (48, 32, 16) if narrow < full)]
    least = LEAST_DETAIL if facts.side > SMALL else 0
    fine = [size for size in sizes if size >= least] or sizes[:1]
    return [(size, widths[0]) for size in fine] + [(fine[-1], width) for width in widths[1:]]


def _settings(facts: Facts, wishes: Wishes, size: int, width: int, minutes: float | None) -> Settings:
    network = Network(**_tuples(network_fields(size, wishes.window, width)))
    batch = wishes.batch_size or (128 if facts.images >= 8000 else 64 if facts.images >= 640 else 16)
    epochs = wishes.epochs or MOST_EPOCHS
    return Settings(
        network=network,
        augment=augment_for(facts, size),
        epochs=epochs,
        minutes=minutes or 0.0,
        batch_size=min(batch, facts.images),
        learning_rate=3e-3 if width < 64 else 2e-3,
        warmup=0.05,
        views=0,
        eval_every=max(1, epochs // 60),
        seed=wishes.seed,
    )


def augment_for(facts: Facts, size: int) -> Augment:
    """How far variants differ: more where the images are photographs than where they are small signs."""
    words = [label.lower().replace("-", " ").replace("_", " ").split() or [label] for label in facts.labels]
    signs = all(len(last) == 1 or last.isdecimal() for *_, last in words)  # such as 7, digit_7, letter A
    flip = not signs and MIRRORED.isdisjoint(word for label in words for word in label)
    if facts.side <= SMALL:
        return Augment(shift=size // 8, flip=flip, colour=0.0 if signs else 0.2)
    return Augment(shift=size // 8, flip=flip, rotate=10.0, zoom=0.2, colour=0.3)


def choose_teacher(facts: Facts, student: Settings, speed: Speed) -> Settings | None:
    """A float network to learn from, within a share of the student's minutes or epochs; None: there is no time for it.

    It sees as many pixels as it has time for, since it needs few epochs.
    """
    network = student.network
    widths = (16, 32, 64, 128) if facts.images < 20000 else (32, 64, 128, 256)
    minutes = TEACHER_SHARE * student.minutes
    sizes = [size for size in (64, 48, 32) if size <= network.image_size]
    chosen = None
    for size in sizes:
        settings = Settings(
            network=Network(kind="teacher", image_size=size, widths=widths),
            augment=student.augment,
            epochs=TEACHER_EPOCHS if minutes else max(1, min(TEACHER_EPOCHS, student.epochs // 2)),
            minutes=minutes,
            batch_size=student.batch_size,
            learning_rate=6e-3,
            warmup=0.2,
            weight_decay=0.05,
            ema=0.99,
            eval_every=5,
            precision=student.precision,
            seed=student.seed,
        )
        if not minutes:
            return settings
        epochs = 60 * minutes / (speed(settings) * facts.images)
        if epochs >= LEAST_TEACHER_EPOCHS:
            chosen = settings
        if epochs >= min(TEACHER_EPOCHS, 2 * LEAST_TEACHER_EPOCHS):
            break
    return chosen


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
