"""A trained network as files: checkpoint and config.json for `bitvit convert`, the packed model, its card."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.torch import save
from torch import nn

import bitvit
from bitvit.config import Config

from .augment import normalise
from .checkpoint import write_bytes
from .data import DataSet, Split
from .loop import predictions
from .settings import Network, Settings

NAMES = {"adamw": "AdamW", "sgd": "SGD"}

__all__ = ["Result", "Trained", "config_json", "export", "save_checkpoint"]


class Trained(Protocol):
    """A finished run, loop.Run or another, as its files tell of it."""

    settings: Settings
    data: DataSet
    folder: Path
    device: str
    seconds: float

    @property
    def best_model(self) -> nn.Module: ...

    @property
    def train_split(self) -> Split: ...

    @property
    def taught(self) -> bool:
        """Whether there was a teacher."""

    @property
    def made_with(self) -> str:
        """PyTorch's version, and on which machine if that matters."""


@dataclass(frozen=True)
class Result:
    """Results of a finished run; accuracies in percent of the whole test split."""

    parameters: int
    minutes: float
    top1_pytorch: float
    top1_bitvit: float | None = None
    same_predictions: int | None = None
    bytes: int | None = None
    sha256: str | None = None


def export(run: Trained, command: str) -> Result:
    """Write the files of a finished run into its folder, and return its results."""
    model, folder = run.best_model, run.folder
    logits = predictions(model, run.data.test, run.data, run.device)
    correct = logits.argmax(1) == run.data.test.labels
    result = Result(
        parameters=sum(p.numel() for p in model.parameters()),
        minutes=round(run.seconds / 60, 1),
        top1_pytorch=_percent(correct),
    )
    save_checkpoint(model, run, folder / "model.safetensors")
    if run.settings.exportable:
        write_bytes(folder / "config.json", _json(config_json(run)))
        packed = folder / f"bhvit-{run.data.name}.safetensors"
        way = run.data.preprocessing
        bitvit.convert(
            folder / "model.safetensors",
            packed,
            config=folder / "config.json",
            labels=run.data.labels,
            mean=way.mean,
            std=way.std,
            resize=way.resize,
            pad=way.pad,
        )
        answers = engine_predictions(packed, run.data)
        content = packed.read_bytes()
        result = dataclasses.replace(
            result,
            top1_bitvit=_percent(answers == run.data.test.labels.numpy()),
            same_predictions=int((answers == logits.argmax(1).numpy()).sum()),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        write_bytes(folder / "CARD.md", _card(run, result, packed, command).encode())
    write_bytes(folder / "result.json", _json(dataclasses.asdict(result)))
    return result


def save_checkpoint(model: nn.Module, run: Trained, path: Path) -> None:
    """The state dict under the names of SPEC section 3; a teacher's says what is needed to load it."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = None
    if run.settings.network.kind == "teacher":
        network = run.settings.network
        told = {"image_size": network.image_size, "widths": network.widths, "num_classes": len(run.data.labels)}
        metadata = {"teacher": json.dumps(told)}
    write_bytes(path, save(state, metadata))


def config_json(run: Trained) -> dict[str, Any]:
    """The fields of config.json (SPEC 2.1)."""
    config = run.settings.network.config(len(run.data.labels))
    first, second, third, fourth = config.depths
    return {
        "model_type": "vit",
        "image_size": config.image_size,
        "patch_size": 4,
        "window_size" if config.merge_padding == "half" else "attn_window": config.window_size,
        "hidden_size": list(config.hidden_sizes),
        "depths": list(config.depths),
        "num_attention_heads": list(config.num_heads),
        "num_hidden_layersA": first + second,
        "num_hidden_layersB": third + fourth,
        "intermediate_size": list(config.intermediate_sizes),
        **_additions(run.settings.network, config),
    }


def _additions(network: Network, config: Config) -> dict[str, Any]:
    """What says that the network has what forks have added (SPEC 7.9), as far as it has."""
    poolings: dict[str, dict[str, Any]] = {
        "mean": {},
        "attention": {"token_pool": "attn"},
        "top": {"token_pool": "topk", "topk_ratio": network.topk_ratio},
    }
    flags = {
        "stain_instance_norm": config.image_norm,
        "coord_conv": config.coordinates,
        "use_sinusoidal_pe": config.positions == "sinusoidal",
    }
    return {**{name: True for name, on in flags.items() if on}, **poolings[config.pooling]}


def engine_predictions(packed: Path, data: DataSet) -> Any:
    """The packed model's classes for the test split, int64 [N], from the same pixels as PyTorch's."""
    model, way = bitvit.load(packed), data.preprocessing
    parts = [normalise(part, way.mean, way.std).contiguous().numpy() for part in data.test.pixels.split(64)]
    return np.concatenate([model(part).argmax(1) for part in parts])


def _percent(correct: Any) -> float:
    return round(100 * int(correct.sum()) / len(correct), 2)


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _card(run: Trained, result: Result, packed: Path, command: str) -> str:
    settings, config = run.settings, run.settings.network.config(len(run.data.labels))
    return f"""# {packed.stem}

| | |
|---|---|
| data | {run.data.origin}; {len(run.train_split)} images to train on, {len(run.data.test)} to test |
| network | BHViT, {config.image_size} px, window {config.window_size}, widths {_row(config.hidden_sizes)}, \
depths {_row(config.depths)}, MLP {_row(config.intermediate_sizes)}, heads {_row(config.num_heads[2:])}, \
{config.norm} norm, {config.downsampling} downsampling; {result.parameters / 1e6:.2f} M parameters |
| training | {settings.epochs} epochs in {result.minutes:.0f} minutes, \
{NAMES[settings.optimizer]} {settings.learning_rate:g}, batch {settings.batch_size}, \
{"distilled from a float network" if run.taught else "no teacher"}, seed {settings.seed}; \
{run.made_with} |
| top-1 | PyTorch float32 {result.top1_pytorch:.2f} %, bitvit {result.top1_bitvit:.2f} %; \
{result.same_predictions} of {len(run.data.test)} predictions are the same |
| file | {packed.stat().st_size / 1e6:.2f} MB, sha256 `{result.sha256}` |

Made by `{command}`
"""


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(str(number) for number in numbers)
