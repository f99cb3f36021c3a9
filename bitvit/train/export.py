"""A trained network as files: checkpoint and config.json for `bitvit convert`, the packed model, its card.

checkpoint, config.json and preprocessor_config.json in one folder are a model as Hugging Face's libraries keep it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

import bitvit
from bitvit.config import Config
from bitvit.train.augment import normalise
from bitvit.train.checkpoint import write_bytes
from bitvit.train.data import DataSet, Split
from bitvit.train.loop import predictions
from bitvit.train.settings import Network, Settings

NAMES = {"adamw": "AdamW", "sgd": "SGD"}

__all__ = [
    "Result",
    "Trained",
    "config_json",
    "engine_logits",
    "export",
    "measure",
    "pack_network",
    "save_checkpoint",
    "training_facts",
    "write_json",
]


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
    def epochs(self) -> float:
        """How often each image was seen."""

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
    folder, packed = run.folder, run.folder / f"bhvit-{run.data.name}.safetensors"
    save_checkpoint(run.best_model, run, folder / "model.safetensors")
    if run.settings.exportable:
        pack_network(run, packed)
        result, _ = measure(run, packed)
        write_bytes(folder / "CARD.md", _card(run, result, packed, command).encode())
    else:
        result, _ = measure(run, None)
    write_json(folder / "result.json", dataclasses.asdict(result))
    return result


def pack_network(run: Trained, packed: Path) -> None:
    """Write what belongs to the checkpoint into the run's folder, and the packed model that is made of both."""
    folder, way = run.folder, run.data.preprocessing
    write_json(folder / "config.json", config_json(run))
    write_json(folder / "preprocessor_config.json", _processor_json(run))
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


def measure(run: Trained, packed: Path | None) -> tuple[Result, NDArray[np.float32] | None]:
    """Results on all held-out images by PyTorch in float32 and by the engine, and the engine's logits [N, L]."""
    model, test = run.best_model, run.data.test
    answers = predictions(model, test, run.data, run.device).argmax(1)
    result = Result(
        parameters=sum(p.numel() for p in model.parameters()),
        minutes=round(run.seconds / 60, 1),
        top1_pytorch=_percent(answers == test.labels),
    )
    if packed is None:
        return result, None
    logits = engine_logits(packed, run.data)
    content = packed.read_bytes()
    result = dataclasses.replace(
        result,
        top1_bitvit=_percent(logits.argmax(1) == test.labels.numpy()),
        same_predictions=int((logits.argmax(1) == answers.numpy()).sum()),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return result, logits


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
    """The fields of config.json (SPEC 2.1), class names included."""
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
        "id2label": dict(enumerate(run.data.labels)),
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


def _processor_json(run: Trained) -> dict[str, Any]:
    """The fields of preprocessor_config.json: how an image is resized, cropped and normalised."""
    way = run.data.preprocessing
    resized = {"do_resize": False} if way.resize is None else {"do_resize": True, "size": {"shortest_edge": way.resize}}
    return {
        **resized,
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": way.crop,
        "do_normalize": True,
        "image_mean": list(way.mean),
        "image_std": list(way.std),
    }


def engine_logits(packed: Path, data: DataSet) -> NDArray[np.float32]:
    """The packed model's logits for the held-out images, [N, L], from the same pixels as PyTorch's."""
    model, way = bitvit.load(packed), data.preprocessing
    parts = [normalise(part, way.mean, way.std).contiguous().numpy() for part in data.test.pixels.split(64)]
    return np.concatenate([model(part) for part in parts])


def _percent(correct: Any) -> float:
    return round(100 * int(correct.sum()) / len(correct), 2)


def write_json(path: Path, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def training_facts(run: Trained, result: Result) -> list[tuple[str, str]]:
    """What the network is and how it was trained, in rows of a card's table."""
    settings, config = run.settings, run.settings.network.config(len(run.data.labels))
    network = (
        f"BHViT, {config.image_size} px, window {config.window_size}, widths {_row(config.hidden_sizes)}, "
        f"depths {_row(config.depths)}, MLP {_row(config.intermediate_sizes)}, heads {_row(config.num_heads[2:])}, "
        f"{config.norm} norm, {config.downsampling} downsampling; {result.parameters / 1e6:.2f} M parameters"
    )
    training = (
        f"{run.epochs:.0f} epochs in {result.minutes:g} minutes, "
        f"{NAMES[settings.optimizer]} {settings.learning_rate:g}, batch {settings.batch_size}, "
        f"{'distilled from a float network' if run.taught else 'no teacher'}, seed {settings.seed}; {run.made_with}"
    )
    top1 = (
        f"PyTorch float32 {result.top1_pytorch:.2f} %, bitvit {result.top1_bitvit:.2f} %; "
        f"{result.same_predictions} of {len(run.data.test)} predictions are the same"
    )
    images = f"{len(run.train_split)} images to train on, {len(run.data.test)} to test"
    return [
        ("data", f"{run.data.origin}; {images}"),
        ("network", network),
        ("training", training),
        ("top-1", top1),
    ]


def _card(run: Trained, result: Result, packed: Path, command: str) -> str:
    rows = [*training_facts(run, result), ("file", f"{packed.stat().st_size / 1e6:.2f} MB, sha256 `{result.sha256}`")]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {packed.stem}\n\n| | |\n|---|---|\n{table}\n\nMade by `{command}`\n"


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(str(number) for number in numbers)
