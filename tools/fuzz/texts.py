"""Targets: config.json, an index of shards, class names, tables of images and their classes."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from bitvit.checkpoint import Checkpoint, read_checkpoint
from bitvit.checkpoint.claims import KNOWN
from bitvit.checkpoint.hub import parts_of, read_config
from bitvit.checkpoint.network import trained_network
from bitvit.checkpoint.options import options
from bitvit.checkpoint.training import class_names
from bitvit.conversion import choose_preprocessing
from bitvit.errors import BitvitError, ConfigError
from bitvit.evaluation.classes import match_classes, read_class_map
from bitvit.evaluation.dataset import Dataset, read_data, read_folds
from bitvit.labels import read_labels

from . import documents
from .seeds import CONFIGS, checkpoint_state, small_file
from .seeds import config as network
from .target import Reading, Target

__all__ = ["ConfigJson", "Index", "Labels", "Table"]

LONGEST = 6000
NAMES = ("cat", "dog", "T-shirt/top", "1", "02", "C++", "C", "Straße", "e\u0301tat")


class ConfigJson(Target):
    """The config.json and preprocessor_config.json of a Hugging Face model, and a training script's options.

    An input is one JSON text that stands for all three.
    """

    longest = LONGEST
    file = "config.json"
    words = (
        *sorted(KNOWN), "id2label", "label2id", "image_mean", "image_std", "size", "shortest_edge", "rescale_factor",
        "do_normalize", "do_resize", "resample", "crop_pct", "interpolation", "bicubic", "data_set", "CIFAR", "args",
        "model_args", "LABEL_0", "auto", "attn", "topk", "true", "[1, 1, 1, 2]", "2.0", "--window-size 7", [1, 1, 1, 2],
        [4, 4, 4, 8], [0.5, 0.5, 0.5], 32, 0.875, "mean", "std", "inat_category", "data_path", "CERVICAL",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "model.safetensors").write_bytes(b"")
        self._checkpoints = [
            Checkpoint(folder, checkpoint_state(config), None, "0" * 64, False, "safetensors")
            for config in (*CONFIGS, network(positions="sinusoidal"), network(window_size=1, image_size=64))
        ]

    def prepare(self, data: bytes) -> None:
        super().prepare(data)
        (self.folder / "preprocessor_config.json").write_bytes(data)

    def seeds(self) -> list[bytes]:
        whole = {
            "model_type": "bhvit", "image_size": 32, "window_size": 1, "depths": [1, 1, 1, 1],
            "hidden_size": [4, 4, 4, 8], "num_attention_heads": [1, 1, 1, 2], "intermediate_size": [4, 8, 4, 8],
            "id2label": {"0": "cat", "1": "dog", "2": "bird"}, "shift3": True, "gsb": False, "token_pool": "mean",
        }  # fmt: skip
        processor = {
            "do_resize": True, "size": {"shortest_edge": 36}, "resample": 3, "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255,
        }  # fmt: skip
        script = {"model": {"args": {"input_size": 32, "data_set": "CIFAR", "crop_pct": 0.875}}, "lr": 0.1, "epochs": 5}
        return [documents.as_json(value) for value in ({}, whole, processor, script)]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return documents.edited_json(rng, data, self.words)

    def readings(self) -> Sequence[Reading]:
        checkpoint = self._checkpoints[zlib.crc32(self.path.read_bytes()) % len(self._checkpoints)]
        return (lambda: self._as_files(checkpoint), lambda: self._as_options(checkpoint))

    def _as_files(self, checkpoint: Checkpoint) -> None:
        parts = parts_of(self.folder)
        self._convert(dataclasses.replace(checkpoint, config=parts.config, preprocessor=parts.preprocessor))

    def _as_options(self, checkpoint: Checkpoint) -> None:
        fields = read_config(self.path)
        found, _ = options({"args": fields})
        self._convert(dataclasses.replace(checkpoint, args=found))

    def _convert(self, checkpoint: Checkpoint) -> None:
        """All of convert but the weights."""
        network = trained_network(checkpoint)
        class_names(checkpoint.config, network.config.num_classes)
        choose_preprocessing(checkpoint, network.config.image_size, None, None, "auto", 0)
        network.notes()

    def names(self, error: BitvitError) -> bool:
        return str(self.folder) in str(error) or "config.json" in str(error)


class Index(Target):
    """The index of a checkpoint in several files, two of which are there."""

    longest = LONGEST
    file = "model.safetensors.index.json"
    words = (
        "weight_map",
        "metadata",
        "a-00001-of-00002.safetensors",
        "../x",
        "a/b",
        "..",
        ".",
        "\x00",
        "w",
        "a\\b",
        "C:x",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        for shard, name in zip(self._shards, "ab", strict=True):
            (folder / shard).write_bytes(small_file(name))

    def seeds(self) -> list[bytes]:
        places = [dict(zip(names, self._shards, strict=False)) for names in ("ab", "ba", "ac", "a", "b")]
        return [documents.as_json({"metadata": {"total_size": 8}, "weight_map": place}) for place in places]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return documents.edited_json(rng, data, self.words)

    def readings(self) -> Sequence[Reading]:
        return (self._inside, lambda: read_checkpoint(self.path))

    def _inside(self) -> None:
        for file in parts_of(self.path).files:
            if file.parent != self.folder:
                raise AssertionError(f"{file} is not in the index's folder")

    def names(self, error: BitvitError) -> bool:
        return str(self.folder) in str(error)


class Labels(Target):
    """Class names and class maps: an input is read as text, as JSON and as CSV."""

    longest = LONGEST
    words = (*NAMES, "name", "class", "0", "1", "2", "-1", "1.0", "٣", 0, 1, 2, 8, "a\n", "")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._paths = [folder / f"labels{suffix}" for suffix in (".txt", ".json", ".csv")]

    def prepare(self, data: bytes) -> None:
        for path in self._paths:
            path.write_bytes(data)

    def seeds(self) -> list[bytes]:
        numbers = {str(number): name for number, name in enumerate(NAMES)}
        lines = "".join(f"{name}\n" for name in NAMES)
        pairs = "name,class\r\n" + "".join(f"{name},{number}\r\n" for number, name in enumerate(NAMES))
        classes = {"kitten": "cat", "hound": 1, "trousers": "T-shirt top", "x": "1"}
        values = (list(NAMES), numbers, classes)
        return [lines.encode(), pairs.encode(), *(documents.as_json(value) for value in values)]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        if data[:1] in (b"{", b"["):
            return documents.edited_json(rng, data, self.words)
        return documents.edited_table(rng, data, [str(word) for word in self.words])

    def readings(self) -> Sequence[Reading]:
        text, as_json, pairs = self._paths
        return (
            *(lambda: self._names(read_labels(text)), lambda: self._names(read_labels(as_json))),
            *(lambda: self._map(as_json), lambda: self._map(pairs)),
        )

    def _names(self, found: Sequence[str]) -> None:
        """They are the model's, and then what a data set calls its classes."""
        folders = len(found) % 2 == 0
        _matched(NAMES, labels=found, count=len(found), folders=folders)
        _matched(found, labels=NAMES, count=len(NAMES), folders=folders)
        _matched(found, labels=None, count=len(set(found)), folders=folders)

    def _map(self, path: Path) -> None:
        found = read_class_map(path)
        names: Sequence[str] = list(found)
        _matched(names, labels=NAMES, count=len(NAMES), classes=found)
        if not isinstance(found, Mapping):
            _matched(names, labels=None, count=len(names), classes=found)

    def names(self, error: BitvitError) -> bool:
        return any(str(path) in str(error) for path in self._paths)


def _matched(names: Sequence[Any], **options: Any) -> None:
    """Class names have no file, so a refusal of theirs is only told from a fault."""
    try:
        match_classes(names, where="data", **options)
    except ConfigError as error:
        if not str(error).startswith(("data", "class map")):
            raise AssertionError(f"where? {error}") from None


class Table(Target):
    """A CSV of images and their classes, also with folds."""

    longest = LONGEST
    file = "data.csv"
    words = (*NAMES, "path", "label", "fold", "image", "class", "1.png", "2.jpg", "a/3.png", "0", "3", "http://x/1.png")

    def seeds(self) -> list[bytes]:
        rows = "".join(f"{number}.png,{name},{number % 2}\n" for number, name in enumerate(NAMES))
        return [f"path,label,fold\n{rows}".encode(), b"1.png;cat\n2.png;dog\n", b"Image\tClass\n1.png\t0\n2.png\t1\n"]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        return documents.edited_table(rng, data, self.words)

    def readings(self) -> Sequence[Reading]:
        return (lambda: self._match([read_data(self.path)]), lambda: self._match(read_folds(self.path)))

    def _match(self, found: Sequence[Dataset]) -> None:
        for data in found:
            for labels in (NAMES, None):
                _matched(data.labels, labels=labels, count=len(NAMES), partial=labels is None)
