"""Settings of a run: which network, which images, which schedule. Read from JSON, checked once, never changed.

A file holds an object with the fields of Settings; `network` and `augment` are objects with the fields of the classes
of that name. A field that is left out has its default.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitvit.config import Config, map_sides
from bitvit.decoding import Decoder
from bitvit.errors import BitvitError
from bitvit.files import read_json
from bitvit.messages import shown

__all__ = ["DECODER", "Augment", "Network", "Settings", "TrainingError", "changed", "read_fields", "read_settings"]

Four = tuple[int, int, int, int]


class TrainingError(BitvitError):
    """A mistake that the user of the training can mend."""


WHAT_EACH_IS = "bitvit/train/settings.py says what each is"
DECODER = Decoder(TrainingError, WHAT_EACH_IS)


@dataclass(frozen=True)
class Network:
    """A BHViT, or with kind "teacher" a small float residual network that uses only `widths` and `image_size`."""

    kind: str = "bhvit"
    image_size: int = 32
    window_size: int = 1
    depths: Four = (1, 1, 2, 1)
    widths: Four = (32, 64, 128, 256)
    expansion: Four = (4, 4, 4, 4)
    """Width of each stage's MLP by the stage's width."""
    heads: Four = (1, 1, 2, 4)
    norm: str = "batch"
    downsampling: str = "float"
    quantizer: str = "levels"
    layer_scale: bool = True
    shift3: bool = True
    shift5: bool = True
    recu: bool = False
    attention_levels: int = 3
    merge_padding: str = "half"
    image_norm: bool = False
    coordinates: bool = False
    positions: str = "learned"
    pooling: str = "mean"
    topk_ratio: float = 1.0
    """Share of the tokens that the head takes, the largest ones, with pooling "top"."""

    def config(self, num_classes: int) -> Config:
        """The engine's Config. Raises ConfigError for what BHViT does not allow."""
        first, second, third, fourth = (w * r for w, r in zip(self.widths, self.expansion, strict=True))
        tokens = map_sides(self.image_size)[3] ** 2
        return Config(
            image_size=self.image_size,
            window_size=self.window_size,
            depths=self.depths,
            hidden_sizes=self.widths,
            intermediate_sizes=(first, second, third, fourth),
            num_heads=self.heads,
            num_classes=num_classes,
            norm=self.norm,  # type: ignore[arg-type]  # Config checks it
            downsampling=self.downsampling,  # type: ignore[arg-type]
            quantizer=self.quantizer,  # type: ignore[arg-type]
            layer_scale=self.layer_scale,
            shift3=self.shift3,
            shift5=self.shift5,
            merge_padding=self.merge_padding,  # type: ignore[arg-type]
            image_norm=self.image_norm,
            coordinates=self.coordinates,
            positions=self.positions,  # type: ignore[arg-type]
            pooling=self.pooling,  # type: ignore[arg-type]
            top_tokens=max(1, int(tokens * self.topk_ratio)) if self.pooling == "top" else 0,
        )


@dataclass(frozen=True)
class Augment:
    """How far a variant of an image may differ from the image; all amounts are drawn uniformly. See augment.py."""

    shift: int = 0
    """Pixels up, down, left or right."""
    flip: bool = False
    """Mirror half of the images."""
    rotate: float = 0.0
    """Degrees either way."""
    zoom: float = 0.0
    """Largest relative change of its size, either way."""
    cutout: int = 0
    """Side in pixels of the square that is blanked; 0: none."""
    colour: float = 0.0
    """Largest relative change of contrast and of brightness, either way; of each channel alone, half of it."""


@dataclass(frozen=True)
class Settings:
    """One training run."""

    network: Network = field(default_factory=Network)
    augment: Augment = field(default_factory=Augment)
    epochs: int = 10
    minutes: float = 0.0
    """Of training and evaluating, after which the run ends, if its epochs are not done before; 0: there are no such.
    How many steps fit is reckoned anew after each epoch, so a run with minutes has not the same bits twice."""
    batch_size: int = 128
    optimizer: str = "adamw"
    """Or "sgd": with Nesterov's momentum of 0.9."""
    learning_rate: float = 2e-3
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls along a cosine to nearly nothing."""
    weight_decay: float = 0.0
    """Of float matrices only: never of binary weights, norms, offsets and steps."""
    label_smoothing: float = 0.1
    mixup: float = 0.0
    """α of mixup: images are blended in pairs, by a share drawn from Beta(α, α); 0: none. Not with views."""
    drop_path: float = 0.0
    """Stochastic depth: the chance that a branch of the last block is left out for an image."""
    distillation: float = 0.9
    """λ in (1 - λ) task + λ distillation; without a teacher there is only the task."""
    views: int = 0
    """Number of fixed variants of each image, used one per epoch in turn, so that the teacher computes each only once;
    0: a new variant, and a pass of the teacher, in every epoch."""
    regulariser: float = 0.1
    """β of the oscillation regulariser."""
    regulariser_share: float = 0.1
    """Share of the steps, at the end, in which it acts."""
    flip_window: int = 100
    """Steps over which flipped signs are counted."""
    ema: float = 0.0
    """Decay per step of the average of the parameters, which is exported in their place; 0: no average."""
    precision: str = "float32"
    """Or "bfloat16": automatic mixed precision."""
    train_limit: int = 0
    """Number of training images to use; 0: all."""
    eval_every: int = 1
    """Epochs between evaluations on the test split; the last is always evaluated."""
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 1,
            "minutes": self.minutes >= 0,
            "batch_size": self.batch_size >= 2,
            "optimizer": self.optimizer in ("adamw", "sgd"),
            "learning_rate": self.learning_rate > 0,
            "warmup": 0 <= self.warmup < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "distillation": 0 <= self.distillation <= 1,
            "mixup": self.mixup >= 0,
            "drop_path": 0 <= self.drop_path < 1,
            "views": self.views >= 0 and not (self.views and self.mixup),
            "regulariser_share": 0 <= self.regulariser_share <= 1,
            "flip_window": self.flip_window >= 1,
            "ema": 0 <= self.ema < 1,
            "precision": self.precision in ("float32", "bfloat16"),
            "eval_every": self.eval_every >= 1,
            "network.kind": self.network.kind in ("bhvit", "teacher"),
            "network.attention_levels": self.network.attention_levels in (1, 2, 3),
        }
        wrong = [name for name, good in checks.items() if not good]
        if wrong:
            raise TrainingError(f"settings: out of range: {', '.join(wrong)}; {WHAT_EACH_IS}")

    @property
    def exportable(self) -> bool:
        """Whether the engine knows this network."""
        return self.network.kind == "bhvit" and self.network.attention_levels == 3

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Differs for runs with different settings; fields added later, at their defaults, do not change it."""
        return hashlib.sha256(json.dumps(_chosen(self), sort_keys=True).encode()).hexdigest()[:16]


def _chosen(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    plain, fields = type(settings)(), {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if value != getattr(plain, item.name):
            fields[item.name] = _chosen(value) if dataclasses.is_dataclass(value) else value
    return fields


def read_settings(path: Path, changes: Sequence[str] | None = None) -> Settings:
    """Settings from a JSON file, with changes such as "epochs=3" or "augment.flip=true". Raises TrainingError."""
    return DECODER.record(Settings, changed(read_fields(path), changes or ()), str(path))


def read_fields(path: Path) -> dict[str, Any]:
    """The fields in a JSON file. Raises TrainingError."""
    found = read_json(path, TrainingError, "an object with settings of a training")
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: holds {shown(found)}, expected an object with settings; {WHAT_EACH_IS}")
    return found


def changed(fields: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Fields with changes such as "epochs=3" or "augment.flip=true". Raises TrainingError."""
    result: dict[str, Any] = copy.deepcopy(dict(fields))
    for change in changes:
        name, equals, text = change.partition("=")
        *path_to, last = name.split(".")
        place = result
        for part in path_to:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise TrainingError(f"--set {change}: {part} has no settings of its own; {WHAT_EACH_IS}")
        if not equals or not last:
            raise TrainingError(f"--set {change}: expected NAME=VALUE, such as epochs=3 or augment.flip=true")
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return result
