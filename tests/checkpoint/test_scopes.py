"""Options that are not known: named wherever a network's may lie, and left alone where another thing's do."""

import argparse
import collections
import decimal
import enum
import fractions
import functools
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.claims import read_claims
from bitvit.checkpoint.harmless import says_nothing
from bitvit.errors import ConfigError

torch = pytest.importorskip("torch")

ROPE = {"use_rope": True}


@dataclass
class Rope:
    use_rope: bool = True


@dataclass
class Deep:
    lr: float = 0.1
    layers: list[Any] = field(default_factory=lambda: [{"kind": "mlp"}, Rope()])


class Plain:
    """As transformers' ViTConfig: attributes, some of them known."""

    def __init__(self) -> None:
        self.depths = [1, 1, 2, 1]
        self.hidden_act = "gelu"
        self.use_rope = True


class Guarded:
    def __init__(self) -> None:
        self._use_rope = True


class Mapped(dict[str, Any]):
    """As addict's, EasyDict's and yacs's."""


class Kind(enum.Enum):
    ROPE = 1


class Pair(NamedTuple):
    kind: str = "rope"
    base: int = 3


class One(NamedTuple):
    kind: str = "rope"


def claims(folder: Path, **beside: Any) -> Any:
    torch.save({"model": {"w": torch.zeros(1)}, **beside}, folder / "net.pth")
    return read_claims(None, read_checkpoint(folder / "net.pth").args)


def refused(folder: Path, name: str, **beside: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        claims(folder, **beside)
    assert f"the checkpoint's args: {name} (" in str(caught.value)
    assert str(caught.value).endswith(f" --ignore {name}")


OBJECTS = [
    Rope(), Plain(), Mapped(use_rope=True), types.SimpleNamespace(use_rope=True), argparse.Namespace(use_rope=True),
    collections.UserDict(use_rope=True), functools.partial(dict, use_rope=True),
]  # fmt: skip


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_fields_of_objects(tmp_path: Path, value: object) -> None:
    refused(tmp_path, "model_cfg.use_rope", args=argparse.Namespace(model_cfg=value, lr=0.1))
    refused(tmp_path, "model.use_rope", hyper_parameters={"model": value})
    refused(tmp_path, "config.use_rope", hyper_parameters={"config": value})
    refused(tmp_path, "use_rope", config=value)
    refused(tmp_path, "model_kwargs.use_rope", model_kwargs=value)
    refused(tmp_path, "deep.0.it.use_rope", args={"deep": [{"it": value}]})


def test_fields_of_an_object_that_are_guarded(tmp_path: Path) -> None:
    refused(tmp_path, "model._use_rope", args={"model": Guarded()})


def test_fields_of_objects_in_a_list_of_an_object(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"args: net\.layers\.0\.kind \('mlp'\), net\.layers\.1\.use_rope \(True\): not"
    ):
        claims(tmp_path, args={"net": Deep()})


@pytest.mark.parametrize(
    "place",
    ["exp", "experiment", "trainer", "strategy", "profile", "finetune", "train", "data", "optimizer", "exp.data.more"],
)
@pytest.mark.parametrize("name", ["model", "net", "network", "backbone", "model_args", "model_cfg", "model_config"])
def test_a_network_inside_something_harmless(tmp_path: Path, place: str, name: str) -> None:
    inner: dict[str, Any] = {name: ROPE}
    for part in reversed(place.split(".")):
        inner = {part: inner}
    refused(tmp_path, f"{place}.{name}.use_rope", args=argparse.Namespace(**inner))


@pytest.mark.parametrize("place", ["exp", "experiment", "train", "finetune"])
@pytest.mark.parametrize("name", ["config", "args", "hparams"])
def test_settings_of_a_whole_training(tmp_path: Path, place: str, name: str) -> None:
    refused(tmp_path, f"{place}.{name}.use_rope", args={place: {name: ROPE}})


@pytest.mark.parametrize(
    "name", ["model_kwargs", "settings", "model_cfg", "train_args", "training_config", "net", "params", "options"]
)
def test_settings_beside_the_weights(tmp_path: Path, name: str) -> None:
    refused(tmp_path, f"{name}.use_rope", **{name: ROPE})
    refused(tmp_path, f"meta.{name}.use_rope", meta={"epoch": 3, name: ROPE})


def test_settings_in_metadata_of_a_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    metadata = {"format": "pt", "model_kwargs": '{"use_rope": true}'}
    safetensors.save_file({"w": np.zeros(1)}, tmp_path / "net.safetensors", metadata=metadata)
    with pytest.raises(ConfigError, match=r"model_kwargs\.use_rope \(True\)"):
        read_claims(None, read_checkpoint(tmp_path / "net.safetensors").args)


VALUES = [
    np.float32(3), np.bool_(True), np.bool_(False), np.zeros(3), Kind.ROPE, {1, 2}, frozenset({"rope"}), (1, (2, 3)),
    Pair(), One(), fractions.Fraction(1, 3), decimal.Decimal("0.5"), range(3), 1j, torch.zeros(2), [[1, 2], [3]],
    functools.partial(Plain), torch.nn.GELU(),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_of_any_kind(tmp_path: Path, value: object) -> None:
    refused(tmp_path, "layers", args={"layers": value})
    refused(tmp_path, "model.layers", hparams={"lr": 0.1, "model": {"layers": value}})


@pytest.mark.parametrize("key", [0, (1, 2), 0.5, None, b"0"])
def test_dicts_with_keys_of_any_kind(tmp_path: Path, key: object) -> None:
    for fields in ({key: {"kind": "rope"}}, {key: "rope"}, {key: {"lr": 1, "kind": "rope"}, "2": None}):
        with pytest.raises(ConfigError, match=r"layers\..*\('rope'\): not known here"):
            claims(tmp_path, args={"layers": fields})


def test_fields_beside_known_ones_in_a_list(tmp_path: Path) -> None:
    refused(tmp_path, "layers.0.kind", args={"exp": 1, "layers": [{"attn_window": 7, "kind": "rope"}]})


def test_a_field_that_is_there_twice_in_other_types(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0 \('a'\), 0' \('b'\)"):
        claims(tmp_path, args={"0": "a", 0: "b"})


# ------------------------------------------------------------------------------------------------ what others hold


@pytest.mark.parametrize("place", ["teacher", "teacher_model", "teacher_config", "kd", "distiller"])
@pytest.mark.parametrize("name", ["model", "config", "args", "net"])
def test_a_teacher_is_another_network(tmp_path: Path, place: str, name: str) -> None:
    assert claims(tmp_path, args={place: {name: {"kind": "resnet", **ROPE}}}, **{place: {name: ROPE}}).values == {}


@pytest.mark.parametrize("place", ["optimizer", "data", "scheduler", "loss", "logger", "strategy", "callbacks"])
@pytest.mark.parametrize("name", ["args", "kwargs", "config", "params", "more"])
def test_parts_of_a_training_have_settings_of_their_own(tmp_path: Path, place: str, name: str) -> None:
    own = {name: {"lookahead": True, 3: "x"}}
    assert claims(tmp_path, args={place: own, "exp": {place: own}}, **{place: own}).values == {}


class Ema:
    """A helper that was pickled whole."""

    def __init__(self) -> None:
        self.decay = 0.99
        self.shadow = {"w": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(3)}


def test_ordinary_checkpoints(tmp_path: Path) -> None:
    """As torch, timm, Lightning with Hydra, mmengine, and scripts write them."""
    weights = {name: torch.zeros(2) for name in "wxyz"}
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    scaler = torch.amp.GradScaler("cpu")
    states = {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict(),
    }
    checkpoints: list[dict[str, Any]] = [
        {**states, "epoch": 3, "args": argparse.Namespace(lr=0.1, device=torch.device("cuda"),
                                                             rng=np.random.default_rng(1))},
        {"opt": optimizer.state_dict(), "sched": scheduler, "optim": optimizer, "ema": Ema(), "config": None},
        {"model_ema": weights, "best_model": {"state_dict": weights, "step": 3}, "net": weights, "params": weights,
         "network": {"model": weights, "best": True, "score": 0.5}},
        {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.2.0", "hparams_name": "kwargs",
         "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}, "current": {"ready": 3}}}},
         "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"monitor": "x", "best_model_score": torch.tensor(0.5),
                                                          "best_k_models": {"a.ckpt": torch.tensor(0.5)}}},
         "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()],
         "MyDataModule": {"seen": 3}, "datamodule_hyper_parameters": {"config": {"folds": {"x": 1}}},
         "hyper_parameters": {"net": net, "optimizer": functools.partial(torch.optim.AdamW, lr=0.1, fused=True),
                              "scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3),
                              "criterion": torch.nn.CrossEntropyLoss(), "compile": False}},
        {"meta": {"epoch": 3, "iter": 9, "cfg": "model = dict(type='X')", "seed": 1, "experiment_name": "x",
                  "dataset_meta": {"classes": ("a", "b"), "palette": [[1, 2, 3], [4, 5, 6]]}},
         "message_hub": {"log_scalars": {"lr": [0.1, 0.2]}, "runtime_info": {"epoch": 3}},
         "param_schedulers": [{"last_step": 3, "by_epoch": True}]},
        {"args": {"class_to_idx": {"cat": 0}, "id2label": {0: "cat"}, "idx_to_class": {0: "cat"}, "data": {0: "x"},
                  "optimizer": {"type": "Adam", "args": {"lr": 0.1, "amsgrad": True}}, "lr_scheduler": {"args": {0: 1}},
                  "trainer": {"kwargs": {"inference_mode": True}}, "hydra": {"job": {"config": {"sep": "="}}}}},
        {"rng_state": torch.get_rng_state(), "numpy": np.random.RandomState(1).get_state(),
         "history": [{"loss": 0.5, "config": "x"}],
         "metrics": {"acc": np.float64(0.5), "args": 3}, "log": {"train": {"loss": [1.0]}}},
    ]  # fmt: skip
    for beside in checkpoints:
        assert claims(tmp_path, **beside).values == {}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("datetime.date", True), ("torch.device 'cuda':0", True), ("torch.optim.adam.Adam", True),
        ("torch.nn.modules.loss.MSELoss", True), ("torch.nn.modules.activation.GELU", False), ("datetimes.Span", False),
        ("torchvision.transforms.transforms.Compose", True), ("torchvision.models.vit.Config", False),
        ("timm.models.Config", False), ("transformers.models.vit.configuration_vit.ViTConfig", False),
        ("transformers.training_args.TrainingArguments", True), ("NumPy random generator", True),
        ("NumPy scalar", False), ("dict", False), ("tensor", False), ("__main__.Config", False),
    ],
)  # fmt: skip
def test_kinds_that_say_nothing(kind: str, expected: bool) -> None:
    assert says_nothing(kind) == expected
